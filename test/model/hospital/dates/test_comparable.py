"""What PERCIST asks of two dates: numbers by hand."""

import pytest

from model.hospital.dates.comparable import why_not_comparable


def report(uptake_min: float | None = 60, liver: float | None = 2.0, correction: str = "START") -> dict:
    """A report.json with SUL = 0.8 x SUV."""
    return {
        "suv_conversion": {"decay_correction": correction, "decay_s": uptake_min and uptake_min * 60},
        "totals": {"suv_peak": 10.0},
        "numbers": {"sul_peak": 8.0, "references": {"liver": {"suv_mean": liver} if liver else {"why": "no sphere"}}},
    }


@pytest.mark.parametrize(
    ("second", "words"),
    [
        (report(uptake_min=75), []),
        (report(uptake_min=76), ["differ by 16 min (60 and 76 min)"]),
        (report(uptake_min=None), []),
        (report(uptake_min=90, correction="ADMIN"), []),
        (report(liver=2.36), []),  # 18 %, SUL 0.288
        (report(liver=2.38), ["SUL went from 1.60 to 1.90 (+19 %)"]),  # SUL 0.304
        (report(liver=None), []),
        (report(uptake_min=100, liver=1.5), ["differ by 40 min", "(-25 %)"]),
    ],
)
def test_a_difference_that_percist_would_not_take_is_a_warning(second: dict, words: list[str]) -> None:
    found = why_not_comparable((report(), second))
    assert len(found) == len(words) and all(word in one for word, one in zip(words, found, strict=True))


def test_without_sul_the_liver_is_judged_by_its_share_alone() -> None:
    low, high = ({**report(liver=mean), "totals": {}} for mean in (1.0, 1.21))
    assert len(why_not_comparable((low, high))) == 1
    assert not why_not_comparable((low, {**report(liver=1.19), "totals": {}}))
    assert not why_not_comparable((None, low))
