"""One network over one study: its margin, the logit of lesion less that of background; above 0 is lesion."""

import itertools
from collections.abc import Callable, Sequence

from torch import Tensor

from model.bundle.settings import Part
from model.inference.ladder import Rung
from model.inference.outputs import values_of
from model.inference.slices import slice_starts, slide_slices
from model.inference.sliding import Size, slide


def run_member(
    image: Tensor,
    part: Part,
    predict: Callable[[Tensor], Tensor],
    rung: Rung,
    starts: list[Size] | None = None,
    on_windows: Callable[[int], None] = lambda done: None,
) -> tuple[Tensor, list[str]]:
    """What a network puts out over a study, float32 on `rung.sums_on` (for slices on the host); and warnings.

    Returns (K, X, Y, Z): a margin, K = 1, or of more than two classes or regions every logit (`outputs.values_of`);
    after them the organs' logits, if `predict` gives them.
    image: (2, X, Y, Z), from a `StudyView`. part: the network's window and intensity. predict: turns patches on
    `rung.device` into logits: (B, 2, *window), channel 0 = CT, or for slices (B, 2, Y, X), channel 0 = PET. starts: the
    windows to run, None: all. on_windows: called with how many windows were done since the last call.
    `device.computing` is the caller's.
    """

    def values(patches: Tensor) -> Tensor:
        return values_of(predict_mirrored(predict, patches, part.window.mirrored), part.network)

    if part.network.kind == "slices":
        margin, warnings = _run_slices(image, part, values, rung, on_windows)
        return margin[None], warnings
    image = image.to(rung.device)
    found = slide(
        image,
        values,
        window=part.window_for(tuple(image.shape[1:])),
        overlap=part.window.overlap,
        weighting=part.window.weighting,
        placing=part.window.placing,
        batch=rung.windows,
        sums_on=rung.sums_on,
        starts=starts,
        on_windows=on_windows,
    )
    return found, []


def predict_mirrored(predict: Callable[[Tensor], Tensor], patches: Tensor, axes: Sequence[str]) -> Tensor:
    """The mean of the logits of patches (B, 2, X, Y, Z) as they are and mirrored along every combination of axes."""
    logits = predict(patches)
    flips = [
        combination
        for count in range(1, len(axes) + 1)
        for combination in itertools.combinations([2 + "xyz".index(axis) for axis in axes], count)
    ]
    for flip in flips:
        logits = logits + predict(patches.flip(flip)).flip(flip)
    return logits / (len(flips) + 1) if flips else logits


def _run_slices(
    image: Tensor,
    part: Part,
    margins: Callable[[Tensor], Tensor],
    rung: Rung,
    on_windows: Callable[[int], None],
) -> tuple[Tensor, list[str]]:
    size = part.window.size
    starts, too_wide = slice_starts(image[0].numpy(), size)
    margin = slide_slices(
        image,
        margins,
        starts=starts,
        window=size,
        air_hu=part.intensity.ct_low_hu,
        device=rung.device,
        batch=rung.slices,
        on_windows=on_windows,
    )
    warning = (
        f"in {too_wide} of {image.shape[3]} slices the body is wider than the {size[0]} x {size[1]} pixels that the "
        "network for slices sees; it finds nothing beyond them"
    )
    return margin, [warning] if too_wide else []
