"""Which series make a study: told by content, whatever folders and files are called."""

from pathlib import Path

import numpy as np
from dicom_writer import ramp, write_ct, write_pet

from model.naming import cleared
from model.studies import FIND, NO_PET
from model.studies_dicom import find_dicom

NAC = {"CorrectedImage": ["DECY", "SCAT"]}


def pet(folder: Path, uid: str = "1.2.3.9", slices: int = 6, number: int = 1, **fields) -> list[Path]:
    study = {"SeriesNumber": number} | fields
    return write_pet(folder, ramp(slices), series_uid=uid, fields=study)


def ct(folder: Path, uid: str = "1.2.3.8", slices: int = 6, number: int = 2, **fields) -> list[Path]:
    stored = np.full((slices, 8, 10), 24, np.uint16)
    return write_ct(folder, stored, series_uid=uid, fields={"SeriesNumber": number} | fields)


def found(root: Path, named: bool = False):
    return find_dicom([path for path in root.rglob("*") if path.is_file()], root, named)


def test_one_folder_of_mixed_files_is_one_study(tmp_path) -> None:
    for made, name in ((pet(tmp_path / "a"), "p"), (ct(tmp_path / "b"), "c")):
        for number, path in enumerate(made):
            (tmp_path / "mixed").mkdir(exist_ok=True)
            path.rename(tmp_path / "mixed" / f"{number}{name}")
    (entry,) = found(tmp_path).entries
    assert {path.name[-1] for path in entry.pet} == {"p"} and {path.name[-1] for path in entry.ct} == {"c"}
    assert (len(entry.pet), len(entry.ct), entry.picks) == (6, 6, ())
    assert entry.source == tmp_path / "mixed" and entry.person == ("Synthetic", "SYNTHETIC")


def test_the_corrected_pet_is_taken_though_the_other_is_longer(tmp_path) -> None:
    pet(tmp_path / "nac", "1.2.3.7", slices=9, number=1, **NAC)
    wanted = pet(tmp_path / "ac", "1.2.3.9", number=5)
    ct(tmp_path / "ct")
    (entry,) = found(tmp_path).entries
    assert sorted(entry.pet) == sorted(wanted)
    (said,) = entry.picks
    assert said == "PET: took series 5 (6 slices, 15 mm), not series 1 (9 slices, 24 mm, not attenuation-corrected)"


def test_of_two_corrected_pets_the_longest_then_the_lowest_number_is_taken(tmp_path) -> None:
    pet(tmp_path / "head", "1.2.3.7", slices=4, number=1)
    pet(tmp_path / "psf", "1.2.3.6", slices=8, number=7)
    wanted = pet(tmp_path / "osem", "1.2.3.9", slices=8, number=3)
    ct(tmp_path / "ct")
    assert sorted(found(tmp_path).entries[0].pet) == sorted(wanted)


def test_scouts_projections_and_single_slices_are_not_taken(tmp_path) -> None:
    ct(tmp_path / "scout", "1.2.3.5", slices=2, number=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    wanted = ct(tmp_path / "ct", "1.2.3.8", number=4)
    pet(tmp_path / "mip", "1.2.3.4", slices=9, number=1, SeriesType=["WHOLE BODY", "REPROJECTION"])
    pet(tmp_path / "pet", number=6)
    (entry,) = found(tmp_path).entries
    assert sorted(entry.ct) == sorted(wanted) and len(entry.pet) == 6
    assert any("not series 1 (2 slices, 3 mm, a scout (LOCALIZER))" in said for said in entry.picks)


def test_a_scout_among_the_slices_of_its_ct_is_left_out(tmp_path) -> None:
    pet(tmp_path / "pet")
    wanted = ct(tmp_path / "ct")
    ct(tmp_path / "scout", slices=1, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    assert sorted(found(tmp_path).entries[0].ct) == sorted(wanted)


def test_the_ct_that_covers_the_pet_in_its_frame_of_reference_is_taken(tmp_path) -> None:
    pet(tmp_path / "pet", slices=10)
    ct(tmp_path / "short", "1.2.3.5", slices=4, number=1)
    ct(tmp_path / "foreign", "1.2.3.6", slices=12, number=2, FrameOfReferenceUID="1.2.3.99")
    wanted = ct(tmp_path / "whole", "1.2.3.8", slices=12, number=3)
    assert sorted(found(tmp_path).entries[0].ct) == sorted(wanted)


def test_a_ct_of_another_study_in_the_same_frame_of_reference_belongs_to_the_pet(tmp_path) -> None:
    pet(tmp_path / "x", StudyInstanceUID="1.2.9.1")
    ct(tmp_path / "y", StudyInstanceUID="1.2.9.2")
    result = found(tmp_path)
    assert len(result.entries) == 1 and result.unusable == ()


def test_two_patients_are_two_studies_though_their_series_share_a_uid(tmp_path) -> None:
    for number in (1, 2):
        own = {"StudyInstanceUID": f"1.2.9.{number}", "FrameOfReferenceUID": f"1.2.8.{number}"}
        pet(tmp_path / f"p{number}", **own)
        ct(tmp_path / f"c{number}", **own)
    one, two = found(tmp_path).entries
    assert one.identity != two.identity and not {*one.files} & {*two.files}


def test_pet_without_ct_and_ct_without_pet_are_told(tmp_path) -> None:
    pet(tmp_path / "p", StudyInstanceUID="1.2.9.1", FrameOfReferenceUID="1.2.8.1")
    ct(tmp_path / "c", StudyInstanceUID="1.2.9.2", FrameOfReferenceUID="1.2.8.2")
    result = found(tmp_path)
    assert result.entries == ()
    assert sorted("a PET but no CT" in item.message for item in result.unusable) == [False, True]
    assert all("; put the missing series below" in item.message for item in result.unusable)


def test_copies_of_slices_count_once_and_other_modalities_not_at_all(tmp_path) -> None:
    made = pet(tmp_path / "p")
    ct(tmp_path / "c")
    (tmp_path / "z").mkdir()
    (tmp_path / "z" / "copy.dcm").write_bytes(made[0].read_bytes())
    ct(tmp_path / "mr", "1.2.3.1", slices=3, Modality="MR")
    result = found(tmp_path)
    assert len(result.entries[0].pet) == 6 and result.ignored == 3


def test_copies_that_differ_are_both_left_out_and_told_without_their_names(tmp_path) -> None:
    """The series then lacks a slice, which is refused when it is read."""
    made = pet(tmp_path / "p")
    ct(tmp_path / "c")
    (tmp_path / "Mueller").mkdir()
    (tmp_path / "Mueller" / "copy.dcm").write_bytes(made[2].read_bytes()[:-2] + b"\x01\x02")
    result = found(tmp_path)
    assert len(result.entries[0].pet) == 5 and made[2] not in result.entries[0].pet
    (item,) = result.unusable
    assert item.message.endswith("differ; keep the one that is right")
    said = cleared(item.message, item, tmp_path, "s-1")
    assert "Mueller" not in said and made[2].name not in said and "copy.dcm" not in said


def test_a_damaged_file_is_told_and_hinders_nothing(tmp_path) -> None:
    pet(tmp_path / "p")
    ct(tmp_path / "c")
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    result = found(tmp_path)
    assert len(result.entries) == 1
    (item,) = result.unusable
    assert "bad.dcm" in item.message and item.message.endswith("copy it again")


def test_descriptions_are_said_only_if_names_may_be(tmp_path) -> None:
    pet(tmp_path / "a", "1.2.3.7", number=1, SeriesDescription="Smith WB")
    pet(tmp_path / "b", "1.2.3.9", number=2, SeriesDescription="Smith head")
    ct(tmp_path / "c")
    assert "Smith" not in str(found(tmp_path).entries[0].picks)
    assert "series 1 'Smith WB'" in str(found(tmp_path, named=True).entries[0].picks)


def test_a_ct_alone_is_no_study_and_a_pet_alone_is_one_that_lacks_its_ct(tmp_path) -> None:
    ct(tmp_path / "a", StudyInstanceUID="1.2.3.71", FrameOfReferenceUID="1.2.3.81")
    pet(tmp_path / "b", StudyInstanceUID="1.2.3.72", FrameOfReferenceUID="1.2.3.82")
    assert {item.source.name: item.stage for item in found(tmp_path).unusable} == {"a": NO_PET, "b": FIND}


def test_two_patients_to_whom_de_identification_gave_one_study_uid_are_two_studies(tmp_path) -> None:
    for patient in ("P1", "P2"):
        fields = {"PatientID": patient, "FrameOfReferenceUID": f"1.2.3.{patient[1]}"}
        pet(tmp_path / "flat" / f"{patient}pet", **fields)
        ct(tmp_path / "flat" / f"{patient}ct", **fields)
    one, two = found(tmp_path).entries
    assert one.identity != two.identity
    for entry in (one, two):
        assert len({path.parent.name[:2] for path in entry.files}) == 1 and len(entry.pet) == len(entry.ct) == 6


def test_slices_that_share_a_uid_and_lie_apart_are_no_copies(tmp_path) -> None:
    def one_uid(header, z: int) -> None:
        header.SOPInstanceUID = "1.2.3.99"

    write_pet(tmp_path / "pet", ramp(6), edit=one_uid)
    ct(tmp_path / "ct")
    assert len(found(tmp_path).entries[0].pet) == 6
