"""The parent's side of a scoring process: it is started when needed, and again when it dies."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import CaseError, ConfigError, LesionError, WeightsError
from model.hospital.job import ESTIMATE, Job, PairJob, Setup, to_json

ROOT = Path(__file__).resolve().parent.parent.parent
POLL_S = 0.2  # how often the parent checks the time limit while it waits
ERRORS = {kind.exit_code: kind for kind in (ConfigError, CaseError, WeightsError)}


class Died(Exception):
    """The scoring process ended before it answered. The message says why."""


class TookTooLong(Died):
    """The scoring process was ended because it took too long. A second try would take as long again."""


class WorkerProcess:
    """One scoring process. Only one thread may call `ask` at a time. inherited: a file descriptor it keeps open.
    module: what it runs, which answers as `model.hospital.worker` does.

    on_estimate: called with a study's name, the seconds its networks will take, and a line about it, if they take a
    minute or more.
    """

    def __init__(
        self,
        setup: Setup,
        inherited: int | None = None,
        on_estimate: Callable[[str, float, str], None] = lambda study, seconds, words: None,
        module: str = "model.hospital.worker",
    ) -> None:
        self._module = module
        self._setup, self._on_estimate = setup, on_estimate
        self._inherited = () if inherited is None else (inherited,)
        self._child: subprocess.Popen[str] | None = None
        self._replies: Any = None

    def __enter__(self) -> "WorkerProcess":
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the process and wait until its weights are loaded. Raises Died, or the error that it reports."""
        if self._child is not None:
            return
        reading, writing = os.pipe()
        quiet = None if self._setup.debug else subprocess.DEVNULL  # libraries may print names of files
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._child = subprocess.Popen(
            [sys.executable, "-m", self._module, str(writing)],
            stdin=subprocess.PIPE,
            stdout=quiet,
            stderr=quiet,
            text=True,
            pass_fds=(writing, *self._inherited),
            env=os.environ | {"PYTHONPATH": path},
        )
        os.close(writing)
        self._replies = os.fdopen(reading, "rb", 0)  # no buffer: `select` would not see lines that lie in it
        answer = self._exchange(to_json(self._setup), 0)
        if answer["state"] != "ready":
            self.close()
            raise ERRORS.get(answer["code"], LesionError)(answer["message"])

    def ask(self, job: Job | PairJob, following: Job | None) -> dict[str, Any]:
        """Have a study scored, and `following` read meanwhile. Returns the answer. Raises Died."""
        self.start()
        line = f"[{to_json(job)}, {to_json(following) if following else 'null'}]"
        return self._exchange(line, self._setup.limit_s, job.name)

    def close(self) -> None:
        """End the process at once."""
        if self._child is None:
            return
        self._child.kill()
        self._child.wait()
        for pipe in (self._child.stdin, self._replies):
            with suppress(OSError):
                pipe.close()  # type: ignore[union-attr]
        self._child = None

    def _exchange(self, line: str, limit_s: float, study: str = "") -> dict[str, Any]:
        """Send a line and wait for the answer, for `limit_s` at most; 0: without a limit. Raises Died."""
        assert self._child is not None and self._child.stdin is not None
        with suppress(OSError):  # a process that is gone is noticed below
            self._child.stdin.write(line + "\n")
            self._child.stdin.flush()
        begun = time.monotonic()
        while (answer := self._read(begun, limit_s))["state"] == ESTIMATE:
            self._on_estimate(study, answer["seconds"], answer["words"])
        return answer

    def _read(self, begun: float, limit_s: float) -> dict[str, Any]:
        """The next line that the process writes."""
        assert self._child is not None
        while not select.select([self._replies], [], [], POLL_S)[0]:
            if limit_s and time.monotonic() - begun > limit_s:
                self.close()
                raise TookTooLong(f"it took longer than {limit_s / 60:g} minutes (--limit-minutes) and was ended")
        reply = self._replies.readline()
        if reply.endswith(b"\n"):
            answer: dict[str, Any] = json.loads(reply)
            return answer
        code = self._child.wait()
        self.close()
        raise Died(_how_it_ended(code))


def _how_it_ended(code: int) -> str:
    if code >= 0:
        return f"the process that scored it ended with exit code {code}"
    name = signal.Signals(-code).name
    why = ", most often because memory ran out" if name == "SIGKILL" else ""
    return f"the process that scored it was ended by {name}{why}"
