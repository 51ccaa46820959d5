"""inputs.json, grand-challenge's list of sockets: in which folders the PET and the CT lie."""

import json
import posixpath
import re
from pathlib import Path
from typing import Any

from model.errors import CaseError
from model.opening import read_regular

TO_DO_WITHOUT_CT = "give weights that see PET alone (channels [PET]; docs/weights.md says how they are made)"


def places_from(listing: Path, ct_may_lack: bool = False) -> dict[str, Path]:
    """Folders of PET and CT by inputs.json: by relative path, else by a slug with the word pet or ct.

    ct_may_lack: whether a list without a CT is taken, too. Raises OSError if it cannot be read.
    """
    content = read_regular(listing)
    try:
        entries = json.loads(content.decode("utf-8-sig"))
        if not isinstance(entries, list):
            raise ValueError(f"it holds no list, but {str(entries)[:200]}")
        sockets = [_socket(entry, number) for number, entry in enumerate(entries, 1)]
        known = sorted({(slug, posixpath.normpath(path)) for slug, path, is_image in sockets if is_image})
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise CaseError(
            f"'{listing}' is not grand-challenge's list of sockets ({type(error).__name__}: {error}); each entry must "
            "have socket.slug and socket.relative_path, or the same under interface; remove the file or correct it"
        ) from None
    places = {}
    for what in ("pet", "ct"):
        found = sorted({path for _, path in known if path == f"images/{what}"})
        found = found or sorted({path for slug, path in known if what in re.split("[-_ ]", slug.lower())})
        if not found and what == "ct" and ct_may_lack:
            continue
        if len(found) != 1:
            remedy = "" if found or what == "pet" else f"; or {TO_DO_WITHOUT_CT}"
            raise CaseError(
                f"'{listing}' names {len(found)} sockets for {what.upper()} (relative path images/{what}, or a slug "
                f"with the word {what}), and there must be one; its images are {known}; correct the file, or remove it "
                f"where images/pet and images/ct are there{remedy}"
            )
        if posixpath.isabs(found[0]) or found[0].startswith("..") or "\0" in found[0]:
            raise CaseError(f"'{listing}': the path {found[0]!r} leads out of '{listing.parent}'")
        places[what] = listing.parent / found[0]
    if places["pet"] == places.get("ct"):
        raise CaseError(f"'{listing}' names one folder, '{places['pet']}', for both PET and CT")
    return places


def _socket(entry: Any, number: int) -> tuple[str, str, bool]:
    """Slug, relative path, and whether it can be an image, of one entry of inputs.json.

    They stand under `socket`, or under `interface`, as the platform wrote before 2026, or under both. An entry
    without a path is no image. Raises ValueError for an entry with neither, or with two different paths.
    """
    places = [entry[key] for key in ("socket", "interface") if isinstance(entry, dict) and entry.get(key) is not None]
    if not places or not all(isinstance(place, dict) for place in places):
        raise ValueError(f"entry {number} has no socket: {str(entry)[:200]}")
    slug, path = (next((place[key] for place in places if place.get(key)), "") for key in ("slug", "relative_path"))
    if not isinstance(slug, str) or not isinstance(path, str):
        raise ValueError(f"entry {number} has the slug {slug!r} and the relative path {path!r}")
    paths = {posixpath.normpath(str(place["relative_path"])) for place in places if place.get("relative_path")}
    if len(paths) > 1:
        raise ValueError(f"entry {number} has two relative paths: {' and '.join(sorted(paths))}")
    return slug, path, bool(path) and not path.endswith(".json") and places[0].get("is_image_kind") is not False
