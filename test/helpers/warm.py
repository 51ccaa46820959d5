"""Python processes that need not import torch and other libraries anew: forks of one process that has.

A cold start of process.py takes three seconds of imports, and score.py takes them twice. A fork is a process of its own
all the same: it has its own arguments, environment, streams, signals, memory and end, and imports our own code anew. So
are the processes that it starts by `python -m MODULE` or `python FILE`: they are forks, too.
"""

import importlib
import json
import os
import resource
import runpy
import select
import signal
import socket
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = """
    torch torch._dynamo torch.distributed SimpleITK scipy.ndimage scipy.optimize highdicom PIL.Image safetensors.torch
    jinja2 msgspec tqdm monai.inferers monai.losses
""".split()
_SERVER: list[socket.socket] = []  # the way to the process that forks, once this process has started one


class WarmProcess:
    """A process that runs these words after `python`: FILE or -m MODULE, and arguments. Its stdin is empty."""

    def __init__(
        self, *words: object, env: dict[str, str] | None = None, cwd: Path = ROOT, file_limit_bytes: int | None = None
    ) -> None:
        self.words = [str(word) for word in words]
        asked = {
            "words": self.words,
            "env": dict(os.environ) if env is None else env,
            "cwd": str(cwd),
            "limit": file_limit_bytes,
        }
        self._socket, there = socket.socketpair()
        pipes = [os.pipe() for _ in range(2)]
        with tempfile.TemporaryFile() as request, there:
            request.write(json.dumps(asked).encode())
            request.flush()
            socket.send_fds(_server(), [b"+"], [there.fileno(), request.fileno(), *(pipe[1] for pipe in pipes)])
        readers = ThreadPoolExecutor(2)
        self._texts = [readers.submit(_read, *pipe) for pipe in pipes]
        readers.shutdown(wait=False)
        self._replies = self._socket.makefile("rb", buffering=0)
        self.pid = int(self._replies.readline())
        self.returncode: int | None = None

    def poll(self, timeout: float | None = 0) -> int | None:
        """The exit status, a signal's number below zero, if it ends within the timeout in seconds; else None."""
        if self.returncode is None and select.select([self._socket], [], [], timeout)[0]:
            self.returncode = int(self._replies.readline())
            self._socket.close()
        return self.returncode

    def wait(self, timeout: float | None = None) -> subprocess.CompletedProcess[str]:
        """Wait until it has ended. If it takes longer, it is killed, and subprocess.TimeoutExpired is raised."""
        if self.poll(timeout) is None:
            os.kill(self.pid, signal.SIGKILL)
            raise subprocess.TimeoutExpired(self.words, timeout or 0)
        return subprocess.CompletedProcess(self.words, self.returncode, *(text.result(60) for text in self._texts))


def run(*words: object, timeout: float = 300, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run these words after `python` to their end. options: those of WarmProcess."""
    return WarmProcess(*words, **options).wait(timeout)


def _read(reading: int, writing: int) -> str:
    os.close(writing)
    with open(reading) as file:
        return file.read()


def _server() -> socket.socket:
    """The way to this process's own server, which ends with this process."""
    if not _SERVER:
        here, there = socket.socketpair()
        command = [sys.executable, __file__, str(there.fileno())]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        subprocess.Popen(command, pass_fds=[there.fileno()], stdin=subprocess.DEVNULL, env=environment)
        there.close()
        _SERVER.append(here)
    return _SERVER[0]


# What follows runs in the server and its forks.


class ForkedPopen(subprocess.Popen):
    """subprocess.Popen; Python's own modules and files run in a fork, which `preexec_fn` never leaves."""

    def __init__(self, args: Any, *more: Any, env: dict[str, str] | None = None, pass_fds: Any = (), **options: Any):
        fork, words = None, [str(word) for word in args[1:] if word != "-u"] if not isinstance(args, str) else []
        if words and args[0] == sys.executable and (words[0] in ("-m", "-c") or words[0].endswith(".py")):

            def fork() -> None:
                _become(words, dict(os.environ) if env is None else dict(env), keep=pass_fds)

        super().__init__(args, *more, env=env, pass_fds=pass_fds, preexec_fn=fork, **options)


def _become(words: list[str], env: dict[str, str], keep: Any = ()) -> NoReturn:
    """Be a process that runs these words, from its first line to its end."""
    code = 1
    try:
        start = 3
        for number in sorted(map(int, keep)):
            os.closerange(start, number)
            start = number + 1
        os.closerange(start, os.sysconf("SC_OPEN_MAX"))
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        for number in (signal.SIGPIPE, signal.SIGXFSZ):  # as Python does at its start
            signal.signal(number, signal.SIG_IGN)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        subprocess.Popen = ForkedPopen  # type: ignore[misc]
        os.environ.clear()
        os.environ.update(env)
        _OLD.extend((sys.stdout, sys.stderr))  # what they still hold is their parent's to write
        sys.stdin, sys.stdout, sys.stderr = (open(n, mode, closefd=False) for n, mode in enumerate("rww"))  # noqa: SIM115
        sys.stderr.reconfigure(line_buffering=True)
        _run(words)
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code & 0xFF)


_OLD: list[Any] = []


def _run(words: list[str]) -> None:
    folders = [folder for folder in os.environ.get("PYTHONPATH", "").split(os.pathsep) if folder]
    sys.path[:0] = folders
    for folder in folders:
        if (Path(folder) / "sitecustomize.py").is_file():
            runpy.run_path(str(Path(folder) / "sitecustomize.py"))
    if words[0] == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = words[1:]
        runpy.run_module(words[1], run_name="__main__", alter_sys=True)
    elif words[0] == "-c":
        sys.path.insert(0, os.getcwd())
        sys.argv = ["-c", *words[2:]]
        exec(compile(words[1], "<string>", "exec"), sys.modules["__main__"].__dict__)
    else:
        sys.path.insert(0, str(Path(words[0]).parent))
        sys.argv = list(words)
        runpy.run_path(words[0], run_name="__main__")


def _serve(way: socket.socket) -> None:
    """Fork for each request that comes, until the other end is closed."""
    while True:
        message, fds, _, _ = socket.recv_fds(way, 1, 4)
        with suppress(ChildProcessError):  # those that have ended
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        if not message:
            return
        if os.fork() == 0:
            way.close()
            _watch(*fds)
        for fd in fds:
            os.close(fd)


def _watch(reply: int, request: int, output: int, errors: int) -> NoReturn:
    """Fork, say the fork's process id, wait for it, and say its exit status."""
    with os.fdopen(request, "rb") as file:
        file.seek(0)
        asked = json.load(file)
    pid = os.fork()
    if pid == 0:
        os.setsid()  # so that a process which ends its group ends no more than that
        for number, fd in enumerate((os.open(os.devnull, os.O_RDONLY), output, errors)):
            os.dup2(fd, number)
        os.chdir(asked["cwd"])
        if asked["limit"] is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (asked["limit"], asked["limit"]))
        _become(asked["words"], asked["env"])
    os.write(reply, f"{pid}\n".encode())
    _, status = os.waitpid(pid, 0)
    with suppress(OSError):  # nobody waits for it any more
        os.write(reply, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


if __name__ == "__main__":
    for name in LIBRARIES:
        importlib.import_module(name)
    _serve(socket.socket(fileno=int(sys.argv[1])))
