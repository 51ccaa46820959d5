import io

import pytest

from model.errors import shown
from model.terminal import say


@pytest.mark.parametrize(
    ("text", "safe"),
    [
        ("PET 'müller 腫瘍.mha'", "PET 'müller 腫瘍.mha'"),
        ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
        ("a\rb\nc\td\x00\x7f", "a\\x0db\\x0ac\\x09d\\x00\\x7f"),
        ("\x9b2J\x85", "\\x9b2J\\x85"),  # a control sequence in one byte; a line's end
        ("gpj.\u202emha", "gpj.\\u202emha"),  # turns letters round
        ("a\u2028b\u200b", "a\\u2028b\\u200b"),
        ("bad\udcff.mha", "bad\\xff.mha"),  # a byte of a name that is no UTF-8
        ("\U000e0041", "\\U000e0041"),
    ],
)
def test_what_a_terminal_would_obey_is_shown_as_an_escape(text: str, safe: str) -> None:
    stream = io.StringIO()
    say(text, stream)
    assert shown(text) == safe and stream.getvalue() == safe + "\n"
