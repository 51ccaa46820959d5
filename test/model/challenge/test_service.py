"""The warm service from outside, by a real client; and its answers without a pipeline behind them."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Thread

import pytest
from conftest import ROOT
from organ_bundles import organ_bundle
from program import run_process
from tiny_studies import tiny_images, write_study

from model.bundle.settings import Window
from model.challenge.arguments import arguments as command_line
from model.challenge.service import RETRY_AFTER_S, Service
from model.errors import ConfigError

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
    with (
        stderr.open("w") as file,
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, env=clean | environment) as process,
    ):
        try:
            assert process.stdout is not None
            ready = process.stdout.readline()
            assert ready.startswith("ready after"), stderr.read_text()
            yield Running(process, int(ready.rpartition(":")[2]), stderr)
        finally:
            process.kill()


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
def test_three_jobs_of_which_one_is_bad(tiny_bundle, tmp_path) -> None:
    weights = shutil.copytree(tiny_bundle, tmp_path / "tiny")
    study, output, alone = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out", tmp_path / "alone"
    done = run_process("--input", study, "--output", alone, "--weights", weights)
    assert done.returncode == 0, done.stderr
    expected = (alone / CONTRACT).read_bytes()

    arguments = ["--input", study, "--output", output, "--weights", weights]
    with running(tmp_path / "stderr", *arguments, LESION_SERVE="invoke") as service:
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


@pytest.mark.slow
def test_organs_of_a_job_and_a_bundle_that_knows_none(tiny_bundle, make_bundle, tmp_path) -> None:
    study, output = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out"
    words = ["--input", study, "--output", output, "--organs"]
    bundle = make_bundle(tmp_path / "organs", 1, **organ_bundle())
    with running(tmp_path / "stderr", *words, "--weights", bundle, LESION_SERVE="1") as service:
        for _ in range(2):  # the second replaces the first
            assert ask(service.port, "POST", "/invoke").status == 201, service.stderr.read_text()
            assert files(output) == ["ct-study_organs.mha", CONTRACT]
    refused = run_process(*words, "--weights", tiny_bundle, "--port", "0", LESION_SERVE="1")
    assert refused.returncode == ConfigError.exit_code and "'tiny' has none" in refused.stderr


@pytest.mark.slow
def test_during_a_job_a_second_is_refused_and_sigterm_leaves_no_file(make_bundle, tmp_path) -> None:
    slow = make_bundle(tmp_path / "slow", members=20, window=Window(size=(16, 16, 16), overlap=0.75))
    study, output = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out"
    with (
        running(
            tmp_path / "stderr", "--input", study, "--output", output, "--weights", slow, LESION_SERVE="1"
        ) as service,
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


def test_a_port_in_use_is_an_error_at_once(tiny_bundle) -> None:
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
    [
        ("GET", "/invoke", "POST"),
        ("PUT", "/invoke", "POST"),
        ("POST", "/health", "GET, HEAD"),
        ("DELETE", "/health", "GET, HEAD"),
    ],
)
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


def chunked(number: int, size: int) -> Iterator[bytes]:
    yield from (b"\0" * size for _ in range(number))


@pytest.mark.parametrize("way", ["a length", "chunks"])
@pytest.mark.parametrize(
    ("method", "path", "status"), [("POST", "/invoke", 201), ("POST", "/health", 405), ("PUT", "/none", 404)]
)
def test_a_body_of_200_mib_breaks_no_pipe_and_takes_no_memory(
    way: str, method: str, path: str, status: int, service
) -> None:
    if status == 201:
        Thread(target=lambda: service.answer(service.next(), 201, "done"), daemon=True).start()
    headers = {"Content-Length": str(200 << 20)} if way == "a length" else {}
    connection = http.client.HTTPConnection("127.0.0.1", port_of(service), timeout=60)
    tracemalloc.start()
    try:
        connection.request(method, path, chunked(200, 1 << 20), headers)  # raises BrokenPipeError where it breaks
        assert connection.getresponse().status == status
        assert tracemalloc.get_traced_memory()[1] < 16 << 20
    finally:
        tracemalloc.stop()
        connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"Content-Length: many\r\n\r\n",
        b"Content-Length: -5\r\n\r\n",
        b"Content-Length: 9\r\n\r\nshort",
        b"Transfer-Encoding: chunked\r\n\r\nno number\r\n",
        b"Transfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nabcde\r\n0\r\nA: trailer\r\n\r\n",
    ],
)
def test_after_a_body_that_is_cut_off_or_malformed_the_job_is_done_all_the_same(sent: bytes, service) -> None:
    Thread(target=lambda: service.answer(service.next(), 201, "done"), daemon=True).start()
    with socket.create_connection(("127.0.0.1", port_of(service)), timeout=60) as connection:
        connection.sendall(b"POST /invoke HTTP/1.1\r\n" + sent)
        connection.shutdown(socket.SHUT_WR)
        assert connection.makefile("rb").read().startswith(b"HTTP/1.1 201 ")


def test_it_listens_on_the_given_address_and_by_default_on_this_machine_alone(service) -> None:
    assert service.address.startswith("http://127.0.0.1:")
    with Service(0, "0.0.0.0") as everywhere:
        everywhere.ready = True
        assert everywhere.address.startswith("http://0.0.0.0:")
        assert ask(port_of(everywhere), "GET", "/health").status == 200


def test_lesion_serve_starts_the_service_and_lesion_bind_is_its_address(monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["process.py"])
    for value, serves in (("", False), ("0", False), ("exec", False), ("1", True), ("invoke", True)):
        monkeypatch.setenv("LESION_SERVE", value)
        monkeypatch.setenv("LESION_BIND", "0.0.0.0" if serves else "")
        options = command_line()
        assert (options.serve, options.bind) == (serves, "0.0.0.0" if serves else "127.0.0.1")
    monkeypatch.setattr(sys, "argv", ["process.py", "--serve", "--bind", "::1"])
    monkeypatch.setenv("LESION_SERVE", "exec")
    assert command_line().serve and command_line().bind == "::1"


def test_it_listens_on_an_ipv6_address(service) -> None:
    try:
        six = Service(0, "::1")
    except ConfigError:
        pytest.skip("this machine has no address ::1")
    with six:
        assert six.address == f"http://[::1]:{port_of(six)}"
        with socket.create_connection(("::1", port_of(six)), timeout=60) as connection:
            connection.sendall(b"GET /none HTTP/1.1\r\n\r\n")
            assert connection.makefile("rb").read().startswith(b"HTTP/1.1 404 ")


def test_an_address_that_is_none_or_of_another_machine_is_refused() -> None:
    done = run_process("--serve", "--bind", "everywhere")
    assert done.returncode == 2 and "--bind must be an IP address such as 127.0.0.1" in done.stderr
    done = run_process("--serve", "--port", "0", "--bind", "203.0.113.7")  # RFC 5737: nobody's
    assert done.returncode == 2 and "cannot listen on 203.0.113.7:0" in done.stderr and "--bind" in done.stderr


def test_a_client_with_an_answer_may_post_the_next_job(service) -> None:
    def work() -> None:
        while job := service.next():
            service.answer(job, 201, "done")

    Thread(target=work).start()
    assert [ask(port_of(service), "POST", "/invoke").status for _ in range(50)] == [201] * 50
    service.stop()


def test_control_characters_are_answered_as_escapes(service) -> None:
    Thread(target=lambda: service.answer(service.next(), 500, "error: PET 'a\x1b]0;x\x07\u202e.mha' is odd")).start()
    assert ask(port_of(service), "POST", "/invoke").words == "error: PET 'a\\x1b]0;x\\x07\\u202e.mha' is odd\n"
    with socket.create_connection(("127.0.0.1", port_of(service))) as connection:
        connection.sendall(b"GET /\x1b[2J HTTP/1.0\r\n\r\n")
        answer = connection.makefile("rb").read()
    assert b"404" in answer and b"\x1b" not in answer and b"'/\\x1b[2J'" in answer
