"""What studies are called where others may read it: a salted hash, which only keys.csv maps back.

Patients' names and the source folders' names stand in keys.csv (mode 600), and in DICOM SEG and RTSTRUCT, which must
name the patient to be filed. Messages are cleared of them before they are written anywhere else.
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
NAMELESS = "s-"  # how the name of a study begins without --names
DIGITS = 12  # of the hash: among 100,000 studies two share a name with a chance of 2 in 100,000
LONGEST_NAME = 60
SHORTEST_NAME = 4  # of a patient's name or ID that is looked for in messages: shorter ones are parts of words
UID = re.compile(r"\d+(\.\d+){5,}")
ELSEWHERE = "a file of this study; what it is called is said with --names"


def read_salt(output: Path) -> bytes:
    """The results folder's secret, made when it is first asked for, readable by its owner alone. Raises OutputError."""
    path = output / SALT
    try:
        if not (path.is_file() and path.stat().st_size):
            write_private(secrets.token_hex(16), path)
        return path.read_text().strip().encode()
    except OSError as error:
        raise OutputError(f"cannot read '{path}': {error.strerror}; it must be readable by its owner") from None


def name_of(entry: Entry | Unusable, salt: bytes, named: bool = False, identity: str | None = None) -> str:
    """What a study is called: a salted hash of what identifies it, after its folder's or file's name with `named`.

    identity: another than the entry's own, under which it may have been named before.
    """
    identified = (entry.identity if identity is None else identity).encode(errors="surrogateescape")
    digest = hashlib.sha256(salt + b"\0" + identified).hexdigest()[:DIGITS]
    if not named:
        return f"{NAMELESS}{digest}"
    shown = " ".join(dict.fromkeys((*getattr(entry, "person", ()), entry.source.name)))
    letters = re.sub(r"[\W_]+", "_", unicodedata.normalize("NFC", shown)).strip("_")  # of any script
    return f"{letters[:LONGEST_NAME] or 's'}-{digest}"


def is_name(text: str) -> bool:
    """Whether a study may be called so: a name of `name_of`, which leads out of no folder."""
    return bool(re.fullmatch(rf"\w+-[0-9a-f]{{{DIGITS}}}", text))


def digest_in(name: str) -> str:
    """The hash in a name of `name_of`: what a study has in common with and without --names."""
    return name[-DIGITS:]


def files_of(entry: Entry) -> tuple[str, str]:
    """The first file of PET and of CT, as keys.csv has them."""
    return os.path.abspath(entry.pet[0]), os.path.abspath(entry.ct[0])


def names_by_files(output: Path) -> dict[tuple[str, str], str]:
    """What an earlier keys.csv calls studies, by their first files of PET and CT; none where it cannot be read.

    An image has no UID: its study is known again by its place, whatever folder or list it is found from.
    """
    rows = [row for row in _keys(output) if row.get("pet") and is_name(row["study"])]
    return {(os.path.abspath(row["pet"]), os.path.abspath(row["ct"])): row["study"] for row in rows if row.get("ct")}


def patients_by_digest(output: Path) -> dict[str, str]:
    """The IDs of patients in an earlier keys.csv, by the hash in the study's name; none where it cannot be read."""
    rows = [row for row in _keys(output) if is_name(row["study"]) and row.get("patient_id")]
    return {digest_in(row["study"]): without_apostrophe(row["patient_id"]) for row in rows}


def found_elsewhere(output: Path, root: Path) -> set[str]:
    """The studies of an earlier keys.csv that were found neither in the folder or list `root` nor lie below it."""
    others = [row for row in _keys(output) if row.get("source") and row.get("found_in") != str(root)]
    return {row["study"] for row in others if not Path(row["source"]).is_relative_to(root)}


def _keys(output: Path) -> list[dict[str, str]]:
    """The rows of keys.csv that name a study; none where it cannot be read."""
    try:
        content = (output / KEYS).read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        return []
    return [row for row in csv.DictReader(io.StringIO(content, newline="")) if row.get("study")]


def cleared(message: str, entry: Entry | Unusable, root: Path, name: str) -> str:
    """A message without the names of files, folders, patients and UIDs: each file by its number within the study."""
    known: dict[str, str] = {}
    if isinstance(entry, Entry):
        for what, files in (("PET", entry.pet), ("CT", entry.ct), ("truth", (entry.truth,) if entry.truth else ())):
            for number, path in enumerate(files, start=1):
                known[str(path)] = f"{name}/{what}" + (f"/file {number} of {len(files)}" if len(files) > 1 else "")
        known |= {person: "(patient)" for person in entry.person if len(person) >= SHORTEST_NAME}
    else:
        known |= {f"{path}'": f"{name}'" for path in entry.paths}
    if entry.source != root:
        known[str(entry.source)] = name
    known |= {form: told for text, told in known.items() for form in (shown(text), repr(text)[1:-1])}
    for text in sorted(known, key=len, reverse=True):
        message = message.replace(text, known[text])
    message = re.sub("the data file '.*?'", "a data file", message, flags=re.DOTALL)  # what a header calls it
    message = message.replace(f"'{root}'", "the folder of studies")
    elsewhere = "'/" if isinstance(entry, Unusable) else f"{root}/"
    message = re.sub(re.escape(elsewhere) + ".*", ELSEWHERE, message, flags=re.DOTALL)
    return UID.sub("(UID)", message)


def write_private(content: str, path: Path) -> None:
    """Write a file whole that its owner alone may read. Raises OutputError."""
    try:
        with whole_file(path, private=True) as partial:
            partial.write_text(content, encoding="utf-8", errors="surrogateescape", newline="")
    except OSError as error:
        raise OutputError(f"cannot write '{path}': {error.strerror}; free some space and run again") from None
