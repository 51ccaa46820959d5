"""The factor from a PET's values to body-weight SUV, from DICOM headers, and a record of how it was found.

SUV = activity concentration (Bq/ml) x body weight (g) / dose (Bq). The dose is decayed from the injection to the time
that the concentration is corrected to (QIBA FDG-PET/CT profile). A wrong factor gives a plausible image and wrong
numbers. So what the header leaves open is an error, or, where there is a usual reading, that reading and a warning.

Where each vendor's rule is:

- Philips: its SUV factor (7053,xx00) and its activity factor (7053,xx09) in `_philips_factor`, below
- GE: the time of the scan (0009,xx0D) in `GE` of model/dicom/times.py
- Siemens: the time of decay correction (0071,xx22) in `SIEMENS` of model/dicom/times.py
- all others: weight, dose and decay in `_from_weight_and_dose`, below
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileDataset

from model.dicom.clock import Moment
from model.dicom.elements import path_of, private_text, tag_name, text
from model.dicom.isotopes import radiopharmaceuticals
from model.dicom.suv_checks import check_constant, check_corrected, decay_correction_of
from model.dicom.times import frame_middle, injection_time, reference_time, seconds_after
from model.dicom.tracer import tracer_warnings
from model.dicom.weight_and_dose import dose_of, half_life_of, weight_of
from model.errors import CaseError

PHILIPS = "Philips PET"  # how the creator of group 7053 begins: "Philips PET Private Group"
SUV_FACTOR, ACTIVITY_FACTOR = 0x00, 0x09  # its elements (7053,xx00) and (7053,xx09)
LARGEST_FACTOR = 1e30  # a larger one is no number that a scanner wrote
HALF_LIVES = 10  # longest decay: 1/1024 of the activity is left
SLOW_TRACER_S = 2 * 86400.0  # tracers that may decay for longer than this are also scanned days after the injection


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How a PET series became SUV, for the study's report. It holds no dates: they would identify the patient.

    factor: SUV per rescaled value, the same for every slice, or None where slices differ (`slice_factors`, in the
    order of the volume). decay_s: from injection to the time that values are corrected to (of the first slice where
    slices differ). Fields that the route did not need are None.
    """

    units: str
    route: str
    decay_correction: str
    factor: float | None
    slice_factors: tuple[float, ...]
    weight_kg: float | None = None
    weight_from: str | None = None
    dose_bq: float | None = None
    half_life_s: float | None = None
    half_life_from: str | None = None
    injection: str | None = None
    injection_from: str | None = None
    reference: str | None = None
    reference_from: str | None = None
    decay_s: float | None = None
    body_mean_suv: float | None = None
    warnings: tuple[str, ...] = ()


def find_conversion(headers: Sequence[FileDataset], weight_kg: float | None = None) -> Conversion:
    """The factor to body-weight SUV of the slices of one PET series.

    weight_kg: the patient's weight, in place of the header's. Raises CaseError where the header lacks what SUV needs,
    contradicts itself, or is of a PET without attenuation or decay correction.
    """
    first = headers[0]
    check_constant(headers)
    warnings = tracer_warnings(first)
    correction = decay_correction_of(first, warnings)
    check_corrected(first, correction, warnings)
    units, path = text(first, "Units"), path_of(first)
    if units == "GML":
        suv_type = text(first, "SUVType")
        if suv_type not in ("", "BW"):
            raise CaseError(
                f"PET '{path}' is SUV of type {suv_type} ({tag_name('SUVType')}), not BW (body weight); "
                "export it in Bq/ml, or as body-weight SUV"
            )
        return _stated_factors("GML: body-weight SUV already", units, correction, [1.0] * len(headers), warnings)
    if units == "BQML":
        scales, route = [1.0] * len(headers), "BQML: weight and decayed dose"
    elif units == "CNTS":
        factors = [_philips_factor(header, SUV_FACTOR) for header in headers]
        if all(factors):
            return _stated_factors("CNTS: Philips SUV factor (7053,xx00)", units, correction, factors, warnings)
        scales = [_philips_factor(header, ACTIVITY_FACTOR) for header in headers]
        route = "CNTS: Philips activity factor (7053,xx09), then weight and decayed dose"
        if not all(scales):
            raise CaseError(
                f"PET '{path}' is in counts (Units CNTS) without Philips' SUV factor (7053,xx00) or activity factor "
                "(7053,xx09), or they are 0; export it with its private elements, or in Bq/ml"
            )
    else:
        raise CaseError(
            f"PET '{path}' has {tag_name('Units')} {units or 'absent'}; SUV can be made from BQML, from GML, and from "
            "CNTS of Philips; export the series in one of these"
        )
    return _from_weight_and_dose(headers, scales, route, correction, weight_kg, warnings)


def _philips_factor(header: FileDataset, element: int) -> float:
    """Philips' SUV factor (7053,xx00) or activity factor (7053,xx09), 0 where it is absent."""
    stated = private_text(header, 0x7053, PHILIPS, element)
    try:
        value = float(stated or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < LARGEST_FACTOR:
        raise CaseError(f"PET '{path_of(header)}' has (7053,xx{element:02X}) {stated!r}, not a factor; export it again")
    return value


def _stated_factors(
    route: str, units: str, correction: str, factors: Sequence[float], warnings: list[str]
) -> Conversion:
    """A conversion by factors that the header states, without weight and dose."""
    return Conversion(
        units=units,
        route=route,
        decay_correction=correction,
        factor=_common_factor(factors),
        slice_factors=tuple(factors),
        warnings=tuple(warnings),
    )


def _from_weight_and_dose(
    headers: Sequence[FileDataset],
    scales: Sequence[float],
    route: str,
    correction: str,
    weight_kg: float | None,
    warnings: list[str],
) -> Conversion:
    """Factors from weight, dose and decay; `scales` turns the values of each slice into Bq/ml."""
    first = headers[0]
    item = _radiopharmaceutical(first, warnings)
    weight_kg, weight_from = weight_of(first, weight_kg)
    dose_bq = dose_of(item, first, warnings)
    half_life_s = half_life_from = injection = None
    references: list[Moment] = []
    decays = [0.0] * len(headers)
    if correction != "ADMIN":
        half_life_s, half_life_from = half_life_of(item, first, warnings)
        injection = injection_time(item, first, warnings)
        references = (
            [frame_middle(header) for header in headers] if correction == "NONE" else _references(headers, warnings)
        )
        # every slice gives the same warnings: those of the first are enough
        decays = [
            _decay(injection, reference, half_life_s, first, warnings if z == 0 else [])
            for z, reference in enumerate(references)
        ]
    factors = [
        scale * 1000.0 * weight_kg / (dose_bq * 2.0 ** -(decay / (half_life_s or 1.0)))
        for scale, decay in zip(scales, decays, strict=True)
    ]
    return Conversion(
        units=text(first, "Units"),
        route=route,
        decay_correction=correction,
        factor=_common_factor(factors),
        slice_factors=tuple(factors),
        weight_kg=weight_kg,
        weight_from=weight_from,
        dose_bq=dose_bq,
        half_life_s=half_life_s,
        half_life_from=half_life_from,
        injection=str(injection) if injection else None,
        injection_from=injection.source if injection else None,
        reference=str(references[0]) if references else None,
        reference_from=references[0].source if references else None,
        decay_s=decays[0],
        warnings=tuple(dict.fromkeys(warnings)),
    )


def _radiopharmaceutical(header: FileDataset, warnings: list[str]) -> Dataset:
    """The item of the radiopharmaceutical, the first with a warning where there are several."""
    found = radiopharmaceuticals(header)
    if not found:
        raise CaseError(
            f"PET '{path_of(header)}' has no {tag_name('RadiopharmaceuticalInformationSequence')}: without dose and "
            "time of injection there is no SUV; export the series with it"
        )
    if len(found) > 1:
        warnings.append(f"PET '{path_of(header)}' names {len(found)} radiopharmaceuticals; the first is used")
    return found[0]


def _references(headers: Sequence[FileDataset], warnings: list[str]) -> list[Moment]:
    """The time that each slice is decay-corrected to: one of all, or one of each series where joined series differ."""
    parts: dict[tuple[str, str], list[FileDataset]] = {}
    for header in headers:
        parts.setdefault((text(header, "SeriesDate"), text(header, "SeriesTime")), []).append(header)
    whole = headers if len(parts) > 1 else ()
    found = {key: reference_time(part, warnings, whole) for key, part in parts.items()}
    return [found[text(header, "SeriesDate"), text(header, "SeriesTime")] for header in headers]


def _decay(injection: Moment, reference: Moment, half_life_s: float, header: FileDataset, warnings: list[str]) -> float:
    """Seconds of decay. Raises CaseError if they are more than 10 half-lives."""
    longest_s = HALF_LIVES * half_life_s
    elapsed_s, by_date_s = seconds_after(injection, reference, longest_s)
    interval = f"between the injection at {injection} ({injection.source}) and {reference} ({reference.source})"
    limit = f"0 to {HALF_LIVES} half-lives ({longest_s:.0f} s)"
    assumed = f"times of day are used alone, as if the scan began {elapsed_s:.0f} s after the injection, not days after"
    if not elapsed_s <= longest_s:
        shown_s = elapsed_s if by_date_s is None else by_date_s
        raise CaseError(
            f"PET '{path_of(header)}': {shown_s:.0f} s lie {interval}, not {limit}; correct the times in the header, "
            f"or {tag_name('RadionuclideHalfLife')} if {half_life_s:g} s is not the tracer's"
        )
    if by_date_s is not None:
        warnings.append(
            f"dates of injection and scan of PET '{path_of(header)}' disagree (de-identified?): by the dates "
            f"{by_date_s:.0f} s lie {interval}, not {limit}; {assumed}, which is wrong if the dates are right"
        )
    elif longest_s > SLOW_TRACER_S and not (injection.day and reference.day):
        warnings.append(
            f"PET '{path_of(header)}' does not state the day of its injection, or of its scan, and its tracer "
            f"(half-life {half_life_s:g} s) may be scanned days later: {assumed}"
        )
    return elapsed_s


def _common_factor(factors: Sequence[float]) -> float | None:
    """The factor of all slices, None where they differ."""
    return factors[0] if len(set(factors)) == 1 else None
