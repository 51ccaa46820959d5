"""What a run says while it runs: lines on the two streams, a bar on a terminal; never the reason that it fails."""

import os
import shutil
import sys
from typing import Any, TextIO

from model.errors import shown


def open_streams() -> None:
    """Put the null device where standard input, output or error was closed, so that no other file gets its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def say(line: str, stream: TextIO) -> None:
    """Print a line at once, control characters as escapes.

    A reader that went away (a closed pipe, a full disk) is not an error of the run.
    """
    try:
        print(shown(line), file=stream, flush=True)
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is still buffered must not fail at exit


class Progress:
    """Told (done, total) windows by `vote`; used as a context manager so that the bar is closed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._bar: Any = None
        self._tenth = 0

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *error: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, done: int, total: int) -> None:
        if self._stream.isatty():
            if self._bar is None:
                from tqdm import tqdm

                columns, lines = shutil.get_terminal_size()  # 80 x 24 where the terminal does not say
                self._bar = tqdm(total=total, unit="window", file=self._stream, leave=False, ncols=columns, nrows=lines)
            self._bar.update(done - self._bar.n)
        elif done * 10 // total > self._tenth or done == total:
            self._tenth = done * 10 // total
            say(f"window {done} of {total}", self._stream)
