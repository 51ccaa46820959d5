"""One study to score and where its results go: what the process that hands out studies tells the one that scores."""

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from model.hospital.find.entry import Entry


@dataclass(frozen=True, kw_only=True)
class Options:
    """What is made of every study. mask_ending: .mha or .nii.gz."""

    mask_ending: str = ".mha"
    rtstruct: bool = False
    disagreement: bool = False
    convention: str = "autopet_1_2"  # of empty masks, where there is a truth
    named: bool = False  # whether messages may hold the names of files and patients


@dataclass(frozen=True, kw_only=True)
class Job:
    """A study under the name it has in the results. key: hash of the weights and of everything else that counts;
    mask_key: of what the mask depends on besides its images. stored: the study's folder in the results whose mask was
    made with that mask_key from the same images, if there is one: then no network is needed.
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
        """The mask's file in the study's folder."""
        return f"mask{self.options.mask_ending}"


@dataclass(frozen=True, kw_only=True)
class Setup:
    """What a scoring process is told once: the bundle's folder, the method, the device, and moved limits.

    networks: whether any study needs them; without, they are loaded when the first one does after all.
    """

    weights: str
    method: str | None
    device: str
    limits: tuple[str, ...] = ()
    debug: bool = False
    networks: bool = True


def to_json(value: Job | Setup) -> str:
    """One line; file names that are no text are kept (as lone surrogates, which JSON escapes)."""
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
    return replace(Setup(**data), limits=tuple(data["limits"]))
