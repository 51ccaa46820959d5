"""One study of process.py, from the input to the mask under its final name; no algorithm here."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any

from model import PET_ALONE, RESEARCH
from model.bundle.format import Manifest
from model.bundle.manifest import MOUNTED, Bundle
from model.bundle.organs import organ_names
from model.challenge.ending import on_signals, warn
from model.challenge.measured import asked_of, dropped_lines, is_asked, measured, report_of
from model.results.rule_options import check_organs_known
from model.terminal import Progress, say

if TYPE_CHECKING:  # numpy, SimpleITK and torch come in when they are needed
    from model.inference.segment import Result
    from model.networks.weights import Voter
    from model.study.reading import Case
    from model.whole import Staging


def run(
    options: argparse.Namespace,
    bundle: Bundle,
    start: float,
    networks: "list[Voter] | None" = None,
    on_signal_at_end: Any = signal.SIG_IGN,
) -> Path:
    """Run one study. Returns the mask's path. Raises the errors of model/errors.py, and then leaves no file.

    start: when the run began, by time.perf_counter. networks: loaded already, by a service; without them each is loaded
    when its turn comes. on_signal_at_end: handles signals once the result is complete.
    """
    organs = organ_names(bundle.manifest) if options.organs else ()
    if organs:
        check_organs_known(options, organs)
    verified = time.perf_counter()

    from model.results.writing import check_output, check_targets, write_json
    from model.whole import Staging

    check_output(options.output)
    case, preparing = read_study(options, bundle, in_background=networks is None)
    names = targets(options, case.name)
    inputs = [volume.path for volume in (case.pet, case.ct) if volume]
    check_targets(options.output, list(names.values()), inputs, names.get("organs"))
    asked = asked_of(options, case.pet.grid) if is_asked(options) else None
    read = time.perf_counter()

    from model.inference.device import choose_device, make_deterministic
    from model.inference.options import SegmentOptions
    from model.inference.segment import make_ready, segment_ready
    from model.results.organs import measure_organs, organs_report
    from model.results.run_summary import make_report, precision_of, summary
    from model.stopwatch import Stopwatch

    make_deterministic()
    device = choose_device(options.device, options.precision)
    watch = Stopwatch(
        seconds={"start": verified - start, "read": read - verified, "import": time.perf_counter() - read}
    )
    warnings = [*bundle.warnings, *case.warnings, *([device.warning] if device.warning else [])]
    warnings += [f"{MOUNTED} holds no manifest.json and is not used"] if options.unused_mount else []
    warn(warnings)
    say(f"{bundle.label} on {device.name}, {precision_of(device)}", sys.stdout)
    with Progress(sys.stderr) as progress:
        ready = make_ready(case, bundle, watch)
        with watch.stage("import"):
            for thread in preparing:
                thread.join()
        how = SegmentOptions(
            bundle=bundle,
            device=device,
            voters=networks,
            with_probability=options.save_probabilities,
            with_organs=options.organs,
            on_windows=progress,
            on_estimate=lambda estimate: progress.say(estimate.words()),
        )
        result = segment_ready(ready, how, watch)
    measures = None
    if asked is not None:
        with watch.stage("measure"):
            measures = measured(case, result, asked, organs)
        result = replace(result, mask=measures.mask, warnings=(*result.warnings, *measures.warnings))
    warn(result.warnings)
    with Staging() as staging:
        with watch.stage("write"):
            warnings += [*result.warnings, *stage_results(names, case, result, organs, staging)]
        report = make_report(case, bundle, device, result, warnings, watch.seconds)
        report |= report_of(measures) if measures else {}
        if "report" in names and result.organs is not None:
            found = measure_organs(case.pet.array, result.organs, result.mask, case.pet.grid, organs)
            report["organs"] = organs_report(found, bundle)
        if "report" in names:
            write_json(report, names["report"], staging)
        on_signals(on_signal_at_end)
        staging.commit()
    more = dropped_lines(measures) if measures else []
    more += [f"organs: {names['organs']}"] if "organs" in names else []
    for line in [*summary(report, str(names["mask"])), *more, f"total {time.perf_counter() - start:.1f} s"]:
        say(line, sys.stdout)
    return names["mask"]


def read_study(options: argparse.Namespace, bundle: Bundle, in_background: bool) -> "tuple[Case, list[Thread]]":
    """The study; and, with in_background, the thread that runs `get_ready` from when its files are found."""
    from model.background import run_in_background
    from model.study.reading import read_case

    threads: list[Thread] = []

    def on_found() -> None:
        if in_background:
            threads.append(run_in_background(lambda: get_ready(bundle.manifest, options.device, options.precision)))

    manifest = bundle.manifest
    return read_case(options.input, manifest.limits, on_found, manifest.pet_alone), threads


def get_ready(manifest: Manifest, device: str, precision: str = "auto") -> None:
    """Import torch and inference, and warm up the GPU: this takes seconds, during which the study is read."""
    import model.inference.segment  # noqa: F401
    import model.results.run_summary  # noqa: F401
    from model.inference.device import choose_device, make_deterministic
    from model.inference.warm_up import warm_up

    make_deterministic()
    warm_up(manifest, choose_device(device, precision))


def targets(options: argparse.Namespace, name: str) -> dict[str, Path]:
    """The path of every file that this run writes, by what it is; the mask first."""
    from model.results.writing import DATA_CENTRIC, mask_path

    paths = {
        "mask": mask_path(options.output, name, options.edition),
        "data-centric": options.output / DATA_CENTRIC if options.edition == 3 else None,
        "organs": options.output / f"{name}_organs.mha" if options.organs else None,
        "probabilities": options.output / f"{name}_probabilities.nrrd" if options.save_probabilities else None,
        "preview": options.output / f"{name}_preview.png" if options.preview else None,
        "report": options.report,
    }
    return {what: path for what, path in paths.items() if path}


def stage_results(
    names: dict[str, Path], case: "Case", result: "Result", organs: Sequence[str], staging: "Staging"
) -> list[str]:
    """Stage the mask and what else was asked for, except the report. A preview that fails is returned as a warning.

    organs: what the labels of the organ map mean.
    """
    from model.results import writing

    writing.write_mask(result.mask, case.pet.grid, names["mask"], staging)
    if "organs" in names and result.organs is not None:
        writing.write_mask(result.organs, case.pet.grid, names["organs"], staging, organs)
    if "data-centric" in names:
        writing.write_json(False, names["data-centric"], staging)
    if "probabilities" in names and result.probability is not None:
        writing.write_probabilities(result.probability, case.pet.grid, names["probabilities"], staging)
    if "preview" in names:
        from model.results.preview import preview
        from model.study.geometry import las_view

        view = las_view(case.pet.grid)
        suv, mask = view.to_las(case.pet.array), view.to_las(result.mask)
        try:
            marked = f"\n{PET_ALONE}" if case.ct is None else ""
            picture = preview(suv, mask, view.grid.spacing_mm, f"{case.name}  {RESEARCH}{marked}")
        except Exception as error:  # only an extra: the mask is written all the same
            warning = f"no preview was made: {type(error).__name__}: {error} (the mask is whole)"
            warn([warning])
            return [warning]
        writing.write_bytes(picture, names["preview"], staging)
    return []
