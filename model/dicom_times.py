"""When a PET was injected and to which time its values are decay-corrected, from DICOM headers.

The rules for reference and injection follow the QIBA SUV vendor-neutral pseudo-code: post-processing rewrites
SeriesTime, several beds share one reference, and de-identification shifts some dates and not others.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date

from pydicom.dataset import Dataset, FileDataset

from model.dicom_files import number, path_of, private, tag_name, text
from model.errors import CaseError

DAY_S = 86400.0
GE = (0x0009, "GEMS_PETD_01", 0x0D)  # PET scan date and time
SIEMENS = (0x0071, "SIEMENS MED PT", 0x22)  # decay correction date and time


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A time of day in seconds since midnight, its day where the header states one, and the tag it is from."""

    day: date | None
    second: float
    source: str

    def __str__(self) -> str:
        hours, rest = divmod(self.second % DAY_S, 3600)
        return f"{hours:02.0f}:{rest // 60:02.0f}:{rest % 60:05.2f}".removesuffix(".00")


def seconds_after(start: Moment, end: Moment) -> tuple[float, bool]:
    """Seconds from `start` to `end`, and whether their dates disagree by more than a day and were not used.

    With a date each (at most a day apart) it is their difference, which may be negative. Without, or with dates that
    disagree, times of day count alone, and an `end` earlier than `start` is of the next day: 0 to 86,400 s.
    """
    if start.day and end.day and abs((end.day - start.day).days) <= 1:
        return (end.day - start.day).days * DAY_S + end.second - start.second, False
    return (end.second - start.second) % DAY_S, bool(start.day and end.day)


def reference_time(headers: Sequence[FileDataset], warnings: list[str]) -> Moment:
    """The one time that DecayCorrection START corrects a series to.

    SeriesTime, when it is not later than the earliest AcquisitionTime; else GE's or Siemens' private time, the earliest
    of any slice; else the earliest acquisition, with a warning. Raises CaseError if the header has none of them.
    """
    series = _moment(headers[0], "SeriesDate", "SeriesTime")
    acquisitions = [m for m in map(acquisition_time, headers) if m]
    start = series or (acquisitions[0] if acquisitions else None)
    earliest = min(acquisitions, key=lambda m: _signed(start or m, m), default=None)
    if series and earliest:
        if _disagree(series, earliest):
            warnings.append(
                f"SeriesDate and AcquisitionDate of '{path_of(headers[0])}' disagree by more than a day "
                "(de-identified?): times of day are used alone"
            )
        if _signed(series, earliest) >= 0:
            return series
    for group, creator, element in (GE, SIEMENS):
        said = [stated for header in headers if (stated := private(header, group, creator, element))]
        source = f"({group:04X},xx{element:02X}) of {creator}"
        times = [moment for stated in dict.fromkeys(said) if (moment := _date_time(stated, source))]
        if times:  # of several beds the first
            return min(times, key=lambda moment: _signed(times[0], moment))
    if earliest is None:
        raise CaseError(
            f"PET '{path_of(headers[0])}' has no {tag_name('AcquisitionTime')} in any slice, so the time that its "
            "decay is corrected to is not known; export the series again with its times"
        )
    why = f"SeriesTime {series} is later than the earliest acquisition" if series else "SeriesTime is absent"
    warnings.append(
        f"{why}, and there is no private time of GE or Siemens: decay is taken to be corrected to the "
        f"earliest acquisition, {earliest} (is the series post-processed?)"
    )
    return earliest


def acquisition_time(header: FileDataset) -> Moment | None:
    """When the acquisition of a slice began, or None where the header does not say."""
    found = _moment(header, "AcquisitionDate", "AcquisitionTime")
    stated = text(header, "AcquisitionDateTime")
    return found or _date_time(stated, tag_name("AcquisitionDateTime"))


def frame_middle(header: FileDataset) -> Moment:
    """The middle of a slice's frame: its acquisition and half of ActualFrameDuration (ms). Raises CaseError."""
    start, duration_ms = acquisition_time(header), number(header, "ActualFrameDuration")
    if start is None or not duration_ms or duration_ms < 0:
        raise CaseError(
            f"PET '{path_of(header)}' is not decay-corrected (DecayCorrection NONE), and lacks "
            f"{tag_name('AcquisitionTime')} or {tag_name('ActualFrameDuration')}, from which the middle of its frame "
            "is known; reconstruct it with decay correction, or export it with its times"
        )
    middle = start.second + duration_ms / 2000  # past midnight it is left above 86,400: the day stays
    return replace(start, second=middle, source=f"middle of the frame ({start.source})")


def injection_time(item: Dataset, path: FileDataset) -> Moment:
    """When the tracer was injected: (0018,1078) before (0018,1072), from the radiopharmaceutical's item.

    path: the header that the item is of, for messages. Raises CaseError if neither says.
    """
    full = text(item, "RadiopharmaceuticalStartDateTime")
    found = _date_time(full, tag_name("RadiopharmaceuticalStartDateTime"))
    found = found or _moment(item, None, "RadiopharmaceuticalStartTime")
    if found is None:
        raise CaseError(
            f"PET '{path_of(path)}' has neither {tag_name('RadiopharmaceuticalStartDateTime')} nor "
            f"{tag_name('RadiopharmaceuticalStartTime')}: without the time of injection there is no SUV; enter it into "
            "the header, or export the series with it"
        )
    return found


def _moment(dataset: Dataset, day: str | None, time: str) -> Moment | None:
    second = _seconds(text(dataset, time))
    if second is None:
        return None
    return Moment(day=_day(text(dataset, day)) if day else None, second=second, source=tag_name(time))


def _date_time(stated: str, source: str) -> Moment | None:
    """A DICOM DT (YYYYMMDDHHMMSS.FFFFFF, an offset from UTC is passed over: all times are the scanner's own)."""
    match = re.fullmatch(r"(\d{8})(\d{4}(?:\d\d(?:\.\d*)?)?)(?:[+-]\d{4})?", stated)
    second = _seconds(match[2]) if match else None
    return Moment(day=_day(match[1]), second=second, source=source) if match and second is not None else None


def _seconds(stated: str) -> float | None:
    """A DICOM TM (HHMMSS.FFFFFF, HHMM, HH; HH:MM:SS of old files) as seconds since midnight."""
    match = re.fullmatch(r"(\d\d)(?::?([0-5]\d)(?::?([0-6]\d(?:\.\d*)?))?)?", stated)
    if not match or int(match[1]) > 23:
        return None
    return 3600.0 * int(match[1]) + 60.0 * int(match[2] or 0) + float(match[3] or 0)


def _day(stated: str) -> date | None:
    match = re.fullmatch(r"(\d{4})[.-]?(\d\d)[.-]?(\d\d)", stated)
    try:
        return date(*map(int, match.groups())) if match else None
    except ValueError:
        return None


def _disagree(one: Moment, other: Moment) -> bool:
    return bool(one.day and other.day and abs((one.day - other.day).days) > 1)


def _signed(start: Moment, end: Moment) -> float:
    """Seconds from `start` to `end`, less than half a day either way where dates do not help."""
    if start.day and end.day and not _disagree(start, end):
        return (end.day - start.day).days * DAY_S + end.second - start.second
    return (end.second - start.second + DAY_S / 2) % DAY_S - DAY_S / 2
