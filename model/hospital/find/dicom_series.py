"""Pick the PET and the CT of each study among many DICOM series, by their headers, not by the names of folders.

Series belong to one study if they share StudyInstanceUID and PatientID (de-identification may give many patients one
UID). A PET whose study has no CT takes a CT with its FrameOfReferenceUID. Series that are parts of one volume are
joined first. Each rule below decides only between series that the rules before it leave equal.

PET: 1. a series that can be scored (no projection, no single slice, no multi-frame object, not several slices in one
place); 2. corrected for attenuation; 3. original axial slices, then derived ones, then reformats; 4. the longest along
the body; 5. the most slices; 6. the lowest series number.

CT: 1. a series that can be scored (as above, and no scout); 2. in the PET's frame of reference; 3. original, then
derived, then reformats, but an original that covers less than half of the PET counts as derived; 4. the one that covers
most of the PET; 5. the lowest series number.

A series that cannot be scored is taken only if there is no other; reading it then says what is wrong with it. A PET
without CT, and a CT without PET, cannot be scored; but where studies of PET alone are asked for, a PET without CT is
one, and so is a PET whose CT series, by their headers, cannot be scored: a scout alone, say.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from model.dicom.kinds import DERIVED, ORIGINAL, PICTURE
from model.hospital.find.entry import FIND, NO_PET, PET_ONLY_REMEDY, Entry, FoundStudies, Unusable
from model.hospital.find.joins import join, left_out_mm, why_apart
from model.hospital.find.scan import ALIKE, ONE_SLICE, SeriesInfo, scan

COVER_STEPS = 50  # coverage is compared in steps of 2 %
COVER_LEAST = 0.5  # share of the PET: an original CT that covers less counts as derived


def identity_of_study(uid: str) -> str:
    """The identity of a DICOM study, by its StudyInstanceUID."""
    return f"dicom:{uid}"


def identity_with_patient(uid: str, patient: str) -> str:
    """The identity of a DICOM study if several patients share its StudyInstanceUID."""
    return f"dicom:{uid}:{patient}"


def find_dicom(files: Iterable[Path], root: Path, named: bool = False, pet_alone: bool = False) -> FoundStudies:
    """The studies among DICOM files. named: picks may hold descriptions of series, which can name a patient.
    pet_alone: whether a PET without a CT that can be scored is a study.
    """
    series, damaged = scan(files)
    useful = [s for s in series if s.modality in ("PT", "CT")]
    studies: dict[tuple[str, str], list[SeriesInfo]] = {}
    for info in useful:
        studies.setdefault(info.study_and_patient, []).append(info)
    patients = Counter(uid for uid, _ in studies)

    def identity(uid: str, patient: str) -> str:
        return identity_of_study(uid) if patients[uid] == 1 else identity_with_patient(uid, patient)

    ct_only = {key for key, members in studies.items() if not any(s.modality == "PT" for s in members)}
    entries, unusable, taken = [], [], set[tuple[str, str]]()
    for key, members in studies.items():
        if key in ct_only:
            continue
        pets = [s for s in members if s.modality == "PT"]
        cts = [s for s in members if s.modality == "CT"]
        if not cts:  # take the CTs of another study in the same frame of reference
            frames = {pet.frame for pet in pets} - {""}
            cts = [s for other in ct_only for s in studies[other] if s.frame in frames]
            taken |= {s.study_and_patient for s in cts}
        if pet_alone and cts and pick_ct(cts, pick_pet(pets)).flaw:
            left_out, cts = cts, []
        else:
            left_out = []
        if cts or pet_alone:
            whole = identity_with_patient(*key)
            also = (whole,) if identity(*key) != whole else ()
            entry = _entry(identity(*key), also, pets, cts, named)
            unused = _unused_ct(left_out)
            entries.append(replace(entry, warnings=(*entry.warnings, *unused)))
        else:
            unusable.append(_incomplete(identity(*key), pets, FIND, root))
    unusable += [_incomplete(identity(*key), studies[key], NO_PET, root) for key in sorted(ct_only - taken)]
    for path, why in damaged.items():
        unusable.append(Unusable(identity=f"file:{path.relative_to(root).as_posix()}", source=path, message=why))
    ignored = sum(len(s.files) for s in series) - sum(len(s.files) for s in useful)
    return FoundStudies(entries=tuple(entries), unusable=tuple(unusable), ignored=ignored)


def pick_pet(pets: list[SeriesInfo]) -> SeriesInfo:
    """The PET series by the rules above."""
    return min(
        join(pets),
        key=lambda s: (
            bool(s.flaw),
            s.rank == PICTURE,
            not s.corrected,
            s.rank,
            -round(s.length_mm),
            -len(s.files),
            s.number,
            s.uid,
        ),
    )


def pick_ct(cts: list[SeriesInfo], pet: SeriesInfo) -> SeriesInfo:
    """The CT series by the rules above."""

    def level(series: SeriesInfo) -> int:
        return series.rank if cover(series, pet) >= COVER_LEAST else max(series.rank, DERIVED)

    return min(
        join(cts),
        key=lambda s: (
            bool(s.flaw),
            s.rank == PICTURE,
            s.frame != pet.frame,
            level(s),
            -round(COVER_STEPS * cover(s, pet)),
            s.number,
            s.uid,
        ),
    )


def warnings_of(
    pet: SeriesInfo, ct: SeriesInfo | None, pets: list[SeriesInfo], cts: list[SeriesInfo]
) -> tuple[str, ...]:
    """What a reader of the results must know about the picked series `pet` and `ct`. pets, cts: to pick from."""
    warnings = []
    for modality, picked in (("PET", pet), ("CT", ct)):
        if picked and picked.rank != ORIGINAL and not picked.flaw:
            warnings.append(
                f"{modality}: {describe(picked, _note(picked))} is taken, though it is not an original axial series: "
                "no such series can be scored; look whether its values and its place are right"
            )
    if not pet.corrected and "ATTN" in pet.alike[ALIKE.index("CorrectedImage")]:
        warnings.append(
            f"PET: {describe(pet)} has a description that says it is not corrected for attenuation, and a header that "
            "says it is: find out which is right"
        )
    usable = [s for s in join(pets) if s.corrected or not pet.corrected]
    span = pet.span_mm(pet.body_axis)
    warnings += _left_out("PET", pet, usable, None)
    warnings += _left_out("CT", ct, join(cts), span) if ct else []
    return tuple(warnings)


def _unused_ct(cts: list[SeriesInfo]) -> list[str]:
    """A warning if there are CT series, and none can be scored."""
    if not cts:
        return []
    listed = ", ".join(describe(s, s.flaw) for s in sorted(join(cts), key=lambda s: (s.number, s.uid)))
    return [f"CT: no series of it can be used, so the study is scored without CT: {listed}"]


def _left_out(
    modality: str, picked: SeriesInfo, others: list[SeriesInfo], within: tuple[float, float] | None
) -> list[str]:
    """A warning if other series show more of the body; else none. within: count only this part of the body, mm."""
    longer = [
        s
        for s in others
        if s.files != picked.files
        and s.flaw in ("", ONE_SLICE)
        and s.rank <= DERIVED
        and len(s.positions)
        and left_out_mm(picked, [s], within)
    ]
    length_mm = left_out_mm(picked, longer, within)
    least_mm = 0.0 if within is None else (within[1] - within[0]) / COVER_STEPS
    if picked.flaw or length_mm <= least_mm:
        return []
    why = ", ".join(f"{describe(s)}: {why_apart([picked, s]) or 'another has its place'}" for s in longer)
    return [
        f"{modality}: {length_mm:.0f} mm of the body are left out, which lie in series that could not be joined with "
        f"{describe(picked)} ({why})"
    ]


def describe(series: SeriesInfo, note: str = "", named: bool = False) -> str:
    """A series in a message: its number, slices and length. named: also its description, which may name a patient."""
    about = filter(None, (f"{len(series.files)} slices", f"{series.length_mm:.0f} mm", note))
    name = f" '{series.description}'" if named and series.description else ""
    parts = series.parts or (series,)
    return f"series {' + '.join(str(part.number) for part in parts)}{name} ({', '.join(about)})"


def cover(ct: SeriesInfo, pet: SeriesInfo) -> float:
    """Share of the PET's length that a CT covers, in [0, 1]."""
    low, high = pet.span_mm(pet.body_axis)
    first, last = ct.span_mm(pet.body_axis)
    return max(0.0, min(high, last) - max(low, first)) / (high - low) if high > low else 0.0


def taken_of(pet: SeriesInfo, ct: SeriesInfo | None, named: bool) -> str:
    """Both series that were taken, as a failure's message names them."""
    taken_ct = f"CT {describe(ct, _note(ct), named)}" if ct else "no CT"
    return f"PET {describe(pet, _note(pet), named)}, {taken_ct}"


def _entry(identity: str, also: tuple[str, ...], pets: list[SeriesInfo], cts: list[SeriesInfo], named: bool) -> Entry:
    """The study of these series; without CT series one of PET alone."""
    pet = pick_pet(pets)
    ct = pick_ct(cts, pet) if cts else None

    def ct_note(series: SeriesInfo) -> str:
        return series.flaw or ", ".join(
            filter(None, (series.kind, f"covers {100 * cover(series, pet):.0f} % of the PET"))
        )

    picks = _describe_pick("PET", pet, pets, named, _note)
    picks += _describe_pick("CT", ct, cts, named, ct_note) if ct else []
    ct_files = ct.files if ct else ()
    files = (*pet.files, *ct_files)
    return Entry(
        warnings=warnings_of(pet, ct, pets, cts),
        taken=taken_of(pet, ct, named),
        identity=identity,
        source=common_folder(files),
        kind="dicom",
        pet=pet.files,
        ct=ct_files,
        picks=tuple(picks),
        person=pet.person,
        study_uid=pet.study,
        also=also,
    )


def _note(series: SeriesInfo) -> str:
    """How a series differs from original axial slices that are corrected for attenuation; "" if it does not."""
    uncorrected = series.modality == "PT" and not series.corrected
    return series.flaw or ", ".join(filter(None, (series.kind, "not attenuation-corrected" if uncorrected else "")))


def _describe_pick(
    modality: str, picked: SeriesInfo, series: list[SeriesInfo], named: bool, note: Callable[[SeriesInfo], str]
) -> list[str]:
    """A line that says which series was picked and which were not; none if there was no choice."""
    if len(series) < 2:
        return []
    others = sorted((s for s in join(series) if s.files != picked.files), key=lambda s: (s.number, s.uid))
    rest = ", not " + ", ".join(describe(s, note(s), named) for s in others) if others else ""
    joined = ", joined" if picked.parts else ""
    return [f"{modality}: took {describe(picked, note(picked), named)}{joined}{rest}"]


def _incomplete(identity: str, members: list[SeriesInfo], stage: str, root: Path) -> Unusable:
    files = [path for s in members for path in s.files]
    folder = common_folder(files)
    what = "a CT but no PET" if stage == NO_PET else "a PET but no CT"
    return Unusable(
        identity=identity,
        source=folder,
        stage=stage,
        message=f"the study in '{folder}' has {what}; put the missing series below '{root}', or leave this one out"
        + (PET_ONLY_REMEDY if stage != NO_PET else ""),
    )


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder that holds all files."""
    return Path(os.path.commonpath([path.parent for path in files]))
