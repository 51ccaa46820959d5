"""Which series make a study, by their headers, whatever folders and files are called."""

from pathlib import Path

import numpy as np
import pytest
from dicom_writer import ramp, write_ct, write_pet
from pydicom.fileset import FileSet

from model.dicom.headers import find_series
from model.dicom.series import order_slices
from model.errors import CaseError
from model.hospital.find.dicom_series import find_dicom
from model.hospital.find.entry import FIND, NO_PET
from model.hospital.names import redacted

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
    (pick,) = entry.picks
    assert pick == "PET: took series 5 (6 slices, 15 mm), not series 1 (9 slices, 24 mm, not attenuation-corrected)"


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
    assert any("not series 1 (2 slices, 3 mm, a scout (LOCALIZER))" in pick for pick in entry.picks)


CORONAL, SAGITTAL = (1.0, 0.0, 0.0, 0.0, 0.0, -1.0), (0.0, 1.0, 0.0, 0.0, 0.0, -1.0)
MIP = {"ImageType": ["DERIVED", "SECONDARY", "MIP"]}
ALONG = {"orientation": CORONAL, "step": (0.0, 4.0, 0.0)}  # longer along its own normal than the PET along the body


def extra(folder: Path, slices: int, fields: dict, modality: str = "PT", edit=None, **place) -> None:
    """A series beside the original: of 8 rows and columns, number 1, so that it would come first."""
    write, stored = (
        (write_pet, np.full((slices, 8, 8), 500, np.int16))
        if modality == "PT"
        else (write_ct, np.full((slices, 8, 8), 24, np.uint16))
    )
    fields = {"SeriesNumber": 1} | fields
    write(folder / "extra", stored, series_uid="1.2.3.4", fields=fields, edit=edit, **place)


def turn(header, z: int) -> None:
    angle = z * np.pi / 18
    row = [f"{v:.6f}" for v in (np.cos(angle), np.sin(angle), 0)]
    header.ImageOrientationPatient, header.ImagePositionPatient = [*row, 0, 0, -1], [0, 0, 0]


def without_place(header, z: int) -> None:
    del header.ImagePositionPatient, header.ImageOrientationPatient


def twice(header, z: int) -> None:
    header.ImagePositionPatient = [0, 0, 3.0 * (z // 2)]


@pytest.mark.parametrize(
    "fields, place, edit, note",
    [
        (MIP, ALONG, None, "a projection"),
        (MIP, {}, turn, "a projection"),
        (MIP, {}, without_place, "a projection"),
        (MIP, {}, None, "a projection or a picture"),
        ({"ImageType": ["MIP", "DERIVED"]}, ALONG, None, "a projection"),
        ({"SeriesDescription": "WB MIP"}, ALONG, None, "a projection or a picture, coronal"),
        ({"SeriesDescription": "WB MIP"}, {}, None, "a projection or a picture"),
        ({"SeriesType": ["WHOLE BODY", "REPROJECTION"]}, {}, None, "a projection"),
        ({}, ALONG, None, "a reformat, coronal"),
        ({"ImageType": ["DERIVED", "SECONDARY", "MPR"]}, ALONG, None, "a reformat, coronal"),
        ({}, {"orientation": SAGITTAL, "step": (4.0, 0.0, 0.0)}, None, "a reformat, sagittal"),
        ({"ImageType": ["DERIVED", "SECONDARY"]}, {}, None, "derived"),
        ({"ImageType": ["DERIVED", "SECONDARY", "FUSED"]}, {}, None, "a projection or a picture"),
        ({"SamplesPerPixel": 3}, {}, None, "in colour"),
        ({"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"}, {}, None, "not single-frame PET or CT images"),
        ({"SeriesType": ["DYNAMIC", "IMAGE"]}, {}, twice, "several slices in one place, dynamic or gated"),
        ({"SeriesType": ["GATED", "IMAGE"]}, {}, None, "gated"),
        ({"SeriesDescription": "PET NAC"}, {}, None, "not attenuation-corrected"),
        ({"CorrectedImage": ["DECY"]}, {}, None, "not attenuation-corrected"),
    ],
)
def test_the_original_axial_pet_is_taken_before_series_made_from_it_however_long(
    fields, place, edit, note: str, tmp_path
) -> None:
    wanted = pet(tmp_path / "pet", number=6)
    extra(tmp_path, 40, fields, edit=edit, **place)
    ct(tmp_path / "ct", slices=40)
    (entry,) = found(tmp_path).entries
    assert sorted(entry.pet) == sorted(wanted)
    (pick,) = entry.picks
    assert pick.startswith("PET: took series 6 (6 slices, 15 mm), not series 1 (40 slices") and f"mm, {note})" in pick


@pytest.mark.parametrize(
    "fields, place, note",
    [
        ({"ImageType": ["DERIVED", "SECONDARY", "REFORMATTED", "AVERAGE"]}, ALONG, "a reformat, coronal"),
        ({"ImageType": ["DERIVED", "SECONDARY", "AXIAL"]}, {}, "derived"),
        ({"ImageType": ["DERIVED", "PRIMARY", "MIN_IP"]}, {}, "a projection or a picture"),
        ({"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]}, ALONG, "a scout (LOCALIZER)"),
        ({"ImageType": ["DERIVED", "SECONDARY", "SCREEN SAVE"]}, {}, "a projection or a picture"),
    ],
)
def test_the_original_axial_ct_is_taken_before_series_made_from_it(fields, place, note: str, tmp_path) -> None:
    pet(tmp_path / "pet")
    wanted = ct(tmp_path / "ct", slices=4, number=7)
    extra(tmp_path, 40, fields, "CT", **place)
    (entry,) = found(tmp_path).entries
    assert sorted(entry.ct) == sorted(wanted) and note in entry.picks[0]


def test_a_derived_ct_is_taken_where_the_original_covers_less_than_half_of_the_pet(tmp_path) -> None:
    pet(tmp_path / "pet", slices=20)
    ct(tmp_path / "chest", "1.2.3.5", slices=6, number=1)
    wanted = ct(tmp_path / "whole", "1.2.3.6", slices=20, number=2, ImageType=["DERIVED", "PRIMARY", "AXIAL"])
    (entry,) = found(tmp_path).entries
    assert sorted(entry.ct) == sorted(wanted) and "CT: series 2" in entry.warnings[0]


@pytest.mark.parametrize(
    "fields, place, note",
    [
        ({"ImageType": ["DERIVED", "SECONDARY"]}, {}, "derived"),
        ({}, ALONG, "a reformat, coronal"),
        ({"SeriesDescription": "MIP"}, {}, "a projection or a picture"),
    ],
)
def test_a_derived_pet_is_taken_with_a_warning_where_there_is_no_original(fields, place, note, tmp_path) -> None:
    extra(tmp_path, 6, fields, **place)
    ct(tmp_path / "ct")
    (entry,) = found(tmp_path).entries
    assert len(entry.pet) == 6 and entry.picks == ()
    (warning,) = entry.warnings
    assert warning.startswith("PET: series 1 (6 slices") and note in entry.taken and f"{note}) is taken" in warning
    assert "though it is not an original axial series: no such series can be scored" in warning


def test_a_projection_alone_is_refused_when_it_is_read_and_named(tmp_path) -> None:
    extra(tmp_path, 6, MIP, **ALONG)
    ct(tmp_path / "ct")
    (entry,) = found(tmp_path).entries
    assert entry.taken.startswith("PET series 1 (6 slices, 28 mm, a projection), CT series 2 (6 slices, 15 mm)")
    with pytest.raises(CaseError, match=r"is a projection \(ImageType DERIVED.SECONDARY.MIP\), not a slice"):
        order_slices(find_series(entry.pet)[0], "PT")


def test_an_original_that_is_not_corrected_gives_way_to_a_corrected_reformat_but_not_to_a_picture(tmp_path) -> None:
    pet(tmp_path / "nac", number=3, **NAC)
    extra(tmp_path / "one", 6, {"ImageType": ["DERIVED", "SECONDARY"]})
    ct(tmp_path / "ct")
    assert "took series 1 (6 slices, 15 mm, derived)" in found(tmp_path).entries[0].picks[0]
    extra(tmp_path / "one", 6, MIP)
    assert "took series 3 (6 slices, 15 mm, not attenuation-corrected)" in found(tmp_path).entries[0].picks[0]


def test_a_description_that_says_nac_where_the_header_does_not_is_warned_about(tmp_path) -> None:
    pet(tmp_path / "pet", SeriesDescription="PET NAC")
    ct(tmp_path / "ct")
    (warning,) = found(tmp_path).entries[0].warnings
    assert "a description that says it is not corrected for attenuation, and a header that says it is" in warning


def test_other_objects_with_the_uid_of_the_slices_are_set_apart(tmp_path) -> None:
    """A structure set, a screenshot, a MIP and a coronal slice under the PET's SeriesInstanceUID."""
    wanted = pet(tmp_path / "pet")
    for number, fields in enumerate(
        (
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.481.3", "Modality": "RTSTRUCT"},
            {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
            MIP,
            {},
        )
    ):
        place = {"orientation": CORONAL} if number > 1 else {}
        write_pet(tmp_path / str(number), ramp(1), fields={"SeriesNumber": 1} | fields, **place)
    ct(tmp_path / "ct")
    (entry,) = found(tmp_path).entries
    assert sorted(entry.pet) == sorted(wanted) and entry.warnings == ()


@pytest.mark.parametrize("name", ["DICOMDIR", "dicomdir", "DICOMDIR.dcm", "index", "IMG0001.dcm"])
def test_a_dicomdir_is_ignored_under_any_name(name: str, tmp_path) -> None:
    made = pet(tmp_path / "s/pet", StudyDate="20240305", StudyTime="100000", StudyID="1", InstanceNumber=1)
    ct(tmp_path / "s/ct")
    files = FileSet()
    for path in made[:2]:
        files.add(path)
    files.write(tmp_path / "set")
    content = (tmp_path / "set/DICOMDIR").read_bytes()
    (tmp_path / "s/pet" / name).write_bytes(content)
    result = found(tmp_path / "s")
    assert result.unusable == () and result.ignored == 1 and len(result.entries[0].pet) == 6
    assert [len(s.files) for s in find_series(tmp_path / "s")] == [6, 6]
    (tmp_path / "s/pet" / name).write_bytes(content[132:])  # without its preamble, as old ones are
    assert found(tmp_path / "s").unusable == ()


@pytest.mark.parametrize(
    "storage",
    [
        "1.2.840.10008.5.1.4.1.1.66",
        "1.2.840.10008.5.1.4.1.1.88.67",
        "1.2.840.10008.5.1.4.1.1.11.1",
        "1.2.840.10008.5.1.4.1.1.104.1",
        "1.3.12.2.1107.5.9.1",
        "1.2.840.113619.4.30",
        "1.2.840.10008.5.1.4.1.1.88.59",
    ],
)
def test_an_object_without_an_image_is_ignored_though_its_modality_is_pet_or_ct(storage: str, tmp_path) -> None:
    pet(tmp_path / "pet")
    ct(tmp_path / "ct")
    for modality in ("PT", "CT"):
        other = {"SOPClassUID": storage, "Rows": None, "Columns": None, "Modality": modality, "StudyInstanceUID": "1.7"}
        write_pet(tmp_path / "other" / modality, ramp(2), series_uid=f"1.2.9.{modality == 'PT'}", fields=other)
    result = found(tmp_path)
    assert len(result.entries) == 1 and result.unusable == () and result.ignored == 4
    assert [len(s.files) for s in find_series(tmp_path)] == [6, 6]


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


def test_pet_without_ct_and_ct_without_pet_are_unusable(tmp_path) -> None:
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


def test_copies_that_differ_are_both_left_out_and_listed_without_their_names(tmp_path) -> None:
    """The series then lacks a slice, which is refused when it is read."""
    made = pet(tmp_path / "p")
    ct(tmp_path / "c")
    (tmp_path / "Mueller").mkdir()
    (tmp_path / "Mueller" / "copy.dcm").write_bytes(made[2].read_bytes()[:-2] + b"\x01\x02")
    result = found(tmp_path)
    assert len(result.entries[0].pet) == 5 and made[2] not in result.entries[0].pet
    (item,) = result.unusable
    assert item.message.endswith("differ; keep the one that is right")
    message = redacted(item.message, item, tmp_path, "s-1")
    assert "Mueller" not in message and made[2].name not in message and "copy.dcm" not in message


def test_a_damaged_file_is_listed_and_the_study_is_found(tmp_path) -> None:
    pet(tmp_path / "p")
    ct(tmp_path / "c")
    (tmp_path / "bad.dcm").write_bytes(b"\0" * 128 + b"DICM" + b"\xff" * 40)
    result = found(tmp_path)
    assert len(result.entries) == 1
    (item,) = result.unusable
    assert "bad.dcm" in item.message and item.message.endswith("copy it again")


def test_descriptions_are_shown_only_with_names(tmp_path) -> None:
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
