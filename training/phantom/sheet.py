"""Show phantoms: a picture of twelve, statistics, and the generator's settings as tables.

    python -m training sheet --output docs/phantoms.png
    python -m training sheet --statistics 40 [--site F] [--seed 199000]
    python -m training sheet --tables
    python -m training sheet --maps training/phantom/maps --output docs/phantoms_on_maps.png
    python -m training sheet --uptake 4000

The seeds, from FIRST_SEED on, are the end of the validation range, with --maps, whose maps are for training, the end of
the training range; nothing else uses them. docs/phantoms.md has the
printed tables.
"""

import argparse
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy import ndimage

from model.errors import ConfigError, OutputError
from model.whole import Staging
from training.phantom.facts import measure, statistics, tables, uptake_table
from training.phantom.physics import SITES, TRAINING_SITES
from training.phantom.shapes import Triple
from training.phantom.study import Phantom, make_phantom, maps_for

FIRST_SEED, FIRST_SEED_ON_MAPS = 199_000, 99_000
SHEET = (  # site, diagnosis; the seeds are FIRST_SEED and up
    ("A", "lymphoma"),
    ("B", "lung cancer"),
    ("C", "melanoma"),
    ("D", "negative"),
    ("E", "lymphoma"),
    ("F", "melanoma"),
    ("A", "negative"),
    ("B", "sarcoma"),
    ("C", "lung cancer"),
    ("D", "melanoma"),
    ("E", "lung cancer"),
    ("F", "lymphoma"),
)
COLUMNS = 4
PIXEL_MM, WIDE_MM, HIGH_MM = 2.8, 540.0, 1250.0  # of a panel
SUV_BLACK, HU_BLACK, HU_WHITE = 10.0, -250.0, 350.0
SLAB_MM = 8.0  # of the CT, anterior to posterior
RED, INK = (214, 30, 30), (40, 40, 40)


def run(options: argparse.Namespace) -> None:
    """Print and draw what is asked for. Raises ConfigError or OutputError."""
    check(options)
    if options.tables:
        print(tables())
    if options.statistics is not None:
        sites = (options.site,) if options.site else TRAINING_SITES
        seeds = range(options.seed, options.seed + options.statistics)
        facts = [
            measure(seed, sites[n % len(sites)], maps=maps_for(seed, options.maps)) for n, seed in enumerate(seeds)
        ]
        print(statistics(facts))
    if options.uptake is not None:
        print(uptake_table(options.uptake, options.seed))
    if options.output is not None:
        first = FIRST_SEED_ON_MAPS if options.maps else FIRST_SEED
        write_sheet(options.output, ((first + n, *row) for n, row in enumerate(SHEET)), options.maps)


def add_options(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "Cost: about 10 s and 1 GB a study."
    add = parser.add_argument
    add("--output", type=Path, metavar="PNG", help="write the sheet of 12 phantoms there (about a minute)")
    add("--statistics", type=int, metavar="COUNT", help="make COUNT studies, print what they hold (3 to 8 s each)")
    add("--site", help=f"all statistics at this site (default: {', '.join(TRAINING_SITES)} in turn)")
    add(
        "--seed",
        type=int,
        default=None,
        help=f"first seed of the statistics (default {FIRST_SEED}, with --maps {FIRST_SEED_ON_MAPS})",
    )
    add(
        "--maps",
        type=Path,
        metavar="FOLDER",
        help="phantoms with the organs of this folder's maps (default: the model's)",
    )
    add("--uptake", type=int, metavar="COUNT", help="draw COUNT healthy patients, print their SUV beside the published")
    add("--tables", action="store_true", help="print the sites, tissues and diseases as Markdown tables")


def check(options: argparse.Namespace) -> None:
    """Raise ConfigError for options that are wrong, or if there is nothing to do."""
    if options.output is None and options.statistics is None and options.uptake is None and not options.tables:
        raise ConfigError("nothing to do: give --output PNG, --statistics COUNT, --uptake COUNT or --tables")
    if options.statistics is not None and options.statistics < 1:
        raise ConfigError(f"--statistics must be 1 or more studies, got {options.statistics}")
    if options.uptake is not None and options.uptake < 2:
        raise ConfigError(f"--uptake must be 2 or more patients, got {options.uptake}")
    if options.seed is None:
        options.seed = FIRST_SEED_ON_MAPS if options.maps else FIRST_SEED
    if options.seed < 0:
        raise ConfigError(f"--seed must be 0 or more, got {options.seed}")
    if options.site is not None and options.site not in SITES:
        raise ConfigError(f"--site must be one of {', '.join(SITES)}, got {options.site!r}")
    if options.output is not None and (options.output.suffix.lower() != ".png" or options.output.is_dir()):
        raise ConfigError(f"--output must be the name of a .png file, got '{options.output}'")


def write_sheet(path: Path, studies: Iterable[tuple[int, str, str]], maps: Path | None = None) -> None:
    """Draw phantoms (seed, site, diagnosis) as one PNG and write it. maps: folder of organ maps for them.

    Raises OutputError if it cannot be written.
    """
    cells = []
    with Staging() as staging:
        partial = staging.path(path)  # before the work, so that a wrong path is an error at once
        for seed, site, diagnosis in studies:
            phantom = make_phantom(seed, site, diagnosis, maps=maps_for(seed, maps))
            cells.append(cell(phantom))
            print(f"seed {seed} site {site}: {caption(phantom)}", flush=True)
        picture = sheet(cells).quantize(palette=palette(), dither=Image.Dither.NONE)
        try:
            picture.save(partial, "PNG", optimize=True)
        except OSError as error:
            raise OutputError(f"cannot write '{path}': {error.strerror}; check free space") from None
        staging.commit()
    print(f"wrote '{path}', {path.stat().st_size / 1000:.0f} kB")


def caption(phantom: Phantom) -> str:
    """Diagnosis, number of lesions (they may overlap) and ml of their truth."""
    count = len(phantom.lesions)
    if not count:
        return phantom.diagnosis
    volume_ml = float(phantom.truth.sum() * np.prod(phantom.pet_spacing_mm)) / 1000
    return f"{phantom.diagnosis}, {count} lesion{'s' * (count > 1)}, {volume_ml:.1f} ml"


def palette(greys: int = 64) -> Image.Image:
    """An image that carries the sheet's colours, so few that its file stays small: greys and RED."""
    colours = np.append(np.repeat(np.linspace(0, 255, greys).round().astype(np.uint8), 3), np.array(RED, np.uint8))
    carrier = Image.new("P", (1, 1))
    carrier.putpalette(colours.tobytes())
    return carrier


def sheet(cells: list[Image.Image]) -> Image.Image:
    """Cells in rows of COLUMNS, under a line of explanation."""
    wide, high = cells[0].size
    gap, top = 14, 46
    rows = -(-len(cells) // COLUMNS)
    picture = Image.new("RGB", (COLUMNS * (wide + gap) + gap, top + rows * (high + gap)), "white")
    line = (
        f"SYNTHETIC: no patient.   Left: PET, coronal maximum, SUV 0 to {SUV_BLACK:g}.   Right: CT, coronal slab "
        f"through the lesions, HU {HU_BLACK:g} to {HU_WHITE:g}.   Red: lesions.   Seen from the front."
    )
    ImageDraw.Draw(picture).text((gap, 14), line, INK, font=ImageFont.load_default(17))
    for number, part in enumerate(cells):
        row, column = divmod(number, COLUMNS)
        picture.paste(part, (gap + column * (wide + gap), top + row * (high + gap)))
    return picture


def cell(phantom: Phantom) -> Image.Image:
    """PET and CT of one phantom side by side under a title, both in mm from the top of the PET."""
    spacing, origin = phantom.pet_spacing_mm, phantom.pet_origin_mm
    top_mm = origin[2] + spacing[2] * (phantom.pet.shape[0] - 1)
    middle_mm = origin[0] + spacing[0] * (phantom.pet.shape[2] - 1) / 2
    z = top_mm - PIXEL_MM * np.arange(int(HIGH_MM / PIXEL_MM))
    x = middle_mm + PIXEL_MM * (np.arange(int(WIDE_MM / PIXEL_MM)) - WIDE_MM / PIXEL_MM / 2)
    y_mm = middle_of_interest(phantom)
    cut_pet = rows_near(y_mm, phantom.pet.shape[1], spacing[1], origin[1])
    cut_ct = rows_near(y_mm, phantom.ct.shape[1], phantom.ct_spacing_mm[1], phantom.ct_origin_mm[1])
    suv = onto(phantom.pet.max(1), (z, x), spacing, origin, 0)
    hu = onto(phantom.ct[:, cut_ct].mean(1), (z, x), phantom.ct_spacing_mm, phantom.ct_origin_mm, HU_WHITE)
    seen_in_pet = onto(phantom.truth.max(1), (z, x), spacing, origin, 0)
    seen_in_ct = onto(phantom.truth[:, cut_pet].max(1), (z, x), spacing, origin, 0)
    panels = (
        outlined(1 - suv / SUV_BLACK, seen_in_pet),
        outlined((hu - HU_BLACK) / (HU_WHITE - HU_BLACK), seen_in_ct),
    )
    title = 44
    picture = Image.new("RGB", (2 * len(x) + 4, len(z) + title), "white")
    draw = ImageDraw.Draw(picture)
    draw.text((2, 2), f"SYNTHETIC  seed {phantom.seed}  site {phantom.site}", INK, font=ImageFont.load_default(15))
    draw.text((2, 21), caption(phantom), INK, font=ImageFont.load_default(15))
    for number, panel in enumerate(panels):
        picture.paste(panel, (number * (len(x) + 4), title))
    return picture


def middle_of_interest(phantom: Phantom) -> float:
    """The y (mm) of the coronal plane that cuts the most lesion, or without lesion the middle of the body."""
    shares = phantom.truth if phantom.truth.any() else phantom.pet > 0.3
    rows = shares.sum((0, 2), dtype=float)
    row = rows.argmax() if phantom.truth.any() else (rows * np.arange(len(rows))).sum() / rows.sum()
    return float(phantom.pet_origin_mm[1] + phantom.pet_spacing_mm[1] * row)


def rows_near(y_mm: float, count: int, step_mm: float, start_mm: float) -> np.ndarray:
    """Which of a volume's coronal planes lie in the slab around y_mm: bool (count,), at least one inside the volume."""
    near: np.ndarray = np.abs(start_mm + step_mm * np.arange(count) - y_mm) <= max(SLAB_MM, step_mm) / 2
    return near


def onto(
    plane: np.ndarray, lines_mm: tuple[np.ndarray, np.ndarray], spacing: Triple, origin: Triple, outside: float
) -> np.ndarray:
    """A coronal plane (z, x) of a volume with this spacing and origin (x, y, z), linearly at lines_mm (z, x)."""
    places = [(line - origin[axis]) / spacing[axis] for line, axis in zip(lines_mm, (2, 0), strict=True)]
    index = np.meshgrid(*places, indexing="ij")
    found: np.ndarray = ndimage.map_coordinates(plane.astype(np.float32), index, order=1, cval=outside)
    return found


def outlined(white: np.ndarray, lesion: np.ndarray) -> Image.Image:
    """A grey picture (0 black, 1 white) with a red line around where `lesion` is above a half."""
    pixels = np.repeat((255 * np.clip(white, 0, 1)).astype(np.uint8)[..., None], 3, 2)
    inside = lesion > 0.5
    pixels[ndimage.binary_dilation(inside, iterations=2) & ~ndimage.binary_dilation(inside)] = RED
    return Image.fromarray(pixels)
