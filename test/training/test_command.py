import argparse
from types import ModuleType

import pytest

from model.errors import CaseError, ConfigError, OutputError
from training.command import EXPECTED_ERRORS, check_targets, parse, report_error


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CaseError("PET 'a.mha'\n is empty"), CaseError.exit_code, "error: PET 'a.mha' is empty"),
        (
            KeyboardInterrupt(),
            130,
            "error: stopped; finished work is kept, and the same command again continues it",
        ),
        (
            OSError(28, "No space left on device", "/runs/log.jsonl"),
            OutputError.exit_code,
            "error: '/runs/log.jsonl': No space left on device; check the path, free space and permissions",
        ),
    ],
)
def test_an_error_becomes_one_last_line_and_an_exit_code(error, code: int, line: str, capsys) -> None:
    assert isinstance(error, EXPECTED_ERRORS) and report_error(error) == code
    assert capsys.readouterr().err == line + "\n"


@pytest.mark.parametrize("words", [["--count", "3"], ["--", "--count", "3"]])
def test_options_come_with_the_whole_command_line(words: list[str]) -> None:
    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--count", type=int)

    module = ModuleType("training.some", "What it does.")
    module.add_options = add_options
    options = parse("some", module, words)
    assert options.count == 3 and options.command_line == ["python", "-m", "training", "some", *words]


def test_an_input_is_not_written_over(tmp_path) -> None:
    (tmp_path / "index.csv").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    check_targets([tmp_path / "other.csv"], [tmp_path / "index.csv", None])
    with pytest.raises(ConfigError, match=r"link/index.csv' would be written and is an input"):
        check_targets([tmp_path / "link" / "index.csv"], [tmp_path / "index.csv"])
    with pytest.raises(ConfigError, match="is a folder; give another output"):
        check_targets([tmp_path], [])
