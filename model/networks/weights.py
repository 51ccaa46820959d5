"""Load members' files into networks; average weights for DiWA.

`python -m model.networks.weights FOLDER ...` verifies bundles.
"""

import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from model.bundle.format import Member
from model.bundle.manifest import Bundle, load_bundle
from model.bundle.network import OF_NNUNET, Network
from model.bundle.settings import Part
from model.errors import ConfigError, LesionError, WeightsError
from model.networks.unet import skeleton
from model.terminal import say

State = dict[str, Tensor]
STATISTICS = ("running_mean", "running_var")  # of batch normalisation, as torch names them


@dataclass(frozen=True, kw_only=True)
class Voter:
    """One network of an ensemble: its weight in the mean, its part of the manifest, and the function that loads it."""

    weight: float
    part: Part
    load: Callable[[], nn.Module]


def voters(bundle: Bundle) -> list[Voter]:
    """The networks to run: every member for EoA, one soup for DiWA."""
    manifest = bundle.manifest
    if manifest.method == "diwa":
        part = manifest.part(manifest.members[0])
        return [Voter(weight=1.0, part=part, load=lambda: as_network(part.network, soup(bundle), bundle.folder))]

    def load(member: Member) -> nn.Module:
        settings = manifest.part(member).network
        network = as_network(settings, read_state(bundle, member), bundle.folder)
        if settings.fusion in OF_NNUNET:  # here, in the thread that reads ahead, as `for_device.prepared` needs it
            network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]
        return network

    return [
        Voter(weight=member.weight, part=manifest.part(member), load=partial(load, member))
        for member in manifest.members
    ]


def load_now(voters: list[Voter], device: torch.device) -> list[Voter]:
    """The same voters with their networks loaded now, onto the device: for a process that runs many studies."""

    def loaded(voter: Voter) -> Voter:
        network = voter.load().to(device)
        return replace(voter, load=lambda: network)

    return [loaded(voter) for voter in voters]


def read_state(bundle: Bundle, member: Member) -> State:
    """A member's tensors in float32, on the host. Raises WeightsError if they do not fit the manifest."""
    path = bundle.folder / member.file
    try:
        state: State = load_file(path)
    except (safetensors.SafetensorError, OSError) as error:
        raise WeightsError(f"'{path}' is not a safetensors file: {error}; copy the bundle again") from None
    _check_tensors(state, bundle.manifest.part(member).network, path)
    for name in list(state):  # one by one, so that float16 is let go meanwhile
        if state[name].is_floating_point():
            state[name] = state[name].float()
    return state


def soup(bundle: Bundle) -> State:
    """The weighted mean of all members' weights (DiWA; Ahn and Park, algorithm 2).

    Raises ConfigError if their batch statistics differ: the mean of statistics belongs to no network.
    """
    members = bundle.manifest.members
    total = sum(member.weight for member in members)
    first: State = {}

    def read(member: Member) -> State:
        state = read_state(bundle, member)
        statistics = {name: t for name, t in state.items() if name.endswith(STATISTICS)}
        if any(not torch.equal(t, first.setdefault(name, t)) for name, t in statistics.items()):
            raise ConfigError(
                f"method diwa averages weights, and the members of '{bundle.folder}' have batch statistics that differ "
                "and must be computed again after it, as export does; use --method eoa"
            )
        return state

    return mean_of((member.weight / total, read(member)) for member in members)


def mean_of(states: Iterable[tuple[float, State]]) -> State:
    """The sum of (share, tensors) of one network's shapes, in float64; shares sum to 1."""
    mean: State = {}
    for share, state in states:
        for name, tensor in state.items():
            if tensor.is_floating_point():
                part = tensor.double() * share
                mean[name] = mean[name] + part if name in mean else part
            else:
                mean[name] = tensor  # index tables of SwinUNETR: the same in every member
    return {name: t.float() if t.is_floating_point() else t for name, t in mean.items()}


def as_network(network: Network, state: State, where: Path) -> nn.Module:
    """The network with these tensors, in evaluation mode, on the host."""
    module = skeleton(network)  # random weights would cost time and be overwritten
    try:
        module.load_state_dict(state, strict=True, assign=True)
    except RuntimeError as error:
        raise WeightsError(f"'{where}': {error}") from None
    return module.eval()


def all_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite."""
    return bool(torch.isfinite(torch.stack(values.aminmax())).all())  # unlike values.isfinite(), needs no memory


def _check_tensors(state: State, network: Network, path: Path) -> None:
    expected = skeleton(network).state_dict()
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    if missing or extra:
        raise WeightsError(
            f"'{path}' does not fit its manifest's network: {len(missing)} tensors missing {missing[:3]}, "
            f"{len(extra)} superfluous {extra[:3]}; the manifest belongs to other weights"
        )
    for name, tensor in state.items():
        if tensor.shape != expected[name].shape:
            raise WeightsError(
                f"'{path}': {name} has shape {tuple(tensor.shape)}, the manifest's network needs "
                f"{tuple(expected[name].shape)}; the manifest belongs to other weights"
            )
        if tensor.is_floating_point() and not all_finite(tensor):
            raise WeightsError(f"'{path}': {name} holds NaN or infinite values; the training went wrong")


def main() -> int:
    """Verify the bundles named on the command line, every member's hash and tensors; non-zero if one is wrong."""
    if len(sys.argv) < 2:
        print("error: name the bundles to verify: python -m model.networks.weights FOLDER ...", file=sys.stderr)
        return 2
    try:
        for folder in sys.argv[1:]:
            bundle = load_bundle(Path(folder))
            for member in bundle.manifest.members:
                read_state(bundle, member)
            count = len(bundle.manifest.members)
            say(f"{folder}: {bundle.manifest.name}, {count} members, all as the manifest says", sys.stdout)
    except LesionError as error:
        say(f"error: {' '.join(str(error).splitlines())}", sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
