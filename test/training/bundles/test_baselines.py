"""training baselines: thresholds by arithmetic and by the published figures, the plain U-Net, the table."""

import argparse
import csv
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference

from model.bundle.settings import Limits
from model.inference.device import choose_device
from model.results.metrics import score
from training.__main__ import main
from training.bundles import plain_unet, study_views
from training.bundles.baseline_cases import parts_of
from training.bundles.baseline_page import paired
from training.bundles.field_of_view import THRESHOLDS, ViewScore, view_scores
from training.bundles.plain_unet import PlainTraining, marked, share_done
from training.bundles.thresholds import above, above_share, best_of_each_case, best_of_each_view, best_on
from training.data.table import read_table, write_table


def row(case: str, view: str = "0 mm cut", dice: float = 0.5, **thresholds: float) -> ViewScore:
    at = {float(name[1:].replace("_", ".")): value for name, value in thresholds.items()}
    return ViewScore(
        case=case,
        patient=case,
        view=view,
        dice=dice,
        fpv_ml=1.0,
        fnv_ml=2.0,
        lesions_true=1,
        lesions_found=1,
        agreement=1.0,
        marked_ml=3.0,
        thresholds=tuple(at.get(suv, 0.0) for suv in THRESHOLDS),
    )


def test_the_best_fixed_threshold_is_best_on_the_mean_and_the_best_of_a_case_on_each() -> None:
    """SUV 2: 0.8 and 0.2, mean 0.5; SUV 3: 0.6 and 0.6; SUV 4: 0.1 and 0.7, mean 0.4."""
    rows = [row("a", t2=0.8, t3=0.6, t4=0.1), row("b", t2=0.2, t3=0.6, t4=0.7)]
    assert [one.dice for one in best_of_each_view(rows)] == [0.6, 0.6]
    assert [one.dice for one in best_of_each_case(rows)] == [0.8, 0.7]
    assert all(math.isnan(one.fpv_ml) and math.isnan(one.agreement) for one in best_of_each_case(rows))


def test_each_view_has_a_best_threshold_of_its_own() -> None:
    rows = [row("a", t2=0.8, t3=0.6), row("a", view="15 mm cut", t2=0.3, t3=0.9)]
    assert [one.dice for one in best_of_each_view(rows)] == [0.8, 0.9]


def test_thresholds_mark_what_reaches_them(tiny_studies) -> None:
    """41 % of the hottest voxel, whatever it is."""
    case, _ = study_views.read_study(tiny_studies[0], Limits())
    suv = case.pet.array
    assert np.array_equal(above(2.5).mask(case), suv >= 2.5)
    assert np.array_equal(above_share().in_air(case, 64), suv >= 0.41 * suv.max())


def test_the_threshold_is_chosen_where_the_lesions_are(tiny_studies) -> None:
    """Lesions hold 6 more than the rest, whose SUV is 1.2 on average: the best lies between."""
    chosen = best_on(tiny_studies, copies=0, seed=0)
    whole = view_scores(above(chosen), tiny_studies[:1])[0]
    assert 3 < chosen < 6.5 and whole.view == "0 mm cut" and whole.dice > 0.99
    assert math.isnan(best_on(tiny_studies[3:], copies=0, seed=0))


@pytest.fixture(autouse=True)
def small_networks_and_little_air(monkeypatch) -> None:
    monkeypatch.setattr(study_views, "AIR_VOXELS", (4,))
    monkeypatch.setattr(plain_unet, "FEATURES", (4, 4, 8, 8, 8, 4))


def index_of(folder: Path, studies) -> Path:
    write_table(studies, folder / "index.csv")
    return folder / "index.csv"


def run(index: Path, output: Path, *words: object) -> int:
    arguments = ["--index", index, "--output", output, "--device", "cpu", "--recrops", 1, *words]
    return main(["baselines", *map(str, arguments)])


@pytest.mark.slow
def test_the_table_has_every_method_on_the_same_cases(tiny_studies, tmp_path, tiny_bundle, capsys) -> None:
    (tmp_path / "cases.txt").write_text("patient0\ncase1\n")
    index, out = index_of(tmp_path, tiny_studies), tmp_path / "out"
    words = ["--cases", tmp_path / "cases.txt", "--weights", tiny_bundle, "--unet-steps", 2, "--unet-crop", 32]
    assert run(index, out, *words, "--unet-batch", 1) == 0
    methods = list(json.loads((out / "baselines.json").read_text())["methods"])
    assert methods[:2] == ["bundle tiny", "MONAI BasicUNet"] and "best on the training cases" in methods[2]
    assert methods[3:6] == ["SUV 2.5", "SUV 4", "41 % of the image's SUVmax"] and len(methods) == 8
    rows = list(csv.DictReader((out / "baselines.csv").open()))
    assert len(rows) == 8 * 2 * 6 and {one["view"] for one in rows} >= {"re-cropped", "45 mm cut", "4 voxels of air"}
    text = (out / "baselines.md").read_text()
    assert "2 studies of 2 patients" in text and "training cases: 2 of 2 patients" in text
    assert "does not say what it was trained on" in text and "2 steps of 1 crops of 32^3 on 2 studies" in text
    assert text.count("| MONAI BasicUNet |") == 2
    first, second = (out / name for name in ("SUV-2.5.csv", "MONAI-BasicUNet.csv"))
    assert {one["case"] for one in csv.DictReader(first.open())} == {"case0-r0", "case1-r0"}
    assert main(["compare", str(first), str(second)]) == 0 and "second less first" in capsys.readouterr().out


@pytest.mark.slow
def test_the_same_command_takes_the_trained_network_again(tiny_studies, tmp_path) -> None:
    (tmp_path / "cases.txt").write_text("patient0\n")
    index, out = index_of(tmp_path, tiny_studies), tmp_path / "out"
    words = ["--cases", tmp_path / "cases.txt", "--unet-steps", 1, "--unet-crop", 32, "--unet-batch", 1]
    assert run(index, out, *words) == 0
    before = (out / "baselines.csv").read_bytes(), (out / "basic_unet.safetensors").stat().st_mtime_ns
    assert run(index, out, *words) == 0
    assert before == ((out / "baselines.csv").read_bytes(), (out / "basic_unet.safetensors").stat().st_mtime_ns)
    whole = (out / "basic_unet.safetensors").read_bytes()
    (out / "basic_unet.safetensors").write_bytes(whole[:-100])  # as a kill leaves it: it is trained again
    assert run(index, out, *words) == 0
    assert len((out / "basic_unet.safetensors").read_bytes()) == len(whole)


def test_a_plain_networks_mask_is_monais() -> None:
    """The same windows and weights, by MONAI itself: above zero where the second logit is the larger."""
    torch.manual_seed(0)
    network = torch.nn.Conv3d(2, 2, 3, padding=1)
    picture = torch.rand(2, 40, 36, 32)
    with torch.no_grad():
        logits = sliding_window_inference(picture[None], (32, 32, 32), 4, network, overlap=0.5, mode="gaussian")
    found = marked(network, picture, 32, choose_device("cpu", "float32"))
    assert np.array_equal(found, (logits[0, 1] > logits[0, 0]).numpy()) and 0 < found.mean() < 1


def test_training_ends_by_steps_or_by_minutes() -> None:
    assert share_done(PlainTraining(steps=4), 1, 1e9) == 0.25
    assert share_done(PlainTraining(minutes=2), 10**9, 30) == 0.25


@pytest.mark.slow
def test_the_plain_loop_learns_a_bright_ball(tiny_studies, monkeypatch) -> None:
    """Lesions are 6 SUV brighter than the rest, so a network that sees one voxel at a time can tell them."""
    torch.manual_seed(0)
    layers = torch.nn.Conv3d(2, 8, 1), torch.nn.ReLU(), torch.nn.Conv3d(8, 2, 1)
    monkeypatch.setattr(plain_unet, "fresh", lambda: torch.nn.Sequential(*layers))
    monkeypatch.setattr(plain_unet, "RATE", 0.05)
    device = choose_device("cpu", "float32")
    settings = PlainTraining(steps=200, crop=32, batch=2)
    network, steps, _ = plain_unet.train_plain(tiny_studies[:3], settings, device)
    case, truth = study_views.read_study(tiny_studies[0], Limits())
    mask = plain_unet.plain_masking(network, 32, device).mask(case)
    assert steps == 200 and score(mask, truth, 0.064).dice > 0.8


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--unet-steps", 1], "a BasicUNet needs training cases"),
        (["--unet-steps", 1, "--unet-minutes", 1], "either --unet-minutes or --unet-steps"),
        (["--unet-steps", 1, "--unet-crop", 40], "--unet-crop must be a multiple of 16 from 32 on, got 40"),
        (["--recrops", -1], "--recrops and --seed must be 0 or more, got -1"),
        (["--fold", "0"], "--split, --fold and --part go together"),
        (["--suv", "-1"], "--suv must be above 0, got -1"),
        (["--suv", "nan"], "--suv must be above 0, got nan"),
    ],
)
def test_wrong_options_are_refused(tiny_studies, tmp_path, capsys, words, message) -> None:
    assert run(index_of(tmp_path, tiny_studies), tmp_path / "out", *words) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


def test_a_patient_on_both_sides_is_refused(tiny_studies, tmp_path, capsys) -> None:
    twice = [*tiny_studies, replace(tiny_studies[0], case="again")]
    fold = {"name": "0", "train": ["again", "case1"], "validate": ["case2"], "test": ["case0"]}
    (tmp_path / "split.json").write_text(json.dumps({"folds": [fold]}))
    words = ["--split", tmp_path / "split.json", "--fold", "0", "--part", "test"]
    assert run(index_of(tmp_path, twice), tmp_path / "out", *words) == 2
    assert "patients both train and are scored: patient0" in capsys.readouterr().err


def test_a_run_from_a_pack_has_no_images_and_a_blended_tumour_is_not_scored(tiny_studies, tmp_path, capsys) -> None:
    packed = replace(tiny_studies[0], pet=Path("packed/case0/pet"))
    assert run(index_of(tmp_path, [packed, *tiny_studies[1:]]), tmp_path / "out") == 2
    assert "came from a pack, which has no images (case0); give the index.csv of" in capsys.readouterr().err
    studies = {study.case: study for study in (*tiny_studies, replace(tiny_studies[0], case="b", body="somebody"))}
    options = argparse.Namespace(cases=None, split=None)
    assert [study.case for study in parts_of(options, studies).scored] == [study.case for study in tiny_studies]


def test_the_difference_is_between_the_same_cases() -> None:
    first = [row("a", dice=0.5), row("b", dice=0.7)]
    second = [row("a", dice=0.7), row("b", dice=0.8)]
    assert paired(first, second).mean == pytest.approx(0.15)


@pytest.mark.slow
def test_thresholds_score_what_is_published_of_the_real_patients(real_data, tmp_path) -> None:
    """SUV 2.0: 0.586, 2.5: 0.559, 4: 0.409, 41 %: 0.367; the best of each case 0.662 (ours: steps of 0.1)."""
    words = [real_data / "sts", "--output", tmp_path / "index.csv", "--workers", 1]
    assert main(["index", *map(str, words)]) == 0
    studies = [one for one in read_table(tmp_path / "index.csv").values()]
    some = {name: view_scores_whole(masking, studies) for name, masking in (("2.5", above(2.5)), ("41", above_share()))}
    dice = np.mean([one.thresholds for one in some["2.5"]], axis=0)
    at = {suv: dice[THRESHOLDS.index(suv)] for suv in (2.0, 2.5, 4.0)}
    assert [round(at[suv], 3) for suv in (2.0, 2.5, 4.0)] == [0.586, 0.559, 0.409]
    assert np.mean([one.dice for one in some["2.5"]]) == pytest.approx(at[2.5], abs=1e-6)
    assert round(np.mean([one.dice for one in some["41"]]), 3) == 0.367
    assert np.mean([one.dice for one in best_of_each_case(some["41"])]) == pytest.approx(0.662, abs=0.002)
    assert dice.max() == pytest.approx(0.586, abs=0.001)


def view_scores_whole(masking, studies) -> list[ViewScore]:
    from training.bundles import field_of_view

    made = field_of_view.views_of
    try:
        field_of_view.views_of = lambda *args, **kwargs: made(*args, air=False)[:1]
        return view_scores(masking, studies)
    finally:
        field_of_view.views_of = made
