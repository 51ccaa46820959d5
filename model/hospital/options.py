"""The command line of score.py: every option with its default, unit and cost."""

import argparse
import os
import sys
from pathlib import Path

from model import RESEARCH, __version__
from model.bundle.choice_options import add_choice_options, check_choice_options
from model.bundle.settings import METHODS
from model.errors import ConfigError
from model.hospital.cluster_options import add_cluster_options, cluster_of
from model.hospital.edit_options import add_edit_options, asks_for_edits, wanted_edits
from model.hospital.last_run import last_options
from model.hospital.output_options import add_output_options, add_truth_options
from model.hospital.pacs.settings import add_pacs_options, listening_of
from model.results.reference_options import add_sphere_options
from model.results.rule_options import add_rule_options, check_rule_options


def arguments(words: list[str] | None = None) -> argparse.Namespace:
    """The parsed and checked command line. Raises ConfigError."""
    words = sys.argv[1:] if words is None else words
    parser = _parser()
    options = parser.parse_args(words)
    listening_of(options)  # raises ConfigError for what does not go with --listen, before an older run is looked at
    if options.output is None:
        if not asks_for_edits(options):
            parser.error("the following arguments are required: --output")
        wanted_edits(options)
        if options.studies is None:
            raise ConfigError("RESULTS is missing; write score.py RESULTS, and then the options about edits")
        options = _as_last_time(parser, words, options.studies)
    check(options)
    return options


def _as_last_time(parser: argparse.ArgumentParser, words: list[str], results: Path) -> argparse.Namespace:
    """The options of the last run over `results`, with those of this command in their places. Raises ConfigError."""
    values = last_options(results)
    known = vars(parser.parse_args([str(results)]))
    for name, value in values.items():
        if name in known:
            parser.set_defaults(**{name: tuple(value) if isinstance(known[name], tuple) else value})
    options = parser.parse_args(words)
    options.studies, options.output = Path(values["studies"]), results
    return options


def _parser() -> argparse.ArgumentParser:
    """The command line of score.py."""
    parser = argparse.ArgumentParser(
        prog="score.py",
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Segment and measure tumour lesions in every PET/CT study of a folder, offline.\n" + RESEARCH,
        epilog="The same command goes on where a run was interrupted; studies that failed are tried again. Options\n"
        "that only add outputs use the masks that are there. A mask is kept whatever its precision, unless\n"
        "--precision names another one.",
    )
    _add_folders(parser)
    _add_networks(parser)
    _add_input(parser)
    add_output_options(parser)
    add_rule_options(parser.add_argument_group("what is no lesion, and how lesions are drawn"))
    add_edit_options(parser.add_argument_group("edits by hand"))
    add_sphere_options(parser.add_argument_group("what lesions are compared with"))
    add_truth_options(parser)
    add_pacs_options(parser.add_argument_group("PACS (see docs/hospital.md)"))
    add_cluster_options(parser)
    _add_behaviour(parser)
    return parser


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for values that no run can use. Makes paths absolute, `workers` a Cluster or None, and `pacs`
    Listening or None.
    """
    for name in ("limit_minutes", "patience_minutes"):
        if not 0 <= getattr(options, name) <= 1e5:
            raise ConfigError(f"--{name.replace('_', '-')} must be 0 to 100000 min, got {getattr(options, name):g}")
    if options.method and options.method not in METHODS:  # from the environment, which argparse does not check
        raise ConfigError(f"--method must be one of {', '.join(METHODS)}, got {options.method!r}")
    check_choice_options(options)
    check_rule_options(options)
    wanted_edits(options)
    options.output = Path(os.path.abspath(options.output))
    options.pacs = listening_of(options)
    if options.pacs:
        options.rtstruct = options.picture = options.sr = True
    elif options.studies is None:
        raise ConfigError("STUDIES is missing; give the folder that holds the studies, or --listen PORT")
    else:
        options.studies = Path(os.path.abspath(options.studies))
    options.workers = cluster_of(options)
    if options.studies and options.studies.resolve() == options.output.resolve():
        raise ConfigError(f"--output is the folder of studies, '{options.studies}'; give another one")


def _add_folders(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("studies and results").add_argument
    add(
        "studies",
        nargs="?",
        type=Path,
        metavar="STUDIES",
        help="a folder, searched for DICOM PET and CT series and for pairs of MHA, MHD, NRRD or NIfTI files; or a CSV "
        "with the columns pet and ct, and optionally truth, weight_kg (kg), patient and date. Cost: each run reads "
        "every DICOM header below the folder, some milliseconds a file",
    )
    add(
        "--output",
        type=Path,
        metavar="RESULTS",
        help="the folder for results; made if absent; needed, except for score.py RESULTS with --recompute, --masks, "
        "--drop or --undo-edits (cost: about 1 MB a study)",
    )
    add("--dry-run", action="store_true", help="list what would be done, and write nothing (default: no)")


def _add_networks(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("networks")
    add = group.add_argument
    add(
        "--weights",
        default=os.environ.get("LESION_WEIGHTS") or None,
        metavar="FOLDER_OR_NAME",
        help="a weight bundle: a folder with manifest.json, or a name under weights/ (default: weights/METHOD if "
        "--method is given, else /opt/ml/model if it holds a manifest.json, else weights/eoa, or the first of the "
        "WEIGHTS that an image was built with; environment: LESION_WEIGHTS; cost: memory of all its networks)",
    )
    add(
        "--pet-only",
        metavar="FOLDER_OR_NAME",
        help="a weight bundle whose networks see PET alone (channels [PET]), for studies without a CT that can be "
        "used; every output then says 'PET alone, no CT'; --method, --folds and --mirroring are not for it (default: "
        "none, and such a study is not scored; cost: the memory of its networks, once such a study comes)",
    )
    add(
        "--method",
        default=os.environ.get("LESION_METHOD") or None,
        choices=METHODS,
        help="eoa: mean of all members' predictions; diwa: one network of averaged weights (default: what the bundle "
        "says; environment: LESION_METHOD; cost: eoa takes the time of all members, diwa of one)",
    )
    add(
        "--device",
        default="auto",
        choices=("auto", "cuda", "cpu"),
        help="auto takes an NVIDIA GPU where one works (default: auto; cost: the CPU is many times slower)",
    )
    add_choice_options(group)


def _add_input(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("input").add_argument
    add(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="move a limit on the input, as for process.py; may be repeated (default: the bundle's; cost: none)",
    )
    add(
        "--overrides",
        type=Path,
        metavar="FILE",
        help="a CSV of values to use in place of headers: study (its name, StudyInstanceUID or path), weight_kg (kg), "
        "height_m (m), dose_MBq (MBq), injection_time (ISO 8601), sex (M, F); and of what to compare lesions with: "
        "liver_sphere, blood_sphere (as the options), liver_mask, blood_mask (files) (default: STUDIES/overrides.csv "
        "if there is one; cost: the studies whose line changed are scored anew)",
    )


def _add_behaviour(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("behaviour").add_argument
    add(
        "--limit-minutes",
        type=float,
        default=120,
        metavar="N",
        help="give a study up after this many minutes, 0: never (default: 120; cost: none)",
    )
    add(
        "--patience-minutes",
        type=float,
        default=10,
        metavar="N",
        help="how long to wait for a full results disk, a share that is gone or a cluster without workers before the "
        "run stops (default: 10)",
    )
    add(
        "--debug",
        action="store_true",
        help="let the scoring process print, with tracebacks that may hold names (default: no; cost: privacy)",
    )
    add(
        "--version",
        action="version",
        version=f"petct-lesion-segmentation {__version__}",
        help="print the version and stop",
    )
