"""AdamP and AdaBelief for a GPU: no step waits for the device, not even to learn whether it was left out.

pytorch_optimizer's count their steps on the host, and its AdamP reads two numbers of every weight to choose a branch.
Here counts and choices stay on the device. Formulas, states and their names are that package's, so a run goes on with
either.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter
from torch.optim import Optimizer

SECOND = {"adamp": "exp_avg_sq", "adabelief": "exp_avg_var"}  # the name of the second moment in a state
COUNTED = torch.float64  # so that beta ** step and 1 - beta are as exact as on the host


class DeviceOptimizer(Optimizer):
    """AdamP or AdaBelief, by `name`, whose step does nothing where `found_inf`, a tensor on the device, is above 0.

    found_inf: set it before a step, as for torch's fused optimizers; None: the step is taken. defaults: the arguments
    of pytorch_optimizer's class; ams_bound and nesterov are not known here, and decay is decoupled.
    """

    def __init__(self, parameters: Iterable[Parameter], name: str, defaults: dict[str, Any]) -> None:
        self.name = name
        self.found_inf: Tensor | None = None
        self.counts: dict[int, Tensor] = {}  # steps taken, by group
        self.rows: dict[int, ChannelRows] = {}
        super().__init__(parameters, defaults)

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One step of every group."""
        for number, group in enumerate(self.param_groups):
            weights: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not weights:
                continue
            taken = torch.ones((), dtype=COUNTED, device=weights[0].device)
            if self.found_inf is not None:
                taken = (self.found_inf == 0).to(COUNTED)
            count = self.counts.get(number, torch.zeros_like(taken)) + taken
            self.counts[number] = count
            gradients = [torch.where(taken > 0, p.grad, 0.0) for p in weights]  # type: ignore[arg-type]
            moments = [[self._moment(p, key) for p in weights] for key in ("exp_avg", SECOND[self.name])]
            count = count.clamp_min(1)  # before the first step there is nothing to divide
            if self.name == "adabelief":
                adabelief_step(group, weights, gradients, moments[0], moments[1], count, taken)
                continue
            rows = self.rows.get(number)
            if rows is None or rows.weights != [id(p) for p in weights]:
                rows = self.rows[number] = ChannelRows(weights, group["delta"])
            adamp_step(group, weights, gradients, moments[0], moments[1], count, taken, rows)

    def state_dict(self) -> dict[str, Any]:
        """As pytorch_optimizer has it: the steps taken are a number in each group."""
        state: dict[str, Any] = super().state_dict()
        for number, group in enumerate(state["param_groups"]):
            if number in self.counts:
                group["step"] = int(self.counts[number])
        return state

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Go on from a `state_dict` of this class or of pytorch_optimizer's."""
        super().load_state_dict(state_dict)
        self.counts = {}
        for number, group in enumerate(self.param_groups):
            if (step := group.pop("step", None)) is not None:
                self.counts[number] = torch.tensor(float(step), dtype=COUNTED, device=group["params"][0].device)

    def _moment(self, weight: Tensor, key: str) -> Tensor:
        if key not in self.state[weight]:
            self.state[weight][key] = torch.zeros_like(weight)
        moment: Tensor = self.state[weight][key]
        return moment


class ChannelRows:
    """Numbers of every output channel of several weights as one matrix (weights, most channels), filled up with zeros.

    Weights of two axes or more have a row. So what AdamP computes of channels is computed once for all of them.
    """

    def __init__(self, weights: Sequence[Tensor], delta: float) -> None:
        self.weights = [id(p) for p in weights]
        self.chosen = [n for n, p in enumerate(weights) if p.dim() > 1]
        shapes = [weights[n].shape for n in self.chosen]
        self.channels = [shape[0] for shape in shapes]
        device, most, total = weights[0].device, max(self.channels, default=0), sum(self.channels)
        places = torch.full((len(shapes), most), total)  # a zero stands after the numbers of all channels
        first = 0
        for row, channels in enumerate(self.channels):
            places[row, :channels] = torch.arange(first, first + channels)
            first += channels
        self.places = places.to(device)
        sizes = torch.tensor([[shape[0], shape.numel()] for shape in shapes], dtype=torch.float64).reshape(-1, 2)
        self.channel_limit = (delta / (sizes[:, 1] / sizes[:, 0]).sqrt()).float().to(device)
        self.layer_limit = (delta / sizes[:, 1].sqrt()).float().to(device)

    def matrix(self, numbers: Sequence[Tensor]) -> Tensor:
        """The rows of these vectors, one number a channel."""
        flat = torch.cat([*numbers, numbers[0].new_zeros(1)])
        return flat[self.places]


def adamp_step(
    group: dict[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    squares: list[Tensor],
    count: Tensor,
    taken: Tensor,
    rows: ChannelRows,
) -> None:
    """Heo et al., AdamP, algorithm 2, as pytorch_optimizer has it; taken: 1 or 0, and with 0 nothing changes."""
    (beta_1, beta_2), kind = group["betas"], weights[0].dtype
    follow(means, gradients, beta_1, taken)
    follow(squares, torch._foreach_mul(gradients, gradients), beta_2, taken)
    below = torch._foreach_sqrt(squares)
    torch._foreach_add_(below, group["eps"])
    updates = list(torch._foreach_div(means, below))
    torch._foreach_mul_(updates, (1 - beta_2**count).sqrt().to(kind))
    decay = group["lr"] * group["weight_decay"]
    kept = [(1 - decay * taken).to(kind)] * len(weights)
    if rows.chosen:
        of = rows.chosen
        ratios = project([weights[n] for n in of], [gradients[n] for n in of], [updates[n] for n in of], rows, group)
        for n, ratio in zip(of, (1 - decay * taken * ratios).to(kind), strict=True):
            kept[n] = ratio
    if decay:
        torch._foreach_mul_(weights, kept)
    torch._foreach_mul_(updates, (group["lr"] / (1 - beta_1**count) * taken).to(kind))
    torch._foreach_sub_(weights, updates)


def project(
    weights: Sequence[Tensor],
    gradients: Sequence[Tensor],
    updates: Sequence[Tensor],
    rows: ChannelRows,
    group: dict[str, Any],
) -> Tensor:
    """Take the radial part off the updates of weights that look scale-invariant; the share of decay each keeps.

    A weight does if the cosine between it and its gradient is small in every channel, or else as a whole.
    """
    eps = group["eps"]

    def summed(one: Sequence[Tensor], other: Sequence[Tensor]) -> Tensor:
        products = torch._foreach_mul(list(one), list(other))
        return rows.matrix([product.sum(dim=list(range(1, product.dim()))) for product in products])

    def cosine(dot: Tensor, one: Tensor, other: Tensor) -> Tensor:
        return dot.abs() / (one.sqrt().clamp_min(eps) * other.sqrt().clamp_min(eps))

    dots, radial = summed(gradients, weights), summed(weights, updates)
    of_weights, of_gradients = summed(weights, weights), summed(gradients, gradients)
    channel = cosine(dots, of_gradients, of_weights).amax(1) < rows.channel_limit
    layer = cosine(dots.sum(1), of_gradients.sum(1), of_weights.sum(1)) < rows.layer_limit
    by_channel = radial / (of_weights.sqrt() + eps) ** 2
    by_layer = (radial.sum(1) / (of_weights.sum(1).sqrt() + eps) ** 2)[:, None]
    share = torch.where(channel[:, None], by_channel, by_layer) * (channel | layer)[:, None]
    for row, (weight, update) in enumerate(zip(weights, updates, strict=True)):
        update.addcmul_(weight, share[row, : len(weight)].reshape(-1, *[1] * (weight.dim() - 1)), value=-1)
    return torch.where(channel | layer, group["wd_ratio"], 1.0)


def adabelief_step(
    group: dict[str, Any],
    weights: list[Tensor],
    gradients: list[Tensor],
    means: list[Tensor],
    beliefs: list[Tensor],
    count: Tensor,
    taken: Tensor,
) -> None:
    """Zhuang et al., AdaBelief, algorithm 2, as pytorch_optimizer has it; taken: 1 or 0, and with 0 nothing changes."""
    (beta_1, beta_2), kind = group["betas"], weights[0].dtype
    torch._foreach_mul_(weights, (1 - group["lr"] * group["weight_decay"] * taken).to(kind))
    follow(means, gradients, beta_1, taken)
    apart = torch._foreach_sub(gradients, means)
    follow(beliefs, torch._foreach_mul(apart, apart), beta_2, taken, group["eps"])
    below = list(torch._foreach_sqrt(beliefs))
    rate = group["lr"] / (1 - beta_1**count) * taken
    known = 1 - beta_2**count
    if group["rectify"]:  # Liu et al., RAdam, algorithm 2
        torch._foreach_add_(below, group["eps"])
        longest = 2 / (1 - beta_2) - 1
        length = longest - 2 * count * (1 - known) / known
        share = (length - 4) * (length - 2) * longest / ((longest - 4) * (longest - 2) * length)
        sure = length >= 5
        rate = rate * torch.where(sure, (known * share).sqrt(), 1.0)
        below = [torch.where(sure, spread, 1.0) for spread in below]
    else:
        torch._foreach_mul_(below, known.rsqrt().to(kind))
        torch._foreach_add_(below, group["eps"])
    updates = list(torch._foreach_div(means, below))
    torch._foreach_mul_(updates, rate.to(kind))
    torch._foreach_sub_(weights, updates)


def follow(means: list[Tensor], values: Sequence[Tensor], beta: float, taken: Tensor, more: float = 0.0) -> None:
    """Running means, in place: beta * mean + (1 - beta) * value + more; as they were where the step is not taken."""
    kind = means[0].dtype
    torch._foreach_mul_(means, (1 - (1 - beta) * taken).to(kind))
    parts = list(torch._foreach_mul(list(values), 1 - beta))
    if more:
        torch._foreach_add_(parts, more)
    torch._foreach_mul_(parts, taken.to(kind))
    torch._foreach_add_(means, parts)
