"""How every command of training begins and ends: its options, and one line and an exit code where it cannot go on."""

import argparse
import ctypes
import os
import signal
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import ModuleType

from model.errors import ConfigError, LesionError, OutputError, shown

EXPECTED_ERRORS = (LesionError, OSError, KeyboardInterrupt)  # reported in one line; any other is a mistake of ours
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h
WIDTH = 100  # columns of the help text


def parse(name: str, module: ModuleType, words: Sequence[str]) -> argparse.Namespace:
    """The options of the command `name` from the words behind it; `command_line` among them is the whole line.

    module: the command's own, with `add_options(parser)` and `run(options)`; its docstring describes it, unless
    add_options sets another description. A wrong option ends the process with argparse's message and exit code 2.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m training {name}",
        description=module.__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    module.add_options(parser)
    parser.epilog = textwrap.fill(parser.epilog or "", WIDTH)
    parser.set_defaults(command_line=["python", "-m", "training", name, *words])
    return parser.parse_args(without_dashes(words))


def without_dashes(words: Sequence[str]) -> list[str]:
    """The words of a command line without a leading `--`, which keeps torchrun from reading them."""
    return list(words[1:] if words[:1] == ["--"] else words)


def option_words(options: Mapping[str, object]) -> list[str]:
    """Options and their values as the words of a command line."""
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def add_fold_options(parser: argparse.ArgumentParser) -> None:
    """--cache, --split and --fold: the prepared studies, and which of them train and validate."""
    parser.add_argument("--cache", type=Path, required=True, help="what training prepare wrote")
    parser.add_argument("--split", type=Path, required=True, help="what training split wrote")
    parser.add_argument("--fold", default="0", help="name of the fold (default 0)")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """--device: auto, cuda or cpu."""
    parser.add_argument(
        "--device",
        default="auto",
        choices=("auto", "cuda", "cpu"),
        help="where to compute (default auto: a GPU if any)",
    )


def report_error(error: BaseException) -> int:
    """Print one of EXPECTED_ERRORS in one line, the last on stderr. Returns the exit code."""
    code = error.exit_code if isinstance(error, LesionError) else OutputError.exit_code
    message = str(error)
    if isinstance(error, KeyboardInterrupt):
        code, message = 128 + signal.SIGINT, "stopped; finished work is kept, and the same command again continues it"
    elif isinstance(error, OSError):
        where = f"'{error.filename}': " if error.filename else ""
        message = f"{where}{error.strerror or error}; check the path, free space and permissions"
    sys.stdout.flush()
    print(f"error: {shown(' '.join(message.split()))}", file=sys.stderr, flush=True)
    return code


def warn(line: str) -> None:
    """Print a warning in one line on stderr."""
    print(f"warning: {shown(' '.join(line.split()))}", file=sys.stderr, flush=True)


def check_targets(targets: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuse to write over an input, or where a folder is. Raises ConfigError."""
    read = {path.resolve() for path in inputs if path is not None}
    for target in targets:
        if target.resolve() in read or target.is_dir():
            kind = "a folder" if target.is_dir() else "an input"
            raise ConfigError(f"'{target}' would be written and is {kind}; give another output")


def end_with_parent(parent: int) -> None:
    """Have this process end when its parent, of this process number, has ended, killed or not (Linux alone)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before prctl was called
        os._exit(1)
