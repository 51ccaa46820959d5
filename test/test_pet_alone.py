"""Networks that see PET alone by every way in: their forward passes, process.py, score.py with --pet-only, training.

The expected mask is that of MONAI's sliding window over SUV / 20; that of two-channel weights is not changed by any of
it, as the tests of those ways say.
"""

import csv
import json
import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
import torch
from monai.inferers import sliding_window_inference
from nnunet_networks import network_of, settings_of
from safetensors.torch import load_file
from tiny_batches import dicom_studies, image_study, score_here, small
from tiny_runs import FOLD, small_cache, small_studies
from tiny_settings import tiny_training
from tiny_studies import write_study
from torch import nn
from torch_kernels import TorchKernels

from model import PET_ALONE
from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.bundle.settings import Intensity
from model.challenge.arguments import arguments
from model.challenge.run import run
from model.errors import CaseError, ConfigError
from model.networks import for_device, slabs
from model.networks.fused import Fused
from model.networks.fused_strided import FusedStrided
from model.networks.unet import build
from training.__main__ import main as train
from training.batches.crops import CropDataset
from training.batches.device_crops import DeviceCrops
from training.bundles.mix import mix
from training.data.table import write_table
from training.ensembles.select import select_runs
from training.runs.train import train_run
from training.weights.checkpoint import write_json

CPU = torch.device("cpu")
PET = ("PET",)
CASES = ("case0", "case1", "case2", "case3")


@pytest.fixture(scope="module")
def alone(make_bundle, tmp_path_factory) -> Path:
    """A bundle of one plain U-Net on PET."""
    network = Network(fusion="early", widths=(2, 2, 4), channels=PET)
    folder = tmp_path_factory.mktemp("alone") / "pet"
    return make_bundle(folder, members=1, network=network, channels=PET, intensity=Intensity(suv_top=20.0))


@pytest.fixture(scope="module")
def expected(alone) -> np.ndarray:
    """The mask of the PET of `small()`, bool (z, y, x), whose windows of 32 voxels hold all of it."""
    network = build(Network(fusion="early", widths=(2, 2, 4), channels=PET))
    network.load_state_dict(load_file(alone / "m0.safetensors"))
    image = torch.from_numpy(sitk.GetArrayFromImage(sitk.DICOMOrient(small()[0], "LAS")).astype(np.float32) / 20)
    low, high = image.nonzero().min(0).values, image.nonzero().max(0).values + 1  # the crop: PET above 0
    box = tuple(slice(int(a), int(b)) for a, b in zip(low, high, strict=True))
    with torch.no_grad():
        logits = sliding_window_inference(image[box].permute(2, 1, 0)[None, None], (32,) * 3, 1, network.eval(), 0.5)
    mask = np.zeros(image.shape, bool)
    mask[box] = (logits[0, 1] > logits[0, 0]).permute(2, 1, 0).numpy()
    assert 0.05 < mask.mean() < 0.95
    return mask


def las_mask(path: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.DICOMOrient(sitk.ReadImage(str(path)), "LAS")) > 0


def process(monkeypatch, *words: object) -> Path:
    """process.py in this process; returns the mask's path. Raises its errors."""
    monkeypatch.setattr(sys, "argv", ["process.py", *map(str, words), "--device", "cpu", "--precision", "float32"])
    monkeypatch.setattr("model.challenge.run.on_signals", lambda handler: None)
    options = arguments()
    return run(options, load_bundle(Path(options.weights)), 0.0)


@torch.no_grad()
@pytest.mark.parametrize("norm", ["instance", "body"])
@pytest.mark.parametrize("slab_bytes", [1 << 24, 1 << 13])
def test_logits_of_one_channel_are_those_of_the_training_forward(norm: str, slab_bytes: int, monkeypatch) -> None:
    """Slab by slab, by the kernels' forward pass, and in bfloat16 to its 8 bits; norm body has the body beside."""
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", slab_bytes)
    torch.manual_seed(0)
    network = build(Network(fusion="early", widths=(8, 8, 16), norm=norm, channels=PET)).eval()
    image = torch.rand(2, 1 + (norm == "body"), 12, 20, 8)
    image[:, 1:] = (image[:, 1:] > 0.3).float()
    wanted = network(image)
    most = wanted.abs().max()
    found = slabs.forward(for_device.prepared(network, CPU, torch.float32), image.clone())
    assert (found - wanted).abs().max() <= 1e-5 * most
    fused = Fused(network, network, TorchKernels())(image)  # type: ignore[arg-type]
    assert (fused - wanted).abs().max() <= 2**-7 * most
    narrow = slabs.forward(for_device.prepared(network, CPU, torch.bfloat16), image.clone())
    assert (narrow.float() - wanted).abs().max() <= 2**-4 * most


@torch.no_grad()
@pytest.mark.parametrize("fusion", ["plain_unet", "residual_unet"])
def test_networks_of_nnunets_kind_take_one_channel(fusion: str, monkeypatch) -> None:
    monkeypatch.setitem(slabs.SLAB_BYTES, "cpu", 20_000)
    network = network_of(settings_of(fusion, channels=PET))
    image = torch.rand(1, 1, 24, 16, 10)
    wanted = network(image)
    found = slabs.forward(for_device.prepared(network, CPU, torch.float32), image.clone())
    assert (found - wanted).abs().max() <= 1e-5 * wanted.abs().max()
    fused = FusedStrided(network, lambda: nn.Identity(), TorchKernels())(image)  # type: ignore[arg-type]
    assert (fused - wanted).abs().max() <= 2**-6 * wanted.abs().max()


def test_networks_that_join_two_channels_are_refused() -> None:
    for fusion, widths in (("middle", (2, 4)), ("late", (2, 4)), ("regnety_002", (8, 8, 4, 4, 4))):
        with pytest.raises(ConfigError, match="set fusion to one of them, early for a plain U-Net"):
            Network(fusion=fusion, widths=widths, channels=PET)
    with pytest.raises(ConfigError, match=r"channels must be \['CT', 'PET'\] or \['PET'\], got \['CT'\]"):
        Network(fusion="early", widths=(2, 4), channels=("CT",))


@pytest.mark.parametrize("layout", ["no CT", "a damaged CT", "one file"])
def test_process_py_reads_the_pet_alone(layout: str, alone, expected, tmp_path, monkeypatch) -> None:
    study = write_study(tmp_path / "study", *small())
    (pet,), (ct,) = study.glob("images/pet/*"), study.glob("images/ct/*")
    if layout == "a damaged CT":
        ct.write_bytes(b"no image")
    else:
        ct.unlink()
        ct.parent.rmdir()
    report, given = tmp_path / "report.json", pet if layout == "one file" else study
    mask = process(monkeypatch, "--input", given, "--output", tmp_path / "out", "--weights", alone, "--report", report)
    assert (las_mask(mask) == expected).all()
    assert mask.stem == (ct if layout == "a damaged CT" else pet).stem, "the CT's name, as the platform wants it"
    said = json.loads(report.read_text())
    assert (said["channels"], said["inputs"]["ct"]) == (PET_ALONE, None)
    assert any("is there and is not read" in warning for warning in said["warnings"]) == (layout == "a damaged CT")


def test_weights_that_need_a_ct_name_the_remedy(tiny_bundle, tmp_path, monkeypatch) -> None:
    study = write_study(tmp_path / "study", *small())
    (ct,) = study.glob("images/ct/*")
    ct.unlink()
    remedy = r"give weights that see PET alone \(channels \[PET\]"
    with pytest.raises(CaseError, match=f"holds 0 images.*{remedy}"):
        process(monkeypatch, "--input", study, "--output", tmp_path / "out", "--weights", tiny_bundle)
    pet = {"slug": "pet-image", "relative_path": "images/pet"}
    (study / "inputs.json").write_text(json.dumps([{"socket": pet}]))
    with pytest.raises(CaseError, match=f"names 0 sockets for CT.*{remedy}"):
        process(monkeypatch, "--input", study, "--output", tmp_path / "out", "--weights", tiny_bundle)


def test_a_ct_that_is_not_there_does_not_name_the_mask(alone, tmp_path, monkeypatch) -> None:
    (pet,) = write_study(tmp_path / "study", *small()).glob("images/pet/*")
    words = ["--input", pet, tmp_path / "absent.mha", "--output", tmp_path / "out", "--weights", alone]
    with pytest.raises(CaseError, match=r"CT file '.*absent.mha' is not there"):
        process(monkeypatch, *words)


def test_weights_that_see_other_images_are_not_mixed(alone, tiny_bundle, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"sees PET, '.*' CT and PET; give bundles that see the same"):
        mix([load_bundle(tiny_bundle), load_bundle(alone)], [1.0, 1.0], "both", tmp_path / "both")


@pytest.fixture(scope="module")
def scored(tiny_bundle, alone, tmp_path_factory) -> tuple[Path, Path, list[object]]:
    """A folder of studies, its results, and the command: one study with CT, one without as DICOM, one whose CT is a
    scout alone, one without as an image.
    """
    root = tmp_path_factory.mktemp("hospital")
    studies, output = dicom_studies(root / "in"), root / "out"
    for path in (studies / "Smith_John_1" / "ct").iterdir():
        path.unlink()
    scout, *others = sorted((studies / "Smith_John_2" / "ct").iterdir())
    for path in others:
        path.unlink()
    header = pydicom.dcmread(scout)
    header.ImageType = ["ORIGINAL", "PRIMARY", "LOCALIZER"]
    header.save_as(scout)
    image_study(studies / "Image")
    (studies / "Image" / "Image_ct.mha").unlink()
    words: list[object] = [studies, "--output", output, "--weights", tiny_bundle, "--pet-only", alone]
    words += ["--device", "cpu", "--precision", "float32", "--rtstruct", "--sr", "--picture", "--pdf"]
    score_here(*words, "--disagreement", "--drop-in-air")
    return studies, output, words


def rows_of(output: Path) -> dict[str, dict[str, str]]:
    """The rows of summary.csv by the folder or file where each study lies."""
    where = {row["study"]: Path(row["pet"]) for row in csv.DictReader((output / "keys.csv").open())}
    rows = csv.DictReader((output / "summary.csv").open())
    return {next(p for p in where[row["study"]].parts if p.startswith(("Smith", "Image"))): row for row in rows}


@pytest.mark.slow
def test_studies_without_ct_are_scored_by_their_own_weights_and_marked_everywhere(scored, alone, expected) -> None:
    _, output, _ = scored
    rows = rows_of(output)
    assert {name: row["channels"] for name, row in rows.items()} == {
        "Smith_John_0": "",
        "Smith_John_1": PET_ALONE,
        "Smith_John_2": PET_ALONE,
        "Image": PET_ALONE,
    }
    assert (las_mask(output / rows["Image"]["folder"] / "mask.mha") == expected).all()
    page = (output / "report.html").read_text()
    assert page.count(f'<span class="tag">{PET_ALONE}</span>') == 3 and "Studies without CT: weights pet" in page
    assert json.loads((output / "summary.json").read_text())["studies_pet_alone"] == 3
    for name in ("Smith_John_1", "Smith_John_2"):
        folder = output / rows[name]["folder"]
        report, lesions = (json.loads((folder / f"{one}.json").read_text()) for one in ("report", "lesions"))
        assert report["channels"] == lesions["channels"] == PET_ALONE
        assert report["weights"]["manifest_sha256"] == load_bundle(alone).sha256
        assert all(PET_ALONE in row["notice"] for row in csv.DictReader((folder / "lesions.csv").open()))
        for file in ("seg.dcm", "rtstruct.dcm", "sr.dcm", "picture.dcm"):
            series = pydicom.dcmread(folder / file).SeriesDescription
            assert ", no CT, " in series and len(series) <= 64
            assert PET_ALONE.encode() in (folder / file).read_bytes(), file
        said = " ".join(report["warnings"])
        assert "without CT no lesion is dropped for lying in air" in said
        assert "its mean SUV there is not checked" in said and "no disagreement was written" in said
        assert ("so the study is scored without CT: series" in said) == (name == "Smith_John_2")
    both = output / rows["Smith_John_0"]["folder"]
    assert "channels" not in json.loads((both / "report.json").read_text())
    assert b"no CT" not in (both / "seg.dcm").read_bytes()


@pytest.mark.slow
def test_a_ct_that_comes_later_is_used_and_the_rest_is_done(scored, alone, tiny_bundle, capsys) -> None:
    """Without --pet-only a study without CT is a failure that names the remedy; the last run's options hold it."""
    studies, output, words = scored
    sitk.WriteImage(small()[1], str(studies / "Image" / "Image_ct.mha"), True)
    score_here(*words, "--disagreement", "--drop-in-air", "--dry-run")
    printed = capsys.readouterr().out
    assert "4 studies found: 3 done before, 1 to do; 2 by PET alone, no CT; 0 cannot be scored" in printed
    assert printed.count("files, PET alone, no CT") == 2
    score_here(*words, "--disagreement", "--drop-in-air")
    assert rows_of(output)["Image"]["channels"] == ""
    assert json.loads((output / ".last-run").read_text())["pet_only"] == str(alone)
    capsys.readouterr()
    others = [word for word in words if word not in ("--pet-only", alone)]
    others[others.index("--output") + 1] = output.with_name("other")
    score_here(*others, "--dry-run")
    assert "or score it by weights that see PET alone, with --pet-only" in capsys.readouterr().out


def test_weights_for_pet_only_must_see_pet_alone_and_stand_beside_others(alone, tiny_bundle, tmp_path) -> None:
    image_study(tmp_path / "in")
    words = [tmp_path / "in", "--output", tmp_path / "out", "--dry-run"]
    with pytest.raises(ConfigError, match=r"see CT and PET; give a bundle whose channels are \[PET\]"):
        score_here(*words, "--weights", tiny_bundle, "--pet-only", tiny_bundle)
    with pytest.raises(ConfigError, match="see PET alone; leave --pet-only out"):
        score_here(*words, "--weights", alone, "--pet-only", alone)


def test_with_weights_of_pet_alone_no_ct_is_read(alone, tmp_path, capsys) -> None:
    image_study(tmp_path / "in" / "one")
    (tmp_path / "in" / "one" / "one_ct.mha").write_bytes(b"no image")
    score_here(tmp_path / "in", "--output", tmp_path / "out", "--weights", alone, "--device", "cpu", "--format", "mha")
    (row,) = csv.DictReader((tmp_path / "out" / "summary.csv").open())
    assert row["channels"] == PET_ALONE and "a CT (1 file) is there and is not read" in row["warnings"]


@pytest.mark.parametrize("norm", ["instance", "body"])
def test_a_crop_of_pet_alone_is_the_pet_of_the_crop_with_ct(norm: str, tiny_cache) -> None:
    """Without augmentation; made by workers and on the device alike. The body is where SUV is above 2."""
    network = {"fusion": "early", "widths": [2, 2, 4]}
    body = {"norm": "body", "body": {"suv": 2.0}} if norm == "body" else {}
    one = tiny_training(augmentation="none", network=network | {"channels": ["PET"]} | body)
    both = CropDataset(tiny_cache, CASES, tiny_training(augmentation="none", network=network))
    here, there = CropDataset(tiny_cache, CASES, one), DeviceCrops(tiny_cache, CASES, one, CPU)
    for number in range(6):
        image, truth = here[number]
        assert torch.equal(image[0], both[number][0][1]) and torch.equal(truth, both[number][1])
        torch.testing.assert_close(there[number][0], image, rtol=0, atol=1e-6)
        if norm == "body":
            top = both.plan(number).suv_top
            assert torch.equal(image[1].bool(), image[0] > 2 / top)


def test_a_movement_of_the_ct_is_refused_where_there_is_none() -> None:
    network = {"fusion": "early", "widths": [2, 2, 4], "channels": ["PET"]}
    with pytest.raises(ConfigError, match="leave misalignment out"):
        tiny_training(network=network, misalignment={"chance": 0.2})


@pytest.mark.slow
def test_training_makes_a_bundle_that_process_py_runs(tmp_path, monkeypatch) -> None:
    """A base run, a member, selection, and export, which compares its mask with that of process.py."""
    cache, index = small_cache(tmp_path), tmp_path / "index.csv"
    write_table(small_studies(tmp_path / "studies"), index)
    network = {"fusion": "early", "widths": [2, 2, 4], "channels": ["PET"]}
    run_folder = tmp_path / "member"
    train_run(run_folder, tiny_training(network=network, augmentation="strong"), cache, FOLD, wanted="cpu")
    report = select_runs([run_folder], cache, FOLD, tmp_path / "margins", device="cpu")
    write_json(tmp_path / "selection.json", report)
    words = ["export", str(tmp_path / "selection.json"), "--choice", "eoa_greedy", "--name", "pet", "--data", "made up"]
    words += ["--licence", "CC0", "--device", "cpu", "--index", str(index), "--output", str(tmp_path / "bundle")]
    assert train(words) == 0
    manifest = load_bundle(tmp_path / "bundle").manifest
    assert manifest.channels == manifest.network.channels == PET
    assert train(["evaluate", "--index", str(index), "--weights", str(tmp_path / "bundle"), "--device", "cpu",
                  "--output", str(tmp_path / "scores.csv")]) == 0  # fmt: skip
    assert len(list(csv.DictReader((tmp_path / "scores.csv").open()))) == 4
