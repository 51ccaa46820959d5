"""Lines on standard output and error, and a progress bar. A run never fails because these cannot be shown."""

import os
import shutil
import sys
from typing import Any, TextIO

from model.errors import shown


def open_streams() -> None:
    """Open the null device in place of a closed standard input, output or error: no other file may get its number."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def say(line: str, stream: TextIO) -> None:
    """Print a line at once, control characters as escapes. A closed pipe or a full disk is no error of the run."""
    try:
        print(shown(line), file=stream, flush=True)
    except (OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())  # what is still buffered must not fail at exit


class Progress:
    """Shows how many windows are done: called as progress(done, total), within a `with` block, which closes the bar."""

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
