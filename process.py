"""Segment tumour lesions in one whole-body FDG PET/CT study. Read, load, segment, write; no algorithm here.

Without arguments this is grand-challenge.org's contract: /input/images/pet and /input/images/ct in,
/output/images/automated-petct-lesion-segmentation/<CT name>.mha out.
"""

import time

START = time.perf_counter()  # before the imports, so that they are counted

import argparse  # noqa: E402
import os  # noqa: E402
import signal  # noqa: E402
import sys  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from model import __version__  # noqa: E402
from model.config import METHODS, override_limits  # noqa: E402
from model.errors import ConfigError, LesionError  # noqa: E402
from model.manifest import Bundle, find_bundle, load_bundle  # noqa: E402


def main() -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    options = arguments()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that temporary files are removed
    try:
        run(options)
        return 0
    except LesionError as error:
        if options.debug:
            raise
        return fail(str(error), error.exit_code)
    except KeyboardInterrupt:
        return fail("interrupted; no output was written", 130)
    except Exception as error:
        if options.debug:
            raise
        return fail(f"unexpected {type(error).__name__}: {error}; run again with --debug and report what it prints", 1)


def run(options: argparse.Namespace) -> None:
    """One study, from the arguments to the renamed mask. Raises the errors of model/errors.py, then leaves no file."""
    bundle = chosen_bundle(options)
    verified = time.perf_counter()

    from model.files import Staging
    from model.reading import read_case
    from model.writing import check_only_mask, check_output, mask_path

    check_output(options.output)
    case = read_case(options.input, bundle.manifest.limits)
    target = mask_path(options.output, case.name, options.edition)
    check_only_mask(options.output, target)
    read = time.perf_counter()

    from model.device import choose_device, make_deterministic  # torch comes in here: inputs are known to be good
    from model.report import make_report, summary
    from model.segment import Stopwatch, segment

    make_deterministic()
    device = choose_device(options.device)
    watch = Stopwatch(
        seconds={"start": verified - START, "read": read - verified, "import": time.perf_counter() - read}
    )
    warnings = [*case.warnings, *([device.warning] if device.warning else [])]
    tell(warnings)
    print(f"{bundle.manifest.name} ({bundle.manifest.method}) on {device.name}", flush=True)
    with progress_bar() as progress:
        result = segment(case, bundle, device, watch, progress, options.save_probabilities)
    tell(list(result.warnings))
    with Staging() as staging:
        with watch.stage("write"):
            write(options, case, result, target, staging)
        report = make_report(case, bundle, device, result, [*warnings, *result.warnings], watch.seconds)
        if options.report:
            from model.writing import write_json

            write_json(report, options.report, staging)
        staging.commit()
    print("\n".join(summary(report, str(target))), flush=True)
    print(f"total {time.perf_counter() - START:.1f} s", flush=True)


def chosen_bundle(options: argparse.Namespace) -> Bundle:
    """The bundle that the options or the environment name, verified, with --limit applied."""
    bundle = load_bundle(find_bundle(options.weights, options.method), options.method)
    limits = override_limits(bundle.manifest.limits, options.limit)
    return replace(bundle, manifest=replace(bundle.manifest, limits=limits))


def write(options: argparse.Namespace, case: Any, result: Any, target: Path, staging: Any) -> None:
    """Stage the mask and whatever else was asked for."""
    from model import writing

    writing.write_mask(result.mask, case.pet.grid, target, staging)
    if options.edition == 3:
        writing.write_json(False, options.output / writing.DATA_CENTRIC, staging)
    if options.save_probabilities:
        name = options.output / f"{case.name}_probabilities.nrrd"
        writing.write_probabilities(result.probability, case.pet.grid, name, staging)
    if options.preview:
        from model.geometry import las_view
        from model.preview import preview
        from model.report import RESEARCH

        view = las_view(case.pet.grid)
        picture = preview(
            view.to_las(case.pet.array), view.to_las(result.mask), view.grid.spacing_mm, f"{case.name}  {RESEARCH}"
        )
        writing.write_bytes(picture, options.output / f"{case.name}_preview.png", staging)


def arguments() -> argparse.Namespace:
    """The parsed and checked command line; the environment fills in what it leaves out."""
    parser = argparse.ArgumentParser(
        prog="process.py",
        description="Segment tumour lesions in one whole-body FDG PET/CT study. Research use only; not a medical "
        "device.",
        epilog="Costs are for a 4 mm whole-body study with the shipped weights on 2 CPU cores.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--input", nargs="+", type=Path, default=[Path("/input")], metavar="PATH",
        help="a folder with images/pet and images/ct, or two files: PET in SUV, CT in HU, as MHA, MHD, NRRD or "
             "NIfTI (default: /input)")
    add("--output", type=Path, default=Path("/output"), metavar="DIR",
        help="where the mask goes, below images/; made if absent (default: /output)")
    add("--weights", default=os.environ.get("LESION_WEIGHTS") or None, metavar="FOLDER_OR_NAME",
        help="a weight bundle: a folder with manifest.json, or a name under weights/ (default: weights/METHOD if "
             "--method is given, else /opt/ml/model if it holds a manifest.json, else weights/eoa; environment: "
             "LESION_WEIGHTS)")
    add("--method", default=os.environ.get("LESION_METHOD") or None, metavar="|".join(METHODS),
        help="eoa: mean of all members' predictions, time grows with their number; diwa: one network of averaged "
             "weights, the time of one (default: what the bundle says; environment: LESION_METHOD)")
    add("--device", default="auto", metavar="auto|cuda|cpu",
        help="auto takes an NVIDIA GPU where one works; CUDA computes in half precision, the CPU in float32 "
             "(default: auto)")
    add("--edition", default=os.environ.get("AUTOPET_EDITION") or "2", metavar="1..5",
        help="autoPET edition, sets the output folder (IV, V) and writes III's data-centric-model.json (default: 2; "
             "environment: AUTOPET_EDITION)")
    add("--preview", action="store_true",
        help="also write OUTPUT/<name>_preview.png, projections with the mask outlined (default: no; costs under 1 s)")
    add("--save-probabilities", action="store_true",
        help="also write OUTPUT/<name>_probabilities.nrrd, float32 in [0, 1] on the PET grid (default: no; costs "
             "about 1 s and up to 4 bytes a voxel)")
    add("--report", type=Path, metavar="FILE.json",
        help="also write lesions, volume in ml, seconds a stage, memory in bytes, versions, weights' sha256 "
             "(default: no; costs nothing)")
    add("--limit", action="append", default=[], metavar="NAME=VALUE",
        help="move a limit on the input, for example pet_max_suv=2000 (SUV) or ct_min_hu=0 (HU); may be repeated "
             "(default: the bundle's)")
    add("--debug", action="store_true", help="show the traceback of an error (default: only its message)")
    add("--version", action="version", version=f"petct-lesion-segmentation {__version__}")
    options = parser.parse_args()
    try:
        check(options)
    except ConfigError as error:
        parser.exit(error.exit_code, f"error: {error}\n")
    return options


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for a value that no run can use; turns the edition into a number."""
    if len(options.input) > 2:
        raise ConfigError(f"--input takes a folder, or PET and CT, got {len(options.input)} paths")
    if options.method and options.method not in METHODS:
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, got {options.method!r}")
    if options.device not in ("auto", "cuda", "cpu"):
        raise ConfigError(f"--device must be one of auto, cuda, cpu, got {options.device!r}")
    if options.edition not in ("1", "2", "3", "4", "5"):
        raise ConfigError(f"--edition must be 1 to 5, got {options.edition!r}")
    options.edition = int(options.edition)


def progress_bar() -> Any:
    """A bar over windows on a terminal, a plain line every tenth of the way elsewhere."""
    from model.progress import Progress

    return Progress(sys.stderr)


def tell(warnings: list[str]) -> None:
    for warning in warnings:
        print(f"warning: {warning}", file=sys.stderr, flush=True)


def fail(message: str, code: int) -> int:
    """The whole message as one last line on stderr."""
    sys.stdout.flush()
    print(f"error: {' '.join(message.split())}", file=sys.stderr, flush=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
