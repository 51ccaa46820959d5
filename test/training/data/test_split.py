import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import ConfigError
from model.files import sha256_of
from training.__main__ import main
from training.data.folds import Fold, read_fold
from training.data.table import Study, write_table

KINDS = {"negative": 20, "melanoma": 10, "lung cancer": 5}  # patients of one study each
PARTS = ("train", "validate", "test")


def study(case: str, patient: str, diagnosis: str) -> Study:
    rest = dict.fromkeys(("pet", "ct", "truth"), Path("/x")) | {"tracer": "FDG", "site": "A", "sha256": case}
    return Study(case=case, patient=patient, diagnosis=diagnosis, lesion_ml=1, **rest)


@pytest.fixture
def index(tmp_path) -> Path:
    """35 patients of one study, and one patient, twice, of two."""
    rows = [study(f"{k[0]}{n:02}", f"P{k[0]}{n:02}", k) for k, count in KINDS.items() for n in range(count)]
    rows += [study("twice-1", "twice", "melanoma"), study("twice-2", "twice", "negative")]
    write_table(rows, tmp_path / "index.csv")
    return tmp_path / "index.csv"


def run(index: Path, *arguments: object) -> int:
    return main(["split", str(index), "--output", str(index.with_name("split.json")), *map(str, arguments)])


def folds(index: Path) -> list[Fold]:
    path = index.with_name("split.json")
    return [read_fold(path, fold["name"]) for fold in json.loads(path.read_text())["folds"]]


def names(folder: Path, *lines: str) -> Path:
    path = folder / f"list-{lines[0]}.txt"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_plain_split_is_one_fold_with_a_fifth_of_every_diagnosis(index) -> None:
    """10 melanoma and the patient of two diagnoses (rarer: melanoma) are 11: 2 of 11; 1 of 5; 4 of 20."""
    assert run(index) == 0
    (fold,) = folds(index)
    kinds = [case[0] for case in fold.validate if not case.startswith("twice")]
    assert fold.name == "0" and fold.test == () and kinds.count("n") == 4 and kinds.count("l") == 1
    assert len(set(fold.train) | set(fold.validate)) == 37 and not set(fold.train) & set(fold.validate)


def test_positive_leaves_out_patients_without_any_lesion(tmp_path) -> None:
    """A patient with lesion in one study keeps the other; one that a list names stays."""
    volumes = {"a": 2.0, "b": 1.0, "c": 0.0, "d": 0.0, "e1": 3.0, "e2": 0.0}
    rows = [replace(study(case, case[0], "melanoma"), lesion_ml=volume) for case, volume in volumes.items()]
    write_table(rows, index := tmp_path / "index.csv")
    assert run(index, "--positive", "--folds", 3, "--test", names(tmp_path, "d")) == 0
    for fold in folds(index):
        assert {*fold.train, *fold.validate} == {"a", "b", "e1", "e2"} and fold.test == ("d",)
    assert run(index, "--positive", "--from-nnunet", "x.json") == ConfigError.exit_code


def test_the_file_names_index_column_and_seed(index) -> None:
    run(index, "--seed", 3, "--by", "site")
    content = json.loads(index.with_name("split.json").read_text())
    assert (content["index_sha256"], content["by"], content["seed"]) == (sha256_of(index), "site", 3)


def test_the_rows_may_stand_in_any_order_and_the_seed_decides(index) -> None:
    run(index)
    before = folds(index)
    header, *lines = index.read_text().splitlines()
    random.Random(1).shuffle(lines)
    index.write_text("\n".join([header, *lines]) + "\n")
    run(index)
    assert folds(index) == before
    run(index, "--seed", 1)
    assert folds(index) != before


def test_each_case_validates_in_one_of_k_folds_and_trains_in_the_others(index) -> None:
    assert run(index, "--folds", 5) == 0
    found = folds(index)
    assert [fold.name for fold in found] == list("01234")
    assert sorted(case for fold in found for case in fold.validate) == sorted(
        {case for fold in found for case in fold.train}
    )
    assert all(len(fold.train) + len(fold.validate) == 37 for fold in found)


@pytest.mark.parametrize("seed", range(5))
def test_the_studies_of_a_patient_are_never_parted(index, seed: int) -> None:
    run(index, "--folds", 3, "--nested", 3, "--seed", seed)
    for fold in folds(index):
        assert sum({"twice-1", "twice-2"} <= set(getattr(fold, part)) for part in PARTS) == 1


def test_nested_folds_test_on_the_outer_and_validate_within_the_rest(index) -> None:
    assert run(index, "--folds", 3, "--nested", 2) == 0
    found = {fold.name: fold for fold in folds(index)}
    assert list(found) == ["0.0", "0.1", "1.0", "1.1", "2.0", "2.1"]
    everything = {case for fold in found.values() for case in fold.train}
    for outer in "012":
        one, two = found[f"{outer}.0"], found[f"{outer}.1"]
        assert one.test == two.test and set(one.validate) == set(two.train) and set(two.validate) == set(one.train)
        assert set(one.train) | set(one.validate) | set(one.test) == everything and len(everything) == 37
    assert sorted(case for outer in "012" for case in found[f"{outer}.0"].test) == sorted(everything)


def test_the_test_list_is_apart_and_a_case_brings_its_patient(index, tmp_path) -> None:
    run(index, "--folds", 4, "--test", names(tmp_path, "twice-1", "Pn03", ""))
    for fold in folds(index):
        assert fold.test == ("n03", "twice-1", "twice-2")
        assert not {"n03", "twice-1", "twice-2"} & {*fold.train, *fold.validate}


def test_nested_folds_never_see_the_test_list(index, tmp_path) -> None:
    run(index, "--folds", 2, "--nested", 2, "--test", names(tmp_path, "n03"))
    assert not any("n03" in getattr(fold, part) for fold in folds(index) for part in PARTS)
    assert json.loads(index.with_name("split.json").read_text())["test_list"] == ["n03"]


@pytest.mark.parametrize("how", [(), ("--folds", 3), ("--folds", 3, "--nested", 2)])
def test_listed_cases_train_or_validate_in_every_fold(index, tmp_path, how) -> None:
    lists = ("--always-train", names(tmp_path, "n00", "n01"), "--always-validate", names(tmp_path, "m00"))
    assert run(index, *how, *lists) == 0
    for fold in folds(index):
        assert {"n00", "n01"} <= set(fold.train) and "m00" in fold.validate and "m00" not in fold.train


def test_a_patient_on_two_lists_is_refused(index, tmp_path, capsys) -> None:
    lists = ("--always-train", names(tmp_path, "twice-1"), "--test", names(tmp_path, "twice-2"))
    assert run(index, *lists) == 2
    assert "two lists, test and train: twice" in capsys.readouterr().err


def nnunet(folder: Path, *folds: tuple[list[str], list[str]]) -> Path:
    path = folder / "splits_final.json"
    path.write_text(json.dumps([{"train": train, "val": val} for train, val in folds]))
    return path


def test_nnunets_folds_are_taken_over_by_their_safe_names(tmp_path, capsys) -> None:
    cases = {"fdg_a_03-23-2003-NA-x  y-1": "a", "fdg_b_1": "b", "psma_c_1": "c", "psma_d_1": "d"}
    write_table([study(case.replace("  ", "-"), patient, "x") for case, patient in cases.items()], tmp_path / "i.csv")
    a, b, c, _ = cases
    path = nnunet(tmp_path, ([a, b], [c, "fdg_gone_1"]), ([c], [a]))
    assert run(tmp_path / "i.csv", "--from-nnunet", path) == 0
    assert folds(tmp_path / "i.csv") == [
        Fold(name="0", train=("fdg_a_03-23-2003-NA-x-y-1", "fdg_b_1"), validate=("psma_c_1",)),
        Fold(name="1", train=("psma_c_1",), validate=("fdg_a_03-23-2003-NA-x-y-1",)),
    ]
    warnings = capsys.readouterr().err
    assert "not in the index: fdg_gone_1" in warnings and "and not named in" in warnings and "psma_d_1" in warnings


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([{"train": ["n00", "twice-1"], "val": ["twice-2"]}], "trains and validates on the same patients: twice"),
        ([{"train": ["other"], "val": []}], "no case of the index"),
        ([{"train": ["n00"]}], "not nnU-Net's list"),
        ({"train": []}, "not nnU-Net's list"),
        ([{"train": ["n00"], "val": []}], "fold 0 has 1 patients to train and 0"),
    ],
)
def test_folds_of_nnunet_that_cannot_be_are_refused(index, tmp_path, content, message, capsys) -> None:
    (tmp_path / "s.json").write_text(json.dumps(content))
    assert run(index, "--from-nnunet", tmp_path / "s.json") == 2
    assert message in capsys.readouterr().err.splitlines()[-1] and not index.with_name("split.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--nested", 2), "--nested needs --folds"),
        (("--validation", 1.5), "share in"),
        (("--folds", 99), "99 folds of"),
        (("--folds", 36, "--nested", 36), "36 folds of 35"),
        (("--test", "/none"), "cannot read the list"),
        (("--from-nnunet", "/none"), "cannot read '/none'"),
    ],
)
def test_wrong_arguments_are_refused_and_nothing_is_written(index, arguments, message, capsys) -> None:
    assert run(index, *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1]
    assert [path.name for path in index.parent.iterdir()] == ["index.csv"]


def test_a_listed_name_that_is_not_in_the_index_is_refused(index, tmp_path, capsys) -> None:
    assert run(index, "--test", names(tmp_path, "n00", "nobody")) == 2
    assert "has 1 names that are no case or patient of the index: nobody" in capsys.readouterr().err


def test_the_report_gives_the_shares(index) -> None:
    """Of 20 negative patients 4 validate, 20 %, and 16 train, 80 %."""
    run(index)
    lines = index.with_name("split.txt").read_text().splitlines()
    assert lines[1].split()[:4] == ["fold", "part", "patients", "studies"]
    train, validate = (next(line for line in lines if line.startswith(f"0     {part}")) for part in PARTS[:2])
    assert "16 (80%)" in train and "4 (20%)" in validate


def test_a_fold_that_is_not_there_is_named_with_the_ones_that_are(index) -> None:
    run(index, "--folds", 2)
    with pytest.raises(ConfigError, match="no fold '7'; it has 0, 1"):
        read_fold(index.with_name("split.json"), "7")


def test_a_file_that_is_no_split_is_refused(tmp_path) -> None:
    (tmp_path / "x.json").write_text("[]")
    for name, message in (("x.json", "not a split file"), ("none.json", "cannot read the split")):
        with pytest.raises(ConfigError, match=message):
            read_fold(tmp_path / name, "0")


@pytest.mark.parametrize(
    ("part", "message"),
    [({"validate": ["a"]}, "in two of train, validate, test: a"), ({"train": "abc"}, "not a split file")],
)
def test_a_fold_with_a_case_on_two_sides_or_without_lists_is_refused(part: dict, message: str, tmp_path) -> None:
    fold = {"name": "0", "train": ["a", "b", "b"], "validate": ["c"], "test": []} | part
    (tmp_path / "split.json").write_text(json.dumps({"folds": [fold]}))
    with pytest.raises(ConfigError, match=message):
        read_fold(tmp_path / "split.json", "0")


def test_one_study_under_two_patients_names_is_refused(tmp_path, capsys) -> None:
    one = study("a", "anna", "lymphoma")
    write_table([one, replace(one, case="b", patient="berta")], tmp_path / "index.csv")
    assert main(["split", str(tmp_path / "index.csv"), "--output", str(tmp_path / "split.json")]) != 0
    assert "under two patients, anna and berta" in capsys.readouterr().err and not (tmp_path / "split.json").exists()


def test_the_index_is_not_written_over(index, capsys) -> None:
    before = index.read_bytes()
    assert main(["split", str(index), "--output", str(index)]) == ConfigError.exit_code
    assert "is an input" in capsys.readouterr().err and index.read_bytes() == before


def unnamed(folder: Path, volumes: list[float], **diagnoses: str) -> Path:
    """An index of studies a0, a1, ... without a diagnosis, as a data set without its table gives it."""
    rows = [
        replace(study(f"a{n}", f"P{n}", diagnoses.get(f"a{n}", "unknown" if ml else "negative")), lesion_ml=ml)
        for n, ml in enumerate(volumes)
    ]
    write_table(rows, folder / "index.csv")
    return folder / "index.csv"


def test_without_any_diagnosis_parts_get_their_share_of_lesion_volumes_with_a_warning(tmp_path, capsys) -> None:
    """5 folds of 15 with lesion and 10 without: one small, one middle and one large of each fold, and two without."""
    index = unnamed(tmp_path, [0.0] * 10 + [10.0 * n for n in range(1, 16)])
    assert run(index, "--folds", 5) == 0
    printed = capsys.readouterr()
    assert "15 of 15 patients with lesion have no diagnosis" in printed.err and "--metadata" in printed.err
    assert printed.out.startswith("patients of each volume")
    assert json.loads(index.with_name("split.json").read_text())["by"] == "volume"
    for fold in folds(index):
        numbers = sorted(int(case[1:]) for case in fold.validate)
        assert [sum(low <= n < high for n in numbers) for low, high in ((0, 10), (10, 15), (15, 20), (20, 25))] == [
            2,
            1,
            1,
            1,
        ]


def test_where_some_have_a_diagnosis_a_warning_counts_the_others(tmp_path, capsys) -> None:
    index = unnamed(tmp_path, [1.0] * 10, a0="melanoma")
    assert run(index) == 0
    printed = capsys.readouterr()
    assert "9 of 10 patients with lesion have no diagnosis" in printed.err and "one stratum" in printed.err
    assert printed.out.startswith("patients of each diagnosis")
    assert run(index, "--by", "site") == 0 and "no diagnosis" not in capsys.readouterr().err


def test_a_part_without_a_lesion_is_warned_about(tmp_path, capsys) -> None:
    index = unnamed(tmp_path, [0.0] * 10 + [5.0])
    assert run(index, "--always-train", names(tmp_path, "a10")) == 0
    printed = capsys.readouterr().err
    assert "fold 0, validate: none of its 2 studies has a lesion: there is no Dice to validate or select by" in printed
