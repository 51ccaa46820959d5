"""Write what training nested needs to go on from elsewhere: a small folder that travels with the repository.

    python -m training state --run runs/shipped --output training/start

DIR/runs gets the weights of the runs that others still need, rounded to float16: base runs and members, finished or
begun, with their settings, steps, hours and whom they were trained on. A begun run keeps the mean of equation 2 and its
number of terms, but no optimizer's state. Of a part that is done, the shipped bundles or an outer fold, only the scores
are kept. `training nested --state DIR` goes on from it, and writes it anew when it ends. A run that lies in DIR itself,
as in training/start, stays and counts.
"""

import argparse
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors.torch import save
from torch import Tensor

from model.errors import ConfigError
from model.files import sha256_of_bytes
from model.results.writing import check_output
from model.whole import recover, whole_folder
from training.judging.validation import BEST, BEST_NOTE
from training.papers.procedure import SPLIT
from training.papers.shipping import SCORED, SELECTION, SHIPPED, WRITTEN
from training.settings import read_yaml
from training.weights import checkpoint

RUNS, STATE = "runs", "state.json"  # in the folder of a state, and in RUNS
BEGUN, NETWORK, AVERAGE, LOSS = "begun.json", "network.safetensors", "average.safetensors", "loss.safetensors"
FORMAT = 1
MOST_MB = 9.0  # of the whole folder: weights of a repository must stay small
NOT_RECORDS = (SELECTION, SPLIT)  # the one names folders of one machine, the other is made again
ROUNDED = "weights rounded to float16 when the run moved to another folder"


@dataclass(frozen=True, kw_only=True)
class KeptRun:
    """A run as it is kept. files: content by name. needs: the run that it starts from, if that lies there, too."""

    name: str
    state: str  # finished or begun
    files: dict[str, bytes]
    needs: str | None
    about: dict[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(map(len, self.files.values()))


def run(options: argparse.Namespace) -> None:
    """Write the state, and print what it holds. Raises ConfigError if it is larger than --most-mb."""
    print(write_state(options.run, options.output, options.most_mb, options.fit))


def write_state(folder: Path, output: Path, most_mb: float = MOST_MB, fit: bool = False) -> str:
    """Write the state of training nested's folder below `output`. Returns what it holds, in words.

    fit: leave out the runs that are cheapest to train again until the rest has at most `most_mb`; else that is an
    error that names the sizes. Raises ConfigError, OutputError.
    """
    if not most_mb > 0:
        raise ConfigError(f"--most-mb must be above 0, got {most_mb:g}")
    if not any(folder.glob(f"**/{checkpoint.CONFIG}")):
        raise ConfigError(f"'{folder}' holds no run; give the --run folder of training nested")
    check_output(output)
    recover(output / RUNS)
    there = sum(file.stat().st_size for file in files_beside(output))
    records, runs = dict(record_files(folder)), kept_runs(folder)
    sizes = {run.name: run.size for run in runs}
    records_by_sha = {path: sha256_of_bytes(content) for path, content in records.items()}
    about = {run.name: run.about for run in runs}
    whole = {"format": FORMAT, "runs": about, "records": records_by_sha, "left_out": list(sizes)}
    there += len(json_bytes(whole))  # at most: it will name each run in one of two places
    total = there + sum(map(len, records.values())) + sum(sizes.values())
    left: list[str] = []
    if total > 1e6 * most_mb:
        if not fit:
            named = ", ".join(f"{name} {size / 1e6:.2f} MB" for name, size in sizes.items())
            raise ConfigError(
                f"the state would have {total / 1e6:.2f} MB, and --most-mb is {most_mb:g}: {named}, other files of "
                f"'{output}' {there / 1e6:.2f} MB; give --fit, which leaves out the last ones"
            )
        runs, left = fitting(runs, 1e6 * most_mb - there - sum(map(len, records.values())))
    with whole_folder(output / RUNS) as new:
        for path, content in [*records.items(), *((f"{r.name}/{n}", c) for r in runs for n, c in r.files.items())]:
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(content)
        whole |= {"runs": {run.name: run.about for run in runs}, "left_out": left}
        (new / STATE).write_bytes(json_bytes(whole))
    total = sum(file.stat().st_size for file in output.rglob("*") if file.is_file())
    kept = ", ".join(f"{run.name} ({run.state}, {run.size / 1e6:.2f} MB)" for run in runs) or "no run"
    without = f"; left out for want of space, to be trained again: {', '.join(left)}" if left else ""
    return f"state in '{output}', {total / 1e6:.2f} MB: {kept}{without}"


def fitting(runs: list[KeptRun], most_bytes: float) -> tuple[list[KeptRun], list[str]]:
    """The runs that fit, in their order, none without the one it starts from; and the names of the rest."""
    kept: list[KeptRun] = []
    left: list[str] = []
    for one in runs:
        if one.needs in left or sum(run.size for run in kept) + one.size > most_bytes:
            left.append(one.name)
        else:
            kept.append(one)
    return kept, left


def kept_runs(folder: Path) -> list[KeptRun]:
    """The runs that are still needed, the costliest first: the last runs on phantoms alone, then fold by fold the base
    run and the members, finished ones before begun ones. A fold that is done needs none.
    """
    names = [*start_names(folder)]
    for fold in (SHIPPED, *sorted(path.name for path in folder.glob("outer-*"))):
        if (folder / fold / (WRITTEN if fold == SHIPPED else SCORED)).exists():
            continue
        members = sorted(path.name for path in (folder / fold / "members").glob("*/"))
        ended = [name for name in members if checkpoint.finished(folder / fold / "members" / name)]
        names += [f"{fold}/base", *(f"{fold}/members/{n}" for n in [*ended, *(m for m in members if m not in ended)])]
    kept: list[KeptRun] = []
    of_before: dict[str, tuple[str, str]] = {}  # sha256 of a run's weights: its name, and their sha256 once rounded
    for name in names:
        if (one := kept_run(folder, name, of_before)) is not None:
            kept.append(one)
    return kept


def start_names(folder: Path) -> list[str]:
    """The runs on phantoms alone that another run goes on from: the last finished one, and one that is begun."""
    starts = [path.parent for path in sorted(folder.glob(f"*/{checkpoint.CONFIG}"))]
    results = {path.name: checkpoint.finished(path) for path in starts}
    used = {result["start"]["sha256"] for result in results.values() if result and result["start"]}
    last = [name for name, result in results.items() if result and result["sha256"] not in used]
    return last + [name for name, result in results.items() if not result]


def kept_run(folder: Path, name: str, of_before: dict[str, tuple[str, str]]) -> KeptRun | None:
    """A run's files with weights in float16; None if it has no checkpoint yet. Adds its hash to `of_before`."""
    run, result = folder / name, checkpoint.finished(folder / name)
    if not (run / checkpoint.CONFIG).exists() or not (result or (run / checkpoint.STATE).exists()):
        return None
    config = read_yaml(run / checkpoint.CONFIG)
    needs, files = None, {}
    if start := config.get("start"):
        needs, sha256 = of_before.get(start["sha256"], (None, start["sha256"]))
        kind = next(key for key in start if key != "sha256")
        config["start"] = {kind: Path(start[kind]).name, "sha256": sha256}  # no path of this machine
    if result:
        weights = as_bytes(checkpoint.read_weights(run / result["result"]))
        sha256 = sha256_of_bytes(weights)
        rounded = {} if sha256 == result["sha256"] else {"rounded": ROUNDED, "sha256_before": result["sha256"]}
        of_before[result["sha256"]] = name, sha256
        result = result | {"sha256": sha256, "start": config["start"]} | rounded
        files = {result["result"]: weights, checkpoint.RESULT: json_bytes(result)}
        about = {"state": "finished", "epoch": result["epoch"], "hours": round(checkpoint.hours(result), 4)}
    else:
        files, about = begun_files(run)
    files[checkpoint.CONFIG] = yaml.safe_dump(config, sort_keys=False).encode()
    about["sha256"] = {file: sha256_of_bytes(content) for file, content in files.items()}
    return KeptRun(name=name, state=about["state"], files=files, needs=needs, about=about)


def begun_files(run: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    """The files of a run that is not finished, from its checkpoint, and what state.json says of it."""
    state = checkpoint.read_state(run / checkpoint.STATE)
    average = state["average"] or {"terms": 0, "mean": {}}
    about = {"state": "begun", "step": state["step"], "hours": round(checkpoint.hours(state), 4)}
    note = {"step": state["step"], "seconds": state["seconds"], "terms": average["terms"], "losses": state["losses"]}
    files = {BEGUN: json_bytes(note | {"left_out": state.get("left_out", {})}), NETWORK: as_bytes(state["network"])}
    for file, tensors in ((AVERAGE, average["mean"]), (LOSS, state["loss"])):
        files |= {file: as_bytes(tensors)} if tensors else {}
    if (run / BEST).exists():
        files |= {BEST: as_bytes(checkpoint.read_weights(run / BEST)), BEST_NOTE: (run / BEST_NOTE).read_bytes()}
    if (run / checkpoint.LOG).exists():
        files[checkpoint.LOG] = (run / checkpoint.LOG).read_bytes()
    return files, about


def record_files(folder: Path) -> Iterator[tuple[str, bytes]]:
    """What is kept of parts that are done, by path: scores, and what the bundles were written from."""
    for fold in (SHIPPED, *sorted(path.name for path in folder.glob("outer-*"))):
        if (folder / fold / (WRITTEN if fold == SHIPPED else SCORED)).exists():
            for path in sorted((folder / fold).glob("*")):
                if path.suffix in (".csv", ".json") and path.name not in NOT_RECORDS:
                    yield f"{fold}/{path.name}", path.read_bytes()


def files_beside(output: Path) -> list[Path]:
    """The files of a state's folder that are none of its runs: those of a run that lies there itself."""
    return [path for path in output.rglob("*") if path.is_file() and RUNS not in path.relative_to(output).parts[:1]]


def as_bytes(state: dict[str, Tensor]) -> bytes:
    """Tensors as safetensors: floating ones in float16, but for those that hold numbers beyond it."""
    return bytes(
        save({name: checkpoint.in_float16(tensor.detach().cpu()).contiguous() for name, tensor in state.items()})
    )


def json_bytes(content: Any) -> bytes:
    """JSON as it is written to a file."""
    return (json.dumps(content, indent=1) + "\n").encode()


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: seconds; 2 bytes a parameter, 4 for a begun run that averages its weights."
    add = parser.add_argument
    add("--run", type=Path, required=True, help="folder of training nested")
    add("--output", type=Path, required=True, metavar="DIR", help="where to write the state; an older one is replaced")
    add("--most-mb", type=float, default=MOST_MB, metavar="MB", help=f"largest size of DIR (default {MOST_MB:g})")
    add(
        "--fit",
        action="store_true",
        help="leave out the runs that are cheapest to train again if all are larger (default: that is an error)",
    )
