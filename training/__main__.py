"""Every command of training: `python -m training COMMAND ...`. A command's module is imported when it is chosen."""

import sys
from collections.abc import Sequence
from importlib import import_module

from training.command import ENDS, given, told

# In the order of use.
COMMANDS = {
    "index": ("data.index", "find and check the studies of data sets; one table of them"),
    "recrop": ("data.recrop", "copies of studies, cut at random on every side"),
    "split": ("data.split", "divide patients for training, validation and test"),
    "prepare": ("data.prepare", "read, resample and crop every study once, into a cache"),
    "pretrain": ("runs.pretrain", "the CT encoder by Models Genesis, without labels"),
    "train": ("runs.train", "one run: a base run, or a member that starts from one"),
    "sweep": ("ensembles.sweep", "many members of one base run"),
    "select": ("ensembles.select", "choose members for EoA and DiWA on validation cases"),
    "export": ("bundles.export", "a selection as a bundle that the container reads"),
    "import": ("bundles.import_checkpoint", "the authors' published checkpoints as a bundle"),
    "mix": ("bundles.mix", "one bundle of several, which vote by their mean probability"),
    "evaluate": ("bundles.evaluate", "score masks or a bundle: Dice, FPV, FNV with intervals"),
    "phantoms": ("phantom.study", "synthetic PET/CT studies with their truth"),
    "experiment": ("papers.experiments", "the papers' tables, run again: table2, table3, wholebody"),
    "nested": ("papers.nested", "how the shipped weights were made, and their nested folds"),
    "schedule": ("batches.schedule", "a picture of the averaging phase's learning rates"),
    "sample": ("phantom.sample", "write the sample study of the tests anew"),
    "sheet": ("phantom.sheet", "a picture of twelve phantoms; their statistics and settings"),
}
USAGE = "usage: python -m training COMMAND ...    python -m training COMMAND --help"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command with the words behind its name. Returns its exit code; 2 if there is no such command."""
    name, *words = given(arguments) or [""]
    if name in ("-h", "--help"):
        print("\n".join([USAGE, "", *(f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items())]))
        return 0
    if name not in COMMANDS:
        what = f"there is no command '{name}'" if name else "which command?"
        print(f"{USAGE}\nerror: {what}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    sys.argv = [sys.argv[0], *words]
    try:
        return import_module(f"training.{COMMANDS[name][0]}").main() or 0
    except ENDS as error:
        return told(error)


if __name__ == "__main__":
    sys.exit(main())
