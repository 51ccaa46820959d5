"""Which PET and which CT of many DICOM series make a study, told by what they hold, not by the names of folders.

Series belong together by StudyInstanceUID and PatientID (de-identification may give many patients one UID); a PET
whose study has no CT takes one of its FrameOfReferenceUID. Series that are parts of one volume are joined first.
PET: of those that could be one (no projection, no single slice, no multi-frame object, not several slices in one place)
a series corrected for attenuation before one that is not; of these original axial slices before derived ones, and those
before reformats; of these the longest along the body; then the most slices; then the lowest series number.
CT: of those that could be one (no scout besides) a series of the PET's frame of reference before another; of these the
original before derived and reformats, unless it covers less than half of the PET; of these the one that covers most of
the PET; then the lowest series number. A series that could not be one is taken only where there is no other, so that
reading it says what is wrong. PET without CT, and CT without PET, cannot be scored.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from model.dicom.kinds import DERIVED, ORIGINAL, PICTURE
from model.hospital.find.entry import FIND, NO_PET, Entry, FoundStudies, Unusable
from model.hospital.find.joins import join, left_out_mm, why_apart
from model.hospital.find.scan import ALIKE, ONE_SLICE, SeriesInfo, scan

COVER_STEPS = 50  # coverage counts in steps of 2 %: less does not tell one CT from another
COVER_LEAST = 0.5  # of the PET: an original CT that covers less is not taken before a derived one


def identity_of(uid: str) -> str:
    """What names a study of DICOM: its StudyInstanceUID."""
    return f"dicom:{uid}"


def identity_with_patient(uid: str, patient: str) -> str:
    """The same where several patients share the UID."""
    return f"dicom:{uid}:{patient}"


def find_dicom(files: Iterable[Path], root: Path, named: bool = False) -> FoundStudies:
    """The studies among DICOM files. named: picks may hold the series' descriptions, which can name a patient."""
    series, damaged = scan(files)
    useful = [s for s in series if s.modality in ("PT", "CT")]
    studies: dict[tuple[str, str], list[SeriesInfo]] = {}
    for one in useful:
        studies.setdefault(one.study_and_patient, []).append(one)
    patients = Counter(uid for uid, _ in studies)

    def identity(uid: str, patient: str) -> str:
        return identity_of(uid) if patients[uid] == 1 else identity_with_patient(uid, patient)

    ct_only = {key for key, members in studies.items() if not any(s.modality == "PT" for s in members)}
    entries, unusable, taken = [], [], set[tuple[str, str]]()
    for key, members in studies.items():
        if key in ct_only:
            continue
        pets = [s for s in members if s.modality == "PT"]
        cts = [s for s in members if s.modality == "CT"]
        if not cts:  # of a study of its own, in the same frame of reference
            frames = {pet.frame for pet in pets} - {""}
            cts = [s for other in ct_only for s in studies[other] if s.frame in frames]
            taken |= {s.study_and_patient for s in cts}
        if cts:
            whole = identity_with_patient(*key)
            also = (whole,) if identity(*key) != whole else ()
            entries.append(_entry(identity(*key), also, pets, cts, named))
        else:
            unusable.append(_incomplete(identity(*key), pets, FIND, root))
    unusable += [_incomplete(identity(*key), studies[key], NO_PET, root) for key in sorted(ct_only - taken)]
    for path, why in damaged.items():
        unusable.append(Unusable(identity=f"file:{path.relative_to(root).as_posix()}", source=path, message=why))
    ignored = sum(len(s.files) for s in series) - sum(len(s.files) for s in useful)
    return FoundStudies(entries=tuple(entries), unusable=tuple(unusable), ignored=ignored)


def pick_pet(pets: list[SeriesInfo]) -> SeriesInfo:
    """The PET series by the rule above."""
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
    """The CT series by the rule above."""

    def level(series: SeriesInfo) -> int:
        return series.rank if _cover(series, pet) >= COVER_LEAST else max(series.rank, DERIVED)

    return min(
        join(cts),
        key=lambda s: (
            bool(s.flaw),
            s.rank == PICTURE,
            s.frame != pet.frame,
            level(s),
            -round(COVER_STEPS * _cover(s, pet)),
            s.number,
            s.uid,
        ),
    )


def warnings_of(pet: SeriesInfo, ct: SeriesInfo, pets: list[SeriesInfo], cts: list[SeriesInfo]) -> tuple[str, ...]:
    """What the one who reads the results must know of the series that were taken of these."""
    said = []
    for what, taken in (("PET", pet), ("CT", ct)):
        if taken.rank != ORIGINAL and not taken.flaw:
            said.append(
                f"{what}: {describe(taken, _note(taken))} is taken, which is not an original axial series, as there is "
                "none that can be scored: look whether its values and its place are right"
            )
    if not pet.corrected and "ATTN" in pet.alike[ALIKE.index("CorrectedImage")]:
        said.append(f"PET: {describe(pet)} is not corrected for attenuation by its description, and is by its header")
    usable = [s for s in join(pets) if s.corrected or not pet.corrected]
    span = pet.span_mm(pet.body_axis)
    for what, taken, others, within in (("PET", pet, usable, None), ("CT", ct, join(cts), span)):
        more = [
            s
            for s in others
            if s.files != taken.files
            and s.flaw in ("", ONE_SLICE)
            and s.rank <= DERIVED
            and len(s.positions)
            and left_out_mm(taken, [s], within)
        ]
        least = 0.0 if within is None else (within[1] - within[0]) / COVER_STEPS
        if more and not taken.flaw and left_out_mm(taken, more, within) > least:
            why = ", ".join(f"{describe(s)}: {why_apart([taken, s]) or 'another has its place'}" for s in more)
            said.append(
                f"{what}: {left_out_mm(taken, more, within):.0f} mm of the body are left out, which lie in series that "
                f"could not be joined with {describe(taken)} ({why})"
            )
    return tuple(said)


def describe(series: SeriesInfo, note: str = "", named: bool = False) -> str:
    """A series as messages show it, by its number; its description may name a patient, and is describe if `named`."""
    about = filter(None, (f"{len(series.files)} slices", f"{series.length_mm:.0f} mm", note))
    name = f" '{series.description}'" if named and series.description else ""
    parts = series.parts or (series,)
    return f"series {' + '.join(str(part.number) for part in parts)}{name} ({', '.join(about)})"


def _cover(ct: SeriesInfo, pet: SeriesInfo) -> float:
    """Share of the PET's length that a CT covers."""
    low, high = pet.span_mm(pet.body_axis)
    first, last = ct.span_mm(pet.body_axis)
    return max(0.0, min(high, last) - max(low, first)) / (high - low) if high > low else 0.0


def taken_of(pet: SeriesInfo, ct: SeriesInfo, named: bool) -> str:
    """Both series that were taken, as the row of a failure names them."""
    return f"PET {describe(pet, _note(pet), named)}, CT {describe(ct, _note(ct), named)}"


def _entry(identity: str, also: tuple[str, ...], pets: list[SeriesInfo], cts: list[SeriesInfo], named: bool) -> Entry:
    pet = pick_pet(pets)
    ct = pick_ct(cts, pet)
    picks = _describe_pick("PET", pet, pets, named, _note)
    picks += _describe_pick(
        "CT",
        ct,
        cts,
        named,
        lambda s: s.flaw or ", ".join(filter(None, (s.kind, f"covers {100 * _cover(s, pet):.0f} % of the PET"))),
    )
    files = (*pet.files, *ct.files)
    return Entry(
        warnings=warnings_of(pet, ct, pets, cts),
        taken=taken_of(pet, ct, named),
        identity=identity,
        source=common_folder(files),
        kind="dicom",
        pet=pet.files,
        ct=ct.files,
        picks=tuple(picks),
        person=pet.person,
        study_uid=pet.study,
        also=also,
    )


def _note(series: SeriesInfo) -> str:
    """What a series is, if it is not an original axial one that is corrected for attenuation."""
    uncorrected = series.modality == "PT" and not series.corrected
    return series.flaw or ", ".join(filter(None, (series.kind, "not attenuation-corrected" if uncorrected else "")))


def _describe_pick(
    what: str, taken: SeriesInfo, those: list[SeriesInfo], named: bool, note: Callable[[SeriesInfo], str]
) -> list[str]:
    """What was picked, and what was not; nothing where there was nothing to pick from."""
    if len(those) < 2:
        return []
    others = sorted((s for s in join(those) if s.files != taken.files), key=lambda s: (s.number, s.uid))
    left = ", not " + ", ".join(describe(s, note(s), named) for s in others) if others else ""
    together = ", joined" if taken.parts else ""
    return [f"{what}: took {describe(taken, note(taken), named)}{together}{left}"]


def _incomplete(identity: str, members: list[SeriesInfo], stage: str, root: Path) -> Unusable:
    files = [path for s in members for path in s.files]
    folder = common_folder(files)
    what = "a CT but no PET" if stage == NO_PET else "a PET but no CT"
    return Unusable(
        identity=identity,
        source=folder,
        stage=stage,
        message=f"the study in '{folder}' has {what}; put the missing series below '{root}', or leave this one out",
    )


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder that holds all of them."""
    return Path(os.path.commonpath([path.parent for path in files]))
