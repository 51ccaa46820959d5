"""The options of score.py about edits: what to take back, which lesions to drop, what to undo."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.errors import ConfigError

ALL = "all"  # of --undo-edits: every edited study


@dataclass(frozen=True, kw_only=True)
class WantedEdits:
    """What the options ask for. masks: a folder with edited masks. recompute: look for edits in the results. drop:
    pairs of a study, "" where the command names none, and the numbers of its table. undo: studies, or the word all.
    """

    masks: Path | None = None
    recompute: bool = False
    drop: tuple[tuple[str, tuple[int, ...]], ...] = ()
    undo: tuple[str, ...] = ()


def wanted_edits(options: Namespace) -> WantedEdits:
    """What the options ask for. Raises ConfigError."""
    drop: dict[str, list[int]] = {}
    for word in options.drop or ():
        study, _, numbers = str(word).rpartition(":")
        try:
            drop.setdefault(study or options.study or "", []).extend(int(number) for number in numbers.split(","))
        except ValueError:
            raise ConfigError(
                f"--drop {word!r} is no lesion's number; write --drop 3 7, or --drop STUDY:3,7, after all folders"
            ) from None
    if options.study and not options.drop:
        raise ConfigError("--study says of which study --drop takes lesions; give --drop with their numbers, too")
    return WantedEdits(
        masks=options.masks,
        recompute=options.recompute,
        drop=tuple((study, tuple(numbers)) for study, numbers in drop.items()),
        undo=tuple(options.undo_edits or ()),
    )


def add_edit_options(parser: Any) -> None:
    """Add the options to a parser or a group of it. Each makes new tables from masks, without a network."""
    add = parser.add_argument
    add(
        "--recompute",
        action="store_true",
        help="take back masks, SEG and RTSTRUCT that were edited and saved in the studies' folders of RESULTS, and "
        "make tables, pictures, SEG and pages anew; no network runs, and what is not scored yet stays so; score.py "
        "RESULTS --recompute does it with the other options of the last run (default: no; cost: seconds a study)",
    )
    add(
        "--masks",
        type=Path,
        metavar="FOLDER",
        help="the same with edited files from FOLDER, named after the study in the results or after its folder below "
        "STUDIES; SEG and RTSTRUCT are known by their UIDs (default: no; cost: seconds a study)",
    )
    add(
        "--drop",
        nargs="+",
        metavar="NUMBER",
        help="leave out the lesions with these numbers of the study's table; several studies: STUDY:3,7 OTHER:1 "
        "(default: none; cost: seconds a study)",
    )
    add("--study", metavar="STUDY", help="with --drop 3 7: of which study (default: the only one)")
    add(
        "--undo-edits",
        nargs="+",
        metavar="STUDY",
        help="take the networks' own result of these studies again, or of all (default: none; cost: seconds a study)",
    )


def asks_for_edits(options: Namespace) -> bool:
    """Whether the command is about edits: then no network runs."""
    return bool(options.recompute or options.masks or options.drop or options.undo_edits)
