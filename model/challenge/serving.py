"""process.py --serve: studies one after the other, as HTTP asks for them."""

import argparse
import sys
import time
import traceback
from typing import Any

from model.bundle.manifest import Bundle
from model.challenge.ending import fail, on_signals, one_line, reason, stop
from model.challenge.run import chosen_bundle, run
from model.challenge.service import Service
from model.terminal import say


def serve(options: argparse.Namespace, start: float) -> None:
    """Studies one after the other, as HTTP asks for them, by one bundle that is loaded once, until a signal comes."""
    with Service(options.port, options.bind) as service:  # first of all, so that a port in use is told at once
        bundle = chosen_bundle(options)

        import model.results.run_summary  # noqa: F401  the whole road, so that no job waits for an import
        import model.results.writing  # noqa: F401
        from model.inference.device import choose_device, give_back_freed_memory, make_deterministic
        from model.networks.weights import load_now, voters

        make_deterministic()
        networks = load_now(voters(bundle), choose_device(options.device).torch_device)
        on_signals(service.stop)
        service.ready = True
        say(f"ready after {time.perf_counter() - start:.1f} s: {service.address}", sys.stdout)
        while job := service.next():
            service.answer(job, *attempt(options, bundle, networks, service.stop))
            give_back_freed_memory()
    say("stopped", sys.stdout)


def attempt(options: argparse.Namespace, bundle: Bundle, networks: Any, idle: Any) -> tuple[int, str]:
    """One job of the service, as an HTTP status and its words; `idle` is told of signals before and after it."""
    try:
        on_signals(stop)
        return 201, f"mask: {run(options, bundle, time.perf_counter(), networks, idle)}"
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        message, code = reason(error)
        fail(message, code)
        return 500, f"error: {one_line(message)}"
    finally:
        on_signals(idle)
