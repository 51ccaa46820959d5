"""The names and values of tables in words for a page: the unit of a name is at its end, as in volume_ml."""

from dataclasses import dataclass
from typing import Any

TITLES = {
    "number": "No.",
    "lesions": "Lesions",
    "suv_max": "SUVmax",
    "suv_mean": "SUVmean",
    "suv_peak": "SUVpeak",
    "suv_sd": "SD",
    "suv_median": "SUVmedian",
    "tlg_suv_ml": "TLG (SUV ml)",
    "mtv_ml": "MTV (ml)",
    "dmax_mm": "Dmax (mm)",
    "centroid_x_mm": "x (mm)",
    "centroid_y_mm": "y (mm)",
    "centroid_z_mm": "z (mm)",
    "long_diameter_mm": "Diameter (mm)",
    "fpv_ml": "FPV (ml)",
    "fnv_ml": "FNV (ml)",
    "mtv_true_ml": "MTV, truth (ml)",
    "sul_max": "SULmax",
    "sul_mean": "SULmean",
    "sul_peak": "SULpeak",
    "sul_peak_james": "SULpeak (James)",
    "suv_peak_to_liver": "SUVpeak / liver",
    "suv_peak_to_blood": "SUVpeak / blood",
    "dmax_over_bsa_per_m": "Dmax / body surface (1/m)",
    "dropped_lesions": "Dropped",
    "why": "Not known",
    "lesion_ml": "of it lesion (ml)",
}
UNITS = ("ml", "mm", "cm", "m", "m2", "kg", "s", "percent", "MBq", "g")
CAPITALS = {word.lower(): word for word in ("SUV", "SUL", "MTV", "TLG", "PET", "CT", "SD", "BSA", "PERCIST", "James")}
NOTHING = "–"


@dataclass(frozen=True)
class Column:
    """A column of numbers on a page: the key in a row, and digits after the point."""

    name: str
    digits: int

    @property
    def title(self) -> str:
        return title_of(self.name)


def columns(**digits: int) -> tuple[Column, ...]:
    """Columns of these names, in this order."""
    return tuple(Column(name, number) for name, number in digits.items())


def title_of(name: str) -> str:
    """The title of a column or row."""
    if name in TITLES:
        return TITLES[name]
    words = name.split("_")
    unit = words.pop() if len(words) > 1 and words[-1] in UNITS else ""
    unit = f"{words.pop()} {unit}" if unit and words[-1] == "per" else unit
    return heading(" ".join(words)) + (f" ({unit})" if unit else "")


def heading(name: str) -> str:
    """The heading of a section."""
    words = [CAPITALS.get(word, word) for word in name.replace("_", " ").split()]
    text = " ".join(words)
    return text[:1].upper() + text[1:]


def value_words(name: str, value: Any) -> str:
    """A value for readers: lengths with one digit after the point, other numbers with two below 100, one above."""
    if value is None:
        return NOTHING
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:,.{1 if name.endswith('_mm') or abs(value) >= 100 else 2}f}"
    if isinstance(value, dict):
        return "; ".join(f"{title_of(key)}: {value_words(key, item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return ", ".join(value_words(name, item) for item in value) or NOTHING
    return str(value) or NOTHING


def shown_name(patient: str) -> str:
    """A name of DICOM for readers: its parts by spaces, its scripts by slashes."""
    groups = (" ".join(part for part in group.split("^") if part.strip()) for group in patient.split("="))
    return " / ".join(group for group in groups if group)
