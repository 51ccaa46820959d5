"""Choose the members of the ensemble (EoA) and of the mean of weights (DiWA), uniform and greedy, by validation cases.

    python -m training select runs/members/*/ --cache runs/cache --split split.json --output runs/selection.json

Ranks the runs by validation Dice, then chooses by algorithms 1 and 2 of Ahn and Park. Writes selection.json, which
training export reads, and selection.txt beside it: every accept and reject with its scores. The members' margins of
each case are kept (--keep), so that the same command again, or one with more members, does not run them again.
"""

import argparse
import math
import sys
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from model.bundle.settings import METHODS
from model.errors import ConfigError
from model.results.writing import check_output
from model.schema import to_plain
from training.command import add_device_option, add_fold_options, check_targets
from training.compute.device import scoring_device
from training.data.folds import Fold, read_fold
from training.data.prepared import one_crop
from training.ensembles.candidates import Candidate, check_one_start, read_candidates
from training.ensembles.members import LOGS, STATES
from training.ensembles.scoreboard import Scoreboard, SetScores
from training.ensembles.selection import Choice, greedy, rank, steps_to, uniform
from training.judging.leakage import check_not_seen
from training.weights.checkpoint import CONFIG, RESULT, write_json, write_text

FORMAT = 1
TITLES = {  # in the order of the paper's table 3
    "wa_best": "WA best",
    "eoa_uniform": "EoA uniform",
    "diwa_uniform": "DiWA uniform",
    "eoa_greedy": "EoA greedy",
    "diwa_greedy": "DiWA greedy",
}
THRESHOLD = 0.0  # above this margin (lesion's logit minus background's) a voxel is lesion, as by argmax


def select_runs(
    runs: Iterable[Path],
    cache: Path,
    fold: Fold,
    keep: Path,
    *,
    methods: Sequence[str] = METHODS,
    replacement: bool = False,
    device: str = "auto",
) -> dict[str, Any]:
    """Select; returns what selection.json holds: members by rank, and for each of TITLES weights, scores and steps.

    Every validation case of the fold is used; Dice is the mean over cases with lesion, FPV and FNV over all. keep: the
    folder of margins and scores that can be used again. Raises ConfigError for runs that cannot be combined (for DiWA,
    of several starts), for cases that trained one of them, or if no case has a lesion; WeightsError for wrong weights.
    """
    candidates = read_candidates(runs)
    for one in candidates.values():
        check_not_seen(one.folder, one.seen, fold.validate, cache, "select by")
    if "diwa" in methods:
        check_one_start(list(candidates.values()))
    crop = one_crop(cache, fold.validate)
    used = scoring_device(device)
    scoreboard = Scoreboard(candidates, cache, fold.validate, keep, used)
    with_lesion = [case for case, study in scoreboard.studies.items() if len(study.lesion) or study.lost_ml]
    if not with_lesion:
        raise ConfigError(
            f"none of the {len(fold.validate)} validation cases has a lesion, and members are selected by Dice; give "
            "another fold"
        )
    scoreboard.run_all()
    ranked = rank({name: scoreboard.eoa([name]).dice for name in candidates})
    choices = choose(scoreboard, ranked, methods, replacement)
    first = candidates[ranked[0]]
    return {
        "format": FORMAT,
        "fold": fold.name,
        "cases": list(fold.validate),
        "cases_with_lesion": with_lesion,
        "trained_on": sorted(set().union(*(one.seen.cases for one in candidates.values()))),
        "patients": sorted(
            set().union(
                (study.patient for study in scoreboard.studies.values()),
                *(one.seen.patients for one in candidates.values()),
            )
        ),
        "cache": str(cache.resolve()),
        "crop": to_plain(crop),
        "threshold": THRESHOLD,
        **{key: to_plain(getattr(first.settings, key)) for key in ("network", "intensity", "window")},
        "device": used.name,
        "precision": str(used.precision).removeprefix("torch."),
        "replacement": replacement,
        "start_sha256": first.start if len({one.start for one in candidates.values()}) == 1 else None,
        "members": [
            {"rank": number, **member_to(candidates[name]), **scores_to(scoreboard.eoa([name]))}
            for number, name in enumerate(ranked, start=1)
        ],
        "choices": {name: choices[name] for name in TITLES if name in choices},
    }


def finished(runs: Iterable[Path]) -> list[Path]:
    """The runs that have ended, without a sweep's own files beside them; names the runs left out on stderr."""
    found = []
    for run in runs:
        if run.name in (LOGS, STATES):
            continue
        if (run / CONFIG).exists() and not (run / RESULT).exists():
            print(f"left out: '{run}' has not ended; train it to its end to choose from it, too", file=sys.stderr)
        else:
            found.append(run)
    return found


def choose(scoreboard: Scoreboard, ranked: Sequence[str], methods: Sequence[str], replacement: bool) -> dict[str, Any]:
    """The choices of table 3 that these methods allow, ready for JSON."""
    best = scoreboard.eoa(ranked[:1])
    choices = {"wa_best": choice_to(Choice(members=(ranked[0],), score=best.dice), best, "eoa")}
    for method in methods:
        score = scoreboard.eoa if method == "eoa" else scoreboard.diwa

        def value(names: tuple[str, ...], score: Callable[[Iterable[str]], SetScores] = score) -> float:
            return score(names).dice

        for how, choice in (("uniform", uniform(ranked, value)), ("greedy", greedy(ranked, value, replacement))):
            choices[f"{method}_{how}"] = choice_to(choice, score(choice.members), method)
    return choices


def member_to(one: Candidate) -> dict[str, Any]:
    """A member ready for JSON."""
    return {
        "name": one.name,
        "run": str(one.folder.resolve()),
        "sha256": one.sha256,
        "start_sha256": one.start,
        "base": str(one.base.resolve()) if one.base else None,
    }


def choice_to(choice: Choice, scores: SetScores, method: str) -> dict[str, Any]:
    """A choice ready for JSON, which has no NaN."""
    cases = {
        case: {"dice": None if math.isnan(s.dice) else s.dice, "fpv_ml": s.fpv_ml, "fnv_ml": s.fnv_ml}
        for case, s in scores.cases.items()
    }
    means = {"method": method, "weights": choice.weights, **scores_to(scores)}
    return means | {"steps": steps_to(choice), "cases": cases}


def scores_to(scores: SetScores) -> dict[str, float]:
    """The means ready for JSON."""
    return {
        "dice": scores.dice,
        "fpv_ml": scores.fpv_ml,
        "fnv_ml": scores.fnv_ml,
        "seconds_per_case": round(scores.seconds_per_case, 3),
    }


def text_of(report: dict[str, Any]) -> str:
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
            lines += ["", f"{TITLES[name]}{again}: Dice without and with, by rank", *_steps_text(choice["steps"])]
    lines += ["", f"     {'choice':<{width}} {head}  members"]
    for name, choice in report["choices"].items():
        chosen = ", ".join(f"{member} x {n}" if n > 1 else member for member, n in choice["weights"].items())
        lines.append(f"     {TITLES[name]:<{width}} {_row(choice)}  {chosen}")
    return "\n".join(lines) + "\n"


def _steps_text(steps: list[dict[str, Any]]) -> list[str]:
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


def run(options: argparse.Namespace) -> None:
    """Write the selection, and print it. Raises ConfigError, WeightsError or OutputError."""
    if options.output.suffix != ".json":
        raise ConfigError(f"--output must end in .json, got '{options.output}'")
    check_targets((options.output, options.output.with_suffix(".txt")), (options.split,))
    check_output(options.output.parent)
    report = select_runs(
        finished(options.runs),
        options.cache,
        read_fold(options.split, options.fold),
        options.keep or options.output.parent / "margins",
        methods=options.method,
        replacement=options.replacement,
        device=options.device,
    )
    write_selection(report, options.output)
    print(text_of(report), end="")
    print(f"wrote '{options.output}'; a bundle of it is made by training export")


def write_selection(report: dict[str, Any], path: Path) -> None:
    """Write the report as JSON, and as text beside it. Raises OutputError."""
    write_text(path.with_suffix(".txt"), text_of(report))
    write_json(path, report)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "Cost: every member once over the validation cases; for DiWA about as many passes of one network again."
    )
    add = parser.add_argument
    add(
        "runs",
        type=Path,
        nargs="+",
        metavar="RUN",
        help="run folders of training train, as a sweep leaves them; runs that have not ended are named and left out",
    )
    add_fold_options(parser)
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
    add_device_option(parser)
