"""The options of the last run over a results folder, so that `score.py RESULTS --recompute` says enough.

The file holds paths, so only its owner can read it.
"""

import json
from argparse import Namespace
from pathlib import Path
from typing import Any

from model.errors import ConfigError
from model.hospital.bundles import Bundles
from model.hospital.names import write_private
from model.hospital.pacs.settings import ONLY_WITH_LISTEN

LAST_RUN = ".last-run"
OF_ONE_RUN = (
    "output",
    "dry_run",
    "debug",
    "device",
    "recompute",
    "masks",
    "drop",
    "study",
    "undo_edits",
    "workers",
    "cluster",
    "slurm",
    "tls_ca",
    "tls_cert",
    "tls_key",
    "dashboard",
    "listen",
    "pacs",
    *ONLY_WITH_LISTEN,
)  # what a later run does not take over


def keep_options(options: Namespace, bundles: Bundles) -> None:
    """Write down what the run was asked for, and the folders of its bundles. Raises OutputError."""
    values = {name: _plain(value) for name, value in vars(options).items() if name not in OF_ONE_RUN}
    values["weights"] = _plain(bundles.main.folder)
    values["pet_only"] = _plain(bundles.pet_only.folder) if bundles.pet_only else None
    write_private(json.dumps(values, indent=1, sort_keys=True) + "\n", options.output / LAST_RUN)


def last_options(results: Path) -> dict[str, Any]:
    """What the last run over a results folder was asked for, by the names of options. Raises ConfigError."""
    path = results / LAST_RUN
    try:
        values = json.loads(path.read_text(encoding="utf-8", errors="surrogateescape"))
        if isinstance(values, dict) and isinstance(values.get("studies"), str):
            return values
        why = "it names no studies"
    except FileNotFoundError:
        why = "it is not there"
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "it is damaged"
    raise ConfigError(
        f"'{path}' would say which studies and options the last run had, and {why}; give them all again: score.py "
        "STUDIES --output RESULTS, the options of that run, and --recompute"
    )


def _plain(value: Any) -> Any:
    """A value as JSON can hold it; a folder or file by its whole path."""
    if isinstance(value, Path):
        return str(value if value == Path() else value.absolute())
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    return value
