"""What is sent to a scoring process: once the setup, then a job for each study. All of it travels as JSON."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.hospital.find.entry import Entry

ESTIMATE = "estimate"  # the state of an answer that says how long a study will take; another answer follows
LATER = ("organs", "picture")  # options that older keys lack


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

    @property
    def plain(self) -> dict[str, Any]:
        """As a dictionary, for the keys of results: what came later is in it only if asked for."""
        return {name: value for name, value in asdict(self).items() if value or name not in LATER}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One study and where its results go. name: the study's name in the results. key: hash of the weights and of
    everything else that the results depend on; mask_key: hash of what the mask depends on besides its images.
    stored: name of the study's folder in the results if its mask was made with this mask_key from the same images:
    then no network is needed; else "".
    """

    name: str
    entry: Entry
    root: Path
    output: Path
    key: str
    options: Options
    mask_key: str = ""
    stored: str = ""

    @property
    def mask(self) -> str:
        """The name of the mask's file in the study's folder."""
        return f"mask{self.options.mask_ending}"

    @property
    def organ_map(self) -> str:
        """The name of the organ map's file in the study's folder."""
        return f"organs{self.options.mask_ending}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """The bundle's folder, the method, the folds and mirroring, the device, the precision, and changed limits.

    networks: whether to load the networks at the start; if not, they are loaded when the first study needs them.
    limit_s: seconds after which a study is given up; 0: never.
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


def to_json(value: Job | Setup) -> str:
    """One line. File names that are not UTF-8 survive: they hold lone surrogates, which JSON escapes."""
    return json.dumps(asdict(value), default=str)


def job_from(data: dict[str, Any]) -> Job:
    entry = dict(data["entry"])
    for name in ("pet", "ct"):
        entry[name] = tuple(map(Path, entry[name]))
    for name in ("picks", "person", "also"):
        entry[name] = tuple(entry[name])
    entry["source"], entry["warnings"] = Path(entry["source"]), tuple(entry["warnings"])
    entry["truth"] = Path(entry["truth"]) if entry["truth"] else None
    return Job(
        name=data["name"],
        entry=Entry(**entry),
        root=Path(data["root"]),
        output=Path(data["output"]),
        key=data["key"],
        options=Options(**data["options"]),
        mask_key=data["mask_key"],
        stored=data["stored"],
    )


def setup_from(data: dict[str, Any]) -> Setup:
    folds = data.get("folds")
    return replace(Setup(**data), limits=tuple(data["limits"]), folds=tuple(folds) if folds else None)
