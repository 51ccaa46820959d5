"""One study of process.py, from the input to the renamed mask; no algorithm here."""

import argparse
import signal
import sys
import time
from pathlib import Path
from typing import Any

from model import RESEARCH
from model.bundle.manifest import MOUNTED, Bundle, find_bundle, load_bundle, with_limits
from model.challenge.ending import on_signals, tell
from model.terminal import Progress, say


def run(
    options: argparse.Namespace, bundle: Bundle, start: float, networks: Any = None, then: Any = signal.SIG_IGN
) -> Path:
    """One study, from the input to the renamed mask. Raises the errors of model/errors.py, then leaves no file.

    networks: those a service holds; without them each is loaded when its turn comes. then: who is told of signals
    once the result is complete. Returns the mask's path.
    """
    verified = time.perf_counter()

    from model.background import run_in_background
    from model.results.writing import check_output, check_targets, write_json
    from model.study.reading import read_case
    from model.whole import Staging

    check_output(options.output)
    begun: list[Any] = []

    def found() -> None:
        if networks is None:
            begun.append(run_in_background(lambda: get_ready(bundle.manifest, options.device)))

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
    return with_limits(bundle, options.limit)


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
