"""Seconds spent in each named stage of a run."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Stopwatch:
    """Seconds spent in each named stage, in the order they first ended. A stage does not count the stages within it.

    wait: called when a stage begins and ends. A benchmark passes a function that waits for the GPU: without it, work
    on the GPU counts in whichever stage waits for its result.
    """

    seconds: dict[str, float] = field(default_factory=dict)
    wait: Callable[[], None] = lambda: None
    inside: list[float] = field(default_factory=list)  # of each open stage: seconds of the stages within it

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the seconds of this block."""
        self.wait()
        start = time.perf_counter()
        self.inside.append(0.0)
        try:
            yield
        finally:
            self.wait()
            whole_s = time.perf_counter() - start
            own_s = whole_s - self.inside.pop()
            self.seconds[name] = self.seconds.get(name, 0.0) + own_s
            if self.inside:
                self.inside[-1] += whole_s
