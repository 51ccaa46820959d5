"""Segment tumour lesions in one whole-body FDG PET/CT study. Read, load, segment, write; no algorithm here.

Without arguments this is grand-challenge.org's contract: /input/images/pet and /input/images/ct in,
/output/images/automated-petct-lesion-segmentation/<CT name>.mha out.
"""

import time

START = time.perf_counter()  # before the imports, so that they are counted

import signal  # noqa: E402

signal.signal(signal.SIGINT, signal.SIG_DFL)  # until main is there to say a word about it

import argparse  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import traceback  # noqa: E402
from contextlib import suppress  # noqa: E402
from dataclasses import replace  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

from model import RESEARCH  # noqa: E402
from model.bundle.manifest import MOUNTED, Bundle, find_bundle, load_bundle  # noqa: E402
from model.bundle.settings import override_limits  # noqa: E402
from model.challenge.arguments import arguments  # noqa: E402
from model.errors import CaseError, ConfigError, LesionError  # noqa: E402
from model.terminal import Progress, open_streams, say  # noqa: E402


class Stopped(BaseException):
    """SIGINT or SIGTERM came before the result was complete."""


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
            run(options, chosen_bundle(options), START)
            return 0
        serve(options)
        sys.exit(0)  # unlike below, so that an answer on its way is sent
    except Stopped as stopped:
        number = stopped.args[0]
        return fail(f"stopped by {signal.Signals(number).name}; no output was written", 128 + number)
    except Exception as error:
        if options.debug:
            raise
        return fail(*reason(error))


def run(
    options: argparse.Namespace, bundle: Bundle, start: float, networks: Any = None, then: Any = signal.SIG_IGN
) -> Path:
    """One study, from the input to the renamed mask. Raises the errors of model/errors.py, then leaves no file.

    networks: those a service holds; without them each is loaded when its turn comes. then: who is told of signals
    once the result is complete. Returns the mask's path.
    """
    verified = time.perf_counter()

    from model.background import begin
    from model.files import Staging
    from model.results.writing import check_output, check_targets, write_json
    from model.study.reading import read_case

    check_output(options.output)
    begun: list[Any] = []

    def found() -> None:
        if networks is None:
            begun.append(begin(lambda: get_ready(bundle.manifest, options.device)))

    case = read_case(options.input, bundle.manifest.limits, found)
    names = targets(options, case.name)
    check_targets(options.output, list(names.values()), [case.pet.path, case.ct.path])
    read = time.perf_counter()

    from model.inference.device import choose_device, make_deterministic
    from model.inference.segment import make_ready, segment_ready
    from model.results.run_summary import make_report, summary
    from model.stopwatch import Stopwatch

    make_deterministic()
    device = choose_device(options.device)
    watch = Stopwatch(
        seconds={"start": verified - start, "read": read - verified, "import": time.perf_counter() - read}
    )
    warnings = [*case.warnings, *([device.warning] if device.warning else [])]
    warnings += [f"{MOUNTED} holds no manifest.json and is not used"] if options.unused_mount else []
    tell(warnings)
    say(f"{bundle.manifest.name} ({bundle.manifest.method}) on {device.name}", sys.stdout)
    with Progress(sys.stderr) as progress:
        ready = make_ready(case, bundle, watch)
        with watch.stage("import"):
            for thread in begun:
                thread.join()
        result = segment_ready(ready, bundle, device, watch, progress, options.save_probabilities, networks)
    tell(list(result.warnings))
    with Staging() as staging:
        with watch.stage("write"):
            warnings += [*result.warnings, *write(names, case, result, staging)]
        report = make_report(case, bundle, device, result, warnings, watch.seconds)
        if "report" in names:
            write_json(report, names["report"], staging)
        on_signals(then)  # from here on the result is complete
        staging.commit()
    for line in [*summary(report, str(names["mask"])), f"total {time.perf_counter() - start:.1f} s"]:
        say(line, sys.stdout)
    return names["mask"]


def get_ready(manifest: Any, device: str) -> None:
    """Import torch and the road, and wake the GPU: seconds, in which the study is read."""
    import model.inference.segment  # noqa: F401
    import model.results.run_summary  # noqa: F401  what comes after the study, and torch with it
    from model.inference.device import choose_device, make_deterministic
    from model.inference.ensemble import rehearse

    make_deterministic()
    rehearse(manifest, choose_device(device))


def serve(options: argparse.Namespace) -> None:
    """Studies one after the other, as HTTP asks for them, by one bundle that is loaded once, until a signal comes."""
    from model.challenge.service import Service

    with Service(options.port, options.bind) as service:  # first of all, so that a port in use is told at once
        bundle = chosen_bundle(options)

        import model.results.run_summary  # noqa: F401  the whole road, so that no job waits for an import
        import model.results.writing  # noqa: F401
        from model.inference.device import choose_device, give_back_freed_memory, make_deterministic
        from model.networks.weights import keep, voters

        make_deterministic()
        networks = keep(voters(bundle), choose_device(options.device).torch_device)
        on_signals(service.stop)
        service.ready = True
        say(f"ready after {time.perf_counter() - START:.1f} s: {service.address}", sys.stdout)
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


def targets(options: argparse.Namespace, name: str) -> dict[str, Path]:
    """Every file that this run writes, the mask first."""
    from model.results.writing import DATA_CENTRIC, mask_path

    wanted = {
        "mask": mask_path(options.output, name, options.edition),
        "data-centric": options.output / DATA_CENTRIC if options.edition == 3 else None,
        "probabilities": options.output / f"{name}_probabilities.nrrd" if options.save_probabilities else None,
        "preview": options.output / f"{name}_preview.png" if options.preview else None,
        "report": options.report,
    }
    return {what: path for what, path in wanted.items() if path}


def chosen_bundle(options: argparse.Namespace) -> Bundle:
    """The bundle that the options or the environment name, verified, with --limit applied."""
    bundle = load_bundle(find_bundle(options.weights, options.method), options.method)
    limits = override_limits(bundle.manifest.limits, options.limit)
    return replace(bundle, manifest=replace(bundle.manifest, limits=limits))


def write(names: dict[str, Path], case: Any, result: Any, staging: Any) -> list[str]:
    """Stage the mask and whatever else was asked for, but the report; a warning of a picture that cannot be drawn."""
    from model.results import writing

    writing.write_mask(result.mask, case.pet.grid, names["mask"], staging)
    if "data-centric" in names:
        writing.write_json(False, names["data-centric"], staging)
    if "probabilities" in names:
        writing.write_probabilities(result.probability, case.pet.grid, names["probabilities"], staging)
    if "preview" in names:
        from model.results.preview import preview
        from model.study.geometry import las_view

        view = las_view(case.pet.grid)
        suv, mask = view.to_las(case.pet.array), view.to_las(result.mask)
        try:
            picture = preview(suv, mask, view.grid.spacing_mm, f"{case.name}  {RESEARCH}")
        except Exception as error:  # an extra: the mask is written, and the reason told
            warning = f"no preview was made: {type(error).__name__}: {error} (the mask is whole)"
            tell([warning])
            return [warning]
        writing.write_bytes(picture, names["preview"], staging)
    return []


def on_signals(handler: Any) -> None:
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, handler)


def stop(number: int, frame: object) -> None:
    """What SIGINT and SIGTERM do: end the run through main, so that temporary files are removed."""
    raise Stopped(number)


def tell(warnings: list[str]) -> None:
    for warning in warnings:
        say(f"warning: {one_line(warning)}", sys.stderr)


def reason(error: Exception) -> tuple[str, int]:
    """What a user is told of an error, and the exit code."""
    if isinstance(error, LesionError):
        return str(error), error.exit_code
    if isinstance(error, PermissionError) and error.filename is not None:
        where = os.fsdecode(error.filename)
        return f"'{where}' cannot be used: {error.strerror}; check access to '{where}'", CaseError.exit_code
    if isinstance(error, MemoryError):
        return "the study does not fit into memory; use a machine with more", CaseError.exit_code
    return f"unexpected {type(error).__name__}: {error}; run again with --debug and report what it prints", 1


def fail(message: str, code: int) -> int:
    """The whole message as one last line on stderr."""
    say(f"error: {one_line(message)}", sys.stderr)
    return code


def one_line(message: str) -> str:
    return " ".join(message.splitlines())


if __name__ == "__main__":
    try:
        code = main()
    except Exception:  # with --debug
        traceback.print_exc()
        code = 1
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError):  # whoever read it is gone
            stream.flush()
    os._exit(code)  # all is written; to take torch and CUDA down takes a third of a second
