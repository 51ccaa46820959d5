"""Zips, folders, plans and checkpoints that are no model, or only almost one, are refused by name."""

import json
import shutil
import zipfile
from pathlib import Path

import pytest
import torch

from benchmark.nnunet_models import FOLDER, dataset_of, plans_of, write_model
from model.bundle.manifest import load_bundle
from training.__main__ import main
from training.bundles import nnunet_folder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """A model's own folder below Dataset777_Fdg; not to be changed."""
    return write_model(tmp_path_factory.mktemp("made") / "Dataset777_Fdg", plans_of(), dataset_of())


@pytest.fixture
def model(made: Path, tmp_path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(made.parent, tmp_path / made.parent.name)
    return tmp_path / made.parent.name / FOLDER


def zipped(model: Path, archive: Path, below: str = "Dataset777_Fdg") -> Path:
    with zipfile.ZipFile(archive, "a", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(path for path in model.rglob("*") if path.is_file()):
            file.write(path, Path(below, model.name) / path.relative_to(model))
    return archive


def check(path: Path, capsys, *words: str) -> tuple[int, str, str]:
    """Exit code, output and the last line of errors of the dry run."""
    code = main(["import", str(path), "--check", *words])
    said = capsys.readouterr()
    return code, said.out, (said.err.splitlines() or [""])[-1]


def test_a_zip_with_other_files_nested_folders_and_those_of_macos_is_read(model: Path, tmp_path, capsys) -> None:
    archive = zipped(model, tmp_path / "released.zip", "downloads/nnUNet_results/Dataset777_Fdg")
    with zipfile.ZipFile(archive, "a") as file:
        file.writestr("README.md", "hello")
        for name in ("plans.json", "dataset.json", "fold_0/checkpoint_final.pth"):
            place = Path("__MACOSX/downloads/nnUNet_results/Dataset777_Fdg", FOLDER, name)
            file.writestr(str(place.with_name(f"._{place.name}")), b"\x00\x05\x16\x07")
    code, out, _ = check(archive, capsys)
    assert code == 0 and "configuration 3d_fullres, folds 0" in out


def test_paths_that_lead_out_of_a_zip_are_never_written(model: Path, tmp_path, capsys) -> None:
    (tmp_path / "in").mkdir()
    archive = zipped(model, tmp_path / "in/released.zip", "../../evil")
    words = ["--name", "one", "--output-folder", str(tmp_path / "bundles")]
    assert main(["import", str(archive), *words]) == 0
    assert not (tmp_path / "evil").exists() and not (tmp_path.parent / "evil").exists()


def test_a_checkpoint_that_unpacks_to_too_much_is_refused(model: Path, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setattr(nnunet_folder, "CHECKPOINT_LIMIT_BYTES", 1000)
    archive = zipped(model, tmp_path / "released.zip")
    assert main(["import", str(archive), "--name", "one", "--output-folder", str(tmp_path / "b")]) == 4
    error = capsys.readouterr().err
    assert "checkpoint_final.pth would unpack to" in error and "fetch the zip again" in error


@pytest.mark.parametrize("name", ["plans.json", "fold_0/checkpoint_final.pth"])
def test_damaged_bytes_in_a_zip_are_named(name: str, model: Path, tmp_path, capsys) -> None:
    archive = zipped(model, tmp_path / "released.zip")
    with zipfile.ZipFile(archive) as file:
        entry = file.getinfo(f"Dataset777_Fdg/{FOLDER}/{name}")
    content = bytearray(archive.read_bytes())
    start = entry.header_offset + 30 + len(entry.filename) + 4
    content[start : start + 40] = b"\xff" * 40
    archive.write_bytes(content)
    assert main(["import", str(archive), "--name", "one", "--output-folder", str(tmp_path / "b")]) == 4
    assert "released.zip' is not a whole zip archive" in capsys.readouterr().err


def test_what_is_no_zip_is_said(tmp_path, capsys) -> None:
    page, absent = tmp_path / "released.zip", tmp_path / "absent.zip"
    page.write_text("<html>log in first</html>")
    assert "is not a whole zip archive; fetch it again" in check(page, capsys)[2]
    assert f"'{absent}' is not there; give" in check(absent, capsys)[2]
    outer = tmp_path / "outer.zip"
    with zipfile.ZipFile(outer, "w") as file:
        file.writestr("Dataset777.zip", b"")
    assert "holds other zips, Dataset777.zip; unpack it" in check(outer, capsys)[2]


def test_two_models_in_a_zip_are_told_apart_by_configuration_or_place(model: Path, tmp_path, capsys) -> None:
    archive = tmp_path / "released.zip"
    for below in ("Dataset777_Fdg", "Dataset778_Psma"):
        zipped(model, archive, below)
    code, _, error = check(archive, capsys)
    assert code == 2 and "holds 2 models, Dataset777_Fdg/" in error and "Dataset778_Psma/" in error
    assert "more than --configuration 3d_fullres" in check(archive, capsys, "--configuration", "3d_fullres")[2]
    code, out, _ = check(archive, capsys, "--configuration", f"Dataset778_Psma/{FOLDER}")
    assert code == 0 and "configuration 3d_fullres" in out


@pytest.mark.slow
def test_two_models_of_one_zip_become_one_bundle(model: Path, tmp_path, capsys) -> None:
    archive = zipped(model, tmp_path / "released.zip")
    other = write_model(tmp_path / "other", plans_of(residual=True), dataset_of())
    zipped(other.rename(other.with_name("nnUNetTrainer__nnUNetResEncPlans__3d_fullres")), archive)
    names = (FOLDER, "nnUNetTrainer__nnUNetResEncPlans__3d_fullres")
    words = ["--and", str(archive), "--configuration"]
    code, out, _ = check(archive, capsys, *words, *names)
    assert code == 0 and "plain_unet" in out and "residual_unet" in out
    command = ["import", str(archive), "--name", "both", "--output-folder", str(tmp_path / "bundles")]
    assert main([*command, *words, *names]) == 0
    members = load_bundle(tmp_path / "bundles/both").manifest.members
    assert [member.network.fusion for member in members if member.network] == ["plain_unet", "residual_unet"]
    capsys.readouterr()
    assert main([*command, "--force", *words, names[0]]) == 2
    assert "gives the same checkpoint as" in capsys.readouterr().err
    assert main([*command, "--force", "--configuration", *names]) == 2
    assert "--configuration takes one name" in capsys.readouterr().err


def test_a_folder_that_was_renamed_has_the_only_configuration_of_its_plans(model: Path, tmp_path, capsys) -> None:
    renamed = model.rename(tmp_path / "my model")
    assert "configuration 3d_fullres" in check(renamed, capsys)[1]
    plans = json.loads((renamed / "plans.json").read_text())
    plans["configurations"]["3d_lowres"] = {"inherits_from": "3d_fullres"}
    (renamed / "plans.json").write_text(json.dumps(plans))
    assert "--configuration is not given; say the one that was trained" in check(renamed, capsys)[2]
    assert check(renamed, capsys, "--configuration", "3d_lowres")[0] == 0


def test_fold_all_is_taken_where_it_is_the_only_one(model: Path, capsys) -> None:
    (model / "fold_0").rename(model / "fold_all")
    assert "folds all" in check(model, capsys)[1]


def test_where_only_the_best_checkpoints_are_the_error_names_them(model: Path, capsys) -> None:
    (model / "fold_0/checkpoint_final.pth").rename(model / "fold_0/checkpoint_best.pth")
    code, _, error = check(model, capsys)
    assert code == 2 and "(but fold_0/checkpoint_best.pth)" in error and "--checkpoint final or best" in error
    assert check(model, capsys, "--checkpoint", "best")[0] == 0


CONFIGURATION = ("configurations", "3d_fullres")
ARCHITECTURE = (*CONFIGURATION, "architecture")


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("configurations",), None, "plans.json has no configuration '3d_fullres'; it has none"),
        ((*CONFIGURATION, "spacing"), None, "'spacing' is not there"),
        ((*CONFIGURATION, "patch_size"), None, "is 2-D (patch_size None)"),
        ((*CONFIGURATION, "patch_size"), [0, 16, 16], "of plans.json cannot be run: Window.size[2]"),
        ((*CONFIGURATION, "patch_size"), [16, 16, 18], "cannot be run: window.size [18, 16, 16] must be multiples of"),
        ((*CONFIGURATION, "spacing"), [3.0, 5.0], "not as nnU-Net writes it"),
        ((*CONFIGURATION, "spacing"), [3.0, 5.0, 1e9], "spacing_mm must be from 0.1 to 50"),
        ((*CONFIGURATION, "normalization_schemes"), ["CTNormalization"], "not as nnU-Net writes it"),
        ((*ARCHITECTURE, "arch_kwargs"), None, "arch_kwargs lack n_stages"),
        ((*ARCHITECTURE, "arch_kwargs", "n_conv_per_stage"), None, "'n_conv_per_stage' is not there"),
        ((*ARCHITECTURE, "arch_kwargs", "n_stages"), "many", "not as nnU-Net writes it"),
        ((*ARCHITECTURE, "arch_kwargs", "features_per_stage"), [4, 8], "has 2 entries"),
        (("transpose_forward",), [0, 0, 1], "transpose_forward must order the axes"),
        (("transpose_forward",), 3, "not as nnU-Net writes it"),
        (("foreground_intensity_properties_per_channel",), {}, "lacks percentile_00_5"),
    ],
)
def test_plans_that_lack_something_or_hold_nonsense_are_named(keys, value, message, model: Path, capsys) -> None:
    content = json.loads((model / "plans.json").read_text())
    inner = content
    for key in keys[:-1]:
        inner = inner[key]
    if value is None:
        del inner[keys[-1]]
    else:
        inner[keys[-1]] = value
    (model / "plans.json").write_text(json.dumps(content))
    code, _, error = check(model, capsys)
    assert code == 2 and message in error, error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channel_names": {"0": "CT"}}, "names one channel, ct, and only PET can stand alone"),
        ({"channel_names": {}}, "channel_names must name two channels"),
        ({"channel_names": {"ct": "CT", "pet": "PET"}}, "not as nnU-Net writes it"),
        ({"labels": {"0": "background", "1": "tumor"}}, "labels must hold background and a lesion"),
        ({"labels": {"background": 0, "tumor": "one"}}, "not as nnU-Net writes it"),
        ({"labels": {"background": 0}}, "labels must hold background and a lesion"),
        ({"labels": {"background": 0, "tumor": [1, 2]}}, "regions_class_order"),
        ({"labels": 3}, "not as nnU-Net writes it"),
    ],
)
def test_a_dataset_json_that_cannot_be_understood_is_named(changes, message, model: Path, capsys) -> None:
    (model / "dataset.json").write_text(json.dumps(dataset_of() | changes))
    code, _, error = check(model, capsys)
    assert code == 2 and message in error, error


@pytest.mark.parametrize("name", ["plans.json", "dataset.json"])
@pytest.mark.parametrize("content", ["{", "[]", "[" * 200_000])
def test_json_that_is_none_is_named(name: str, content: str, model: Path, capsys) -> None:
    (model / name).write_text(content)
    code, _, error = check(model, capsys)
    assert code == 4 and name in error and "fetch it again" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"network_weights": None}, "network_weights"),
        ({"network_weights": {}}, "tensors missing"),
        ({"inference_allowed_mirroring_axes": [0, 7]}, "must be axes 0 to 2, got [0, 7]"),
        ({"inference_allowed_mirroring_axes": [[0], [1]]}, "must be axes 0 to 2"),
        ({"init_args": {"configuration": "3d_lowres"}}, "plans.json has no configuration '3d_lowres'"),
    ],
)
def test_a_checkpoint_with_other_contents_is_named(changes, message, model: Path, tmp_path, capsys) -> None:
    path = model / "fold_0/checkpoint_final.pth"
    content = torch.load(path, weights_only=False) | changes
    torch.save({key: value for key, value in content.items() if value is not None}, path)
    code = main(["import", str(model), "--name", "one", "--output-folder", str(tmp_path / "b")])
    error = capsys.readouterr().err.splitlines()[-1]
    assert code in (2, 4) and message in error and not (tmp_path / "b/one").exists(), error


@pytest.mark.parametrize("words", [["--store", "float16"], ["--step", "0.5"], ["--organ-names", "liver"]])
def test_what_is_for_nnunet_is_refused_for_other_checkpoints(words: list[str], made: Path, tmp_path, capsys) -> None:
    checkpoint = made / "fold_0/checkpoint_final.pth"
    assert main(["import", str(checkpoint), "--name", "one", "--output-folder", str(tmp_path / "b"), *words]) == 2
    assert f"{words[0]} is for models of nnU-Net; leave it out" in capsys.readouterr().err


def test_an_error_while_a_checkpoint_of_a_zip_is_read_is_not_taken_for_damage_of_the_zip(model, tmp_path) -> None:
    found = nnunet_folder.find_model(zipped(model, tmp_path / "released.zip"))
    with pytest.raises(RuntimeError, match="out of memory"), found.checkpoint(0):
        raise RuntimeError("out of memory")


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 816000000\n"


@pytest.mark.parametrize(("start", "message"), [(POINTER, "git lfs pull"), (b"<html>", "is a web page"), (b"", "no")])
@pytest.mark.parametrize("in_zip", [False, True])
def test_check_sees_a_file_that_is_no_checkpoint(
    start: bytes, message: str, in_zip: bool, model: Path, tmp_path, capsys
) -> None:
    (model / "fold_0/checkpoint_final.pth").write_bytes(start)
    code, _, error = check(zipped(model, tmp_path / "released.zip") if in_zip else model, capsys)
    assert code == 4 and f"{FOLDER}/fold_0/checkpoint_final.pth' is" in error and message in error


def test_check_of_a_checkpoint_alone_says_what_it_needs(made: Path, capsys) -> None:
    code, _, error = check(made / "fold_0/checkpoint_final.pth", capsys)
    assert code == 2 and "checkpoint_final.pth' is no folder, nor a zip that holds plans.json; give" in error
