"""Weights of an encoder trained on ImageNet, in timm's names, from a file (the user sees to their licence)."""

from pathlib import Path

from torch import Tensor, nn

from model.errors import ConfigError, LesionError, WeightsError
from training.compute.finite import not_finite
from training.weights.checkpoint import read_weights
from training.weights.checkpoint_reader import read_state_dict

STEM = "stem.conv.weight"
COLOURS = 3
CLASSIFIER = ("head.", "num_batches_tracked")  # timm's classifier, which the encoder has not; and counters


def load_encoder(encoder: nn.Module, path: Path) -> None:
    """Fill a RegNetY encoder from a file of timm, .safetensors or of torch.save, read without running anything.

    Timm's first convolution sees three colours, ours PET and CT: each takes the weights of one colour, in order, times
    3 / 2, as in segmentation_models_pytorch. Raises ConfigError or WeightsError, and then changes nothing.
    """
    try:
        found = dict(read_weights(path) if path.suffix == ".safetensors" else read_state_dict(path))
    except LesionError as error:
        raise type(error)(f"encoder weights: {error}") from None
    wanted = encoder.state_dict()
    found = {name: tensor for name, tensor in found.items() if not _outside(name)}
    needed = {name for name in wanted if not _outside(name)}
    if missing := sorted(needed - set(found)):
        raise ConfigError(
            f"'{path}' lacks {len(missing)} tensors of this encoder ({', '.join(missing[:3])}); give the file of the "
            "same RegNetY, in timm's names"
        )
    found[STEM] = two_channels(found[STEM], wanted[STEM].shape[1])
    for name in needed:
        if found[name].shape != wanted[name].shape:
            raise WeightsError(
                f"'{path}': {name} has shape {tuple(found[name].shape)}, this encoder needs "
                f"{tuple(wanted[name].shape)}; give the file of the same RegNetY"
            )
    filled = {name: found[name].float() for name in needed}
    if bad := not_finite(filled):
        raise WeightsError(f"'{path}': {min(bad)} holds NaN or infinite values; fetch the file again")
    encoder.load_state_dict(wanted | filled)


def two_channels(weight: Tensor, channels: int) -> Tensor:
    """Weights (O, 3, Y, X) for another number of channels: each takes a colour's, in order, scaled to the same sum."""
    if weight.ndim != 4 or weight.shape[1] != COLOURS:
        return weight
    return weight[:, [number % COLOURS for number in range(channels)]] * (COLOURS / channels)


def _outside(name: str) -> bool:
    return name.startswith(CLASSIFIER[0]) or name.endswith(CLASSIFIER[1])
