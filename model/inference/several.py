"""Several studies in one process: the next is read and resampled while the networks run over the present one."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import TypeVar

from model.background import prefetched
from model.inference.options import SegmentOptions
from model.inference.segment import Ready, Result, make_ready, segment_ready
from model.networks.weights import load_now, voters
from model.stopwatch import Stopwatch
from model.study.reading import Case

Item = TypeVar("Item")


def segment_each(
    items: Iterable[Item], read: Callable[[Item], Case], options: SegmentOptions, watch: Stopwatch | None = None
) -> Iterator[tuple[Case, Result]]:
    """Every study with its `segment` result, in order, by networks that are loaded once.

    watch: counts the networks' seconds; the next study is read meanwhile, and that is not counted. In memory are the
    study given out, the present one and the next.
    Raises what `read` and `segment` raise, when the study's turn comes.
    """
    bundle = options.bundle
    options = replace(options, voters=options.voters or load_now(voters(bundle), options.device.torch_device))

    def ready(item: Item) -> Ready:
        return make_ready(read(item), bundle, Stopwatch())

    for study in prefetched(items, ready):
        yield study.case, segment_ready(study, options, watch)
