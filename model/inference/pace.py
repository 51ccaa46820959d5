"""How long a study takes, from a measurement: the first passes are timed, the rest are counted.

A pass is a network's look at one window, as it is or mirrored. Nothing is run for this, and the GPU is waited for once.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass

from model.bundle.choice import cheaper_choice, passes_of
from model.bundle.format import Manifest
from model.bundle.manifest import Bundle
from model.bundle.network import Network
from model.bundle.settings import Part
from model.terminal import counted, duration

LEAST_TIMED_S = 5.0  # so that one slow pass among fast ones counts for little
LEAST_SHOWN_S = 60.0  # a shorter run needs no announcement
MUCH_LONGER = 1.25  # than what was announced: that is announced, too

_Kind = tuple[Network, tuple[int, int, int], bool]  # networks that take the same time a pass: the window, on a GPU


@dataclass(frozen=True, kw_only=True)
class TimeEstimate:
    """How long the networks take over a study on this machine, in seconds.

    windows: of one network, 0 where networks differ in it. passes: of all networks over all windows. cheaper: options
    that take less time, and the seconds with them.
    """

    seconds: float
    windows: int
    passes: int
    device: str
    cheaper: tuple[str, float] | None = None

    def words(self) -> str:
        """One line for people, such as: about 3 h on this CPU (40 passes of 96 windows); --folds 0: about 36 min."""
        count = (
            f"{counted(self.passes // self.windows, 'pass')} of {counted(self.windows, 'window')}"
            if self.windows
            else f"{counted(self.passes, 'pass')} of windows"
        )
        line = f"about {duration(self.seconds)} on this {self.device} ({count})"
        return f"{line}; {self.cheaper[0]}: about {duration(self.cheaper[1])}" if self.cheaper else line


class Pace:
    """Times the first passes of each kind of network, and says how long all passes take: `passed` is called after every
    forward pass. It speaks once, and again only if a later network shows that it will take much longer.

    windows: how many windows networks of a part run. wait: waits until the GPU has done what it was given.
    """

    def __init__(
        self,
        bundle: Bundle,
        windows: Callable[[Part], int],
        on_estimate: Callable[[TimeEstimate], None],
        wait: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        self._bundle, self._windows, self._on_estimate = bundle, windows, on_estimate
        self._wait, self._clock = wait, clock
        self._seconds_a_voxel: dict[_Kind, float] = {}  # of a window, for one pass
        self._timed: _Kind | None = None
        self._since = 0.0  # when its first pass had ended: that one also sets up the network and its memory
        self._passes = 0
        self._announced_s = 0.0

    def passed(self, part: Part, passes: int, on_gpu: bool) -> None:
        """A network of this part has made so many passes since the last call."""
        kind = (part.network, part.window.size, on_gpu)
        if kind in self._seconds_a_voxel:
            return
        if kind != self._timed:
            self._wait()
            self._timed, self._since, self._passes = kind, self._clock(), 0
            return
        self._passes += passes
        if self._clock() - self._since < LEAST_TIMED_S:
            return
        self._wait()
        self._seconds_a_voxel[kind] = (self._clock() - self._since) / self._passes / math.prod(part.window.size)
        found = self._estimate(on_gpu)
        if found.seconds >= max(LEAST_SHOWN_S, MUCH_LONGER * self._announced_s):
            self._announced_s = found.seconds
            self._on_estimate(found)

    def _estimate(self, on_gpu: bool) -> TimeEstimate:
        rates = self._seconds_a_voxel
        latest = next(reversed(rates.values()))

        def cost_s(manifest: Manifest) -> float:
            found = 0.0
            for part, passes in passes_of(manifest, self._windows):
                rate = rates.get((part.network, part.window.size, on_gpu), latest)
                found += passes * math.prod(part.window.size) * rate
            return found

        manifest, cheaper = self._bundle.manifest, cheaper_choice(self._bundle)
        passes = passes_of(manifest, self._windows)
        windows = {self._windows(part) for part, _ in passes}
        return TimeEstimate(
            seconds=cost_s(manifest),
            windows=windows.pop() if len(windows) == 1 else 0,
            passes=sum(count for _, count in passes),
            device="GPU" if on_gpu else "CPU",
            cheaper=(cheaper[0], cost_s(cheaper[1].manifest)) if cheaper else None,
        )
