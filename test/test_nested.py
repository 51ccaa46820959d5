from dataclasses import replace
from pathlib import Path

import pytest
from conftest import lesion_study

from model.errors import ConfigError
from training.nested import Data, Shipping, fold_of
from training.settings import build, read_yaml
from training.split import Fold

PLAN = Path(__file__).resolve().parent.parent / "training" / "configs" / "shipped.yaml"


@pytest.fixture(scope="module")
def shipping() -> Shipping:
    return build(Shipping, read_yaml(PLAN), str(PLAN))


def test_the_run_on_phantoms_is_as_long_as_its_own_schedule(shipping) -> None:
    settings = shipping.start_settings
    assert settings.schedule.stop is None and settings.schedule.epochs > shipping.plan.base.schedule.epochs
    assert settings.network == shipping.plan.base.network


def test_a_fold_trains_on_originals_and_is_scored_on_cut_copies_of_others(shipping, tmp_path) -> None:
    studies = [lesion_study(tmp_path, seed) for seed in range(3)]
    copies = {s.patient: [f"{s.case}-r0", f"{s.case}-r1"] for s in studies}
    data = Data(
        studies={s.case: s for s in studies} | {c: replace(s, case=c) for s in studies for c in copies[s.patient]},
        phantoms=Fold(name="p", train=("A0",), validate=("A1",), test=("A2",)), copies=copies,
        originals={s.patient: [s.case] for s in studies}, cache=tmp_path,
    )  # fmt: skip
    fold = fold_of("f", {"patient0"}, {"patient1"}, {"patient2"}, replace(shipping, repeats=3), data)
    assert fold.train == ("A0", "case0", "case0", "case0")
    assert fold.validate == ("case1-r0", "case1-r1", "A1") and fold.test == ("case2-r0", "case2-r1")


def test_shipped_seeds_keep_to_their_ranges_and_f_is_never_seen(shipping) -> None:
    phantoms = shipping.plan.phantoms
    assert all(first + count <= 100_000 for first, count in phantoms["train"].values())
    assert all(100_000 <= first and first + count <= 200_000 for first, count in phantoms["validate"].values())
    assert all(200_000 <= first for first, _ in phantoms["test"].values())
    assert "F" in phantoms["test"] and "F" not in {*phantoms["train"], *phantoms["validate"]}


def test_no_repeat_or_copy_is_refused(shipping) -> None:
    with pytest.raises(ConfigError, match="must be 1 or more"):
        replace(shipping, repeats=0)
