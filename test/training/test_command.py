import pytest

from model.errors import CaseError, ConfigError, OutputError
from training.command import ENDS, check_targets, told


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (CaseError("PET 'a.mha'\n is empty"), CaseError.exit_code, "error: PET 'a.mha' is empty"),
        (KeyboardInterrupt(), 130, "error: stopped; what was finished is kept, and the same command again goes on"),
        (
            OSError(28, "No space left on device", "/runs/log.jsonl"),
            OutputError.exit_code,
            "error: '/runs/log.jsonl': No space left on device; is it there, is there space, and may this user read "
            "and write there?",
        ),
    ],
)
def test_what_ends_a_command_is_one_last_line_and_an_exit_code(error, code: int, line: str, capsys) -> None:
    assert isinstance(error, ENDS) and told(error) == code
    assert capsys.readouterr().err == line + "\n"


def test_what_is_read_is_not_written_over(tmp_path) -> None:
    (tmp_path / "index.csv").write_text("mine")
    (tmp_path / "link").symlink_to(tmp_path)
    check_targets([tmp_path / "other.csv"], [tmp_path / "index.csv", None])
    with pytest.raises(ConfigError, match=r"link/index.csv' would be written and is an input"):
        check_targets([tmp_path / "link" / "index.csv"], [tmp_path / "index.csv"])
    with pytest.raises(ConfigError, match="is a folder; give another output"):
        check_targets([tmp_path], [])
