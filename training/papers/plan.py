"""A plan in YAML: the phantoms, how a base run and its members are trained, and how studies are cropped.

The plans of this project are in training/configs.
"""

from pathlib import Path
from typing import Any

from msgspec import Struct

from model.bundle.settings import Crop
from model.errors import ConfigError
from model.schema import Number, build, check_fields
from training.data.folds import PARTS
from training.ensembles.members import check_member_name
from training.phantom import study as phantoms_command
from training.phantom.physics import HELD_OUT_SITE, SITES
from training.settings import Training, changed, read_yaml, settings_from

RANGES = {  # of phantoms' seeds
    "train": phantoms_command.TRAINING_SEEDS,
    "validate": phantoms_command.VALIDATION_SEEDS,
    "test": (phantoms_command.TEST_SEEDS_FROM, 2**32),
}


class ExperimentPlan(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """phantoms: {part: {site: [first seed, how many]}}; on_maps: the same, of phantoms whose organs are those of real
    patients' maps; on_pet_grid: all of them with the CT on the PET's voxels; members: {name: changes of
    settings}.

    settings: of the base run, which ends at schedule.stop (t0); members run from there to schedule.epochs. pretrain:
    changes of settings for the CT encoder's run, null if there is none. networks: {row of table 2: network}. slices:
    changes of settings for the runs on slices of experiment wholebody. crop_suv_above: SUV, see training prepare.
    """

    settings: dict[Any, Any]
    members: dict[Any, Any]
    averaging: dict[Any, Any]
    phantoms: dict[Any, Any]
    networks: dict[Any, Any]
    on_maps: dict[Any, Any] = {}
    on_pet_grid: bool = False
    pretrain: dict[Any, Any] | None = None
    slices: dict[Any, Any] | None = None
    crop_suv_above: Number = 0.0

    def __post_init__(self) -> None:
        check_fields(self)
        if self.base.schedule.stop is None:
            raise ConfigError("settings.schedule.stop must be the epoch t0 at which members leave the base run; set it")
        if set(self.phantoms) != set(PARTS):
            raise ConfigError(f"phantoms must have {', '.join(PARTS)}, got {', '.join(map(str, self.phantoms))}")
        unknown = set(self.on_maps) - set(PARTS)
        if unknown:
            raise ConfigError(f"on_maps may have {', '.join(PARTS)}, got {', '.join(map(str, sorted(unknown)))}")
        for key, kind in (("phantoms", self.phantoms), ("on_maps", self.on_maps)):
            for part, sites in kind.items():
                for site, seeds in _mapping(sites, f"{key}.{part}").items():
                    check_seeds(part, site, seeds, key)
        self.member_settings()
        if self.pretrain is not None:
            changed(self.base, self.pretrain, "pretrain")
        if self.slices is not None:
            changed(self.base, self.slices, "slices")
        for name, network in _mapping(self.networks, "networks").items():
            changed(self.base, {"network": network}, f"networks: {name}")

    @property
    def base(self) -> Training:
        """Settings of the base run."""
        return settings_from(self.settings, "settings")

    @property
    def crop(self) -> Crop:
        """How studies are cropped."""
        return Crop(suv_above=self.crop_suv_above)

    def member_settings(self) -> dict[str, Training]:
        """Settings of every member by name: the base run's, averaged from t0 on, with the member's changes."""
        phase = {"averaging": self.averaging | {"start": self.base.schedule.stop}, "schedule": {"stop": None}}
        common = changed(self.base, phase, "averaging")
        members = _mapping(self.members, "members")
        for name in members:
            check_member_name(name, "members")
        return {name: changed(common, changes or {}, f"members: {name}") for name, changes in members.items()}


def check_seeds(part: str, site: object, seeds: object, key: str = "phantoms") -> None:
    """Refuse seeds that belong to another part of the phantoms, and the test site outside tests.

    One seed is one patient at every site. Raises ConfigError.
    """
    where = f"{key}.{part}.{site}"
    if site not in SITES:
        raise ConfigError(f"{where}: there is no site {site}; the sites are {', '.join(SITES)}")
    if site == HELD_OUT_SITE and part != "test":
        raise ConfigError(
            f"{where}: site {site} is for tests alone, so that no network was trained on its scanner; give another site"
        )
    if not (isinstance(seeds, list) and len(seeds) == 2 and all(type(number) is int for number in seeds)):
        raise ConfigError(f"{where} must be [first seed, how many], got {seeds}")
    low, high = RANGES[part]
    first, count = seeds
    if count < 1 or not low <= first <= first + count <= high:
        raise ConfigError(
            f"{where} is seeds {first} to {first + count - 1}; the seeds to {part} are {low} to {high - 1}"
        )


def _mapping(value: object, name: str) -> dict[str, Any]:
    """A mapping of YAML; {} for nothing. Raises ConfigError for anything else."""
    if value is None or isinstance(value, dict):
        return value or {}
    raise ConfigError(f"{name} must be a mapping, got {value!r}")


def read_plan(path: Path) -> ExperimentPlan:
    """Read a plan from YAML. Raises ConfigError naming the file and the key that is wrong."""
    return build(ExperimentPlan, read_yaml(path), str(path))
