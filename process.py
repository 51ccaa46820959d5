"""Segment tumour lesions in one whole-body FDG PET/CT study. The door: what it does is in model/challenge.

Without arguments this is grand-challenge.org's contract: /input/images/pet and /input/images/ct in,
/output/images/automated-petct-lesion-segmentation/<CT name>.mha out.
"""

import time

START = time.perf_counter()  # before the imports, so that they are counted

import signal  # noqa: E402

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main handles it

import sys  # noqa: E402
import traceback  # noqa: E402

from model.bundle.choice import bundle_of_options  # noqa: E402
from model.challenge.arguments import arguments  # noqa: E402
from model.challenge.ending import Stopped, explain, fail, leave, on_signals, stop  # noqa: E402
from model.challenge.run import run  # noqa: E402
from model.errors import ConfigError  # noqa: E402
from model.terminal import open_streams  # noqa: E402


def main() -> int:
    """Run with the command line's arguments. Returns the exit code; an error is the last line on stderr."""
    open_streams()
    try:
        options = arguments()
    except ConfigError as error:
        return fail(str(error), error.exit_code)
    on_signals(stop)
    try:
        if not options.serve:
            run(options, bundle_of_options(options), START)
            return 0
        from model.challenge.serving import serve

        serve(options, START)
        sys.exit(0)  # not `leave`: an answer on its way is still sent
    except Stopped as stopped:
        number = stopped.args[0]
        return fail(f"stopped by {signal.Signals(number).name}; no output was written", 128 + number)
    except Exception as error:
        if options.debug:
            raise
        return fail(*explain(error))


if __name__ == "__main__":
    try:
        code = main()
    except Exception:  # with --debug
        traceback.print_exc()
        code = 1
    leave(code)
