"""What is still to be sent: a thread sends the results of one study after the other, and tries again what failed."""

import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Condition, Event, Thread

import pydicom
from pydicom.dataset import Dataset

from model.dicom.derived import uid_from
from model.dicom.elements import UNREADABLE, text
from model.errors import CaseError
from model.hospital.folder import STUDIES
from model.hospital.names import digest_in
from model.hospital.pacs.ledger import (
    COMMITTED,
    FIRST_WAIT_S,
    MOST_COMMITMENT_REQUESTS,
    NOT_TAKEN,
    SENT,
    WAITING,
    Ledger,
    SentObject,
    read_ledgers,
    write_ledger,
)
from model.hospital.pacs.sender import NotSent, Sender
from model.hospital.pacs.settings import Listening
from model.hospital.pacs.tls import client_context
from model.hospital.stored_results import DICOM_FILES
from model.terminal import duration, say

COMMITMENT_ANSWER_S = 5.0  # how long the connection stays open for an answer on it
LONGEST_SLEEP_S, STOP_S = 60.0, 4.0  # docker stop kills after 10 s


class Outbox:
    """Sends while it is open. Any thread may call it; what waits is kept over restarts."""

    def __init__(self, output: Path, settings: Listening) -> None:
        """Take up what an earlier run left. Raises ConfigError for the TLS files, OutputError for a damaged ledger."""
        self._output, self._peer = output, settings.send
        tls = client_context(settings.tls) if settings.tls else None
        self._sender = Sender(settings, tls, self.on_commitment)
        self._ledgers = {
            digest: ledger.with_state([one.uid for one in ledger.objects if one.state == NOT_TAKEN], WAITING)
            for digest, ledger in read_ledgers(output).items()
        }  # what the PACS did not take is offered once more by each run
        self._changed, self._answered, self._stopping = Condition(), Event(), False
        self._reasons: dict[str, str] = {}
        self._thread = Thread(target=self._run, name="outbox", daemon=True)

    def __enter__(self) -> "Outbox":
        """Begin to send: what waits, and what was made anew since, as an edited mask's results."""
        for ledger in list(self._ledgers.values()):
            with suppress(OSError):
                self.add(ledger.study)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Give the object that is being sent a while to end, and send no other."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()
        self._answered.set()
        self._thread.join(STOP_S)
        self._sender.break_off()
        self._thread.join(STOP_S)

    @property
    def waiting_count(self) -> int:
        """How many studies have results that are not sent yet."""
        with self._changed:
            return sum(bool(ledger.unsent) for ledger in self._ledgers.values())

    def add(self, study: str) -> None:
        """Have the DICOM files in a study's folder of results sent, except what was sent already. Raises OSError."""
        found = objects_in(self._folder_of(study))
        self._update(study, lambda ledger: ledger.with_results(study, found))

    def on_commitment(self, report: Dataset) -> None:
        """The PACS says which objects it commits to, and which not: those are sent again."""
        transaction = text(report, "TransactionUID")
        kept, failed = (
            [text(item, "ReferencedSOPInstanceUID") for item in report.get(name) or ()]
            for name in ("ReferencedSOPSequence", "FailedSOPSequence")
        )
        with self._changed:
            ledger = next((one for one in self._ledgers.values() if one.transaction == transaction), None)
        if not transaction or ledger is None:
            return
        lost = [one.uid for one in ledger.objects if one.uid in failed and one.state == SENT]
        sure = [one.uid for one in ledger.objects if one.uid in kept and one.state == SENT]
        self._update(ledger.study, lambda now: now.with_state(sure, COMMITTED).with_state(lost, WAITING))
        words = f"{len(sure)} of {len(sure) + len(lost)} objects are committed by {self._peer}"
        say(f"{ledger.study}: {words}" + ("; the others are sent again" if lost else ""), sys.stdout)
        self._answered.set()

    def _run(self) -> None:
        while (ledger := self._next()) is not None:
            try:
                if ledger.unsent:
                    self._send(ledger)
                else:
                    self._request_commitment(ledger)
            except NotSent as reason:
                self._put_off(ledger, str(reason))
            except OSError as error:
                self._put_off(ledger, f"the ledger or the results cannot be used: {error.strerror}")
            except Exception as error:  # the thread must go on, whatever a library raises
                self._put_off(ledger, f"unexpected {type(error).__name__}")

    def _next(self) -> Ledger | None:
        """Wait for the next study of which something is to be done; None when this ends."""
        with self._changed:
            while not self._stopping:
                ledger = min(self._ledgers.values(), key=lambda one: one.due(), default=None)
                wait_s = ledger.due() - time.time() if ledger else LONGEST_SLEEP_S
                if ledger and wait_s <= 0:
                    return ledger
                self._changed.wait(min(wait_s, LONGEST_SLEEP_S))
            return None

    def _send(self, ledger: Ledger) -> None:
        """Send what is not sent of a study. Raises NotSent, OSError."""
        folder = self._folder_of(ledger.study)
        there = {one.uid for one in objects_in(folder)}
        gone = [one for one in ledger.unsent if one.uid not in there]
        if gone:  # made anew meanwhile; `add` will come for the new ones
            keep = tuple(one for one in ledger.objects if one not in gone)
            self._update(ledger.study, lambda now: dataclasses.replace(now, objects=keep))
        objects = [(one, folder / one.file) for one in ledger.unsent if one not in gone]
        if not objects:
            return

        def note(one: SentObject, state: str) -> None:
            self._update(ledger.study, lambda now: now.with_state([one.uid], state))
            ended.setdefault(state, []).append(one.file)
            if self._stopping and state in (SENT, NOT_TAKEN):
                raise NotSent("the program was stopped")

        ended: dict[str, list[str]] = {}
        try:
            self._sender.send(objects, note)
        finally:
            for state, words in ((SENT, "sent to"), (NOT_TAKEN, "kept here, as this kind is not taken by")):
                if state in ended:
                    say(f"{ledger.study}: {', '.join(sorted(ended[state]))} {words} {self._peer}", sys.stdout)
        self._update(ledger.study, lambda now: dataclasses.replace(now, tries=0, tried=0.0))
        self._reasons.pop(ledger.study, None)

    def _folder_of(self, study: str) -> Path:
        """The folder of a study's results, also if it was renamed since, with or without --names."""
        folder = self._output / STUDIES / study
        renamed = [] if folder.is_dir() else sorted(folder.parent.glob(f"*-{digest_in(study)}"))
        return renamed[0] if renamed else folder

    def _request_commitment(self, ledger: Ledger) -> None:
        """Ask the PACS to commit to what it got of a study. Raises NotSent, OSError."""
        transaction = uid_from("commitment", ledger.study, ledger.requests, time.time())
        asked = self._update(
            ledger.study,
            lambda now: dataclasses.replace(now, transaction=transaction, asked=time.time(), requests=now.requests + 1),
        )
        self._answered.clear()

        def wait() -> None:
            self._answered.wait(COMMITMENT_ANSWER_S)

        if not self._sender.request_commitment(asked.uncommitted, transaction, wait):
            self._update(
                ledger.study, lambda now: dataclasses.replace(now, requests=MOST_COMMITMENT_REQUESTS, transaction="")
            )

    def _put_off(self, ledger: Ledger, reason: str) -> None:
        """Try again later, and say why, once for each reason."""
        if self._stopping:
            return
        try:
            ledger = self._update(
                ledger.study, lambda now: dataclasses.replace(now, tries=now.tries + 1, tried=time.time())
            )
        except OSError:  # of a full disk
            time.sleep(FIRST_WAIT_S)
        if ledger.unsent and self._reasons.get(ledger.study) != reason:
            wait_s = ledger.due() - time.time()
            say(
                f"{ledger.study}: not sent to {self._peer}: {reason}; tried again in {duration(wait_s)}, then less "
                "often, at least once an hour",
                sys.stdout,
            )
        self._reasons[ledger.study] = reason

    def _update(self, study: str, change: Callable[[Ledger], Ledger]) -> Ledger:
        """Change a study's ledger, on the disk first. Returns it. Raises OSError; then nothing is changed."""
        digest = digest_in(study)
        with self._changed:
            before = self._ledgers.get(digest)
            after = change(before or Ledger(study=study))
            if after != before and (before is not None or after.objects):
                write_ledger(self._output, after)
                self._ledgers[digest] = after
                self._changed.notify_all()
            return after


def objects_in(folder: Path) -> list[SentObject]:
    """The DICOM files of a study's results, by name; without those that are not there or cannot be read, and without
    what a reader saved beside them.
    """
    found = []
    for path in sorted(folder / name for name in DICOM_FILES):
        with suppress(OSError, CaseError, *UNREADABLE):
            header = pydicom.dcmread(path, stop_before_pixels=True, specific_tags=["SOPClassUID", "SOPInstanceUID"])
            found.append(
                SentObject(file=path.name, kind=text(header, "SOPClassUID"), uid=text(header, "SOPInstanceUID"))
            )
    return found
