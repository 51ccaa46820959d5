"""Send DICOM objects to the PACS by C-STORE, ask it whether it has one, and ask it to commit to its storage."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from ssl import SSLContext
from typing import Any

import pydicom
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.association import Association
from pynetdicom.presentation import PresentationContext, build_context
from pynetdicom.sop_class import (  # type: ignore[attr-defined]
    StorageCommitmentPushModel,
    StorageCommitmentPushModelInstance,
    StudyRootQueryRetrieveInformationModelFind,
)

from model.hospital.pacs.connections import break_off, limit_stalls
from model.hospital.pacs.ledger import BEGUN, NOT_TAKEN, SENT, SentObject
from model.hospital.pacs.settings import Listening

CONNECT_S, ANSWER_S = 10.0, 120.0  # how long the PACS may take to let us in, and to answer
REQUEST_COMMITMENT = 1  # the only action of the Storage Commitment Push Model (DICOM PS3.4, J.3.2)


class NotSent(Exception):
    """The PACS could not be reached, or refused an object. The message says why, without anything of its text."""


class Sender:
    """Knows where results go. on_commitment: called if the PACS answers a request for commitment at once."""

    def __init__(self, settings: Listening, tls: SSLContext | None, on_commitment: Callable[[Dataset], None]) -> None:
        self._peer, self._tls, self._on_commitment = settings.send, tls, on_commitment
        self._entity = ApplicationEntity(settings.aet)
        self._entity.connection_timeout = self._entity.acse_timeout = CONNECT_S
        self._entity.dimse_timeout = self._entity.network_timeout = ANSWER_S
        self._open: Association | None = None

    def break_off(self) -> None:
        """Wait no longer for the PACS: what is being sent stays in doubt."""
        if self._open is not None:
            break_off(self._open)

    def send(self, objects: Sequence[tuple[SentObject, Path]], note: Callable[[SentObject, str], None]) -> None:
        """Send objects from their files, one after the other. note: called before and after each with its new state.

        An object whose kind the PACS does not take is noted as such. Raises NotSent at the first that is refused.
        """
        kinds = sorted({one.kind for one, _ in objects})
        contexts = [build_context(kind, [ExplicitVRLittleEndian, ImplicitVRLittleEndian]) for kind in kinds]
        if any(one.state == BEGUN for one, _ in objects):
            contexts.append(build_context(StudyRootQueryRetrieveInformationModelFind))
        with self._connected(contexts) as association:
            taken = {context.abstract_syntax for context in association.accepted_contexts}
            if not taken & set(kinds):
                raise NotSent("it takes none of the kinds of results")
            for one, path in objects:
                if one.kind not in taken:
                    note(one, NOT_TAKEN)
                    continue
                data = pydicom.dcmread(path)
                if data.get("SOPInstanceUID") != one.uid:
                    continue  # the study was scored anew meanwhile
                if one.state == BEGUN and _is_there(association, data, taken):
                    note(one, SENT)
                    continue
                note(one, BEGUN)
                _store(association, data, one.file)
                note(one, SENT)

    def request_commitment(self, objects: Sequence[SentObject], transaction: str, wait: Callable[[], None]) -> bool:
        """Ask the PACS to commit to the storage of objects. Returns whether it offers that and took the request.

        wait: called before the connection is closed, as some answer on it. Raises NotSent if it cannot be reached.
        """
        request = Dataset()
        request.TransactionUID = transaction
        request.ReferencedSOPSequence = Items([_reference(one) for one in objects])
        handlers: list[Any] = [(evt.EVT_N_EVENT_REPORT, self._on_report)]
        with self._connected([build_context(StorageCommitmentPushModel)], handlers) as association:
            if not association.accepted_contexts:
                return False
            status, _ = association.send_n_action(
                request, REQUEST_COMMITMENT, StorageCommitmentPushModel, StorageCommitmentPushModelInstance
            )
            taken = bool(status.get("Status") == 0)
            if taken:
                wait()
            return taken

    def _on_open(self, event: evt.Event) -> None:
        limit_stalls(event)
        self._open = event.assoc

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self._on_commitment(event.event_information)
        return 0, None

    @contextmanager
    def _connected(
        self, contexts: list[PresentationContext], handlers: list[Any] | None = None
    ) -> Iterator[Association]:
        """An association with the PACS. Raises NotSent if there is none. One without common kinds is yielded, too."""
        tls = (self._tls, self._peer.host) if self._tls else None
        association = self._entity.associate(
            self._peer.host,
            self._peer.port,
            contexts,
            ae_title=self._peer.aet,
            tls_args=tls,
            evt_handlers=[(evt.EVT_CONN_OPEN, self._on_open), *(handlers or [])],
        )
        try:
            if association.is_rejected:
                raise NotSent(f"it does not let in AE title '{self._entity.ae_title}'; enter it there")
            if not association.is_established and not association.rejected_contexts:
                raise NotSent("there is no connection" + (", or its certificate is not accepted" if tls else ""))
            yield association
        finally:
            if association.is_established:
                association.release()


def _store(association: Association, data: Dataset, name: str) -> None:
    """C-STORE. Raises NotSent. A warning (B...) means that the PACS has it."""
    try:
        status = association.send_c_store(data).get("Status")
    except (RuntimeError, ValueError, AttributeError, OSError) as error:
        raise NotSent(f"{name} could not be sent ({type(error).__name__})") from None
    if status is None:
        raise NotSent(f"the connection broke while {name} was sent")
    if status != 0 and status >> 12 != 0xB:
        raise NotSent(f"it refused {name} with status 0x{status:04X}")


def _is_there(association: Association, data: Dataset, taken: set[Any]) -> bool:
    """Whether the PACS says that it has an object; False if it cannot be asked."""
    if StudyRootQueryRetrieveInformationModelFind not in taken:
        return False
    query = Dataset()
    query.QueryRetrieveLevel = "IMAGE"
    for keyword in ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID"):
        setattr(query, keyword, data.get(keyword))
    answers = list(association.send_c_find(query, StudyRootQueryRetrieveInformationModelFind))
    return any(
        answer is not None and answer.get("SOPInstanceUID") == query.SOPInstanceUID for status, answer in answers
    )


def _reference(one: SentObject) -> Dataset:
    item = Dataset()
    item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.kind, one.uid
    return item
