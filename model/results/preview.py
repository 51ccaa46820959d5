"""A picture to check a mask: coronal and sagittal maximum-intensity projections to scale, with the mask's outline."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

SUV_BLACK = 10.0  # grey scale: white at SUV 0, black at this and above
PIXEL_MM = 1.5
THUMBNAIL_PIXEL_MM, THUMBNAIL_GAP, THUMBNAIL_GREYS = 4.0, 6, 16
LARGEST = 2000  # pixels of an edge: a body is smaller, but a wrong header may claim more
MARGIN = 36
OUTLINE = (214, 30, 30)
INK = (40, 40, 40)
NUMBERED = 30  # lesions with their number beside them: more would hide each other


def preview(
    suv: NDArray[Any],
    mask: NDArray[Any],
    spacing_mm: tuple[float, float, float],
    caption: str,
    numbers: NDArray[Any] | None = None,
) -> bytes:
    """PNG of the two projections side by side.

    suv, mask: (z, y, x) in LAS order; spacing_mm: (x, y, z). The patient stands upright, right side
    at the left of the coronal picture (radiological convention), facing left in the sagittal one.
    An empty mask gives the projections without an outline. numbers: the lesion's number at every voxel, (z, y, x); the
    first 30 are written beside their outlines.
    """
    x_mm, y_mm, z_mm = spacing_mm
    # LAS: x grows to the left, y to anterior, z to superior. Rows run downwards, so z is flipped.
    coronal = _panel(suv.max(axis=1)[::-1], np.any(mask, axis=1)[::-1], (z_mm, x_mm))
    sagittal = _panel(suv.max(axis=2)[::-1, ::-1], np.any(mask, axis=2)[::-1, ::-1], (z_mm, y_mm))
    wide = coronal.width + sagittal.width + 3 * MARGIN
    picture = Image.new("RGB", (max(wide, 560), coronal.height + 3 * MARGIN), "white")
    draw = ImageDraw.Draw(picture)
    font, small = ImageFont.load_default(15), ImageFont.load_default(13)
    left = MARGIN
    for panel, title, sides in ((coronal, "coronal", "RL"), (sagittal, "sagittal", "AP")):
        picture.paste(panel, (left, 2 * MARGIN))
        draw.text((left, MARGIN + 12), f"{title}  {sides[0]}|{sides[1]}", INK, font=font)
        left += panel.width + MARGIN
    for number, (z, y, x) in _boxes(numbers):
        height = 1 - (z.start + z.stop) / 2 / suv.shape[0]
        right, back = x.stop / suv.shape[2], 1 - y.start / suv.shape[1]
        top = 2 * MARGIN + height * coronal.height - 8
        draw.text((MARGIN + right * coronal.width + 4, top), str(number), OUTLINE, font=small)
        draw.text((2 * MARGIN + coronal.width + back * sagittal.width + 4, top), str(number), OUTLINE, font=small)
    draw.text((MARGIN, 12), caption, INK, font=font)
    bottom = coronal.height + 2 * MARGIN
    draw.line([(MARGIN, bottom + 10), (MARGIN + 100 / PIXEL_MM, bottom + 10)], INK, 2)
    draw.text((MARGIN + 100 / PIXEL_MM + 8, bottom + 1), f"10 cm   grey: SUV 0 to {SUV_BLACK:g}", INK, font=font)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _boxes(numbers: NDArray[Any] | None) -> list[tuple[int, tuple[slice, slice, slice]]]:
    """The numbers and boxes of the first lesions; a number may be missing."""
    if numbers is None or not numbers.any():
        return []
    boxes = ndimage.find_objects(np.ascontiguousarray(numbers))
    return [(number, box) for number, box in enumerate(boxes, start=1) if box is not None][:NUMBERED]


def thumbnail(suv: NDArray[Any], mask: NDArray[Any], spacing_mm: tuple[float, float, float]) -> bytes:
    """Small PNG of the two projections without words, in 16 greys and the outline's red; see `preview`."""
    x_mm, y_mm, z_mm = spacing_mm
    coronal = _panel(suv.max(axis=1)[::-1], np.any(mask, axis=1)[::-1], (z_mm, x_mm), THUMBNAIL_PIXEL_MM, 1)
    sagittal = _panel(
        suv.max(axis=2)[::-1, ::-1], np.any(mask, axis=2)[::-1, ::-1], (z_mm, y_mm), THUMBNAIL_PIXEL_MM, 1
    )
    picture = Image.new("RGB", (coronal.width + sagittal.width + THUMBNAIL_GAP, coronal.height), "white")
    picture.paste(coronal, (0, 0))
    picture.paste(sagittal, (coronal.width + THUMBNAIL_GAP, 0))
    buffer = io.BytesIO()
    in_few_colours(picture, (OUTLINE,)).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def in_few_colours(picture: Image.Image, kept: Sequence[tuple[int, int, int]]) -> Image.Image:
    """The picture with a palette of few greys, which compress well, and the colours `kept` unchanged."""
    pixels = np.asarray(picture)
    index = np.rint(pixels[..., 0] / 255 * (THUMBNAIL_GREYS - 1)).astype(np.uint8)
    for number, colour in enumerate(kept):
        index[(pixels == colour).all(axis=2)] = THUMBNAIL_GREYS + number
    reduced = Image.fromarray(index, "P")
    greys = [round(255 * level / (THUMBNAIL_GREYS - 1)) for level in range(THUMBNAIL_GREYS)]
    reduced.putpalette(
        [value for grey in greys for value in (grey, grey, grey)] + [value for colour in kept for value in colour]
    )
    return reduced


def _panel(
    suv: NDArray[Any], mask: NDArray[Any], spacing_mm: tuple[float, float], pixel_mm: float = PIXEL_MM, line: int = 2
) -> Image.Image:
    """One projection (rows, columns) in square pixels, with the mask's outline."""
    return outlined(grey_panel(suv, spacing_mm, pixel_mm), mask, OUTLINE, line)


def grey_panel(suv: NDArray[Any], spacing_mm: tuple[float, float], pixel_mm: float) -> Image.Image:
    """One projection (rows, columns) in square pixels."""
    extent = [n * mm for n, mm in zip(suv.shape[::-1], spacing_mm[::-1], strict=True)]
    size = tuple(min(LARGEST, max(1, round(mm / pixel_mm))) for mm in extent)
    grey = 255 * (1 - np.clip(suv / SUV_BLACK, 0, 1))
    return Image.fromarray(grey.astype(np.uint8)).resize(size, Image.Resampling.BILINEAR).convert("RGB")


def outlined(panel: Image.Image, mask: NDArray[Any], colour: tuple[int, int, int], line: int) -> Image.Image:
    """A projection with the outline of a mask (rows, columns), `line` pixels wide."""
    large = np.asarray(Image.fromarray(mask.astype(np.uint8) * 255).resize(panel.size, Image.Resampling.BILINEAR)) > 127
    pixels = np.array(panel)
    pixels[ndimage.binary_dilation(large, iterations=line) & ~large] = colour
    return Image.fromarray(pixels)
