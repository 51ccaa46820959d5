"""A command that stops in time: it ends at a checkpoint when its minutes are over, or when SIGUSR1 asks it to.

The moment stands in the environment, so that processes that a command starts stop at the same one. Whoever works long
asks `time_is_over` where it could go on later, and raises StoppedInTime.
"""

import argparse
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from model.errors import ConfigError

STOP_AT = "TRAINING_STOP_AT"  # in the environment: seconds since 1970 at which to stop
RESERVE_S, RESERVE_SHARE = 20.0, 0.1  # kept back of the minutes for the last step, its checkpoint and the report
MOST_MINUTES = 60 * 24 * 365
_asked = threading.Event()  # set by SIGUSR1
_told: list[Callable[[], None]] = []  # called then, to hand the signal on


class StoppedInTime(Exception):
    """The time is over. The message says where the work stands; the same command goes on from there."""


def time_is_over() -> bool:
    """Whether this process should stop at its next checkpoint."""
    return _asked.is_set() or time.time() >= float(os.environ.get(STOP_AT, "inf"))


def is_limited() -> bool:
    """Whether the minutes of this process are limited."""
    return STOP_AT in os.environ


def check_time(where: str, next_s: float = 0.0) -> None:
    """Raise StoppedInTime if the time is over, or would be after the `next_s` seconds that the next part of the work
    takes. where: how far the work is.
    """
    if time_is_over() or time.time() + next_s >= float(os.environ.get(STOP_AT, "inf")):
        raise StoppedInTime(f"stopped in time: {where}; the same command goes on")


@contextmanager
def limited(minutes: float | None, begun: float | None = None) -> Iterator[None]:
    """Stop what runs in the block, and the processes it starts, before `minutes` are over; None: no limit of its own.

    begun: when they began, in seconds since 1970 (default: now). An earlier limit, of the process that started this
    one, stays. Raises ConfigError for minutes that are no time.
    """
    if minutes is None:
        yield
        return
    if not 0 < minutes <= MOST_MINUTES:
        raise ConfigError(f"--minutes must be above 0 and at most {MOST_MINUTES}, got {minutes:g}")
    before = os.environ.get(STOP_AT)
    at = (begun or time.time()) + 60 * minutes - min(RESERVE_S, RESERVE_SHARE * 60 * minutes)
    os.environ[STOP_AT] = repr(min(at, float(before or "inf")))
    try:
        yield
    finally:
        if before is None:
            del os.environ[STOP_AT]
        else:
            os.environ[STOP_AT] = before


def stop_on_signal() -> None:
    """Let SIGUSR1 ask this process to stop at its next checkpoint, as a scheduler does before a job's time is over."""
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGUSR1, _on_signal)


def when_asked(hand_on: Callable[[], None]) -> None:
    """Call this, too, when SIGUSR1 comes: a process that waits for others hands it on."""
    _told.append(hand_on)


def _on_signal(number: int, frame: object) -> None:
    _asked.set()
    for hand_on in _told:
        hand_on()


def add_minutes_option(parser: argparse.ArgumentParser) -> None:
    """--minutes: how long the command may run."""
    parser.add_argument(
        "--minutes",
        type=float,
        metavar="M",
        help="stop at a checkpoint before so many minutes of wall clock are over, with exit code 0 and a line that "
        "says what is done; the same command goes on (default: to the end)",
    )
