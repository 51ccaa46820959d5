"""The warm service from outside, by a real client; and its answers without a pipeline behind them."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
from conftest import ROOT, run_process, tiny_images, write_study

from model.config import Window
from model.errors import ConfigError
from model.serve import RETRY_AFTER_S, Service

CONTRACT = "images/automated-petct-lesion-segmentation/ct-study.mha"


@dataclass
class Answer:
    status: int
    words: str
    headers: http.client.HTTPMessage


def ask(port: int, method: str, path: str, body: bytes | None = None) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=300)
    try:
        connection.request(method, path, body)
        response = connection.getresponse()
        return Answer(response.status, response.read().decode(), response.headers)
    finally:
        connection.close()


@dataclass
class Running:
    """A service in a process of its own, ready; `port`, and the file its stderr goes to."""

    process: subprocess.Popen[str]
    port: int
    stderr: Path

    def last_line(self) -> str:
        return self.stderr.read_text().splitlines()[-1]


@contextmanager
def running(stderr: Path, *arguments: object, **environment: str) -> Iterator[Running]:
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AUTOPET_"))}
    command = [sys.executable, str(ROOT / "process.py"), "--port", "0", *map(str, arguments)]
    with stderr.open("w") as file, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=file, text=True, env=clean | environment
    ) as process:
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready after"), stderr.read_text()
            yield Running(process, int(ready.rpartition(":")[2]), stderr)
        finally:
            process.kill()


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_three_jobs_of_which_one_is_bad(tiny_bundle, tmp_path) -> None:
    weights = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    study, output, alone = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out", tmp_path / "alone"
    done = run_process("--input", study, "--output", alone, "--weights", weights)
    assert done.returncode == 0, done.stderr
    expected = (alone / CONTRACT).read_bytes()

    arguments = ["--input", study, "--output", output, "--weights", weights]
    with running(tmp_path / "stderr", *arguments, LESION_SERVE="1") as service:
        shutil.rmtree(weights)  # whatever the jobs need is in memory
        assert ask(service.port, "GET", "/health").status == 200

        first = ask(service.port, "POST", "/invoke")
        assert (first.status, first.words) == (201, f"mask: {output / CONTRACT}\n"), service.stderr.read_text()
        assert files(output) == [CONTRACT] and (output / CONTRACT).read_bytes() == expected

        shutil.rmtree(output)
        hidden = (study / "images/pet").rename(tmp_path / "pet")
        bad = ask(service.port, "POST", "/invoke")
        assert bad.status == 500 and f"PET folder '{study}/images/pet' is not there" in bad.words
        assert bad.words == service.last_line() + "\n" and bad.words.startswith("error: ")
        assert files(output) == [] and ask(service.port, "GET", "/health").status == 200

        hidden.rename(study / "images/pet")
        for _ in range(2):  # the second replaces the first, as a single run does
            assert ask(service.port, "POST", "/invoke", b'{"any": "body"}' * 1000).status == 201
            assert files(output) == [CONTRACT] and (output / CONTRACT).read_bytes() == expected

        (study / "images/ct/ct-study.mha").rename(study / "images/ct/another.mha")
        refused = ask(service.port, "POST", "/invoke")
        assert refused.status == 500 and "already holds another result" in refused.words
        assert files(output) == [CONTRACT]

        service.process.send_signal(signal.SIGTERM)
        assert service.process.wait(60) == 0 and service.last_line() + "\n" == refused.words


def test_during_a_job_health_is_told_a_second_job_is_refused_and_sigterm_leaves_no_file(make_bundle, tmp_path) -> None:
    slow = make_bundle(tmp_path / "slow", members=20, window=Window(size=(16, 16, 16), overlap=0.75))
    study, output = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out"
    with (
        running(tmp_path / "stderr", "--serve", "--input", study, "--output", output, "--weights", slow) as service,
        ThreadPoolExecutor() as pool,
    ):
        job = pool.submit(ask, service.port, "POST", "/invoke")
        while "window" not in service.stderr.read_text():  # a tenth is done
            assert not job.done()
        second = ask(service.port, "POST", "/invoke")
        assert second.status == 503 and second.headers["Retry-After"] == str(RETRY_AFTER_S)
        assert "another job is running" in second.words
        assert ask(service.port, "GET", "/health").status == 200
        assert not job.done()
        service.process.send_signal(signal.SIGTERM)
        assert job.result().status == 503 and "stopped before the job was done" in job.result().words
        assert service.process.wait(60) == 128 + signal.SIGTERM
        assert service.last_line() == "error: stopped by SIGTERM; no output was written" and files(output) == []


def test_a_port_in_use_is_told_at_once(tiny_bundle) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = run_process("--serve", "--port", port, "--weights", tiny_bundle)
    assert done.returncode == ConfigError.exit_code and len(done.stderr.splitlines()) == 1
    assert f"cannot listen on 127.0.0.1:{port}: Address already in use" in done.stderr and "--port" in done.stderr


def test_a_service_without_weights_ends_with_the_reason(tmp_path) -> None:
    done = run_process("--serve", "--port", "0", "--weights", tmp_path / "absent")
    assert done.returncode == 4 and "no manifest.json" in done.stderr.splitlines()[-1]


@pytest.fixture
def service() -> Iterator[Service]:
    """A service that is ready and whose jobs nobody runs."""
    with Service(0) as service:
        service.ready = True
        yield service


def port_of(service: Service) -> int:
    return int(service.address.rpartition(":")[2])


def test_before_it_is_ready_and_after_it_was_stopped_both_paths_are_503(service) -> None:
    service.ready = False
    for method, path in (("GET", "/health"), ("POST", "/invoke")):
        answer = ask(port_of(service), method, path)
        assert answer.status == 503 and answer.headers["Retry-After"] == str(RETRY_AFTER_S)
    service.ready = True
    assert ask(port_of(service), "GET", "/health").status == 200
    service.stop()
    assert ask(port_of(service), "GET", "/health").status == 503 and service.next() is None


def test_an_unknown_path_is_404(service) -> None:
    for method, path in (("GET", "/"), ("POST", "/invoke/again"), ("GET", "/healthy")):
        assert ask(port_of(service), method, path).status == 404


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [("GET", "/invoke", "POST"), ("PUT", "/invoke", "POST"), ("POST", "/health", "GET, HEAD"),
     ("DELETE", "/health", "GET, HEAD")],
)  # fmt: skip
def test_a_wrong_method_is_405(method: str, path: str, allowed: str, service) -> None:
    answer = ask(port_of(service), method, path)
    assert answer.status == 405 and answer.headers["Allow"] == allowed


def test_a_client_that_goes_away_hinders_no_other(service, capfd) -> None:
    for sent in (b"", b"POST /invo", b"POST /invoke HTTP/1.1\r\nContent-Length: 9\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port_of(service))) as connection:
            connection.sendall(sent)
    left = service.next()
    assert left is not None
    service.answer(left, 201, "mask: unread")
    Thread(target=lambda: service.answer(service.next(), 201, "mask: read")).start()
    assert ask(port_of(service), "POST", "/invoke").words == "mask: read\n"
    assert capfd.readouterr() == ("", "")


def test_who_has_an_answer_may_post_the_next_job(service) -> None:
    def work() -> None:
        while job := service.next():
            service.answer(job, 201, "done")

    Thread(target=work).start()
    assert [ask(port_of(service), "POST", "/invoke").status for _ in range(50)] == [201] * 50
    service.stop()


def test_what_a_terminal_would_obey_is_answered_as_escapes(service) -> None:
    Thread(target=lambda: service.answer(service.next(), 500, "error: PET 'a\x1b]0;x\x07\u202e.mha' is odd")).start()
    assert ask(port_of(service), "POST", "/invoke").words == "error: PET 'a\\x1b]0;x\\x07\\u202e.mha' is odd\n"
    with socket.create_connection(("127.0.0.1", port_of(service))) as connection:
        connection.sendall(b"GET /\x1b[2J HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert b"404" in answer and b"\x1b" not in answer and b"'/\\x1b[2J'" in answer
