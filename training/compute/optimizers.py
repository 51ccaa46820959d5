"""The three optimizers of the paper (section 3.3): AdamP, AdamW, AdaBelief; on a GPU, such as never wait for it."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from pytorch_optimizer import AdaBelief, AdamP
from torch import Tensor
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from training import settings as options
from training.compute.device_optimizers import DeviceOptimizer

HOW = ("fused", "foreach", "capturable")  # how a step is computed, in a state's groups: it is not the run's


def optimizer_for(parameters: Iterable[Parameter], settings: options.Optimizer, on_device: bool = False) -> Optimizer:
    """The optimizer over all these parameters as one group, at the peak rate; a schedule sets `lr` from there on.

    In all three weight decay is decoupled and goes with the rate: weights times 1 - rate * weight_decay at each step.
    Every choice that libraries make differently is named here instead of left to a default. on_device: one that leaves
    a step out on the device, see `step_unless`; its results differ from the other's by rounding.
    """
    common: dict[str, Any] = {"lr": settings.rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.name == "adamw":
        return AdamW(parameters, eps=1e-8, amsgrad=False, fused=True if on_device else None, **common)
    common |= {"weight_decouple": True, "fixed_decay": False}  # fixed: it would not go with the rate
    common |= {"foreach": False}  # the tested path, on every CPU
    if settings.name == "adamp":
        # A weight whose cosine with its gradient is below delta / sqrt(size) counts as scale-invariant: its update
        # loses its radial part, and wd_ratio of the decay is left; both values are from AdamP's authors. They add
        # eps after correcting the second moment's bias, this library before: below 1e-7 in a weight at a rate of 1e-4
        common |= {"eps": 1e-8, "delta": 0.1, "wd_ratio": 0.1, "nesterov": False}
        return DeviceOptimizer(parameters, "adamp", common) if on_device else AdamP(parameters, **common)
    # eps stands inside a square root here: 1e-16 is what 1e-8 is to Adam (the advice of AdaBelief's authors).
    # Where rectify is asked for, its first steps, too few to know a variance, are plain SGD, as in their code
    common |= {"eps": 1e-16, "rectify": settings.rectify, "ams_bound": False}
    if on_device:
        return DeviceOptimizer(parameters, "adabelief", common)
    return AdaBelief(parameters, degenerated_to_sgd=True, **common)


def step_unless(optimizer: Optimizer, left_out: Tensor) -> None:
    """A step, or none if `left_out`, one bool on the device, is true: then weights and state stay as they are.

    An optimizer for a GPU does not wait to learn which; another one reads the value.
    """
    if isinstance(optimizer, DeviceOptimizer) or optimizer.defaults.get("fused"):
        optimizer.grad_scale = None  # type: ignore[attr-defined]  # torch's fused AdamW reads both
        optimizer.found_inf = left_out.float()  # type: ignore[attr-defined]
        optimizer.step()
    elif not bool(left_out):
        optimizer.step()


def go_on(optimizer: Optimizer, state: dict[str, Any]) -> None:
    """Load a state that an optimizer of this name wrote, on whatever device and however its steps were computed."""
    state = copy.copy(state)
    own = optimizer.param_groups
    state["param_groups"] = [
        {key: value for key, value in group.items() if key not in HOW} | {key: mine[key] for key in HOW if key in mine}
        for group, mine in zip(state["param_groups"], own, strict=True)
    ]
    optimizer.load_state_dict(state)
    for weight, kept in optimizer.state.items():
        for name, value in kept.items():
            if torch.is_tensor(value) and value.shape == weight.shape and value.stride() != weight.stride():
                kept[name] = torch.empty_like(weight).copy_(value)  # fused steps want the weight's own layout
