"""Join series that are parts of one volume, and measure how much of the body is left out by series that are not.

A PET of several beds, or a CT, may be sent as several series: by the scanner, by an archive that splits at a number of
slices, or by a program that gives new UIDs. They are joined if they share patient, study, frame of reference, grid and
the meaning of their values, if together they are evenly spaced slices, each position once, and if they were acquired
within half an hour of each other.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from model.dicom.elements import text
from model.dicom.headers import read_header
from model.dicom.isotopes import radiopharmaceuticals
from model.dicom.series import OFF_LINE_MM, OFF_LINE_SHARE, SAME_PLACE_MM, TILT
from model.dicom.suv_checks import ITEM_CONSTANT
from model.errors import CaseError
from model.hospital.find.scan import ONE_SLICE, SeriesInfo

LONGEST_PAUSE_S = 1800.0  # between the acquisitions of two parts
SAME_GRID = 1e-3  # of spacings in mm, and of orientations
LEAST_LEFT_OUT = 0.75  # of a slice's thickness: less of the body is not reported


def join(series: Sequence[SeriesInfo]) -> list[SeriesInfo]:
    """The series of one modality, with the parts of one volume joined into one series, sorted by number, then UID.

    A joined series has the number, the UID and the description of its first part.
    """
    result = sorted(series, key=lambda s: (s.number, s.uid))
    while True:
        groups = [
            group for group in _groups(result) if len(group) > 2
        ]  # three parts may make a volume, two of them not
        pairs = [list(pair) for pair in combinations(result, 2)]
        parts = next((group for group in (*groups, *pairs) if not why_apart(group)), None)
        if parts is None:
            return result
        others = [info for info in result if all(info is not part for part in parts)]
        result = sorted([*others, _joined_series(parts)], key=lambda s: (s.number, s.uid))


def why_apart(parts: Sequence[SeriesInfo]) -> str:
    """Why series are not one volume; "" if they are."""
    first = parts[0]
    if any(part.flaw not in ("", ONE_SLICE) or not len(part.positions) for part in parts):
        return "one of them is no volume"
    if any(part.study_and_patient != first.study_and_patient for part in parts):
        return "they are of two studies"
    if not first.frame or any(part.frame != first.frame for part in parts):
        return "they do not share a frame of reference"
    if any(part.rank != first.rank or part.corrected != first.corrected for part in parts):
        return "one is original, or corrected, and the other is not"
    if any(_differ(part.grid, first.grid) for part in parts):
        return "they lie on two grids"
    if any(part.alike != first.alike for part in parts):
        return "their values differ in unit, correction, weight or kernel"
    return _why_uneven(parts) or _why_later(parts) or _why_another_dose(parts)


def left_out_mm(taken: SeriesInfo, others: Iterable[SeriesInfo], within: tuple[float, float] | None = None) -> float:
    """How many mm of the body, along it, the others show and `taken` does not. within: count only this part, mm."""
    axis = taken.body_axis
    low, high = _edges(taken, axis)
    spans = []
    for other in others:
        first, last = _edges(other, axis)
        if within:
            first, last = max(first, within[0]), min(last, within[1])
        spans += [(first, min(last, low)), (max(first, high), last)]
    total, end = 0.0, -np.inf
    for first, last in sorted(span for span in spans if span[1] > span[0]):
        total += max(0.0, last - max(first, end))
        end = max(end, last)
    return total if total > LEAST_LEFT_OUT * (taken.step_mm or 1.0) else 0.0


def _edges(series: SeriesInfo, axis: NDArray[np.float64]) -> tuple[float, float]:
    """Where a series begins and ends along an axis, mm: half a slice beyond the centres of its outer slices."""
    low, high = series.span_mm(axis)
    half = series.step_mm / 2 * abs(float(series.normal @ axis))
    return low - half, high + half


def _groups(series: Sequence[SeriesInfo]) -> list[list[SeriesInfo]]:
    """The series in groups that share everything which must be exactly equal."""
    groups: dict[tuple[object, ...], list[SeriesInfo]] = {}
    for info in series:
        key = (info.study_and_patient, info.frame, info.rank, info.corrected, info.alike, info.grid[:2])
        groups.setdefault(key, []).append(info)
    return list(groups.values())


def _differ(one: tuple[str, ...], other: tuple[str, ...]) -> bool:
    """Whether two grids differ by more than rounding, in rows, columns, spacing or orientation."""
    if one == other:
        return False
    try:
        numbers = [np.array([float(part) for field in grid for part in field.split("\\")]) for grid in (one, other)]
    except ValueError:
        return True
    return len(numbers[0]) != len(numbers[1]) or float(np.abs(numbers[0] - numbers[1]).max()) > SAME_GRID


def _why_uneven(parts: Sequence[SeriesInfo]) -> str:
    """Why the slices are not one evenly spaced stack, by the limits of `order_slices`; "" if they are."""
    positions, normal = np.concatenate([part.positions for part in parts]), parts[0].normal
    depth = positions @ normal
    positions, depth = positions[np.argsort(depth)], np.sort(depth)
    gaps = np.diff(depth)
    if gaps.min() < SAME_PLACE_MM:
        return "they overlap"
    step = float(depth[-1] - depth[0]) / len(gaps)
    if np.abs(depth - depth[0] - step * np.arange(len(depth))).max() > max(OFF_LINE_MM, OFF_LINE_SHARE * step):
        return f"their slices are not even: {gaps.min():.4g} to {gaps.max():.4g} mm apart"
    offsets = positions - positions[0]
    sideways = np.linalg.norm(offsets - (offsets @ normal)[:, None] * normal, axis=1).max()
    if sideways > max(OFF_LINE_MM, TILT * float(depth[-1] - depth[0])):
        return f"one lies {sideways:.4g} mm beside the other"
    return ""


def _why_later(parts: Sequence[SeriesInfo]) -> str:
    """Which pause between acquisitions is too long, in words; "" if none is. Series without times are left out."""
    times = sorted(part.times for part in parts if part.times)
    ends = list(np.maximum.accumulate([end for _, end in times]))
    for (start, _), end in zip(times[1:], ends, strict=False):
        if start - end > LONGEST_PAUSE_S:
            return f"they were acquired {(start - end) / 60:.0f} minutes apart"
    return ""


def _why_another_dose(parts: Sequence[SeriesInfo]) -> str:
    """Why the parts of a PET are not of one injection; "" if they are. It reads files, so it is checked last."""
    if parts[0].modality != "PT":
        return ""
    try:
        headers = [read_header(part.files[0]) for part in parts]
        doses = {
            tuple(text(item, keyword) for item in radiopharmaceuticals(header) for keyword in ITEM_CONSTANT)
            for header in headers
        }
    except CaseError:
        return "one of them cannot be read"
    return "they state another dose, or another time of injection" if len(doses) > 1 else ""


def _joined_series(parts: Sequence[SeriesInfo]) -> SeriesInfo:
    single = [piece for part in parts for piece in (part.parts or (part,))]
    first = min(single, key=lambda s: (s.number, s.uid))
    times = [part.times for part in single if part.times]
    return replace(
        first,
        files=tuple(file for part in single for file in part.files),
        flaw="",
        parts=tuple(single),
        positions=np.concatenate([part.positions for part in single]),
        times=(min(t[0] for t in times), max(t[1] for t in times)) if times else None,
    )
