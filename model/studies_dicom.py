"""Which PET and which CT of many DICOM series make a study, told by what they hold, not by the names of folders.

Series belong together by StudyInstanceUID and PatientID (de-identification may give many patients one UID); a PET
whose study has no CT takes one of its FrameOfReferenceUID.
PET: of those that could be one (no projection, no single slice, no multi-frame object) a series corrected for
attenuation before one that is not; of these the longest along the body; then the most slices; then the lowest series
number. CT: of those that could be one (no scout besides) a series of the PET's frame of reference before another; of
these the one that covers most of the PET; then the lowest series number. A series that could not be one is taken only
where there is no other, so that reading it says what is wrong. PET without CT, and CT without PET, cannot be scored.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

from model.dicom_scan import SeriesInfo, scan
from model.studies import FIND, NO_PET, Entry, Found, Unusable

COVER_STEPS = 50  # coverage counts in steps of 2 %: less does not tell one CT from another


def identity_of(uid: str) -> str:
    """What names a study of DICOM: its StudyInstanceUID."""
    return f"dicom:{uid}"


def identity_with_patient(uid: str, patient: str) -> str:
    """The same where several patients share the UID."""
    return f"dicom:{uid}:{patient}"


def find_dicom(files: Iterable[Path], root: Path, named: bool = False) -> Found:
    """The studies among DICOM files. named: picks may hold the series' descriptions, which can name a patient."""
    series, damaged = scan(files)
    useful = [s for s in series if s.modality in ("PT", "CT")]
    studies: dict[tuple[str, str], list[SeriesInfo]] = {}
    for one in useful:
        studies.setdefault(one.belongs, []).append(one)
    patients = Counter(uid for uid, _ in studies)

    def identity(uid: str, patient: str) -> str:
        return identity_of(uid) if patients[uid] == 1 else identity_with_patient(uid, patient)

    loose = {key for key, members in studies.items() if not any(s.modality == "PT" for s in members)}
    entries, unusable, taken = [], [], set[tuple[str, str]]()
    for key, members in studies.items():
        if key in loose:
            continue
        pets = [s for s in members if s.modality == "PT"]
        cts = [s for s in members if s.modality == "CT"]
        if not cts:  # of a study of its own, in the same frame of reference
            frames = {pet.frame for pet in pets} - {""}
            cts = [s for other in loose for s in studies[other] if s.frame in frames]
            taken |= {s.belongs for s in cts}
        if cts:
            whole = identity_with_patient(*key)
            also = (whole,) if identity(*key) != whole else ()
            entries.append(_entry(identity(*key), also, pets, cts, named))
        else:
            unusable.append(_lone(identity(*key), pets, FIND, root))
    unusable += [_lone(identity(*key), studies[key], NO_PET, root) for key in sorted(loose - taken)]
    for path, why in damaged.items():
        unusable.append(Unusable(identity=f"file:{path.relative_to(root).as_posix()}", source=path, message=why))
    ignored = sum(len(s.files) for s in series) - sum(len(s.files) for s in useful)
    return Found(entries=tuple(entries), unusable=tuple(unusable), ignored=ignored)


def pick_pet(pets: list[SeriesInfo]) -> SeriesInfo:
    """The PET series by the rule above."""
    return min(pets, key=lambda s: (bool(s.flaw), not s.corrected, -round(s.length_mm), -len(s.files), s.number, s.uid))


def pick_ct(cts: list[SeriesInfo], pet: SeriesInfo) -> SeriesInfo:
    """The CT series by the rule above."""
    return min(cts, key=lambda s: (bool(s.flaw), s.frame != pet.frame, -round(COVER_STEPS * _cover(s, pet)), s.number,
                                   s.uid))  # fmt: skip


def _cover(ct: SeriesInfo, pet: SeriesInfo) -> float:
    """Share of the PET's length that a CT covers."""
    low, high = pet.span_mm(pet.normal)
    first, last = ct.span_mm(pet.normal)
    return max(0.0, min(high, last) - max(low, first)) / (high - low) if high > low else 0.0


def _entry(identity: str, also: tuple[str, ...], pets: list[SeriesInfo], cts: list[SeriesInfo], named: bool) -> Entry:
    pet = pick_pet(pets)
    ct = pick_ct(cts, pet)
    picks = _said("PET", pet, pets, named, lambda s: s.flaw or ("" if s.corrected else "not attenuation-corrected"))
    picks += _said("CT", ct, cts, named, lambda s: s.flaw or f"covers {100 * _cover(s, pet):.0f} % of the PET")
    files = (*pet.files, *ct.files)
    return Entry(
        identity=identity, source=common_folder(files), kind="dicom", pet=pet.files, ct=ct.files,
        picks=tuple(picks), person=pet.person, study_uid=pet.study, also=also,
    )  # fmt: skip


def _said(
    what: str, taken: SeriesInfo, those: list[SeriesInfo], named: bool, note: Callable[[SeriesInfo], str]
) -> list[str]:
    """What was picked, and what was not; nothing where there was nothing to pick from."""
    if len(those) < 2:
        return []

    def shown(series: SeriesInfo) -> str:
        about = filter(None, (f"{len(series.files)} slices", f"{series.length_mm:.0f} mm", note(series)))
        name = f" '{series.description}'" if named and series.description else ""
        return f"series {series.number}{name} ({', '.join(about)})"

    others = sorted((s for s in those if s is not taken), key=lambda s: (s.number, s.uid))
    return [f"{what}: took {shown(taken)}, not " + ", ".join(map(shown, others))]


def _lone(identity: str, members: list[SeriesInfo], stage: str, root: Path) -> Unusable:
    files = [path for s in members for path in s.files]
    folder = common_folder(files)
    what = "a CT but no PET" if stage == NO_PET else "a PET but no CT"
    return Unusable(
        identity=identity, source=folder, stage=stage,
        message=f"the study in '{folder}' has {what}; put the missing series below '{root}', or leave this one out",
    )  # fmt: skip


def common_folder(files: Iterable[Path]) -> Path:
    """The deepest folder that holds all of them."""
    return Path(os.path.commonpath([path.parent for path in files]))
