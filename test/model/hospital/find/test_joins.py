"""A PET or CT that was sent as several series: it is joined if it can be, else a warning says what is left out."""

import io
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_writer import ramp, write_ct, write_pet
from suv_headers import factor

from model.dicom.headers import Series, find_series, join_series
from model.dicom.reading import read_ct, read_pet
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.dicom.series import order_slices
from model.hospital.find.dicom_series import find_dicom


def parts(folder: Path, *cuts: range, modality: str = "PT", changes: dict | None = None, edit=None) -> None:
    """A volume of 12 slices, 3 mm apart, as one series a cut; changes: fields of the last one."""
    stored = ramp(12) if modality == "PT" else np.arange(12 * 80, dtype=np.uint16).reshape(12, 8, 10)
    write = write_pet if modality == "PT" else write_ct
    for number, cut in enumerate(cuts):
        last = (changes or {}) if number == len(cuts) - 1 else {}
        fields = {"SeriesNumber": number + 1, "NumberOfSlices": None} | last

        def edited(header, z: int, number=number, last=last) -> None:
            header.SOPInstanceUID = f"1.2.3.{ord(modality[0])}.{number}.{z}"
            if edit and last:
                edit(header, z)

        write(
            folder / f"{modality}{number}",
            stored,
            series_uid=f"1.2.3.{ord(modality[0])}.{number}",
            fields=fields,
            leave_out=[z for z in range(12) if z not in cut],
            edit=edited,
        )


def found(root: Path):
    return find_dicom([path for path in root.rglob("*") if path.is_file()], root)


def read(files) -> Series:
    return join_series(find_series(files))


@pytest.mark.parametrize(
    "cuts",
    [
        (range(8), range(8, 12)),
        (range(4, 12), range(4)),
        (range(0, 12, 2), range(1, 12, 2)),
        (range(11), range(11, 12)),
        (range(4), range(4, 8), range(8, 12)),
        (range(0, 12, 3), range(1, 12, 3), range(2, 12, 3)),
        (range(1), range(1, 12)),
    ],
)
@pytest.mark.parametrize("modality", ["PT", "CT"])
def test_parts_of_one_volume_are_joined_however_they_were_cut(cuts, modality: str, tmp_path) -> None:
    parts(tmp_path, *(cuts if modality == "PT" else [range(12)]))
    parts(tmp_path, *(cuts if modality == "CT" else [range(12)]), modality="CT")
    (entry,) = found(tmp_path).entries
    assert (len(entry.pet), len(entry.ct), entry.warnings) == (12, 12, ())
    (pick,) = entry.picks
    numbers = " + ".join(str(n + 1) for n in range(len(cuts)))
    assert f"took series {numbers} (12 slices, 33 mm" in pick and pick.endswith(", joined")
    volume = read_pet(read(entry.pet))[0] if modality == "PT" else read_ct(read(entry.ct))
    whole = tmp_path / "whole"
    parts(whole, range(12), modality=modality)
    expected = read_pet(read(whole))[0] if modality == "PT" else read_ct(read(whole))
    np.testing.assert_array_equal(volume.array, expected.array)
    assert volume.grid == expected.grid


def shifted_place(header, z: int) -> None:
    header.ImagePositionPatient = [8.0, 0.0, 3.0 * z]


def beyond_a_gap(header, z: int) -> None:
    header.ImagePositionPatient = [0.0, 0.0, 3.0 * z + 20]


def another_time(header, z: int) -> None:
    header.AcquisitionTime = "133000"


def another_dose(header, z: int) -> None:
    header.RadiopharmaceuticalInformationSequence[0].RadionuclideTotalDose = 200e6


@pytest.mark.parametrize(
    "changes, edit, why, left_mm",
    [
        ({"FrameOfReferenceUID": "1.2.3.77"}, None, "they do not share a frame of reference", 12),
        ({"AcquisitionDate": "20240306", "SeriesDate": "20240306"}, None, "they were acquired 14", 12),
        ({"PatientWeight": 71}, None, "their values differ in unit, correction, weight or kernel", 12),
        ({"Rows": 4}, shifted_place, "one lies 8 mm beside the other", 12),
        ({"Rows": 4}, beyond_a_gap, "their slices are not even: 3 to 23 mm apart", 12),
        ({"Rows": 4}, another_time, "they were acquired 1", 12),
        ({"Rows": 4}, another_dose, "they state another dose, or another time of injection", 12),
    ],
)
def test_a_part_that_cannot_be_joined_is_left_out_with_a_warning_in_mm(
    changes, edit, why: str, left_mm: int, tmp_path
) -> None:
    parts(tmp_path, range(8), range(8, 12), changes=changes, edit=edit)
    parts(tmp_path, range(12), modality="CT")
    (entry,) = found(tmp_path).entries
    assert len(entry.pet) == 8
    (warning,) = entry.warnings
    assert warning.startswith(f"PET: {left_mm} mm of the body are left out") and why in warning
    assert "series 2 (4 slices, 9 mm): " in warning and "with series 1 (8 slices, 21 mm)" in warning


def test_parts_that_overlap_are_not_joined_and_the_rest_is_a_warning(tmp_path) -> None:
    parts(tmp_path, range(8), range(5, 12))
    parts(tmp_path, range(12), modality="CT")
    (entry,) = found(tmp_path).entries
    assert len(entry.pet) == 8 and "PET: 12 mm of the body" in entry.warnings[0] and "overlap" in entry.warnings[0]


def test_the_warning_of_a_ct_in_two_parts_counts_only_what_the_pet_shows(tmp_path) -> None:
    parts(tmp_path, range(12))
    parts(tmp_path, range(7), range(7, 12), modality="CT", changes={"ConvolutionKernel": "B80f"})
    (entry,) = found(tmp_path).entries
    assert len(entry.ct) == 7 and entry.warnings[0].startswith("CT: 14 mm of the body are left out")


def test_series_of_the_same_place_leave_nothing_out(tmp_path) -> None:
    """A second reconstruction, one that is not corrected, and a head that lies within the body."""
    write_pet(tmp_path / "a", ramp(12), series_uid="1.2.3.71", fields={"SeriesNumber": 1})
    write_pet(tmp_path / "b", ramp(12), series_uid="1.2.3.72", fields={"SeriesNumber": 2})
    write_pet(tmp_path / "c", ramp(20), series_uid="1.2.3.73", fields={"SeriesNumber": 3, "CorrectedImage": ["DECY"]})
    write_pet(tmp_path / "d", ramp(4), series_uid="1.2.3.74", origin_mm=(0, 0, 20), fields={"SeriesNumber": 4})
    parts(tmp_path, range(12), modality="CT")
    (entry,) = found(tmp_path).entries
    assert len(entry.pet) == 12 and entry.warnings == ()


def test_each_part_has_the_reference_time_that_it_states(tmp_path) -> None:
    """Decay-corrected to 11:00 and to 11:10, each by its own SeriesTime; one time where both state one."""

    def later(header, z: int) -> None:
        header.AcquisitionTime = "111500"

    parts(tmp_path / "two", range(8), range(8, 12), changes={"SeriesTime": "111000"}, edit=later)
    parts(tmp_path / "two", range(12), modality="CT")
    _, conversion = read_pet(read(found(tmp_path / "two").entries[0].pet))
    assert conversion.factor is None and conversion.warnings == ()
    assert conversion.slice_factors == tuple([factor(3600)] * 8 + [factor(4200)] * 4)
    parts(tmp_path / "one", range(8), range(8, 12), changes={"Rows": 4}, edit=later)
    parts(tmp_path / "one", range(12), modality="CT")
    assert read_pet(read(found(tmp_path / "one").entries[0].pet))[1].factor == factor(3600)


def test_parts_of_a_post_processed_pet_share_the_earliest_acquisition(tmp_path) -> None:
    def later(header, z: int) -> None:
        header.AcquisitionTime = "111500"
        header.SeriesTime = "143100"

    parts(tmp_path, range(8), range(8, 12), changes={"Rows": 4}, edit=later)
    for path in (tmp_path / "PT0").iterdir():
        header = pydicom.dcmread(path)
        header.SeriesTime = "143000"
        header.save_as(path)
    _, conversion = read_pet(read(tmp_path))
    assert conversion.factor == factor(3600) and all("earliest acquisition, 11:00:00" in w for w in conversion.warnings)


def test_seg_and_rtstruct_refer_to_each_slice_in_its_own_series(tmp_path) -> None:
    parts(tmp_path, range(8), range(8, 12))
    headers, grid = order_slices(read(tmp_path), "PT")
    numbers = np.zeros((12, 4, 5), int)
    numbers[6:10, 1:3, 1:4] = 1
    expected = {
        f"1.2.3.80.{part}": {f"1.2.3.80.{part}.{z}" for z in cut} for part, cut in enumerate((range(8), range(8, 12)))
    }
    seg = pydicom.dcmread(io.BytesIO(dicom_seg(numbers, headers, "w", "run")))
    for item in seg.ReferencedSeriesSequence:
        there = {one.ReferencedSOPInstanceUID for one in item.ReferencedInstanceSequence}
        assert there and there <= expected[item.SeriesInstanceUID]
    assert {item.SeriesInstanceUID for item in seg.ReferencedSeriesSequence} == set(expected)
    rtstruct = pydicom.dcmread(io.BytesIO(dicom_rtstruct(numbers, headers, grid, "run")))
    study = rtstruct.ReferencedFrameOfReferenceSequence[0].RTReferencedStudySequence[0]
    for item in study.RTReferencedSeriesSequence:
        there = {one.ReferencedSOPInstanceUID for one in item.ContourImageSequence}
        assert there == expected[item.SeriesInstanceUID]
    assert len(study.RTReferencedSeriesSequence) == 2
