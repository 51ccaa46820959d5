import os
import zipfile
from pathlib import Path

import pytest
from dicom_writer import write_ct, write_pet

from model.errors import ConfigError
from model.hospital.find.entry import FIND
from model.hospital.find.tree import find_studies, with_truth
from model.hospital.names import name_of, redacted

NOWHERE = Path("/nonexistent")


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("kind", ["link", "pipe"])
def test_an_image_that_is_no_file_is_listed_as_unusable(kind: str, tmp_path) -> None:
    """A link to a file that was not fetched, as git-annex leaves it, beside a CT that is there."""
    (tmp_path / "a_ct.mha").write_bytes(b"")
    if kind == "link":
        (tmp_path / "a_pet.mha").symlink_to("gone")
    else:
        os.mkfifo(tmp_path / "a_pet.mha")
    found = find_studies(tmp_path, tmp_path / "out")
    [item] = [one for one in found.unusable if one.stage == FIND]
    assert item.source == tmp_path / "a_pet.mha" and ("to nothing" if kind == "link" else "no regular") in item.message


def test_a_tree_of_dicom_and_images_without_the_results(tmp_path) -> None:
    write_pet(tmp_path / "a" / "1")
    write_ct(tmp_path / "a" / "2")
    touch(tmp_path / "b" / "x_pet.mha", tmp_path / "b" / "x_ct.mha", tmp_path / "readme.txt")
    touch(tmp_path / "out" / "studies" / "s" / "y_pet.mha")
    result = find_studies(tmp_path, tmp_path / "out")
    assert [entry.kind for entry in result.entries] == ["dicom", "images"]
    assert result.unusable == () and result.ignored == 1


def test_a_csv_names_studies_of_both_kinds(tmp_path) -> None:
    write_pet(tmp_path / "a" / "pet")
    write_ct(tmp_path / "a" / "ct")
    touch(tmp_path / "p.mha", tmp_path / "c.mha", tmp_path / "t.mha")
    table = tmp_path / "list.csv"
    table.write_text(
        "PET;CT;truth;weight_kg;Patient;date\na/pet;a/ct;;81,5;;\np.mha;c.mha;t.mha;;P7;2024-03-05\n",
        encoding="utf-8-sig",
    )
    images, dicom = sorted(find_studies(table, NOWHERE).entries, key=lambda entry: len(entry.pet))
    assert (dicom.kind, len(dicom.pet), len(dicom.ct), dicom.weight_kg) == ("dicom", 6, 6, 81.5)
    assert (images.pet, images.truth, images.weight_kg) == ((tmp_path / "p.mha",), tmp_path / "t.mha", None)
    assert (images.patient, images.date, dicom.patient) == ("P7", "2024-03-05", "")


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("gone.mha,c.mha,,", "line 2: pet '{}/gone.mha' is not there"),
        (",c.mha,,", "line 2: no path in column pet"),
        ("p.mha,c.mha,,Doe", "weight_kg is not a number"),
        ("p.mha,c.mha,,-3", "weight_kg is -3"),
        ("p.mha,c.mha,,705", "weight_kg is 705; it must be 2.5 to 400, in kg"),
        ("p.mha,c.mha,,nan", "weight_kg is nan"),
        ("q.mha,c.mha,,", "line 3: an earlier line has the same study"),
        ("folder,c.mha,,", "one of PET and CT is a folder"),
        ("folder,folder,,", "holds no DICOM series of a PET"),
    ],
)
def test_a_bad_row_is_unusable_and_the_others_are_found(row: str, words: str, tmp_path) -> None:
    touch(tmp_path / "p.mha", tmp_path / "c.mha", tmp_path / "q.mha")
    (tmp_path / "folder").mkdir()
    (tmp_path / "list.csv").write_text(f"pet,ct,truth,weight_kg\n{row}\nq.mha,c.mha,,\n")
    result = find_studies(tmp_path / "list.csv", NOWHERE)
    assert len(result.entries) == 1
    assert words.format(tmp_path) in result.unusable[0].message


def test_a_csv_without_its_columns_is_refused(tmp_path) -> None:
    table = tmp_path / "list.csv"
    table.write_text("image,ct\nx,y\n")
    with pytest.raises(ConfigError, match="has no column pet"):
        find_studies(table, NOWHERE)


def test_no_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="neither a folder nor a CSV"):
        find_studies(tmp_path / "gone", NOWHERE)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_unusable(tmp_path) -> None:
    touch(tmp_path / "b" / "x_pet.mha", tmp_path / "b" / "x_ct.mha", tmp_path / "locked" / "y_pet.mha")
    (tmp_path / "locked").chmod(0)
    result = find_studies(tmp_path, NOWHERE)
    (tmp_path / "locked").chmod(0o755)
    assert len(result.entries) == 1 and "cannot be read: Permission denied" in result.unusable[0].message


@pytest.mark.slow
def test_the_real_sets_are_a_study_and_a_pet_without_ct(real_data, tmp_path) -> None:
    for name in ("sts001_ge_wholebody_pet", "sts019_pet_ct_suv"):
        with zipfile.ZipFile(real_data / "dicom" / f"{name}.zip") as archive:
            archive.extractall(tmp_path / name)
    result = find_studies(tmp_path, NOWHERE)
    (entry,), (lone,) = result.entries, result.unusable
    assert (len(entry.pet), len(entry.ct), entry.picks, entry.person[0]) == (47, 47, (), "STS_019")
    assert "has a PET but no CT" in lone.message and lone.source.is_relative_to(tmp_path / "sts001_ge_wholebody_pet")


def test_truths_of_a_folder_have_the_paths_of_their_studies(tmp_path) -> None:
    root, truths = tmp_path / "in", tmp_path / "truth"
    write_pet(root / "ward" / "p1" / "pet")
    write_ct(root / "ward" / "p1" / "ct")
    touch(root / "b" / "x_pet.mha", root / "b" / "x_ct.mha")
    touch(truths / "ward" / "p1.nii.gz", truths / "b" / "x_ct.mha")
    dicom, images = sorted(with_truth(find_studies(root, NOWHERE), root, truths).entries, key=lambda e: e.kind)
    assert dicom.truth == truths / "ward" / "p1.nii.gz" and images.truth == truths / "b" / "x_ct.mha"
    write_pet(root / "ward" / "p1" / "later", fields={"StudyInstanceUID": "1.2.3.7"})  # two studies in one folder
    write_ct(root / "ward" / "p1" / "later_ct", fields={"StudyInstanceUID": "1.2.3.7"})
    again = with_truth(find_studies(root, NOWHERE), root, truths).entries
    assert [entry.truth for entry in again if entry.kind == "dicom"] == [None, None]
    with pytest.raises(ConfigError, match="--truth"):
        with_truth(find_studies(root, NOWHERE), root, tmp_path / "gone")


def test_the_message_of_a_bad_row_has_no_names_from_its_paths(tmp_path) -> None:
    elsewhere = tmp_path / "O'Brien Mary" / "x.mha"
    table = tmp_path / "list.csv"
    table.write_text(f"pet,ct\n{elsewhere},c.mha\n../Meier/x.mha,c.mha\n")
    for line, item in enumerate(find_studies(table, NOWHERE).unusable, start=2):
        assert redacted(item.message, item, table, "s-1") == f"line {line}: pet 's-1' is not there; correct the path"


def test_paths_of_a_csv_may_lie_anywhere_and_no_name_of_a_result_comes_of_them(tmp_path) -> None:
    touch(tmp_path / "p.mha", tmp_path / "c.mha")
    table = tmp_path / "lists" / "list.csv"
    table.parent.mkdir()
    table.write_text("pet,ct\n../p.mha,../c.mha\n")
    (entry,) = find_studies(table, NOWHERE).entries
    assert entry.pet[0].samefile(tmp_path / "p.mha")
    assert not set("./") & set(name_of(entry, b"", named=True) + name_of(entry, b""))


def test_a_file_that_may_not_be_looked_at_is_unusable_and_the_others_are_found(tmp_path, monkeypatch) -> None:
    """As in a folder that may be listed and not entered."""
    touch(tmp_path / "a" / "x_pet.mha", tmp_path / "a" / "x_ct.mha", tmp_path / "shut" / "y_pet.mha")
    looked = Path.is_file

    def shut(path: Path) -> bool:
        if path.parent.name == "shut":
            raise PermissionError(13, "Permission denied")
        return looked(path)

    monkeypatch.setattr(Path, "is_file", shut)
    found = find_studies(tmp_path, NOWHERE)
    assert len(found.entries) == 1 and "Permission denied; give this user the right" in found.unusable[0].message


def test_an_impossible_path_in_a_csv_is_unusable(tmp_path) -> None:
    touch(tmp_path / "p.mha", tmp_path / "c.mha")
    (tmp_path / "list.csv").write_text(f"pet,ct\np.mha,c.mha\n{'x' * 300}.mha,c.mha\n")
    found = find_studies(tmp_path / "list.csv", NOWHERE)
    assert len(found.entries) == 1 and "File name too long; correct the path" in found.unusable[0].message


def test_a_row_without_ct_is_a_study_where_pet_alone_is_asked_for(tmp_path) -> None:
    """It has the identity of the same PET found in its folder, so that both have one name."""
    touch(tmp_path / "one" / "one_pet.mha")
    table = tmp_path / "list.csv"
    table.write_text("pet,ct\none/one_pet.mha,\n")
    (item,) = find_studies(table, NOWHERE).unusable
    assert "enter the CT's file or folder, or score it by weights that see PET alone" in item.message
    (row,) = find_studies(table, NOWHERE, pet_alone=True).entries
    (found,) = find_studies(tmp_path, NOWHERE, pet_alone=True).entries
    assert row.pet_alone and found.pet_alone and (row.pet, row.identity) == (found.pet, found.identity)
