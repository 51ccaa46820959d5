"""What holds for every connection with the PACS, whoever opened it: none stays stuck, no line is printed too often."""

import socket
import sys
import time
from contextlib import suppress

from pynetdicom import evt
from pynetdicom.association import Association

from model.terminal import say

STALL_S = 60.0  # a side that stops in the middle of a message, or takes nothing more of ours, is gone
SAME_LINE_S, MOST_LINES = 60.0, 1000


def limit_stalls(event: evt.Event) -> None:
    """A connection opened: its reads and writes take limited time. Waiting for the next message is none of them."""
    event.assoc.dul.socket.socket.settimeout(STALL_S)  # type: ignore[union-attr]


def break_off(association: Association) -> None:
    """Close a connection at once, whatever the other side does: who waits for it goes on."""
    with suppress(AttributeError, OSError):  # there is none yet, or no more
        association.dul.socket.socket.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]


class Refusals:
    """Prints why something was refused; the same line only once in a while, however often it is tried."""

    def __init__(self) -> None:
        self._printed: dict[str, float] = {}

    def say(self, line: str) -> None:
        """Print a line, unless the same one was printed a short while ago."""
        now = time.monotonic()
        if now - self._printed.get(line, -SAME_LINE_S) < SAME_LINE_S:
            return
        if len(self._printed) >= MOST_LINES:
            self._printed.clear()
        self._printed[line] = now
        say(line, sys.stdout)
