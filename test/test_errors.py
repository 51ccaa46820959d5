"""Every bad input of test/helpers/bad_inputs.py is refused, and docs/errors.md shows the messages."""

import bad_inputs
import pytest

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outcomes() -> list[bad_inputs.Outcome]:
    return bad_inputs.run_all()


@pytest.mark.parametrize("number", range(len(bad_inputs.CASES)), ids=[c.title for c in bad_inputs.CASES])
def test_a_bad_input_is_refused(number: int, outcomes: list[bad_inputs.Outcome]) -> None:
    case, outcome = bad_inputs.CASES[number], outcomes[number]
    assert outcome.exit_code == case.exit_code, outcome.stderr
    assert outcome.last_line.startswith("error: ") and len(outcome.last_line) > 30
    assert "Traceback" not in outcome.stderr
    assert all(line.startswith(("error: ", "warning: ", "window ")) for line in outcome.stderr.splitlines())
    assert outcome.left == ()


def test_the_page_on_errors_shows_what_the_program_prints(outcomes: list[bad_inputs.Outcome]) -> None:
    assert bad_inputs.TABLE.read_text(encoding="utf-8") == bad_inputs.table(outcomes), "run: make docs"
