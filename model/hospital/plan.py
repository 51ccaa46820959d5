"""What a run has to do: which studies are scored already, with these weights, settings and files, and which are not."""

import dataclasses
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from model.bundle.choice_options import PRECISIONS
from model.bundle.manifest import Bundle
from model.hospital.bundles import Bundles
from model.hospital.find.entry import NO_PET, Entry, FoundStudies, Unusable
from model.hospital.folder import REPORT, STUDIES
from model.hospital.job import Job, Options
from model.hospital.journal import DONE, Record, contents_of, stat_of
from model.hospital.names import (
    ANONYMOUS,
    digest_in,
    files_of,
    found_elsewhere,
    is_name,
    name_of,
    names_by_files,
    patients_by_digest,
)
from model.hospital.result_keys import with_keys
from model.hospital.stored_results import UNFINISHED, precision_in, read_report, usable_mask

OTHER_WEIGHTS = (
    "scored by an earlier run with other weights, folds or mirroring than the last run's (report.json says which)"
)
NO_DICOM_YET = "the run that scored it ended before its SEG was written; run over its folder of studies again"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """jobs: every study, by name. done: records of the studies that need not be scored. unusable: what cannot be
    scored, by name. earlier: records of studies that this run did not find, but which have a result or a failure here.
    """

    jobs: dict[str, Job]
    done: dict[str, Record]
    unusable: dict[str, Unusable]
    not_in_journal: tuple[Record, ...] = ()  # the part of done that has a result, but no line in the journal
    earlier: dict[str, Record] = field(default_factory=dict)

    @property
    def todo(self) -> list[Job]:
        return [job for name, job in self.jobs.items() if name not in self.done]

    @property
    def passed_over_count(self) -> int:
        """How many of the unusable are a CT without a PET: that is no study, and no failure."""
        return sum(item.stage == NO_PET for item in self.unusable.values())

    @property
    def unscorable_count(self) -> int:
        """How many of the unusable should have been scored."""
        return len(self.unusable) - self.passed_over_count


def make_plan(
    found: FoundStudies,
    root: Path,
    output: Path,
    salt: bytes,
    records: dict[str, Record],
    bundles: Bundles,
    options: Options,
    precision: str = "auto",
) -> Plan:
    """Name every study that was found, and decide which are done: by the journal, or by results that it lacks.

    precision: auto takes masks that are there in whatever precision; then jobs that need the networks have the keys of
    float32, and get those of the run's precision by `with_precision`.
    """
    folders, names, patients = folders_by_digest(output), names_by_files(output), patients_by_digest(output)
    jobs: dict[str, Job] = {}
    done: dict[str, Record] = {}
    not_in_journal = []
    for entry in map(bundles.seen, found.entries):
        known_as = names.get(files_of(entry), "") if entry.kind == "images" else ""  # DICOM has UIDs instead
        entry = _without_other_patients(entry, salt, patients)
        name, own_folders = _name_and_folders(entry, salt, options.named, folders, records, known_as)
        bundle, (entry, own) = bundles.of(entry), bundles.possible(entry, options)
        job = Job(name=name, entry=entry, root=root, output=output, options=own, key="")
        candidates = [with_keys(job, bundle, one) for one in _accepted(precision)]
        job, record = _done(candidates, records.get(name), precision)
        if record is not None:
            done[name] = record
            not_in_journal += [] if record is records.get(name) else [record]
        else:
            job = _with_stored_mask(candidates, own_folders, bundle, precision)
        jobs[name] = job
    unusable = {_name_and_folders(item, salt, options.named, folders, records)[0]: item for item in found.unusable}
    earlier = _earlier_records({*jobs, *unusable}, root, output, records, folders, bundles)
    return Plan(jobs=jobs, done=done, unusable=unusable, not_in_journal=tuple(not_in_journal), earlier=earlier)


def with_precision(plan: Plan, bundles: Bundles, precision: str) -> Plan:
    """The plan in which every job that needs the networks has the keys of this precision; auto changes nothing."""
    if precision == "auto":
        return plan
    new = {job.name for job in plan.todo if not job.stored}
    jobs = {
        name: with_keys(job, bundles.of(job.entry), precision) if name in new else job
        for name, job in plan.jobs.items()
    }
    return dataclasses.replace(plan, jobs=jobs)


def _accepted(precision: str) -> tuple[str, ...]:
    """The precisions whose keys a result may have. The keys of float32 are also those of older results on a GPU."""
    every = PRECISIONS[1:]
    return every if precision == "auto" else tuple(dict.fromkeys((precision, "float32")))


def _agrees(job: Job, folder: str, first: Job, precision: str) -> bool:
    """Whether the result in a folder, which has this job's keys, was computed in the precision that is wanted."""
    if precision == "auto" or (job is first and precision != "float32"):
        return True
    return precision_in(read_report(job.output, folder)) in (precision, "")


def _done(candidates: list[Job], record: Record | None, precision: str) -> tuple[Job, Record | None]:
    """The job and the record of a study that is done, by the journal's record or the study's report."""
    first, by_key = candidates[0], {job.key: job for job in candidates}
    if record is None or record.state != DONE or record.key not in by_key:
        record = read_result(first.output, first.name)
    job = by_key.get(record.key) if record is not None else None
    if record is not None and job is not None and is_done(job, record) and _agrees(job, job.name, first, precision):
        return job, record
    return first, None


def _with_stored_mask(candidates: list[Job], folders: list[str], bundle: Bundle, precision: str) -> Job:
    """The job that takes a mask which is there; the first of the candidates, which computes one, if there is none."""
    for job in candidates:
        for folder in folders:
            if usable_mask(job, folder, bundle) and _agrees(job, folder, candidates[0], precision):
                return dataclasses.replace(job, stored=folder)
    return candidates[0]


def folders_by_digest(output: Path) -> dict[str, list[str]]:
    """The names of the studies' folders in the results, by the hash in them."""
    found: dict[str, list[str]] = {}
    with suppress(OSError):
        for path in sorted((output / STUDIES).iterdir()):
            if is_name(path.name):
                found.setdefault(digest_in(path.name), []).append(path.name)
    return found


def _without_other_patients(entry: Entry, salt: bytes, patients: Mapping[str, str]) -> Entry:
    """The entry without identities that are another patient's in keys.csv: patients may share a StudyInstanceUID."""
    own = entry.person[1] if entry.kind == "dicom" and len(entry.person) > 1 else None
    identities = [
        identity
        for identity in (entry.identity, *entry.also)
        if own is None or patients.get(digest_in(name_of(entry, salt, identity=identity)), own) == own
    ]
    if not identities:
        return entry
    return dataclasses.replace(entry, identity=identities[0], also=tuple(identities[1:]))


def _name_and_folders(
    item: Entry | Unusable,
    salt: bytes,
    named: bool,
    folders: Mapping[str, list[str]],
    records: Mapping[str, Record],
    known_as: str = "",
) -> tuple[str, list[str]]:
    """A study's name, and the names of its folders in the results, its own name first.

    A study that has a result or a failure keeps the name it has there, even if another rule would name it differently
    now. known_as: what keys.csv calls the study of these files, or "".
    """
    identities = (item.identity, *getattr(item, "also", ()))
    names = [name_of(item, salt, named, identity) for identity in identities]
    names += [names[0].removesuffix(digest_in(names[0])) + digest_in(known_as)] if known_as else []
    digests = [digest_in(name) for name in names]
    recorded = {digest_in(name) for name in records}
    digest = next((d for d in digests if d in folders), next((d for d in digests if d in recorded), digests[0]))
    own_folders = folders.get(digest, [])
    name = names[digests.index(digest)]
    if named and name not in own_folders:  # an earlier version may have made a name with other letters
        name = next((old for old in own_folders if not old.startswith(ANONYMOUS) and old in records), name)
    return name, sorted(own_folders, key=lambda folder: folder != name)


def _earlier_records(
    found: set[str],
    root: Path,
    output: Path,
    records: Mapping[str, Record],
    folders: Mapping[str, list[str]],
    bundles: Bundles,
) -> dict[str, Record]:
    """Results and failures of earlier runs over other studies: the tables show the whole results folder.

    A failure is left out if its study was in `root` and is no longer there.
    """
    digests = {digest_in(name) for name in found}
    names = {name for own_folders in folders.values() for name in own_folders} | set(records)
    elsewhere = found_elsewhere(output, root)
    earlier = {}
    for name in sorted(name for name in names if is_name(name) and digest_in(name) not in digests):
        record = records.get(name)
        if record is not None and record.state != DONE:
            if name in elsewhere:
                earlier[name] = record
        elif name in folders.get(digest_in(name), []) and (result := earlier_result(output, name, bundles)):
            earlier[name] = result
    return earlier


def earlier_result(output: Path, name: str, bundles: Bundles) -> Record | None:
    """The record of a result of an earlier run, with a warning if this run would make it differently."""
    report, result = read_report(output, name), read_result(output, name)
    if report is None or result is None or not isinstance(result.row.get("warnings"), list):
        return None
    weights = report.get("weights")
    made_by = (weights.get("manifest_sha256"), weights.get("changes", [])) if isinstance(weights, dict) else None
    other = made_by not in [(bundle.sha256, list(bundle.changes)) for bundle in bundles.every]
    notes = [OTHER_WEIGHTS] * other + [NO_DICOM_YET] * result.key.startswith(UNFINISHED)
    return dataclasses.replace(result, row=result.row | {"warnings": [*result.row["warnings"], *notes]})


def read_result(output: Path, name: str) -> Record | None:
    """The record of a complete result, from its report: the run may have ended before it wrote the journal's line.

    None if there is no such result.
    """
    report = read_report(output, name)
    try:
        batch = report["batch"] if report else {}
        return Record(
            study=name,
            state=DONE,
            key=batch["key"],
            input_sha256=batch["input_sha256"],
            stat=batch["stat"],
            row=batch["row"],
        )
    except (KeyError, TypeError):
        return None


def is_done(job: Job, record: Record) -> bool:
    """Whether a record's result is there, made with the same weights and settings from the files as they are."""
    folder = job.output / STUDIES / record.study
    names = [REPORT, job.mask, *([job.organ_map] if job.options.organs else [])]
    names += [job.network_mask] if job.options.rules.plain or job.edit else []
    names += [job.edited_mask] if job.edit and job.edit.sha256 else []
    if record.key != job.key or not all((folder / name).is_file() for name in names):
        return False
    try:
        return stat_of(job.entry.files) == record.stat or contents_of(job.entry.files) == record.input_sha256
    except OSError:
        return False
