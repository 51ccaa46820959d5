import hashlib
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from model.errors import shown
from model.hospital.find.entry import Entry, Unusable
from model.hospital.names import digest_in, is_name, name_of, read_salt, redacted, write_private

ROOT = Path("/mnt/share/studies")
PET = tuple(ROOT / "Smith John" / "PT" / f"I{i}" for i in range(3))
CT = (ROOT / "Smith John" / "CT" / "I1",)
ENTRY = Entry(
    identity="dicom:1.2.3", source=ROOT / "Smith John", kind="dicom", pet=PET, ct=CT, person=("Smith^John", "4711-X")
)


def test_a_name_is_a_salted_hash_of_the_identity() -> None:
    assert name_of(ENTRY, b"salt") == "s-" + hashlib.sha256(b"salt\0dicom:1.2.3").hexdigest()[:12]
    assert name_of(ENTRY, b"salt") != name_of(ENTRY, b"other")


def test_with_names_a_study_has_a_valid_file_name_whatever_the_header_holds() -> None:
    person = ("../../etc<script>", "=1+1")
    wild = Entry(identity="x", source=Path("/a/../..b"), kind="images", pet=(), ct=(), person=person)
    name = name_of(wild, b"salt", named=True)
    assert name.startswith("etc_script_1_1_b-") and not set("./<>=") & set(name)


def test_messages_lose_files_folders_patients_and_uids() -> None:
    message = (
        f"PET '{PET[1]}' of Smith^John (4711-X) in '{ENTRY.source}', study 1.2.840.113619.2.5.1, beside '{CT[0]}'; "
        f"put it below '{ROOT}'"
    )
    assert redacted(message, ENTRY, ROOT, "s-1") == (
        "PET 's-1/PET/file 2 of 3' of (patient) ((patient)) in 's-1', study (UID), beside 's-1/CT'; "
        "put it below the folder of studies"
    )


def test_messages_lose_the_patient_that_a_list_names() -> None:
    assert redacted("of Smith-4711; go on", replace(ENTRY, patient="Smith-4711"), ROOT, "s-1") == "of (patient); go on"


def test_a_path_that_is_not_known_is_cut_off() -> None:
    message = redacted(f"'{ROOT}/Meier Anna/x' is odd; remove it", ENTRY, ROOT, "s-1")
    assert "Meier" not in message and message.startswith("'a file of this study")


def test_a_results_folder_beside_the_studies_is_no_name() -> None:
    message = f"cannot write '{ROOT}-results/studies/s-1/mask.mha': No space left on device; free some space"
    assert redacted(message, ENTRY, ROOT, "s-1") == message


def test_a_file_that_is_unusable_is_called_by_its_hash() -> None:
    item = Unusable(identity="file:x", source=ROOT / "O'Brien" / "bad.dcm", message="")
    assert (
        redacted(f"'{item.source}' is damaged; copy it again", item, ROOT, "s-2") == "'s-2' is damaged; copy it again"
    )


def test_the_salt_is_made_once_and_is_its_owners_alone(tmp_path) -> None:
    salt = read_salt(tmp_path)
    assert len(salt) == 32 and read_salt(tmp_path) == salt
    assert stat.S_IMODE((tmp_path / ".salt").stat().st_mode) == 0o600


def test_private_files_are_private_from_the_start_and_replaced_whole(tmp_path) -> None:
    (tmp_path / "keys.csv").write_text("old")
    write_private("new", tmp_path / "keys.csv")
    assert (tmp_path / "keys.csv").read_text() == "new"
    assert stat.S_IMODE((tmp_path / "keys.csv").stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["keys.csv"]


@pytest.mark.parametrize(
    ("person", "begins"),
    [
        ("Müller^Jürgen", "Müller_Jürgen_"),
        ("Mu\u0308ller", "Müller_"),
        ("山田^太郎", "山田_太郎_"),
        ("Ørsted/../x", "Ørsted_x_"),
        ("\udcfc\x1b[31m", "31m_"),
    ],
)
def test_with_names_letters_of_every_script_are_kept(person: str, begins: str) -> None:
    name = name_of(replace(ENTRY, person=(person,)), b"salt", named=True)
    assert name.startswith(begins) and is_name(name) and digest_in(name) == digest_in(name_of(ENTRY, b"salt"))
    assert len(f"{name}".encode()) <= 255


def test_the_longest_name_fits_a_file_system() -> None:
    wide = name_of(replace(ENTRY, person=("\U00020000" * 200,)), b"salt", named=True)  # four bytes a letter
    assert len(wide.encode()) <= 255 and is_name(wide)


def test_a_name_shown_with_escapes_is_no_longer_a_name() -> None:
    """A message may hold a path as it is, as a terminal is given it, or as Python writes it."""
    odd = ROOT / "Doe\x1b[2J\u202eJane" / "pet.mha"
    entry = Entry(identity="images:x", source=odd.parent, kind="images", pet=(odd,), ct=(odd.with_name("ct.mha"),))
    for form in (str(odd), shown(str(odd)), repr(str(odd))):
        message = redacted(f"PET {form} is odd; remove it", entry, ROOT, "s-3")
        assert "Doe" not in message and "Jane" not in message and "s-3/PET" in message


def test_the_name_of_a_headers_data_file_is_redacted() -> None:
    message = redacted("its header names the data file '/home/smith john.raw', outside; move it", ENTRY, ROOT, "s-1")
    assert message == "its header names a data file, outside; move it"
