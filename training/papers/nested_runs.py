"""Every run of training nested's plan, with its settings and its fold, as it is trained."""

import argparse

from training.data.folds import Fold
from training.papers.nested_data import NestedData
from training.papers.nested_folds import outer_folds, shipped_fold
from training.papers.shipping import Shipping
from training.settings import Training


def planned_runs(shipping: Shipping, data: NestedData, options: argparse.Namespace) -> dict[str, tuple[Training, Fold]]:
    """Settings and fold of every run, by its folder below --run."""
    runs = {str(name): (settings, data.phantoms) for name, settings in shipping.start_settings().items()}
    for fold in (shipped_fold(shipping, data, options), *(fold for fold, _ in outer_folds(shipping, data, options))):
        runs[f"{fold.name}/base"] = shipping.plan.base, fold
        members = shipping.plan.member_settings().items()
        runs |= {f"{fold.name}/members/{name}": (settings, fold) for name, settings in members}
    return runs
