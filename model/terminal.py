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


def duration(seconds: float) -> str:
    """Seconds in the unit that people would use, to about two digits: 45 s, 12 min, 2.5 h, 30 h."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.0f} h" if hours >= 9.95 else f"{hours:.1f}".removesuffix(".0") + " h"


def counted(number: int, word: str) -> str:
    """A number and its noun: 1 pass, 40 passes."""
    plural = f"{word}es" if word.endswith("s") else f"{word}s"
    return f"{number} {word if number == 1 else plural}"


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

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self._bar is not None:
            self._bar.clear()
        say(line, self._stream)
        if self._bar is not None:
            self._bar.refresh()

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
