"""The next one of a row of things is made while the present one is used; what is needed later is begun now."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
    """make(item) of every item, in order; while one is used, the next is made in a thread.

    At most two exist at a time. An error of `make` is raised where its result would have come.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetched")
    try:
        waiting: Future[Made] | None = None
        for item in items:
            coming = thread.submit(make, item)
            if waiting is not None:
                yield waiting.result()
            waiting = coming
        if waiting is not None:
            yield waiting.result()
    finally:
        thread.shutdown(cancel_futures=True)


def run_in_background(work: Callable[[], object]) -> Thread:
    """Start what will be needed later in a thread; whoever needs it finds it done, or does it and meets its error."""

    def quietly() -> None:
        with suppress(Exception):
            work()

    thread = Thread(target=quietly, name="background")
    thread.start()
    return thread
