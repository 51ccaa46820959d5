"""process.py --serve: one study after the other, on request over HTTP."""

import argparse
import sys
import time
import traceback
from typing import TYPE_CHECKING, Any

from model.bundle.manifest import Bundle, chosen_bundle
from model.bundle.organs import organ_names
from model.challenge.ending import explain, fail, on_signals, one_line, stop
from model.challenge.run import run
from model.challenge.service import Service
from model.terminal import say

if TYPE_CHECKING:
    from model.networks.weights import Voter


def serve(options: argparse.Namespace, start: float) -> None:
    """Run a study for every POST /invoke, by one bundle that is loaded once, until a signal comes."""
    with Service(options.port, options.bind) as service:  # first, so that a port in use is an error at once
        bundle = chosen_bundle(options.weights, options.method, options.limit)
        if options.organs:
            organ_names(bundle.manifest)  # refuses a bundle without an organ head now, not at the first study

        import model.results.run_summary  # noqa: F401  so that no job waits for an import
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


def attempt(options: argparse.Namespace, bundle: Bundle, networks: "list[Voter]", on_idle: Any) -> tuple[int, str]:
    """Run one job; the HTTP status and message. on_idle: handles signals while no study is being run."""
    try:
        on_signals(stop)
        return 201, f"mask: {run(options, bundle, time.perf_counter(), networks, on_idle)}"
    except Exception as error:
        if options.debug:
            traceback.print_exc()
        message, code = explain(error)
        fail(message, code)
        return 500, f"error: {one_line(message)}"
    finally:
        on_signals(on_idle)
