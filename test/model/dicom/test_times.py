"""The time of injection, and how long a dose decayed; expected seconds are arithmetic on the writer's settings."""

from datetime import datetime, timedelta, timezone

import numpy as np
import pytest
from dicom_writer import after, siemens_time
from pydicom.dataset import Dataset
from suv_headers import LATE, code, convert, factor

from model.dicom.clock import Moment
from model.dicom.times import injection_time, seconds_after
from model.errors import CaseError


def test_the_injections_date_and_time_come_before_its_time_alone(tmp_path) -> None:
    item = {"RadiopharmaceuticalStartDateTime": "20240305101000", "RadiopharmaceuticalStartTime": "093000"}
    found = convert(tmp_path, item=item)
    assert found.factor == factor(3000) and "0018,1078" in found.injection_from
    (warning,) = found.warnings
    assert "10:10:00 in RadiopharmaceuticalStartDateTime (0018,1078)" in warning
    assert "09:30:00 in RadiopharmaceuticalStartTime (0018,1072), 2400 s apart" in warning


@pytest.mark.parametrize(
    "item",
    [
        {"RadiopharmaceuticalStartTime": "235000"},
        {"RadiopharmaceuticalStartDateTime": "20240304235000", "RadiopharmaceuticalStartTime": None},
    ],
)
def test_an_injection_before_midnight_is_of_the_day_before(item, tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.AcquisitionTime = "004500"

    found = convert(tmp_path, item=item, fields=after(datetime(2024, 3, 5), 2400), edit=edit)
    assert found.factor == factor(3000) and found.warnings == ()  # 23:50 to 00:40


def test_a_series_that_runs_past_midnight_keeps_one_reference(tmp_path) -> None:
    def edit(header, z: int) -> None:
        header.AcquisitionDate, header.AcquisitionTime = ("20240305", "235900") if z < 3 else ("20240306", "000200")

    found = convert(
        tmp_path, item={"RadiopharmaceuticalStartTime": "225900"}, fields={"SeriesTime": "235900"}, edit=edit
    )
    assert found.factor == factor(3600) and found.warnings == ()


def test_a_series_that_runs_past_midnight_without_acquisition_dates_keeps_one_reference(tmp_path) -> None:
    def edit(header, z: int) -> None:
        del header.AcquisitionDate
        header.AcquisitionTime = "235900" if z < 3 else "000200"

    found = convert(
        tmp_path, item={"RadiopharmaceuticalStartTime": "225900"}, fields={"SeriesTime": "235900"}, edit=edit
    )
    assert found.factor == factor(3600) and found.warnings == ()


ALONE = {"RadiopharmaceuticalStartTime": None}  # (0018,1078) alone


@pytest.mark.parametrize(
    "stated, decay_s, by_date_s",
    [
        ("20110721100500", 3300, (datetime(2024, 3, 5) - datetime(2011, 7, 21)).days * 86400 + 3300),  # years before
        ("20240304100000", 3600, 90000),  # 25 h, more than 10 half-lives of F-18
        ("20240306100000", 3600, -82800),  # the next day
        ("20240305233000", 41400, -45000),  # of one day by its date, and before midnight by its time
    ],
)
def test_dates_that_are_not_zero_to_ten_half_lives_apart_give_way_to_times_of_day_with_a_warning(
    stated, decay_s, by_date_s, tmp_path
) -> None:
    found = convert(tmp_path, item=ALONE | {"RadiopharmaceuticalStartDateTime": stated})
    assert found.factor == factor(decay_s)
    (warning,) = found.warnings
    assert f"by the dates {by_date_s} s lie between the injection" in warning
    assert ", not 0 to 10 half-lives (65862 s); times of day are used alone" in warning
    assert f"as if the scan began {decay_s} s after the injection, not days after" in warning


ZR = {"RadionuclideHalfLife": 282276.0, "RadionuclideCodeSequence": code("C-168A4", "^89^Zirconium")}


@pytest.mark.parametrize(
    "stated, decay_s",
    [
        ("20240301110000", 4 * 86400),
        ("20240305093000.250", 5399.75),
        ("20240204080000", 30 * 86400 + 10800),
    ],
)
def test_days_between_injection_and_scan_count_where_dates_state_them(stated: str, decay_s: float, tmp_path) -> None:
    found = convert(tmp_path, item=ZR | ALONE | {"RadiopharmaceuticalStartDateTime": stated})
    assert found.factor == factor(decay_s, half_life_s=282276.0) and found.decay_s == decay_s
    assert len(found.warnings) == 1 and "Zr-89" in found.warnings[0]


def test_a_day_without_a_time_is_that_of_the_time_alone(tmp_path) -> None:
    item = ZR | {"RadiopharmaceuticalStartDateTime": "20240301", "RadiopharmaceuticalStartTime": "110000"}
    assert convert(tmp_path, item=item).decay_s == 4 * 86400


def test_a_slow_tracer_without_the_day_of_its_injection_is_warned_about(tmp_path) -> None:
    found = convert(tmp_path, item=ZR)
    assert found.decay_s == 3600 and "does not state the day of its injection" in found.warnings[1]
    assert "as if the scan began 3600 s after the injection, not days after" in found.warnings[1]


def test_a_series_date_that_was_shifted_is_passed_over_with_a_warning(tmp_path) -> None:
    found = convert(tmp_path, fields={"SeriesDate": "20110721"})
    assert found.factor == factor(3600) and "SeriesDate and AcquisitionDate" in found.warnings[0]


@pytest.mark.parametrize(
    "item, seconds",
    [
        ({"RadiopharmaceuticalStartDateTime": "20240305110500"} | ALONE, -300),  # 5 minutes after the scan
        ({"RadiopharmaceuticalStartTime": "163000"}, 66600),  # 18.5 h before: 10 half-lives are 18.3 h
        ({"RadiopharmaceuticalStartTime": "110500"}, 86100),
    ],
)
def test_a_negative_decay_or_one_over_ten_half_lives_is_refused(item, seconds: int, tmp_path) -> None:
    message = (
        rf"': {seconds} s lie between the injection at .*, not 0 to 10 half-lives \(65862 s\); "
        "correct the times in the header, or Radionu"
    )
    with pytest.raises(CaseError, match=message):
        convert(tmp_path, item=item)


@pytest.mark.parametrize(
    "keyword, value",
    [
        ("RadiopharmaceuticalStartTime", "100000"),
        ("RadionuclideTotalDose", 35e7),
    ],
)
def test_what_was_entered_outside_of_its_sequence_is_named(keyword: str, value, tmp_path) -> None:
    with pytest.raises(CaseError, match=rf"{keyword} .* in Radioph.* \(0054,0016\) \(it has {keyword}.* outside of"):
        convert(tmp_path, item={keyword: None}, fields={keyword: value})


# Offsets from UTC


def injected(stated: str | None, brief: str | None = None) -> dict:
    return {"RadiopharmaceuticalStartDateTime": stated, "RadiopharmaceuticalStartTime": brief}


@pytest.mark.parametrize(
    "stated, zone, decay_s",
    [
        ("20240305080000+0000", "+0200", 3600),
        ("20240305080000.500000+0000", "+0200", 3599.5),
        ("20240305100000-0500", "-0500", 3600),
        ("20240305050000-0500", "+0000", 3600),
        ("20240305193000+0930", "+0000", 3600),
        ("20240304223000-1130", "-0000", 3600),
        ("202403050800+0000", "+0200", 3600),
        ("2024030508+0000", "+0200", 3600),
        ("20240305100000", "+0200", 3600),
        ("20240304230000+0000", "+0200", 36000),
        ("20240305080000+0000", "+02:00", 3600),
        ("20240305080000+0000", "+0200\\+0200", 3600),
    ],
)
def test_an_offset_from_utc_is_converted_by_the_scanners(stated: str, zone: str, decay_s: float, tmp_path) -> None:
    found = convert(tmp_path, item=injected(stated), fields={"TimezoneOffsetFromUTC": zone.split("\\")})
    assert found.factor == factor(decay_s) and found.decay_s == decay_s and found.warnings == ()


def test_an_offset_is_converted_across_midnight_and_days(tmp_path) -> None:
    fields = after(datetime(2024, 3, 5), 2400) | {"TimezoneOffsetFromUTC": "+0200"}

    def edit(header, z: int) -> None:
        header.AcquisitionTime = "004500"

    found = convert(tmp_path, item=injected("20240304215000+0000", "235000"), fields=fields, edit=edit)
    assert found.factor == factor(3000) and found.injection == "23:50:00" and found.warnings == ()
    found = convert(tmp_path, item=ZR | injected("20240301090000+0000"), fields={"TimezoneOffsetFromUTC": "+0200"})
    assert found.decay_s == 4 * 86400


@pytest.mark.parametrize("zone", [None, "", "Berlin", "+0200\\+0100", "+2500"])
def test_an_offset_that_cannot_be_converted_gives_way_to_the_time_alone_or_is_refused(zone, tmp_path) -> None:
    fields = {"TimezoneOffsetFromUTC": zone and zone.split("\\")}
    found = convert(tmp_path / "same", item=injected("20240305100000.0-0500", "100000"), fields=fields)
    assert found.factor == factor(3600) and found.warnings == () and "0018,1072" in found.injection_from
    found = convert(tmp_path / "apart", item=injected("20240305080000+0000", "100000"), fields=fields)
    assert found.factor == factor(3600) and "7200 s apart" in found.warnings[0]
    with pytest.raises(CaseError, match=r"\(0018,1078\) with an offset from UTC, and .*\(0008,0201\).*correct the"):
        convert(tmp_path / "alone", item=injected("20240305080000+0000"), fields=fields)


def test_an_offset_that_cannot_be_converted_still_tells_the_day(tmp_path) -> None:
    found = convert(tmp_path, item=ZR | injected("20240301230000-1000", "110000"))  # 11:00 of the day after, or of this
    assert found.decay_s in (3 * 86400, 4 * 86400) and "43200 s apart" in found.warnings[1]
    found = convert(tmp_path, item=ZR | injected("20240301090000+0000", "110000"))
    assert found.decay_s == 4 * 86400


def test_any_offset_and_day_give_the_seconds_of_pythons_own_calendar() -> None:
    """Injections up to 25 days before the scan, around the year's end, in any two zones: 500 of seed 0."""
    rng = np.random.default_rng(0)
    for _ in range(500):
        own, other = (timezone(timedelta(minutes=15 * int(rng.integers(-48, 57)))) for _ in range(2))
        scan = datetime(2023, 12, 31, 12, tzinfo=own) + timedelta(seconds=int(rng.integers(0, 172_800)))
        start = (scan - timedelta(seconds=int(rng.integers(0, 25 * 86_400)))).astimezone(other)
        header, item = Dataset(), Dataset()
        header.filename, header.TimezoneOffsetFromUTC = "pet.dcm", f"{scan:%z}"
        item.RadiopharmaceuticalStartDateTime = f"{start:%Y%m%d%H%M%S%z}"
        found = injection_time(item, header, [])
        reference = Moment(day=scan.date(), second=(scan.hour * 60 + scan.minute) * 60 + scan.second, source="")
        assert seconds_after(found, reference, 1e7) == ((scan - start).total_seconds(), None)


def test_times_of_injection_a_minute_apart_are_one(tmp_path) -> None:
    assert convert(tmp_path, item=injected("20240305100000", "100100")).warnings == ()
    assert "61 s apart" in convert(tmp_path, item=injected("20240305100000", "100101")).warnings[0]
    assert convert(tmp_path, item=injected("20240305000030", "235930")).warnings == ()


def test_private_and_acquisition_times_with_an_offset_are_converted(tmp_path) -> None:
    fields = LATE | {"TimezoneOffsetFromUTC": "+0100"}
    found = convert(tmp_path, fields=fields, edit=siemens_time("20240305095945.500000+0000"))
    assert found.factor == factor(3585.5) and found.warnings == ()
    found = convert(tmp_path, fields=LATE, edit=siemens_time("20240305095945.500000+0000"))
    assert found.factor == factor(3600) and "(0071,xx22) of SIEMENS MED PT with an offset" in found.warnings[0]


# Values that are no times


@pytest.mark.parametrize(
    "stated, probably",
    [
        ("9:15 AM", "a time of a 12-hour clock"),
        ("1:22 PM", "a time of a 12-hour clock"),
        ("0922PM", "a time of a 12-hour clock"),
        ("91500", "a time without its leading zero"),
        ("9:15", "a time without its leading zero"),
        ("091500,50", "a time with a decimal comma"),
        ("2024-03-05T09:15:00", "an ISO 8601 date and time"),
        ("05.03.2024 09:15", "a date with the day or the month first"),
        ("1709630100", "seconds since 1970"),
        ("256100", ""),
        ("morning", ""),
        ("09 Uhr", ""),
    ],
)
def test_a_time_that_is_none_is_named_with_what_it_probably_is(stated: str, probably: str, tmp_path) -> None:
    message = f"'{stated}', which is not HHMMSS.FFFFFF" + (f" .probably {probably}." if probably else "")
    with pytest.raises(CaseError, match=rf"RadiopharmaceuticalStartTime \(0018,1072\) {message}.*correct the header"):
        convert(tmp_path / "a", item=injected(None, stated))

    def edit(header, z: int) -> None:
        header.AcquisitionTime = stated if z == 3 else "110000"

    with pytest.raises(CaseError, match=rf"AcquisitionTime \(0008,0032\) {message}; correct the header"):
        convert(tmp_path / "b", edit=edit)
    found = convert(tmp_path / "c", fields={"SeriesTime": stated})
    assert found.factor == factor(3600) and f"SeriesTime (0008,0031) '{stated}', which is not" in found.warnings[0]


@pytest.mark.parametrize(
    "stated",
    [
        "14-06-2023 09:15:00",
        "2024-03-05T10:00:00",
        "20240305 100000",
        "20240305T100000",
        "20240305256100",
        "20240305100000+9900",
        "20240305100000+02",
        "x",
    ],
)
def test_a_date_and_time_that_is_none_gives_way_to_the_time_alone_and_is_named(stated: str, tmp_path) -> None:
    found = convert(tmp_path, item=injected(stated, "100000"))
    assert found.factor == factor(3600)
    assert f"RadiopharmaceuticalStartDateTime (0018,1078) '{stated}', which is not" in found.warnings[0]
    with pytest.raises(CaseError, match=r"\(0018,1078\) '.*', which is not YYYYMMDDHHMMSS.FFFFFF&ZZXX"):
        convert(tmp_path, item=injected(stated))


@pytest.mark.parametrize(
    "stated, decay_s",
    [
        ("100000", 3600),
        ("1000", 3600),
        ("10", 3600),
        ("10:00", 3600),
        ("10:00:00", 3600),
        ("10:00:00.5", 3599.5),
        ("100000.1", 3599.9),
        ("100000.123456", 3599.876544),
        ("100000.", 3600),
        ("100000.1234567", 3599.8765433),
        ("095960", 3600),
    ],
)
def test_every_form_of_a_time_is_read(stated: str, decay_s: float, tmp_path) -> None:
    found = convert(tmp_path, item=injected(None, stated))
    assert found.factor == factor(decay_s) and found.warnings == ()


@pytest.mark.parametrize(
    "stated",
    [
        "20240305100000",
        "20240305100000.000000",
        "202403051000",
        "2024030510",
        "00000000100000",
        "20240305100000&".rstrip("&"),
    ],
)
def test_every_form_of_a_date_and_time_is_read(stated: str, tmp_path) -> None:
    found = convert(tmp_path, item=injected(stated))
    assert found.factor == factor(3600) and found.warnings == ()


def test_a_day_without_a_time_alone_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match=r"\(0018,1078\) '20240305', which has no time of day: without the time of"):
        convert(tmp_path, item=injected("20240305"))


def test_a_series_date_that_is_none_is_named(tmp_path) -> None:
    found = convert(tmp_path, fields={"SeriesDate": "05/03/2024"})
    assert found.factor == factor(3600) and "SeriesDate (0008,0021) '05/03/2024'" in found.warnings[0]
    assert convert(tmp_path, fields={"SeriesDate": "00000000"}).warnings == ()


def test_a_series_that_was_reconstructed_days_later_is_of_its_acquisition(tmp_path) -> None:
    fields = {"SeriesDate": "20240312", "SeriesTime": "090000", "StudyDate": "20240305"}
    found = convert(tmp_path, fields=fields)
    assert found.factor == factor(3600) and "reconstructed again" in found.warnings[0]


def test_no_time_of_injection_is_refused(tmp_path) -> None:
    with pytest.raises(CaseError, match="neither RadiopharmaceuticalStartDateTime .0018,1078. nor"):
        convert(tmp_path, item={"RadiopharmaceuticalStartTime": None})
