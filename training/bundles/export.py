"""A selection as a bundle that the container reads, checked by repeating a validation case through process.py.

    python -m training export runs/selection.json --choice eoa_greedy --name my-eoa --output weights/my-eoa \\
        --index index.csv --data "autoPET II, 811 studies" --licence MIT

EoA becomes one file a member, whose weight is how often it was chosen; DiWA one file, the mean of weights. Network,
intensity, crop and window are those of the members. With --index, one validation case goes through process.py, and
its mask must be the selection's own to a Dice of 0.99 (the cache rounds SUV, HU and logits); else nothing is left.
--skip-suv is written into the bundle only if no voxel of any mask changes by it in the cases of --skip-index.
"""

import argparse
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.bundle.format import CHANNELS, FORMAT_VERSION, Manifest, Member, Provenance
from model.bundle.settings import Crop
from model.errors import ConfigError, OutputError, WeightsError
from model.inference.device import choose_device
from training.bundles.check_mask import compare, in_crop, run_process
from training.bundles.check_skip import check_skip
from training.bundles.evaluate import PATIENTS, TRAINED_ON
from training.bundles.write import METHOD_OF, check_name, state_sha256, write_bundle
from training.command import ENDS, told
from training.commit import commit
from training.data.prepared import is_current
from training.data.table import read_table
from training.ensembles.candidates import Candidate, check_one_start, read_candidates
from training.ensembles.scoreboard import Bench
from training.ensembles.select import FORMAT, TITLES
from training.runs.checkpoint import State, read_json, read_weights, result_file

UNKNOWN = "unknown"
USE = "Research only. Not a medical device."


@dataclass(frozen=True, kw_only=True)
class Chosen:
    """One choice of a selection: its members by how often they count, what the report says of both, and the crop."""

    report: dict[str, Any]
    choice: dict[str, Any]
    members: dict[str, Candidate]
    crop: Crop

    @property
    def names(self) -> tuple[str, ...]:
        """The members, each as often as it counts."""
        return tuple(name for name, count in self.choice["weights"].items() for _ in range(count))


def export(
    selection: Path,
    choice: str,
    name: str,
    output: Path,
    *,
    data: str = UNKNOWN,
    licence: str = UNKNOWN,
    intended_use: str = USE,
    attribution: str | None = None,
    half: bool = False,
    index: Path | None = None,
    check_case: str | None = None,
    trained_on: Sequence[str] = (),
    wanted: str = "auto",
    force: bool = False,
    skip_suv: float | None = None,
    skip_index: Sequence[Path] = (),
) -> None:
    """Write the bundle of a choice of `selection`, one of training.ensembles.select.TITLES, into the folder `output`.

    attribution: whose work it rests on, default the papers. half: float16 files, which needs the check. index:
    that of the cases, for the check; check_case: a validation case, default the first with lesion. trained_on:
    cases to name in the provenance besides those the runs know of. skip_suv: windows whose PET holds nothing above it
    are not run, if that changes no mask of the studies in the tables skip_index.
    Raises ConfigError, CaseError, WeightsError or OutputError; then what was at `output` is left as it was.
    """
    if half and index is None:
        raise ConfigError("--half needs --index: float16 is shipped only where the masks were compared")
    if (skip_suv is None) != (not skip_index):
        raise ConfigError("--skip-suv and --skip-index need each other: windows are left out only where that was tried")
    if output.exists() and not force:
        raise ConfigError(f"'{output}' is there already; choose another --output, or --force to replace it")
    chosen = read_choice(selection, choice)
    scores = provenance_scores(chosen, choice, trained_on)
    settings = next(iter(chosen.members.values())).settings
    tried = [study for table in skip_index for study in read_table(table).values()]
    if tried:
        scores["skip_suv_tried_on_cases"] = [study.case for study in tried]
    origin = Provenance(
        data=data,
        commit=commit(),
        date=time.strftime("%Y-%m-%d"),
        scores=scores,
        attribution=attribution or METHOD_OF[settings.network.kind],
    )
    states, weights = bundle_states(chosen)
    start = start_sha256(list(chosen.members.values()))

    def manifest(written: tuple[Member, ...]) -> Manifest:
        return Manifest(
            format_version=FORMAT_VERSION,
            name=name,
            kind=settings.network.kind,
            network=settings.network,
            channels=CHANNELS[settings.network.kind],
            intensity=settings.intensity,
            crop=chosen.crop,
            window=settings.window,
            method=chosen.choice["method"],
            members=written,
            provenance=origin,
            intended_use=intended_use,
            licence=licence,
            skip_suv=skip_suv,
        )

    def write(folder: Path, replace: bool = False) -> None:
        write_bundle(folder, states, manifest, weights=weights, start_sha256=start, half=half, force=replace)

    try:
        if index is not None or tried:
            with tempfile.TemporaryDirectory(prefix="export-") as place:
                write(Path(place) / "bundle")
                if index is not None:
                    print(check(chosen, Path(place), index, check_case, wanted), flush=True)
                if tried:
                    print(check_skip(Path(place) / "bundle", tried, wanted), flush=True)
        write(output, force)
    except OSError as error:
        raise OutputError(f"cannot write '{output}': {error.strerror or error}; is there space, and may you?") from None


def read_choice(selection: Path, choice: str) -> Chosen:
    """A choice and its runs. Raises ConfigError if there is no such one, or if a run is not the selected one."""
    report = read_json(selection, "make it with training select")
    if not isinstance(report, dict) or report.get("format") != FORMAT:
        raise ConfigError(f"'{selection}' is no selection of this version; make it with training select")
    try:
        if choice not in report["choices"]:
            raise ConfigError(f"'{selection}' has no choice {choice!r}; it has {', '.join(report['choices'])}")
        said, crop = report["choices"][choice], Crop(**report["crop"])
        known = {member["name"]: (Path(member["run"]), member["sha256"]) for member in report["members"]}
        method, runs = said["method"], {name: known[name] for name in said["weights"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ConfigError(f"'{selection}' is damaged ({error}); make it again with training select") from None
    members = read_candidates(run for run, _ in runs.values())
    for name, one in members.items():
        if one.sha256 != runs[name][1]:
            raise WeightsError(f"'{one.weights}' is not what was selected in '{selection}'; run training select again")
    if method == "diwa":
        check_one_start(list(members.values()))
    return Chosen(report=report, choice=said, members=members, crop=crop)


def bundle_states(chosen: Chosen) -> tuple[dict[str, State], list[float]]:
    """The bundle's networks by name, and their weights."""
    counts = chosen.choice["weights"]
    if chosen.choice["method"] == "diwa":
        bench = Bench(chosen.members, Path(chosen.report["cache"]), [], Path(), choose_device("cpu"))
        return {"soup": bench.soup_network(counts).state_dict()}, [1.0]
    return {name: read_weights(chosen.members[name].weights) for name in counts}, [float(n) for n in counts.values()]


def start_sha256(members: Sequence[Candidate]) -> str | None:
    """The hash of theta_0's tensors; None if the members started from several networks, or from none.

    Raises ConfigError if the base run is not where it was.
    """
    starts = {one.start for one in members}
    if len(starts) > 1 or None in starts:
        return None
    base = next((one.base for one in members if one.base), None)
    if base is None:
        raise ConfigError(
            f"the base run that '{members[0].folder}' started from is not there any more: put it beside that folder, "
            f"or beside '{members[0].folder.parent}', under the name it had"
        )
    return state_sha256(read_weights(result_file(base)))


def provenance_scores(chosen: Chosen, choice: str, trained_on: Sequence[str]) -> dict[str, Any]:
    """What the manifest says of the validation, and of every case that trained or selected the members."""
    cases = chosen.report["cases"]
    used = {*cases, *chosen.report["trained_on"], *trained_on}
    return {
        "choice": TITLES[choice],
        "validation": {key: chosen.choice[key] for key in ("dice", "fpv_ml", "fnv_ml")},
        "selected_on_cases": len(cases),
        "selected_on_cases_with_lesion": len(chosen.report["cases_with_lesion"]),
        TRAINED_ON: sorted(used),
        PATIENTS: chosen.report["patients"],
    }


def check(chosen: Chosen, place: Path, index: Path, case: str | None, wanted: str) -> str:
    """Repeat a case through process.py with the bundle at place/"bundle"; what was found, as a line.

    Raises ConfigError for a case that the check cannot use, CaseError or WeightsError if process.py fails or its
    mask is not the selection's.
    """
    case = case or chosen.report["cases_with_lesion"][0]
    if case not in chosen.report["cases"]:
        raise ConfigError(f"--check-case {case} is none of the cases that were selected on")
    studies, cache = read_table(index), Path(chosen.report["cache"])
    if case not in studies:
        raise ConfigError(f"index '{index}' has no case {case}, which was selected on; give the index it stands in")
    if not is_current(studies[case], cache, chosen.crop):
        raise ConfigError(f"the files of case {case} in '{index}' are not those that '{cache}' was prepared from")
    bench = Bench(chosen.members, cache, [case], place / "margins", choose_device(wanted))
    if chosen.choice["method"] == "diwa":
        expected = bench.soup_margin(chosen.names, case) > 0
    else:
        bench.run_all()
        expected = bench.mean_margin(chosen.names, case) > 0
    mask = run_process(studies[case], place / "bundle", place / "output", wanted)
    return compare(case, *in_crop(mask, studies[case], chosen.crop), expected)


def main(arguments: list[str] | None = None) -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    options = parse(arguments)
    try:
        check_name(options.name)
        export(
            options.selection,
            options.choice,
            options.name,
            options.output,
            data=options.data,
            licence=options.licence,
            intended_use=options.intended_use,
            attribution=options.attribution,
            half=options.half,
            index=options.index,
            check_case=options.check_case,
            wanted=options.device,
            force=options.force,
            skip_suv=options.skip_suv,
            skip_index=options.skip_index,
        )
    except ENDS as error:
        return told(error)
    size = sum(path.stat().st_size for path in options.output.iterdir()) / 1e6
    checked = "" if options.index else "; not checked through process.py (give --index)"
    print(f"wrote '{options.output}', {size:.1f} MB{checked}; segment with: process.py --weights '{options.output}'")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training export",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Cost: the members once over the checked case, process.py once; twice over each case of --skip-index.",
    )
    add = parser.add_argument
    add("selection", type=Path, metavar="JSON", help="what training select wrote")
    add("--choice", choices=tuple(TITLES), required=True, help="which choice of it")
    add("--name", required=True, help="name of the bundle in its manifest")
    add("--output", type=Path, required=True, metavar="DIR", help="the bundle's folder, for example weights/NAME")
    add("--data", required=True, metavar="TEXT", help="what the members were trained on, in words")
    add("--licence", required=True, metavar="TEXT", help="of the weights")
    add("--intended-use", default=USE, metavar="TEXT", help=f"default: {USE}")
    add("--attribution", metavar="TEXT", help="whose work it rests on (default: the papers of the method)")
    add("--index", type=Path, metavar="CSV", help="index of the cases: one is checked through process.py (default: no)")
    add("--check-case", metavar="CASE", help="a case selected on (default: the first with lesion)")
    add("--half", action="store_true", help="store float16, half the size; needs --index (default: float32)")
    add("--skip-suv", type=float, metavar="SUV", help="run no window without PET above it (default: run all)")
    add("--skip-index", type=Path, nargs="+", default=(), metavar="CSV", help="indexes of the cases it is tried on")
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="of the check (default: auto)")
    add("--force", action="store_true", help="replace a bundle at --output (default: no)")
    return parser.parse_args(arguments)
