"""What process.py measures of a mask if it is asked to: rules about lesions, and the numbers for its report."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from model.errors import ConfigError
from model.results.body_size import HEIGHT_M, SEXES, WEIGHT_KG, BodySize
from model.results.reference_options import RADIUS_MM, add_sphere_options, sphere_from
from model.results.rule_options import add_rule_options, check_rule_options, rules_of

if TYPE_CHECKING:  # numpy, scipy and scikit-image come in when they are needed
    from model.inference.segment import Result
    from model.results.study_measures import Asked, StudyMeasures
    from model.study.geometry import Grid
    from model.study.reading import Case

SIZE = {"weight_kg": (*WEIGHT_KG, "kg"), "height_m": (*HEIGHT_M, "m, not cm")}


def add_measure_options(parser: argparse.ArgumentParser) -> None:
    """Add the options about lesions, and about what they are compared with."""
    add_rule_options(
        parser.add_argument_group("what is no lesion, and how lesions are drawn: the mask is that of the rules")
    )
    group = parser.add_argument_group("what lesions are compared with, in the report")
    add_sphere_options(group)
    for what in RADIUS_MM:
        group.add_argument(
            f"--{what}-mask",
            type=Path,
            metavar="FILE",
            help=f"a segmentation of the {what} in place of a sphere: 0 and 1 on the PET's grid (default: none; cost: "
            "none)",
        )
    for name, (low, high, unit) in SIZE.items():
        group.add_argument(
            f"--{name.replace('_', '-')}",
            type=float,
            metavar=name.split("_")[1].upper(),
            help=f"the patient's {name.split('_')[0]}, {low:g} to {high:g} {unit}, for SUL (default: not known; cost: "
            "none)",
        )
    group.add_argument(
        "--sex", choices=tuple(SEXES), help="the patient's sex, for SUL (default: not known; cost: none)"
    )


def check_measure_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for values that no run can use."""
    check_rule_options(options)
    for what in RADIUS_MM:
        sphere, path = getattr(options, f"{what}_sphere"), getattr(options, f"{what}_mask")
        if sphere and path:
            raise ConfigError(f"--{what}-sphere and --{what}-mask both say where the {what} is; leave one of them out")
        if sphere:
            sphere_from(sphere, what, f"--{what}-sphere")
        if path and not path.is_file():
            raise ConfigError(f"--{what}-mask '{path}' is no file; give a mask on the PET's grid")
    for name, (low, high, unit) in SIZE.items():
        value = getattr(options, name)
        if value is not None and not low <= value <= high:
            raise ConfigError(
                f"--{name.replace('_', '-')} must lie between {low:g} and {high:g}, in {unit}, got {value:g}"
            )


def is_asked(options: argparse.Namespace) -> bool:
    """Whether any of the options is given."""
    given = [getattr(options, f"{what}_{kind}") for what in RADIUS_MM for kind in ("sphere", "mask")]
    return bool(rules_of(options).plain or any([*given, options.weight_kg, options.height_m, options.sex]))


def asked_of(options: argparse.Namespace, grid: "Grid") -> "Asked":
    """What the options ask to measure. grid: the PET's. Raises CaseError if a segmentation cannot be used."""
    from model.results.study_measures import Asked
    from model.study.masks import check_grid, read_mask

    masks = {}
    for what in RADIUS_MM:
        if path := getattr(options, f"{what}_mask"):
            masks[what], found = read_mask(path, f"--{what}-mask")
            check_grid(found, f"--{what}-mask '{path}'", grid, "the PET")
    spheres = {what: getattr(options, f"{what}_sphere") for what in RADIUS_MM}
    size = BodySize(weight_kg=options.weight_kg, height_m=options.height_m, sex=options.sex or "")
    return Asked(
        rules=rules_of(options),
        size=size,
        spheres={what: sphere_from(text, what, f"--{what}-sphere") for what, text in spheres.items() if text},
        masks=masks,
    )


def measured(case: "Case", result: "Result", asked: "Asked", organ_names: Sequence[str]) -> "StudyMeasures":
    """The mask by the rules, and what was measured of it."""
    from model.results.study_measures import measure_study

    return measure_study(case, result.mask, asked, result.organs, tuple(organ_names))


def report_of(measures: "StudyMeasures") -> dict[str, Any]:
    """What --report says of it."""
    from model.results.lesion_table import lesions_json

    found = lesions_json(measures)
    rules = {"lesion_rules": found["rules"]} if measures.ruled else {}
    table = {"lesion_table": found["lesions"], "totals": found["totals"], "definitions": found["definitions"]}
    return {"lesions": measures.totals.lesions, **table, "numbers": found["numbers"], **rules}


def dropped_lines(measures: "StudyMeasures") -> list[str]:
    """A line for each lesion that was left out."""
    return [
        f"dropped: lesion {one.number}, {one.volume_ml:.2f} ml, SUVmax {one.suv_max:.2f}: {one.reason}"
        for one in measures.dropped
    ]
