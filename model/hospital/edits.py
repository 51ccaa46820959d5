"""What a reader changed by hand: edits that the results have, those to take back now, and lesions dropped by number.

An edited study keeps its edit in every later run, whatever the weights are. `mask.mha` is then the edited mask by the
rules, `edited-mask.mha` the edit on the PET's grid, before rules, and `network-mask.mha` the networks' own.
"""

import dataclasses
import json
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import CaseError, ConfigError
from model.files import sha256_of
from model.hospital.bundles import Bundles
from model.hospital.edit_options import ALL, WantedEdits
from model.hospital.edit_state import drop_in, edit_of
from model.hospital.find.drawn import drawn_files, foreign_masks, matched, only_one
from model.hospital.folder import REPORT, STUDIES
from model.hospital.job import Edit, Job
from model.hospital.journal import DONE, Record
from model.hospital.names import digest_in, is_name
from model.hospital.overrides import studies_meant
from model.hospital.plan import Plan, earlier_result, folders_by_digest, is_done, read_result
from model.hospital.result_keys import edited_key_of
from model.hospital.stored_results import mask_hash, read_report
from model.results.lesion_rules import found_numbers
from model.study.masks import read_drawn
from model.terminal import say


def with_edits(plan: Plan, wanted: WantedEdits, records: Mapping[str, Record], root: Path, salt: bytes) -> Plan:
    """The plan in which edited studies keep their edits, and what is wanted of edits is to do.

    Raises ConfigError for a file or a word that means no study, or several, and for two edits of one study.
    """
    results = _results_of(plan)
    undone = _undone(plan, wanted, results, root, salt)
    files = _files_to_take(plan, wanted, results, root, undone)
    dropped = _numbers_to_drop(plan, wanted, results, files, root, salt)
    jobs, done = dict(plan.jobs), dict(plan.done)
    for name, folder in results.items():
        report = read_report(plan.jobs[name].output, folder)
        edit = files.get(name) or (None if name in undone else edit_of(report))
        before = () if name in undone or name in files else drop_in(report)
        drop = tuple(sorted({*before, *dropped.get(name, ())}))
        if edit is None and not drop:
            continue
        job = _edited(plan.jobs[name], edit or Edit(), drop, folder, report)
        record = records.get(name)
        if record is None or record.state != DONE or record.key != job.key:
            record = read_result(job.output, name)
        jobs[name] = job
        done.pop(name, None)
        if record is not None and is_done(job, record):
            done[name] = record
    added = tuple(r for r in done.values() if r is not records.get(r.study) and r not in plan.not_in_journal)
    missing = tuple(r for r in plan.not_in_journal if done.get(r.study) is r)
    return dataclasses.replace(plan, jobs=jobs, done=done, not_in_journal=(*missing, *added))


def edits_without_images(plan: Plan, output: Path) -> list[str]:
    """The folders of results with an edit that cannot be taken back, as the plan has no images of their studies."""
    found = set(_results_of(plan).values())
    folders = [path for path in sorted((output / STUDIES).glob("[!.]*")) if path.is_dir() and path.name not in found]
    lost = []
    for folder in folders:
        taken = edit_of(read_report(output, folder.name))
        with suppress(OSError):
            if any(taken is None or sha256_of(path) != taken.sha256 for path in foreign_masks(folder)):
                lost.append(folder.name)
    return lost


def without_networks(plan: Plan, records: Mapping[str, Record], bundles: Bundles) -> Plan:
    """The plan without the studies that need the networks. Their results and failures stay in the tables."""
    names = [job.name for job in plan.todo if not job.stored]
    if names:
        say(f"studies that need the networks, and stay as they are: {len(names)}", sys.stdout)
    folders = folders_by_digest(plan.jobs[names[0]].output) if names else {}
    earlier = dict(plan.earlier) | {name: records[name] for name in names if name in records}
    for name in names:
        if name in earlier and earlier[name].state == DONE:
            del earlier[name]  # as its report says, below
        for folder in folders.get(digest_in(name), []):
            if result := earlier_result(plan.jobs[name].output, folder, bundles):
                earlier[folder] = result
    return dataclasses.replace(
        plan, jobs={name: job for name, job in plan.jobs.items() if name not in names}, earlier=earlier
    )


def _edited(job: Job, edit: Edit, drop: tuple[int, ...], folder: str, report: Mapping[str, Any] | None) -> Job:
    """The job of an edited study, from its result in the results' folder `folder`."""
    batch = report["batch"] if report else {}
    organs = job.options.organs and "organs_sha256" in batch  # only the networks could add them
    options = dataclasses.replace(job.options, organs=organs, rules=dataclasses.replace(job.options.rules, drop=drop))
    new = dataclasses.replace(
        job, edit=edit, stored=folder, options=options, mask_key=batch.get("mask_key") or job.mask_key
    )
    return dataclasses.replace(new, key=edited_key_of(new))


def _results_of(plan: Plan) -> dict[str, str]:
    """For each study that has a result, the name of its folder in the results, which --names may change."""
    if not plan.jobs:
        return {}
    output = next(iter(plan.jobs.values())).output
    folders, found = folders_by_digest(output), {}
    for name in plan.jobs:
        own = folders.get(digest_in(name), [])
        for folder in [name] * (name in own) + own:
            if name not in found and read_report(output, folder) is not None:
                found[name] = folder
    return found


def _files_to_take(
    plan: Plan, wanted: WantedEdits, results: Mapping[str, str], root: Path, undone: set[str]
) -> dict[str, Edit]:
    """The edited file of each study that has one, by the study's name."""
    found: dict[str, list[Path]] = {}
    option = f"--masks '{wanted.masks}'" if wanted.masks else "--recompute"
    if wanted.masks is not None:
        found = _files_in(wanted.masks, plan, results, root)
    elif wanted.recompute:
        for name, folder in results.items():
            place = plan.jobs[name].output / STUDIES / folder
            changed = _changed_in_place(place, read_report(plan.jobs[name].output, folder))
            files = [*foreign_masks(place, name_others=True), *changed]
            if files and name not in undone:
                found[name] = files
    edits = {}
    for name, files in found.items():
        path = only_one(files, option, name)
        try:
            edits[name] = Edit(sha256=sha256_of(path), path=path)
        except OSError as error:
            raise ConfigError(f"{option}: '{path}' cannot be read: {error.strerror}; check access to it") from None
    old = {name: edit_of(read_report(plan.jobs[name].output, results[name])) for name in edits}
    return {name: edit for name, edit in edits.items() if old[name] != Edit(sha256=edit.sha256)}


def _files_in(masks: Path, plan: Plan, results: Mapping[str, str], root: Path) -> dict[str, list[Path]]:
    """The files of --masks, by the study's name. Raises ConfigError for one of no study, or of one not scored."""
    if not masks.is_dir():
        raise ConfigError(f"--masks '{masks}' is not a folder; give the one that holds the edited masks")
    names = list(plan.jobs)
    entries = [plan.jobs[name].entry for name in names]
    base = root if root.is_dir() else root.parent
    files = drawn_files(masks, "--masks")
    of_study, unmatched = matched(files, masks, entries, base, [digest_in(name) for name in names])
    if unmatched:
        why = " by the series, the study and the PatientID in it" if files[unmatched[0]] else ""
        raise ConfigError(
            f"--masks: '{unmatched[0]}'{_and_more(unmatched)} is of none of the {len(names)} studies{why}; name it "
            "after the study's name in the results, or after its folder below STUDIES, or take it out of the folder"
        )
    found = {names[number]: own for number, own in of_study.items()}
    if missing := [name for name in found if name not in results]:
        raise ConfigError(
            f"--masks: '{found[missing[0]][0]}' is of study '{missing[0]}', which has no result yet; score it first, "
            "by the same command without --masks"
        )
    return found


def _changed_in_place(folder: Path, report: Mapping[str, Any] | None) -> list[Path]:
    """The study's mask, if another program wrote over it: it is newer than the report, and not what that says."""
    batch = report["batch"] if report else {}
    path = folder / f"mask{batch.get('options', {}).get('mask_ending', '')}"
    try:
        if "mask_sha256" not in batch or path.stat().st_mtime <= (folder / REPORT).stat().st_mtime:
            return []
        return [path] if mask_hash(read_drawn(path, "mask").mask) != batch["mask_sha256"] else []
    except (OSError, CaseError):
        return []


def _numbers_to_drop(
    plan: Plan,
    wanted: WantedEdits,
    results: Mapping[str, str],
    files: Mapping[str, Edit],
    root: Path,
    salt: bytes,
) -> dict[str, tuple[int, ...]]:
    """The found numbers of the lesions to drop now, by the study's name."""
    dropped = {}
    for study, numbers in wanted.drop:
        if not study and len(plan.jobs) != 1:
            raise ConfigError(
                f"--drop {' '.join(map(str, numbers))}: of which of the {len(plan.jobs)} studies? Add --study NAME, or "
                "write --drop NAME:3,7"
            )
        name = _study_meant(study, "--drop", plan, root, salt) if study else next(iter(plan.jobs))
        if name in files:
            raise ConfigError(
                f"--drop: study '{name}' has an edit to take back, which numbers its lesions anew; take it back first, "
                "look at the new numbers, and drop lesions then"
            )
        if name not in results:
            raise ConfigError(f"--drop: study '{name}' has no result yet; score it first")
        report = read_report(plan.jobs[name].output, results[name])
        before = drop_in(report)
        try:
            path = plan.jobs[name].output / STUDIES / results[name] / "lesions.json"
            table = json.loads(path.read_text(encoding="utf-8"))
            dropped[name] = found_numbers([number for number in numbers if number not in before], table)
        except ConfigError as error:
            raise ConfigError(f"--drop: study '{name}': {error}") from None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(f"--drop: cannot read '{path}' ({type(error).__name__}); score the study again") from None
    return dropped


def _undone(plan: Plan, wanted: WantedEdits, results: Mapping[str, str], root: Path, salt: bytes) -> set[str]:
    """The studies whose edits are to be undone, by name."""
    names = {_study_meant(word, "--undo-edits", plan, root, salt) for word in wanted.undo if word != ALL}
    edited = {name for name in results if edit_of(read_report(plan.jobs[name].output, results[name]))}
    names |= edited if ALL in wanted.undo else set()
    for name in sorted(names):
        if name not in edited:
            raise ConfigError(f"--undo-edits: study '{name}' is not edited; leave it out")
        if not plan.jobs[name].stored:
            raise ConfigError(
                f"--undo-edits: study '{name}' was scored with other weights or settings, or its images changed; give "
                "the weights of that run with --weights"
            )
    return names


def _study_meant(word: str, option: str, plan: Plan, root: Path, salt: bytes) -> str:
    """The study that a word means: its name, its StudyInstanceUID, or a path that holds it alone."""
    names = list(plan.jobs)
    named = [name for name in names if is_name(word) and digest_in(word) == digest_in(name)]
    base = root if root.is_dir() else root.parent
    meant = named or [names[n] for n in studies_meant(word, [plan.jobs[name].entry for name in names], base, salt)]
    if len(meant) != 1:
        raise ConfigError(
            f"{option}: '{word}' {f'could be {len(meant)} of' if meant else 'is not among'} the {len(names)} studies; "
            "give its name in the results (summary.csv), its StudyInstanceUID, or a path that holds it alone"
        )
    return meant[0]


def _and_more(paths: Sequence[Path]) -> str:
    return f" (and {len(paths) - 1} more)" if len(paths) > 1 else ""
