"""Optimizers against their authors' package, their paper's formula, and a run cut in two."""

import math

import adamp
import pytest
import torch
from device_reads import reads_of
from torch import Tensor, nn

from training.compute.optimizers import go_on, optimizer_for, step_unless
from training.settings import Optimizer

NAMES = pytest.mark.parametrize("name", ["adamp", "adamw", "adabelief"])
PLACES = pytest.mark.parametrize("on_device", [False, True], ids=["host", "device"])
TAKEN, LEFT_OUT = torch.tensor(False), torch.tensor(True)


def small_network() -> nn.Sequential:
    """A network in which AdamP projects some weights (before a norm: scale-invariant) and leaves the others."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv3d(2, 4, 3, padding=1, bias=False), nn.InstanceNorm3d(4, affine=True), nn.SELU(), nn.Conv3d(4, 2, 1)
    )


def step(network: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    image = torch.randn(2, 2, 6, 6, 6, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    network(image).pow(2).mean().backward()
    step_unless(optimizer, TAKEN)


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()]


@PLACES
@pytest.mark.parametrize(("rate", "decay"), [(1e-4, 0.05), (1e-3, 0.0), (1e-3, 0.05), (1e-3, 5.0)])
def test_adamp_equals_its_authors_at_every_step(rate: float, decay: float, on_device: bool) -> None:
    ours, theirs = small_network(), small_network()
    mine = optimizer_for(ours.parameters(), Optimizer(name="adamp", rate=rate, weight_decay=decay), on_device)
    oracle = adamp.AdamP(theirs.parameters(), lr=rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=decay)
    for number in range(20):
        step(ours, mine, number)
        step(theirs, oracle, number)
        torch.testing.assert_close(weights(ours), weights(theirs), atol=1e-6, rtol=0)


def test_adamp_projects_the_weights_before_a_norm() -> None:
    """An update without its radial part leaves a scale-invariant weight's norm alone, to first order."""
    network = small_network()
    before = weights(network)[0].clone()
    step(network, optimizer_for(network.parameters(), Optimizer(rate=1e-4, weight_decay=0.0)), 0)
    change = (weights(network)[0] - before).flatten(1)
    radial = (change * before.flatten(1)).sum(1) / before.flatten(1).norm(dim=1)
    assert change.norm() > 1e-4 and radial.abs().max() < 1e-3 * change.norm()


GRADIENTS = (0.5, 0.4, -0.2, 0.3, 0.1, -0.6, 0.7, 0.2)
RATE, DECAY, BETA_1, BETA_2, EPS = 0.01, 0.05, 0.9, 0.999, 1e-16


def adamw_by_hand() -> list[float]:
    """One weight, from 1.0, by algorithm 2 of Loshchilov and Hutter."""
    weight, mean, square, values = 1.0, 0.0, 0.0, []
    for t, gradient in enumerate(GRADIENTS, start=1):
        mean = BETA_1 * mean + (1 - BETA_1) * gradient
        square = BETA_2 * square + (1 - BETA_2) * gradient**2
        mean_hat, square_hat = mean / (1 - BETA_1**t), square / (1 - BETA_2**t)
        weight -= RATE * mean_hat / (math.sqrt(square_hat) + 1e-8) + RATE * DECAY * weight
        values.append(weight)
    return values


def adabelief_by_hand(rectify: bool) -> list[float]:
    """One weight, from 1.0, by algorithm 2 of Zhuang et al. with decoupled decay; rectify: by RAdam, algorithm 2."""
    weight, mean, belief, values = 1.0, 0.0, 0.0, []
    longest = 2 / (1 - BETA_2) - 1
    for t, gradient in enumerate(GRADIENTS, start=1):
        weight *= 1 - RATE * DECAY
        mean = BETA_1 * mean + (1 - BETA_1) * gradient
        belief = BETA_2 * belief + (1 - BETA_2) * (gradient - mean) ** 2 + EPS
        mean_hat, belief_hat = mean / (1 - BETA_1**t), belief / (1 - BETA_2**t)
        length = longest - 2 * t * BETA_2**t / (1 - BETA_2**t)
        if not rectify:
            weight -= RATE * mean_hat / (math.sqrt(belief_hat) + EPS)
        elif length < 5:  # the first five steps
            weight -= RATE * mean_hat
        else:
            share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
            weight -= RATE * math.sqrt(share) * mean_hat / (math.sqrt(belief_hat) + EPS)
        values.append(weight)
    return values


def by_optimizer(settings: Optimizer, on_device: bool) -> list[float]:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optimizer_for([weight], settings, on_device)
    values = []
    for gradient in GRADIENTS:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        step_unless(optimizer, TAKEN)
        values.append(weight.item())
    return values


@PLACES
def test_adamw_follows_the_formula_of_its_paper(on_device: bool) -> None:
    settings = Optimizer(name="adamw", rate=RATE, weight_decay=DECAY)
    assert by_optimizer(settings, on_device) == pytest.approx(adamw_by_hand())


@PLACES
@pytest.mark.parametrize("rectify", [False, True])
def test_adabelief_follows_the_formula_of_its_paper(rectify: bool, on_device: bool) -> None:
    settings = Optimizer(name="adabelief", rate=RATE, weight_decay=DECAY, rectify=rectify)
    assert by_optimizer(settings, on_device) == pytest.approx(adabelief_by_hand(rectify), abs=1e-9)


@NAMES
def test_the_rate_scales_the_decay(name: str) -> None:
    weight = nn.Parameter(torch.full((1,), 2.0))
    optimizer = optimizer_for([weight], Optimizer(name=name, rate=0.1, weight_decay=0.5))
    optimizer.param_groups[0]["lr"] = 0.01  # as a schedule does
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(2 * (1 - 0.01 * 0.5), abs=1e-6)


@NAMES
@PLACES
def test_a_run_cut_in_two_ends_with_the_same_weights_to_the_bit(name: str, on_device: bool, tmp_path) -> None:
    whole = small_network()
    optimizer = optimizer_for(whole.parameters(), Optimizer(name=name, rate=1e-2), on_device)
    for number in range(3):
        step(whole, optimizer, number)
    torch.save({"network": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    for number in range(3, 6):
        step(whole, optimizer, number)
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    resumed = small_network()
    resumed.load_state_dict(saved["network"])
    optimizer = optimizer_for(resumed.parameters(), Optimizer(name=name, rate=1e-2), on_device)
    go_on(optimizer, saved["optimizer"])
    for number in range(3, 6):
        step(resumed, optimizer, number)
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(resumed), strict=True))


@NAMES
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last_3d])
def test_on_a_device_every_step_is_the_hosts_to_rounding(name: str, layout: torch.memory_format) -> None:
    here, there = small_network(), small_network().to(memory_format=layout)
    settings = Optimizer(name=name, rate=1e-3)
    mine, other = optimizer_for(here.parameters(), settings), optimizer_for(there.parameters(), settings, True)
    for number in range(20):
        step(here, mine, number)
        step(there, other, number)
        torch.testing.assert_close(weights(there), weights(here), atol=1e-6, rtol=0)


@NAMES
def test_on_a_device_a_frozen_weight_stays_and_a_second_group_has_its_own_rate(name: str) -> None:
    """As the loss of slices has it: weights of its own at another rate, without decay."""
    found = []
    for on_device in (False, True):
        network, scales = small_network(), nn.Parameter(torch.ones(3))
        network[0].weight.requires_grad_(False)
        optimizer = optimizer_for(network.parameters(), Optimizer(name=name, rate=1e-3), on_device)
        optimizer.add_param_group({"params": [scales], "lr": 1e-2, "weight_decay": 0.0})
        for number in range(5):
            image = torch.randn(2, 2, 6, 6, 6, generator=torch.Generator().manual_seed(number))
            optimizer.zero_grad()
            (network(image).pow(2).mean() + (scales * torch.tensor([1.0, -2.0, 0.5])).sum()).backward()
            step_unless(optimizer, TAKEN)
        found.append([*weights(network), scales.detach()])
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=0)
    assert torch.equal(found[1][0], small_network()[0].weight)
    assert (found[1][-1] - 1).abs().min() > 0.02  # five steps of some 0.01


@NAMES
@pytest.mark.parametrize("first", [0, 3], ids=["the first step", "a later step"])
def test_a_step_left_out_on_a_device_changes_no_bit(name: str, first: int) -> None:
    """Its gradients are NaN. The steps after it are those of a run without it."""
    one, other = small_network(), small_network()
    settings = Optimizer(name=name, rate=1e-3)
    mine, control = (optimizer_for(network.parameters(), settings, True) for network in (one, other))
    for number in range(first):
        step(one, mine, number)
        step(other, control, number)
    for parameter in one.parameters():
        parameter.grad = torch.full_like(parameter, float("nan"))
    step_unless(mine, LEFT_OUT)
    for number in range(first, first + 3):
        assert all(map(torch.equal, weights(one), weights(other)))
        step(one, mine, number)
        step(other, control, number)
    assert all(map(torch.equal, weights(one), weights(other)))
    states = [optimizer.state_dict() for optimizer in (mine, control)]
    torch.testing.assert_close(*states, atol=0, rtol=0)


@NAMES
def test_a_step_on_a_device_waits_for_no_value(name: str) -> None:
    network = small_network()
    optimizer = optimizer_for(network.parameters(), Optimizer(name=name), True)
    step(network, optimizer, 0)
    assert reads_of(lambda: step(network, optimizer, 1)) == []


@NAMES
@pytest.mark.parametrize("from_device", [False, True], ids=["host to device", "device to host"])
def test_a_run_goes_on_where_the_other_kind_of_device_left_it(name: str, from_device: bool, tmp_path) -> None:
    settings = Optimizer(name=name, rate=1e-3)
    network = small_network()
    optimizer = optimizer_for(network.parameters(), settings, from_device)
    for number in range(3):
        step(network, optimizer, number)
    torch.save({"network": network.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    resumed = small_network().to(memory_format=torch.channels_last_3d if not from_device else torch.contiguous_format)
    resumed.load_state_dict(saved["network"])
    there = optimizer_for(resumed.parameters(), settings, not from_device)
    go_on(there, saved["optimizer"])
    for number in range(3, 6):
        step(network, optimizer, number)
        step(resumed, there, number)
    torch.testing.assert_close(weights(resumed), weights(network), atol=1e-6, rtol=0)
    assert all(
        moment.stride() == parameter.stride()
        for parameter, state in there.state.items()
        for moment in state.values()
        if torch.is_tensor(moment) and moment.dim()
    )
