"""What is sent to a scoring process: once the setup, then a job for each study. All of it travels as JSON."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model import PET_ALONE
from model.hospital.find.entry import Entry
from model.results.rule_options import LesionRules, rules_from

LATER = ("organs", "picture", "sr", "pdf", "rules")  # options that older results do not name
ESTIMATE = "estimate"  # the state of an answer that says how long a study will take; another answer follows


@dataclass(frozen=True, kw_only=True)
class Options:
    """What to write for every study. mask_ending: .mha or .nii.gz."""

    mask_ending: str = ".mha"
    rtstruct: bool = False
    disagreement: bool = False
    convention: str = "autopet_1_2"  # how empty masks are scored against a truth
    named: bool = False  # whether messages may hold the names of files and patients
    organs: bool = False
    picture: bool = False
    sr: bool = False
    pdf: bool = False
    rules: LesionRules = LesionRules()

    @property
    def plain(self) -> dict[str, Any]:
        """As a dictionary, for the keys of results: what came later is in it only if asked for."""
        values = asdict(self) | {"rules": self.rules.plain}
        return {name: value for name, value in values.items() if value or name not in LATER}


@dataclass(frozen=True, kw_only=True)
class Edit:
    """That a reader changed a study by hand. sha256: of the file with the edited mask; "" where lesions were only
    dropped by number. path: that file, where it is to be taken back now; None where the results have it already.
    """

    sha256: str = ""
    path: Path | None = None


@dataclass(frozen=True, kw_only=True)
class Job:
    """One study and where its results go. name: the study's name in the results. key: hash of the weights and of
    everything else that the results depend on; mask_key: hash of what the mask depends on besides its images.
    stored: name of the study's folder in the results if its mask was made with this mask_key from the same images:
    then no network is needed; else "". edit: what a reader changed; then `stored` holds the study's result, of
    whatever weights.
    """

    name: str
    entry: Entry
    root: Path
    output: Path
    key: str
    options: Options
    mask_key: str = ""
    stored: str = ""
    edit: Edit | None = None

    @property
    def mask(self) -> str:
        """The name of the mask's file in the study's folder."""
        return f"mask{self.options.mask_ending}"

    @property
    def network_mask(self) -> str:
        """The name of the file with the networks' own mask, where `mask` is another: by rules, or by an edit."""
        return network_mask_file(self.options.mask_ending)

    @property
    def edited_mask(self) -> str:
        """The name of the file with the mask of an edit, on the PET's grid, before rules."""
        return edited_mask_file(self.options.mask_ending)

    @property
    def edit_path(self) -> Path | None:
        """The file of an edit that is to be taken back now."""
        return self.edit.path if self.edit else None

    @property
    def edit_notice(self) -> str:
        """What every output says of an edit; "" without one."""
        if self.edit is None:
            return ""
        dropped = self.options.rules.drop
        file = f", file sha256 {self.edit.sha256}" if self.edit.sha256 else ""
        return f"Edited by hand{file}" + (f", lesions dropped: {', '.join(map(str, dropped))}" if dropped else "")

    @property
    def notice(self) -> str:
        """What every output says of the study beside that it is for research: PET alone, and an edit; "" if neither."""
        return ". ".join(filter(None, (PET_ALONE if self.entry.pet_alone else "", self.edit_notice)))

    @property
    def organ_map(self) -> str:
        """The name of the organ map's file in the study's folder."""
        return f"organs{self.options.mask_ending}"


@dataclass(frozen=True, kw_only=True)
class PairJob:
    """Two scored dates of one patient to compare. name: of the pair's folder. key: hash of all that it depends on.

    days: from the first to the second. limits: on the studies, as plain settings.
    """

    name: str
    key: str
    patient: str
    days: int
    first: Job
    second: Job
    limits: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The bundle's folder, the method, the folds and mirroring, the device, the precision, and changed limits.

    networks: whether to load the networks at the start; if not, they are loaded when the first study needs them.
    stored_only: whether a study is refused whose mask cannot be used any more.
    limit_s: seconds after which a study is given up; 0: never. pet_only: the bundle's folder of studies without CT, "":
    no other than `weights`.
    """

    weights: str
    method: str | None
    device: str
    limits: tuple[str, ...] = ()
    debug: bool = False
    networks: bool = True
    limit_s: float = 0
    precision: str = "auto"
    folds: tuple[str, ...] | None = None
    mirroring: str = "model"
    stored_only: bool = False
    pet_only: str = ""


def to_json(value: Job | PairJob | Setup) -> str:
    """One line. File names that are not UTF-8 survive: they hold lone surrogates, which JSON escapes."""
    return json.dumps(asdict(value), default=str)


def job_from(data: dict[str, Any]) -> Job:
    entry = dict(data["entry"])
    for name in ("pet", "ct"):
        entry[name] = tuple(map(Path, entry[name]))
    for name in ("picks", "person", "also"):
        entry[name] = tuple(entry[name])
    entry["source"], entry["warnings"] = Path(entry["source"]), tuple(entry["warnings"])
    for name in ("truth", "liver_mask", "blood_mask"):
        entry[name] = Path(entry[name]) if entry[name] else None
    edit = data["edit"]
    return Job(
        name=data["name"],
        entry=Entry(**entry),
        root=Path(data["root"]),
        output=Path(data["output"]),
        key=data["key"],
        options=options_from(data["options"]),
        mask_key=data["mask_key"],
        stored=data["stored"],
        edit=Edit(sha256=edit["sha256"], path=Path(edit["path"]) if edit["path"] else None) if edit else None,
    )


def pair_job_from(data: dict[str, Any]) -> PairJob:
    return PairJob(**data | {"first": job_from(data["first"]), "second": job_from(data["second"])})


def options_from(data: dict[str, Any]) -> Options:
    """The options of a dictionary that came as JSON, whole or as `Options.plain` writes it."""
    return Options(**data | {"rules": rules_from(data.get("rules", {}))})


def network_mask_file(ending: str) -> str:
    """The name of the file with the networks' own mask in a study's folder."""
    return f"network-mask{ending}"


def edited_mask_file(ending: str) -> str:
    """The name of the file with the mask of an edit, before rules, in a study's folder."""
    return f"edited-mask{ending}"


def setup_from(data: dict[str, Any]) -> Setup:
    folds = data.get("folds")
    return replace(Setup(**data), limits=tuple(data["limits"]), folds=tuple(folds) if folds else None)
