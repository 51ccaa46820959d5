"""The program itself, as a package carries it, so that the package runs where this software is not installed."""

import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from model.bundle.manifest import MANIFEST, Bundle
from training.commit import ROOT

DOORS = ("challenge", "hospital")  # the rooms of process.py and score.py
NOTICES = ("LICENSE", "NOTICE")
# What the road from files to a mask needs beyond torch and numpy. einops is MONAI's for SwinUNETR; by the last two
# pydicom decompresses JPEG-LS, JPEG and JPEG 2000.
ROAD_LIBRARIES = ("SimpleITK", "scipy", "safetensors", "msgspec", "pydicom", "tqdm", "einops", "pyjpegls", "pillow")


def copy_road(folder: Path) -> None:
    """Copy `model` into a folder without the rooms of process.py and score.py, unchanged."""
    _copy_package(ROOT / "model", folder / "model", without=DOORS)


def copy_program(folder: Path) -> None:
    """Copy all that score.py and process.py are, unchanged: both, `model`, requirements.txt, licence and notice."""
    folder.mkdir()
    for name in ("process.py", "score.py", "requirements.txt", *NOTICES):
        shutil.copyfile(ROOT / name, folder / name)
    _copy_package(ROOT / "model", folder / "model")


def copy_weights(bundle: Bundle, folder: Path) -> None:
    """Copy a verified bundle: manifest.json and its members, and nothing else that lies beside them."""
    folder.mkdir(parents=True)
    for name in (MANIFEST, *(member.file for member in bundle.manifest.members)):
        shutil.copyfile(bundle.folder / name, folder / name)


def installed_versions(libraries: Sequence[str]) -> dict[str, str]:
    """The version of each library here, without what names a build (2.13.0+cpu)."""
    return {name: version(name).split("+")[0] for name in libraries}


def _copy_package(source: Path, target: Path, without: Sequence[str] = ()) -> None:
    """Copy a package's files; no caches, no hidden files."""
    left_out = {source / name for name in without}

    def ignored(folder: str, names: list[str]) -> list[str]:
        return [
            name for name in names if name == "__pycache__" or name.startswith(".") or Path(folder, name) in left_out
        ]

    shutil.copytree(source, target, ignore=ignored)
