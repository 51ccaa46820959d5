"""Make the shipped weights, and score their procedure on patients that no network was trained on.

    python -m training nested --real ../shared/data/sts --run runs/shipped
    python -m training nested --real ../shared/data/sts --run runs/shipped --ship --output weights

The first command divides the real patients into outer folds. For each, base run, members and selection use the other
folds and phantoms only, a part of which validates; then the fold's patients are scored, each re-cropped at random.
--fold N does one fold, so that several can run side by side. --ship runs the same procedure on all patients and writes
the plan's bundles, weights/eoa and weights/diwa. --all does that first, then the outer folds. It can be stopped at any
moment: finished work is not done again. At its end, and where --minutes stop it, it says what is done and what is
missing.
"""

import argparse
import fcntl
from pathlib import Path

from msgspec.structs import replace

from model.errors import ConfigError, LesionError
from model.results.writing import check_output
from model.schema import build
from model.whole import locked
from training.command import add_device_option, option_words
from training.ensembles.slurm_jobs import FIRST, RUNS, SUMMARY, add_slurm_options, check_slurm_options, write_jobs
from training.papers.going_on import put_back
from training.papers.nested_data import data_of
from training.papers.nested_folds import common_words, fold_words, train_start
from training.papers.nested_progress import missing_parts, report_lines
from training.papers.nested_runs import planned_runs
from training.papers.nested_scores import score_outer_folds
from training.papers.nested_shipping import is_written, ship
from training.papers.procedure import add_data_options, check_processes
from training.papers.shipping import PLAN, Shipping
from training.papers.state import RUNS as RUNS_OF_STATE
from training.papers.state import write_state
from training.settings import read_yaml
from training.stopping import StoppedInTime, add_minutes_option
from training.weights.checkpoint import CONFIG, result_file


def run(options: argparse.Namespace) -> None:
    """Score the outer folds, or write the bundles. Raises the errors of training, selection and export."""
    check(options)
    shipping = build(Shipping, read_yaml(options.plan), str(options.plan))
    if options.start:
        shipping = replace(shipping, starts={})  # the run that was given takes their place
    if options.slurm:
        write_nested_jobs(options)
        return
    check_places(options)
    try:
        work(shipping, options)
    except ConfigError:
        raise  # nothing was done
    except (StoppedInTime, LesionError):
        end_piece(shipping, options)
        raise
    end_piece(shipping, options)


def end_piece(shipping: Shipping, options: argparse.Namespace) -> None:
    """Say what is done and what is missing, and write the state with --state; a single fold leaves both to others."""
    if options.fold is not None:
        return
    print("\n".join(report_lines(shipping, options.run, options.outer)), flush=True)
    if options.state and any(options.run.glob(f"**/{CONFIG}")):
        print(write_state(options.run, options.state, fit=True), flush=True)


def work(shipping: Shipping, options: argparse.Namespace) -> None:
    """Make the data, train what all folds begin with, then what the options ask for."""
    with locked(options.run, fcntl.LOCK_EX):  # one process makes the data that all folds share, the others wait for it
        data = data_of(shipping, options)
        if options.state and (options.state / RUNS_OF_STATE).exists():
            put_back(options.state, options.run, planned_runs(shipping, data, options), data.cache)
        start = options.start or train_start(shipping, data, options)
    if options.only == FIRST:
        return
    if options.only == SUMMARY and (missing := missing_parts(shipping, options.run, options.outer)):
        raise LesionError(f"not done in '{options.run}': {', '.join(missing)}; see the logs of their jobs")
    if options.ship or (options.all and not is_written(shipping, data, options)):
        ship(shipping, data, start, options)
    if not options.ship:
        score_outer_folds(shipping, data, start, options)


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that are wrong or do not go together, before hours of training."""
    if (options.real is None) == (options.pack is None):
        raise ConfigError("give --real, a data set, or --pack, a file of training pack, and not both")
    if options.ship and options.all:
        raise ConfigError("--all does what --ship does, and then the outer folds; leave one of them out")
    if (options.ship or options.all) and (options.fold is not None or options.output is None):
        raise ConfigError("--ship and --all train on all patients; give them without --fold, and with --output")
    if options.ship and options.views:
        raise ConfigError("--views scores the patients of outer folds, and --ship trains on all; leave one of them out")
    if not (options.ship or options.all) and options.output is not None:
        raise ConfigError("--output is for --ship and --all: outer folds write no bundle; leave it out")
    check_slurm_options(options, ("only", "parallel", "minutes", "fold", "ship", "state"))
    if options.slurm and not options.all:
        raise ConfigError("--slurm makes jobs of what ships and of every outer fold; give --all and --output, too")
    if options.only and (options.ship or options.fold is not None):
        raise ConfigError("--only is a part of the whole procedure; give it without --ship and --fold")
    if options.state and options.fold is not None:
        raise ConfigError("--state is of all folds; give it without --fold")
    if options.state and options.state.exists() and not options.state.is_dir():
        raise ConfigError(f"--state '{options.state}' is a file; name a folder")
    if options.outer < 2:
        raise ConfigError(
            f"--outer must be 2 or more, got {options.outer}: every fold tests networks that the others trained"
        )
    check_processes(options)
    if options.fold is not None and not 0 <= options.fold < options.outer:
        raise ConfigError(f"--fold must be from 0 to {options.outer - 1}, got {options.fold}")
    if not 0 < options.validation < 1:
        raise ConfigError(f"--validation must be a share in (0, 1), got {options.validation:g}")


def check_places(options: argparse.Namespace) -> None:
    """Raise ConfigError or OutputError for folders that are not there, or cannot be written to, before any work."""
    if options.real and not options.real.is_dir():
        raise ConfigError(f"--real '{options.real}' is no folder; give the folder of a data set")
    if options.start:
        result_file(options.start)
    for folder in (options.run, options.output, options.state):
        if folder:
            check_output(folder)


def write_nested_jobs(options: argparse.Namespace) -> None:
    """Write, and with --submit submit, the jobs of --all: data and starts, what ships and every fold, the summary."""
    words = common_words(options)
    output = option_words({"output": options.output.resolve(), "data": options.data, "licence": options.licence})
    folds = [fold_words(options, number) for number in range(options.outer)]
    last = [*words, *["--views"] * options.views, "--all", *output, "--only", SUMMARY]
    stages = {FIRST: [[*words, "--only", FIRST]], RUNS: [[*words, "--ship", *output], *folds], SUMMARY: [last]}
    write_jobs(options.run, stages, options, "nested")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: training/README.md has the hours; 5 bytes a voxel of every study and copy on disk."
    add = parser.add_argument
    add("--real", type=Path, metavar="ROOT", help="data set of real studies, as training index reads it, or --pack")
    add(
        "--pack",
        type=Path,
        metavar="FILE",
        help="prepared studies of training pack in place of --real; phantoms that it lacks are made (default: none)",
    )
    add("--run", type=Path, required=True, help="folder of everything that is made")
    add("--ship", action="store_true", help="train on all patients and write the bundles (default: outer folds)")
    add(
        "--all",
        action="store_true",
        help="first what --ship does, then the outer folds, in one command (default: one of the two)",
    )
    add(
        "--start",
        type=Path,
        metavar="RUN",
        help="finished run on phantoms alone that base runs go on from "
        "(default: trained as the plan says, below --run)",
    )
    add(
        "--state",
        type=Path,
        metavar="DIR",
        help="small folder to go on from elsewhere: read when the command begins in a --run without runs, and written "
        "when it ends or stops in time; see training state (default: none)",
    )
    add(
        "--plan",
        type=Path,
        default=PLAN,
        help="YAML (default training/configs/shipped.yaml)",
    )
    add("--outer", type=int, default=3, help="outer folds (default 3)")
    add(
        "--fold",
        type=int,
        metavar="N",
        help="only outer fold N, counted from 0, so that several run side by side, "
        "on a GPU or a core each; the command without it then sums up what they did (default: all, in turn)",
    )
    add("--validation", type=float, default=0.2, help="share of the patients not tested that validates (default 0.2)")
    add(
        "--views",
        action="store_true",
        help="also score each outer fold's whole images with less of the body and with "
        "air around them (cost: on a GPU half a minute a fold, on two CPU cores an hour)",
    )
    add("--diagnosis", default="sarcoma", help="for real studies that state none (default sarcoma)")
    add("--site", default="sts", help="for real studies that state none (default sts)")
    add(
        "--data",
        default="",
        metavar="TEXT",
        help="text on the patients for the bundles' manifests: whose they are, "
        "where they were published, under which licence, whom to cite (default: nothing)",
    )
    add("--licence", default="unknown", metavar="TEXT", help="licence of the bundles (default unknown)")
    add(
        "--output",
        type=Path,
        metavar="DIR",
        help="where --ship and --all write the bundles; bundles of the same names are replaced",
    )
    add(
        "--only",
        choices=(FIRST, SUMMARY),
        help="do only this part, as a job of --slurm does: first (data and runs on phantoms alone) or summary (all "
        "scores, if everything is done; default: everything)",
    )
    add_data_options(parser)
    add_device_option(parser)
    add_minutes_option(parser)
    add_slurm_options(parser)
