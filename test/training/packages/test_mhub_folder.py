"""MHub's folder: by MHub's own schema and rules, and its run script on a DICOM study, without network."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import yaml
from jsonschema import Draft7Validator
from tiny_batches import dicom_studies, environment

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from training.packages.mhub_folder import write_mhub

SCHEMA = Path(__file__).parent / "schemas" / "meta.schema.json"
NAME = "petct_lesions"


@pytest.fixture(scope="module")
def folder(tiny_bundle, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("models") / NAME
    folder.mkdir()
    write_mhub(load_bundle(tiny_bundle), folder, NAME, "https://github.com/someone/something")
    return folder


def test_meta_json_keeps_to_mhubs_schema(folder) -> None:
    meta = json.loads((folder / "meta.json").read_text())
    Draft7Validator(json.loads(SCHEMA.read_text()), format_checker=Draft7Validator.FORMAT_CHECKER).validate(meta)
    assert meta["name"] == folder.name
    assert meta["summary"]["model"]["cmpapproach"] == "ensemble"  # of two members


def test_the_dockerfile_keeps_to_mhubs_rules(folder) -> None:
    """Those of MHubAI/models, .github/scripts/utils.py."""
    lines = [line for line in (folder / "dockerfiles/Dockerfile").read_text().splitlines() if line.strip()]
    assert lines[0] == "FROM mhubai/base:latest"
    assert lines[-2:] == ['ENTRYPOINT ["mhub.run"]', 'CMD ["--workflow", "default"]']
    assert not [line for line in lines[1:] if line.startswith(("WORKDIR", "ADD", "COPY", "FROM"))]
    assert "ARG MHUB_MODELS_REPO" in lines
    assert f"RUN buildutils/import_mhub_model.sh {NAME} ${{MHUB_MODELS_REPO}}" in lines


def test_the_workflow_names_the_module_that_lies_in_utils(folder) -> None:
    workflow = yaml.safe_load((folder / "config/default.yml").read_text())
    assert workflow["execute"] == ["FileStructureImporter", "LesionRunner", "DataOrganizer"]
    assert workflow["modules"]["DataOrganizer"]["targets"] == [f"dicomseg:mod=seg-->[i:studyID]/{NAME}.seg.dcm"]
    assert (folder / "utils/LesionRunner.py").is_file()


def runner_of(folder: Path, monkeypatch, segs: int) -> object:
    """LesionRunner on stand-ins for mhubio; its run script stands for one that writes `segs` results."""

    class Module:
        def subprocess(self, words: list[str]) -> None:
            assert words[0] == str(folder / "scripts/run.sh")
            assert sorted(path.name for path in Path(words[1]).rglob("*.dcm")) == ["a.dcm", "b.dcm"]
            for number in range(segs):
                study = Path(words[2], "studies", str(number))
                study.mkdir(parents=True)
                (study / "seg.dcm").write_bytes(b"SEG")

    as_it_is = SimpleNamespace(
        **{name: lambda *words, **more: lambda task: task for name in ("Instance", "Input", "Output")}
    )
    core = ModuleType("mhubio.core")
    core.__dict__.update(IO=as_it_is, Module=Module, Instance=object, InstanceData=object)
    monkeypatch.setitem(sys.modules, "mhubio", ModuleType("mhubio"))
    monkeypatch.setitem(sys.modules, "mhubio.core", core)
    spec = importlib.util.spec_from_file_location("LesionRunner", folder / "utils/LesionRunner.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LesionRunner()


@pytest.mark.parametrize("segs", [0, 1])
def test_the_module_hands_over_the_seg_or_says_that_there_is_none(folder, tmp_path, monkeypatch, segs: int) -> None:
    for name, file in (("ct", "a.dcm"), ("pt", "b.dcm")):
        (tmp_path / name).mkdir()
        (tmp_path / name / file).write_bytes(b"")
    ct, pt, out = (SimpleNamespace(abspath=str(tmp_path / name)) for name in ("ct", "pt", "out.dcm"))
    runner = runner_of(folder, monkeypatch, segs)
    if segs:
        runner.task(None, ct, pt, out)
        assert Path(out.abspath).read_bytes() == b"SEG"
    else:
        with pytest.raises(RuntimeError, match="was not segmented"):
            runner.task(None, ct, pt, out)


def test_a_model_that_sees_pet_alone_asks_for_no_ct(make_bundle, tmp_path, monkeypatch) -> None:
    network = Network(fusion="early", widths=(2, 2, 4), channels=("PET",))
    alone = make_bundle(tmp_path / "bundle", members=1, network=network, channels=("PET",))
    folder = tmp_path / "models"
    folder.mkdir()
    write_mhub(load_bundle(alone), folder, NAME, "https://github.com/someone/something")
    meta = json.loads((folder / "meta.json").read_text())
    Draft7Validator(json.loads(SCHEMA.read_text()), format_checker=Draft7Validator.FORMAT_CHECKER).validate(meta)
    assert [one["modality"] for one in meta["summary"]["inputs"]] == ["PT"]
    workflow = yaml.safe_load((folder / "config/default.yml").read_text())
    assert workflow["modules"]["FileStructureImporter"]["structures"] == ["$studyID@instance/pt@dicom:mod=pt"]
    assert "in_ct" not in (folder / "utils/LesionRunner.py").read_text()
    card = (folder / "README.md").read_text()
    assert "PET/CT" not in card + json.dumps(meta) and "with the CT" not in card + json.dumps(meta)
    assert "PET is found by their headers" in card
    for name, file in (("pt", "a.dcm"), ("extra", "b.dcm")):
        (tmp_path / "pt" / name).mkdir(parents=True)
        (tmp_path / "pt" / name / file).write_bytes(b"")
    pt, out = (SimpleNamespace(abspath=str(tmp_path / name)) for name in ("pt", "out.dcm"))
    runner_of(folder, monkeypatch, 1).task(None, pt, out)
    assert Path(out.abspath).read_bytes() == b"SEG"


@pytest.mark.slow
def test_the_run_script_makes_a_seg_of_a_dicom_study_without_network(folder, tmp_path) -> None:
    studies = dicom_studies(tmp_path / "studies", 1)
    words = [folder / "scripts/run.sh", studies, tmp_path / "results", "--device", "cpu"]
    subprocess.run([str(word) for word in words], env=environment() | {"PYTHON": sys.executable}, check=True)
    (seg,) = (tmp_path / "results/studies").glob("*/seg.dcm")
    found = pydicom.dcmread(seg)
    (mask,) = seg.parent.glob("*mask*.mha")
    voxels = sitk.GetArrayFromImage(sitk.ReadImage(str(mask)))
    assert found.Modality == "SEG" and voxels.any()
    assert np.count_nonzero(found.pixel_array) == np.count_nonzero(voxels)  # lesions do not overlap
