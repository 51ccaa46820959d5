import csv
from pathlib import Path

import pytest
import SimpleITK as sitk
from found_studies import image, mask, pet, write

from model.errors import ConfigError
from training.__main__ import main
from training.data.table import read_table


def folders(root: Path, *names: str) -> Path:
    """A data set of the layout folders; every study's PET differs a little."""
    for number, name in enumerate(names):
        folder = root / name
        folder.mkdir(parents=True)
        found = write(folder, pet=image(pet() * (1 + 0.01 * number)))
        for path, new in ((found.pet, "SUV"), (found.ct, "CTres"), (found.truth, "SEG")):
            path.rename(folder / f"{new}.nii.gz")
    return root


def run(*arguments: object, workers: int = 1) -> int:
    return main(["index", *map(str, arguments), "--workers", str(workers)])


def problems(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_good_studies_are_written_and_the_list_of_problems_is_empty(tmp_path, capsys) -> None:
    root = folders(tmp_path / "set", "b", "a")
    assert run(root, "--output", tmp_path / "out" / "index.csv", "--diagnosis", "sarcoma") == 0
    studies = read_table(tmp_path / "out" / "index.csv")
    assert list(studies) == ["a", "b"] and {s.diagnosis for s in studies.values()} == {"sarcoma"}
    assert problems(tmp_path / "out" / "index-problems.csv") == []
    assert "layout folders, 2 studies" in capsys.readouterr().out


def test_two_processes_write_the_same_table_as_one(tmp_path) -> None:
    root = folders(tmp_path / "set", "a", "b", "c")
    assert run(root, "--output", tmp_path / "1.csv") == run(root, "--output", tmp_path / "2.csv", workers=2) == 0
    assert (tmp_path / "1.csv").read_bytes() == (tmp_path / "2.csv").read_bytes()


def test_a_bad_study_is_listed_and_the_others_are_indexed(tmp_path, capsys) -> None:
    root = folders(tmp_path / "set", "a", "b")
    (root / "b" / "SEG.nii.gz").unlink()
    assert run(root, "--output", tmp_path / "index.csv") == 0
    assert list(read_table(tmp_path / "index.csv")) == ["a"]
    (row,) = problems(tmp_path / "index-problems.csv")
    assert row["case"] == "b" and row["file"] == str(root / "b" / "SEG.nii.gz") and "is not there" in row["reason"]
    assert "left out: b: truth file" in capsys.readouterr().err


def test_strict_writes_no_index_where_a_study_is_bad(tmp_path, capsys) -> None:
    root = folders(tmp_path / "set", "a", "b")
    (root / "b" / "SEG.nii.gz").unlink()
    assert run(root, "--output", tmp_path / "index.csv", "--strict") == 3
    assert not (tmp_path / "index.csv").exists() and len(problems(tmp_path / "index-problems.csv")) == 1
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: 1 of 2 studies are not good")


def test_without_a_good_study_there_is_no_index(tmp_path, capsys) -> None:
    root = folders(tmp_path / "set", "a")
    (root / "a" / "SUV.nii.gz").write_bytes(b"no image")
    assert run(root, "--output", tmp_path / "index.csv") == 3
    assert not (tmp_path / "index.csv").exists()
    assert "none of 1 studies is good" in capsys.readouterr().err.splitlines()[-1]


def test_a_second_run_reads_again_what_has_changed(tmp_path) -> None:
    root = folders(tmp_path / "set", "a")
    run(root, "--output", tmp_path / "index.csv")
    before = read_table(tmp_path / "index.csv")["a"]
    sitk.WriteImage(image(mask(7)), str(root / "a" / "SEG.nii.gz"), True)
    run(root, "--output", tmp_path / "index.csv")
    after = read_table(tmp_path / "index.csv")["a"]
    assert after.lesion_ml == pytest.approx(before.lesion_ml * 7 / 5) and after.sha256 != before.sha256


def test_one_case_name_in_two_roots_is_an_error_that_names_both(tmp_path, capsys) -> None:
    one, two = folders(tmp_path / "one", "a"), folders(tmp_path / "two", "a")
    assert run(one, two, "--output", tmp_path / "index.csv") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert str(one / "a" / "SUV.nii.gz") in error and str(two / "a" / "SUV.nii.gz") in error
    assert not (tmp_path / "index.csv").exists()


def test_the_same_files_under_two_names_are_warned_about(tmp_path, capsys) -> None:
    one, two = folders(tmp_path / "one", "a"), folders(tmp_path / "two", "b")
    assert run(one, two, "--output", tmp_path / "index.csv") == 0
    assert "warning: the same three files under 2 names: a, b" in capsys.readouterr().err


def nnunet(root: Path, *cases: str, **images: sitk.Image) -> Path:
    for place in ("imagesTr", "labelsTr"):
        (root / place).mkdir(parents=True)
    for case in cases:
        found = write(root, **images)
        found.ct.rename(root / "imagesTr" / f"{case}_0000.nii.gz")
        found.pet.rename(root / "imagesTr" / f"{case}_0001.nii.gz")
        found.truth.rename(root / "labelsTr" / f"{case}.nii.gz")
    return root


def test_nnunet_takes_diagnoses_from_the_tables_beside_it(tmp_path, capsys) -> None:
    root = nnunet(tmp_path / "set", "fdg_a_03-23-2003-NA-x y-10445", "psma_b_2018-04-23")
    (root / "fdg_metadata.csv").write_text("Subject ID,Study Date,diagnosis\nPETCT_a,3/23/2003,MELANOMA\n")
    (root / "psma_metadata.csv").write_text("Subject ID,Study Date,age\nPSMA_b,2018-04-23,70\n")
    assert run(root, "--output", tmp_path / "index.csv") == 0
    rows = read_table(tmp_path / "index.csv").values()
    assert [(s.patient, s.tracer, s.diagnosis) for s in rows] == [
        ("PETCT_a", "FDG", "melanoma"),
        ("PSMA_b", "PSMA", "unknown"),
    ]
    assert "psma_metadata.csv' holds no diagnoses: no column 'diagnosis'" in capsys.readouterr().err


def test_nnunet_without_tables_tells_negative_by_the_truth(tmp_path, capsys) -> None:
    root = nnunet(tmp_path / "set", "psma_b_2018-04-23", truth=image(mask(0)))
    assert run(root, "--output", tmp_path / "index.csv") == 0
    assert read_table(tmp_path / "index.csv")["psma_b_2018-04-23"].diagnosis == "negative"
    assert "give one with --metadata" in capsys.readouterr().err


def test_autopet_takes_the_diagnosis_of_the_study_from_a_named_table(tmp_path) -> None:
    study = "03-23-2003-NA-PET-CT Ganzkoerper  primaer-10445"
    root = folders(tmp_path / "PETCT_a", study).parent
    (tmp_path / "meta.csv").write_text(
        "Subject ID,Study Date,File Location,diagnosis\n"
        f"PETCT_a,3/23/2003,./FDG-PET-CT-Lesions/PETCT_a/{study}/1-PT,LYMPHOMA\n"
        "PETCT_a,4/4/2004,./FDG-PET-CT-Lesions/PETCT_a/other/1-PT,NEGATIVE\n"
    )
    arguments = (root, "--output", tmp_path / "out" / "index.csv", "--metadata", tmp_path / "meta.csv")
    assert run(*arguments, "--layout", "autopet") == 0
    (row,) = read_table(tmp_path / "out" / "index.csv").values()
    assert (row.patient, row.diagnosis, row.ct.name) == ("PETCT_a", "lymphoma", "CTres.nii.gz")


def test_autopet_one_level_deeper_takes_the_table_beside_its_patients(tmp_path, capsys) -> None:
    place = folders(tmp_path / "set" / "deeper" / "PETCT_a", "03-23-2003-NA-10445").parent
    (place / "meta.csv").write_text("Subject ID,Study Date,diagnosis\nPETCT_a,3/23/2003,LYMPHOMA\n")
    assert run(tmp_path / "set", "--output", tmp_path / "index.csv") == 0
    (row,) = read_table(tmp_path / "index.csv").values()
    printed = capsys.readouterr()
    assert row.diagnosis == "lymphoma" and f"diagnoses from '{place / 'meta.csv'}'" in printed.out and not printed.err


def test_a_table_without_diagnosis_that_was_named_is_an_error(tmp_path, capsys) -> None:
    root = folders(tmp_path / "set", "a")
    (tmp_path / "meta.csv").write_text("Subject ID,age\na,60\n")
    assert run(root, "--output", tmp_path / "index.csv", "--metadata", tmp_path / "meta.csv") == 2
    assert "no column 'diagnosis'" in capsys.readouterr().err.splitlines()[-1]


def test_a_table_of_phantoms_and_a_csv_of_ones_own_are_read(tmp_path) -> None:
    write(tmp_path)
    text = "case,patient,diagnosis,tracer,site,pet,ct,truth\n{},q,melanoma,FDG,A,pet.nii.gz,ct.nii.gz,truth.nii.gz\n"
    (tmp_path / "studies.csv").write_text(text.format("A1"))
    (tmp_path / "mine.csv").write_text(text.format("A2"))
    assert run(tmp_path, tmp_path / "mine.csv", "--output", tmp_path / "out" / "index.csv") == 0
    rows = read_table(tmp_path / "out" / "index.csv")
    assert [(s.patient, s.diagnosis, s.pet) for s in rows.values()] == [("q", "melanoma", tmp_path / "pet.nii.gz")] * 2


@pytest.mark.slow
def test_the_real_sarcoma_studies_are_all_good(real_data, tmp_path) -> None:
    arguments = ("--output", tmp_path / "index.csv", "--diagnosis", "sarcoma", "--site", "sts")
    assert run(real_data / "sts", *arguments) == 0
    rows = read_table(tmp_path / "index.csv")
    assert len({s.patient for s in rows.values()}) == 36 and problems(tmp_path / "index-problems.csv") == []
    truth = sitk.ReadImage(str(real_data / "sts" / "STS_001" / "SEG.nii.gz"))
    filled = sitk.LabelShapeStatisticsImageFilter()
    filled.Execute(truth)
    assert rows["STS_001"].lesion_ml == pytest.approx(filled.GetPhysicalSize(1) / 1000, rel=1e-5)


def test_a_limit_can_be_moved_as_the_list_of_problems_says(tmp_path) -> None:
    root = folders(tmp_path / "set", "a")
    hot = sitk.ReadImage(str(root / "a" / "SUV.nii.gz")) * 200  # up to 1763, as hot as a syringe
    sitk.WriteImage(hot, str(root / "a" / "SUV.nii.gz"))
    assert run(root, "--output", tmp_path / "index.csv") != 0
    assert "--limit pet_max_suv=" in problems(tmp_path / "index-problems.csv")[0]["reason"]
    assert run(root, "--output", tmp_path / "index.csv", "--limit", "pet_max_suv=3000") == 0


def test_a_table_that_is_read_is_not_written_over(tmp_path, capsys) -> None:
    root = folders(tmp_path / "set", "a")
    assert run(root, "--output", tmp_path / "index.csv") == 0
    before = (tmp_path / "index.csv").read_bytes()
    assert run(tmp_path / "index.csv", "--output", tmp_path / "index.csv") == ConfigError.exit_code
    assert "would be written and is an input" in capsys.readouterr().err
    assert (tmp_path / "index.csv").read_bytes() == before
