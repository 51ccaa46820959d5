"""The time of injection, and the time that a PET is decay-corrected to, from DICOM headers.

The rules for reference and injection follow the QIBA SUV vendor-neutral pseudo-code: post-processing rewrites
SeriesTime, several beds share one reference, and de-identification shifts some dates and not others.
"""

from collections.abc import Sequence
from dataclasses import replace

from pydicom.dataset import Dataset, FileDataset

from model.dicom.clock import (
    DAY_S,
    Moment,
    apart_s,
    date_time_of,
    day_of,
    nearest_day,
    scanner_offset_s,
    seconds_of,
    shifted,
    time_flaw,
)
from model.dicom.elements import misplaced_note, number, path_of, private_text, tag_and_value, tag_name, text
from model.errors import CaseError

START_DATE_TIME, START_TIME = "RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime"
GE = (0x0009, "GEMS_PETD_01", 0x0D)  # PET scan date and time
SIEMENS = (0x0071, "SIEMENS MED PT", 0x22)  # decay correction date and time
LEAST_FRAME_MS = 1000.0  # no static PET has shorter frames
CONTRADICT_S = 60.0  # a warning names times of injection that are further apart


def seconds_after(start: Moment, end: Moment, longest_s: float) -> tuple[float, float | None]:
    """Seconds from `start` to `end`; and the seconds by their dates, if these were not used, else None.

    If both have a date, and their difference lies between 0 and `longest_s`, it is used. Otherwise the dates are taken
    as shifted by de-identification: only the times of day count, and an `end` earlier than `start` is on the next day
    (0 to 86,400 s).
    """
    of_day_s = (end.second - start.second) % DAY_S
    if not (start.day and end.day):
        return of_day_s, None
    by_date_s = (end.day - start.day).days * DAY_S + end.second - start.second
    return (by_date_s, None) if 0 <= by_date_s <= longest_s else (of_day_s, by_date_s)


def reference_time(headers: Sequence[FileDataset], warnings: list[str], whole: Sequence[FileDataset] = ()) -> Moment:
    """The one time that DecayCorrection START corrects a series to.

    It is SeriesTime, if that is not later than the earliest AcquisitionTime; else GE's or Siemens' private time, the
    earliest of all slices; else the earliest acquisition, with a warning. whole: the headers of the PET that a joined
    series belongs to. Raises CaseError if the header has none of them, or an AcquisitionTime that is not a time.
    """
    first = headers[0]
    series = _series_time(first, warnings)
    earliest = _earliest(headers, series)
    if series and earliest:
        series = replace(series, day=series.day or nearest_day(earliest.day, series.second, earliest.second))
        if not _dates_disagree(series, earliest):
            if _signed_seconds(series, earliest) >= 0:
                return series
        elif _reconstructed_later(first, series, earliest):
            warnings.append(
                f"PET '{path_of(first)}' has a SeriesDate days after its AcquisitionDate, which is its StudyDate: it "
                "was reconstructed again, so its SeriesTime is not used"
            )
        else:
            warnings.append(
                f"SeriesDate and AcquisitionDate of '{path_of(first)}' disagree by more than a day "
                "(de-identified?): times of day are used alone"
            )
            if _signed_seconds(series, earliest) >= 0:
                return replace(series, day=None)
    private_time = _private_time(headers, warnings)
    if private_time:
        return private_time
    earliest = _earliest(whole, series) if whole else earliest
    if earliest is None:
        raise CaseError(
            f"PET '{path_of(first)}' has no {tag_name('AcquisitionTime')} in any slice, so the time that its "
            "decay is corrected to is not known; export the series again with its times"
        )
    reason = (
        f"SeriesTime {series} is later than the earliest acquisition"
        if series
        else "SeriesTime is absent, or not a time"
    )
    warnings.append(
        f"{reason}, and there is no private time of GE or Siemens: decay is taken to be corrected to the "
        f"earliest acquisition, {earliest} (is the series post-processed?)"
    )
    return earliest


def acquisition_time(header: FileDataset) -> Moment | None:
    """When the acquisition of a slice began, or None where the header does not say.

    Raises CaseError if it states something that is not a time.
    """
    stated = text(header, "AcquisitionTime")
    second = seconds_of(stated)
    if second is not None:
        return Moment(day=day_of(text(header, "AcquisitionDate")), second=second, source=tag_name("AcquisitionTime"))
    found, flaw = _date_time(header, text(header, "AcquisitionDateTime"), "AcquisitionDateTime")
    if found:
        return found
    if stated:
        raise CaseError(f"PET '{path_of(header)}' has {time_flaw('AcquisitionTime', stated)}; correct the header")
    if flaw:
        raise CaseError(f"PET '{path_of(header)}' has {flaw}, and no {tag_name('AcquisitionTime')}; correct the header")
    return None


def frame_middle(header: FileDataset) -> Moment:
    """The middle of a slice's frame: its acquisition plus half of ActualFrameDuration (ms).

    Raises CaseError where either is absent, or the duration is not in ms.
    """
    start, duration_ms = acquisition_time(header), number(header, "ActualFrameDuration")
    if start is None or not duration_ms or duration_ms < 0:
        raise CaseError(
            f"PET '{path_of(header)}' is not decay-corrected (DecayCorrection NONE), and it lacks "
            f"{tag_name('AcquisitionTime')} or {tag_name('ActualFrameDuration')}, from which the middle of its frame "
            "is known; reconstruct it with decay correction, or export it with its times"
        )
    if duration_ms < LEAST_FRAME_MS:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_and_value('ActualFrameDuration', f'{duration_ms:g}')}, which is in ms: "
            f"probably in s ({duration_ms * 1000:g} ms); correct the header"
        )
    middle = start.second + duration_ms / 2000  # may exceed 86,400 past midnight; the day stays
    return replace(start, second=middle, source=f"middle of the frame ({start.source})")


def injection_time(item: Dataset, header: FileDataset, warnings: list[str]) -> Moment:
    """When the tracer was injected, from the radiopharmaceutical's item: its (0018,1078), else its (0018,1072).

    An offset from UTC in (0018,1078) is converted by TimezoneOffsetFromUTC (0008,0201); without that element
    (0018,1072) is used. Raises CaseError, which names the values found, if neither gives a time.
    """
    path = path_of(header)
    date_time, time = text(item, START_DATE_TIME), text(item, START_TIME)
    found, date_time_flaw = _date_time(header, date_time, START_DATE_TIME)
    second = seconds_of(time)
    start_time_flaw = time_flaw(START_TIME, time) if time and second is None else ""
    if found:
        if start_time_flaw:
            warnings.append(f"PET '{path}' has {start_time_flaw}: {found.source} is used")
        elif second is not None and apart_s(found.second, second) > CONTRADICT_S:
            warnings.append(_contradiction(path, found, second, f"{found.source} is used"))
        return found
    if second is None:
        raise CaseError(_no_injection_message(header, [date_time_flaw, start_time_flaw]))
    stated = date_time_of(date_time)
    start = Moment(day=None, second=second, source=tag_name(START_TIME))
    if stated and stated.second is not None:  # its offset from UTC cannot be converted
        unconverted = replace(start, second=stated.second, source=tag_name(START_DATE_TIME))
        if apart_s(stated.second, second) > CONTRADICT_S:
            warnings.append(_contradiction(path, unconverted, second, f"{date_time_flaw}: {start.source} is used"))
        return replace(start, day=nearest_day(stated.day, second, stated.second))
    if stated and stated.day:  # a day without a time
        return replace(start, day=stated.day)
    if date_time_flaw:
        warnings.append(f"PET '{path}' has {date_time_flaw}: {start.source} is used")
    return start


def _contradiction(path: object, one: Moment, second: float, used: str) -> str:
    """The warning about two times of injection: `one` of the date and time, `second` of the time alone."""
    other = Moment(day=None, second=second, source=tag_name(START_TIME))
    return (
        f"PET '{path}' states two times of injection, {one} in {one.source} and {other} in {other.source}, "
        f"{apart_s(one.second, second):.0f} s apart: {used}; which is right?"
    )


def _no_injection_message(header: FileDataset, flaws: list[str]) -> str:
    """The message for a header without a usable time of injection."""
    stated = " and ".join(flaw for flaw in flaws if flaw)
    found = f"has {stated}" if stated else f"has neither {tag_name(START_DATE_TIME)} nor {tag_name(START_TIME)}"
    by_hand = "give it in the scanner's own time (injection_time in overrides.csv)"
    remedy = f"{by_hand}, or correct the header" if stated else f"{by_hand}, or export the series with it"
    outside = misplaced_note(header, START_DATE_TIME) or misplaced_note(header, START_TIME)
    return f"PET '{path_of(header)}' {found}{outside}: without the time of injection there is no SUV; {remedy}"


def _date_time(header: FileDataset, stated: str, keyword: str) -> tuple[Moment | None, str]:
    """A DT on the scanner's own clock, or None and what is wrong with it ("" where nothing is stated)."""
    if not stated:
        return None, ""
    value = date_time_of(stated)
    if value is None:
        return None, time_flaw(keyword, stated, "YYYYMMDDHHMMSS.FFFFFF&ZZXX")
    if value.second is None:
        return None, f"{tag_and_value(keyword, stated)}, which has no time of day"
    moment = Moment(day=value.day, second=value.second, source=tag_name(keyword))
    if value.offset_s is None:
        return moment, ""
    own_s = scanner_offset_s(header)
    if own_s is None:
        zone = text(header, "TimezoneOffsetFromUTC")
        problem = (
            f"{tag_and_value('TimezoneOffsetFromUTC', zone)} is not one offset"
            if zone
            else f"there is no {tag_name('TimezoneOffsetFromUTC')}"
        )
        return None, f"{tag_name(keyword)} with an offset from UTC, and {problem} to convert it by"
    return shifted(moment, own_s - value.offset_s), ""


def _series_time(header: FileDataset, warnings: list[str]) -> Moment | None:
    """SeriesTime on its SeriesDate, None where it is absent or not a time. Warnings name bad dates and times."""
    stated, day = text(header, "SeriesTime"), text(header, "SeriesDate")
    second = seconds_of(stated)
    if stated and second is None:
        warnings.append(f"PET '{path_of(header)}' has {time_flaw('SeriesTime', stated)}: it is not used")
    for keyword in ("SeriesDate", "AcquisitionDate"):
        date = text(header, keyword)
        if date.strip("0.-") and day_of(date) is None:  # de-identification leaves zeros
            warnings.append(f"PET '{path_of(header)}' has {time_flaw(keyword, date, 'YYYYMMDD')}: it is not used")
    return None if second is None else Moment(day=day_of(day), second=second, source=tag_name("SeriesTime"))


def _earliest(headers: Sequence[FileDataset], series: Moment | None) -> Moment | None:
    """The first acquisition of all slices, counted from the series' time, also past midnight."""
    acquisitions = [m for m in map(acquisition_time, headers) if m]
    start = series or (acquisitions[0] if acquisitions else None)
    return min(acquisitions, key=lambda m: _signed_seconds(start or m, m), default=None)


def _private_time(headers: Sequence[FileDataset], warnings: list[str]) -> Moment | None:
    """GE's or Siemens' private time: the earliest of all slices, None where no slice has one."""
    for group, creator, element in (GE, SIEMENS):
        source = f"({group:04X},xx{element:02X}) of {creator}"
        times = []
        for stated in dict.fromkeys(private_text(header, group, creator, element) for header in headers):
            found, flaw = _date_time(headers[0], stated, "AcquisitionDateTime")
            if found:
                times.append(replace(found, source=source))
            elif flaw:
                flaw = flaw.replace(tag_name("AcquisitionDateTime"), source)
                warnings.append(f"PET '{path_of(headers[0])}' has {flaw}: it is not used")
        if times:  # the first of several beds
            return min(times, key=lambda moment: _signed_seconds(times[0], moment))
    return None


def _reconstructed_later(header: FileDataset, series: Moment, earliest: Moment) -> bool:
    """Whether the series' date is later than its acquisition's, which is the study's date."""
    study = day_of(text(header, "StudyDate"))
    return bool(study and study == earliest.day and series.day and series.day > earliest.day)


def _dates_disagree(one: Moment, other: Moment) -> bool:
    """Whether two dates are more than a day apart."""
    return bool(one.day and other.day and abs((one.day - other.day).days) > 1)


def _signed_seconds(start: Moment, end: Moment) -> float:
    """Seconds from `start` to `end`: by their dates, or, without usable dates, at most half a day either way."""
    if start.day and end.day and not _dates_disagree(start, end):
        return (end.day - start.day).days * DAY_S + end.second - start.second
    return (end.second - start.second + DAY_S / 2) % DAY_S - DAY_S / 2
