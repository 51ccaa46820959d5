"""What all commands have in common: how they end when they cannot go on."""

import signal
import sys
from collections.abc import Iterable
from pathlib import Path

from model.errors import ConfigError, LesionError, OutputError, shown

ENDS = (LesionError, OSError, KeyboardInterrupt)  # what a command tells in one line; anything else is a mistake of ours


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
