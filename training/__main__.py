"""Every command of training: `python -m training COMMAND ...`. A command's module is imported when it is chosen."""

import sys
from collections.abc import Sequence
from importlib import import_module

from training.command import EXPECTED_ERRORS, parse, report_error, without_dashes

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


def main(words: Sequence[str] | None = None) -> int:
    """Run one command: its name and the words behind it, sys.argv's for None. Returns the exit code.

    An error that a user can act on is the last line on stderr. The exit code is 2 if there is no such command.
    """
    name, *rest = without_dashes(sys.argv[1:] if words is None else words) or [""]
    if name in ("-h", "--help"):
        print("\n".join([USAGE, "", *(f"  {name:<12}{line}" for name, (_, line) in COMMANDS.items())]))
        return 0
    if name not in COMMANDS:
        what = f"there is no command '{name}'" if name else "which command?"
        print(f"{USAGE}\nerror: {what}; there are: {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    try:
        module = import_module(f"training.{COMMANDS[name][0]}")
        module.run(parse(name, module, rest))
    except EXPECTED_ERRORS as error:
        return report_error(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
