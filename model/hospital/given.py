"""Put the dose and time of injection that overrides.csv gives into the PET headers that were read.

So every check of the header is made on these values too. Files are never changed.
"""

from copy import deepcopy
from dataclasses import replace
from datetime import datetime, time

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from model.dicom.headers import Series
from model.dicom.isotopes import radiopharmaceuticals
from model.dicom.suv import Conversion
from model.hospital.find.entry import Entry

FIELDS = {
    "weight_kg": "weight_kg",
    "dose_MBq": "dose_bq",
    "injection_time": "injection",
}  # column of overrides.csv -> field of a Conversion


def with_given(series: Series, entry: Entry) -> Series:
    """The PET series with the given dose and time of injection in its headers. The weight is not put there: the reader
    takes it as an argument.
    """
    if entry.dose_mbq is None and entry.injection_time is None:
        return series
    headers = []
    for header in series.headers:
        new = deepcopy(header)
        items = radiopharmaceuticals(new) or [Dataset()]
        if entry.dose_mbq is not None:
            items[0].RadionuclideTotalDose = f"{entry.dose_mbq * 1e6:.10g}"
        if entry.injection_time is not None:
            _set_time(items[0], entry.injection_time)
        new.RadiopharmaceuticalInformationSequence = Items(items)
        headers.append(new)
    return replace(series, headers=tuple(headers))


def mark_given(conversion: Conversion, entry: Entry) -> Conversion:
    """The conversion, which says that the time of injection was given if overrides.csv gave it."""
    if entry.injection_time is not None and conversion.injection is not None:
        return replace(conversion, injection_from="given")
    return conversion


def unused_warnings(entry: Entry, conversion: Conversion | None, weight_for_sul: bool = False) -> list[str]:
    """A warning if the study's SUV did not need a value that was given; else none.

    weight_for_sul: whether SUL needs the given weight.
    """
    unused = [
        name
        for name in entry.given
        if name in FIELDS and (conversion is None or getattr(conversion, FIELDS[name]) is None)
        if not (name == "weight_kg" and weight_for_sul)
    ]
    if not unused:
        return []
    why = f"its SUV does not need that ({conversion.route})" if conversion else "images hold SUV already"
    return [f"{', '.join(unused)} given for PET '{entry.pet[0]}' is not used: {why}"]


def _set_time(item: Dataset, given: str) -> None:
    """Put a date and time, or a time of day, into (0018,1078) and (0018,1072), so that the two never contradict.

    A time with an offset from UTC goes into (0018,1078) alone, where it is converted.
    """
    for keyword in ("RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime"):
        if keyword in item:
            delattr(item, keyword)
    try:
        item.RadiopharmaceuticalStartTime = time.fromisoformat(given).strftime("%H%M%S.%f")
        return
    except ValueError:
        moment = datetime.fromisoformat(given)
    item.RadiopharmaceuticalStartDateTime = moment.strftime("%Y%m%d%H%M%S.%f%z")
    if moment.tzinfo is None:
        item.RadiopharmaceuticalStartTime = moment.strftime("%H%M%S.%f")
