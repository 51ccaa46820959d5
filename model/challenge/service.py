"""Studies over HTTP, one at a time: GET /health, POST /invoke. Without torch and without inference."""

import socket
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from errno import EADDRINUSE
from functools import partial
from http.server import BaseHTTPRequestHandler
from queue import SimpleQueue
from socketserver import ThreadingTCPServer
from threading import Event, Lock, Thread
from typing import Any

from model.challenge.arguments import HOST
from model.errors import ConfigError, shown

ALLOWED = {"/health": ("GET", "HEAD"), "/invoke": ("POST",)}
RETRY_AFTER_S = 10
PATIENCE_S = 5  # how long a client may be silent while it sends its request or reads its answer
CHUNK_BYTES = 1 << 16  # of a request's body: it is read, so that the answer arrives, but not used
NOT_READY = "error: the service is loading its weights, or was stopped"


@dataclass(kw_only=True)
class Invocation:
    """One POST /invoke and the answer to it. done: the answer is known; sent: the client has it, or is gone."""

    status: int = 503
    message: str = "error: the service was stopped before the job was done"
    done: Event = field(default_factory=Event)
    sent: Event = field(default_factory=Event)


class Service:
    """Takes requests in threads of its own and hands each POST /invoke, a job, to the thread that calls `next`.

    That is the main thread: signals reach it alone, and torch would start a new pool of threads for any other. During
    a job GET /health is answered; a second POST gets 503 with Retry-After and is not queued, since the first job's
    result may still be in the output folder. Both paths are 503 until `ready` is set, and again after `stop`.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        """Listen on an IPv4 or IPv6 address; port 0: any free one. Raises ConfigError if that is not possible."""
        self.ready = False
        self._busy = Lock()
        self._jobs: SimpleQueue[Invocation | None] = SimpleQueue()
        self._job: Invocation | None = None
        shown = f"[{host}]" if ":" in host else host
        try:
            self._server = (_Server6 if ":" in host else _Server)((host, port), partial(_Handler, self))
        except OSError as error:
            remedy = "is another service running there? Stop it, or give another --port"
            if error.errno != EADDRINUSE:
                remedy = "give an address of this machine with --bind, and a --port that this user may open"
            raise ConfigError(f"cannot listen on {shown}:{port}: {error.strerror}; {remedy}") from None
        self.address = f"http://{shown}:{self._server.server_address[1]}"
        self._thread = Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *error: object) -> None:
        """Tell the client of an unfinished job that it will not be done, and stop listening."""
        self.ready = False
        if self._job is not None and not self._job.done.is_set():
            self.answer(self._job, self._job.status, self._job.message)
        self._server.shutdown()
        self._server.server_close()

    def next(self) -> Invocation | None:
        """Wait for the next job; None after `stop`."""
        return self._jobs.get()

    def answer(self, job: Invocation, status: int, message: str) -> None:
        """Answer a job's client, and wait until that is sent."""
        job.status, job.message = status, message
        job.done.set()
        job.sent.wait(PATIENCE_S)

    def stop(self, *signal: object) -> None:
        """Take no more jobs. A signal's handler may call this: SimpleQueue.put may interrupt SimpleQueue.get."""
        self.ready = False
        self._jobs.put(None)

    def invoke(self, send: Callable[[int, str], None]) -> None:
        """Handle a POST /invoke, in its request's thread: wait until the job is done, then send the answer."""
        if not self.ready or not self._busy.acquire(blocking=False):
            return send(503, "error: another job is running" if self.ready else NOT_READY)
        job = self._job = Invocation()
        self._jobs.put(job)
        job.done.wait()
        self._busy.release()  # before the answer: a client that has it may post the next job
        try:
            send(job.status, job.message)
        finally:
            job.sent.set()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True  # also a port that was in use a moment ago
    daemon_threads = True  # an idle client must not keep the process from ending

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # not if the client went away
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S

    def __init__(self, service: Service, *request: Any) -> None:
        self.service = service
        super().__init__(*request)

    def _respond(self) -> None:
        self._read_body()
        path = self.path.partition("?")[0]
        allowed = ALLOWED.get(path)
        if allowed is None:
            self._send(404, f"error: there is no '{path}'; there are {' and '.join(ALLOWED)}")
        elif self.command not in allowed:
            self._send(405, f"error: '{path}' takes {allowed[0]}, not {self.command}", Allow=", ".join(allowed))
        elif path == "/invoke":
            self.service.invoke(self._send)
        elif self.service.ready:
            self._send(200, "ready")
        else:
            self._send(503, NOT_READY)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _respond

    def _read_body(self) -> None:
        """Read a body of any length and drop it: a client that still sends would lose the connection, and the answer.

        A body that ends or falls silent too early is no error, since it is not used.
        """
        with suppress(OSError, ValueError):  # the client is gone or silent, or the length is no number
            if self.headers.get("Transfer-Encoding") is None:
                return self._read_bytes(int(self.headers.get("Content-Length", "0")))
            while size := int(self.rfile.readline(CHUNK_BYTES).partition(b";")[0], 16):  # RFC 9112, 7.1
                self._read_bytes(size + len(b"\r\n"))
            while self.rfile.readline(CHUNK_BYTES).strip():  # trailers
                pass

    def _read_bytes(self, left: int) -> None:
        while left > 0 and (chunk := self.rfile.read1(min(left, CHUNK_BYTES))):
            left -= len(chunk)

    def _send(self, status: int, message: str, **headers: str) -> None:
        body = f"{shown(message)}\n".encode(errors="replace")
        self.send_response(status)
        always = {
            "Content-Type": "text/plain; charset=utf-8",
            "Content-Length": str(len(body)),
            "Connection": "close",
        }
        again = {"Retry-After": str(RETRY_AFTER_S)} if status == 503 else {}
        for name, value in (always | again | headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def finish(self) -> None:
        """Read what the client still sends: to close a connection with unread bytes would discard the answer."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(CHUNK_BYTES):
                pass

    def log_message(self, *line: Any) -> None:
        """Print nothing: the last line on stderr is a job's error."""
