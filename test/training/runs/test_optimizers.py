"""Optimizers against their authors' package, their paper's formula, and a run cut in two."""

import math

import adamp
import pytest
import torch
from torch import Tensor, nn

from training.runs.optimizers import optimizer_for
from training.settings import Optimizer

NAMES = pytest.mark.parametrize("name", ["adamp", "adamw", "adabelief"])


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
    optimizer.step()


def weights(network: nn.Module) -> list[Tensor]:
    return [parameter.detach() for parameter in network.parameters()]


@pytest.mark.parametrize(("rate", "decay"), [(1e-4, 0.05), (1e-3, 0.0), (1e-3, 0.05), (1e-3, 5.0)])
def test_adamp_equals_its_authors_at_every_step(rate: float, decay: float) -> None:
    ours, theirs = small_network(), small_network()
    mine = optimizer_for(ours.parameters(), Optimizer(name="adamp", rate=rate, weight_decay=decay))
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


def by_optimizer(settings: Optimizer) -> list[float]:
    weight = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = optimizer_for([weight], settings)
    values = []
    for gradient in GRADIENTS:
        weight.grad = torch.tensor([gradient], dtype=torch.float64)
        optimizer.step()
        values.append(weight.item())
    return values


def test_adamw_follows_the_formula_of_its_paper() -> None:
    assert by_optimizer(Optimizer(name="adamw", rate=RATE, weight_decay=DECAY)) == pytest.approx(adamw_by_hand())


@pytest.mark.parametrize("rectify", [False, True])
def test_adabelief_follows_the_formula_of_its_paper(rectify: bool) -> None:
    settings = Optimizer(name="adabelief", rate=RATE, weight_decay=DECAY, rectify=rectify)
    assert by_optimizer(settings) == pytest.approx(adabelief_by_hand(rectify), abs=1e-9)


@NAMES
def test_the_rate_scales_the_decay(name: str) -> None:
    weight = nn.Parameter(torch.full((1,), 2.0))
    optimizer = optimizer_for([weight], Optimizer(name=name, rate=0.1, weight_decay=0.5))
    optimizer.param_groups[0]["lr"] = 0.01  # as a schedule does
    weight.grad = torch.zeros(1)
    optimizer.step()
    assert weight.item() == pytest.approx(2 * (1 - 0.01 * 0.5), abs=1e-6)


@NAMES
def test_a_run_cut_in_two_ends_with_the_same_weights_to_the_bit(name: str, tmp_path) -> None:
    whole = small_network()
    optimizer = optimizer_for(whole.parameters(), Optimizer(name=name, rate=1e-2))
    for number in range(3):
        step(whole, optimizer, number)
    torch.save({"network": whole.state_dict(), "optimizer": optimizer.state_dict()}, tmp_path / "half.pt")
    for number in range(3, 6):
        step(whole, optimizer, number)
    saved = torch.load(tmp_path / "half.pt", weights_only=True)
    resumed = small_network()
    resumed.load_state_dict(saved["network"])
    optimizer = optimizer_for(resumed.parameters(), Optimizer(name=name, rate=1e-2))
    optimizer.load_state_dict(saved["optimizer"])
    for number in range(3, 6):
        step(resumed, optimizer, number)
    assert all(torch.equal(*pair) for pair in zip(weights(whole), weights(resumed), strict=True))
