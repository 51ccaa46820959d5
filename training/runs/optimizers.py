"""The three optimizers of the paper (section 3.3): AdamP, AdamW, AdaBelief."""

from collections.abc import Iterable
from typing import Any

from pytorch_optimizer import AdaBelief, AdamP
from torch.nn import Parameter
from torch.optim import AdamW, Optimizer

from training import settings as options


def optimizer_for(parameters: Iterable[Parameter], settings: options.Optimizer) -> Optimizer:
    """The optimizer over all these parameters as one group, at the peak rate; a schedule sets `lr` from there on.

    In all three weight decay is decoupled and goes with the rate: weights times 1 - rate * weight_decay at each step.
    Every choice that libraries make differently is named here instead of left to a default.
    """
    common: dict[str, Any] = {"lr": settings.rate, "betas": settings.betas, "weight_decay": settings.weight_decay}
    if settings.name == "adamw":
        return AdamW(parameters, eps=1e-8, amsgrad=False, **common)
    common |= {"weight_decouple": True, "fixed_decay": False}  # fixed: it would not go with the rate
    common |= {"foreach": False}  # the tested path, on every device
    if settings.name == "adamp":
        # A weight whose cosine with its gradient is below delta / sqrt(size) counts as scale-invariant: its update
        # loses its radial part, and wd_ratio of the decay is left; both values are from AdamP's authors. They add
        # eps after correcting the second moment's bias, this library before: below 1e-7 in a weight at a rate of 1e-4
        return AdamP(parameters, eps=1e-8, delta=0.1, wd_ratio=0.1, nesterov=False, **common)
    # eps stands inside a square root here: 1e-16 is what 1e-8 is to Adam (the advice of AdaBelief's authors).
    # Where rectify is asked for, its first steps, too few to know a variance, are plain SGD, as in their code
    return AdaBelief(
        parameters,
        eps=1e-16,
        rectify=settings.rectify,
        degenerated_to_sgd=True,
        ams_bound=False,
        **common,
    )
