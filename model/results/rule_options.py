"""The options about what is no lesion and how lesions are drawn, which process.py and score.py share; all are off.

`model.results.lesion_rules` applies them. This file needs no library, so that a wrong option is an error at once.
"""

import argparse
import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from model.errors import ConfigError

NO_REFINEMENT, LIVER = "none", "liver"
OF_MAXIMUM = {"41%": 0.41, "50%": 0.5}  # shares of a lesion's SUVmax
FIXED_SUV = {"suv4": 4.0, "suv2.5": 2.5}
REFINEMENTS = (*OF_MAXIMUM, *FIXED_SUV, LIVER, NO_REFINEMENT)
LARGEST = {"min_volume_ml": 1e4, "min_suv_max": 1e3, "refine_within_mm": 100.0}


@dataclass(frozen=True, kw_only=True)
class LesionRules:
    """What is no lesion, and how lesions are drawn. As built, nothing is dropped or changed.

    drop: numbers of lesions, which stay the same whatever the other rules are. not_in: names of organs, or a word of
    their names. refine: one of REFINEMENTS, and how far around the found lesion it may reach.
    """

    min_volume_ml: float = 0.0
    min_suv_max: float = 0.0
    in_air: bool = False
    outside_body: bool = False
    not_in: tuple[str, ...] = ()
    refine: str = NO_REFINEMENT
    refine_within_mm: float = 0.0
    drop: tuple[int, ...] = ()

    @property
    def plain(self) -> dict[str, Any]:
        """The rules that are on; {} if none is."""
        default = LesionRules()
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if value != getattr(default, name)}

    @property
    def words(self) -> str:
        """The rules that are on, as readers see them: "min_volume_ml 0.5, not_in bladder+brain"; "" if none is."""
        return ", ".join(_words(name, value) for name, value in self.plain.items())

    @property
    def need_hu(self) -> bool:
        """Whether the CT on the PET's grid is needed."""
        return self.in_air or self.outside_body


def rules_from(plain: Mapping[str, Any]) -> LesionRules:
    """The rules of a dictionary that came as JSON."""
    values: dict[str, Any] = {name: tuple(value) if isinstance(value, list) else value for name, value in plain.items()}
    return LesionRules(**values)


def add_rule_options(parser: Any) -> None:
    """Add the options to a parser or a group of it."""
    add = parser.add_argument
    add(
        "--min-volume-ml",
        type=float,
        default=0.0,
        metavar="ML",
        help="a lesion smaller than this is dropped; here, and in the next four: it is listed with the reason, and no "
        "number counts it (default: 0, none; cost: small lesions that are real)",
    )
    add(
        "--min-suv-max",
        type=float,
        default=0.0,
        metavar="SUV",
        help="a lesion whose SUVmax is below this is dropped (default: 0, none; cost: faint lesions that are real)",
    )
    add(
        "--drop-in-air",
        action="store_true",
        help="drop lesions whose voxels all lie in air on the CT, below -700 HU, and whose SUVmax is below 1 (default: "
        "no; cost: some seconds a study)",
    )
    add(
        "--drop-outside-body",
        action="store_true",
        help="drop lesions that lie more than 10 mm outside the body on the CT (default: no; cost: some seconds a "
        "study, and lesions in a hand that the CT shows apart)",
    )
    add(
        "--not-in",
        type=_names,
        default=(),
        metavar="ORGAN,ORGAN",
        help="drop lesions of which more than half lies in one of these organs, such as bladder,kidneys,brain,heart; "
        "needs an organ map, else it is a warning (default: none; cost: tumours of these organs)",
    )
    add(
        "--refine",
        default=NO_REFINEMENT,
        metavar="|".join(REFINEMENTS),
        help="draw each lesion anew by a threshold: a share of its SUVmax, SUV 4 or 2.5, or the liver's 1.5 x mean + 2 "
        "standard deviations; tables have both volumes (default: none, as the networks drew it; cost: under a "
        "second, seconds for hundreds of lesions)",
    )
    add(
        "--refine-within-mm",
        type=float,
        default=0.0,
        metavar="MM",
        help="how far around the lesion as the networks drew it the refined one may reach (default: 0, only "
        "inside; cost: near hot organs that are no lesion may come in)",
    )


def check_rule_options(options: argparse.Namespace) -> None:
    """Raise ConfigError for values that no run can use."""
    for name, largest in LARGEST.items():
        value = getattr(options, name)
        if not (math.isfinite(value) and 0 <= value <= largest):
            raise ConfigError(f"--{name.replace('_', '-')} must be 0 to {largest:g}, got {value:g}")
    if options.refine not in REFINEMENTS:
        raise ConfigError(f"--refine must be one of {', '.join(REFINEMENTS)}, got {options.refine!r}")
    if options.refine_within_mm and options.refine == NO_REFINEMENT:
        raise ConfigError("--refine-within-mm says how far --refine may reach; give --refine, too, or leave it out")


def rules_of(options: argparse.Namespace) -> LesionRules:
    """The rules that the options ask for."""
    return LesionRules(
        min_volume_ml=options.min_volume_ml,
        min_suv_max=options.min_suv_max,
        in_air=options.drop_in_air,
        outside_body=options.drop_outside_body,
        not_in=options.not_in,
        refine=options.refine,
        refine_within_mm=options.refine_within_mm,
    )


def organs_meant(wanted: Sequence[str], names: Sequence[str]) -> tuple[list[str], list[str]]:
    """The organs of `names` that the words mean ("bladder" means "urinary bladder"), and the words that mean none."""
    meant: list[str] = []
    unknown = []
    for word in wanted:
        found = [name for name in names if word.lower() == name.lower() or word.lower() in name.lower().split()]
        meant += found
        unknown += [] if found else [word]
    return meant, unknown


def check_organs_known(options: argparse.Namespace, names: Sequence[str]) -> None:
    """Raise ConfigError if --not-in names an organ that is not among those of the organ map that will be made."""
    unknown = organs_meant(options.not_in, names)[1]
    if unknown:
        raise ConfigError(f"--not-in {unknown[0]}: these networks know no such organ; they know {', '.join(names)}")


def _names(words: str) -> tuple[str, ...]:
    names = tuple(name.strip().lower() for name in words.split(",") if name.strip())
    if not names:
        raise argparse.ArgumentTypeError(f"{words!r} names no organ; give names with commas between them")
    return names


def _words(name: str, value: Any) -> str:
    if value is True:
        return name
    if isinstance(value, tuple):
        return f"{name} {'+'.join(map(str, value))}"
    return f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
