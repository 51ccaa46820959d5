import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT

from model.errors import ConfigError
from training.__main__ import COMMANDS, main


@pytest.mark.parametrize("name", COMMANDS)
def test_every_commands_help_says_its_name_and_what_it_costs(name: str, capsys, monkeypatch) -> None:
    monkeypatch.setattr(sys, "argv", ["training", name, "--help"])
    with pytest.raises(SystemExit) as ended:
        main()
    help_text = capsys.readouterr().out
    assert ended.value.code == 0 and "Cost: " in help_text
    assert help_text.startswith(f"usage: python -m training {name} ")


def test_help_lists_every_command_in_the_order_of_use_and_imports_none(monkeypatch) -> None:
    code = "import sys; from training.__main__ import main; main(['--help']); sys.exit('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines()[2:]] == list(COMMANDS)


@pytest.mark.parametrize(("words", "message"), [(["trian"], "there is no command 'trian'"), ([], "which command?")])
def test_without_a_command_the_error_lists_them_all(words: list[str], message: str) -> None:
    done = subprocess.run([sys.executable, "-m", "training", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert done.stderr.splitlines()[-1] == f"error: {message}; there are: {', '.join(COMMANDS)}"


def test_a_command_ends_with_its_own_exit_code_and_line(tmp_path: Path) -> None:
    words = ["split", "absent.csv", "--output", str(tmp_path / "split.json")]
    done = subprocess.run(
        [sys.executable, "-m", "training", "--", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == ConfigError.exit_code and "absent.csv" in done.stderr.splitlines()[-1]
