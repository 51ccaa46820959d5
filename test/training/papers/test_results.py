"""training results: patients counted as patients, folds and seeds put together, by arithmetic on small tables."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from model.errors import ConfigError
from training.__main__ import main
from training.papers.nested_detail import detection_of, read_detail, write_detail
from training.papers.result_tables import by_patient, differences_table, methods_of, phantoms_table, weighted
from training.papers.results import scored_run

COLUMNS = ("case", "patient", "diagnosis", "tracer", "site", "dice", "fpv_ml", "fnv_ml", "lesions_true")
COLUMNS += ("lesions_found", "seconds", "convention")


def scores(path: Path, dice: dict[str, list[float]], found: dict[str, list[int]] | None = None) -> None:
    """Scores of patients whose copies have these Dice; of one lesion each, found unless `found` says otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for patient, values in dice.items():
            for copy, value in enumerate(values):
                seen = (found or {}).get(patient, [1] * len(values))[copy]
                about = (f"{patient}-r{copy}", patient, "sarcoma", "FDG", "sts")
                writer.writerow((*about, value, 1.0 + copy, 0.0, 1, seen, "nan", "autopet_1_2"))


@pytest.fixture
def nested(tmp_path) -> Path:
    """Two folds of two patients with two cuts each: by eoa 0.6, 0.8, 0.5 and 0.7 on average, by diwa 0.1 less."""
    eoa = {"a": [0.5, 0.7], "b": [0.8, 0.8], "c": [0.4, 0.6], "d": [0.7, 0.7]}
    for name, less in (("eoa", 0.0), ("diwa", 0.1)):
        for fold, patients in enumerate(("ab", "cd")):
            own = {patient: [value - less for value in eoa[patient]] for patient in patients}
            scores(tmp_path / f"run/outer-{fold}/{name}.csv", own, {"a": [0, 1], "c": [0, 0]})
    return tmp_path / "run"


def test_a_patients_cuts_count_once(nested) -> None:
    """Means 0.6, 0.8, 0.5, 0.7: 0.65. One patient's tumour is missed in one cut, another's in both."""
    assert main(["results", str(nested)]) == 0
    assert by_patient(scored_run(nested).bundles["eoa"]) == pytest.approx({"a": 0.6, "b": 0.8, "c": 0.5, "d": 0.7})


def test_the_page_has_patients_differences_and_what_was_tuned(nested, tmp_path, capsys) -> None:
    assert main(["results", str(nested), "--output", str(tmp_path / "page.md"), "--note", "of Mars"]) == 0
    text = (tmp_path / "page.md").read_text()
    assert text in capsys.readouterr().out and "- of Mars" in text
    assert "4 patients in 2 outer folds, 8 cases" in text
    rows = [line.split(" | ") for line in text.splitlines()]
    eoa = next(row for row in rows if row[0] == "| eoa" and len(row) == 8)
    assert eoa[1] == "4" and eoa[2].startswith("0.6500 (") and eoa[3].startswith("1.50 (")
    assert eoa[5:] == ["2", "1", "0 |"]  # a and c in some cut, c in every one; none below 0.5
    difference = next(row for row in rows if row[0] == "| eoa" and row[1] == "diwa")
    assert difference[2] == "4" and difference[3] == "-0.1000 (-0.1000 to -0.1000)" and difference[4] == "0 |"
    assert "What was tuned on what" in text and "Fields of view" not in text


def test_seeds_are_averaged_for_each_patient(nested, tmp_path, capsys) -> None:
    """Another run 0.1 and one 0.2 higher: 0.65, 0.75, 0.85, mean 0.75, deviation 0.1."""
    for number in (1, 2):
        more = {"a": [0.6], "b": [0.8], "c": [0.5], "d": [0.7]}
        own = {patient: [value + 0.1 * number for value in values] for patient, values in more.items()}
        scores(tmp_path / f"seed-{number}/outer-0/eoa.csv", own)
    assert main(["results", str(nested), *(str(tmp_path / f"seed-{number}") for number in (1, 2))]) == 0
    row = next(line for line in capsys.readouterr().out.splitlines() if line.startswith("| eoa | 0.6500 | 0.7500"))
    assert "| 0.8500 | 0.7500 (" in row and row.endswith("| 0.1000 |")


def test_baselines_of_all_folds_stand_beside_the_bundles(nested, tmp_path, capsys) -> None:
    """The chosen threshold has another number in every fold, and one row."""
    for fold, (suv, patients) in enumerate((("1.9", "ab"), ("2.1", "cd"))):
        folder = tmp_path / f"baselines-{fold}"
        scores(folder / "suv.csv", {patient: [0.5] for patient in patients})
        methods = {f"SUV {suv}, best on the training cases": "suv.csv"}
        (folder / "baselines.json").write_text(json.dumps({"methods": methods}))
    methods = methods_of([tmp_path / "baselines-0", tmp_path / "baselines-1"])
    assert list(methods) == ["fixed SUV, best on the training cases"]
    assert main(["results", "--baselines", *(str(tmp_path / f"baselines-{fold}") for fold in (0, 1))]) == 0
    assert "4 patients, 4 cases" in capsys.readouterr().out
    text = differences_table(scored_run(nested), methods)
    assert "| eoa | fixed SUV, best on the training cases | 4 | -0.1500 (" in text
    with pytest.raises(ConfigError, match="is scored on 2 patients, eoa on 4: give all folds' --baselines"):
        differences_table(scored_run(nested), methods_of([tmp_path / "baselines-0"]))
    with pytest.raises(ConfigError, match="two of --baselines score a-r0, b-r0"):
        methods_of([tmp_path / "baselines-0"] * 2)


def test_views_of_folds_are_weighted_by_their_studies(nested, capsys) -> None:
    """1 study of 0.4 and 3 of 0.8: 0.7."""
    for fold, (studies, dice) in enumerate(((1, 0.4), (3, 0.8))):
        view = {"name": "0 mm cut", "studies": studies, "dice": dice, "agreement": 1.0}
        (nested / f"outer-{fold}" / "eoa-views.json").write_text(json.dumps([view]))
    assert main(["results", str(nested)]) == 0
    assert "| eoa | Dice | 0.7000 |" in capsys.readouterr().out
    assert weighted([(1, float("nan")), (2, 0.5)]) == 0.5


def test_phantoms_with_lesion_have_a_dice_and_all_have_a_volume(tmp_path) -> None:
    scores(tmp_path / "eoa-phantoms.csv", {"p1": [0.6], "p2": [0.8]})
    run = type("Run", (), {"folder": tmp_path})()
    assert "| eoa | all | 2 | 2 | 0.7000 (0.6000 to 0.8000) | 1.00 (1.00 to 1.00) |" in phantoms_table(run)


class Study:
    """A prepared study: a lesion of 2 x 2 x 2 voxels of 0.064 ml in network order."""

    case, spacing_mm = "one", (4.0, 4.0, 4.0)
    truth = np.pad(np.ones((2, 2, 2), bool), ((3, 5), (3, 3), (3, 1)))


def test_a_lesion_is_found_at_the_probability_of_its_margin(tmp_path) -> None:
    """Margin 0 is 0.5, margin log 3 is 0.75, and everything else is background; a file gives back what was written."""
    margin = np.full(Study.truth.shape, -20.0)
    margin[3:5, 3:5, 3:5] = np.log(3)
    margin[8, 0, 0] = 0.0
    found = detection_of(margin, Study)
    ((ml, score),) = found.lesions
    assert ml == pytest.approx(0.512) and score == pytest.approx(0.75) and found.false_scores == pytest.approx((0.5,))
    assert found.surface_dice == 1 and found.hd95_mm == 0
    write_detail(lambda study: margin, [Study], tmp_path / "eoa-detail.json")
    (again,) = read_detail(tmp_path / "eoa-detail.json")
    assert (again.lesions, again.false_scores) == (found.lesions, found.false_scores)
    assert np.array_equal(again.bins, found.bins)


def test_the_page_has_what_was_found_by_size(nested, capsys) -> None:
    margin = np.where(Study.truth, 5.0, -20.0)
    write_detail(lambda study: margin, [Study], nested / "outer-0" / "eoa-detail.json")
    assert main(["results", str(nested)]) == 0
    text = capsys.readouterr().out
    assert "### eoa" in text and "| 0 to 2 ml | 1 | 1.000 |" in text and "Calibration error" in text


def test_nothing_to_show_is_refused(capsys) -> None:
    assert main(["results"]) == 2 and "nothing to show" in capsys.readouterr().err


@pytest.mark.parametrize("what", ["empty", "twice"])
def test_folders_without_scores_or_with_doubled_ones_are_refused(what, nested, tmp_path, capsys) -> None:
    folder = tmp_path / "none"
    if what == "twice":
        folder = nested
        (nested / "outer-1/eoa.csv").write_bytes((nested / "outer-0/eoa.csv").read_bytes())
    assert main(["results", str(folder)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert ("holds no scores of outer folds" if what == "empty" else "another fold has scored: a-r0") in error


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("baselines.json", "{}", "names no methods with files beside it"),
        ("baselines.json", '["a"]', "names no methods with files beside it"),
        ("baselines.json", '{"methods": {"a": "../run/outer-0/eoa.csv"}}', "names no methods with files beside it"),
        ("run/outer-0/eoa-views.json", '{"a": 1}', "holds no views"),
        ("run/outer-0/eoa-views.json", '[{"studies": 2}]', "holds no views"),
    ],
)
def test_damaged_files_are_named(name, content, message, nested, tmp_path, capsys) -> None:
    (tmp_path / name).write_text(content)
    baselines = ["--baselines", str(tmp_path)] if name == "baselines.json" else []
    assert main(["results", str(nested), *baselines]) == ConfigError.exit_code
    error = capsys.readouterr().err.splitlines()[-1]
    assert message in error and str(tmp_path / name) in error


@pytest.mark.parametrize(("old", "new"), [("0.5,", "x,"), (",1,0,", ",1,z,"), (",0.0,1,0,nan,autopet_1_2", ",0.0")])
def test_a_damaged_line_of_scores_is_named(old, new, nested, capsys) -> None:
    path = nested / "outer-0/eoa.csv"
    path.write_text(path.read_text().replace(old, new, 1))
    assert main(["results", str(nested)]) == ConfigError.exit_code
    assert f"'{path}', line 2: " in capsys.readouterr().err.splitlines()[-1]


def test_a_run_named_twice_is_no_second_seed(nested, tmp_path, capsys) -> None:
    assert main(["results", str(nested), f"{nested}/../run"]) == ConfigError.exit_code
    assert "is named twice" in capsys.readouterr().err.splitlines()[-1]
    assert main(["results", str(nested), "--output", str(tmp_path)]) == ConfigError.exit_code
    assert "is a folder" in capsys.readouterr().err.splitlines()[-1]
