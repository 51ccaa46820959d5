import bad_inputs
import pytest


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


def test_there_are_at_least_twenty_kinds() -> None:
    assert len(bad_inputs.CASES) >= 20


def test_the_table_in_the_documents_is_what_the_program_says(outcomes: list[bad_inputs.Outcome]) -> None:
    said = bad_inputs.table(outcomes)
    assert bad_inputs.TABLE.read_text(encoding="utf-8") == said, "run: python test/helpers/bad_inputs.py"
