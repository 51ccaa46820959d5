import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FOLD, dice_of, logits, make_run, make_runs, random_state, small_cache
from tiny_settings import tiny_slices, tiny_training

from model.errors import ConfigError, WeightsError
from model.inference.device import choose_device
from model.networks.unet import build
from training.ensembles.candidates import read_candidates
from training.ensembles.scoreboard import Scoreboard
from training.weights.batch_norm import refreshed

CPU = choose_device("cpu", "float32")
ILL = FOLD.validate[:2]  # case3 has no lesion


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> list:
    return make_runs(tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return small_cache(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def states(runs) -> dict:
    return {run.name: load_file(run / "mean.safetensors") for run in runs}


@pytest.fixture(scope="module")
def keep(tmp_path_factory):
    return tmp_path_factory.mktemp("keep")


@pytest.fixture(scope="module")
def scoreboard(runs, cache, keep) -> Scoreboard:
    made = Scoreboard(read_candidates(runs), cache, FOLD.validate, keep, CPU)
    made.run_all()
    return made


def expected_dice(mean_logits, cache) -> float:
    return float(np.mean([dice_of(mean_logits(case), cache, case) for case in ILL]))


def test_the_margin_of_any_study_is_that_of_the_scoreboard(scoreboard, runs) -> None:
    """A member that is named twice counts twice; kept margins are rounded to float16."""
    names = (runs[0].name, runs[0].name, runs[1].name)
    for method, expected in (("eoa", scoreboard.mean_margin), ("diwa", scoreboard.soup_margin)):
        found = scoreboard.margin_of(method, names)(scoreboard.studies["case1"])
        np.testing.assert_allclose(found, expected(names, "case1"), atol=1e-2)


def test_a_member_alone_has_the_scores_of_its_network(scoreboard, states, cache) -> None:
    expected = expected_dice(lambda case: logits(states["m1"], cache, case), cache)
    assert scoreboard.eoa(["m1"]).dice == pytest.approx(expected, abs=1e-3) and 0 < expected < 1


def test_eoa_scores_the_mean_of_logits_with_multiplicity(scoreboard, states, cache) -> None:
    def mean(case):
        return sum(n * logits(states[m], cache, case).astype(np.float64) for m, n in (("m1", 2), ("m2", 1))) / 3

    names = ("m1", "m2", "m1")
    assert scoreboard.eoa(names).dice == pytest.approx(expected_dice(mean, cache), abs=1e-3)
    margin = mean("case1")[1] - mean("case1")[0]
    np.testing.assert_allclose(scoreboard.mean_margin(names, "case1"), margin, atol=2e-3, rtol=1e-3)


def test_diwa_scores_the_network_of_mean_weights(scoreboard, states, cache) -> None:
    mean = {n: torch.stack([states[m][n].double() for m in ("m1", "m2", "m2")]).mean(0).float() for n in states["m1"]}
    expected = expected_dice(lambda case: logits(mean, cache, case), cache)
    assert scoreboard.diwa(("m2", "m1", "m2")).dice == pytest.approx(expected, abs=1e-3)
    both = scoreboard.diwa(("m2", "m1", "m2")).dice, scoreboard.eoa(("m2", "m1", "m2")).dice
    assert abs(both[0] - both[1]) > 2e-3  # else the two could be confused here


def test_a_soup_of_one_member_is_that_member_and_needs_no_run(scoreboard, monkeypatch) -> None:
    monkeypatch.setattr("training.ensembles.scoreboard.margin", lambda *_: pytest.fail("run again"))
    assert scoreboard.diwa(["m3", "m3"]) == scoreboard.eoa(["m3"])


def test_seconds_of_eoa_are_those_of_every_member_once(scoreboard) -> None:
    one, two = scoreboard.eoa(["m1"]).seconds_per_case, scoreboard.eoa(["m2"]).seconds_per_case
    assert scoreboard.eoa(["m1", "m2", "m1"]).seconds_per_case == pytest.approx(one + two) and one > 0


def test_members_and_soups_are_run_once_also_in_a_later_selection(scoreboard, runs, cache, keep, monkeypatch) -> None:
    before = scoreboard.eoa(["m1", "m2"]), scoreboard.diwa(["m1", "m2"])
    for where in ("training.ensembles.scoreboard.margin", "training.judging.predict.margin"):
        monkeypatch.setattr(where, lambda *_: pytest.fail("run again"))
    again = Scoreboard(read_candidates(runs), cache, FOLD.validate, keep, CPU)
    again.run_all()
    later = again.eoa(["m2", "m1"]), again.diwa(["m2", "m1"])
    for one, other in zip(before, later, strict=True):
        assert one.dice == other.dice and one.seconds_per_case == other.seconds_per_case


def test_other_weights_under_the_same_name_are_run_anew(scoreboard, cache, keep, tmp_path) -> None:
    other = Scoreboard(read_candidates([make_run(tmp_path / "m1", random_state(31))]), cache, ILL, keep, CPU)
    other.run_all()
    assert other.eoa(["m1"]).dice != scoreboard.eoa(["m1"]).dice


def test_a_case_without_lesion_counts_for_volumes_and_not_for_dice(scoreboard) -> None:
    scores = scoreboard.eoa(["m1"])
    assert scores.cases["case3"].lesions_true == 0
    assert scores.dice == np.mean([scores.cases[case].dice for case in ILL])
    assert scores.fpv_ml == np.mean([scores.cases[case].fpv_ml for case in FOLD.validate])
    assert scores.fnv_ml == np.mean([scores.cases[case].fnv_ml for case in FOLD.validate])


def test_a_network_that_gives_nan_is_named(cache, tmp_path) -> None:
    state = random_state(1)
    state["decoder.fc.bias"] = torch.tensor([0.0, float("nan")])
    scoreboard = Scoreboard(read_candidates([make_run(tmp_path / "bad", state)]), cache, ILL, tmp_path / "keep", CPU)
    with pytest.raises(WeightsError, match="bad/last.safetensors', case case1: the network gives NaN"):
        scoreboard.run_all()


def test_a_case_that_is_not_prepared_is_named(runs, cache, tmp_path) -> None:
    with pytest.raises(ConfigError, match="case8.*training prepare"):
        Scoreboard(read_candidates(runs), cache, ["case8"], tmp_path, CPU)


def test_a_run_kept_in_half_precision_scores_as_its_network_in_single(cache, tmp_path, states) -> None:
    half = {name: tensor.half() for name, tensor in states["m1"].items()}
    scoreboard = Scoreboard(read_candidates([make_run(tmp_path / "half", half)]), cache, ILL, tmp_path / "keep", CPU)
    scoreboard.run_all()
    single = {name: tensor.float() for name, tensor in half.items()}
    expected = expected_dice(lambda case: logits(single, cache, case), cache)
    assert scoreboard.eoa(["half"]).dice == pytest.approx(expected, abs=1e-3)


@pytest.mark.slow
def test_a_soup_of_networks_for_slices_has_the_mean_weights_and_statistics_made_anew(cache, tmp_path) -> None:
    runs, networks = [], []
    for seed in (0, 1):
        torch.manual_seed(seed)
        settings = tiny_slices(seed=seed, whole_body={"alpha": 1.0 + seed})
        networks.append(build(settings.network))
        runs.append(make_run(tmp_path / f"m{seed}", networks[-1].state_dict(), settings=settings))
    members = read_candidates(runs)
    found = Scoreboard(members, cache, ILL, tmp_path / "keep", CPU).soup_network(["m0", "m1"])
    again = Scoreboard(read_candidates(runs[::-1]), cache, ILL, tmp_path / "keep", CPU).soup_network(["m1", "m0"])
    mean = build(settings.network)
    with torch.no_grad():
        for out, one, other in zip(mean.parameters(), *(n.parameters() for n in networks), strict=True):
            out.copy_((one + other) / 2)
    of = min(members.values(), key=lambda one: one.sha256).settings  # one member draws the slices, whatever the order
    expected = refreshed(mean, of, cache, FOLD.train, CPU).state_dict()
    state = found.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in again.state_dict().items())
    assert all(torch.equal(state[name], tensor) for name, tensor in expected.items()) and not found.training
    assert (state["encoder.stem.bn.running_mean"] != 0).any()


def test_a_soup_of_one_network_for_slices_is_that_network_with_its_own_statistics(cache, tmp_path) -> None:
    settings = tiny_slices()
    state = build(settings.network).state_dict()
    run = make_run(tmp_path / "m", state, settings=settings)
    scoreboard = Scoreboard(read_candidates([run]), cache, ILL, tmp_path / "keep", CPU)
    assert all(torch.equal(state[name], t) for name, t in scoreboard.soup_network(["m", "m"]).state_dict().items())


@pytest.mark.parametrize("seeds", [(0, 1), (2, 3)])
def test_a_soup_of_members_with_fixed_and_with_own_statistics_has_them_made_anew(seeds, cache, tmp_path) -> None:
    """Whichever of the two draws the crops: the seeds decide whose sha256 is the smaller one."""
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": "batch"}
    runs, states = [], []
    for seed, fixed in zip(seeds, (True, False), strict=True):
        settings = tiny_training(network=network, fixed_statistics=fixed)
        torch.manual_seed(seed)
        states.append(build(settings.network).state_dict())
        runs.append(make_run(tmp_path / f"m{seed}", states[-1], settings=settings))
    members = read_candidates(runs)
    state = Scoreboard(members, cache, ILL, tmp_path / "keep", CPU).soup_network(list(members)).state_dict()
    name = "ct_encoder.layer1.0.norm.running_mean"
    assert (state[name] != 0).any() and all((one[name] == 0).all() for one in states)
