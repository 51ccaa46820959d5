"""Studies scored by dask workers in processes of their own, one of which is killed while it scores."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from dask_cluster import running
from dicom_writer import write_pet
from pydicom import dcmread
from tiny_batches import command, contents, environment, image_study, score

from model.errors import ConfigError
from model.hospital.batch_precision import auto_precision
from model.hospital.cluster import Cluster, connected, score_remotely, wait_for_workers, without_person
from model.hospital.find.entry import Entry
from model.hospital.find.scan import person_of
from model.hospital.job import Job, Options, job_from, to_json
from model.schedulers import client_of

STUDIES = 5


@pytest.fixture(scope="module")
def workers(tmp_path_factory) -> Iterator[tuple[str, list[subprocess.Popen]]]:
    with running(tmp_path_factory.mktemp("dask"), "tcp", 2) as found:
        yield found


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("openssl"), reason="openssl is not installed")
def test_a_study_is_scored_over_an_encrypted_connection_and_not_without_its_files(tiny_bundle, tmp_path) -> None:
    """By a certificate of its own authority, as a hospital would make one."""
    ca, key, signed = (tmp_path / name for name in ("ca.pem", "key.pem", "cert.pem"))
    subprocess.run(
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=127.0.0.1",
            "-keyout",
            str(key),
            "-out",
            str(ca),
        ],
        check=True,
        capture_output=True,
    )
    signed.write_bytes(ca.read_bytes())
    files = ("--tls-ca", ca, "--tls-cert", signed, "--tls-key", key)
    named = [
        word
        for option, path in (("ca-file", ca), ("cert", signed), ("key", key))
        for word in (f"--tls-{option}", str(path))
    ]
    image_study(tmp_path / "in" / "p", seed=1)
    with running(tmp_path, "tls", 1, *named) as (address, _):
        words = (
            tmp_path / "in",
            "--output",
            tmp_path / "out",
            "--weights",
            tiny_bundle,
            "--cluster",
            address,
            "--precision",
            "auto",
        )
        done = subprocess.run(
            command(*words, *files), env=environment() | {"PYTHONPATH": ""}, capture_output=True, text=True, timeout=300
        )
        assert done.returncode == 0, done.stderr
        assert f"precision of all workers: {auto_precision('auto')}" in done.stdout
        assert len(list((tmp_path / "out" / "studies").glob("*/mask.mha"))) == 1
        with pytest.raises(ConfigError, match="no scheduler answers"):
            client_of(address.replace("tls", "tcp"), 2.0)


@pytest.mark.slow
def test_a_worker_killed_in_a_study_gives_it_to_the_other(workers, tiny_bundle, tmp_path) -> None:
    address, (one, _) = workers
    studies, output, alone = tmp_path / "in", tmp_path / "out", tmp_path / "alone"
    for number in range(STUDIES):
        image_study(studies / f"p{number}", seed=number)
    for folder in (output, alone):
        folder.mkdir()
        (folder / ".salt").write_text("0" * 32)
    online = environment() | {"PYTHONPATH": ""}
    scoring = subprocess.Popen(
        command(studies, "--output", output, "--weights", tiny_bundle, "--cluster", address),
        env=online,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while scoring.poll() is None and not list((output / "studies").glob("*")):
        time.sleep(0.02)  # until the first result is being written
    os.killpg(one.pid, signal.SIGKILL)
    _, errors = scoring.communicate(timeout=900)
    assert scoring.returncode == 0, errors
    assert score(studies, "--output", alone, "--weights", tiny_bundle).returncode == 0
    assert contents(output, "summary.json") == contents(alone, "summary.json")
    journal = [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()]
    assert len(journal) == len({record["study"] for record in journal}) == STUDIES


def test_a_missing_scheduler_is_an_error(tiny_bundle, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("model.hospital.cluster.WAIT_S", 0.5)
    from model.hospital.cluster import connected

    with pytest.raises(ConfigError, match="no scheduler answers"), connected(Cluster(address="tcp://127.0.0.1:9")):
        pass


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({}, "exclude each other"),
        ({"address": "tcp://a:1", "slurm": 2}, "exclude each other"),
        ({"address": "tls://a:1"}, "all three"),
        ({"address": "tcp://a:1", "dashboard": True}, "--dashboard goes with --slurm"),
        ({"address": "tls://a:1", "tls": (Path("/no/ca"), Path("/no/cert"), Path("/no/key"))}, "is not there"),
    ],
)
def test_where_is_checked(settings: dict, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        Cluster(**settings)


def test_the_patient_in_a_header_is_not_sent_over_the_network(tmp_path) -> None:
    """The worker reads it itself, so that its messages are redacted of it."""
    files = write_pet(tmp_path / "pet")
    entry = Entry(
        identity="dicom:1.2.3.4",
        source=tmp_path,
        kind="dicom",
        pet=tuple(files),
        ct=(),
        person=("Mueller^Anna", "4711001"),
    )
    job = Job(name="s-1", entry=entry, root=tmp_path, output=tmp_path, key="k", options=Options())
    sent = to_json(without_person(job))
    assert "Mueller" not in sent and "4711001" not in sent and "1.2.3.4" not in sent
    header = dcmread(entry.pet[0])
    assert person_of(job_from(json.loads(sent)).entry) == (str(header.PatientName), header.PatientID)


def test_an_error_on_a_worker_becomes_an_answer(monkeypatch) -> None:
    answer = score_remotely("{}", "{}")
    assert (answer["state"], answer["stage"]) == ("failed", "start") and "KeyError on a worker" in answer["message"]


def test_slurm_jobs_are_encrypted_with_the_files_given(tmp_path, monkeypatch) -> None:
    import dask

    given = {"cores": 1, "memory": "1GB", "walltime": "00:10:00"}
    with dask.config.set({"jobqueue.slurm": dask.config.get("jobqueue.slurm", {}) | given}):
        files = [tmp_path / name for name in ("ca.pem", "cert.pem", "key.pem")]
        made = []

        def cluster(jobs: int, dashboard: bool, security: object) -> object:
            made.append(security)
            raise ConfigError("enough")

        for path in files:
            path.touch()
        monkeypatch.setattr("model.hospital.cluster.slurm_cluster", cluster)
        with pytest.raises(ConfigError, match="enough"), connected(Cluster(slurm=2, tls=tuple(files))):
            pass
        [security] = made
        for role in ("client", "scheduler", "worker"):
            config = security.get_tls_config_for_role(role)
            assert (config["ca_file"], config["cert"], config["key"]) == tuple(map(str, files))
        assert security.require_encryption


class NoWorkers:
    """A client of a scheduler to which workers come when it was asked so many times."""

    def __init__(self, come_after: int) -> None:
        self.left = come_after

    def wait_for_workers(self, count: int, timeout: float) -> None:
        self.left -= 1
        if self.left >= 0:
            raise TimeoutError(f"only 0/{count} workers arrived after {timeout} s")


def test_waiting_for_workers_is_printed(monkeypatch, capsys) -> None:
    monkeypatch.setattr("model.hospital.cluster.REPORT_EVERY_S", 0.02)
    wait_for_workers(NoWorkers(10), None)
    assert "no worker yet" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="no worker came to the scheduler"):
        wait_for_workers(NoWorkers(10**6), 0.05)
