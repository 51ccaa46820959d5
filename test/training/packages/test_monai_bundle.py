"""A MONAI bundle, checked by MONAI's own verifiers and run by MONAI, against process.py and arithmetic."""

import ast
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from dicom_writer import write_study as write_dicom
from monai.bundle import ConfigWorkflow, verify_metadata, verify_net_in_out
from organ_bundles import organ_bundle
from program import run_process
from safetensors.torch import load_file
from slices_bundles import slices_bundle
from tiny_batches import small

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.bundle.settings import Crop, Limits
from model.dicom.reading import read_dicom
from model.errors import CaseError
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.networks.unet import build
from model.study.reading import read_case
from training.bundles.mix import mix
from training.packages.in_monai.lesions import LesionNetworks, StudyDataset
from training.packages.monai_bundle import write_monai
from training.packages.program import ROAD_LIBRARIES

SCHEMA = Path(__file__).parent / "schemas" / "meta_schema_20240725.json"
KINDS = ("eoa", "diwa", "slices", "organs", "mixed", "pet")
PET = ("PET",)


@pytest.fixture(scope="module")
def packages(make_bundle, tmp_path_factory) -> dict[str, Path]:
    """A MONAI bundle of each kind of bundle."""
    root = tmp_path_factory.mktemp("kinds")
    crop = Crop(suv_above=0.0)
    make_bundle(root / "eoa", weights=[3.0, 1.0], crop=crop)
    make_bundle(root / "diwa", method="diwa", weights=[3.0, 1.0])
    make_bundle(root / "slices", members=1, **slices_bundle(crop=crop))
    make_bundle(root / "organs", members=2, **organ_bundle())
    alone = Network(fusion="early", widths=(2, 2, 4), channels=PET)
    make_bundle(root / "pet", members=1, network=alone, channels=PET, crop=crop)
    mix([load_bundle(root / "eoa"), load_bundle(root / "slices")], [1.0, 1.0], "mixed", root / "mixed")
    for kind in KINDS:
        (root / "packages" / kind).mkdir(parents=True)
        write_monai(load_bundle(root / kind), root / "packages" / kind)
    return {kind: root / "packages" / kind for kind in KINDS}


def files(package: Path) -> dict[str, str]:
    return {"meta_file": f"{package}/configs/metadata.json", "config_file": f"{package}/configs/inference.json"}


def metadata(package: Path) -> dict:
    return json.loads((package / "configs/metadata.json").read_text())


@pytest.mark.parametrize("kind", KINDS)
def test_monai_verifies_metadata_and_network(packages, kind: str, monkeypatch) -> None:
    package = packages[kind]
    monkeypatch.syspath_prepend(str(package))
    verify_metadata(meta_file=files(package)["meta_file"], filepath=SCHEMA)
    verify_net_in_out("network_def", **files(package), device="cpu", bundle_root=str(package))


def test_monai_verifies_the_second_model_of_a_mixed_bundle(packages, monkeypatch) -> None:
    package = packages["mixed"]
    monkeypatch.syspath_prepend(str(package))
    second = {"_meta_#network_data_format": metadata(package)["model_1_data_format"], "bundle_root": str(package)}
    assert second["_meta_#network_data_format"]["inputs"]["image"]["spatial_shape"] == [64, 64]  # a slice
    verify_net_in_out("network_def", **files(package), device="cpu", extra_forward_args={"model": 1}, **second)


def test_the_verifier_reads_the_schema_beside_this_test(packages, tmp_path) -> None:
    wrong = {key: value for key, value in metadata(packages["eoa"]).items() if key != "task"}
    (tmp_path / "metadata.json").write_text(json.dumps(wrong))
    with pytest.raises(ValueError, match="'task' is a required property"):
        verify_metadata(meta_file=str(tmp_path / "metadata.json"), filepath=SCHEMA)


def test_the_network_says_the_weighted_mean_of_the_members(packages) -> None:
    """Weights 3 and 1: lesion less background is 3/4 of the first member's and 1/4 of the second's."""
    package = packages["eoa"]
    image = torch.rand(2, 2, 16, 16, 16)
    settings = load_bundle(package / "models").manifest.network
    with torch.no_grad():
        expected = torch.zeros(2, 16, 16, 16)
        for member, share in (("m0", 0.75), ("m1", 0.25)):
            network = build(settings).eval()
            network.load_state_dict(load_file(package / "models" / f"{member}.safetensors"))
            expected += share * (network(image)[:, 1] - network(image)[:, 0])
        found = LesionNetworks(str(package))(image)
    torch.testing.assert_close(found[:, 1] - found[:, 0], expected)


@pytest.mark.parametrize("kind", KINDS)
def test_model_pt_holds_the_tensors_of_the_networks(packages, kind: str) -> None:
    state = torch.load(packages[kind] / "models/model.pt", weights_only=True)
    network = LesionNetworks(str(packages[kind]))
    for parameter in network.parameters():
        parameter.data.zero_()
    network.load_state_dict(state, strict=True)
    expected = LesionNetworks(str(packages[kind])).state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in network.state_dict().items())


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_monai_runs_it_and_the_mask_is_that_of_the_program(
    packages, kind: str, tiny_study, tmp_path, cpu, monkeypatch
) -> None:
    package = packages[kind]
    monkeypatch.syspath_prepend(str(package))
    settings = {"bundle_root": str(package), "dataset_dir": str(tiny_study), "output_dir": str(tmp_path / "masks")}
    settings |= {"device": "cpu", "precision": "float32"}
    workflow = ConfigWorkflow(files(package)["config_file"], workflow_type="infer", **settings)
    workflow.initialize()
    assert workflow.check_properties() == []
    workflow.run()
    case = read_case([tiny_study], Limits(), pet_alone=kind == "pet")
    expected = segment(case, SegmentOptions(bundle=load_bundle(package / "models"), device=cpu)).mask
    assert expected.any() and not expected.all()
    found = sitk.ReadImage(str(tmp_path / "masks" / f"{case.name}.mha"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(found), expected)


@pytest.mark.slow
def test_without_this_repository_the_file_is_that_of_process_py(packages, tiny_bundle, tiny_study, tmp_path) -> None:
    package = shutil.copytree(packages["diwa"], tmp_path / "elsewhere")
    pet, ct = (next((tiny_study / "images" / what).iterdir()) for what in ("pet", "ct"))
    words = ["-m", "monai.bundle", "run", "--config_file", "configs/inference.json", "--pet", pet, "--ct", ct]
    words += ["--output_dir", tmp_path / "masks", "--device", "cpu", "--precision", "float32"]
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"OMP_NUM_THREADS": "1"}
    subprocess.run([sys.executable, *map(str, words)], cwd=package, env=clean, check=True)
    done = run_process("--input", tiny_study, "--output", tmp_path / "ours", "--weights", package / "models")
    assert done.returncode == 0, done.stderr
    (mask,) = (tmp_path / "ours").rglob("*.mha")
    assert (tmp_path / "masks" / mask.name).read_bytes() == mask.read_bytes()


def test_the_metadata_names_every_library_that_the_road_imports(packages) -> None:
    """Followed from scripts/lesions.py through every import of `model`; monai, torch and numpy are MONAI's own."""
    scripts = packages["eoa"] / "scripts"
    waiting, seen, libraries = [scripts / "lesions.py"], set(), set()
    while waiting:
        path = waiting.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [node.module] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            for name in names:
                inside = scripts / name.replace(".", "/")
                if name.split(".")[0] != "model":
                    libraries.add(name.split(".")[0])
                else:
                    assert inside.is_dir() or inside.with_suffix(".py").is_file(), f"{path} imports {name}"
                    waiting += [inside.with_suffix(".py")] if not inside.is_dir() else []
    assert len(seen) > 40
    assert libraries - set(sys.stdlib_module_names) <= {"monai", "torch", "numpy", *ROAD_LIBRARIES}
    assert set(metadata(packages["eoa"])["required_packages_version"]) == set(ROAD_LIBRARIES)


def test_a_study_may_be_dicom(tmp_path) -> None:
    write_dicom(tmp_path / "studies" / "first", *small())
    dataset = StudyDataset(str(tmp_path / "studies"), Limits())
    expected = read_dicom(tmp_path / "studies" / "first", Limits()).case
    assert len(dataset) == 1 and dataset[0].name == "first"
    np.testing.assert_array_equal(dataset[0].pet.array, expected.pet.array)


def test_networks_that_see_pet_alone_need_no_ct(packages, tiny_study, tmp_path) -> None:
    """Of a file, of images beside a CT, and of DICOM."""
    (pet,) = (tiny_study / "images/pet").iterdir()
    write_dicom(tmp_path / "studies/first", *small())
    for file in (tmp_path / "studies/first").rglob("*"):
        if file.is_file() and pydicom.dcmread(file).Modality == "CT":
            file.unlink()
    datasets = [StudyDataset(str(tiny_study), Limits(), pet=str(pet), pet_alone=True)]
    datasets += [StudyDataset(str(folder), Limits(), pet_alone=True) for folder in (tiny_study, tmp_path / "studies")]
    assert all(len(dataset) == 1 and dataset[0].ct is None for dataset in datasets)
    image = metadata(packages["pet"])["network_data_format"]["inputs"]["image"]
    assert (
        image["num_channels"] == 1
        and image["modality"] == "PET"
        and "PET/CT" not in json.dumps(metadata(packages["pet"]))
    )
    card = (packages["pet"] / "docs/README.md").read_text()
    assert "PET/CT" not in card and "--ct" not in card and "no CT\nis needed" in card
    with pytest.raises(CaseError, match="holds 0 CT series"):
        StudyDataset(str(tmp_path / "studies"), Limits())[0]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"dataset_dir": "empty"}, "holds no folder; put each study into a folder of its own"),
        ({"dataset_dir": "absent"}, "is no folder; give one that holds a folder for each study"),
        ({"dataset_dir": "empty", "pet": "pet.mha"}, "give both, or neither and dataset_dir"),
    ],
)
def test_without_a_study_the_message_says_what_to_give(words, message: str, tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CaseError, match=message):
        StudyDataset(**(words | {"dataset_dir": str(tmp_path / words["dataset_dir"])}), limits=Limits())
