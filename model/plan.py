"""What is to do in a batch: which studies are scored already, with these weights, settings and files, and which not."""

import dataclasses
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

from model import __version__
from model.config import Limits
from model.job import Job, Options
from model.journal import DONE, Record, contents_of, stat_of
from model.manifest import Bundle
from model.naming import name_of
from model.results import REPORT, STUDIES
from model.studies import NO_PET, Entry, Found, Unusable


@dataclass(frozen=True, kw_only=True)
class Plan:
    """jobs: every study, by name. done: records of those that need not be scored. unusable: by name."""

    jobs: dict[str, Job]
    done: dict[str, Record]
    unusable: dict[str, Unusable]
    unrecorded: tuple[Record, ...] = ()  # of those done: results that the journal does not know of

    @property
    def todo(self) -> list[Job]:
        return [job for name, job in self.jobs.items() if name not in self.done]

    @property
    def passed_over(self) -> int:
        """How many of the unusable are a CT without a PET: no study to score."""
        return sum(item.stage == NO_PET for item in self.unusable.values())

    @property
    def wanting(self) -> int:
        """How many of the unusable should have been scored."""
        return len(self.unusable) - self.passed_over


def key_of(bundle: Bundle, limits: Limits, options: Options, entry: Entry) -> str:
    """A hash of all that a study's results depend on besides its files."""
    depends = [
        __version__, bundle.sha256, bundle.manifest.method, dataclasses.asdict(limits), dataclasses.asdict(options),
        entry.kind, len(entry.pet), entry.truth is not None, entry.weight_kg,
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


def make_plan(
    found: Found, root: Path, output: Path, salt: bytes, records: dict[str, Record], bundle: Bundle, options: Options
) -> Plan:
    """Names for all that was found, and what of it is done: by the journal, or by a result that it does not know of."""
    jobs: dict[str, Job] = {}
    done: dict[str, Record] = {}
    new = []
    for entry in found.entries:
        name = name_of(entry, salt, options.named)
        key = key_of(bundle, bundle.manifest.limits, options, entry)
        jobs[name] = Job(name=name, entry=entry, root=root, output=output, key=key, options=options)
        record = records.get(name)
        known = record is not None and record.state == DONE and record.key == key
        record = record if known else read_result(output, name)
        if record is not None and is_done(jobs[name], record):
            done[name] = record
            new += [] if known else [record]
    unusable = {name_of(item, salt, options.named): item for item in found.unusable}
    return Plan(jobs=jobs, done=done, unusable=unusable, unrecorded=tuple(new))


def read_result(output: Path, name: str) -> Record | None:
    """The record of a result that is complete, from its own report: the run may have ended before it was journalled."""
    try:
        said = json.loads((output / STUDIES / name / REPORT).read_text(encoding="utf-8"))["batch"]
        return Record(
            study=name, state=DONE, key=said["key"], input_sha256=said["input_sha256"], stat=said["stat"],
            row=said["row"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError):
        return None


def is_done(job: Job, record: Record) -> bool:
    """Whether the result of a record is there, made by the same weights and settings of what the files hold now."""
    folder = job.output / STUDIES / record.study
    if record.key != job.key or not all((folder / name).is_file() for name in (REPORT, job.mask)):
        return False
    try:
        return stat_of(job.entry.files) == record.stat or contents_of(job.entry.files) == record.input_sha256
    except OSError:
        return False
