"""TLS for both directions: this program's certificate, and the authority that the other side's must come from."""

import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from model.errors import ConfigError

HANDSHAKE_S = 5.0  # a client that does not finish its handshake is dropped; the next one waits so long


class ServerContext(ssl.SSLContext):
    """A context whose handshakes with clients take limited time: pynetdicom waits for each before the next client.

    on_failure: called with a line about a handshake that failed.
    """

    on_failure: Callable[[str], None]

    def wrap_socket(self, sock: socket.socket, *args: Any, **options: Any) -> ssl.SSLSocket:
        client = ""
        try:
            with suppress(OSError):
                client = f" from {sock.getpeername()[0]}"
            sock.settimeout(HANDSHAKE_S)
            wrapped = super().wrap_socket(sock, *args, **options)
        except OSError as error:
            why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error) or "no answer"
            self.on_failure(
                f"refused a connection{client}: no TLS by a certificate of the authority of --tls-ca came of it ({why})"
            )
            raise
        wrapped.settimeout(None)
        return wrapped


def server_context(tls: tuple[Path, Path, Path], on_failure: Callable[[str], None]) -> ssl.SSLContext:
    """For those who connect: they must show a certificate of the authority. Raises ConfigError."""
    context = ServerContext(ssl.PROTOCOL_TLS_SERVER)
    context.on_failure = on_failure
    return _loaded(context, tls)


def client_context(tls: tuple[Path, Path, Path]) -> ssl.SSLContext:
    """For the PACS that results go to: its certificate must name its host. Raises ConfigError."""
    return _loaded(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), tls)


def _loaded(context: ssl.SSLContext, tls: tuple[Path, Path, Path]) -> ssl.SSLContext:
    authority, certificate, key = tls
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_verify_locations(authority)
        context.load_cert_chain(certificate, key, password=lambda: b"")  # never asks at the terminal
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        why = error.reason if isinstance(error, ssl.SSLError) and error.reason else str(error)
        raise ConfigError(
            f"the TLS files '{authority}', '{certificate}' and '{key}' cannot be used ({why}); give PEM files of an "
            "authority, a certificate and its key without a password"
        ) from None
    return context
