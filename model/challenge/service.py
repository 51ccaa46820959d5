"""Jobs over HTTP, one at a time: GET /health, POST /invoke. No torch, and no pipeline."""

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
PATIENCE_S = 5  # how long a client may be silent while it sends its request or takes its answer
CHUNK_BYTES = 1 << 16  # of a request's body, which is read, so that the answer arrives, and not looked at
NOT_READY = "error: the service is loading its weights, or was stopped"


@dataclass(kw_only=True)
class Job:
    """One POST /invoke, and what its client is told; `sent` is set when it was told, or is gone."""

    status: int = 503
    words: str = "error: the service was stopped before the job was done"
    done: Event = field(default_factory=Event)
    sent: Event = field(default_factory=Event)


class Service:
    """Takes requests in threads of its own and hands the jobs to the thread that calls `next`.

    That is the main thread, since only it is told of signals, and since torch would make a new pool of threads
    for every other one. GET /health is answered during a job. A POST during a job is answered 503 with
    Retry-After and never queued: the job before it may still have its result in the output folder.
    Both paths are 503 until `ready` is set, and again after `stop`.
    """

    def __init__(self, port: int, host: str = HOST) -> None:
        """Listen on an IPv4 or IPv6 address; port 0: any free one. Raises ConfigError if that cannot be."""
        self.ready = False
        self._busy = Lock()
        self._jobs: SimpleQueue[Job | None] = SimpleQueue()
        self._job: Job | None = None
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
            self.answer(self._job, self._job.status, self._job.words)
        self._server.shutdown()
        self._server.server_close()

    def next(self) -> Job | None:
        """Wait for the next job; None after `stop`."""
        return self._jobs.get()

    def answer(self, job: Job, status: int, words: str) -> None:
        """Tell a job's client how it ended, and wait until that is sent."""
        job.status, job.words = status, words
        job.done.set()
        job.sent.wait(PATIENCE_S)

    def stop(self, *signal: object) -> None:
        """Take no more jobs. May be a signal's handler: SimpleQueue.put may interrupt SimpleQueue.get."""
        self.ready = False
        self._jobs.put(None)

    def invoke(self, send: Callable[[int, str], None]) -> None:
        """One POST /invoke, in its request's thread: have the job done, then send its status and words."""
        if not self.ready or not self._busy.acquire(blocking=False):
            return send(503, "error: another job is running" if self.ready else NOT_READY)
        job = self._job = Job()
        self._jobs.put(job)
        job.done.wait()
        self._busy.release()  # before the answer: who has it may post the next job
        try:
            send(job.status, job.words)
        finally:
            job.sent.set()


class _Server(ThreadingTCPServer):
    allow_reuse_address = True  # a port that was in use a moment ago; not one that is
    daemon_threads = True  # an idle client must not keep the process from ending

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exc_info()[1], OSError):  # a client that went away is no error of ours
            super().handle_error(request, client_address)


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = PATIENCE_S

    def __init__(self, service: Service, *request: Any) -> None:
        self.service = service
        super().__init__(*request)

    def _any(self) -> None:
        self._pass_over_body()
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

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _any

    def _pass_over_body(self) -> None:
        """Read the body of any length and forget it: a client that still sends would lose its pipe, and the answer.

        A body that ends or falls silent before its end is no error, since nobody looks at it.
        """
        with suppress(OSError, ValueError):  # the client is gone or silent; a length that is no number
            if self.headers.get("Transfer-Encoding") is None:
                return self._pass_over(int(self.headers.get("Content-Length", "0")))
            while size := int(self.rfile.readline(CHUNK_BYTES).partition(b";")[0], 16):  # RFC 9112, 7.1
                self._pass_over(size + len(b"\r\n"))
            while self.rfile.readline(CHUNK_BYTES).strip():  # trailers
                pass

    def _pass_over(self, left: int) -> None:
        while left > 0 and (chunk := self.rfile.read1(min(left, CHUNK_BYTES))):
            left -= len(chunk)

    def _send(self, status: int, words: str, **headers: str) -> None:
        body = f"{shown(words)}\n".encode(errors="replace")
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
        """Read what the client still sends: closing a connection with unread bytes would take the answer back."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while self.connection.recv(CHUNK_BYTES):
                pass

    def log_message(self, *line: Any) -> None:
        """Nothing: the last line on stderr is a job's reason."""
