"""The tensors of an nnU-Net v2 checkpoint under the project's names, with its axes turned to (x, y, z).

A checkpoint repeats tensors: decoder.encoder.* is encoder.*, and ...all_modules.* is the conv and norm beside it. A
network that was trained on several GPUs or compiled has module. or _orig_mod. before every name. Heads of deep
supervision but the last are not used, nor are those of the organs.
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from model.bundle.network import Network
from model.errors import WeightsError
from model.networks.unet import skeleton
from training.bundles.nnunet_plans import Described
from training.data.table import some_of

State = dict[str, Tensor]
WRAPPERS = re.compile(r"^(?:module\.|_orig_mod\.)+")
REPEATED = re.compile(r"^decoder\.encoder\.|\.all_modules\.")
ORGAN_HEADS = "decoder.organ_seg_layers."
FIRST = ("encoder.stem.conv.weight", "encoder.stages.0.0.conv.weight")  # what reads the image, residual and plain


def organ_classes(found: State) -> int:
    """How many classes the checkpoint's organ head tells apart; 0 without one."""
    heads = [name for name in found if ORGAN_HEADS in name and name.endswith(".weight")]
    return int(found[heads[0]].shape[0]) if heads else 0


def our_state(found: State, described: Described, path: Path) -> State:
    """The checkpoint's tensors as the state of `described.network`, float32.

    Raises WeightsError naming tensors that are missing, superfluous, of another shape, not finite, or repeated with
    other values.
    """
    theirs = without_repeats({WRAPPERS.sub("", name): tensor for name, tensor in found.items()}, path)
    wanted = skeleton(described.network).state_dict()
    names = {their_name(name, described.network): name for name in wanted}
    unused = _unused_heads(theirs, described.network)
    missing, extra = sorted(set(names) - set(theirs)), sorted(set(theirs) - set(names) - unused)
    if missing or extra:
        raise WeightsError(
            f"'{path}' is not the network of its plans: {len(missing)} tensors missing: {some_of(missing)}; "
            f"{len(extra)} superfluous: {some_of(extra)}; give the folder as it was published"
        )
    state = {}
    for their, our in names.items():
        tensor = turned(theirs[their], described.axes).float()
        if our in FIRST:
            tensor = tensor[:, list(described.channels)]  # CT, PET
        if tensor.shape != wanted[our].shape:
            raise WeightsError(
                f"'{path}': {their} has shape {tuple(theirs[their].shape)}, the plans need "
                f"{tuple(wanted[our].shape)} in (x, y, z); plans.json belongs to other weights"
            )
        if not torch.isfinite(tensor).all():
            raise WeightsError(f"'{path}': {their} holds NaN or infinite values; fetch it again")
        state[our] = tensor.contiguous()
    return state


def without_repeats(found: State, path: Path) -> State:
    """The tensors without those that repeat another. Raises WeightsError where a repeat differs from it."""
    kept = {name: tensor for name, tensor in found.items() if not REPEATED.search(name)}
    for name in set(found) - set(kept):
        original = name.removeprefix("decoder.") if name.startswith("decoder.encoder.") else name
        original = re.sub(r"\.all_modules\.0\.", ".conv.", original)
        original = re.sub(r"\.all_modules\.\d+\.", ".norm.", original)
        if original not in kept or not torch.equal(found[name], kept[original]):
            raise WeightsError(f"'{path}': {name} should repeat {original} and does not; fetch it again")
    return kept


def their_name(name: str, network: Network) -> str:
    """nnU-Net's name of one of our tensors."""
    if match := re.fullmatch(r"encoder\.stem\.(.+)", name):
        return f"encoder.stem.convs.0.{match[1]}"
    if match := re.fullmatch(r"encoder\.stages\.(\d+)\.(\d+)\.(.+)", name):
        stage, block, rest = int(match[1]), match[2], match[3]
        if network.fusion == "plain_unet":
            return f"encoder.stages.{stage}.0.convs.{block}.{rest}"
        pooled = block == "0" and max(network.stages[stage].stride) > 1  # the average comes first in their skip
        parts = {"first": "conv1", "second": "conv2", "widen": f"skip.{int(pooled)}"}
        unit, inner = rest.split(".", 1)
        return f"encoder.stages.{stage}.blocks.{block}.{parts[unit]}.{inner}"
    if match := re.fullmatch(r"decoder\.stages\.(\d+)\.(\d+)\.(.+)", name):
        return f"decoder.stages.{match[1]}.convs.{match[2]}.{match[3]}"
    if match := re.fullmatch(r"decoder\.ups\.(\d+)\.(.+)", name):
        return f"decoder.transpconvs.{match[1]}.{match[2]}"
    last = len(network.widths) - 2
    if match := re.fullmatch(r"organ_head\.(.+)", name):
        return f"{ORGAN_HEADS}{last}.{match[1]}"
    return name.replace("head.", f"decoder.seg_layers.{last}.", 1)


def turned(tensor: Tensor, axes: tuple[int, int, int]) -> Tensor:
    """A convolution's weight with its kernel along (x, y, z); other tensors as they are."""
    return tensor.permute(0, 1, *(2 + axis for axis in axes)) if tensor.ndim == 5 else tensor


def _unused_heads(found: State, network: Network) -> set[str]:
    """The heads of deep supervision that inference does not use, and the organs' where the network has none."""
    last = len(network.widths) - 2
    kept = {f"decoder.seg_layers.{last}."} | ({f"{ORGAN_HEADS}{last}."} if network.organs else set())
    heads = [name for name in found if name.startswith(("decoder.seg_layers.", ORGAN_HEADS))]
    return {name for name in heads if not name.startswith(tuple(kept))}
