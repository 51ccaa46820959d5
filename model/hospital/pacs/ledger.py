"""The ledger of what was sent: RESULTS/sent/<hash>.json for each study, written whole after every step.

Before an object is sent, the ledger says that it is about to be ("begun"), and afterwards that it was ("sent"). An
object that a killed run left as begun is in doubt: the PACS is asked whether it has it, before it is sent again.
"""

import dataclasses
import json
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from model.errors import OutputError
from model.hospital.names import digest_in
from model.whole import remove_left_behind, whole_file

SENT_FOLDER = "sent"
WAITING, BEGUN, SENT, COMMITTED, NOT_TAKEN = "waiting", "begun", "sent", "committed", "not taken"
UNSENT = (WAITING, BEGUN)
FIRST_WAIT_S, LONGEST_WAIT_S = 10.0, 3600.0  # between tries to send: each wait is twice the one before
COMMITMENT_WAIT_S, MOST_COMMITMENT_REQUESTS = 600.0, 3


@dataclass(frozen=True, kw_only=True)
class SentObject:
    """A DICOM object of a study's results: its file, its UIDs, and its state, one of the above."""

    file: str
    kind: str  # SOPClassUID
    uid: str  # SOPInstanceUID
    state: str = WAITING


@dataclass(frozen=True, kw_only=True)
class Ledger:
    """What was sent of a study's results. study: its folder's name. tries: that failed since the last success; tried:
    when, in seconds since 1970. transaction: UID of the last request for storage commitment, asked: when; requests:
    how many there were for the objects that are there.
    """

    study: str
    objects: tuple[SentObject, ...] = ()
    tries: int = 0
    tried: float = 0.0
    transaction: str = ""
    asked: float = 0.0
    requests: int = 0

    @property
    def unsent(self) -> tuple[SentObject, ...]:
        return tuple(one for one in self.objects if one.state in UNSENT)

    @property
    def uncommitted(self) -> tuple[SentObject, ...]:
        return tuple(one for one in self.objects if one.state == SENT)

    def due(self) -> float:
        """When something is to be done, in seconds since 1970; infinite if nothing is."""
        if self.unsent:
            wait_s = min(FIRST_WAIT_S * 2 ** min(self.tries - 1, 20), LONGEST_WAIT_S) if self.tries else 0.0
            return min(self.tried, time.time()) + wait_s  # a clock that was put back does not delay it
        if self.uncommitted and self.requests < MOST_COMMITMENT_REQUESTS:
            return self.asked + COMMITMENT_WAIT_S if self.requests else 0.0
        return float("inf")

    def with_state(self, uids: Iterable[str], state: str) -> "Ledger":
        """The ledger in which these objects have another state."""
        those = set(uids)
        objects = (dataclasses.replace(one, state=state) if one.uid in those else one for one in self.objects)
        return dataclasses.replace(self, objects=tuple(objects))

    def with_results(self, study: str, found: Iterable[SentObject]) -> "Ledger":
        """The ledger with the objects that now lie in the study's folder. What was sent before stays sent; what waits
        and is no longer there is left out.
        """
        known = {one.uid: one for one in self.objects}
        now = {one.uid: known.get(one.uid, one) for one in found}
        before = [one for one in self.objects if one.uid not in now and one.state not in UNSENT]
        if set(now) <= set(known):
            return dataclasses.replace(self, study=study, objects=(*before, *now.values()))
        return Ledger(study=study, objects=(*before, *now.values()))


def read_ledgers(output: Path) -> dict[str, Ledger]:
    """The ledgers of a results folder, by the hash in the study's name; while nobody else writes them.

    Raises OutputError for one that is damaged: without it everything would be sent again.
    """
    ledgers = {}
    remove_left_behind(output / SENT_FOLDER, alone=True)  # of a run that was killed while it wrote
    for path in sorted((output / SENT_FOLDER).glob("*.json")):
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            objects = tuple(SentObject(**one) for one in content.pop("objects"))
            ledgers[path.stem] = Ledger(objects=objects, **content)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            raise OutputError(
                f"'{path}' cannot be read: it says what was sent to the PACS; bring it back, or remove it to have the "
                "study's results sent again"
            ) from None
    return ledgers


def write_ledger(output: Path, ledger: Ledger) -> None:
    """Write a ledger whole. Raises OSError."""
    path = output / SENT_FOLDER / f"{digest_in(ledger.study)}.json"
    with suppress(FileExistsError):
        path.parent.mkdir()
    with whole_file(path, private=True) as partial:
        partial.write_text(json.dumps(dataclasses.asdict(ledger)), encoding="utf-8")
