"""Work in threads: make the next item while the present one is used, or start early what is needed later."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from threading import Thread
from typing import TypeVar

Item = TypeVar("Item")
Made = TypeVar("Made")


def prefetched(items: Iterable[Item], make: Callable[[Item], Made]) -> Iterator[Made]:
    """Yield make(item) for every item, in order; while one is used, a thread makes the next.

    At most two exist at a time. An error of `make` is raised where its result would have come.
    """
    thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="prefetched")
    try:
        current: Future[Made] | None = None
        for item in items:
            following = thread.submit(make, item)
            if current is not None:
                yield current.result()
            current = following
        if current is not None:
            yield current.result()
    finally:
        thread.shutdown(cancel_futures=True)


def run_in_background(work: Callable[[], object]) -> Thread:
    """Start in a thread what is needed later. Errors are ignored: whoever needs it does it again and meets them."""

    def quietly() -> None:
        with suppress(Exception):
            work()

    thread = Thread(target=quietly, name="background")
    thread.start()
    return thread
