"""Equation 2 against torch's AveragedModel, numpy's mean and the recursion as printed."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from model.errors import WeightsError
from training.weights.averaging import WeightAverage


def states(number: int, tensors: int = 2) -> list[dict[str, Tensor]]:
    torch.manual_seed(number)
    return [{f"t{n}": torch.randn(3, 4) for n in range(tensors)} for _ in range(number)]


def average_of(terms: list[dict[str, Tensor]]) -> WeightAverage:
    average = WeightAverage()
    for term in terms:
        average.update(term)
    return average


def test_the_average_equals_torchs_averaged_model() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv3d(1, 3, 3), nn.InstanceNorm3d(3, affine=True), nn.SELU(), nn.Conv3d(3, 2, 1))
    oracle, ours = AveragedModel(network), WeightAverage()
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    for _ in range(25):
        optimizer.zero_grad()
        network(torch.randn(1, 1, 5, 5, 5)).pow(2).mean().backward()
        optimizer.step()
        oracle.update_parameters(network)
        ours.update(network.state_dict())
    torch.testing.assert_close(ours.state(), dict(oracle.module.state_dict()), atol=1e-6, rtol=0)


def test_the_average_is_the_arithmetic_mean() -> None:
    terms = states(50)
    wanted = np.mean([term["t1"].numpy().astype(np.float64) for term in terms], axis=0)
    np.testing.assert_allclose(average_of(terms).state()["t1"], wanted, atol=1e-7)


def test_the_average_is_the_recursion_of_equation_2_with_theta_at_t0_first() -> None:
    terms = states(9)
    theta = terms[0]["t0"].double()  # t = t0
    for since, term in enumerate(terms[1:], start=1):  # since = t - t0
        theta = since / (since + 1) * theta + 1 / (since + 1) * term["t0"].double()
    torch.testing.assert_close(average_of(terms).state()["t0"], theta.float(), atol=1e-7, rtol=0)


def test_the_first_term_is_the_mean() -> None:
    (term,) = states(1)
    average = average_of([term])
    assert average.terms == 1 and all(torch.equal(tensor, term[name]) for name, tensor in average.state().items())


def test_a_million_small_terms_are_not_lost_as_they_are_in_float32() -> None:
    average = WeightAverage()
    average.load_state_dict({"terms": 10**8, "mean": {"w": torch.zeros(1, dtype=torch.float64)}})
    for _ in range(10):
        average.update({"w": torch.ones(1)})
    assert average.state()["w"].item() == pytest.approx(10 / (10**8 + 10), rel=1e-6)


def test_whole_numbers_are_kept_as_they_are() -> None:
    table = torch.tensor([[3, 1], [2, 0]])
    average = average_of([{"index": table, "w": torch.zeros(1)}, {"index": table, "w": torch.ones(1)}])
    assert torch.equal(average.state()["index"], table) and average.state()["index"].dtype == torch.int64


def test_half_precision_terms_give_a_float32_mean() -> None:
    state = average_of([{"w": torch.tensor([1.0]).half()}, {"w": torch.tensor([1.0009765625]).half()}]).state()
    assert state["w"].dtype == torch.float32 and state["w"].item() == 1.00048828125  # between two halves


def test_later_changes_of_the_network_do_not_change_the_mean() -> None:
    weight = torch.ones(2, dtype=torch.float64)
    average = average_of([{"w": weight}])
    weight.fill_(9)
    assert average.state()["w"].tolist() == [1, 1]


def test_a_saved_and_loaded_average_continues_bit_for_bit(tmp_path) -> None:
    terms = states(7)
    half = average_of(terms[:4])
    torch.save(half.state_dict(), tmp_path / "average.pt")
    resumed = WeightAverage()
    resumed.load_state_dict(torch.load(tmp_path / "average.pt", weights_only=True))
    for term in terms[4:]:
        resumed.update(term)
    whole = average_of(terms).state_dict()
    assert resumed.terms == 7
    assert all(torch.equal(whole["mean"][name], resumed.state_dict()["mean"][name]) for name in whole["mean"])


def test_what_was_saved_does_not_change_with_later_terms() -> None:
    first, second = states(2)
    average = average_of([first])
    saved = average.state_dict()
    average.update(second)
    assert saved["terms"] == 1 and torch.equal(saved["mean"]["t0"].float(), first["t0"])


def test_an_empty_average_can_be_saved_and_loaded() -> None:
    average = WeightAverage()
    average.load_state_dict(WeightAverage().state_dict())
    assert average.terms == 0


def test_no_terms_have_no_mean() -> None:
    with pytest.raises(WeightsError, match="averaging.start"):
        WeightAverage().state()


@pytest.mark.parametrize("other", [{"t0": torch.zeros(3, 4)}, {"t0": torch.zeros(3, 4), "t1": torch.zeros(4, 3)}])
def test_another_network_is_refused(other: dict[str, Tensor]) -> None:
    average = average_of(states(2))
    with pytest.raises(WeightsError, match="another network: 1 tensors differ, the first is t1"):
        average.update(other)


def test_a_term_that_is_not_finite_is_refused_and_the_mean_stays() -> None:
    average = average_of([{"w": torch.ones(2)}])
    with pytest.raises(WeightsError, match="w is not finite"):
        average.update({"w": torch.tensor([1.0, float("nan")])})
    assert average.terms == 1 and average.state()["w"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"terms": 2, "mean": {}},
        {"terms": 0, "mean": {"w": torch.zeros(1).double()}},
        {"terms": 2, "mean": {"w": torch.zeros(1)}},
    ],
)
def test_a_state_of_something_else_is_refused(state: dict) -> None:
    with pytest.raises(WeightsError, match="no state of a weight average"):
        WeightAverage().load_state_dict(state)
