"""The scoring process, `python -m model.hospital.worker FD`: it scores the studies that its parent sends, one by one.

Each job is a line of JSON on standard input, each answer a line on the file descriptor FD; before it comes a line that
says how long the study will take, if it is long. The weights are loaded once.
While the networks work on a study, the next one is read and resampled. The process ends when its standard input ends,
so it never writes results for a run that is gone. It is a process of its own, so that a study which takes all memory,
or a crash, ends this process alone.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from model.bundle.choice import chosen_members
from model.bundle.manifest import Bundle, load_bundle, with_limits
from model.errors import CaseError, LesionError, shown, split_remedy
from model.hospital.bundles import Bundles
from model.hospital.job import ESTIMATE, Job, Setup, job_from, setup_from
from model.hospital.journal import contents_of, stat_of
from model.hospital.names import redacted
from model.hospital.result_keys import with_keys

if TYPE_CHECKING:  # torch is imported only after main listens to standard input
    from model.hospital.score_study import Loaded
    from model.inference.pace import TimeEstimate
    from model.networks.weights import Voter

OOM_SCORE_ADJ = "1000"  # when memory runs out, the kernel ends this process before its parent
GONE = "in the results is gone or damaged; score the study again, by the same command without options about edits"
NO_MEMORY = "the study does not fit into memory; use a machine with more, or a bundle with a smaller window"


class Scorer:
    """The loaded bundles, and the next study, which is read in the background."""

    def __init__(self, setup: Setup) -> None:
        """Load the weights, unless no study needs them. Raises WeightsError or ConfigError."""
        from model.hospital import score_study
        from model.inference.device import choose_device, give_back_freed_memory, make_deterministic
        from model.networks.weights import load_now, voters
        from model.results.run_summary import precision_of

        self._load, self._score, self._clean = score_study.load, score_study.score_study, give_back_freed_memory
        whole = with_limits(load_bundle(Path(setup.weights), setup.method), setup.limits)
        other = with_limits(load_bundle(Path(setup.pet_only)), setup.limits) if setup.pet_only else None
        self._bundles = Bundles(main=chosen_members(whole, setup.folds, setup.mirroring), pet_only=other)
        make_deterministic()
        self._device = choose_device(setup.device, setup.precision)
        self._precision = precision_of(self._device)
        self._keep: Callable[[Bundle], list[Voter]] = lambda one: load_now(voters(one), self._device.torch_device)
        self._networks: dict[str, list[Voter]] = {}  # by the bundle's hash
        if setup.networks:
            self._voters_of(self._bundles.main)
        self._debug, self._stored_only = setup.debug, setup.stored_only
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._prefetched: tuple[Job, Future[Loaded]] | None = None

    def answer(
        self, job: Job, following: Job | None, on_estimate: "Callable[[TimeEstimate], None]" = lambda estimate: None
    ) -> dict[str, Any]:
        """Score a study, and read `following` meanwhile. An error becomes an answer too: a failure with its reason.

        on_estimate: called if the networks will take a minute or more.
        """
        stage = "read"

        def on_stage(name: str) -> None:
            nonlocal stage
            stage = name

        bundle = self._bundles.of(job.entry)
        try:
            loaded = self._take(job)
            if following is not None:
                read_ahead = self._reader.submit(self._load, following, self._bundles.of(following.entry))
                self._prefetched = (following, read_ahead)
            if loaded.stored is None and self._stored_only:
                raise CaseError(f"the mask of '{job.entry.source}' {GONE}")
            if job.stored and loaded.stored is None:  # its mask cannot be used after all, and is made by this device
                job = with_keys(replace(job, stored=""), bundle, self._precision)
            networks = partial(self._voters_of, bundle)
            row = self._score(job, loaded, bundle, self._device, networks, on_stage, on_estimate)
            return {"state": "done", "row": row, "key": job.key} | loaded.identity
        except Exception as error:
            if self._debug:
                traceback.print_exc()
            return {"state": "failed", "stage": stage} | _reason(error, job) | _file_hashes(job)
        finally:
            self._clean()

    def _voters_of(self, bundle: Bundle) -> "list[Voter]":
        """A bundle's loaded networks. Raises WeightsError."""
        if bundle.sha256 not in self._networks:
            self._networks[bundle.sha256] = self._keep(bundle)
        return self._networks[bundle.sha256]

    def _take(self, job: Job) -> "Loaded":
        prefetched, self._prefetched = self._prefetched, None
        if prefetched is not None and prefetched[0] == job:
            with suppress(Exception):  # memory may have been short beside the study before: it is read again alone
                return prefetched[1].result()
        return self._load(job, self._bundles.of(job.entry))


def _reason(error: Exception, job: Job) -> dict[str, str]:
    """What went wrong and what to do, without names unless they are wanted."""
    whole = words_of(error)
    whole = whole if job.options.named else redacted(whole, job.entry, job.root, job.name, job.edit_path)
    message, remedy = split_remedy(shown(whole))
    return {"message": message, "remedy": remedy}


def words_of(error: Exception) -> str:
    """An error in one line, with the remedy behind its last semicolon."""
    if isinstance(error, MemoryError):
        whole = NO_MEMORY
    elif isinstance(error, LesionError):
        whole = str(error)
    elif isinstance(error, OSError):
        why = error.strerror or error
        whole = f"'{error.filename}': {why}; check that the disk is there, has space, and may be used by this user"
    else:
        whole = f"unexpected {type(error).__name__}: {error}; run again with --debug and report what it prints"
    return " ".join(whole.split())


def _file_hashes(job: Job) -> dict[str, str]:
    """The hashes of a failed study's files; none where they cannot be read."""
    try:
        return {"stat": stat_of(job.entry.files), "input_sha256": contents_of(job.entry.files)}
    except OSError:
        return {}


def listen() -> "tuple[SimpleQueue[str], Callable[[dict[str, Any]], None]]":
    """The parent's lines, and what answers it. This process ends when its parent does, and first if memory runs out."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent answers a Ctrl-C
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(OOM_SCORE_ADJ)
    replies = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=_read_lines, args=(lines,), daemon=True).start()

    def reply(answer: dict[str, Any]) -> None:
        replies.write(json.dumps(answer) + "\n")
        replies.flush()

    return lines, reply


def main() -> int:
    lines, reply = listen()
    try:
        scorer = Scorer(setup_from(json.loads(lines.get())))
    except (LesionError, MemoryError) as error:
        code = getattr(error, "exit_code", CaseError.exit_code)
        reply({"state": "unready", "message": str(error) or NO_MEMORY, "code": code})
        return 1
    reply({"state": "ready"})

    def on_estimate(estimate: "TimeEstimate") -> None:
        reply({"state": ESTIMATE, "seconds": estimate.seconds, "words": estimate.words()})

    while True:
        job, following = json.loads(lines.get())
        reply(scorer.answer(job_from(job), job_from(following) if following else None, on_estimate))


def _read_lines(lines: "SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # the parent is done, or gone


if __name__ == "__main__":
    sys.exit(main())
