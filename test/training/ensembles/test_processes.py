import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from dask_cluster import running
from process_ends import wait_until_gone

from model.errors import ConfigError
from training.ensembles import processes
from training.ensembles.processes import Engine, LoggedCommand, failure_reason, run_commands, run_logged, visible_gpus


def logged(folder: Path, code: str, name: str = "a", **environment: str) -> LoggedCommand:
    words = (sys.executable, "-c", f"import os, sys, time\n{code}")
    return LoggedCommand(name=name, words=words, log=folder / f"{name}.log", environment=environment)


def test_what_a_command_prints_is_added_to_its_log(tmp_path) -> None:
    for _ in range(2):
        assert (
            run_logged(logged(tmp_path, "print(os.environ['WORD']); print('there', file=sys.stderr)", WORD="here"))
            is None
        )
    assert sorted((tmp_path / "a.log").read_text().split()) == ["here", "here", "there", "there"]


# a bar of tqdm that is drawn, stays open, and is drawn once more while Python ends
OPEN_BAR = "from tqdm import tqdm; bar = tqdm(total=8, mininterval=0); bar.update(3); bar.set_postfix(loss='0.5')"


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("print('error: no space'); print('a hint'); sys.exit(3)", "no space"),
        ("print('error: first'); print('bar\\rerror: last'); sys.exit(1)", "last"),
        ("raise KeyError('x')", "KeyError: 'x'"),
        (f"{OPEN_BAR}; print('error: no space', file=sys.stderr); sys.exit(3)", "no space"),
        (f"{OPEN_BAR}; raise KeyError('x')", "KeyError: 'x'"),
        (f"{OPEN_BAR}; sys.exit('a word')", "a word"),
        (f"{OPEN_BAR}; sys.exit(9)", "exit code 9, without a message"),
        (
            "print('train.py: error: the following arguments are required: --run'); sys.exit(2)",
            "the following arguments are required: --run",
        ),
        ("sys.exit(9)", "exit code 9, without a message"),
        ("os.kill(os.getpid(), 9)", "killed by SIGKILL, most often for want of memory"),
        ("os.kill(os.getpid(), 15)", "killed by SIGTERM"),
    ],
)
def test_the_reason_of_a_failure_is_its_last_error_line(tmp_path, code, reason) -> None:
    assert run_logged(logged(tmp_path, code)) == reason


TRACEBACK = "Traceback (most recent call last):\n  File 'a', line 1\n    f()\n"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (f"{TRACEBACK}OSError: full\nrun:  12%|# | 1/8 [00:01<00:07]\n", "OSError: full"),
        ("a: 12%|# | 1/8 [00:01<00:07,  1.2step/s, loss=0.5]error: one\ra: 12%|# | 1/8 [01:00:01<?, ?step/s]", "one"),
        ("3it [00:01,  2.3it/s]\x1b[Aerror: one\x1b[0m\n", "one"),
        ("run:  12%|#", ""),
        (f"[rank1]: {TRACEBACK}[rank1]: ValueError: one\nresource_tracker: 1 leaked\n", "ValueError: one"),
        (f"{TRACEBACK}ValueError: one\nException ignored in: <f>\n{TRACEBACK}TypeError: two\n", "ValueError: one"),
    ],
)
def test_bars_and_messages_at_exit_are_no_reason(text: str, reason: str) -> None:
    assert failure_reason(text) == reason


def test_the_reason_is_of_this_time_and_not_of_an_earlier_one(tmp_path) -> None:
    run_logged(logged(tmp_path, "print('error: old'); sys.exit(1)"))
    assert run_logged(logged(tmp_path, "sys.exit(1)")) == "exit code 1, without a message"


def test_a_command_that_runs_already_is_not_run_twice(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "LOCK_WAIT_S", 0.5)
    first = threading.Thread(target=run_logged, args=(logged(tmp_path, "time.sleep(20)"),))
    first.start()
    while not processes.RUNNING:
        time.sleep(0.02)
    assert "another process trains it" in run_logged(logged(tmp_path, "pass"))
    processes.stop_all()
    first.join(5)
    assert not first.is_alive() and run_logged(logged(tmp_path, "pass")) is None


def test_a_command_waits_until_a_killed_one_releases_the_log(tmp_path) -> None:
    first = threading.Thread(target=run_logged, args=(logged(tmp_path, "time.sleep(20)"),))
    first.start()
    while not processes.RUNNING:
        time.sleep(0.02)
    threading.Timer(0.5, processes.stop_all).start()
    assert run_logged(logged(tmp_path, "pass")) is None
    first.join(5)


def test_one_after_the_other_goes_on_after_a_failure(tmp_path) -> None:
    commands = [logged(tmp_path, f"sys.exit({code})", name) for name, code in (("a", 0), ("b", 2), ("c", 0))]
    assert list(run_commands(commands, Engine())) == [("a", None), ("b", "exit code 2, without a message"), ("c", None)]


def test_several_at_a_time_each_have_a_gpu_of_their_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,7")
    tell = f"""
gpu = os.environ['CUDA_VISIBLE_DEVICES']
open({str(tmp_path)!r} + '/on-' + gpu, 'w')
for _ in range(500):  # ends well only if the other runs at the same time
    if os.path.exists({str(tmp_path)!r} + '/on-' + {{'4': '7', '7': '4'}}[gpu]):
        sys.exit()
    time.sleep(0.02)
sys.exit(1)"""
    commands = [logged(tmp_path, tell, name) for name in "ab"] + [logged(tmp_path, "sys.exit('error: c')", "c")]
    assert dict(run_commands(commands, Engine(parallel=2))) == {"a": None, "b": None, "c": "c"}


def test_a_cluster_gets_the_commands_by_its_address(tmp_path) -> None:
    from distributed import LocalCluster

    commands = [logged(tmp_path, code, name) for name, code in (("a", "pass"), ("b", "sys.exit('error: b')"))]
    with LocalCluster(
        n_workers=1,
        threads_per_worker=2,
        processes=False,
        protocol="tcp",
        host="127.0.0.1",
        dashboard_address=None,
        worker_dashboard_address=None,
    ) as cluster:
        reasons = dict(run_commands(commands, Engine(cluster=cluster.scheduler_address)))
    assert reasons == {"a": None, "b": "b"}


def test_a_scheduler_that_does_not_answer_is_named(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(processes, "WAIT_S", 1.0)
    with pytest.raises(ConfigError, match="tcp://127.0.0.1:9: no scheduler answers"):
        list(run_commands([logged(tmp_path, "pass")], Engine(cluster="tcp://127.0.0.1:9")))


def test_slurm_without_its_settings_says_where_they_go(tmp_path) -> None:
    with pytest.raises(ConfigError, match="cores, memory, .*jobqueue.yaml"):
        list(run_commands([logged(tmp_path, "pass")], Engine(slurm=1)))


def test_slurm_jobs_ask_for_what_the_settings_say_and_show_no_dashboard() -> None:
    import dask

    settings = {"cores": 4, "memory": "8GB", "walltime": "02:00:00", "job-extra-directives": ["--gres=gpu:1"]}
    with dask.config.set({f"jobqueue.slurm.{key}": value for key, value in settings.items()}):
        with processes.workers(Engine(slurm=2), 0) as cluster:
            script = cluster.job_script()
    assert "#SBATCH --gres=gpu:1" in script and "#SBATCH -t 02:00:00" in script
    assert script.rstrip().endswith("--nthreads 1 --no-dashboard")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"parallel": 0}, "--parallel must be from 1"),
        ({"slurm": -1}, "--slurm must be from 0"),
        ({"parallel": 2, "cluster": "tcp://a:1"}, "exclude each other"),
        ({"slurm": 1, "cluster": "tcp://a:1"}, "exclude each other"),
    ],
)
def test_engines_that_cannot_be_are_refused(settings, message) -> None:
    with pytest.raises(ConfigError, match=message):
        Engine(**settings)


def test_gpus_are_those_that_the_environment_names(monkeypatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,GPU-5f2a")
    assert visible_gpus() == ("0", "GPU-5f2a")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert visible_gpus() == ()


@pytest.mark.slow
@pytest.mark.parametrize(("sent", "code"), [(signal.SIGTERM, 143), (signal.SIGKILL, -signal.SIGKILL)])
def test_a_stopped_process_leaves_no_command_behind(sent: int, code: int, tmp_path) -> None:
    """A signal to a process that runs commands ends them, too, whether it can be caught or not."""
    program = (
        "import signal, sys; from pathlib import Path; from training.ensembles.processes import *\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        f"words = (sys.executable, '-c', 'import os, time; print(os.getpid(), flush=True); time.sleep(60)')\n"
        f"logs = [Path({str(tmp_path)!r}) / name for name in 'ab']\n"
        "commands = [LoggedCommand(name=log.name, words=words, log=log, environment={}) for log in logs]\n"
        "list(run_commands(commands, Engine(parallel=2)))\n"
    )
    root = Path(processes.__file__).parent.parent.parent
    process = subprocess.Popen([sys.executable, "-c", program], env=os.environ | {"PYTHONPATH": str(root)})
    logs = [tmp_path / name for name in "ab"]
    deadline = time.monotonic() + 30
    while not all(path.exists() and path.read_text().strip() for path in logs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(sent)
    assert process.wait(20) == code
    for path in logs:
        wait_until_gone(int(path.read_text()))


@pytest.mark.slow
def test_a_killed_workers_command_ends_with_it_and_a_sweep_without_workers_ends(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("model.schedulers.LOOK_EVERY_S", 0.2)
    log, found = tmp_path / "a.log", []

    def run() -> None:
        try:
            list(
                run_commands(
                    [logged(tmp_path, "print(os.getpid(), flush=True); time.sleep(60)")],
                    Engine(cluster=address, patience_s=1),
                )
            )
        except ConfigError as error:
            found.append(str(error))

    with running(tmp_path, "tcp", 1) as (address, [worker]):
        sweep = threading.Thread(target=run)
        sweep.start()
        deadline = time.monotonic() + 60
        while not (log.exists() and log.read_text().strip()) and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(worker.pid, signal.SIGKILL)  # it alone: the command is in its process group
        wait_until_gone(int(log.read_text()))
        sweep.join(30)
    [reasons] = found
    assert reasons.startswith("no worker is left, for ")
    assert "start workers again, then the same command again, which goes on with what is not finished" in reasons
