"""The series of a folder, and damaged headers."""

import numpy as np
import pytest
from dicom_writer import write_ct, write_pet

from model.dicom.headers import find_series
from model.dicom.reading import read_pet
from model.errors import CaseError


def test_random_bytes_after_the_magic_are_refused(tmp_path) -> None:
    rng = np.random.default_rng(0)
    for number in range(20):
        path = tmp_path / f"{number}.dcm"
        path.write_bytes(b"\0" * 128 + b"DICM" + rng.bytes(3000))
        with pytest.raises(CaseError, match=f"'{path}'"):
            find_series(tmp_path / f"{number}.dcm")


@pytest.mark.parametrize(
    "where, what",
    [
        (b"\x18\x00\x72\x10TM", b"\x18\x00\x72\x10T\xcc"),
        (b"\x18\x00\x74\x10DS", b"\x18\x00\x74\x10\x44\x98"),
        (b"\x54\x00\x16\x00SQ", b"\x54\x00\x16\x00LO"),
        (b"1.2.840.10008.1.2.1", b"1.2.840.10008.1\\2.1"),
    ],
)
def test_damage_inside_a_sequence_or_a_transfer_syntax_names_the_file(where: bytes, what: bytes, tmp_path) -> None:
    paths = write_pet(tmp_path)
    content = paths[2].read_bytes()
    assert where in content
    paths[2].write_bytes(content.replace(where, what, 1))
    with pytest.raises(CaseError) as refused:
        read_pet(find_series(paths)[0])
    assert str(paths[2]) in str(refused.value)


def test_the_series_of_a_folder_are_separated_by_content(tmp_path) -> None:
    write_pet(tmp_path / "b")
    write_pet(tmp_path / "b/corrected", series_uid="1.2.3.10", fields={"SeriesDescription": "PET NAC"})
    write_ct(tmp_path / "a")
    for ct in (tmp_path / "a").iterdir():  # PET and CT in one folder, under names without an ending
        ct.rename(tmp_path / "b" / f"x{ct.stem}")
    (tmp_path / "readme.txt").write_text("none of DICOM")
    (tmp_path / "DICOMDIR").write_bytes(b"\0" * 128 + b"DICM")
    found = find_series(tmp_path)
    assert [(s.modality, s.description, len(s.files)) for s in found] == [
        ("CT", "CT", 6),
        ("PT", "PET NAC", 6),
        ("PT", "PET AC", 6),
    ]


def test_a_named_file_that_is_not_dicom_is_refused(tmp_path) -> None:
    (tmp_path / "readme.txt").write_text("none of DICOM")
    with pytest.raises(CaseError, match="readme.txt' is not DICOM"):
        find_series([tmp_path / "readme.txt"])
    with pytest.raises(CaseError, match="gone.dcm' is not there"):
        find_series([tmp_path / "gone.dcm"])
