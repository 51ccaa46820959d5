"""How process.py ends: the message of an error, its exit code, and signals."""

import os
import signal
import sys
from contextlib import suppress
from typing import Any, NoReturn

from model.errors import CaseError, LesionError
from model.terminal import say


class Stopped(BaseException):
    """SIGINT or SIGTERM came before the result was complete."""


def on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def stop(number: int, frame: object) -> None:
    """What SIGINT and SIGTERM do: end the run through main, so that temporary files are removed."""
    raise Stopped(number)


def tell(warnings: list[str]) -> None:
    for warning in warnings:
        say(f"warning: {one_line(warning)}", sys.stderr)


def reason(error: Exception) -> tuple[str, int]:
    """What a user is told of an error, and the exit code."""
    if isinstance(error, LesionError):
        return str(error), error.exit_code
    if isinstance(error, PermissionError) and error.filename is not None:
        where = os.fsdecode(error.filename)
        return f"'{where}' cannot be used: {error.strerror}; check access to '{where}'", CaseError.exit_code
    if isinstance(error, MemoryError):
        return "the study does not fit into memory; use a machine with more", CaseError.exit_code
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report what it prints", 1


def fail(message: str, code: int) -> int:
    """The whole message as one last line on stderr."""
    say(f"error: {one_line(message)}", sys.stderr)
    return code


def one_line(message: str) -> str:
    return " ".join(message.splitlines())


def leave(code: int) -> NoReturn:
    """End the process at once: all is written, and to take torch and CUDA down takes a third of a second."""
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(code)
