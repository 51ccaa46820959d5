"""Call one function on many items, in several processes, with a bar on the terminal."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from typing import TypeVar

from tqdm import tqdm

from model.errors import ConfigError
from training.command import end_with_parent
from training.stopping import check_time

Item = TypeVar("Item")
Result = TypeVar("Result")


def map_parallel(
    function: Callable[[Item], Result], items: Sequence[Item], workers: int, unit: str = "study"
) -> Iterator[Result]:
    """Yield function(item) in the order of the items; with 1 worker, or 1 item, in this process.

    `function` must be at the top of a module (or a functools.partial of such a one): processes are spawned, not
    forked, since libraries here hold threads. The bar is on stderr, and only on a terminal. What the function
    raises is raised here, and items not yet started are dropped. Raises ConfigError for fewer than 1 worker, or if
    a process was killed, and StoppedInTime between two items when the time is over.
    """
    if workers < 1:
        raise ConfigError(f"--workers must be at least 1, got {workers}")
    with tqdm(total=len(items), unit=unit, disable=None) as bar:
        for result in _each(function, items, workers):
            yield result
            bar.update()
            if bar.n < len(items):
                check_time(f"{bar.n} of {len(items)} ({unit}) are made")


def cores() -> int:
    """How many processors this process may use: the default of --workers."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _each(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    if workers == 1 or len(items) < 2:
        yield from map(function, items)
        return
    pool = ProcessPoolExecutor(
        min(workers, len(items)), mp_context=get_context("spawn"), initializer=_start_worker, initargs=(os.getpid(),)
    )
    try:
        yield from pool.map(function, items)
    except BrokenProcessPool:
        raise ConfigError(
            f"one of {workers} processes was killed, most often because memory ran out; give fewer --workers"
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _start_worker(parent: int) -> None:
    """Make a worker end with its parent and use one processor: there are as many workers as processors."""
    import SimpleITK as sitk

    end_with_parent(parent)
    sitk.ProcessObject.SetGlobalDefaultNumberOfThreads(1)
