"""The plan of the shipped weights, in YAML: what training nested trains, and which bundles come of it."""

from pathlib import Path
from typing import Any

from msgspec import Struct, field

from model.errors import ConfigError
from model.schema import check_fields
from training.ensembles.select import TITLES
from training.papers.plan import ExperimentPlan
from training.settings import Training, changed

PLAN = Path(__file__).parent.with_name("configs") / "shipped.yaml"
CHOICES = {title: name for name, title in TITLES.items()}
SHIPPED = "all"  # the fold of the shipped weights, and its folder below --run
SELECTION = "selection.json"  # in every fold's folder
SCORED = "scored.json"  # in an outer fold's folder when it is scored
WRITTEN = "written.json"  # in the folder of SHIPPED: what the bundles were written from


class Shipping(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The keys of a plan for shipped weights. plan: base run, members and phantoms. bundles: {name below weights/: the
    choice it holds, EoA greedy and the like}. starts: {name: changes of settings} of runs on phantoms alone; each goes
    on from the one before, and every base run from the last; without any, base runs begin with random weights. copies:
    re-crops of each real study. originals: whole images train, too. blended: studies made of each real study that
    trains, its tumour in the body of a phantom that trains (training blend).
    """

    plan: ExperimentPlan
    bundles: dict[Any, str]
    starts: dict[Any, Any] = field(default_factory=dict)
    copies: int = 2
    originals: bool = False
    blended: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        check_fields(self)
        unknown = sorted(set(self.bundles.values()) - set(CHOICES))
        if unknown or not self.bundles:
            raise ConfigError(f"bundles must name choices out of {', '.join(CHOICES)}, got {self.bundles}")
        if self.copies < 1:
            raise ConfigError(f"copies must be 1 or more, got {self.copies}")
        if self.blended < 0:
            raise ConfigError(f"blended must be 0 (none) or more, got {self.blended}")
        self.start_settings()

    def start_settings(self) -> dict[str, Training]:
        """Settings of the runs on phantoms alone, by name, in order."""
        common = changed(self.plan.base, {"schedule": {"stop": None}})
        return {name: changed(common, changes, f"starts: {name}") for name, changes in self.starts.items()}
