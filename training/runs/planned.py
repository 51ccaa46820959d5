"""Whether a run is the one that is planned: of these settings, cases and studies."""

from pathlib import Path
from typing import Any

from training.data.folds import Fold
from training.data.prepared import digest_of, load
from training.runs.fitted_schedule import fitted_settings
from training.runs.folder import differing
from training.settings import Training, settings_to


def differing_from_plan(config: Any, settings: Training, fold: Fold, cache: Path, **more: Any) -> list[str]:
    """The keys in which a run's config.yaml differs from what is planned; `data` stands for the studies' sha256.

    more: further keys that it must have, such as its start.
    """
    wanted: dict[str, Any] = {
        "settings": settings_to(fitted_settings(settings, config)),
        "train": list(fold.train),
        "validate": list(fold.validate),
        "data": digest_of(load(cache, case) for case in (*fold.train, *fold.validate)),
        **more,
    }
    found = config if isinstance(config, dict) else {}
    return differing({key: found.get(key) for key in wanted}, wanted)
