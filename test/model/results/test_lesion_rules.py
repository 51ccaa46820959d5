from argparse import Namespace

import numpy as np
import pytest

from model.errors import ConfigError
from model.results.lesion_rules import LesionRules, Surroundings, apply_rules, found_numbers
from model.results.rule_options import check_organs_known
from model.study.geometry import Grid

GRID = Grid(
    size=(20, 20, 20), spacing_mm=(10.0, 10.0, 10.0), origin_mm=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)


def study(**changes) -> tuple[np.ndarray, Surroundings]:
    """Voxels of 1 ml; a body of 12 x 12 voxels in each slice. Lesions by found number: 1 of 8 voxels, SUV 10, in its
    middle; 2 of 4 voxels, SUV 5, 3 and 1 and 1, in its corner; 3 of one voxel, SUV 0.04, in a lung; 4 of one voxel, SUV
    0.03, in the air outside.
    """
    suv, hu = np.full((20, 20, 20), 0.5, np.float32), np.full((20, 20, 20), -1000.0, np.float32)
    hu[:, 4:16, 4:16] = 40
    hu[8:12, 5:8, 5:8] = -850
    mask = np.zeros(suv.shape, bool)
    mask[9:11, 9:11, 9:11], suv[9:11, 9:11, 9:11] = True, 10
    mask[15, 13, 10:14], suv[15, 13, 10:14] = True, (5, 3, 1, 1)
    mask[9, 6, 6], suv[9, 6, 6] = True, 0.04
    mask[5, 1, 1], suv[5, 1, 1] = True, 0.03
    organs = np.zeros(suv.shape, np.uint8)
    organs[:, :, 10:] = 1
    fields = {"suv": suv, "grid": GRID, "hu": hu, "organs": organs, "organ_names": ("urinary bladder", "liver")}
    return mask, Surroundings(**(fields | changes))


def kept_and_why(rules: LesionRules, **changes) -> tuple[list[int], list[tuple[int, str]]]:
    ruled = apply_rules(*study(**changes), rules)
    kept = sorted({*np.unique(ruled.labels).tolist()} - {0})
    assert (ruled.mask == (ruled.labels > 0)).all()
    assert sorted([*kept, *(one.number for one in ruled.dropped)]) == [1, 2, 3, 4]  # none is lost in silence
    return kept, [(one.number, one.reason.split(":")[0]) for one in ruled.dropped]


def test_without_rules_the_mask_stays_and_nothing_is_dropped() -> None:
    mask, around = study()
    ruled = apply_rules(mask, around, LesionRules())
    np.testing.assert_array_equal(ruled.mask, mask)
    assert ruled.found_ml == {1: 8, 2: 4, 3: 1, 4: 1} and not ruled.dropped and not ruled.notes
    assert LesionRules().plain == {} and LesionRules(in_air=True).plain == {"in_air": True}
    words = LesionRules(min_volume_ml=0.5, in_air=True, not_in=("bladder", "brain"), refine="41%").words
    assert words == "min_volume_ml 0.5, in_air, not_in bladder+brain, refine 41%"


@pytest.mark.parametrize(
    ("rules", "kept", "why"),
    [
        (LesionRules(drop=(1, 4)), [2, 3], [(1, "by hand"), (4, "by hand")]),
        (LesionRules(min_volume_ml=4), [1, 2], [(3, "smaller than 4 ml"), (4, "smaller than 4 ml")]),
        (LesionRules(min_suv_max=5), [1, 2], [(3, "SUVmax below 5"), (4, "SUVmax below 5")]),
        (LesionRules(in_air=True), [1, 2], [(3, "in air"), (4, "in air")]),
        (LesionRules(outside_body=True), [1, 2, 3], [(4, "outside the body")]),
        (LesionRules(not_in=("bladder",)), [1, 3, 4], [(2, "in urinary bladder")]),  # 1 lies half in it
        (LesionRules(refine="suv4"), [1, 2], [(3, "refine suv4"), (4, "refine suv4")]),
    ],
)
def test_each_rule_drops_what_it_says_and_says_why(rules, kept, why) -> None:
    assert kept_and_why(rules) == (kept, why)


def test_hot_lesions_in_air_and_lesions_where_the_ct_does_not_reach_stay() -> None:
    mask, around = study()
    hot, unknown = around.suv.copy(), around.hu.copy()
    hot[9, 6, 6] = 1.0  # a nodule that moves with the breath may lie in air on the CT
    unknown[5] = np.nan
    assert kept_and_why(LesionRules(in_air=True), suv=hot, hu=unknown)[0] == [1, 2, 3, 4]
    assert kept_and_why(LesionRules(outside_body=True), hu=unknown)[0] == [1, 2, 3, 4]


def test_refine_draws_by_the_threshold_and_keeps_the_found_volume() -> None:
    mask, around = study()
    counts = {}
    for refine in ("41%", "50%", "suv2.5", "suv4", "liver"):
        ruled = apply_rules(mask, study(liver_suv=(0.4, 0.2))[1], LesionRules(refine=refine))
        counts[refine] = [int((ruled.labels == number).sum()) for number in (1, 2)]
        assert ruled.found_ml[2] == 4
    # lesion 2 is 5, 3, 1, 1: thresholds 2.05, 2.5, 2.5, 4, and 1.5 x 0.4 + 2 x 0.2 = 1
    assert counts == {"41%": [8, 2], "50%": [8, 2], "suv2.5": [8, 2], "suv4": [8, 1], "liver": [8, 4]}


def test_a_lesion_that_is_too_small_as_it_is_drawn_now_has_that_volume_in_its_reason() -> None:
    """Lesion 2 has 4 ml, and 1 ml from SUV 4 on."""
    ruled = apply_rules(*study(), LesionRules(refine="suv4", min_volume_ml=2, drop=(3, 4)))
    assert [(one.volume_ml, one.reason) for one in ruled.dropped][0] == (4, "smaller than 2 ml: 1 ml by refine suv4")


def test_refine_reaches_as_far_as_it_is_told_and_not_into_another_lesion() -> None:
    suv = np.full((20, 20, 20), 0.5, np.float32)
    mask = np.zeros(suv.shape, bool)
    suv[10, 10, 2:14] = 8
    suv[10, 16, 8] = 8  # near, and hanging together with nothing
    mask[10, 10, 4:7] = mask[10, 10, 11] = True
    around = Surroundings(suv=suv, grid=GRID)
    ruled = apply_rules(mask, around, LesionRules(refine="50%", refine_within_mm=20))
    # 4 to 6 grows by two voxels either way, to 2 and 8; 11 likewise, to 9 and 13
    assert np.flatnonzero(ruled.labels[10, 10] == 1).tolist() == [2, 3, 4, 5, 6, 7, 8]
    assert np.flatnonzero(ruled.labels[10, 10] == 2).tolist() == [9, 10, 11, 12, 13]
    assert np.count_nonzero(ruled.mask) == 12


def test_what_cannot_be_applied_is_said() -> None:
    mask, around = study(organs=None, hu=None)
    ruled = apply_rules(mask, around, LesionRules(not_in=("brain",), refine="liver", in_air=True))
    assert not ruled.dropped and len(ruled.notes) == 3
    assert "spine" in apply_rules(*study(), LesionRules(not_in=("spine",))).notes[0]


def test_an_organ_that_the_networks_do_not_know_is_an_error_before_anything_is_done() -> None:
    names = ("spleen", "urinary bladder")
    check_organs_known(Namespace(not_in=("bladder", "spleen")), names)
    with pytest.raises(ConfigError, match="--not-in blader: .* know spleen, urinary bladder"):
        check_organs_known(Namespace(not_in=("bladder", "blader")), names)


def test_only_lesions_of_the_table_can_be_dropped() -> None:
    after_rules = {"lesions": [{"number": 1}, {"number": 3}]}
    assert found_numbers([3], after_rules) == (3,)
    with pytest.raises(ConfigError, match="no lesion 2 to drop; there are 1, 3"):
        found_numbers([2], after_rules)
    with pytest.raises(ConfigError, match="no lesion 5 to drop"):
        apply_rules(*study(), LesionRules(drop=(5,)))
