import hashlib
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import ConfigError
from training.data.table import Study, read_table, study_sha256, write_table

STUDY = Study(
    case="b",
    patient="p",
    diagnosis="lymphoma",
    tracer="FDG",
    site="A",
    pet=Path("/d/pet.mha"),
    ct=Path("/d/ct.mha"),
    truth=Path("/d/truth.mha"),
    lesion_ml=1.5,
    sha256="0" * 64,
)


def test_a_table_reads_back_sorted_by_case(tmp_path) -> None:
    write_table([STUDY, replace(STUDY, case="a")], tmp_path / "index.csv")
    assert list(read_table(tmp_path / "index.csv").values()) == [replace(STUDY, case="a"), STUDY]
    assert [path.name for path in tmp_path.iterdir()] == ["index.csv"]


def test_a_table_that_a_spreadsheet_saved_with_a_byte_order_mark_is_read(tmp_path) -> None:
    write_table([STUDY], tmp_path / "index.csv")
    (tmp_path / "index.csv").write_text((tmp_path / "index.csv").read_text(), encoding="utf-8-sig")
    assert read_table(tmp_path / "index.csv") == {"b": STUDY}


def test_the_hash_of_a_study_is_that_of_its_files_hashes(tmp_path) -> None:
    paths = [tmp_path / name for name in "abc"]
    for number, path in enumerate(paths):
        path.write_bytes(bytes([number]))
    hashes = "".join(hashlib.sha256(bytes([number])).hexdigest() for number in range(3))
    assert study_sha256(*paths) == hashlib.sha256(hashes.encode()).hexdigest()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("b,p,", "b,,", "line 2: no value for patient"),
        ("1.5000", "much", "line 2: lesion_ml 'much' is no volume"),
        ("b,p,", "..,p,", r"case '\.\.' cannot be the name of a folder"),
        ("b,p,", "a/b,p,", "cannot be the name of a folder"),
        ("1.5000", "nan", "'nan' is no volume"),
        ("case,", "name,", "no value for case"),
        ("b,p,lymphoma", "b,p,x,FDG,A,/1,/2,/3,0,0\nb,p,lymphoma", "line 3: case 'b' is there twice"),
    ],
)
def test_a_wrong_table_is_refused_with_its_line(old: str, new: str, message: str, tmp_path) -> None:
    path = tmp_path / "index.csv"
    write_table([STUDY], path)
    path.write_text(path.read_text().replace(old, new, 1))
    with pytest.raises(ConfigError, match=message):
        read_table(path)


def test_an_empty_or_missing_table_is_refused(tmp_path) -> None:
    (tmp_path / "empty.csv").write_text("case\n")
    with pytest.raises(ConfigError, match="holds no study"):
        read_table(tmp_path / "empty.csv")
    with pytest.raises(ConfigError, match="training index"):
        read_table(tmp_path / "none.csv")
