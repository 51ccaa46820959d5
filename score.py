"""Score every PET/CT study of a folder, offline: masks, numbers, pictures, and a list of what was not done and why.

    python score.py STUDIES --output RESULTS

Everything that it does is in model/hospital.
"""

import signal
import sys

from model.errors import LesionError
from model.hospital.console import fail
from model.hospital.options import arguments
from model.hospital.run import run
from model.hospital.worker_process import Died
from model.terminal import open_streams


class Stopped(BaseException):
    """SIGINT or SIGTERM came."""


def main() -> int:
    """Run with the command line's arguments. Returns the exit code: 3 if a study could not be scored."""
    open_streams()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    debug = "--debug" in sys.argv
    try:
        return run(arguments())
    except Stopped as stopped:
        number = stopped.args[0]
        return fail(f"stopped by {signal.Signals(number).name}; run the same command again to go on", 128 + number)
    except LesionError as error:
        return fail(str(error), error.exit_code)
    except Died as error:
        return fail(f"{error} before the first study; check that there is memory for the weights", 1)
    except Exception as error:
        if debug:
            raise
        return fail(f"unexpected {type(error).__name__}; run again with --debug and report what it prints", 1)


def stop(number: int, frame: object) -> None:
    raise Stopped(number)


if __name__ == "__main__":
    sys.exit(main())
