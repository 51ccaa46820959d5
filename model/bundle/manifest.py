"""Find a weight bundle, read its manifest.json, verify its files; without torch, so that it takes no time."""

import dataclasses
import json
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from msgspec import structs

from model.bundle.format import Manifest, manifest_from
from model.bundle.settings import METHODS, override_limits
from model.errors import ConfigError, WeightsError
from model.files import is_lfs_pointer, sha256_of
from model.opening import read_regular

MANIFEST = "manifest.json"
WEIGHTS = Path(__file__).resolve().parent.parent.parent / "weights"
MOUNTED = Path("/opt/ml/model")  # where grand-challenge.org mounts optional weights


@dataclass(frozen=True, kw_only=True)
class Bundle:
    """A verified bundle: the folder and its manifest, with the method, members and mirroring this run uses.

    changes: how members and mirroring differ from manifest.json, in words, which also stand for them in keys. warnings:
    of these changes.
    """

    folder: Path
    manifest: Manifest
    sha256: str  # of manifest.json, which holds the members' hashes: one hash names the weights
    changes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()

    @property
    def label(self) -> str:
        """Name, method and changes, for people."""
        return f"{self.manifest.name} ({', '.join((self.manifest.method, *self.changes))})"


def find_bundle(weights: str | None, method: str | None, mounted: Path = MOUNTED) -> Path:
    """The bundle's folder.

    `weights` is tried as a folder, then as a name under this software's weights/, then as a name under weights/ of the
    working folder. Without `weights` the bundle is weights/<method>. Without both it is the mounted model if that holds
    a manifest.json, else the first name of LESION_DEFAULT_WEIGHTS (an image that is built with other bundles sets it),
    else weights/eoa. Raises WeightsError if there is no bundle.
    """
    if weights:
        own = Path(WEIGHTS.name, weights)
        for folder in (Path(weights), WEIGHTS / weights, own):
            try:
                if (folder / MANIFEST).is_file():
                    return folder
            except PermissionError as error:
                raise _unreadable(folder, error) from None
            except (OSError, ValueError):  # a name that no file can have
                continue
        sought = "' nor in '".join(dict.fromkeys(map(str, (weights, WEIGHTS / weights))))  # absolute: both are one
        raise WeightsError(
            f"no {MANIFEST} in '{sought}'{_own_folder(own)}; --weights takes a bundle's folder or one of "
            f"the names {', '.join(shipped()) or '(none is shipped)'}; a public model becomes a bundle by: python -m "
            "training import (docs/weights.md)"
        )
    try:
        if not method and (mounted / MANIFEST).is_file():
            return mounted
    except OSError as error:
        raise _unreadable(mounted, error) from None
    folder = WEIGHTS / (method or [*os.environ.get("LESION_DEFAULT_WEIGHTS", "").split(), "eoa"][0])
    if not (folder / MANIFEST).is_file():
        raise WeightsError(
            f"no {MANIFEST} in '{folder}'; give a bundle with --weights: a folder, or one of the names "
            f"{', '.join(shipped()) or '(none is shipped)'}"
        )
    return folder


def _own_folder(own: Path) -> str:
    """What to add to a message if the working folder has a weights/ of its own, which was searched, too."""
    elsewhere = own.is_relative_to(WEIGHTS.name) and own.parent.is_dir()
    return f" nor in '{own}'" if elsewhere and own.parent.resolve() != WEIGHTS.resolve() else ""


def shipped() -> list[str]:
    """Names of the bundles under weights/, sorted."""
    return sorted(path.parent.name for path in WEIGHTS.glob(f"*/{MANIFEST}"))


def load_bundle(folder: Path, method: str | None = None) -> Bundle:
    """Read and verify a bundle, for the manifest's method or another.

    Raises WeightsError: manifest not readable or with a wrong key, a member's file missing, a
    Git-LFS pointer or of a wrong sha256; ConfigError: `method` unknown, or not possible with these members.
    """
    path = folder / MANIFEST
    try:
        data = json.loads(read_regular(path).decode(), object_pairs_hook=lambda pairs: _mapping(pairs, path))
        manifest = manifest_from(data, f"'{path}'")
    except OSError as error:
        raise _unreadable(path, error) from None
    except ConfigError as error:
        raise WeightsError(str(error)) from None
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"'{path}' is not JSON: {error}; copy the bundle again") from None
    if method and method not in METHODS:
        raise ConfigError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
    with ThreadPoolExecutor() as several:  # map keeps the members' order: of several errors the first is raised
        list(several.map(lambda member: _verify(folder / member.file, member.sha256), manifest.members))
    manifest = structs.replace(manifest, method=method or manifest.method)
    if manifest.method == "diwa":
        _check_one_start(folder, manifest)
    return Bundle(folder=folder, manifest=manifest, sha256=sha256_of(path))


def chosen_bundle(weights: str | None, method: str | None, limits: Sequence[str] = ()) -> Bundle:
    """The bundle that an option or the environment names (`find_bundle`), verified, with --limit applied.

    Raises WeightsError, and ConfigError for a bundle, method or limit that does not exist.
    """
    return with_limits(load_bundle(find_bundle(weights, method), method), limits)


def with_limits(bundle: Bundle, settings: Sequence[str]) -> Bundle:
    """The bundle with its limits as NAME=VALUE settings (from --limit) say. Raises ConfigError."""
    limits = override_limits(bundle.manifest.limits, settings)
    return dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, limits=limits))


def _unreadable(path: Path, error: OSError) -> WeightsError:
    return WeightsError(f"cannot read '{path}': {error.strerror}; check access to '{path}', or copy the bundle again")


def _mapping(pairs: list[tuple[str, Any]], path: Path) -> dict[str, Any]:
    """A mapping of JSON. Raises WeightsError if it has a key twice."""
    keys = [key for key, _ in pairs]
    if len(set(keys)) != len(keys):
        twice = sorted({key for key in keys if keys.count(key) > 1})
        raise WeightsError(f"'{path}' has keys twice: {', '.join(twice)}; leave one of each")
    return dict(pairs)


def _verify(path: Path, expected: str) -> None:
    try:
        if is_lfs_pointer(path):
            raise WeightsError(f"'{path}' is a Git-LFS pointer, not the weights; run: git lfs pull")
        found = sha256_of(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    if found != expected:
        raise WeightsError(
            f"'{path}' has sha256 {found}, the manifest says {expected}: the file is damaged or another one; "
            "copy the bundle again"
        )


def _check_one_start(folder: Path, manifest: Manifest) -> None:
    """Weights may be averaged only if they were fine-tuned from one network (Ahn and Park, section 2.5)."""
    starts = {member.start_sha256 for member in manifest.members}
    if len(manifest.members) > 1 and manifest.network.kind == "slices":
        raise ConfigError(
            f"method diwa averages weights, and the networks for slices in '{folder / MANIFEST}' have batch statistics "
            "that must be computed again after it, as export does; use --method eoa"
        )
    if len(manifest.members) > 1 and (len(starts) > 1 or None in starts):
        raise ConfigError(
            f"method diwa averages weights, which needs members of one common start, but the start hashes in "
            f"'{folder / MANIFEST}' differ or are unknown; use --method eoa"
        )
