"""The errors a user can act on. Each message names the file, the value, the limit and the remedy."""


class LesionError(Exception):
    """Parent of the four errors below; `exit_code` is what the process returns."""

    exit_code = 1


class ConfigError(LesionError):
    """A setting or an option is wrong (the same exit code as argparse's own usage errors)."""

    exit_code = 2


class CaseError(LesionError):
    """The PET/CT study cannot be read, or cannot be right."""

    exit_code = 3


class WeightsError(LesionError):
    """The weight bundle is missing, damaged, or does not fit its manifest."""

    exit_code = 4


class OutputError(LesionError):
    """The result cannot be written."""

    exit_code = 5


def shown(text: str) -> str:
    """Text that is safe to print: characters that would move the cursor, turn letters or end the line become escapes.

    Names of files and headers may hold such characters. Bytes of a name that are no UTF-8 are shown as bytes.
    """
    return "".join(_escape(letter) if not letter.isprintable() else letter for letter in text)


def _escape(letter: str) -> str:
    code = ord(letter)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that was no UTF-8
        return f"\\x{code - 0xDC00:02x}"
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def split_remedy(message: str) -> tuple[str, str]:
    """Split a message into what is wrong and what to do about it.

    The remedy stands after the last semicolon, or is a question at the end.
    """
    what, semicolon, remedy = message.rpartition("; ")
    if semicolon:
        return what, remedy
    what, stop, question = message.rpartition(". ")
    return (what, question) if stop and question.endswith("?") else (message, "see docs/errors.md")
