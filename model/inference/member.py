"""One network over one study: its margin, the logit of lesion less that of background; above 0 is lesion."""

from collections.abc import Callable

from torch import Tensor

from model.bundle.settings import Part
from model.inference.ladder import Rung
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
    """A network's margin over a study, (X, Y, Z) float32 on `rung.sums_on` (for slices on the host); and warnings.

    image: (2, X, Y, Z), from `segment.image_of`. part: the network's window and intensity. predict: turns patches on
    `rung.device` into logits: (B, 2, *window), channel 0 = CT, or for slices (B, 2, Y, X), channel 0 = PET. starts: the
    windows to run, None: all. on_windows: called with how many windows were done since the last call.
    `device.computing` is the caller's.
    """

    def margins(patches: Tensor) -> Tensor:
        return difference_of(predict(patches))

    if part.network.kind == "slices":
        return _run_slices(image, part, margins, rung, on_windows)
    image = image.to(rung.device)
    margin = slide(
        image,
        margins,
        window=part.window_for(tuple(image.shape[1:])),
        overlap=part.window.overlap,
        weighting=part.window.weighting,
        batch=rung.windows,
        sums_on=rung.sums_on,
        starts=starts,
        on_windows=on_windows,
    )
    return margin[0], []


def difference_of(logits: Tensor) -> Tensor:
    """Logit of lesion less that of background, (B, 1, ...) float32, of logits (B, 2, ...), or (B, 1, ...) of lesion."""
    logits = logits.float()
    return logits if logits.shape[1] == 1 else logits[:, 1:] - logits[:, :1]


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
