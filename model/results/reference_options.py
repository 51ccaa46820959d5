"""Reference spheres in patient coordinates, as options and overrides.csv give them."""

import math
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError

RADIUS_MM = {"liver": 15.0, "blood": 5.0}  # PERCIST: 3 cm in the liver, 1 cm in the aorta
LARGEST_RADIUS_MM = 50.0
LARGEST_MM = 1e5  # a coordinate beyond is no patient's


@dataclass(frozen=True, kw_only=True)
class Sphere:
    """A sphere in patient coordinates (LPS), in mm."""

    centre_mm: tuple[float, float, float]
    radius_mm: float

    def __str__(self) -> str:
        return f"sphere at {', '.join(f'{value:g}' for value in self.centre_mm)} mm, radius {self.radius_mm:g} mm"


def sphere_from(text: str, what: str, where: str) -> Sphere:
    """The sphere of "X,Y,Z" or "X,Y,Z,R", in mm; semicolons or blanks may stand for commas. what: liver or blood.

    where: names the option or the cell in messages. Raises ConfigError.
    """
    words = _numbers_in(text, where)
    try:
        numbers = [float(word) for word in words]
        if len(numbers) not in (3, 4) or not all(math.isfinite(number) for number in numbers):
            raise ValueError
    except ValueError:
        raise ConfigError(
            f"{where} '{text}' is not X,Y,Z or X,Y,Z,R: give the centre in patient coordinates and the radius, in mm"
        ) from None
    radius_mm = numbers[3] if len(numbers) == 4 else RADIUS_MM[what]
    if not 0 < radius_mm <= LARGEST_RADIUS_MM or any(abs(number) > LARGEST_MM for number in numbers[:3]):
        raise ConfigError(
            f"{where} '{text}': the radius must be above 0 and at most {LARGEST_RADIUS_MM:g} mm, and every coordinate "
            f"within {LARGEST_MM:g} mm"
        )
    return Sphere(centre_mm=(numbers[0], numbers[1], numbers[2]), radius_mm=radius_mm)


def _numbers_in(text: str, where: str) -> list[str]:
    """The numbers of a sphere, as text. Spreadsheets of many countries write -60,5 for -60.5: where blanks or
    semicolons separate three or four numbers, a comma is a decimal one. Raises ConfigError where both readings give a
    sphere.
    """
    parts = text.replace("\u2212", "-").replace(";", " ").split()
    separated = [word for part in parts for word in part.split(",") if word]
    decimal = [part.strip(",").replace(",", ".") for part in parts]
    if len(decimal) not in (3, 4) or decimal == separated:
        return separated
    if len(separated) in (3, 4):
        raise ConfigError(
            f"{where} '{text}' could be {', '.join(separated)} or {', '.join(decimal)} mm; write decimals with a point"
        )
    return decimal


def add_sphere_options(parser: Any) -> None:
    """Add --liver-sphere and --blood-sphere to a parser or a group of it."""
    for what, place in (("liver", "the right lobe of a healthy liver"), ("blood", "the descending aorta")):
        parser.add_argument(
            f"--{what}-sphere",
            metavar="X,Y,Z[,R]",
            help=f"a sphere in {place}, whose SUV lesions are compared with: its centre in patient coordinates (LPS) "
            f"and its radius, in mm; write = before it, as in '--{what}-sphere=-60,-30,410' (default: "
            f"{'in the organ map, if there is one' if what == 'liver' else 'none'}, radius {RADIUS_MM[what]:g}; cost: "
            "none)",
        )
