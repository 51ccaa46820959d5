"""Which members make the ensemble (EoA) and the mean of weights (DiWA): uniform and greedy, on validation cases.

    python -m training select runs/members/*/ --cache runs/cache --split split.json --output runs/selection.json

Ranks the runs by validation Dice, then chooses by algorithms 1 and 2 of Ahn and Park. Writes selection.json, which
training export reads, and selection.txt beside it: every accept and reject with its scores. What the members say
of each case is kept (--keep), so that the same command again, or one with more members, does not run them again.
"""

import argparse
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from model.bundle.settings import METHODS
from model.errors import ConfigError
from model.inference.device import choose_device
from model.results.writing import check_output
from model.schema import to_plain
from training.command import ENDS, check_targets, told
from training.data.folds import Fold, read_fold
from training.data.prepared import one_crop
from training.ensembles.candidates import Candidate, check_one_start, read_candidates
from training.ensembles.members import KEPT, STATES
from training.ensembles.scoreboard import Bench, Judged
from training.ensembles.selection import Choice, greedy, rank, steps_to, uniform
from training.runs.checkpoint import CONFIG, RESULT, write_json, write_text
from training.runs.leakage import check_not_seen

FORMAT = 1
TITLES = {  # in the order of the paper's table 3
    "wa_best": "WA best",
    "eoa_uniform": "EoA uniform",
    "diwa_uniform": "DiWA uniform",
    "eoa_greedy": "EoA greedy",
    "diwa_greedy": "DiWA greedy",
}
THRESHOLD = 0.0  # of the margin, lesion's logit minus background's: the argmax


def select_runs(
    runs: Iterable[Path],
    cache: Path,
    fold: Fold,
    keep: Path,
    *,
    methods: Sequence[str] = METHODS,
    replacement: bool = False,
    wanted: str = "auto",
) -> dict[str, Any]:
    """What selection.json holds: members by rank, and for each name of TITLES weights, scores, seconds and steps.

    Every validation case of the fold is used; Dice is the mean over those with lesion, FPV and FNV over all. keep:
    folder of what can be used again. Raises ConfigError for runs that cannot be combined (for DiWA, of several
    starts), for cases that trained one of them, or if no case has a lesion; WeightsError for damaged weights.
    """
    candidates = read_candidates(runs)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, fold.validate, cache, "select by")
    if "diwa" in methods:
        check_one_start(list(candidates.values()))
    crop = one_crop(cache, fold.validate)
    device = choose_device(wanted)
    bench = Bench(candidates, cache, fold.validate, keep, device)
    with_lesion = [case for case, study in bench.studies.items() if len(study.lesion) or study.lost_ml]
    if not with_lesion:
        raise ConfigError(f"none of the {len(fold.validate)} validation cases has a lesion: no Dice to select by")
    bench.run_all()
    ranked = rank({name: bench.eoa([name]).dice for name in candidates})
    choices = choose(bench, ranked, methods, replacement)
    first = candidates[ranked[0]]
    return {
        "format": FORMAT,
        "fold": fold.name,
        "cases": list(fold.validate),
        "cases_with_lesion": with_lesion,
        "trained_on": sorted(set().union(*(one.seen.cases for one in candidates.values()))),
        "patients": sorted(
            set().union(
                (study.patient for study in bench.studies.values()), *(one.seen.patients for one in candidates.values())
            )
        ),
        "cache": str(cache.resolve()),
        "crop": to_plain(crop),
        "threshold": THRESHOLD,
        **{key: to_plain(getattr(first.settings, key)) for key in ("network", "intensity", "window")},
        "device": device.name,
        "precision": str(device.precision).removeprefix("torch."),
        "replacement": replacement,
        "start_sha256": first.start if len({one.start for one in candidates.values()}) == 1 else None,
        "members": [
            {"rank": number, **about(candidates[name]), **scores_to(bench.eoa([name]))}
            for number, name in enumerate(ranked, start=1)
        ],
        "choices": {name: choices[name] for name in TITLES if name in choices},
    }


def finished(runs: Iterable[Path]) -> list[Path]:
    """The runs that have ended, without what a sweep keeps beside its members; the others are told on stderr."""
    found = []
    for run in runs:
        if run.name in (KEPT, STATES):
            continue
        if (run / CONFIG).exists() and not (run / RESULT).exists():
            print(f"left out: '{run}' has not ended; train it to its end to choose from it, too", file=sys.stderr)
        else:
            found.append(run)
    return found


def choose(bench: Bench, ranked: Sequence[str], methods: Sequence[str], replacement: bool) -> dict[str, Any]:
    """The choices of table 3 that these methods allow, ready for JSON."""
    best = Choice(members=(ranked[0],), score=bench.eoa(ranked[:1]).dice)
    choices = {"wa_best": choice_to(best, bench.eoa(ranked[:1]), "eoa")}
    for method in methods:
        judge = bench.eoa if method == "eoa" else bench.diwa

        def value(names: tuple[str, ...], judge: Any = judge) -> float:
            return float(judge(names).dice)

        for how, choice in (("uniform", uniform(ranked, value)), ("greedy", greedy(ranked, value, replacement))):
            choices[f"{method}_{how}"] = choice_to(choice, judge(choice.members), method)
    return choices


def about(one: Candidate) -> dict[str, Any]:
    return {
        "name": one.name,
        "run": str(one.folder.resolve()),
        "sha256": one.sha256,
        "start_sha256": one.start,
        "base": str(one.base.resolve()) if one.base else None,
    }


def choice_to(choice: Choice, judged: Judged, method: str) -> dict[str, Any]:
    scores = {
        case: {"dice": None if math.isnan(s.dice) else s.dice, "fpv_ml": s.fpv_ml, "fnv_ml": s.fnv_ml}
        for case, s in judged.cases.items()
    }
    said = {"method": method, "weights": choice.weights, **scores_to(judged)}
    return said | {"steps": steps_to(choice), "cases": scores}


def scores_to(judged: Judged) -> dict[str, float]:
    return {
        "dice": judged.dice,
        "fpv_ml": judged.fpv_ml,
        "fnv_ml": judged.fnv_ml,
        "seconds_per_case": round(judged.seconds_per_case, 3),
    }


def log_of(report: dict[str, Any]) -> str:
    """The report as text: the ranking, every accept and reject, and table 3's rows."""
    members = report["members"]
    width = max(len("EoA uniform"), *(len(one["name"]) for one in members))
    head = f"{'Dice':>8} {'FPV ml':>9} {'FNV ml':>9} {'s/case':>7}"
    cases, ill = len(report["cases"]), len(report["cases_with_lesion"])
    lines = [
        f"Selection on fold {report['fold']}: {cases} cases, {ill} with lesion",
        f"Computed on {report['device']}, {report['precision']}",
        "",
        f"rank {'member':<{width}} {head}",
        *(f"{one['rank']:>4} {one['name']:<{width}} {_row(one)}" for one in members),
    ]
    for name, choice in report["choices"].items():
        if choice["steps"]:
            again = ", with replacement" if report["replacement"] else ""
            lines += ["", f"{TITLES[name]}{again}: Dice without and with, by rank", *_told(choice["steps"])]
    lines += ["", f"     {'choice':<{width}} {head}  members"]
    for name, choice in report["choices"].items():
        chosen = ", ".join(f"{member} x {n}" if n > 1 else member for member, n in choice["weights"].items())
        lines.append(f"     {TITLES[name]:<{width}} {_row(choice)}  {chosen}")
    return "\n".join(lines) + "\n"


def _told(steps: list[dict[str, Any]]) -> list[str]:
    lines = []
    for step in steps:
        without = "nothing" if step["without"] is None else f"{step['without']:.6f}"
        passed = f"  (pass {step['pass']})" if step["pass"] > 1 else ""
        word = "accept" if step["kept"] else "reject"
        lines.append(f"  {word}  {without:>8} -> {step['with']:.6f}  {step['member']}{passed}")
    return lines


def _row(scores: dict[str, Any]) -> str:
    dice, fpv, fnv, seconds = (scores[key] for key in ("dice", "fpv_ml", "fnv_ml", "seconds_per_case"))
    return f"{dice:8.4f} {fpv:9.3f} {fnv:9.3f} {seconds:7.2f}"


def main(arguments: list[str] | None = None) -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    options = parse(arguments)
    try:
        check_targets((options.output, options.output.with_suffix(".txt")), (options.split,))
        check_output(options.output.parent)
        report = select_runs(
            finished(options.runs),
            options.cache,
            read_fold(options.split, options.fold),
            options.keep or options.output.parent / "margins",
            methods=options.method,
            replacement=options.replacement,
            wanted=options.device,
        )
        text = log_of(report)
        write_text(options.output.with_suffix(".txt"), text)
        write_json(options.output, report)
    except ENDS as error:
        return told(error)
    print(text, end="")
    print(f"wrote '{options.output}'; a bundle of it is made by training export")
    return 0


def parse(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m training select",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="Cost: every member once over the validation cases; for DiWA about as many passes of one network again.",
    )
    add = parser.add_argument
    add(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders of training train, as a sweep leaves them; "
        "those that have not ended are left out, and said so",
    )
    add("--cache", type=Path, required=True, help="what training prepare wrote")
    add("--split", type=Path, required=True, help="what training split wrote")
    add("--fold", default="0", help="name of the fold whose validation cases are used (default 0)")
    add("--output", type=Path, required=True, metavar="JSON", help="the selection; the .txt goes beside it")
    add(
        "--method",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        help="default: both; eoa alone takes members of different starts, too",
    )
    add(
        "--replacement",
        action="store_true",
        help="members may be chosen again, if that raises the score, up to twice "
        "as many as there are (default no; cost: more soups)",
    )
    add(
        "--keep",
        type=Path,
        metavar="DIR",
        help="margins and soups' scores, to be used again (default: margins/ "
        "beside the output; cost: 2 bytes a voxel, member and case; may be deleted)",
    )
    add("--device", default="auto", choices=("auto", "cuda", "cpu"), help="default: auto")
    options = parser.parse_args(arguments)
    if options.output.suffix != ".json":
        parser.error(f"--output must end in .json, got '{options.output}'")
    return options
