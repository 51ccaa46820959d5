"""The studies among what was received: found as in a folder, without those that images still come for."""

from argparse import Namespace
from dataclasses import replace
from pathlib import Path

from model.hospital.find.dicom_series import cover, pick_ct, pick_pet
from model.hospital.find.entry import Entry, FoundStudies, Unusable
from model.hospital.find.scan import scan
from model.hospital.find.tree import find_studies, without_truth
from model.hospital.overrides import with_overrides
from model.hospital.pacs.inbox import Batch, CompleteStudy

LEAST_COVER = 0.99  # of the PET's length: with less of it on the CT, a sending that was broken off left images out


def found_in(batch: Batch, options: Namespace, salt: bytes, pet_alone: bool = False) -> FoundStudies:
    """The complete studies of a patient; of those whose sending was broken off, only what is whole for sure.

    pet_alone: whether a PET without CT is a study, too.
    """
    found = without_truth(find_studies(batch.root, options.output, options.names, pet_alone=pet_alone))
    broken = [study.folder for study in batch.ready if study.broken]
    entries = [entry for entry in found.entries if not _any_below(entry.files, batch.unready)]
    unusable = [item for item in found.unusable if not _any_below((item.source,), batch.unready)]
    missing = [entry for entry in entries if _any_below(entry.files, broken) and not _is_whole(entry)]
    unusable += [_broken_off(entry) for entry in missing]
    found = replace(found, entries=tuple(e for e in entries if e not in missing), unusable=tuple(unusable))
    if options.overrides:
        found = with_overrides(found, options.overrides, batch.root, salt, options.names, some=True)
    return found


def still_without_ct(found: FoundStudies, batch: Batch) -> list[CompleteStudy]:
    """The studies of PET alone of which only the association ended: their CT may come over another one."""
    alone = [entry for entry in found.entries if entry.pet_alone]
    early = [study for study in batch.ready if not study.quiet]
    return [study for study in early if any(_any_below(entry.files, [study.folder]) for entry in alone)]


def _is_whole(entry: Entry) -> bool:
    """Whether the CT reaches over the whole PET. That no slice of the PET is missing is checked when it is read. Of PET
    alone nobody knows: the CT may be what was not sent.
    """
    if entry.pet_alone:
        return False
    pet = pick_pet([series for series in scan(entry.pet)[0] if series.modality == "PT"])
    ct = pick_ct([series for series in scan(entry.ct)[0] if series.modality == "CT"], pet)
    return cover(ct, pet) >= LEAST_COVER


def _broken_off(entry: Entry) -> Unusable:
    return Unusable(
        identity=entry.identity,
        source=entry.source,
        message=f"the sending of the study in '{entry.source}' was broken off, and images are missing; send it again "
        "from the PACS",
    )


def _any_below(paths: tuple[Path, ...], folders: list[Path] | tuple[Path, ...]) -> bool:
    return any(path.is_relative_to(folder) for path in paths for folder in folders)
