"""Run a command of training: `python -m training COMMAND ...`. Only the module of that command is imported."""

import sys
import time
from collections.abc import Sequence
from importlib import import_module

from training.command import EXPECTED_ERRORS, parse, report_error, without_dashes
from training.stopping import StoppedInTime, limited, stop_on_signal

# In the order of use.
COMMANDS = {
    "index": ("data.index", "find and check the studies of data sets; write one table of them"),
    "recrop": ("data.recrop", "copy studies, cut at random on every side"),
    "blend": ("data.blend", "put patients' tumours into the bodies of phantoms"),
    "split": ("data.split", "divide patients into training, validation and test"),
    "prepare": ("data.prepare", "read, resample and crop every study once, into a cache"),
    "pretrain": ("runs.pretrain", "pre-train the CT encoder by Models Genesis, without labels"),
    "train": ("runs.train", "train one network: a base run, or a member that starts from one"),
    "widen": ("runs.widen", "make a trained U-Net wider, or give it another norm, to start from"),
    "sweep": ("ensembles.sweep", "train many members of one base run"),
    "select": ("ensembles.select", "choose members for EoA and DiWA by validation cases"),
    "export": ("bundles.export", "write a selection as a bundle that the container reads"),
    "import": ("bundles.import_checkpoint", "write a bundle of checkpoints that the papers' authors published"),
    "package": ("packages.package", "write a bundle as other platforms take it: MONAI, MHub"),
    "mix": ("bundles.mix", "make one bundle of several, which vote by their mean probability"),
    "evaluate": ("bundles.evaluate", "score masks or a bundle: Dice, FPV, FNV with intervals"),
    "baselines": ("bundles.baselines", "score thresholds, a plain U-Net and bundles on the same cases"),
    "compare": ("bundles.compare", "paired differences of two tables of scores"),
    "phantoms": ("phantom.study", "make synthetic PET/CT studies with their truth"),
    "experiment": ("papers.experiments", "run the papers' tables again: table2, table3, wholebody"),
    "nested": ("papers.nested", "make the shipped weights, and score their procedure on nested folds"),
    "results": ("papers.results", "print a page of results from nested folds: patients as patients"),
    "pack": ("papers.packing", "put the prepared studies of nested into one file that travels"),
    "state": ("papers.state", "write the small folder from which nested goes on elsewhere"),
    "schedule": ("batches.schedule", "draw the learning rates of a run, with its averaging phase"),
    "sample": ("phantom.sample", "write the sample study of the tests"),
    "sheet": ("phantom.sheet", "draw twelve phantoms; print their statistics and settings"),
}
USAGE = "usage: python -m training COMMAND ...    python -m training COMMAND --help"


def main(words: Sequence[str] | None = None) -> int:
    """Run one command. words: its name, then its options; None: those of sys.argv. Returns the exit code.

    An error that a user can act on is the last line on stderr. The exit code is 2 if there is no such command, and 0
    for a command that stopped in time.
    """
    begun = time.time()
    name, *rest = without_dashes(sys.argv[1:] if words is None else words) or [""]
    if name in ("-h", "--help"):
        print("\n".join([USAGE, "", *(f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items())]))
        return 0
    if name not in COMMANDS:
        what = f"there is no command '{name}'" if name else "which command?"
        print(f"{USAGE}\nerror: {what}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        stop_on_signal()
        module = import_module(f"training.{COMMANDS[name][0]}")
        options = parse(name, module, rest)
        with limited(getattr(options, "minutes", None), begun):
            module.run(options)
    except StoppedInTime as stopped:
        print(stopped, flush=True)
    except EXPECTED_ERRORS as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
