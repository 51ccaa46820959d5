"""training/bundles/evaluate.py: its command on tiny studies, with masks and with a bundle."""

import csv
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
import warm
from conftest import ROOT
from program import run_process
from tiny_studies import tiny_images

from model.bundle.format import Provenance
from model.files import sha256_of
from training.__main__ import main
from training.data.table import Study, write_table

CASES = {"p1-a": "melanoma", "p1-b": "melanoma", "p2": "lymphoma", "p3": "negative"}  # p1 has two studies
VOXEL_ML = 4.07 * 4.07 * 3.0 / 1000
Masks = Callable[..., Path]


def blocks(*corners: tuple[int, int, int]) -> np.ndarray:
    """Cubes of 2 x 2 x 2 voxels at these corners (z, y, x) of the tiny PET's grid."""
    mask = np.zeros((50, 36, 40), np.uint8)
    for z, y, x in corners:
        mask[z : z + 2, y : y + 2, x : x + 2] = 1
    return mask


TRUTH = {"p1-a": blocks((5, 5, 5), (30, 20, 20)), "p1-b": blocks((9, 9, 9)), "p2": blocks((9, 9, 9)), "p3": blocks()}


def write_image(array: np.ndarray, path: Path, shift_mm: float = 0.0) -> Path:
    """On the tiny PET's grid, or `shift_mm` beside it."""
    image = sitk.GetImageFromArray(array)
    image.CopyInformation(tiny_images()[0])
    image.SetOrigin([o + shift_mm for o in image.GetOrigin()])
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))
    return path


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    """Four studies and their index, which is returned."""
    folder = tmp_path_factory.mktemp("studies")
    pet, ct = tiny_images()
    for what, image in (("pet", pet), ("ct", ct)):
        sitk.WriteImage(image, str(folder / f"{what}.nii.gz"))
    rows = [
        Study(
            case=case,
            patient=case[:2],
            diagnosis=diagnosis,
            tracer="FDG",
            site="B" if case == "p2" else "A",
            pet=folder / "pet.nii.gz",
            ct=folder / "ct.nii.gz",
            truth=write_image(TRUTH[case], folder / f"{case}.mha"),
            lesion_ml=0.0,
            sha256="0" * 64,
        )
        for case, diagnosis in CASES.items()
    ]
    write_table(rows, folder / "index.csv")
    return folder / "index.csv"


@pytest.fixture
def masks(tmp_path) -> Masks:
    """masks(**{case: array}): a folder of masks, the truth itself where nothing else is given, None for no file."""

    def make(**changes: np.ndarray | None) -> Path:
        for case, array in (TRUTH | {name.replace("_", "-"): array for name, array in changes.items()}).items():
            if array is not None:
                write_image(array, tmp_path / "masks" / f"{case}.mha")
        return tmp_path / "masks"

    return make


def rows_of(path: Path) -> dict[str, dict[str, str]]:
    with path.open() as file:
        return {row["case"]: row for row in csv.DictReader(file)}


def evaluate(index: Path, output: Path, *arguments: object) -> int:
    return main(["evaluate", "--index", str(index), "--output", str(output), *map(str, arguments)])


def refused(capfd, index: Path, output: Path, *arguments: object) -> str:
    """The last line on stderr of an evaluation that must fail with a message and leave no scores."""
    assert evaluate(index, output, *arguments) != 0
    assert not output.exists() and not output.with_suffix(".json").exists()
    line = capfd.readouterr().err.splitlines()[-1]
    assert line.startswith("error: ")
    return line


@pytest.mark.slow
def test_scores_of_masks_by_hand(studies, masks, tmp_path) -> None:
    """p1-a: one of two lesions found, whole, and a false one; each is 8 voxels."""
    folder = masks(p1_a=blocks((5, 5, 5), (40, 20, 20)))
    assert evaluate(studies, tmp_path / "scores.csv", "--masks", folder) == 0
    row = rows_of(tmp_path / "scores.csv")["p1-a"]
    assert float(row["dice"]) == 2 * 8 / (16 + 16)
    assert float(row["fpv_ml"]) == pytest.approx(8 * VOXEL_ML) == pytest.approx(float(row["fnv_ml"]))
    assert (row["lesions_found"], row["lesions_true"], row["diagnosis"]) == ("1", "2", "melanoma")
    assert math.isnan(float(row["seconds"]))


@pytest.mark.slow
def test_the_table_and_the_json_have_every_diagnosis_and_site(studies, masks, tmp_path, capsys) -> None:
    assert evaluate(studies, tmp_path / "scores.csv", "--masks", masks()) == 0
    out = capsys.readouterr().out
    assert "| all | 4 | 1.0000 (1.0000 to 1.0000), n 3 |" in out and "| site B | 1 | 1.0000 |" in out
    groups = json.loads((tmp_path / "scores.json").read_text())["groups"]
    assert [g["value"] for g in groups] == ["all", "lymphoma", "melanoma", "negative", "A", "B"]
    assert groups[0]["dice"]["left_out"] == 1  # p3: both masks empty


@pytest.mark.slow
def test_the_convention_is_the_one_asked_for(studies, masks, tmp_path) -> None:
    for name, dice in (("autopet_1_2", "nan"), ("autopet_3", "nan"), ("autopet_5", "1.0")):
        output = tmp_path / f"{name}.csv"
        assert evaluate(studies, output, "--masks", masks(), "--convention", name) == 0
        assert rows_of(output)["p3"]["dice"] == dice and rows_of(output)["p3"]["convention"] == name
        assert json.loads(output.with_suffix(".json").read_text())["convention"] == name


@pytest.mark.slow
def test_the_json_says_what_was_run(studies, masks, tmp_path) -> None:
    folder = masks()
    assert evaluate(studies, tmp_path / "scores.csv", "--masks", folder) == 0
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["ran"]["index"] == {"path": str(studies), "sha256": sha256_of(studies)}
    assert str(folder) in found["ran"]["command"] and found["masks"] == str(folder)


@pytest.mark.slow
def test_nifti_masks_are_read(studies, masks, tmp_path) -> None:
    folder = masks(p2=None)
    write_image(TRUTH["p2"], folder / "p2.nii.gz")
    assert evaluate(studies, tmp_path / "scores.csv", "--masks", folder) == 0
    assert rows_of(tmp_path / "scores.csv")["p2"]["dice"] == "1.0"


@pytest.mark.slow
def test_a_mask_off_the_pet_grid_is_refused(studies, masks, tmp_path, capfd) -> None:
    folder = masks()
    write_image(TRUTH["p2"], folder / "p2.mha", shift_mm=2.0)
    line = refused(capfd, studies, tmp_path / "scores.csv", "--masks", folder)
    assert "p2.mha' does not lie on the grid of PET" in line and "-79.4" in line and "-81.4" in line


@pytest.mark.slow
def test_a_missing_mask_is_refused_before_any_is_scored(studies, masks, tmp_path, capfd) -> None:
    line = refused(capfd, studies, tmp_path / "scores.csv", "--masks", masks(p2=None, p3=None))
    assert "no mask of 2 of 4 cases: p2, p3" in line and not capfd.readouterr().out


@pytest.mark.slow
def test_a_mask_that_is_there_twice_is_refused(studies, masks, tmp_path, capfd) -> None:
    folder = masks()
    write_image(TRUTH["p2"], folder / "p2.nii.gz")
    assert "more than one mask" in refused(capfd, studies, tmp_path / "scores.csv", "--masks", folder)


@pytest.mark.slow
def test_a_mask_of_no_case_is_named_and_not_used(studies, masks, tmp_path, capsys) -> None:
    assert evaluate(studies, tmp_path / "scores.csv", "--masks", masks(stranger=blocks())) == 0
    assert "warning: 1 masks are of no evaluated case" in capsys.readouterr().err
    assert list(rows_of(tmp_path / "scores.csv")) == list(CASES)
    assert "stranger.mha" in json.loads((tmp_path / "scores.json").read_text())["notes"][0]


@pytest.mark.slow
def test_a_mask_of_other_values_is_refused(studies, masks, tmp_path, capfd) -> None:
    line = refused(capfd, studies, tmp_path / "scores.csv", "--masks", masks(p2=TRUTH["p2"] * 255))
    assert "p2.mha' holds the value 255" in line


@pytest.mark.slow
def test_a_folder_that_is_not_there_is_refused(studies, tmp_path, capfd) -> None:
    line = refused(capfd, studies, tmp_path / "scores.csv", "--masks", tmp_path / "none")
    assert "none' is not there" in line


def test_an_index_that_is_not_there_is_refused(tmp_path, capfd) -> None:
    line = refused(capfd, tmp_path / "none.csv", tmp_path / "scores.csv", "--masks", tmp_path)
    assert "cannot read the index" in line


@pytest.mark.slow
def test_scores_are_not_written_over_the_index(studies, masks, capfd) -> None:
    before = studies.read_bytes()
    assert evaluate(studies, studies, "--masks", masks()) == 2
    assert "is an input" in capfd.readouterr().err and studies.read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "one of the arguments --masks --weights is required"),
        (["--masks", "x", "--weights", "eoa"], "not allowed with"),
        (["--masks", "x", "--method", "eoa"], "go with --weights"),
        (["--masks", "x", "--split", "split.json"], "--split, --fold and --part go together"),
        (["--masks", "x", "--convention", "autopet_6"], "autopet_6"),
        (["--masks", "x", "--output", "scores.json"], "must end in .csv"),
    ],
)
def test_options_that_do_not_go_together_are_refused(arguments, message, tmp_path, capsys) -> None:
    try:
        code = evaluate(tmp_path / "index.csv", tmp_path / "scores.csv", *arguments)
    except SystemExit as argparse_stop:
        code = argparse_stop.code
    assert code == 2 and message in capsys.readouterr().err


@pytest.fixture
def fold(monkeypatch) -> Callable[..., list[object]]:
    """fold(validate=..., test=...): what training split reads; returns the options that ask for its test part."""

    def make(**parts: tuple[str, ...]) -> list[object]:
        read = SimpleNamespace(**{"train": (), "validate": (), "test": ()} | parts)
        fake = SimpleNamespace(read_fold=lambda path, name: read if name == "fold0" else pytest.fail(name))
        monkeypatch.setitem(sys.modules, "training.data.folds", fake)
        return ["--split", __file__, "--fold", "fold0", "--part", "test"]

    return make


@pytest.mark.slow
def test_only_the_part_of_the_fold_is_evaluated(studies, masks, tmp_path, fold) -> None:
    options = fold(validate=("p1-a",), test=("p3", "p2"))
    assert evaluate(studies, tmp_path / "scores.csv", "--masks", masks(p1_a=None, p1_b=None), *options) == 0
    assert list(rows_of(tmp_path / "scores.csv")) == ["p3", "p2"]
    assert json.loads((tmp_path / "scores.json").read_text())["ran"]["split"]["part"] == "test"


@pytest.mark.slow
def test_a_fold_of_other_cases_or_of_none_is_refused(studies, masks, tmp_path, fold, capfd) -> None:
    output, folder = tmp_path / "scores.csv", masks()
    line = refused(capfd, studies, output, "--masks", folder, *fold(test=("p2", "p9")))
    assert "1 cases of part test are not in" in line and "p9" in line
    assert "part test holds no case" in refused(capfd, studies, output, "--masks", folder, *fold())


@pytest.fixture(scope="module")
def run_of_bundle(studies, tiny_bundle, tmp_path_factory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """The command in a process and a working folder of its own, with the tiny bundle by its name there, and --save."""
    folder = tmp_path_factory.mktemp("run")
    shutil.copytree(tiny_bundle, folder / "weights" / "mine")
    words = ["--index", studies, "--weights", "mine", "--device", "cpu", "--save", folder / "masks"]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = warm.run("-m", "training", "evaluate", *words, "--output", folder / "scores.csv", cwd=folder, env=env)
    assert done.returncode == 0, done.stderr
    return folder, done


@pytest.mark.slow
def test_a_bundle_gives_the_mask_of_the_container(run_of_bundle, studies, tiny_bundle, tmp_path) -> None:
    folder, _ = run_of_bundle
    place = studies.parent
    done = run_process(
        "--input",
        place / "pet.nii.gz",
        place / "ct.nii.gz",
        "--output",
        tmp_path,
        "--weights",
        tiny_bundle,
        "--device",
        "cpu",
        OMP_NUM_THREADS="1",
    )
    assert done.returncode == 0, done.stderr
    theirs = sitk.GetArrayFromImage(sitk.ReadImage(str(next(tmp_path.rglob("ct.mha")))))
    ours = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "masks" / "p2.mha")))
    assert 0 < theirs.mean() < 1
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow
def test_saved_masks_score_as_the_bundle_did(run_of_bundle, studies, tmp_path) -> None:
    folder, _ = run_of_bundle
    assert evaluate(studies, tmp_path / "again.csv", "--masks", folder / "masks") == 0
    first, again = rows_of(folder / "scores.csv"), rows_of(tmp_path / "again.csv")
    for case in CASES:
        assert float(first[case]["seconds"]) > 0
        assert {**first[case], "seconds": ""} == {**again[case], "seconds": ""}


@pytest.mark.slow
def test_the_json_of_a_bundle_names_its_hashes_and_device(run_of_bundle, tiny_bundle) -> None:
    folder, _ = run_of_bundle
    found = json.loads((folder / "scores.json").read_text())["weights"]
    assert found["manifest_sha256"] == sha256_of(tiny_bundle / "manifest.json")
    assert found["members_sha256"] == [sha256_of(tiny_bundle / f"m{n}.safetensors") for n in (0, 1)]
    assert found["method"] == "eoa" and found["device"].startswith("CPU") and found["precision"] == "float32"


@pytest.mark.slow
def test_a_bundle_without_its_training_cases_has_a_note(run_of_bundle) -> None:
    folder, done = run_of_bundle
    assert "these may be training scores" in done.stdout
    assert json.loads((folder / "scores.json").read_text())["trained_or_selected_on"] is None


@pytest.fixture
def trained_on(make_bundle, tmp_path) -> Callable[[object], Path]:
    """trained_on(cases, patients): a bundle that says it was trained on them."""

    def make(cases: object, patients: object = None) -> Path:
        scores = {"trained_on_cases": cases} | ({"trained_on_patients": patients} if patients else {})
        origin = Provenance(data="", commit="", date="", scores=scores, attribution="")
        return make_bundle(tmp_path / "bundle", members=1, provenance=origin)

    return make


@pytest.mark.slow
def test_cases_of_patients_that_trained_the_bundle_are_called_training_scores(
    studies, trained_on, tmp_path, fold, capsys
) -> None:
    """p1-a itself did not train the bundle, another study of its patient did."""
    options = fold(test=("p1-a", "p2"))
    assert evaluate(studies, tmp_path / "scores.csv", "--weights", trained_on(["p1-b", "other"]), *options) == 0
    line = "1 of 2 cases were trained or selected on: these are training scores"
    streams = capsys.readouterr()
    assert line in streams.out and line in streams.err
    found = json.loads((tmp_path / "scores.json").read_text())
    assert found["trained_or_selected_on"] == ["p1-a"] and line in found["notes"]


@pytest.mark.slow
def test_patients_that_trained_the_bundle_by_cases_the_index_lacks_are_known(
    studies, trained_on, tmp_path, fold, capsys
) -> None:
    bundle = trained_on(["p1-cut-at-random"], ["p1"])
    assert evaluate(studies, tmp_path / "scores.csv", "--weights", bundle, *fold(test=("p1-a", "p2"))) == 0
    assert json.loads((tmp_path / "scores.json").read_text())["trained_or_selected_on"] == ["p1-a"]


@pytest.mark.slow
def test_other_cases_are_not_called_training_scores(studies, trained_on, tmp_path, fold, capsys) -> None:
    assert evaluate(studies, tmp_path / "scores.csv", "--weights", trained_on(["p3"]), *fold(test=("p2",))) == 0
    assert "training scores" not in capsys.readouterr().out
    assert json.loads((tmp_path / "scores.json").read_text())["trained_or_selected_on"] == []


@pytest.mark.slow
def test_training_cases_that_are_no_names_are_refused(studies, trained_on, tmp_path, capfd) -> None:
    for names in (("all 36",), ([], "all 36")):
        shutil.rmtree(tmp_path / "bundle", ignore_errors=True)
        assert "must list names" in refused(capfd, studies, tmp_path / "s.csv", "--weights", trained_on(*names))


@pytest.mark.slow
def test_masks_are_not_saved_over_the_truth(studies, tiny_bundle, tmp_path, capfd) -> None:
    line = refused(capfd, studies, tmp_path / "s.csv", "--weights", tiny_bundle, "--save", studies.parent)
    assert "is an input" in line


@pytest.mark.slow
def test_a_damaged_bundle_is_refused(studies, tiny_bundle, tmp_path, capfd) -> None:
    broken = shutil.copytree(tiny_bundle, tmp_path / "broken")
    (broken / "m1.safetensors").write_bytes(b"x")
    assert "sha256" in refused(capfd, studies, tmp_path / "s.csv", "--weights", broken)


@pytest.mark.slow
def test_a_study_that_is_no_suv_stops_the_run_and_leaves_no_scores(studies, tiny_bundle, tmp_path, capfd) -> None:
    lines = studies.read_text().splitlines()
    index = tmp_path / "index.csv"
    index.write_text("\n".join([lines[0], lines[1].replace("pet.nii.gz", "ct.nii.gz")]) + "\n")
    assert "not SUV" in refused(capfd, index, tmp_path / "s.csv", "--weights", tiny_bundle)
