"""What `segment` runs with: the bundle, the device, and what is wanted besides the mask."""

from collections.abc import Callable
from dataclasses import dataclass

from model.bundle.manifest import Bundle
from model.inference.device import Device
from model.networks.weights import Voter


@dataclass(frozen=True, kw_only=True)
class SegmentOptions:
    """How studies are segmented.

    voters: networks that are loaded already (`model.networks.weights.load_now`); None: each is loaded when its turn
    comes and let go after it. with_probability: also lesion probabilities. with_disagreement: also the standard
    deviation of the networks' lesion probabilities, for two more volumes of memory. with_organs: also the organs, by
    the networks that have a head for them, for 4 bytes of memory a class and voxel. windows_at_a_time: None: as many as
    memory holds. on_windows: called with (windows done, windows in all).
    """

    bundle: Bundle
    device: Device
    voters: list[Voter] | None = None
    with_probability: bool = False
    with_disagreement: bool = False
    with_organs: bool = False
    windows_at_a_time: int | None = None
    on_windows: Callable[[int, int], None] = lambda done, total: None
