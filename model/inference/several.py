"""Several studies in one process: the next is read and resampled while the networks run over the present one."""

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from model.background import prefetched
from model.bundle.manifest import Bundle
from model.inference.device import Device
from model.inference.segment import Ready, Result, make_ready, segment_ready
from model.networks.weights import Voter, keep, voters
from model.stopwatch import Stopwatch
from model.study.reading import Case

Item = TypeVar("Item")


def segment_each(
    items: Iterable[Item],
    read: Callable[[Item], Case],
    bundle: Bundle,
    device: Device,
    watch: Stopwatch,
    those: list[Voter] | None = None,
) -> Iterator[tuple[Case, Result]]:
    """Every study and what `segment` says of it, in order, by networks loaded once, or by `those`.

    watch: told of what is not overlapped. In memory are the study that was given out, the present one and the next.
    Raises what `read` and `segment` raise, when the study's turn comes.
    """
    those = those or keep(voters(bundle), device.torch_device)

    def ready(item: Item) -> Ready:
        return make_ready(read(item), bundle, Stopwatch())

    for study in prefetched(items, ready):
        yield study.case, segment_ready(study, bundle, device, watch, those=those)
