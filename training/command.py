"""What all commands have in common: how they end when they cannot go on."""

import ctypes
import os
import signal
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from model.errors import ConfigError, LesionError, OutputError, shown

ENDS = (LesionError, OSError, KeyboardInterrupt)  # what a command tells in one line; anything else is a mistake of ours
PR_SET_PDEATHSIG = 1  # of Linux's prctl.h


def given(arguments: Sequence[str] | None) -> list[str]:
    """The words of a command line, sys.argv's for None, without the `--` that keeps torchrun from reading them."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return words[1:] if words[:1] == ["--"] else words


def end_with(parent: int) -> None:
    """Have this process end when the one that started it, of this number, is gone, killed or not (Linux alone)."""
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # gone before that was asked
        os._exit(1)


def check_targets(targets: Iterable[Path], inputs: Iterable[Path | None]) -> None:
    """Refuse to write over what is read, or where a folder is. Raises ConfigError."""
    read = {path.resolve() for path in inputs if path is not None}
    for target in targets:
        if target.resolve() in read or target.is_dir():
            kind = "a folder" if target.is_dir() else "an input"
            raise ConfigError(f"'{target}' would be written and is {kind}; give another output")


def told(error: BaseException) -> int:
    """Print one of ENDS as the last line on stderr, in one line; its exit code."""
    code = error.exit_code if isinstance(error, LesionError) else OutputError.exit_code
    said = str(error)
    if isinstance(error, KeyboardInterrupt):
        code, said = 128 + signal.SIGINT, "stopped; what was finished is kept, and the same command again goes on"
    elif isinstance(error, OSError):
        where = f"'{error.filename}': " if error.filename else ""
        said = f"{where}{error.strerror or error}; is it there, is there space, and may this user read and write there?"
    sys.stdout.flush()
    print(f"error: {shown(' '.join(said.split()))}", file=sys.stderr, flush=True)
    return code
