"""How process.py ends: signals, the message of an error, and its exit code."""

import os
import signal
import sys
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, NoReturn

from model.errors import CaseError, LesionError
from model.terminal import say


class Stopped(BaseException):
    """SIGINT or SIGTERM came before the result was complete."""


def on_signals(handler: Any) -> None:
    """Let `handler` handle SIGINT and SIGTERM."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def stop(number: int, frame: object) -> None:
    """A signal's handler: end the run through main, so that temporary files are removed."""
    raise Stopped(number)


def warn(warnings: Iterable[str]) -> None:
    """Print each warning as one line on stderr."""
    for warning in warnings:
        say(f"warning: {one_line(warning)}", sys.stderr)


def explain(error: Exception) -> tuple[str, int]:
    """The message of an error for a user, and the exit code."""
    if isinstance(error, LesionError):
        return str(error), error.exit_code
    if isinstance(error, PermissionError) and error.filename is not None:
        where = os.fsdecode(error.filename)
        return f"'{where}' cannot be used: {error.strerror}; check access to '{where}'", CaseError.exit_code
    if isinstance(error, MemoryError):
        return "the study does not fit into memory; use a machine with more", CaseError.exit_code
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report what it prints", 1


def fail(message: str, code: int) -> int:
    """Print the message as the last line on stderr. Returns the exit code."""
    say(f"error: {one_line(message)}", sys.stderr)
    return code


def one_line(message: str) -> str:
    return " ".join(message.splitlines())


def leave(code: int) -> NoReturn:
    """End the process at once: everything is written, and it takes a third of a second to shut down torch and CUDA."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # the reader is gone
            stream.flush()
    os._exit(code)
