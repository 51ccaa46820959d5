"""Write a selection as a bundle that the container reads, and check a validation case of it through process.py.

    python -m training export runs/selection.json --choice eoa_greedy --name my-eoa --output weights/my-eoa \\
        --index index.csv --data "autoPET II, 811 studies" --licence MIT

EoA becomes one file a member, weighted by how often it was chosen; DiWA one file, the mean of weights. Network,
intensity, crop and window are the members' own. With --index, one validation case goes through process.py, and its mask
must agree with the selection's to a Dice of 0.99 (the cache rounds SUV, HU and logits); else no bundle is written.
--skip-suv is written into the bundle only if it changes no voxel of any mask in the cases of --skip-index.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.bundle.format import FORMAT_VERSION, Manifest, Member, Provenance, channels_of
from model.bundle.settings import Crop
from model.errors import ConfigError, WeightsError
from training.bundles.check_mask import compare, in_crop, run_process
from training.bundles.check_skip import check_skip
from training.bundles.trained_on import PATIENTS, TRAINED_ON
from training.bundles.write import METHOD_OF, check_bundle_name, check_not_there, state_sha256, write_bundle
from training.command import add_device_option
from training.commit import commit
from training.compute.device import scoring_device
from training.data.prepared import is_current
from training.data.table import read_table
from training.ensembles.candidates import Candidate, check_one_start, read_candidates
from training.ensembles.scoreboard import Scoreboard
from training.ensembles.select import FORMAT, TITLES
from training.weights.checkpoint import State, read_json, read_weights, result_file

UNKNOWN = "unknown"
USE = "Research only. Not a medical device."


@dataclass(frozen=True, kw_only=True)
class ExportOptions:
    """What `export` writes, and what it is checked by. Raises ConfigError for options that do not go together.

    selection: selection.json of training select; choice: one of training.ensembles.select.TITLES; name: in the
    manifest; output: the bundle's folder. attribution: whose work it rests on, default the papers. half: float16 files,
    which need the check. index: table of the cases, for the check; check_case: a validation case, default the first
    with lesion. hours: of training, for the provenance; trained_on: cases to name there besides the runs' own.
    skip_suv: windows whose PET holds nothing above it are not run, if that changes no mask of the studies in the tables
    skip_index.
    """

    selection: Path
    choice: str
    name: str
    output: Path
    data: str = UNKNOWN
    licence: str = UNKNOWN
    intended_use: str = USE
    attribution: str | None = None
    half: bool = False
    index: Path | None = None
    check_case: str | None = None
    trained_on: Sequence[str] = ()
    device: str = "auto"
    hours: float | None = None
    force: bool = False
    skip_suv: float | None = None
    skip_index: Sequence[Path] = ()

    def __post_init__(self) -> None:
        check_bundle_name(self.name)
        if self.half and self.index is None:
            raise ConfigError("--half needs --index: float16 is shipped only where the masks were compared")
        if (self.skip_suv is None) != (not self.skip_index):
            raise ConfigError(
                "--skip-suv and --skip-index need each other: windows are left out only where that was tried"
            )


@dataclass(frozen=True, kw_only=True)
class Selected:
    """One choice of a selection: its entry in the report, the whole report, its members by name, and the crop."""

    report: dict[str, Any]
    entry: dict[str, Any]
    members: dict[str, Candidate]
    crop: Crop

    @property
    def names(self) -> tuple[str, ...]:
        """The members, each as often as it counts."""
        return tuple(name for name, count in self.entry["weights"].items() for _ in range(count))


def export(options: ExportOptions) -> None:
    """Write the bundle of a choice, after the checks that the options ask for; print what the checks found.

    Raises ConfigError, CaseError, WeightsError or OutputError; then what was at `output` is left as it was.
    """
    check_not_there(options.output, options.force, "--output")
    selected = read_choice(options.selection, options.choice)
    skip_studies = [study for table in options.skip_index for study in read_table(table).values()]
    scores = provenance_scores(selected, options.choice, options.trained_on)
    if options.hours is not None:
        scores["hours_trained"] = round(options.hours, 3)
    if skip_studies:
        scores["skip_suv_tried_on_cases"] = [study.case for study in skip_studies]
    states, weights = bundle_states(selected)
    start = start_sha256(list(selected.members.values()))

    def write(folder: Path, force: bool = False) -> None:
        def manifest(members: tuple[Member, ...]) -> Manifest:
            return manifest_of(selected, options, members, scores)

        write_bundle(folder, states, manifest, weights=weights, start_sha256=start, half=options.half, force=force)

    if options.index is not None or skip_studies:
        with tempfile.TemporaryDirectory(prefix="export-") as place:
            write(Path(place) / "bundle")
            if options.index is not None:
                print(
                    check_one_mask(selected, Path(place), options.index, options.check_case, options.device), flush=True
                )
            if skip_studies:
                print(check_skip(Path(place) / "bundle", skip_studies, options.device), flush=True)
    write(options.output, options.force)


def manifest_of(
    selected: Selected, options: ExportOptions, members: tuple[Member, ...], scores: dict[str, Any]
) -> Manifest:
    """The manifest: network, intensity, crop and window as the members were trained, the rest from the options."""
    settings = next(iter(selected.members.values())).settings
    kind = settings.network.kind
    return Manifest(
        format_version=FORMAT_VERSION,
        name=options.name,
        kind=kind,
        network=settings.network,
        channels=channels_of(settings.network),
        intensity=settings.intensity,
        crop=selected.crop,
        window=settings.window,
        method=selected.entry["method"],
        members=members,
        provenance=Provenance(
            data=options.data,
            commit=commit(),
            date=time.strftime("%Y-%m-%d"),
            scores=scores,
            attribution=options.attribution or METHOD_OF[kind],
        ),
        intended_use=options.intended_use,
        licence=options.licence,
        skip_suv=options.skip_suv,
    )


def read_choice(selection: Path, choice: str) -> Selected:
    """A choice and its runs. Raises ConfigError if the selection has no such choice, WeightsError if a run changed."""
    report = read_json(selection, "make it with training select")
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ConfigError(f"'{selection}' is no selection of this version; make it with training select")
    try:
        if choice not in report["choices"]:
            raise ConfigError(f"'{selection}' has no choice {choice!r}; it has {', '.join(report['choices'])}")
        entry, crop = report["choices"][choice], Crop(**report["crop"])
        known = {member["name"]: (Path(member["run"]), member["sha256"]) for member in report["members"]}
        method, runs = entry["method"], {name: known[name] for name in entry["weights"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"'{selection}' is damaged ({error}); make it again with training select") from None
    members = read_candidates(run for run, _ in runs.values())
    for name, one in members.items():
        if one.sha256 != runs[name][1]:
            raise WeightsError(f"'{one.weights}' is not what was selected in '{selection}'; run training select again")
    if method == "diwa":
        check_one_start(list(members.values()))
    return Selected(report=report, entry=entry, members=members, crop=crop)


def bundle_states(selected: Selected) -> tuple[dict[str, State], list[float]]:
    """The bundle's networks by name, and their weights."""
    counts = selected.entry["weights"]
    if selected.entry["method"] == "diwa":
        scoreboard = Scoreboard(selected.members, Path(selected.report["cache"]), [], Path(), scoring_device("cpu"))
        return {"soup": scoreboard.soup_network(counts).state_dict()}, [1.0]
    return {name: read_weights(selected.members[name].weights) for name in counts}, [float(n) for n in counts.values()]


def start_sha256(members: Sequence[Candidate]) -> str | None:
    """The hash of theta_0's tensors, of its file where the base run's weights are gone: members of one start have the
    same. None if the members started from several networks, or from none.
    """
    starts = {one.start for one in members}
    if len(starts) > 1 or None in starts:
        return None
    base = next((one.base for one in members if one.base), None)
    if base is None:
        return next(iter(starts))
    return state_sha256(read_weights(result_file(base)))


def provenance_scores(selected: Selected, choice: str, trained_on: Sequence[str]) -> dict[str, Any]:
    """For the manifest: scores on the validation cases, and every case that trained or selected the members."""
    cases = selected.report["cases"]
    used = {*cases, *selected.report["trained_on"], *trained_on}
    return {
        "choice": TITLES[choice],
        "validation": {key: selected.entry[key] for key in ("dice", "fpv_ml", "fnv_ml")},
        "selected_on_cases": len(cases),
        "selected_on_cases_with_lesion": len(selected.report["cases_with_lesion"]),
        TRAINED_ON: sorted(used),
        PATIENTS: selected.report["patients"],
    }


def check_one_mask(selected: Selected, place: Path, index: Path, case: str | None, device: str) -> str:
    """Run a case through process.py with the bundle at place/"bundle". Returns the result as a line of text.

    Raises ConfigError for a case that the check cannot use, CaseError or WeightsError if process.py fails or its
    mask is not the selection's.
    """
    case = case or selected.report["cases_with_lesion"][0]
    if case not in selected.report["cases"]:
        raise ConfigError(f"--check-case {case} is none of the cases that were selected on; give one of the selection")
    studies, cache = read_table(index), Path(selected.report["cache"])
    if case not in studies:
        raise ConfigError(f"index '{index}' has no case {case}, which was selected on; give an index that has it")
    if not is_current(studies[case], cache, selected.crop):
        raise ConfigError(
            f"'{cache}' was not prepared from the files of case {case} in '{index}'; run training prepare again"
        )
    scoreboard = Scoreboard(selected.members, cache, [case], place / "margins", scoring_device(device))
    if selected.entry["method"] == "diwa":
        expected = scoreboard.soup_margin(selected.names, case) > 0
    else:
        scoreboard.run_all()
        expected = scoreboard.mean_margin(selected.names, case) > 0
    mask = run_process(studies[case], place / "bundle", place / "output", device)
    return compare(case, *in_crop(mask, studies[case], selected.crop), expected)


def run(options: argparse.Namespace) -> None:
    """Write the bundle, and print its size. Raises ConfigError, CaseError, WeightsError or OutputError."""
    export(ExportOptions(**{name: value for name, value in vars(options).items() if name != "command_line"}))
    size = sum(path.stat().st_size for path in options.output.iterdir()) / 1e6
    checked = "" if options.index else "; not checked through process.py (give --index)"
    print(f"wrote '{options.output}', {size:.1f} MB{checked}; segment with: process.py --weights '{options.output}'")


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: the members once over the checked case, process.py once; twice over each case of --skip-index."
    )
    add = parser.add_argument
    add("selection", type=Path, metavar="JSON", help="what training select wrote")
    add("--choice", choices=tuple(TITLES), required=True, help="which choice of the selection")
    add("--name", required=True, help="name of the bundle in its manifest")
    add("--output", type=Path, required=True, metavar="DIR", help="the bundle's folder, for example weights/NAME")
    add("--data", required=True, metavar="TEXT", help="what the members were trained on, in words")
    add("--licence", required=True, metavar="TEXT", help="licence of the weights")
    add("--intended-use", default=USE, metavar="TEXT", help=f"default: {USE}")
    add("--attribution", metavar="TEXT", help="whose work it rests on (default: the papers of the method)")
    add("--index", type=Path, metavar="CSV", help="index of the cases: one is checked through process.py (default: no)")
    add("--check-case", metavar="CASE", help="a case selected on (default: the first with lesion)")
    add("--half", action="store_true", help="store float16, half the size; needs --index (default: float32)")
    add("--skip-suv", type=float, metavar="SUV", help="run no window without PET above it (default: run all)")
    add("--skip-index", type=Path, nargs="+", default=(), metavar="CSV", help="indexes of the cases it is tried on")
    add_device_option(parser)
    add("--force", action="store_true", help="replace a bundle at --output (default: no)")
