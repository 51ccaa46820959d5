"""The server: it answers C-ECHO, takes PET and CT by C-STORE, and the archive's word on storage commitment.

Nothing else is offered, and only callers that are named are let in. Nothing that a header says is printed.
"""

import io
import sys
from collections.abc import Callable
from threading import Timer
from typing import Any, cast

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import UID, CTImageStorage, ExplicitVRLittleEndian, PositronEmissionTomographyImageStorage
from pynetdicom import _config, evt
from pynetdicom.ae import ApplicationEntity
from pynetdicom.sop_class import StorageCommitmentPushModel, Verification  # type: ignore[attr-defined]
from pynetdicom.transport import ThreadedAssociationServer

from model.dicom.elements import UNREADABLE, text
from model.dicom.pixels import TRANSFER_SYNTAXES
from model.errors import CaseError, ConfigError
from model.hospital.pacs.connections import Refusals, break_off, limit_stalls
from model.hospital.pacs.inbox import Inbox, NoSpace
from model.hospital.pacs.received import Received
from model.hospital.pacs.settings import Listening
from model.hospital.pacs.tls import server_context
from model.terminal import say

SUCCESS, OUT_OF_RESOURCES, OTHER_CLASS, NOT_UNDERSTOOD = 0x0000, 0xA700, 0xA900, 0xC000  # DICOM PS3.4, B.2.3
KINDS = {PositronEmissionTomographyImageStorage: "PET", CTImageStorage: "CT"}
UIDS = ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID")
LEAST_IDLE_S = 600.0  # an association on which nothing happens is ended after this, or twice --quiet-seconds
GREETING_S = 10.0  # who connects and does not say who they are is sent away
STOP_S = 2.0
MOST_ASSOCIATIONS = 100  # at once; those who have not said who they are count, too

_config.LOG_HANDLER_LEVEL = "none"  # pynetdicom's log would hold what headers say


class Receiver:
    """Listens while it is open. on_commitment: called with the archive's report on storage commitment."""

    def __init__(self, settings: Listening, inbox: Inbox, on_commitment: Callable[[Dataset], None]) -> None:
        """Check the TLS files. Raises ConfigError."""
        self._settings, self._inbox, self._on_commitment = settings, inbox, on_commitment
        self._refusals = Refusals()
        self._tls = server_context(settings.tls, self._refusals.say) if settings.tls else None
        self._entity = ApplicationEntity(settings.aet)
        self._entity.require_called_aet = True
        self._entity.require_calling_aet = sorted({*settings.callers, settings.send.aet})
        self._entity.maximum_associations = MOST_ASSOCIATIONS
        self._entity.acse_timeout = GREETING_S
        self._entity.network_timeout = max(LEAST_IDLE_S, 2 * settings.quiet_s)
        self._entity.add_supported_context(Verification)
        for kind in KINDS:
            self._entity.add_supported_context(kind, list(TRANSFER_SYNTAXES))
        self._entity.add_supported_context(StorageCommitmentPushModel, scu_role=True, scp_role=True)
        self._full = False

    def __enter__(self) -> "Receiver":
        """Begin to listen. Raises ConfigError if the port or the address cannot be had."""
        where = self._settings.bind, self._settings.port
        handlers: list[Any] = [
            (evt.EVT_C_ECHO, lambda event: SUCCESS),
            (evt.EVT_C_STORE, self._on_store),
            (evt.EVT_N_EVENT_REPORT, self._on_report),
            (evt.EVT_RELEASED, lambda event: self._inbox.ended(event.assoc, True)),
            (evt.EVT_ABORTED, lambda event: self._inbox.ended(event.assoc, False)),
            (evt.EVT_CONN_CLOSE, lambda event: self._inbox.ended(event.assoc, None)),
            (evt.EVT_CONN_OPEN, limit_stalls),
            (evt.EVT_ACCEPTED, self._on_accepted),
            (evt.EVT_REJECTED, self._on_rejected),
        ]
        try:
            server = self._entity.start_server(where, block=False, ssl_context=self._tls, evt_handlers=handlers)
        except OSError as error:
            raise ConfigError(
                f"cannot listen on port {self._settings.port} of {self._settings.bind}: {error.strerror}; give another "
                "--listen or --bind, or end the program that has the port"
            ) from None
        self._server = cast(ThreadedAssociationServer, server)
        return self

    def __exit__(self, *error: object) -> None:
        """Let nobody in any more, and break off what is open: who was sending will send again."""
        late = Timer(STOP_S, self._break_off_all)  # as one that is stuck would hold up the end
        late.start()
        for association in self._entity.active_associations:
            if association.is_established:
                association.abort()
        self._break_off_all()
        self._server.shutdown()
        late.cancel()

    def _break_off_all(self) -> None:
        for association in self._entity.active_associations:
            break_off(association)

    def _on_store(self, event: evt.Event) -> int:
        """Keep an image. Returns the status of C-STORE."""
        try:
            content = event.encoded_dataset()
            header = pydicom.dcmread(io.BytesIO(content), stop_before_pixels=True, specific_tags=[*UIDS, "PatientID"])
            uids = {name: text(header, name) for name in UIDS}
            patient = text(header, "PatientID")
        except (CaseError, OSError, *UNREADABLE):
            return NOT_UNDERSTOOD
        asked = (getattr(event.request, f"AffectedSOP{what}UID", None) for what in ("Class", "Instance"))
        if not all(uids.values()) or [uids["SOPClassUID"], uids["SOPInstanceUID"]] != list(asked):
            return OTHER_CLASS
        image = Received(
            patient=patient,
            study=uids["StudyInstanceUID"],
            series=uids["SeriesInstanceUID"],
            instance=uids["SOPInstanceUID"],
            content=content,
        )
        try:
            self._inbox.store(event.assoc, image)
        except NoSpace as error:
            if not self._full:
                say(f"images are refused: {error}; free some space, then have them sent again", sys.stdout)
            self._full = True
            return OUT_OF_RESOURCES
        if self._full:
            say("images are taken again", sys.stdout)
        self._full = False
        return SUCCESS

    def _on_report(self, event: evt.Event) -> tuple[int, None]:
        self._on_commitment(event.event_information)
        return SUCCESS, None

    def _on_accepted(self, event: evt.Event) -> None:
        """Say what of the wishes of who was let in cannot be fulfilled, as its own log may not say why."""
        caller = str(event.assoc.requestor.ae_title).strip()
        asked: dict[str, set[str]] = {}
        for context in event.assoc.requestor.requested_contexts:
            asked.setdefault(str(context.abstract_syntax), set()).update(map(str, context.transfer_syntax))
        taken = {str(context.abstract_syntax) for context in event.assoc.accepted_contexts}
        for kind, name in KINDS.items():
            if kind in asked and kind not in taken:
                self._refusals.say(
                    f"refused {name} images from AE title '{caller}': it offers them only in "
                    f"{', '.join(sorted(map(_name_of, asked[kind])))}, which is not read here; have them sent "
                    f"uncompressed ({_name_of(ExplicitVRLittleEndian)})"
                )
        if not taken and not asked.keys() & KINDS.keys():
            offered = ", ".join(sorted(map(_name_of, asked)))
            self._refusals.say(
                f"refused all that AE title '{caller}' offers ({offered}): only PET and CT images are taken, one slice "
                "an object"
            )

    def _on_rejected(self, event: evt.Event) -> None:
        asked = event.assoc.requestor.primitive
        calling, called = (str(getattr(asked, f"{what}_ae_title", "")).strip() for what in ("calling", "called"))
        callers = self._entity.require_calling_aet
        if calling in callers and called == self._settings.aet:
            why = f"there are more than {MOST_ASSOCIATIONS} at once"
        else:
            why = f"let in are {', '.join(callers)}, to '{self._settings.aet}' (--from, --aet)"
        self._refusals.say(f"refused a connection from AE title '{calling}' to '{called}': {why}")


def _name_of(uid: str) -> str:
    """A UID of the standard in words, and as it is."""
    name = UID(uid).name
    return uid if name == uid else f"{name} ({uid})"
