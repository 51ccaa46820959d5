"""The factor from a PET's values to body-weight SUV, from DICOM headers, and a record of how it was found.

SUV = activity concentration (Bq/ml) x body weight (g) / dose (Bq), the dose decayed from injection to the time that
the concentration is of (QIBA FDG-PET/CT profile). A wrong factor gives a plausible image and wrong numbers, so what
the header leaves open is an error, or, where there is a usual reading, that reading and a warning.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from pydicom.dataset import Dataset, FileDataset

from model.dicom.clock import Moment
from model.dicom.headers import by_series, misplaced, number, path_of, private, tag_name, text
from model.dicom.isotopes import isotope_of, radiopharmaceuticals
from model.dicom.plausible import HALF_LIFE_S, HALF_LIFE_SHARE, WEIGHT_KG, check_half_life, check_weight, dose_in_bq
from model.dicom.times import frame_middle, injection_time, reference_time, seconds_after
from model.dicom.tracer import tracer_warnings
from model.errors import CaseError

PHILIPS = "Philips PET"  # how the creator of group 7053 begins: "Philips PET Private Group"
SUV_FACTOR, ACTIVITY_FACTOR = 0x00, 0x09  # its elements (7053,xx00) and (7053,xx09)
HALF_LIVES = 10  # longest decay time: 1/1024 of the activity is left
DAY_LONG_S = 2 * 86400.0  # tracers that may decay so long are scanned days after the injection, too
CONSTANT = (
    "Units",
    "SUVType",
    "DecayCorrection",
    "CorrectedImage",
    "PatientWeight",
)  # what must not change within a PET
PART_CONSTANT = ("SeriesDate", "SeriesTime")  # nor, of a PET that was sent as several series, within each
ITEM_CONSTANT = (
    "RadionuclideTotalDose",
    "RadionuclideHalfLife",
    "RadiopharmaceuticalStartTime",
    "RadiopharmaceuticalStartDateTime",
)  # the same, of the radiopharmaceutical


@dataclass(frozen=True, kw_only=True)
class Conversion:
    """How a PET series became SUV; what the study's report shows. Times of day only: dates would identify.

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
    first, warnings = headers[0], list[str]()
    _check_constant(headers)
    warnings += tracer_warnings(first)
    correction = _decay_correction(first, warnings)
    _check_corrected(first, correction, warnings)
    units, path = text(first, "Units"), path_of(first)
    if units == "GML":
        suv_type = text(first, "SUVType")
        if suv_type not in ("", "BW"):
            raise CaseError(
                f"PET '{path}' is SUV of type {suv_type} ({tag_name('SUVType')}), not BW (body weight); "
                "export it in Bq/ml, or as body-weight SUV"
            )
        return _direct("GML: body-weight SUV already", units, correction, [1.0] * len(headers), warnings)
    if units not in ("BQML", "CNTS"):
        raise CaseError(
            f"PET '{path}' has {tag_name('Units')} {units or 'absent'}; SUV can be made from BQML, from GML, and from "
            "CNTS of Philips; export the series in one of these"
        )
    scales = [1.0] * len(headers)
    route = "BQML: weight and decayed dose"
    if units == "CNTS":
        factors = [_philips(h, SUV_FACTOR) for h in headers]
        if all(factors):
            return _direct("CNTS: Philips SUV factor (7053,xx00)", units, correction, factors, warnings)
        scales = [_philips(h, ACTIVITY_FACTOR) for h in headers]
        route = "CNTS: Philips activity factor (7053,xx09), then weight and decayed dose"
        if not all(scales):
            raise CaseError(
                f"PET '{path}' is in counts (Units CNTS) without Philips' SUV factor (7053,xx00) or activity factor "
                "(7053,xx09), or they are 0; export it with its private elements, or in Bq/ml"
            )
    return _by_dose(headers, scales, route, correction, weight_kg, warnings)


def _direct(route: str, units: str, correction: str, factors: Sequence[float], warnings: list[str]) -> Conversion:
    return Conversion(
        units=units,
        route=route,
        decay_correction=correction,
        factor=_common(factors),
        slice_factors=tuple(factors),
        warnings=tuple(warnings),
    )


def _by_dose(
    headers: Sequence[FileDataset],
    scales: Sequence[float],
    route: str,
    correction: str,
    weight_kg: float | None,
    warnings: list[str],
) -> Conversion:
    """Factors from weight, dose and decay; `scales` turns the values of each slice into Bq/ml."""
    first = headers[0]
    item = _item(first)
    if len(radiopharmaceuticals(first)) > 1:
        warnings.append(
            f"PET '{path_of(first)}' names {len(radiopharmaceuticals(first))} radiopharmaceuticals; the first is used"
        )
    weight_kg, weight_from = _weight(first, weight_kg)
    dose_bq = _dose(item, first, warnings)
    half_life_s = half_life_from = injection = None
    references: list[Moment] = []
    decays = [0.0] * len(headers)
    if correction != "ADMIN":
        half_life_s, half_life_from = _half_life(item, first, warnings)
        injection = injection_time(item, first, warnings)
        if correction == "NONE":
            references = [frame_middle(h) for h in headers]
        else:
            references = _references(headers, warnings)
        told = [warnings] + [[] for _ in references[1:]]  # what is said of one slice is true of all
        decays = [
            _decay(injection, reference, half_life_s, first, said)
            for reference, said in zip(references, told, strict=True)
        ]
    factors = [
        scale * 1000.0 * weight_kg / (dose_bq * 2.0 ** -(decay / (half_life_s or 1.0)))
        for scale, decay in zip(scales, decays, strict=True)
    ]
    return Conversion(
        units=text(first, "Units"),
        route=route,
        decay_correction=correction,
        factor=_common(factors),
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


def _references(headers: Sequence[FileDataset], warnings: list[str]) -> list[Moment]:
    """The reference time of each slice: one of all, or of each part that was joined where parts state another."""
    parts: dict[tuple[str, str], list[FileDataset]] = {}
    for header in headers:
        parts.setdefault((text(header, "SeriesDate"), text(header, "SeriesTime")), []).append(header)
    whole = headers if len(parts) > 1 else ()
    found = {key: reference_time(part, warnings, whole) for key, part in parts.items()}
    return [found[text(header, "SeriesDate"), text(header, "SeriesTime")] for header in headers]


def _decay_correction(header: FileDataset, warnings: list[str]) -> str:
    stated = text(header, "DecayCorrection")
    if stated in ("START", "ADMIN", "NONE"):
        return stated
    if stated:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_name('DecayCorrection')} {stated}; it must be START, ADMIN or NONE; "
            "correct the header"
        )
    warnings.append(f"PET '{path_of(header)}' has no {tag_name('DecayCorrection')}: taken as START")
    return "START"


def _check_corrected(header: FileDataset, correction: str, warnings: list[str]) -> None:
    done = text(header, "CorrectedImage").split("\\")
    missing = [what for what in (("ATTN",) if correction == "NONE" else ("ATTN", "DECY")) if what not in done]
    if missing:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_name('CorrectedImage')} {', '.join(done) or 'absent'}, without "
            f"{' and '.join(missing)}; SUV needs attenuation and decay correction: give the corrected series"
        )
    if correction == "NONE" and "DECY" in done:
        warnings.append(
            f"PET '{path_of(header)}' has DecayCorrection NONE, yet CorrectedImage names DECY: taken as not corrected"
        )


def _check_constant(headers: Sequence[FileDataset]) -> None:
    first = headers[0]
    firsts = {uid: part[0] for uid, part in by_series(headers).items()}  # several where series were joined
    for header in headers:
        pairs: list[tuple[str, Dataset, Dataset]] = [(keyword, header, first) for keyword in CONSTANT]
        pairs += [(keyword, header, firsts[text(header, "SeriesInstanceUID")]) for keyword in PART_CONSTANT]
        if radiopharmaceuticals(first) and radiopharmaceuticals(header):
            pairs += [(keyword, _item(header), _item(first)) for keyword in ITEM_CONSTANT]
        for keyword, one, other in pairs:
            if text(one, keyword) != text(other, keyword):
                raise CaseError(
                    f"PET '{path_of(first)}' and '{path_of(header)}' differ in {tag_name(keyword)}: "
                    f"{text(other, keyword) or 'absent'} and {text(one, keyword) or 'absent'}; two series are mixed, "
                    "or one file was changed; export the series again"
                )


def _weight(header: FileDataset, given_kg: float | None) -> tuple[float, str]:
    if given_kg is not None:
        low, high = WEIGHT_KG
        if not low <= given_kg <= high:
            raise CaseError(
                f"the weight given for PET '{path_of(header)}' is {given_kg:g}; it must be {low:g} to {high:g}, in kg"
            )
        return given_kg, "given"
    weight_kg = number(header, "PatientWeight")
    if not weight_kg or weight_kg < 0:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_name('PatientWeight')} {'absent' if weight_kg is None else weight_kg}: "
            "without it there is no body-weight SUV; give the patient's weight in kg (weight_kg in overrides.csv), or "
            "enter it into the header"
        )
    check_weight(weight_kg, path_of(header))
    return weight_kg, tag_name("PatientWeight")


def _dose(item: Dataset, header: FileDataset, warnings: list[str]) -> float:
    dose = number(item, "RadionuclideTotalDose", path_of(header))
    if not dose or dose < 0:
        raise CaseError(
            f"PET '{path_of(header)}' has {tag_name('RadionuclideTotalDose')} {'absent' if dose is None else dose}"
            f"{misplaced(header, 'RadionuclideTotalDose')}: without the injected dose there is no SUV; give it in "
            "MBq (dose_MBq in overrides.csv), enter it in Bq into the header, or export the series with it"
        )
    return dose_in_bq(dose, path_of(header), warnings)


def _half_life(item: Dataset, header: FileDataset, warnings: list[str]) -> tuple[float, str]:
    stated, isotope = number(item, "RadionuclideHalfLife", path_of(header)), isotope_of(item)
    known = HALF_LIFE_S.get(isotope or "")
    if stated and stated > 0:
        check_half_life(stated, isotope, path_of(header))
        if known and abs(stated / known - 1) > HALF_LIFE_SHARE:
            warnings.append(
                f"PET '{path_of(header)}' has a half-life of {stated:g} s, and its isotope {isotope} {known:g} s: "
                "the header's is used"
            )
        return stated, tag_name("RadionuclideHalfLife")
    if not known:
        raise CaseError(
            f"PET '{path_of(header)}' has no {tag_name('RadionuclideHalfLife')}, and its "
            f"{tag_name('RadionuclideCodeSequence')} names no isotope of {', '.join(HALF_LIFE_S)}; "
            "enter the half-life in s into the header"
        )
    warnings.append(f"PET '{path_of(header)}' states no half-life: {known:g} s of its isotope {isotope} is used")
    return known, f"isotope {isotope}, {tag_name('RadionuclideCodeSequence')}"


def _decay(injection: Moment, reference: Moment, half_life_s: float, header: FileDataset, warnings: list[str]) -> float:
    """Seconds of decay. Raises CaseError if they are more than 10 half-lives."""
    longest_s = HALF_LIVES * half_life_s
    elapsed_s, by_date_s = seconds_after(injection, reference, longest_s)
    apart = f"from the injection at {injection} ({injection.source}) to {reference} ({reference.source})"
    limit = f"0 to {HALF_LIVES} half-lives ({longest_s:.0f} s)"
    assumed = f"times of day are used alone, as if the scan began {elapsed_s:.0f} s after the injection, not days after"
    if not elapsed_s <= longest_s:
        shown = elapsed_s if by_date_s is None else by_date_s
        raise CaseError(
            f"PET '{path_of(header)}': {apart} are {shown:.0f} s; it must be {limit}; correct the times in the header, "
            f"or {tag_name('RadionuclideHalfLife')} if {half_life_s:g} s is not the tracer's"
        )
    if by_date_s is not None:
        warnings.append(
            f"dates of injection and scan of PET '{path_of(header)}' disagree (de-identified?): by them {apart} are "
            f"{by_date_s:.0f} s, not {limit}; {assumed}, which is wrong if the dates are right"
        )
    elif longest_s > DAY_LONG_S and not (injection.day and reference.day):
        warnings.append(
            f"PET '{path_of(header)}' does not state the day of its injection, or of its scan, and its tracer "
            f"(half-life {half_life_s:g} s) may be scanned days later: {assumed}"
        )
    return elapsed_s


def _philips(header: FileDataset, element: int) -> float:
    """One of Philips' factors, 0 where it is absent."""
    stated = private(header, 0x7053, PHILIPS, element)
    try:
        value = float(stated or 0)
    except ValueError:
        value = -1.0
    if not 0 <= value < 1e30:
        raise CaseError(f"PET '{path_of(header)}' has (7053,xx{element:02X}) {stated!r}, not a factor; export it again")
    return value


def _item(header: FileDataset) -> Dataset:
    found = radiopharmaceuticals(header)
    if not found:
        raise CaseError(
            f"PET '{path_of(header)}' has no {tag_name('RadiopharmaceuticalInformationSequence')}: without dose and "
            "time of injection there is no SUV; export the series with it"
        )
    return found[0]


def _common(factors: Sequence[float]) -> float | None:
    return factors[0] if len(set(factors)) == 1 else None
