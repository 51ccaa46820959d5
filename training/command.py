"""What all commands have in common: how an error is told."""

import sys

from model.errors import LesionError


def told(error: LesionError) -> int:
    """Print an error as the last line on stderr, in one line; its exit code."""
    sys.stdout.flush()
    print(f"error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return error.exit_code
