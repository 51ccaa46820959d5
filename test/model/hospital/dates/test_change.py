"""Changes and responses by arithmetic."""

import pytest

from model.hospital.dates.change import lesion_rows, percent, response, total_row, totals_of
from model.hospital.dates.matching import Match


def lesion(number: int, volume_ml: float, suv_peak: float, **more: float) -> dict:
    return {
        "number": number,
        "volume_ml": volume_ml,
        "tlg_suv_ml": 2 * volume_ml,
        "suv_max": 9.0,
        "suv_peak": suv_peak,
    } | more


def test_several_lesions_of_a_date_are_added_and_the_highest_suv_counts() -> None:
    first, second = [lesion(1, 10.0, 4.0)], [lesion(1, 4.0, 3.0), lesion(2, 2.0, 5.0)]
    (row,) = lesion_rows([Match(first=(1,), second=(1, 2))], first, second)
    assert (row["lesion_1"], row["lesion_2"], row["note"]) == ("1", "1+2", "one lesion became 2")
    assert (row["volume_ml_2"], row["tlg_suv_ml_2"], row["suv_peak_2"]) == (6.0, 12.0, 5.0)
    assert (row["volume_ml_change_percent"], row["suv_peak_change_percent"]) == (-40.0, 25.0)
    assert row["sul_peak_1"] is None and row["change"] == "shrunk"


@pytest.mark.parametrize(
    ("before_ml", "after_ml", "change"),
    [
        (1.1, 1.6, "grown"),
        (10.0, 13.0, "grown"),
        (10.0, 12.9, "unchanged"),
        (10.0, 7.0, "shrunk"),
        (1.0, 1.4, "unchanged"),
    ],
)  # the last grew by 40 %, but by less than 0.5 ml
def test_grown_and_shrunk_need_30_percent_and_half_a_millilitre(before_ml, after_ml, change) -> None:
    match = Match(first=(1,), second=(1,))
    (row,) = lesion_rows([match], [lesion(1, before_ml, 4.0)], [lesion(1, after_ml, 4.0)])
    assert row["change"] == change


def test_new_gone_and_beyond() -> None:
    matches = [Match(first=(), second=(1,)), Match(first=(1,), second=()), Match(first=(2,), second=(), beyond=True)]
    rows = lesion_rows(matches, [lesion(1, 1.0, 4.0), lesion(2, 1.0, 4.0)], [lesion(1, 1.0, 4.0)])
    assert [row["change"] for row in rows] == ["new", "gone", "not in both"]
    assert rows[2]["note"] == "beyond the second date's PET"


def test_change_in_percent_of_nothing_is_none() -> None:
    assert percent(0, 5) is None and percent(None, 5) is None and percent(4.0, 5.0) == 25.0


@pytest.mark.parametrize(
    ("sul", "tlg", "category"),
    [
        ((6.0, 4.2), (100, 100), "PMR"),  # -30 %, -1.8
        ((2.0, 1.3), (100, 100), "SMD"),  # -35 %, but -0.7 alone
        ((6.0, 7.8), (100, 100), "SMD"),  # +30 %, which is not more than 30
        ((6.0, 7.9), (100, 100), "PMD"),
        ((2.3, 1.5), (100, 100), "PMR"),  # -34.8 % and -0.8, which is a little less in binary
        ((6.0, 6.0), (100, 176), "PMD"),  # TLG
        ((6.0, 5.9), (100, 176), "SMD"),  # TLG, but SULpeak fell
        ((None, 5.9), (100, 100), ""),
    ],
)
def test_the_response_is_that_of_percist(sul, tlg, category) -> None:
    totals = total_row(*({"lesions": 1, "sul_peak": s, "tlg_suv_ml": t} for s, t in zip(sul, tlg, strict=True)))
    found = response([], totals)
    assert found.category == category
    assert category or found.reason.startswith("SULpeak of the first date is not known")


def test_a_lesion_that_is_not_measurable_has_no_response() -> None:
    numbers = {"sul_peak": 2.0, "percist_measurable": "no"}
    first = totals_of({"totals": {"lesions": 1}, "numbers": numbers})
    found = response([], total_row(first, {"lesions": 1, "sul_peak": 1.0}))
    assert (found.category, found.reason) == ("", "the first date's hottest lesion is not measurable by PERCIST")
    unknown = totals_of({"totals": {"lesions": 1}, "numbers": {"why": {"sul_peak": "the sex is missing"}}})
    assert (
        response([], total_row(unknown, first)).reason == "SULpeak of the first date is not known: the sex is missing"
    )


def test_what_is_new_is_progression_and_what_is_not_in_both_leaves_it_open() -> None:
    totals = total_row({"lesions": 2, "sul_peak": 6.0}, {"lesions": 1, "sul_peak": 2.0})
    assert response([{"change": "new", "lesion_2": "1"}], totals).category == "PMD"
    assert response([{"change": "not in both", "lesion_2": ""}], totals).category == ""
    risen = total_row({"lesions": 1, "sul_peak": 6.0}, {"lesions": 2, "sul_peak": 9.0})
    found = response([{"change": "new", "lesion_2": "2"}], risen)
    assert found.reason == "new at the second date: lesion 2; SULpeak 6.00 to 9.00, +50 %"
    only_later = total_row({"lesions": 0}, {"lesions": 1, "sul_peak": 2.0})
    found = response([{"change": "not in both", "lesion_2": "1"}], only_later)
    assert (found.category, found.reason) == ("", "lesions that only one of both PETs can show: 1")
    assert response([], total_row({"lesions": 2}, {"lesions": 0})).category == "CMR"
    assert response([], total_row({"lesions": 0}, {"lesions": 0})).category == ""


def test_tlg_is_compared_by_sul() -> None:
    """SUL is 0.6 and 0.8 of SUV, as the patient lost weight: TLG rose by 40 % in SUV, and by 87 % in SUL."""
    dates = [
        {"lesions": 1, "suv_peak": 10.0, "sul_peak": 6.0, "tlg_suv_ml": 100.0},
        {"lesions": 1, "suv_peak": 7.5, "sul_peak": 6.0, "tlg_suv_ml": 140.0},
    ]
    found = response([], total_row(*dates))
    assert (found.category, found.reason) == ("PMD", "SULpeak 6.00 to 6.00, +0 %; TLG by SUL +87 %")


def test_a_response_is_not_partial_if_another_lesion_rose_and_says_what_grew_or_fell_below_the_liver() -> None:
    fell = [lesion(1, 9.0, 0.0, sul_peak=10.0), lesion(1, 9.0, 0.0, sul_peak=6.0)]
    other = [lesion(2, 1.0, 0.0, sul_peak=2.0), lesion(2, 1.0, 0.0, sul_peak=4.0)]
    matches = [Match(first=(1,), second=(1,)), Match(first=(2,), second=(2,))]
    totals = total_row({"lesions": 2, "sul_peak": 10.0}, {"lesions": 2, "sul_peak": 6.0, "suv_peak_to_liver": 0.9})
    found = response(lesion_rows(matches, *([a, b] for a, b in zip(fell, other, strict=True))), totals)
    assert found.category == "" and "(lesion 2 to 2)" in found.reason
    other[1] |= {"sul_peak": 2.7, "volume_ml": 2.0}  # +35 %, but by 0.7 alone: no rise; but it grew
    found = response(lesion_rows(matches, *([a, b] for a, b in zip(fell, other, strict=True))), totals)
    assert found.category == "PMR" and "lesion 2 grew" in found.reason and "below the liver's mean" in found.reason
