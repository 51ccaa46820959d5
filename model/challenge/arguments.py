"""The command line of process.py: every option with its default, unit and cost."""

import argparse
import os
from contextlib import suppress
from ipaddress import ip_address
from pathlib import Path

from model import __version__
from model.bundle.choice_options import add_choice_options, check_choice_options
from model.bundle.manifest import MOUNTED
from model.bundle.settings import METHODS
from model.challenge.measured import add_measure_options, check_measure_options
from model.errors import ConfigError

HOST, PORT = "127.0.0.1", 4743  # where --serve listens: grand-challenge.org's invoke mode
# what LESION_SERVE may be; invoke and exec are also the values of API_METHOD, with which an image is built
SERVE = {"1": True, "invoke": True, "0": False, "exec": False, "": False}


def arguments() -> argparse.Namespace:
    """The parsed and checked command line; the environment fills in what it leaves out. Raises ConfigError."""
    parser = argparse.ArgumentParser(
        prog="process.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Segment tumour lesions in one whole-body FDG PET/CT study.\n"
        "Research use only; not a medical device.",
        epilog="What a run cost, second by second and at its peak of memory, is in --report.",
    )
    _add_study_options(parser)
    _add_result_options(parser)
    add_measure_options(parser)
    _add_service_options(parser)
    parser.add_argument(
        "--debug", action="store_true", help="show the traceback of an error (default: only its message; cost: none)"
    )
    parser.add_argument(
        "--version",
        action="version",
        version=f"petct-lesion-segmentation {__version__}",
        help="print the version and stop (default: no; cost: none)",
    )
    options = parser.parse_args()
    check(options)
    options.unused_mount = not (options.weights or options.method) and _mount_lacks_a_bundle()
    return options


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for a value that no run can use; turns the edition into a number."""
    if len(options.input) > 2:
        raise ConfigError(f"--input takes a folder, or PET and CT, got {len(options.input)} paths")
    if options.method and options.method not in METHODS:
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, got {options.method!r}")
    if options.device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"--device must be one of auto, cuda, cpu, got {options.device!r}")
    check_choice_options(options)
    check_measure_options(options)
    if options.edition not in ("1", "2", "3", "4", "5"):
        raise ConfigError(f"--edition must be 1 to 5, got {options.edition!r}")
    options.edition = int(options.edition)
    _check_service(options)


def _check_service(options: argparse.Namespace) -> None:
    serve = os.environ.get("LESION_SERVE", "")
    if serve not in SERVE:
        raise ConfigError(f"LESION_SERVE must be 1 or invoke, 0 or exec, or empty, got {serve!r}")
    options.serve = options.serve or SERVE[serve]
    try:
        ip_address(options.bind)
    except ValueError:
        raise ConfigError(f"--bind must be an IP address such as {HOST} or 0.0.0.0, got {options.bind!r}") from None
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port must be 0 to 65535, got {options.port}")


def _mount_lacks_a_bundle() -> bool:
    """Whether files were mounted where a bundle may be, but no bundle is among them: a warning then says so."""
    with suppress(OSError):  # an unreadable folder is an error once the weights are looked for
        return MOUNTED.is_dir() and any(MOUNTED.iterdir()) and not (MOUNTED / "manifest.json").is_file()
    return False


def _add_study_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--input",
        nargs="+",
        type=Path,
        default=[Path("/input")],
        metavar="PATH",
        help="a folder with images/pet and images/ct, or two files: PET in SUV, CT in HU, as MHA, MHD, NRRD or "
        "NIfTI; with weights that see PET alone, images/pet or one file is enough, and a CT is not read (default: "
        "/input; cost: compressed files take longer to read than uncompressed ones)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("/output"),
        metavar="DIR",
        help="where the mask goes, below images/; made if absent (default: /output; cost: the compressed mask)",
    )
    parser.add_argument(
        "--weights",
        default=os.environ.get("LESION_WEIGHTS") or None,
        metavar="FOLDER_OR_NAME",
        help="a weight bundle: a folder with manifest.json, or a name under weights/ (default: weights/METHOD if "
        "--method is given, else /opt/ml/model if it holds a manifest.json, else weights/eoa, or the first of the "
        "WEIGHTS that an image was built with; environment: LESION_WEIGHTS; cost: time and memory grow with the "
        "network's widths and window)",
    )
    parser.add_argument(
        "--method",
        default=os.environ.get("LESION_METHOD") or None,
        metavar="|".join(METHODS),
        help="eoa: mean of all members' predictions; diwa: one network of averaged weights (default: what the bundle "
        "says; environment: LESION_METHOD; cost: eoa takes the time of all members, diwa of one)",
    )
    parser.add_argument(
        "--device",
        default="auto",
        metavar="auto|cuda|cpu",
        help="auto takes an NVIDIA GPU where one works (default: auto; cost: the CPU is many times slower for wide "
        "networks)",
    )
    add_choice_options(parser)


def _add_result_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--edition",
        default=os.environ.get("AUTOPET_EDITION") or "2",
        metavar="1..5",
        help="autoPET edition: IV and V have another output folder, III also gets data-centric-model.json (default: 2; "
        "environment: AUTOPET_EDITION; cost: none)",
    )
    parser.add_argument(
        "--preview",
        action="store_true",
        help="also write OUTPUT/<name>_preview.png, projections with the mask outlined (default: no; cost: little)",
    )
    parser.add_argument(
        "--save-probabilities",
        action="store_true",
        help="also write OUTPUT/<name>_probabilities.nrrd, float32 in [0, 1] on the PET grid (default: no; cost: "
        "4 bytes a voxel of memory, up to that on the disk, and the time to compress it)",
    )
    parser.add_argument(
        "--organs",
        action="store_true",
        help="also write OUTPUT/<name>_organs.mha, the organs that the bundle's networks know besides lesions, as "
        "labels on the PET grid, and each organ's SUV in --report; needs networks with an organ head; the output then "
        "holds a second .mha (default: no; cost: 4 bytes of memory a class and voxel of the network, 44 with eleven "
        "classes, and on a CPU as much again where networks are averaged)",
    )
    parser.add_argument(
        "--report",
        type=Path,
        metavar="FILE.json",
        help="also write lesions, volume in ml, seconds a stage, memory in bytes, versions, weights' sha256 "
        "(default: no; cost: none)",
    )
    parser.add_argument(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="move a limit on the input, for example pet_max_suv=2000 (SUV), ct_min_hu=0 (HU) or spacing_max_mm=60 "
        "(mm); may be repeated (default: the bundle's; cost: none)",
    )


def _add_service_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--serve",
        action="store_true",
        help="stay, and run a study for every POST /invoke, from the input to the output folder; GET /health is 200 "
        "once the weights are loaded (default: no, one run; environment: LESION_SERVE=1; cost: the memory of all "
        "networks at once)",
    )
    parser.add_argument(
        "--bind",
        default=os.environ.get("LESION_BIND") or HOST,
        metavar="ADDRESS",
        help=f"the address where the service listens; 0.0.0.0 lets other machines and containers start jobs (default: "
        f"{HOST}, this machine alone; environment: LESION_BIND; cost: none)",
    )
    parser.add_argument(
        "--port",
        type=int,
        default=PORT,
        metavar="NUMBER",
        help=f"where the service listens, 0 for any free port (default: {PORT}, grand-challenge's; cost: none)",
    )
