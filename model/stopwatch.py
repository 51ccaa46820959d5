"""Seconds spent in each named stage of a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Stopwatch:
    """Seconds spent in each named stage, in the order they first ended; a stage within another is not counted to it.

    wait: called where a stage begins and ends; a benchmark gives what waits for the GPU, since without it work is
    counted where it is waited for.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    inside: list[float] = field(default_factory=list)  # of each open stage: seconds of the stages within it

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self.wait()
        start = time.perf_counter()
        self.inside.append(0.0)
        try:
            yield
        finally:
            self.wait()
            all_of_it = time.perf_counter() - start
            own = all_of_it - self.inside.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own
            if self.inside:
                self.inside[-1] += all_of_it
