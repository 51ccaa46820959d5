"""A model of nnU-Net v2 gives the mask of nnU-Net's own predictor (its sums in float32), whatever its plans say."""

import json
import shutil
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmark.nnunet_cases import (
    CASES,
    LEAST_DICE,
    LEAST_LESION,
    LEAST_SAME,
    MOST_LESION,
    dice,
    made_study,
    ours,
    same_share,
)
from benchmark.nnunet_models import FOLDER, dataset_of, plans_of, study, write_model
from benchmark.nnunet_oracle import nnunet_mask
from model.bundle.manifest import load_bundle
from model.inference.device import choose_device
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.study.reading import read_case
from training.__main__ import main

ELEVEN = {"background": 0} | {f"organ {number}": number for number in range(1, 10)} | {"tumor": 10}


@pytest.mark.slow
@pytest.mark.parametrize("name", CASES)
def test_the_mask_is_that_of_nnunet(name: str, tmp_path) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not here: pip install --no-deps -r benchmark/requirements.txt")
    case = CASES[name]
    model, images = case.write(tmp_path / "model"), made_study(case)
    expected = case.theirs(model, images, tmp_path)
    found = ours(model, images, tmp_path, case.words)
    assert LEAST_LESION < expected.mean() < MOST_LESION, "a mask that could be right by chance"
    assert same_share(found, expected) >= LEAST_SAME
    assert dice(found, expected) >= LEAST_DICE


@pytest.mark.slow
def test_the_organs_are_those_of_nnunet_with_the_organ_head_as_its_head(tmp_path) -> None:
    pytest.importorskip("nnunetv2", reason="nnunetv2 is not here: pip install --no-deps -r benchmark/requirements.txt")
    folds = (0, 1)
    folder = write_model(tmp_path / "model", plans_of(residual=True), dataset_of(), folds=folds, organs=11)
    as_lesions = write_model(tmp_path / "organs", plans_of(residual=True), dataset_of(ELEVEN), folds=folds)
    for fold in folds:
        file = f"fold_{fold}/checkpoint_final.pth"
        checkpoint = torch.load(folder / file, weights_only=False)
        found = checkpoint["network_weights"]
        checkpoint["network_weights"] = {
            name: found[name.replace("decoder.seg_layers", "decoder.organ_seg_layers")]
            for name in found
            if ".organ" not in name
        }
        torch.save(checkpoint, as_lesions / file)
    images = study()
    expected = nnunet_mask(as_lesions, images[::-1], tmp_path, folds)
    ours(folder, images, tmp_path)
    bundle = load_bundle(tmp_path / "bundles/one")
    case = read_case([tmp_path / "pet.nii.gz", tmp_path / "ct.nii.gz"], bundle.manifest.limits)
    found = segment(case, SegmentOptions(bundle=bundle, device=choose_device("cpu"), with_organs=True)).organs
    assert len(np.unique(expected)) > 5, "a map that could be right by chance"
    assert (found == expected).mean() >= LEAST_SAME


def test_the_organs_names_are_given_or_assumed_with_a_warning(tmp_path, capsys) -> None:
    for organs, words, printed in (
        (11, [], "taken for those of GLOW-FDG and LesionTracer: spleen, kidneys"),
        (3, [], "nothing says which 2 organs"),
        (3, ["--organ-names", "liver", "brain"], ""),
    ):
        folder = write_model(tmp_path / f"{organs}{len(words)}", plans_of(), dataset_of(), organs=organs)
        command = ["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b"), "--force"]
        assert main([*command, *words]) == 0
        out = capsys.readouterr().out
        assert printed in out and ("--organ-names" in out) == bool(printed)
        assert load_bundle(tmp_path / "b/one").manifest.network.organ_names == tuple(words[1:])
    assert main([*command, "--organ-names", "liver"]) != 0
    assert "knows 2 organs, got 1 names" in capsys.readouterr().err


@pytest.mark.slow
def test_a_released_zip_and_the_datasets_folder_give_the_same_bundle(tmp_path) -> None:
    folder = write_model(tmp_path / "Dataset777_Fdg", plans_of(), dataset_of(), folds=(0, 1))
    archive = tmp_path / "released.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, Path("Dataset777_Fdg") / path.relative_to(folder.parent))
    manifests = []
    for source in (folder, folder.parent, archive):
        assert main(["import", str(source), "--name", "one", "--output-folder", str(tmp_path / "b"), "--force"]) == 0
        manifests.append(load_bundle(tmp_path / "b/one").manifest)
    assert manifests[0] == manifests[1] == manifests[2]
    assert [member.fold for member in manifests[0].members] == ["0", "1"]


@pytest.mark.slow
def test_two_models_vote_by_their_mean_probability(tmp_path) -> None:
    first = write_model(tmp_path / "first", plans_of(), dataset_of(), folds=(0, 1))
    second = write_model(tmp_path / "second", plans_of(residual=True, spacing=[4.0, 4.0, 4.0]), dataset_of())
    images = study()
    mask = ours(first, images, tmp_path, ["--and", second])
    manifest = load_bundle(tmp_path / "bundles/one").manifest
    assert (manifest.kind, manifest.combine, len(manifest.members)) == ("mixed", "parts", 3)
    alone = [ours(model, images, tmp_path) for model in (first, second)]
    assert mask.any() and not (mask & ~(alone[0] | alone[1])).any()  # where both say no, their mean does, too
    assert (mask | ~(alone[0] & alone[1])).all()


def test_check_says_what_it_costs_and_writes_nothing(tmp_path, capsys) -> None:
    folder = write_model(tmp_path / "model", plans_of(), dataset_of(names=("CT", "CT")), folds=(0, 1))
    assert main(["import", str(folder), "--check", "--output-folder", str(tmp_path / "bundles")]) == 0
    printed = capsys.readouterr().out
    assert "16 passes a window" in printed and "TFLOP a pass; a study of 400 x 400 x 326 voxels" in printed
    assert "taken as CT" in printed and not (tmp_path / "bundles").exists()


@pytest.mark.parametrize(
    ("plans", "dataset", "words", "message"),
    [
        ({"patch_size": [16, 16]}, {}, [], "is 2-D"),
        ({"previous_stage": "3d_lowres"}, {}, [], "cascade"),
        ({"strides": [[2, 2, 2]] * 3}, {}, [], "stages[0].stride must be [1, 1, 1], got [2, 2, 2]"),
        ({"normalization_schemes": ["CTNormalization", "RGBTo01Normalization"]}, {}, [], "RGBTo01Normalization"),
        ({"preprocessor_name": "Mine"}, {}, [], "preprocessor 'Mine'"),
        ({"resampling_fn_data": "mine"}, {}, [], "'mine' cannot be run"),
        ({}, {"names": ("MR", "T2")}, [], "say --channels"),
        ({}, {"labels": {"background": 0, "a": 1, "b": 2}}, [], "say --lesion"),
        ({}, {}, ["--folds", "3"], "choose by --folds"),
        ({}, {}, ["--configuration", "2d"], "--configuration"),
        ({}, {}, ["--lesion", "nose"], "--lesion nose"),
        ({}, {}, ["--step", "1e-7"], "--step must be from 0.1 to 1, got 1e-07"),
    ],
)
def test_what_cannot_be_run_is_refused_by_name(plans, dataset, words, message, tmp_path, capsys) -> None:
    folder = write_model(tmp_path / "model", plans_of(), dataset_of())
    made = plans_of(**plans)
    if dataset.get("names") == ("MR", "T2"):
        made["foreground_intensity_properties_per_channel"] = {}
    (folder / "plans.json").write_text(json.dumps(made))
    (folder / "dataset.json").write_text(json.dumps(dataset_of(**dataset)))
    assert main(["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b"), *words]) != 0
    assert message in capsys.readouterr().err and not (tmp_path / "b/one").exists()


def test_numbers_beyond_float16_are_refused_but_for_float32(tmp_path, capsys) -> None:
    folder = write_model(tmp_path / "model", plans_of(), dataset_of())
    path = folder / "fold_0/checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    checkpoint["network_weights"]["decoder.seg_layers.1.bias"][:] = 65505
    torch.save(checkpoint, path)
    command = ["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b")]
    assert main(command) == 4
    error = capsys.readouterr().err
    assert "head.bias holds 6.55e+04, and float16 at most 65504" in error
    assert f"'{path}'" in error and "use --store float32" in error and not (tmp_path / "b/one").exists()
    assert main([*command, "--store", "float32"]) == 0


@pytest.mark.parametrize("kind", ["missing", "superfluous", "repeat", "nan"])
def test_a_wrong_tensor_is_an_error(kind: str, tmp_path, capsys) -> None:
    import torch

    folder = write_model(tmp_path / "model", plans_of(), dataset_of())
    path = folder / "fold_0/checkpoint_final.pth"
    checkpoint = torch.load(path, weights_only=False)
    state = checkpoint["network_weights"]
    name = "encoder.stages.1.0.convs.0.conv.weight"
    if kind == "missing":
        del state[name], state[f"decoder.{name}"], state[name.replace(".conv.", ".all_modules.0.")]
        del state["decoder." + name.replace(".conv.", ".all_modules.0.")]
    elif kind == "superfluous":
        state["extra.weight"] = torch.zeros(3)
    elif kind == "repeat":
        state[f"decoder.{name}"] = state[name] + 1
    else:
        state["decoder.seg_layers.1.bias"][:] = float("nan")
    torch.save(checkpoint, path)
    assert main(["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b")]) == 4
    words = {"missing": "missing", "superfluous": "superfluous", "repeat": "should repeat", "nan": "NaN"}[kind]
    assert words in capsys.readouterr().err and not (tmp_path / "b/one").exists()


def test_an_axis_that_may_be_mirrored_counts_once(tmp_path) -> None:
    folder = write_model(tmp_path / "model", plans_of(), dataset_of(), mirrored=(0, 2, 0))
    assert main(["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b")]) == 0
    assert load_bundle(tmp_path / "b/one").manifest.window.mirrored == ("x", "z")


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod."])
def test_wrappers_of_a_network_are_taken_off(prefix: str, tmp_path) -> None:
    folder = write_model(tmp_path / "model", plans_of(), dataset_of(), prefix=prefix)
    assert main(["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b")]) == 0


def test_a_model_without_checkpoints_is_no_model(tmp_path, capsys) -> None:
    folder = write_model(tmp_path / "model", plans_of(), dataset_of())
    shutil.rmtree(folder / "fold_0")
    assert main(["import", str(folder), "--name", "one", "--output-folder", str(tmp_path / "b")]) == 2
    assert "holds no model of nnU-Net v2" in capsys.readouterr().err
    assert FOLDER in str(folder)
