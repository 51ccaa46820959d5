"""Two dates side by side: coronal projections to one scale of mm and SUV, lesions numbered and coloured by change."""

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from model.hospital.dates.change import BEYOND, GONE, GROWN, NEW, SHRUNK, UNCHANGED
from model.results.preview import (
    INK,
    MARGIN,
    NUMBERED,
    PIXEL_MM,
    SUV_BLACK,
    THUMBNAIL_PIXEL_MM,
    grey_panel,
    in_few_colours,
    outlined,
)

COLOURS = {
    NEW: (200, 0, 160),
    GROWN: (214, 30, 30),
    UNCHANGED: (200, 120, 0),
    SHRUNK: (0, 130, 60),
    GONE: (20, 80, 220),
    BEYOND: (110, 110, 110),
}


@dataclass(frozen=True)
class Panel:
    """One date: PET in SUV and the lesions' numbers, both (z, y, x) in LAS order; spacing (x, y, z).

    top_mm: the height of its upper edge, in coordinates that both dates share. changes: of each lesion, by number.
    """

    title: str
    suv: NDArray[Any]
    numbers: NDArray[Any]
    spacing_mm: tuple[float, float, float]
    top_mm: float
    changes: Mapping[int, str]


def draw_two_dates(first: Panel, second: Panel, caption: str = "") -> bytes:
    """PNG of both dates, the patient's right at the left, the same part of the body at the same height.

    Without a caption it is small and has no words.
    """
    pixel_mm, margin = (PIXEL_MM, MARGIN) if caption else (THUMBNAIL_PIXEL_MM, 4)
    drawn = [_coronal(panel, pixel_mm, 2 if caption else 1) for panel in (first, second)]
    top_mm = max(first.top_mm, second.top_mm)
    downs = [round((top_mm - panel.top_mm) / pixel_mm) for panel in (first, second)]
    head = 2 * MARGIN if caption else 0
    high = max(down + one.height for down, one in zip(downs, drawn, strict=True))
    wide = sum(one.width for one in drawn) + 3 * margin
    picture = Image.new(
        "RGB", (max(wide, 700) if caption else wide, head + high + (2 * MARGIN if caption else 0)), "white"
    )
    draw, font, small = ImageDraw.Draw(picture), ImageFont.load_default(15), ImageFont.load_default(13)
    left = margin
    for panel, one, down in zip((first, second), drawn, downs, strict=True):
        picture.paste(one, (left, head + down))
        if caption:
            draw.text((left, MARGIN + 12), f"{panel.title}  R|L", INK, font=font)
            _number(draw, panel, one.size, (left, head + down), small)
        left += one.width + margin
    if caption:
        draw.text((MARGIN, 12), caption, INK, font=small)
        _legend(draw, head + high + 8, (first, second), font)
    if not caption:
        picture = in_few_colours(picture, list(COLOURS.values()))  # it lies in the page
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _coronal(panel: Panel, pixel_mm: float, line: int) -> Image.Image:
    """One date's projection with its lesions outlined, each in the colour of its change."""
    x_mm, _, z_mm = panel.spacing_mm
    image = grey_panel(panel.suv.max(axis=1)[::-1], (z_mm, x_mm), pixel_mm)
    for change, colour in COLOURS.items():
        wanted = [number for number, what in panel.changes.items() if what == change]
        if wanted:
            inside = np.any(np.isin(panel.numbers, wanted), axis=1)[::-1]
            image = outlined(image, inside, colour, line)
    return image


def _number(draw: ImageDraw.ImageDraw, panel: Panel, size: tuple[int, int], corner: tuple[int, int], font: Any) -> None:
    """Write the numbers of the first lesions beside their outlines."""
    boxes = ndimage.find_objects(np.ascontiguousarray(panel.numbers))[:NUMBERED]
    depth, _, width = panel.numbers.shape
    for number, box in enumerate(boxes, start=1):
        if box is not None:
            z, _, x = box
            at = (
                corner[0] + x.stop / width * size[0] + 4,
                corner[1] + (1 - (z.start + z.stop) / 2 / depth) * size[1] - 8,
            )
            draw.text(at, str(number), COLOURS.get(panel.changes.get(number, ""), INK), font=font)


def _legend(draw: ImageDraw.ImageDraw, top: int, panels: tuple[Panel, Panel], font: Any) -> None:
    """The scale of mm and SUV, and the colours that occur."""
    length = 100 / PIXEL_MM
    draw.line([(MARGIN, top + 10), (MARGIN + length, top + 10)], INK, 2)
    draw.text((MARGIN + length + 8, top + 1), f"10 cm   grey: SUV 0 to {SUV_BLACK:g} on both", INK, font=font)
    there = {change for panel in panels for change in panel.changes.values()}
    left = float(MARGIN)
    for change in (one for one in COLOURS if one in there):
        draw.text((left, top + 24), change, COLOURS[change], font=font)
        left += draw.textlength(change, font=font) + 18
