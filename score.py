"""Score every PET/CT study of a folder, offline: masks, numbers, pictures, and a list of what was not done and why.

    python score.py STUDIES --output RESULTS
    python score.py --listen 11112 --aet LESIONS --send pacs.hospital:104:ARCHIVE --output RESULTS

Everything that it does is in model/hospital.
"""

import signal
import sys

from model.challenge.ending import Stopped, fail, on_signals, stop
from model.errors import LesionError
from model.hospital.options import arguments
from model.hospital.run import run
from model.hospital.worker_process import Died
from model.terminal import open_streams


def main() -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    open_streams()
    on_signals(stop)
    debug = "--debug" in sys.argv
    try:
        options = arguments()
        if options.pacs:
            from model.hospital.pacs.listen import listen  # no other run imports what uses the network

            listen(options)
        run(options)
        return 0
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


if __name__ == "__main__":
    sys.exit(main())
