"""What makes the lesions of two dates unlike beside the disease: reports by hand."""

import pytest

from model.hospital.dates.made_alike import how_made_unlike


def report(weights: str = "aa", rules: dict | None = None, left_out: int = 0, height_m: float = 1.7, **more) -> dict:
    return {
        "weights": {"manifest_sha256": weights},
        "batch": {"options": {"rules": rules or {}}},
        "lesion_rules": {"dropped_lesions": left_out},
        "numbers": {"patient": {"height_m": height_m}},
    } | more


@pytest.mark.parametrize(
    ("first", "second", "change", "words"),
    [
        (report(), report(height_m=1.74), "new", []),
        (report(), report(weights="bb"), "new", ["different weights"]),
        (report(), report(rules={"refine": "41%"}), "new", ["none at the first date, refine 41% at the second"]),
        (report(), report(rules={"drop": [3]}), "new", ["dropped lesions of the second date"]),
        (report(edited={"notice": "by hand"}), report(edited={"notice": "by hand"}), "new", []),
        (report(left_out=2), report(left_out=1), "new", ["2 at the first date, so what is new"]),
        (report(left_out=2), report(left_out=1), "gone", ["1 at the second date, so what is gone"]),
        (report(left_out=2), report(left_out=1), "grown", []),
        (report(), report(height_m=1.07), "new", ["1.7 m at the first date and 1.07 m"]),
        (None, report(), "new", []),
    ],
)
def test_what_was_made_otherwise_is_a_warning(first, second, change, words) -> None:
    found = how_made_unlike((first, second), [{"change": change}])
    assert len(found) == len(words) and all(word in one for word, one in zip(words, found, strict=True))
