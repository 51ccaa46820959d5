"""Write a bundle of weights as other platforms take it: a MONAI bundle, or a model folder as MHub.ai has them.

    python -m training package weights/eoa --monai packages/lesions_eoa
    python -m training package weights/eoa --mhub packages/petct_lesions --repository https://github.com/NAME/REPOSITORY

Both carry the program and the weights, and need no copy of this repository. README.md in them says how they are run.
"""

import argparse
import re
from collections.abc import Callable
from pathlib import Path

from model.bundle.manifest import Bundle, find_bundle, load_bundle
from model.errors import ConfigError, OutputError
from model.whole import recover, whole_folder
from training.commit import ROOT
from training.packages import mhub_folder, monai_bundle
from training.packages.facts import check_licence
from training.packages.mhub_folder import write_mhub
from training.packages.monai_bundle import write_monai

MHUB_NAME = re.compile(r"[a-z0-9_]+")  # of MHub.ai's schema of meta.json
URL = re.compile(r"https://\S+\.\S+")


def run(options: argparse.Namespace) -> None:
    """Write what the options ask for. Raises ConfigError, WeightsError or OutputError; then it is as it was."""
    check_options(options)
    bundle = load_bundle(find_bundle(options.bundle, None))
    check_licence(bundle)
    if options.monai:
        write_package(options.monai, monai_bundle.OWN, options.force, lambda folder: write_monai(bundle, folder))
        print(
            f"wrote the MONAI bundle '{options.monai}', {size_of(options.monai)}; its docs/README.md says how to run it"
        )
    if options.mhub:
        write_package(options.mhub, mhub_folder.OWN, options.force, lambda folder: write_to(folder, bundle, options))
        print(f"wrote MHub's folder '{options.mhub}', {size_of(options.mhub)}; its README.md says how to run it")


def write_to(folder: Path, bundle: Bundle, options: argparse.Namespace) -> None:
    """Write MHub's folder, under the name that it will have."""
    write_mhub(bundle, folder, options.mhub.resolve().name, options.repository)


def check_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that do not go together, before anything is read."""
    if not (options.monai or options.mhub):
        raise ConfigError("nothing to write; give --monai FOLDER, --mhub FOLDER, or both")
    if options.monai and options.mhub:
        one, other = options.monai.resolve(), options.mhub.resolve()
        if one == other or one in other.parents or other in one.parents:
            raise ConfigError(
                f"--monai '{options.monai}' and --mhub '{options.mhub}' lie in each other; give two folders"
            )
    for folder in filter(None, (options.monai, options.mhub)):
        if folder.resolve().is_relative_to(ROOT / "model"):
            raise ConfigError(
                f"'{folder}' lies among the program's own files, which go into packages; give another folder"
            )
    if options.mhub and not MHUB_NAME.fullmatch(options.mhub.resolve().name):
        raise ConfigError(
            f"--mhub '{options.mhub}': MHub.ai names a model as its folder, in lower-case letters, digits and '_'; "
            "rename the folder"
        )
    if bool(options.mhub) != bool(options.repository):
        raise ConfigError(
            "--mhub needs --repository URL, where the program is published, and only --mhub does; give both"
        )
    if options.repository and not URL.fullmatch(options.repository):
        raise ConfigError(f"--repository must be an address that begins with https://, got '{options.repository}'")


def write_package(folder: Path, own: Path, force: bool, fill: Callable[[Path], None]) -> None:
    """Write a folder whole or not at all. own: the file by which an older package there is known.

    Raises ConfigError if something else is there, or a package without `force`; OutputError if it cannot be written.
    """
    recover(folder)
    if folder.exists() and not force:
        raise ConfigError(f"'{folder}' is there already; choose another folder, or --force to replace it")
    if folder.exists() and not (folder / own).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(
            f"'{folder}' holds no {own}: it is no such package, and is not replaced; choose another folder"
        )
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with whole_folder(folder) as partial:
            fill(partial)
    except OSError as error:
        raise OutputError(
            f"cannot write '{folder}': {error.strerror or error}; check free space and write permission"
        ) from None


def size_of(folder: Path) -> str:
    """The size of a folder's files in MB."""
    return f"{sum(path.stat().st_size for path in folder.rglob('*') if path.is_file()) / 1e6:.1f} MB"


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: seconds; the program and the weights once more on the disk, the weights twice in a MONAI bundle."
    )
    add = parser.add_argument
    add("bundle", metavar="BUNDLE", help="a folder, or a name below weights/; its licence must be known")
    add("--monai", type=Path, metavar="FOLDER", help="write a MONAI bundle there (default: none)")
    add(
        "--mhub",
        type=Path,
        metavar="FOLDER",
        help="write a model folder of MHub.ai's layout there; the folder's name is the model's (default: none)",
    )
    add(
        "--repository",
        metavar="URL",
        help="where the program is published, for meta.json, which must have it; only with --mhub (no default)",
    )
    add("--force", action="store_true", help="replace a package that is there (default: refuse)")
