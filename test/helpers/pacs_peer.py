"""The other side of score.py --listen, by pynetdicom: an archive that counts what it gets, and a sender."""

import socket
import threading
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE, StoragePresentationContexts, build_role, evt
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import StorageCommitmentPushModel, StudyRootQueryRetrieveInformationModelFind

ARCHIVE, LESIONS = "ARCHIVE", "LESIONS"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


class Archive:
    """Keeps what it gets. statuses: answers to the first objects, in place of success. break_at: it drops the
    connection after it kept its n-th object. commits: whether it offers storage commitment, and answers at once or (to
    `report_to`, a port) by a connection of its own; unkept: UIDs that it says it did not keep.
    """

    def __init__(
        self,
        statuses: Iterable[int] = (),
        break_at: int = 0,
        commits: bool = False,
        report_to: int = 0,
        finds: bool = True,
        kinds: Iterable[str] | None = None,
    ) -> None:
        self.port, self.got, self.asked = free_port(), Counter[str](), 0
        self.objects: dict[str, Dataset] = {}
        self.unkept: set[str] = set()
        self._statuses, self._break_at, self._report_to = list(statuses), break_at, report_to
        self._entity = AE(ARCHIVE)
        for context in StoragePresentationContexts:
            if kinds is None or context.abstract_syntax in kinds:
                self._entity.add_supported_context(context.abstract_syntax, [ExplicitVRLittleEndian])
        if finds:
            self._entity.add_supported_context(StudyRootQueryRetrieveInformationModelFind)
        if commits:
            self._entity.add_supported_context(StorageCommitmentPushModel)

    def __enter__(self) -> "Archive":
        handlers: list[Any] = [
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_C_FIND, self._find),
            (evt.EVT_N_ACTION, self._commit),
        ]
        self._server = self._entity.start_server(("127.0.0.1", self.port), block=False, evt_handlers=handlers)
        return self

    def __exit__(self, *error: object) -> None:
        self._entity.shutdown()

    def _store(self, event: evt.Event) -> int:
        if self._statuses and (status := self._statuses.pop(0)):
            return status
        data = event.dataset
        self.got[str(data.SOPInstanceUID)] += 1
        self.objects[str(data.SOPInstanceUID)] = data
        if self._break_at and sum(self.got.values()) == self._break_at:
            event.assoc.abort()
        return 0

    def _find(self, event: evt.Event) -> Any:
        self.asked += 1
        if str(event.identifier.SOPInstanceUID) in self.objects:
            yield 0xFF00, event.identifier

    def _commit(self, event: evt.Event) -> tuple[int, None]:
        request = event.action_information
        report = Dataset()
        report.TransactionUID = request.TransactionUID
        lost = [item for item in request.ReferencedSOPSequence if item.ReferencedSOPInstanceUID in self.unkept]
        report.ReferencedSOPSequence = [item for item in request.ReferencedSOPSequence if item not in lost]
        if lost:
            report.FailedSOPSequence = lost
        threading.Thread(target=self._report, args=(report, 2 if lost else 1), daemon=True).start()
        return 0, None

    def _report(self, report: Dataset, kind: int) -> None:
        entity = AE(ARCHIVE)
        context = build_context(StorageCommitmentPushModel)
        role = build_role(StorageCommitmentPushModel, scp_role=True)
        association = entity.associate("127.0.0.1", self._report_to, [context], ae_title=LESIONS, ext_neg=[role])
        if association.is_established:
            association.send_n_event_report(report, kind, StorageCommitmentPushModel, COMMITMENT_INSTANCE)
            association.release()


def connect(port: int, calling: str = ARCHIVE, called: str = LESIONS, kinds: Iterable[str] = ()) -> Any:
    """An association with the program that listens, for PET and CT or `kinds`."""
    entity = AE(calling)
    for kind in kinds or ("1.2.840.10008.5.1.4.1.1.128", "1.2.840.10008.5.1.4.1.1.2"):
        entity.add_requested_context(kind, [ExplicitVRLittleEndian])
    return entity.associate("127.0.0.1", port, ae_title=called)


def push(files: Iterable[Path], port: int) -> list[int]:
    """Send files over one association. Returns the status of each."""
    association = connect(port)
    assert association.is_established
    statuses = [association.send_c_store(pydicom.dcmread(path)).get("Status", -1) for path in files]
    with suppress(RuntimeError):
        association.release()
    return statuses
