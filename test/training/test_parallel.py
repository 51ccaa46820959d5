import os
import pty
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from conftest import ROOT
from parallel_work import die, refuse, square, whose
from process_ends import wait_until_gone

from model.errors import CaseError, ConfigError
from training.parallel import map_parallel


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(map_parallel(square, [3, 1, 2], workers)) == [9, 1, 4]


def test_one_worker_is_this_process_and_more_are_not() -> None:
    assert set(map_parallel(whose, [1, 2], 1)) == {os.getpid()}
    assert os.getpid() not in set(map_parallel(whose, [1, 2], 2))


def test_what_the_function_raises_is_raised_here() -> None:
    with pytest.raises(CaseError, match="case 1 is bad"):
        list(map_parallel(refuse, [1, 2], 2))


def test_a_process_that_is_killed_is_named_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="fewer --workers"):
        list(map_parallel(die, [1, 2], 2))


def test_processes_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(
        "from parallel_work import sleep\nfrom training.parallel import map_parallel\n"
        "if __name__ == '__main__':\n    list(map_parallel(sleep, [1, 2], 2))\n"
    )
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "test/helpers")))
    parent = subprocess.Popen(
        [sys.executable, str(tmp_path / "parent.py")],
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    workers = [int(parent.stdout.readline()) for _ in range(2)]
    parent.kill()
    parent.wait(20)
    for worker in workers:
        wait_until_gone(worker)


def test_an_error_is_the_last_line_on_a_terminal_whose_bar_is_not_at_its_end() -> None:
    code = (
        "import sys; from training.command import report_error; from training.parallel import map_parallel\n"
        "def main():\n    for _ in map_parallel(abs, [1, 2, 3], 1):\n        raise OSError(28, 'full')\n"
        "try:\n    main()\nexcept OSError as error:\n    sys.exit(report_error(error))\n"
    )
    outer, inner = pty.openpty()
    termios.tcsetwinsize(outer, (24, 80))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, stderr=inner, timeout=60)
    os.close(inner)
    printed = os.read(outer, 100_000).decode()
    assert done.returncode == 5 and "0/3" in printed
    assert printed.splitlines()[-1].startswith("error: full; ")


def test_no_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="--workers must be at least 1, got 0"):
        list(map_parallel(square, [1], 0))


def test_nothing_to_do_is_no_error(tmp_path: Path) -> None:
    assert list(map_parallel(square, [], 4)) == []
