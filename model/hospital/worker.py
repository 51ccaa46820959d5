"""The process that scores studies, one by one, for the one that hands them out: `python -m model.hospital.worker FD`.

One line of JSON a job on standard input, one line of answer on the file descriptor FD. The weights are loaded once.
While the networks work on a study, the next one is read and resampled. It ends with its standard input: results are
never written for a run that is gone. A process of its own, so that a study which takes all memory, or a crash, ends
this one alone.
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
from pathlib import Path
from queue import SimpleQueue
from threading import Thread
from typing import TYPE_CHECKING, Any

from model.bundle.manifest import load_bundle
from model.bundle.settings import override_limits
from model.errors import CaseError, LesionError, shown, split_remedy
from model.hospital.job import Job, Setup, job_from, setup_from
from model.hospital.journal import contents_of, stat_of
from model.hospital.names import cleared

if TYPE_CHECKING:  # torch comes in when who hands out studies is listened for: see main
    from model.hospital.score_study import Loaded
    from model.networks.weights import Voter

FIRST_TO_GO = "1000"  # oom_score_adj: when memory runs out, the kernel is to end this process and not its parent
NO_MEMORY = "the study does not fit into memory; use a machine with more, or a bundle with a smaller window"


class Scorer:
    """A loaded bundle, and the study that is being read ahead."""

    def __init__(self, setup: Setup) -> None:
        """Load the weights, unless no study needs them. Raises WeightsError or ConfigError."""
        from model.hospital import score_study
        from model.inference.device import choose_device, give_back_freed_memory, make_deterministic
        from model.networks.weights import load_now, voters

        self._load, self._score, self._clean = score_study.load, score_study.score_study, give_back_freed_memory
        bundle = load_bundle(Path(setup.weights), setup.method)
        limits = override_limits(bundle.manifest.limits, list(setup.limits))
        self._bundle = replace(bundle, manifest=replace(bundle.manifest, limits=limits))
        make_deterministic()
        self._device = choose_device(setup.device)
        self._keep: Callable[[], list[Voter]] = lambda: load_now(voters(self._bundle), self._device.torch_device)
        self._networks: list[Voter] | None = self._keep() if setup.networks else None
        self._debug = setup.debug
        self._reader = ThreadPoolExecutor(max_workers=1)
        self._ahead: tuple[Job, Future[Loaded]] | None = None

    def answer(self, job: Job, following: Job | None) -> dict[str, Any]:
        """Score a study, reading `following` meanwhile. Whatever goes wrong is part of the answer."""
        stage = "read"

        def at(name: str) -> None:
            nonlocal stage
            stage = name

        try:
            loaded = self._take(job)
            if following is not None:
                self._ahead = (following, self._reader.submit(self._load, following, self._bundle))
            row = self._score(job, loaded, self._bundle, self._device, self._voters, at)
            return {"state": "done", "row": row} | loaded.identity
        except Exception as error:
            if self._debug:
                traceback.print_exc()
            return {"state": "failed", "stage": stage} | _reason(error, job) | _identity(job)
        finally:
            self._clean()

    def _voters(self) -> "list[Voter]":
        """The loaded networks. Raises WeightsError."""
        if self._networks is None:
            self._networks = self._keep()
        return self._networks

    def _take(self, job: Job) -> "Loaded":
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] == job:
            with suppress(Exception):  # perhaps for want of memory beside the study before: tried again alone
                return ahead[1].result()
        return self._load(job, self._bundle)


def _reason(error: Exception, job: Job) -> dict[str, str]:
    if isinstance(error, MemoryError):
        said = NO_MEMORY
    elif isinstance(error, LesionError):
        said = str(error)
    elif isinstance(error, OSError):
        why = error.strerror or error
        said = f"'{error.filename}': {why}; is the disk there, has it space, and may this user use it?"
    else:
        said = f"unexpected {type(error).__name__}: {error}; run again with --debug and report what it prints"
    said = " ".join(said.split())
    said = said if job.options.named else cleared(said, job.entry, job.root, job.name)
    message, remedy = split_remedy(shown(said))
    return {"message": message, "remedy": remedy}


def _identity(job: Job) -> dict[str, str]:
    """What a failed study's files were, where they can be read."""
    try:
        return {"stat": stat_of(job.entry.files), "input_sha256": contents_of(job.entry.files)}
    except OSError:
        return {}


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is the parent's to answer
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_GO)
    replies = os.fdopen(int(sys.argv[1]), "w", encoding="utf-8")
    lines: SimpleQueue[str] = SimpleQueue()
    Thread(target=_listen, args=(lines,), daemon=True).start()

    def reply(said: dict[str, Any]) -> None:
        replies.write(json.dumps(said) + "\n")
        replies.flush()

    try:
        scorer = Scorer(setup_from(json.loads(lines.get())))
    except (LesionError, MemoryError) as error:
        code = getattr(error, "exit_code", CaseError.exit_code)
        reply({"state": "unready", "message": str(error) or NO_MEMORY, "code": code})
        return 1
    reply({"state": "ready"})
    while True:
        job, following = json.loads(lines.get())
        reply(scorer.answer(job_from(job), job_from(following) if following else None))


def _listen(lines: "SimpleQueue[str]") -> None:
    for line in sys.stdin:
        lines.put(line)
    os._exit(0)  # who hands out studies is done, or gone


if __name__ == "__main__":
    sys.exit(main())
