"""DICOM's dates and times (DA, TM, DT of PS3.5, 6.2), and common mistakes in them."""

import re
from dataclasses import dataclass, replace
from datetime import date, timedelta

from pydicom.dataset import Dataset

from model.dicom.elements import tag_and_value, text

DAY_S = 86400.0
MOST_EAST_S, MOST_WEST_S = 14 * 3600.0, -12 * 3600.0  # the largest offsets from UTC in use
MISTAKES = (
    (r"[0-9]{1,2}[:.h ]?[0-9]{2}([:.][0-9]{2})?[ _]*[AaPp]\.?[Mm]\.?", "a time of a 12-hour clock"),
    (r"[0-9]{4}-[0-9]{1,2}-[0-9]{1,2}([T ].*)?", "an ISO 8601 date and time"),
    (r"[0-9]{1,2}[-./][0-9]{1,2}[-./][0-9]{4}.*", "a date with the day or the month first"),
    (r"[0-9]{4}/[0-9]{1,2}/[0-9]{1,2}.*", "a date with slashes"),
    (r"[0-9]{5}(\.[0-9]*)?|[0-9]:[0-5][0-9](:[0-9.]+)?|[0-9]{3}", "a time without its leading zero"),
    (r"[0-9]{6},[0-9]+|[0-9]{14},[0-9]+", "a time with a decimal comma"),
    (r"[0-9]{8}(:?[ T][0-9]{2}:?[0-9]{2}.*)", "a date and a time with something between them"),
    (r"1[0-9]{9}(\.[0-9]*)?|1[0-9]{12}", "seconds since 1970"),
)  # how a value looks that is not a DICOM time, and what it probably is


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A time of day in seconds since midnight, its day where the header states one, and the tag that states it.

    Seconds above 86,400 are on the next day.
    """

    day: date | None
    second: float
    source: str

    def __str__(self) -> str:
        hours, rest = divmod(self.second % DAY_S, 3600)
        return f"{hours:02.0f}:{rest // 60:02.0f}:{rest % 60:05.2f}".removesuffix(".00")


@dataclass(frozen=True, kw_only=True)
class DateTime:
    """The day, time of day and offset from UTC (seconds) that a DT states; None for what it does not state."""

    day: date | None
    second: float | None
    offset_s: float | None


def seconds_of(stated: str) -> float | None:
    """A TM (HHMMSS.FFFFFF, HHMM, HH; HH:MM:SS of old files) as seconds since midnight; None if it is not one."""
    match = re.fullmatch(r"([0-9]{2})(?::?([0-5][0-9])(?::?([0-5][0-9]|60)(\.[0-9]*)?)?)?", stated)
    if not match or int(match[1]) > 23:
        return None
    return 3600.0 * int(match[1]) + 60.0 * int(match[2] or 0) + float((match[3] or "0") + (match[4] or ""))


def day_of(stated: str) -> date | None:
    """A DA (YYYYMMDD; YYYY.MM.DD of old files) as a date; None if it is not one."""
    match = re.fullmatch(r"([0-9]{4})([.-]?)([0-9]{2})\2([0-9]{2})", stated)
    try:
        return date(int(match[1]), int(match[3]), int(match[4])) if match else None
    except ValueError:
        return None


def date_time_of(stated: str) -> DateTime | None:
    """A DT (YYYYMMDDHHMMSS.FFFFFF&ZZXX, cut short anywhere after the year); None if it is not one.

    De-identification may leave a day of zeros before a time: then the day is None.
    """
    match = re.fullmatch(
        r"([0-9]{4}(?:[0-9]{2}){0,2})(?:(?<=[0-9]{8})([0-9]{2}(?:[0-9]{2}(?:[0-9]{2}(?:\.[0-9]*)?)?)?))?"
        r"([+-][0-9]{4})?",
        stated,
    )
    if not match:
        return None
    second, offset_s = seconds_of(match[2] or ""), offset_of(match[3] or "")
    if (match[2] and second is None) or (match[3] and offset_s is None):
        return None
    return DateTime(day=day_of(match[1]), second=second, offset_s=offset_s)


def offset_of(stated: str) -> float | None:
    """An offset from UTC (+HHMM or -HHMM) in seconds; None if it is not one."""
    match = re.fullmatch(r"([+-])([0-9]{2}):?([0-5][0-9])", stated)
    if not match:
        return None
    offset_s = (1 if match[1] == "+" else -1) * (3600.0 * int(match[2]) + 60.0 * int(match[3]))
    return offset_s if MOST_WEST_S <= offset_s <= MOST_EAST_S else None


def scanner_offset_s(header: Dataset) -> float | None:
    """The offset from UTC of all times that state none (0008,0201); None where it is absent, or several differ."""
    stated = {offset_of(part.strip()) for part in text(header, "TimezoneOffsetFromUTC").split("\\")}
    return stated.pop() if len(stated) == 1 else None


def shifted(moment: Moment, seconds: float) -> Moment:
    """The moment that many seconds later, on the next day if need be."""
    days, second = divmod(moment.second + seconds, DAY_S)
    return replace(moment, day=later_day(moment.day, int(days)), second=second)


def later_day(day: date | None, days: int) -> date | None:
    """The day that many days later; None for None, and where the calendar ends."""
    try:
        return None if day is None else day + timedelta(days=days)
    except OverflowError:
        return None


def nearest_day(day: date | None, second: float, other_second: float) -> date | None:
    """The day on which `second` lies within 12 hours of `other_second` on `day`."""
    difference_s = second - other_second
    return later_day(day, (difference_s < -DAY_S / 2) - (difference_s > DAY_S / 2))


def apart_s(one: float, other: float) -> float:
    """Seconds between two times of day, the shorter way round the clock."""
    apart = abs(one - other) % DAY_S
    return min(apart, DAY_S - apart)


def time_flaw(keyword: str, stated: str, form: str = "HHMMSS.FFFFFF") -> str:
    """Words for messages about a bad date or time: the element, its value, the form it must have and its mistake."""
    mistake = next((what for pattern, what in MISTAKES if re.fullmatch(pattern, stated)), "")
    return f"{tag_and_value(keyword, stated)}, which is not {form}" + (f" (probably {mistake})" if mistake else "")
