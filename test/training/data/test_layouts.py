"""No image is read here: files are empty, only their names count."""

from pathlib import Path

import pytest

from model.errors import ConfigError
from training.data.layouts import find

STUDY = "03-23-2003-NA-PET-CT Ganzkoerper  primaer mit KM-10445"


def touch(*paths: Path) -> None:
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


@pytest.mark.parametrize("deeper", ["", "FDG-PET-CT-Lesions"])
def test_autopet_takes_ctres_and_makes_a_safe_case_name(tmp_path, deeper: str) -> None:
    folder = tmp_path / deeper / "PETCT_0011f3deaf" / STUDY
    touch(*(folder / f"{name}.nii.gz" for name in ("SUV", "CTres", "CT", "SEG", "PET")))
    layout, (found,), notes = find(tmp_path)
    assert layout == "autopet" and notes == []
    assert found.case == "PETCT_0011f3deaf_03-23-2003-NA-PET-CT-Ganzkoerper-primaer-mit-KM-10445"
    assert (found.patient, found.tracer, found.study) == ("PETCT_0011f3deaf", "FDG", STUDY)
    assert [path.name for path in (found.pet, found.ct, found.truth)] == ["SUV.nii.gz", "CTres.nii.gz", "SEG.nii.gz"]


def test_a_patients_folder_without_a_study_is_noted(tmp_path) -> None:
    touch(tmp_path / "PETCT_a" / "s" / "SUV.nii.gz", tmp_path / "PETCT_b" / "readme.txt")
    _, found, notes = find(tmp_path)
    assert len(found) == 1 and len(notes) == 1 and "PETCT_b" in notes[0]


def test_patients_of_several_places_are_all_found(tmp_path) -> None:
    touch(*(tmp_path / place / "s" / "SUV.nii.gz" for place in ("PETCT_a", "one/PETCT_b", "two/PETCT_c")))
    layout, found, notes = find(tmp_path)
    assert layout == "autopet" and [f.patient for f in found] == ["PETCT_a", "PETCT_b", "PETCT_c"] and notes == []


def test_every_folder_beside_the_patients_is_noted(tmp_path) -> None:
    """In `flat` each PETCT_<id> is a study itself, which is another layout."""
    touch(tmp_path / "one" / "PETCT_b" / "s" / "SUV.nii.gz", tmp_path / "one" / "spare" / "SUV.nii.gz")
    touch(tmp_path / "flat" / "PETCT_c" / "SUV.nii.gz", tmp_path / "docs" / "readme.txt")
    _, found, notes = find(tmp_path)
    assert [f.patient for f in found] == ["PETCT_b"]
    assert [note.split("'")[1] for note in notes] == [str(tmp_path / name) for name in ("docs", "flat", "one/spare")]
    assert all("is not used" in note and "ROOT of its own" in note for note in notes)


def test_nnunet_names_give_tracer_and_patient(tmp_path) -> None:
    for case in (f"fdg_0011f3deaf_{STUDY}", "psma_95b833d65be26d2f_2018-04-23", "psma_95b833d65be26d2f_2019-01-07"):
        touch(*(tmp_path / "imagesTr" / f"{case}_{n}.nii.gz" for n in ("0000", "0001")))
        touch(tmp_path / "labelsTr" / f"{case}.nii.gz")
    layout, found, notes = find(tmp_path)
    assert layout == "nnunet" and notes == []
    assert [(f.tracer, f.patient, f.site) for f in found] == [
        ("FDG", "PETCT_0011f3deaf", "UKT"),
        ("PSMA", "PSMA_95b833d65be26d2f", "LMU"),
        ("PSMA", "PSMA_95b833d65be26d2f", "LMU"),
    ]
    assert found[0].ct.name.endswith("_0000.nii.gz") and found[0].pet.name.endswith("_0001.nii.gz")
    assert found[0].case == "fdg_0011f3deaf_03-23-2003-NA-PET-CT-Ganzkoerper-primaer-mit-KM-10445"


def test_nnunet_expects_the_file_of_every_case_that_any_folder_names(tmp_path) -> None:
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz", tmp_path / "labelsTr" / "b.nii.gz")
    _, found, _ = find(tmp_path)
    assert [(f.case, f.pet.name) for f in found] == [("a", "a_0001.nii.gz"), ("b", "b_0001.nii.gz")]


def test_nnunet_files_that_are_no_pet_or_ct_are_noted(tmp_path) -> None:
    touch(*(tmp_path / "imagesTr" / f"{n}.nii.gz" for n in ("psma_a_1_0000", "psma_a_1_0001", "psma_a_1_0002", "x")))
    _, found, notes = find(tmp_path)
    assert len(found) == 1 and [note.split("'")[1].split("/")[-1] for note in notes] == [
        "psma_a_1_0002.nii.gz",
        "x.nii.gz",
    ]


def test_nnunet_folders_that_are_not_read_are_noted(tmp_path) -> None:
    touch(tmp_path / "imagesTr" / "psma_a_1_0000.nii.gz", tmp_path / "imagesTs" / "psma_b_1_0000.nii.gz")
    assert find(tmp_path)[2] == [f"'{tmp_path / 'imagesTs'}' is not used: only imagesTr and labelsTr are"]


def test_folders_are_case_and_patient_and_take_ct_where_there_is_no_ctres(tmp_path) -> None:
    touch(*(tmp_path / "STS_001" / f"{name}.nii.gz" for name in ("SUV", "CTres", "CT", "SEG")))
    touch(*(tmp_path / "STS_002" / f"{name}.mha" for name in ("SUV", "CT", "SEG")), tmp_path / "LICENSE.md")
    layout, found, _ = find(tmp_path)
    assert layout == "folders"
    assert [(f.case, f.patient, f.ct.name) for f in found] == [
        ("STS_001", "STS_001", "CTres.nii.gz"),
        ("STS_002", "STS_002", "CT.mha"),
    ]


def test_a_folder_without_its_pet_is_found_all_the_same(tmp_path) -> None:
    touch(tmp_path / "a" / "SUV.nii.gz", tmp_path / "b" / "SEG.nii.gz")
    assert [(f.case, f.pet.name) for f in find(tmp_path)[1]] == [("a", "SUV.nii.gz"), ("b", "SUV.nii.gz")]


@pytest.mark.parametrize("name", ["mine.csv", "studies.csv"], ids=["csv", "phantoms"])
def test_paths_of_a_csv_are_relative_to_it_unless_absolute(tmp_path, name: str) -> None:
    (tmp_path / name).write_text("case,patient,pet,ct,truth,site\nA 1,p,pet/a.mha,/x/ct.mha,t.mha,B\n")
    root = tmp_path if name == "studies.csv" else tmp_path / name
    layout, (found,), _ = find(root)
    assert layout == ("phantoms" if name == "studies.csv" else "csv")
    assert (found.case, found.patient, found.site, found.tracer) == ("A-1", "p", "B", "")
    assert (found.pet, found.ct) == (tmp_path / "pet/a.mha", Path("/x/ct.mha"))


def test_without_a_patient_column_the_case_is_the_patient_and_other_columns_are_noted(tmp_path) -> None:
    (tmp_path / "m.csv").write_text("case,pet,ct,truth,age\nA,p,c,t,60\n")
    _, (found,), notes = find(tmp_path / "m.csv")
    assert found.patient == "A" and notes == [f"'{tmp_path / 'm.csv'}': columns not used: age"]


@pytest.mark.parametrize(
    ("written", "meant"), [("NEGATIVE", "negative"), ("LUNG_CANCER", "lung cancer"), ("Lymphoma", "lymphoma"), ("", "")]
)
def test_a_diagnosis_of_ones_own_csv_is_written_as_in_tcias_table(tmp_path, written: str, meant: str) -> None:
    (tmp_path / "own.csv").write_text(f"case,pet,ct,truth,diagnosis\na,p,c,t,{written}\n")
    assert find(tmp_path / "own.csv")[1][0].diagnosis == meant


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("case,pet,ct\nA,p,c\n", "no column truth; it must have case, pet, ct, truth"),
        ("case,pet,ct,truth\nA,p,c,t\nB,,c\n", "line 3: no value for pet, truth"),
    ],
)
def test_a_csv_that_lacks_something_is_refused(tmp_path, text: str, message: str) -> None:
    (tmp_path / "m.csv").write_text(text)
    with pytest.raises(ConfigError, match=message):
        find(tmp_path / "m.csv")


def test_a_folder_of_no_layout_or_of_two_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="looks like none of the layouts"):
        find(tmp_path)
    touch(tmp_path / "imagesTr" / "a_0000.nii.gz", tmp_path / "b" / "SUV.nii.gz")
    with pytest.raises(ConfigError, match="looks like nnunet and folders; name one with --layout"):
        find(tmp_path)
    assert find(tmp_path, "nnunet")[0] == "nnunet"


def test_a_root_that_is_not_there_or_holds_nothing_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="is not there"):
        find(tmp_path / "none")
    with pytest.raises(ConfigError, match="holds no study in layout folders"):
        find(tmp_path, "folders")
