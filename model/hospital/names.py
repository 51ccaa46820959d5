"""Names of studies that do not identify a patient: a salted hash, which only keys.csv maps back.

The names of patients and source folders are in keys.csv (mode 600), and in DICOM SEG, RTSTRUCT and SR, which must name
the patient to be filed. They are redacted from messages before these are written anywhere else.
"""

import csv
import hashlib
import io
import os
import re
import secrets
import unicodedata
from pathlib import Path

from model.errors import OutputError, shown
from model.hospital.find.entry import Entry, Unusable
from model.results.lesion_table import without_apostrophe
from model.whole import whole_file

SALT, KEYS = ".salt", "keys.csv"
ANONYMOUS = "s-"  # how the name of a study begins without --names
PATIENT = "p-"  # how the name of a patient begins
DIGITS = 12  # of the hash: the chance that any two of 100,000 studies share a name is 2 in 100,000
LONGEST_NAME = 60
SHORTEST_NAME = 4  # shorter names and IDs of patients are not redacted: they are parts of words
UID = re.compile(r"\d+(\.\d+){5,}")
OTHER_FILE = "a file of this study; run with --names to see its name"


def read_salt(output: Path) -> bytes:
    """The results folder's secret, readable by its owner alone; made on the first call. Raises OutputError."""
    path = output / SALT
    try:
        if not (path.is_file() and path.stat().st_size):
            write_private(secrets.token_hex(16), path)
        return path.read_text().strip().encode()
    except OSError as error:
        raise OutputError(f"cannot read '{path}': {error.strerror}; give its owner the right to read it") from None


def name_of(entry: Entry | Unusable, salt: bytes, named: bool = False, identity: str | None = None) -> str:
    """A study's name: a salted hash of its identity. named: with the patient's and the folder's name before it.

    identity: used in place of the entry's own, as an earlier run may have named the study by it.
    """
    identified = (entry.identity if identity is None else identity).encode(errors="surrogateescape")
    digest = _digest(identified, salt)
    if not named:
        return f"{ANONYMOUS}{digest}"
    words = " ".join(dict.fromkeys((*getattr(entry, "person", ()), entry.source.name)))
    letters = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", words)).strip("_")  # of any script
    return f"{letters[:LONGEST_NAME] or 's'}-{digest}"


def patient_name(patient_id: str, salt: bytes) -> str:
    """A patient's name: a salted hash of the ID. The names of a patient's studies do not follow from it."""
    return PATIENT + _digest(b"patient:" + patient_id.encode(errors="surrogateescape"), salt)


def anonymous(name: str) -> str:
    """A study's name as it is without --names."""
    return ANONYMOUS + digest_in(name)


def _digest(identified: bytes, salt: bytes) -> str:
    return hashlib.sha256(salt + b"\0" + identified).hexdigest()[:DIGITS]


def is_name(text: str) -> bool:
    """Whether `name_of` can have made this name: then, as the name of a folder, it cannot lead out of another."""
    return bool(re.fullmatch(rf"\w+-[0-9a-f]{{{DIGITS}}}", text))


def digest_in(name: str) -> str:
    """The hash in a name of `name_of`: it is the same with and without --names."""
    return name[-DIGITS:]


def files_of(entry: Entry) -> tuple[str, str]:
    """The first file of PET and of CT, as keys.csv has them; "" without CT."""
    return os.path.abspath(entry.pet[0]), _absolute(str(entry.ct[0]) if entry.ct else "")


def names_by_files(output: Path) -> dict[tuple[str, str], str]:
    """The names of studies in an earlier keys.csv, by their first files of PET and CT; empty if it cannot be read.

    An image has no UID, so its study is recognised by its path, whatever folder or list it is found from.
    """
    rows = [row for row in _keys(output) if row.get("pet") and is_name(row["study"])]
    return {(os.path.abspath(row["pet"]), _absolute(row.get("ct") or "")): row["study"] for row in rows}


def _absolute(path: str) -> str:
    return os.path.abspath(path) if path else ""


def patients_by_digest(output: Path) -> dict[str, str]:
    """The IDs of patients in an earlier keys.csv, by the hash in the study's name; empty if it cannot be read."""
    rows = [row for row in _keys(output) if is_name(row["study"]) and row.get("patient_id")]
    return {digest_in(row["study"]): without_apostrophe(row["patient_id"]) for row in rows}


def found_elsewhere(output: Path, root: Path) -> set[str]:
    """The studies of an earlier keys.csv that were not found in the folder or list `root` and do not lie below it."""
    others = [row for row in _keys(output) if row.get("source") and row.get("found_in") != str(root)]
    return {row["study"] for row in others if not Path(row["source"]).is_relative_to(root)}


def _keys(output: Path) -> list[dict[str, str]]:
    """The rows of keys.csv that name a study; empty if it cannot be read."""
    try:
        content = (output / KEYS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [row for row in csv.DictReader(io.StringIO(content, newline="")) if row.get("study")]


def redacted(message: str, entry: Entry | Unusable, root: Path, name: str, edit: Path | None = None) -> str:
    """The message without names of files, folders and patients and without UIDs. Files are numbered in each study.

    edit: the file of an edit, which messages may name, too.
    """
    known: dict[str, str] = {}
    if isinstance(entry, Entry):
        single = (("truth", entry.truth), ("liver mask", entry.liver_mask), ("blood mask", entry.blood_mask))
        files_of_each = [("PET", entry.pet), ("CT", entry.ct), *((what, (path,)) for what, path in single if path)]
        for what, files in files_of_each:
            for number, path in enumerate(files, start=1):
                known[str(path)] = f"{name}/{what}" + (f"/file {number} of {len(files)}" if len(files) > 1 else "")
        known |= {str(edit): f"{name}/edit"} if edit else {}
        people = (*entry.person, entry.patient)
        known |= {person: "(patient)" for person in people if len(person) >= SHORTEST_NAME}
    else:
        known |= {f"{path}'": f"{name}'" for path in entry.paths}
    if entry.source != root:
        known[str(entry.source)] = name
    known |= {form: harmless for text, harmless in known.items() for form in (shown(text), repr(text)[1:-1])}
    for text in sorted(known, key=len, reverse=True):
        message = message.replace(text, known[text])
    message = re.sub("the data file '.*?'", "a data file", message, flags=re.DOTALL)  # a name that a header gives
    message = message.replace(f"'{root}'", "the folder of studies")
    unknown_path = "'/" if isinstance(entry, Unusable) else f"{root}/"
    message = re.sub(re.escape(unknown_path) + ".*", OTHER_FILE, message, flags=re.DOTALL)
    return UID.sub("(UID)", message)


def write_private(content: str, path: Path) -> None:
    """Write a file whole that its owner alone may read. Raises OutputError."""
    try:
        with whole_file(path, private=True) as partial:
            partial.write_text(content, encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}; free some space and run again") from None
