"""What of training nested is done and what is missing: runs by step and hours, selections, scores, bundles."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.errors import ConfigError, WeightsError
from training.batches.schedule import steps_of
from training.papers.shipping import SCORED, SELECTION, SHIPPED, WRITTEN, Shipping
from training.settings import read_yaml, settings_from
from training.weights import checkpoint


@dataclass(frozen=True, kw_only=True)
class RunProgress:
    """How far a run is: steps done and in all, counted from the step at which it began; hours of its steps."""

    name: str
    finished: bool = False
    step: int = 0
    last: int = 0
    hours: float = 0.0

    @property
    def text(self) -> str:
        """The run's name and how far it is."""
        if self.finished:
            return f"{self.name} ({self.hours:.3f} h)"
        return f"{self.name} (step {self.step} of {self.last}, {self.hours:.3f} h)" if self.last else self.name


def fold_names(outer: int) -> list[str]:
    """The folders of the folds, in the order in which --all does them: what ships, then the outer folds."""
    return [SHIPPED, *(f"outer-{number}" for number in range(outer))]


def run_names(shipping: Shipping, fold: str) -> list[str]:
    """The runs of a fold, base run first, as folders below --run."""
    return [f"{fold}/base", *(f"{fold}/members/{name}" for name in shipping.plan.member_settings())]


def progress_of(folder: Path, name: str) -> RunProgress:
    """How far a run is. A folder that cannot be read counts as not begun: the run itself will say what is wrong."""
    run = folder / name
    try:
        if result := checkpoint.finished(run):
            return RunProgress(name=name, finished=True, hours=checkpoint.hours(result))
        if not (run / checkpoint.CONFIG).exists():
            return RunProgress(name=name)
        if not (run / checkpoint.STATE).exists():  # its weights are gone, its hours were spent
            return RunProgress(name=name, hours=checkpoint.hours(checkpoint.result_of(run)))
        config, state = read_yaml(run / checkpoint.CONFIG), checkpoint.read_state(run / checkpoint.STATE)
        settings = settings_from(config["settings"])
        first = settings.averaging.start if settings.averaging and config["start"] else 0
        steps = steps_of(settings, len(config["train"]), config["processes"])
        done, last = int(state["step"]) - first * steps, (settings.schedule.last - first) * steps
        return RunProgress(name=name, step=done, last=last, hours=checkpoint.hours(state))
    except (ConfigError, WeightsError, KeyError, TypeError, ValueError):
        return RunProgress(name=name)


def report_lines(shipping: Shipping, folder: Path, outer: int) -> list[str]:
    """What is done, and what is missing, of the shipped weights and of all outer folds: two lines."""
    done = [what for what, is_done in parts_of(shipping, folder, outer) if is_done]
    missing = missing_parts(shipping, folder, outer)
    return [f"done: {', '.join(done) or 'nothing'}", f"missing: {', '.join(missing) or 'nothing'}"]


def missing_parts(shipping: Shipping, folder: Path, outer: int) -> list[str]:
    """The parts that are not done, in words."""
    return [what for what, is_done in parts_of(shipping, folder, outer) if not is_done]


def parts_of(shipping: Shipping, folder: Path, outer: int) -> Iterator[tuple[str, bool]]:
    """Every part of the procedure in words, in the order of the work, and whether it is done."""
    ended = [folder / fold / (WRITTEN if fold == SHIPPED else SCORED) for fold in fold_names(outer)]
    starts = [progress_of(folder, str(name)) for name in shipping.starts]
    for number, run in enumerate(starts):  # those before a finished one are not needed, nor any when all is done
        later = any(one.finished for one in starts[number:]) or all(path.exists() for path in ended)
        yield run.text, later
    for fold, last in zip(fold_names(outer), ended, strict=True):
        if last.exists():
            yield f"{fold} ({checkpoint.read_json(last).get('hours', 0):.3f} h)", True
            continue
        for name in run_names(shipping, fold):
            run = progress_of(folder, name)
            yield run.text, run.finished
        yield f"{fold}/selection", (folder / fold / SELECTION).exists()
        yield f"{fold}/{'bundles' if fold == SHIPPED else 'scores'}", False


def hours_of(shipping: Shipping, folder: Path, fold: str, start: Path | None = None) -> float:
    """Hours of the steps of all runs that a fold's networks come from, over all pieces and machines.

    start: the run that was given in place of the plan's own runs on phantoms; of the runs before it nothing is known.
    """
    before = (
        [progress_of(start.parent, start.name)] if start else [progress_of(folder, str(n)) for n in shipping.starts]
    )
    return sum(run.hours for run in (*before, *(progress_of(folder, name) for name in run_names(shipping, fold))))
