"""TLS in both directions, with certificates by openssl."""

import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from pacs_peer import ARCHIVE, LESIONS, free_port
from pynetdicom import AE
from pynetdicom.sop_class import Verification

from model.errors import ConfigError
from model.hospital.pacs import tls as module
from model.hospital.pacs.inbox import Inbox
from model.hospital.pacs.receiver import Receiver
from model.hospital.pacs.sender import NotSent, Sender
from model.hospital.pacs.settings import Listening, Peer
from model.hospital.pacs.tls import client_context, server_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is not installed")
CURVE = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]


def authority(folder: Path, name: str) -> tuple[Path, Path, Path]:
    """A certificate authority that is its own certificate, for 127.0.0.1, and its key."""
    certificate, key = folder / f"{name}.pem", folder / f"{name}.key"
    words = ["openssl", "req", "-x509", *CURVE, "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    subprocess.run([*words, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, certificate, key


@pytest.fixture(scope="module")
def known(tmp_path_factory) -> tuple[Path, Path, Path]:
    return authority(tmp_path_factory.mktemp("known"), "known")


@pytest.fixture(scope="module")
def stranger(tmp_path_factory) -> tuple[Path, Path, Path]:
    return authority(tmp_path_factory.mktemp("stranger"), "stranger")


@pytest.fixture
def port(known, tmp_path, monkeypatch) -> int:
    """Of a receiver with TLS."""
    monkeypatch.setattr(module, "HANDSHAKE_S", 0.3)
    send = Peer(host="127.0.0.1", port=1, aet=ARCHIVE)
    settings = Listening(port=free_port(), aet=LESIONS, send=send, callers=(ARCHIVE,), tls=known)
    with Receiver(settings, Inbox(tmp_path, b"salt", 1, on_release=False), lambda report: None):
        yield settings.port


def echo(port: int, tls: tuple[Path, Path, Path] | None) -> bool:
    entity = AE(ARCHIVE)
    entity.acse_timeout = 3
    entity.add_requested_context(Verification)
    arguments = (client_context(tls), "127.0.0.1") if tls else None
    association = entity.associate("127.0.0.1", port, ae_title=LESIONS, tls_args=arguments)
    answered = association.is_established and association.send_c_echo().Status == 0
    if association.is_established:
        association.release()
    return answered


def test_only_a_certificate_of_the_authority_is_let_in(port, known, stranger, capsys) -> None:
    assert echo(port, known) and not echo(port, stranger) and not echo(port, None)
    assert "refused a connection from 127.0.0.1: no TLS by a certificate of the authority" in capsys.readouterr().out
    silent = socket.create_connection(("127.0.0.1", port))  # never begins its handshake
    assert echo(port, known), "who is silent does not keep others out"
    silent.close()


def test_results_go_only_to_a_certificate_of_the_authority(port, known, stranger) -> None:
    settings = Listening(port=1, aet=ARCHIVE, send=Peer(host="127.0.0.1", port=port, aet=LESIONS))
    assert not Sender(settings, client_context(known), lambda report: None).request_commitment([], "1.2", lambda: None)
    with pytest.raises(NotSent, match="its certificate is not accepted"):
        Sender(settings, client_context(stranger), lambda report: None).request_commitment([], "1.2", lambda: None)


def test_files_that_do_not_belong_together_are_named(known, stranger) -> None:
    with pytest.raises(ConfigError, match="known.pem.*stranger.key.* cannot be used"):
        server_context((known[0], known[1], stranger[2]), print)
