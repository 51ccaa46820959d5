"""Whether the SUV of two dates may be compared: what PERCIST 1.0 asks of both studies beside their lesions.

Wahl et al., J Nucl Med 2009: uptake times at most 15 min apart, and a liver whose mean SUL differs by at most 20 % and
by less than 0.3. What a report does not say is not judged.
"""

from collections.abc import Mapping
from typing import Any

from model.hospital.dates.change import percent

UPTAKE_MIN, LIVER_PERCENT, LIVER_SUL = 15.0, 20.0, 0.3


def why_not_comparable(reports: tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]) -> tuple[str, ...]:
    """A warning for each thing in which two dates differ by more. reports: report.json of both."""
    found = []
    one, other = (_uptake_min(report or {}) for report in reports)
    if one is not None and other is not None and abs(other - one) > UPTAKE_MIN:
        found.append(
            f"the uptake times differ by {abs(other - one):.0f} min ({one:.0f} and {other:.0f} min); PERCIST asks for "
            f"at most {UPTAKE_MIN:.0f}"
        )
    livers, factors = zip(*(_liver(report or {}) for report in reports), strict=True)
    if None in livers or not livers[0]:
        return tuple(found)
    by_sul = None not in factors
    means = [suv * factor for suv, factor in zip(livers, factors, strict=True)] if by_sul else livers
    share = percent(*means)
    far = by_sul and round(abs(means[1] - means[0]), 6) >= LIVER_SUL
    if (share is not None and abs(share) > LIVER_PERCENT) or far:
        found.append(
            f"the liver's mean {'SUL' if by_sul else 'SUV'} went from {means[0]:.2f} to {means[1]:.2f} "
            f"({share:+.0f} %); PERCIST asks for a change of at most {LIVER_PERCENT:.0f} % and of less than SUL "
            f"{LIVER_SUL}"
        )
    return tuple(found)


def _uptake_min(report: Mapping[str, Any]) -> float | None:
    """From injection to the scan; None where the header does not say: images, and values corrected to the injection."""
    conversion = report.get("suv_conversion") or {}
    seconds = conversion.get("decay_s") if conversion.get("decay_correction") == "START" else None
    return seconds / 60 if seconds else None


def _liver(report: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The liver's mean SUV, and SUL over SUV; None for what is not known."""
    numbers, totals = report.get("numbers") or {}, report.get("totals") or {}
    mean = ((numbers.get("references") or {}).get("liver") or {}).get("suv_mean")
    sul, suv = numbers.get("sul_peak"), totals.get("suv_peak")
    return mean, sul / suv if sul and suv else None
