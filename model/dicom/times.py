"""When a PET was injected and to which time its values are decay-corrected, from DICOM headers.

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
    named,
    nearest_day,
    no_time,
    scanner_offset_s,
    seconds_of,
    shifted,
)
from model.dicom.headers import misplaced, number, path_of, private, tag_name, text
from model.errors import CaseError

GE = (0x0009, "GEMS_PETD_01", 0x0D)  # PET scan date and time
SIEMENS = (0x0071, "SIEMENS MED PT", 0x22)  # decay correction date and time
LEAST_FRAME_MS = 1000.0  # no static PET has shorter frames
CONTRADICT_S = 60.0  # times of injection further apart than this are told


def seconds_after(start: Moment, end: Moment, longest_s: float) -> tuple[float, float | None]:
    """Seconds from `start` to `end`, and what their dates say where they were not used (else None).

    With a date each it is their difference, if that lies between 0 and `longest_s`. Else dates are taken as shifted, by
    de-identification: times of day count alone, and an `end` earlier than `start` is of the next day, 0 to 86,400 s.
    """
    of_day_s = (end.second - start.second) % DAY_S
    if not (start.day and end.day):
        return of_day_s, None
    by_date_s = (end.day - start.day).days * DAY_S + end.second - start.second
    return (by_date_s, None) if 0 <= by_date_s <= longest_s else (of_day_s, by_date_s)


def reference_time(headers: Sequence[FileDataset], warnings: list[str], whole: Sequence[FileDataset] = ()) -> Moment:
    """The one time that DecayCorrection START corrects a series to.

    SeriesTime, when it is not later than the earliest AcquisitionTime; else GE's or Siemens' private time, the earliest
    of any slice; else the earliest acquisition (of `whole`, the PET that the series is a part of), with a warning.
    Raises CaseError if the header has none of them, or an AcquisitionTime that is no time.
    """
    first = headers[0]
    series = _series_time(first, warnings)
    earliest = _earliest(headers, series)
    if series and earliest:
        series = replace(series, day=series.day or nearest_day(earliest.day, series.second, earliest.second))
        if not _disagree(series, earliest):
            if _signed(series, earliest) >= 0:
                return series
        elif _reconstructed_later(first, series, earliest):
            warnings.append(
                f"PET '{path_of(first)}' has a SeriesDate days after its AcquisitionDate, which is its StudyDate: it "
                "was reconstructed again, and its SeriesTime is not used"
            )
        else:
            warnings.append(
                f"SeriesDate and AcquisitionDate of '{path_of(first)}' disagree by more than a day "
                "(de-identified?): times of day are used alone"
            )
            if _signed(series, earliest) >= 0:
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
    why = (
        f"SeriesTime {series} is later than the earliest acquisition"
        if series
        else ("SeriesTime is absent, or no time")
    )
    warnings.append(
        f"{why}, and there is no private time of GE or Siemens: decay is taken to be corrected to the "
        f"earliest acquisition, {earliest} (is the series post-processed?)"
    )
    return earliest


def acquisition_time(header: FileDataset) -> Moment | None:
    """When the acquisition of a slice began, or None where the header does not say. Raises CaseError if what it states
    is no time.
    """
    stated = text(header, "AcquisitionTime")
    full = text(header, "AcquisitionDateTime")
    second = seconds_of(stated)
    if second is not None:
        return Moment(day=day_of(text(header, "AcquisitionDate")), second=second, source=tag_name("AcquisitionTime"))
    found, flaw = _date_time(header, full, "AcquisitionDateTime")
    if found:
        return found
    if stated:
        raise CaseError(f"PET '{path_of(header)}' has {no_time('AcquisitionTime', stated)}; correct the header")
    if flaw:
        raise CaseError(f"PET '{path_of(header)}' has {flaw}, and no {tag_name('AcquisitionTime')}; correct the header")
    return None


def frame_middle(header: FileDataset) -> Moment:
    """The middle of a slice's frame: its acquisition and half of ActualFrameDuration (ms). Raises CaseError."""
    start, duration_ms = acquisition_time(header), number(header, "ActualFrameDuration")
    if start is None or not duration_ms or duration_ms < 0:
        raise CaseError(
            f"PET '{path_of(header)}' is not decay-corrected (DecayCorrection NONE), and lacks "
            f"{tag_name('AcquisitionTime')} or {tag_name('ActualFrameDuration')}, from which the middle of its frame "
            "is known; reconstruct it with decay correction, or export it with its times"
        )
    if duration_ms < LEAST_FRAME_MS:
        raise CaseError(
            f"PET '{path_of(header)}' has {named('ActualFrameDuration', f'{duration_ms:g}')}, which is in ms: "
            f"probably in s ({duration_ms * 1000:g} ms); correct the header"
        )
    middle = start.second + duration_ms / 2000  # past midnight it is left above 86,400: the day stays
    return replace(start, second=middle, source=f"middle of the frame ({start.source})")


def injection_time(item: Dataset, header: FileDataset, warnings: list[str]) -> Moment:
    """When the tracer was injected: (0018,1078) before (0018,1072), from the radiopharmaceutical's item.

    An offset from UTC in (0018,1078) is converted by TimezoneOffsetFromUTC (0008,0201); without it (0018,1072) counts.
    Raises CaseError if neither gives a time, and names what is there instead.
    """
    path = path_of(header)
    full, brief = text(item, "RadiopharmaceuticalStartDateTime"), text(item, "RadiopharmaceuticalStartTime")
    found, flaw = _date_time(header, full, "RadiopharmaceuticalStartDateTime")
    second = seconds_of(brief)
    brief_flaw = no_time("RadiopharmaceuticalStartTime", brief) if brief and second is None else ""
    if found:
        if brief_flaw:
            warnings.append(f"PET '{path}' has {brief_flaw}: {found.source} is used")
        elif second is not None and apart_s(found.second, second) > CONTRADICT_S:
            warnings.append(_contradiction(path, found, second, f"{found.source} is used"))
        return found
    if second is None:
        raise CaseError(_no_injection(header, [flaw, brief_flaw]))
    stated = date_time_of(full)
    alone = Moment(day=None, second=second, source=tag_name("RadiopharmaceuticalStartTime"))
    if stated and stated.second is not None:  # with an offset that cannot be converted
        clock = replace(alone, second=stated.second, source=tag_name("RadiopharmaceuticalStartDateTime"))
        if apart_s(stated.second, second) > CONTRADICT_S:
            warnings.append(_contradiction(path, clock, second, f"{flaw}: {alone.source} is used"))
        return replace(alone, day=nearest_day(stated.day, second, stated.second))
    if stated and stated.day:  # a day without a time
        return replace(alone, day=stated.day)
    if flaw:
        warnings.append(f"PET '{path}' has {flaw}: {alone.source} is used")
    return alone


def _contradiction(path: object, full: Moment, second: float, used: str) -> str:
    brief = Moment(day=None, second=second, source=tag_name("RadiopharmaceuticalStartTime"))
    return (
        f"PET '{path}' states two times of injection, {full} in {full.source} and {brief} in {brief.source}, "
        f"{apart_s(full.second, second):.0f} s apart: {used}; which is right?"
    )


def _no_injection(header: FileDataset, flaws: list[str]) -> str:
    stated = " and ".join(flaw for flaw in flaws if flaw)
    full, brief = "RadiopharmaceuticalStartDateTime", "RadiopharmaceuticalStartTime"
    what = f"has {stated}" if stated else f"has neither {tag_name(full)} nor {tag_name(brief)}"
    given = "give it in the scanner's own time (injection_time in overrides.csv)"
    remedy = f"{given}, or correct the header" if stated else f"{given}, or export the series with it"
    outside = misplaced(header, full) or misplaced(header, brief)
    return f"PET '{path_of(header)}' {what}{outside}: without the time of injection there is no SUV; {remedy}"


def _date_time(header: FileDataset, stated: str, keyword: str) -> tuple[Moment | None, str]:
    """A DT on the scanner's own clock, or None and what is wrong with it ("" where there is none)."""
    if not stated:
        return None, ""
    value = date_time_of(stated)
    if value is None:
        return None, no_time(keyword, stated, "YYYYMMDDHHMMSS.FFFFFF&ZZXX")
    if value.second is None:
        return None, f"{named(keyword, stated)}, which has no time of day"
    moment = Moment(day=value.day, second=value.second, source=tag_name(keyword))
    if value.offset_s is None:
        return moment, ""
    own_s = scanner_offset_s(header)
    if own_s is None:
        zone = text(header, "TimezoneOffsetFromUTC")
        lacks = (
            f"{named('TimezoneOffsetFromUTC', zone)} is not one offset"
            if zone
            else (f"there is no {tag_name('TimezoneOffsetFromUTC')}")
        )
        return None, f"{tag_name(keyword)} with an offset from UTC, and {lacks} to convert it by"
    return shifted(moment, own_s - value.offset_s), ""


def _series_time(header: FileDataset, warnings: list[str]) -> Moment | None:
    stated, day = text(header, "SeriesTime"), text(header, "SeriesDate")
    second = seconds_of(stated)
    if stated and second is None:
        warnings.append(f"PET '{path_of(header)}' has {no_time('SeriesTime', stated)}: it is not used")
    for keyword in ("SeriesDate", "AcquisitionDate"):
        date = text(header, keyword)
        if date.strip("0.-") and day_of(date) is None:  # zeros are what de-identification leaves
            warnings.append(f"PET '{path_of(header)}' has {no_time(keyword, date, 'YYYYMMDD')}: it is not used")
    return None if second is None else Moment(day=day_of(day), second=second, source=tag_name("SeriesTime"))


def _earliest(headers: Sequence[FileDataset], series: Moment | None) -> Moment | None:
    """The first acquisition of any slice, counted from the series' time, past midnight too."""
    acquisitions = [m for m in map(acquisition_time, headers) if m]
    start = series or (acquisitions[0] if acquisitions else None)
    return min(acquisitions, key=lambda m: _signed(start or m, m), default=None)


def _private_time(headers: Sequence[FileDataset], warnings: list[str]) -> Moment | None:
    """GE's or Siemens' private time of the scan: the earliest of any slice."""
    for group, creator, element in (GE, SIEMENS):
        source = f"({group:04X},xx{element:02X}) of {creator}"
        times = []
        for stated in dict.fromkeys(private(header, group, creator, element) for header in headers):
            found, flaw = _date_time(headers[0], stated, "AcquisitionDateTime")
            if found:
                times.append(replace(found, source=source))
            elif flaw:
                flaw = flaw.replace(tag_name("AcquisitionDateTime"), source)
                warnings.append(f"PET '{path_of(headers[0])}' has {flaw}: it is not used")
        if times:  # of several beds the first
            return min(times, key=lambda moment: _signed(times[0], moment))
    return None


def _reconstructed_later(header: FileDataset, series: Moment, earliest: Moment) -> bool:
    """Whether a series' date is later than its acquisition's, and the study's is the acquisition's."""
    study = day_of(text(header, "StudyDate"))
    return bool(study and study == earliest.day and series.day and series.day > earliest.day)


def _disagree(one: Moment, other: Moment) -> bool:
    return bool(one.day and other.day and abs((one.day - other.day).days) > 1)


def _signed(start: Moment, end: Moment) -> float:
    """Seconds from `start` to `end`, less than half a day either way where dates do not help."""
    if start.day and end.day and not _disagree(start, end):
        return (end.day - start.day).days * DAY_S + end.second - start.second
    return (end.second - start.second + DAY_S / 2) % DAY_S - DAY_S / 2
