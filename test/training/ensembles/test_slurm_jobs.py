"""Job scripts for SLURM, against stand-ins for sbatch and scontrol, and run by bash as a node would."""

import argparse
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from model.errors import ConfigError
from training.__main__ import main
from training.ensembles import slurm_jobs
from training.ensembles.slurm_jobs import FIRST, RUNS, SUMMARY, JobOptions, script, submit, write_jobs, write_scripts

STAGES = {FIRST: [["a"]], RUNS: [["b", "it's 1"], ["b", "$HOME"]], SUMMARY: [["c"]]}


@pytest.fixture
def cluster(tmp_path, monkeypatch) -> Path:
    """A folder in PATH whose sbatch numbers jobs from 101, and whose scontrol writes down its words."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    calls = tmp_path / "calls"
    programs = {
        "sbatch": f'echo "$@" >> {calls}; bash -n "${{@: -1}}" || exit 1; echo "$((100 + $(wc -l < {calls})));hpc"',
        "scontrol": f'echo "scontrol $@" >> {calls}',
    }
    for name, text in programs.items():
        (bin_folder / name).write_text(f"#!/bin/bash\n{text}\n")
        (bin_folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{bin_folder}:{os.environ['PATH']}")
    return calls


def test_every_stage_waits_for_the_one_before(cluster, tmp_path) -> None:
    """The runs for a first job that ended well; the summary for the end of all runs, well or not: it names the rest."""
    scripts = write_scripts(tmp_path / "slurm", STAGES, JobOptions(name="t"))
    assert submit(scripts) == {FIRST: "101", RUNS: "102", SUMMARY: "103"}
    kill = "--kill-on-invalid-dep=yes"
    assert cluster.read_text().splitlines() == [
        f"--parsable {scripts[FIRST]}",
        f"--parsable --dependency=afterok:101 {kill} {scripts[RUNS]}",
        f"--parsable --dependency=afterany:102 {kill} {scripts[SUMMARY]}",
    ]


def test_a_script_says_what_slurm_must_know(tmp_path) -> None:
    options = JobOptions(name="table2-small", time="1-02:00:00", lead_s=120, more=("--gres=gpu:1", "--mem=8G"))
    lines = script(RUNS, STAGES[RUNS], tmp_path, options).splitlines()
    assert [line.removeprefix("#SBATCH ") for line in lines if line.startswith("#SBATCH")] == [
        "--job-name=table2-small-runs",
        "--time=1-02:00:00",
        "--signal=B:USR1@120",
        "--requeue",
        "--open-mode=append",
        f"--output={tmp_path}/runs-%A_%a.log",
        "--array=0-1",
        "--gres=gpu:1",
        "--mem=8G",
    ]
    assert not any("array" in line for line in script(FIRST, STAGES[FIRST], tmp_path, options).splitlines()[:9])


def test_words_with_spaces_stay_one_word_for_sbatch(tmp_path) -> None:
    """sbatch divides a directive's line at spaces, but for what is quoted."""
    options = JobOptions(name="t", more=("--comment=a b",))
    text = script(FIRST, STAGES[FIRST], tmp_path / "my runs", options)
    found = [shlex.split(line.removeprefix("#SBATCH ")) for line in text.splitlines() if line.startswith("#SBATCH")]
    assert ["--comment=a b"] in found and [f"--output={tmp_path}/my runs/first-%j.log"] in found


def job(tmp_path: Path, monkeypatch, program: str, task: int = 1) -> subprocess.Popen:
    """The runs' script with a stand-in for Python, started as SLURM starts a task of job 102."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/bash\necho "$@" >> {tmp_path}/words\n{program}\n')
    python.chmod(0o755)
    monkeypatch.setattr(slurm_jobs.sys, "executable", str(python))
    path = write_scripts(tmp_path / "slurm", STAGES, JobOptions(name="t"))[RUNS]
    numbers = {"SLURM_ARRAY_TASK_ID": str(task), "SLURM_ARRAY_JOB_ID": "102", "SLURM_JOB_ID": "104"}
    return subprocess.Popen(["bash", str(path)], env=os.environ | numbers)


@pytest.mark.parametrize("code", [0, 3])
def test_a_task_runs_its_own_command_and_ends_as_it_does(code, cluster, tmp_path, monkeypatch) -> None:
    assert job(tmp_path, monkeypatch, f"exit {code}", task=0).wait(20) == code
    assert (tmp_path / "words").read_text() == "-m training b it's 1\n" and not cluster.exists()
    assert job(tmp_path, monkeypatch, f"exit {code}").wait(20) == code
    assert (tmp_path / "words").read_text().splitlines()[-1] == "-m training b $HOME"


@pytest.mark.parametrize(
    ("program", "code", "queued"),
    [
        ("trap 'exit 0' USR1; touch ready; while :; do sleep 0.05; done", 0, True),  # it stopped at a checkpoint
        ("touch ready; exec sleep 20", 0, True),  # the signal killed it before it could take it
        ("trap 'exit 4' USR1; touch ready; while :; do sleep 0.05; done", 4, False),  # it failed
    ],
)
def test_a_task_near_its_limit_stops_and_is_queued_again(program, code, queued, cluster, tmp_path, monkeypatch) -> None:
    """SIGUSR1 comes to the shell alone, which hands it on and waits for the command to stop."""
    ready = tmp_path / "ready"
    task = job(tmp_path, monkeypatch, program.replace("touch ready", f"touch {ready}"))
    begun = time.monotonic()
    while not ready.exists() and time.monotonic() - begun < 20:
        time.sleep(0.02)
    time.sleep(0.2)
    task.send_signal(signal.SIGUSR1)
    assert task.wait(20) == code
    assert (cluster.read_text() if cluster.exists() else "") == ("scontrol requeue 102_1\n" if queued else "")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ({"time": "4h"}, "--time must be HH:MM:SS or D-HH:MM:SS, got '4h'"),
        ({"time": "00:05:00", "lead_s": 300}, "--lead-seconds must be from 1 to 299, below --time (300 s)"),
        ({"more": ("gres=gpu:1",)}, "in the form --name=value, got 'gres=gpu:1'"),
    ],
)
def test_wrong_options_are_refused(words, message) -> None:
    with pytest.raises(ConfigError) as error:
        JobOptions(name="t", **words)
    assert message in str(error.value)


def test_a_refused_job_is_said_with_what_was_submitted(cluster, tmp_path) -> None:
    scripts = write_scripts(tmp_path / "slurm", STAGES, JobOptions(name="t"))
    scripts[RUNS].write_text("if\n")
    with pytest.raises(ConfigError, match=r"sbatch refuses '.*runs.sh': .*; submitted before: 101; mend"):
        submit(scripts)


def test_without_sbatch_the_scripts_are_there_and_the_remedy_is_said(tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    options = argparse.Namespace(submit=True, sbatch="", time="01:00:00", lead_seconds=60)
    with pytest.raises(ConfigError, match="cannot run sbatch: .*; submit '.*first.sh' where SLURM is"):
        write_jobs(tmp_path, STAGES, options, "t")
    assert "runs.sh': 2 tasks" in capsys.readouterr().out and (tmp_path / "slurm/summary.sh").exists()


@pytest.mark.parametrize(
    ("words", "tasks"),
    [
        (["experiment", "table2"], 6),  # the table's six networks
        (["experiment", "table3", "--sbatch=--gres=gpu:1"], 3),  # smoke.yaml's two members, and vanilla
        (["nested", "--real", "r", "--all", "--output", "w", "--outer", "4"], 5),  # what ships, and four outer folds
    ],
)
def test_a_commands_jobs_have_a_task_for_every_run(words, tasks, cluster, tmp_path, capsys) -> None:
    words = [*words, "--run", str(tmp_path / "run"), "--slurm", "--submit", "--time", "02:00:00"]
    assert main(words + (["--scale", "smoke"] if words[0] == "experiment" else [])) == 0
    out = capsys.readouterr().out
    assert f"runs.sh': {tasks} tasks" in out and "summary as job 103" in out
    text = (tmp_path / "run/slurm/runs.sh").read_text()
    assert f"--array=0-{tasks - 1}\n" in text and str(tmp_path / "run") in text
    assert {path.name for path in (tmp_path / "run").iterdir()} == {"slurm"}  # nothing was made or trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment", "table2", "--submit"], "give --slurm, too"),
        (["experiment", "table2", "--slurm", "--parallel", "2"], "give it without --parallel"),
        (["nested", "--real", "r", "--run", "x", "--slurm"], "give --all and --output, too"),
        (["experiment", "table2", "--slurm", "--minutes", "1"], "give it without --minutes"),
        (["experiment", "table2", "--slurm", "--sbatch=--comment='a"], "cannot be divided into words: No closing"),
        (["experiment", "table2", "--slurm", "--time", "1-00:00:00", "--lead-seconds", "65536"], "from 1 to 65535"),
        (["experiment", "table2", "--parallel", "0"], "--parallel must be from 1 to 1000, got 0"),
        (["experiment", "table2", "--workers", "0"], "--workers must be at least 1, got 0"),
    ],
)
def test_options_that_exclude_each_other_are_refused(words, message, tmp_path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == ConfigError.exit_code
    assert message in capsys.readouterr().err.splitlines()[-1] and not list(tmp_path.iterdir())
