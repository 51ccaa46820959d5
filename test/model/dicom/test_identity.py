"""What SEG and RTSTRUCT take over of a patient's identity: bytes as they are in the file, by pydicom's raw elements."""

import io
import re
from pathlib import Path

import numpy as np
import pydicom
import pytest
from dicom_writer import write_pet
from lesion_masks import TURNS, random_lesions
from pydicom.uid import generate_uid

from model.dicom.headers import find_series
from model.dicom.identity import EMPTY_IF_UNUSABLE, identity_of, identity_warnings
from model.dicom.rtstruct import dicom_rtstruct
from model.dicom.seg import dicom_seg
from model.dicom.series import order_slices


def headers_with(folder: Path, values: dict[str, bytes]):
    """Headers of a PET whose files hold these bytes, whatever DICOM says of them; their grid, too."""
    paths = write_pet(folder, np.arange(8 * 7 * 6, dtype=np.int16).reshape(8, 7, 6), orientation=TURNS["axial"])
    first = {keyword: value for keyword, value in values.items() if keyword == "SpecificCharacterSet"}
    for path in paths:
        for some in (first, values):  # the character set before the rest, or pydicom encodes that anew
            header = pydicom.dcmread(path)
            for keyword, value in some.items():
                tag = pydicom.tag.Tag(keyword)
                kind = pydicom.datadict.dictionary_VR(tag)
                padded = value + b" " * (len(value) % 2)
                header[tag] = pydicom.dataelem.RawDataElement(tag, kind, len(padded), padded, 0, False, True, True)
            header.save_as(path)
        assert all(value in path.read_bytes() for value in values.values())
    (series,) = find_series(folder)
    return order_slices(series, "PT")


def raw(content: bytes, keyword: str) -> bytes | None:
    """The bytes of an element as they are in a file, without padding: nothing is decoded."""
    dataset = pydicom.dcmread(io.BytesIO(content), specific_tags=[keyword])
    tag = pydicom.tag.Tag(keyword)
    if tag not in dataset:
        return None
    value = dataset.get_item(tag).value
    if keyword == "SpecificCharacterSet":  # which pydicom has decoded by then
        value = "\\".join([value] if isinstance(value, str) else value).encode()
    return (value or b"").rstrip(b" ")


def both(folder: Path, values: dict[str, bytes]) -> tuple[bytes, bytes, list[str]]:
    headers, grid = headers_with(folder, values)
    numbers = random_lesions()
    seg, rtstruct = dicom_seg(numbers, headers, "tiny", "run"), dicom_rtstruct(numbers, headers, grid, "run")
    return seg, rtstruct, identity_warnings(headers)


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", b"U"),
        ("PatientSex", b"Male"),
        ("PatientSex", b"m"),
        ("PatientBirthDate", b"1981/03/02"),
        ("PatientBirthDate", b"00000000"),
        ("PatientBirthDate", b"19810229"),
        ("StudyDate", b"2023.06.14"),
        ("StudyTime", b"091000.1234567"),
        ("StudyTime", b"1:22 PM"),
        ("StudyTime", b"246000"),
        ("StudyID", b"12345678901234567"),
        ("AccessionNumber", b"A\\B"),
        ("PatientID", b"4" * 65),
        ("PatientName", b"A" * 65),
        ("PatientName", b"A^B^C^D^E^F"),
        ("PatientName", b"A\nB"),
        ("ReferringPhysicianName", b"A=B=C=D"),
    ],
)
def test_what_dicom_forbids_is_empty_and_a_warning_names_it_without_its_value(
    keyword: str, value: bytes, tmp_path
) -> None:
    seg, rtstruct, warnings = both(tmp_path, {keyword: value})
    assert raw(seg, keyword) == raw(rtstruct, keyword) == b""
    assert len(warnings) == 1 and keyword in warnings[0] and "leave empty" in warnings[0]
    warning = warnings[0].replace(str(tmp_path), "").replace(keyword, "")
    assert not re.search(rf"\b{re.escape(value.decode())}\b", warning) or len(value) == 1


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientSex", b"F"),
        ("PatientBirthDate", b"19800229"),
        ("StudyTime", b"091000.123456"),
        ("StudyTime", b"09"),
        ("StudyID", b"1234567890123456"),
        ("PatientID", b"4" * 64),
        ("PatientName", b"A" * 64),
        ("PatientAge", b"007M"),
        ("PatientSize", b"1.75"),
        ("PatientName", b"A^B^C^D^E=F^G=H"),
        ("StudyDescription", b"PET: 100 % <&>"),
    ],
)
def test_what_dicom_allows_is_copied_byte_by_byte(keyword: str, value: bytes, tmp_path) -> None:
    seg, rtstruct, warnings = both(tmp_path, {keyword: value})
    assert raw(seg, keyword) == raw(rtstruct, keyword) == value and warnings == []


@pytest.mark.parametrize(
    ("stated", "name"),
    [
        (b"\\ISO 2022 IR 87", b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"),  # DICOM PS3.5, H.3.1
        (b"ISO_IR 13\\ISO 2022 IR 87", b"\xd4\xcf\xc0\xde^\xc0\xdb\xb3=\x1b$B;3ED\x1b(J^\x1b$BB@O:\x1b(J"),  # H.3.2
        (b"\\ISO 2022 IR 149", b"Hong^Gildong=\x1b$)C\xfb\xf3^\x1b$)C\xd1\xce\xd4\xd7"),  # I.2
        (b"ISO_IR 100", b"Buc^J\xe9r\xf4me"),
        (b"ISO_IR 192", "Wang^XiaoDong=王^小東".encode()),
        (b"GB18030", b"Wang^XiaoDong=\xcd\xf5^\xd0\xa1\xb6\xab"),
        (b"GBK", b"Zhang^=\xd5\x5c^"),  # 5C is no backslash
        (b"", b"M\xfcller^J"),
        (b"FOO", b"M\xfcller^J"),
    ],
)
def test_names_of_every_character_set_keep_their_bytes(stated: bytes, name: bytes, tmp_path) -> None:
    values = {"PatientName": name} | ({"SpecificCharacterSet": stated} if stated else {})
    seg, rtstruct, _ = both(tmp_path, values)
    assert raw(seg, "PatientName") == raw(rtstruct, "PatientName") == name
    assert (raw(seg, "SpecificCharacterSet") or b"") == (raw(rtstruct, "SpecificCharacterSet") or b"") == stated


@pytest.mark.parametrize(
    ("stated", "written"), [(b"ISO_IR100", b"ISO_IR 100"), (b"ISO-IR 192", b"ISO_IR 192"), (b"utf-8", b"ISO_IR 192")]
)
def test_a_misspelled_character_set_is_written_as_what_it_means(stated: bytes, written: bytes, tmp_path) -> None:
    seg, rtstruct, warnings = both(tmp_path, {"SpecificCharacterSet": stated, "PatientName": b"Smith^J"})
    assert raw(seg, "SpecificCharacterSet") == raw(rtstruct, "SpecificCharacterSet") == written
    assert "misspelled" in warnings[0]


def test_latin_9_is_a_character_set_of_dicom(tmp_path) -> None:
    """ISO_IR 203, DICOM PS3.3, C.12.1.1.2; pydicom does not know it."""
    seg, _, warnings = both(tmp_path, {"SpecificCharacterSet": b"ISO_IR 203", "PatientName": b"Le C\xbdur^J"})
    assert (raw(seg, "SpecificCharacterSet"), raw(seg, "PatientName"), warnings) == (b"ISO_IR 203", b"Le C\xbdur^J", [])


def test_an_element_that_may_be_absent_is_left_out(tmp_path) -> None:
    seg, _, warnings = both(tmp_path, {"PatientAge": b"60", "PatientComments": b"two\r\nlines"})
    assert raw(seg, "PatientAge") is None and raw(seg, "PatientComments") == b"two\r\nlines"
    assert "PatientAge" in warnings[0] and "PatientComments" not in warnings[0]


def test_what_must_be_there_is_even_if_the_pet_lacks_it(tmp_path) -> None:
    headers, _ = headers_with(tmp_path, {})
    values = identity_of(headers[0]).values
    assert set(EMPTY_IF_UNUSABLE) <= set(values) and values["StudyID"] == b""


def test_a_header_whose_file_is_gone_still_says_who_it_is(tmp_path) -> None:
    headers, _ = headers_with(tmp_path, {"SpecificCharacterSet": b"ISO_IR 100", "PatientName": b"M\xfcller^J"})
    assert headers[0].PatientName and str(headers[0].PatientID)
    for path in tmp_path.iterdir():
        path.unlink()
    assert identity_of(headers[0]).values["PatientName"] == b"M\xfcller^J"


def test_uids_that_are_referred_to_stay_though_they_are_badly_formed(tmp_path) -> None:
    bad = generate_uid() + ".007"  # a component with leading zeros, as some scanners write
    bad = ("1.2.840.0113619.2." + bad)[:60]
    headers, grid = headers_with(tmp_path, {"StudyInstanceUID": bad.encode()})
    seg, rtstruct = dicom_seg(random_lesions(), headers, "t", "r"), dicom_rtstruct(random_lesions(), headers, grid, "r")
    for content in (seg, rtstruct):
        assert raw(content, "StudyInstanceUID").rstrip(b"\0") == bad.encode()
