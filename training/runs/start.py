"""What a run begins with: random weights, the result of a base run, or a pre-trained encoder."""

from pathlib import Path

import torch
from torch import nn

from model.errors import ConfigError
from model.files import sha256_of
from model.networks.unet import build
from training.settings import Training
from training.weights import checkpoint
from training.weights.imagenet import load_encoder


def starting_point(
    settings: Training, start: Path | None, ct_encoder: Path | None, encoder: Path | None = None
) -> dict[str, str] | None:
    """What a run begins with, by sha256 of its file; None for random weights.

    Raises ConfigError, and WeightsError if a base run's weights are not those it ended with.
    """
    check_options(settings, start, ct_encoder, encoder)
    if start is not None:
        result = checkpoint.result_of(start)
        if settings.averaging and result["epoch"] != settings.averaging.start:
            raise ConfigError(
                f"base run '{start}' ended at epoch {result['epoch']}, averaging.start is {settings.averaging.start}: "
                "they must be the same t0"
            )
        checkpoint.check_weights(checkpoint.result_file(start), result["sha256"], "the base run")
        return {"run": str(start.resolve()), "sha256": result["sha256"]}
    if encoder is not None:
        if not encoder.is_file():
            raise ConfigError(f"encoder '{encoder}' is not there; give a file of timm's weights")
        return {"encoder": str(encoder.resolve()), "sha256": sha256_of(encoder)}
    if ct_encoder is not None:
        if not ct_encoder.is_file():
            raise ConfigError(f"CT encoder '{ct_encoder}' is not there; training pretrain makes one")
        if not ct_encoder.with_name(checkpoint.CONFIG).is_file():
            raise ConfigError(
                f"CT encoder '{ct_encoder}' has no {checkpoint.CONFIG} beside it, which says whose CT it was trained "
                "on: leave it in the folder that training pretrain made"
            )
        return {"ct_encoder": str(ct_encoder.resolve()), "sha256": sha256_of(ct_encoder)}
    return None


def check_options(settings: Training, start: Path | None, ct_encoder: Path | None, encoder: Path | None) -> None:
    """Refuse what cannot begin a run of these settings. Raises ConfigError."""
    if sum(path is not None for path in (start, ct_encoder, encoder)) > 1:
        raise ConfigError("--start, --ct-encoder and --encoder exclude each other: theta_0 holds its encoders already")
    if encoder is not None and settings.network.kind != "slices":
        raise ConfigError("--encoder is for networks for slices; --ct-encoder for those for volumes")
    if ct_encoder is not None and settings.network.kind != "volumes":
        raise ConfigError("--ct-encoder is for networks for volumes; --encoder for those for slices")
    if settings.averaging and start is None and settings.averaging.start > 0:
        raise ConfigError("averaging.start is above 0: a member needs --start, the base run it is fine-tuned from")
    last = settings.schedule.last
    if settings.averaging and settings.averaging.start >= last:
        raise ConfigError(
            f"averaging.start is {settings.averaging.start}, the run ends at epoch {last}: lower averaging.start"
        )


def starting_network(
    settings: Training, start: Path | None, ct_encoder: Path | None, encoder: Path | None = None
) -> nn.Module:
    """Random weights of the seed, theta_0 of the base run, or a pre-trained encoder in random weights."""
    torch.manual_seed(settings.seed)
    network = build(settings.network)
    try:
        if start is not None:
            network.load_state_dict(checkpoint.read_weights(checkpoint.result_file(start)))
        if ct_encoder is not None:
            network.get_submodule("ct_encoder").load_state_dict(checkpoint.read_weights(ct_encoder))
        if encoder is not None:
            load_encoder(network.get_submodule("encoder"), encoder)
    except (RuntimeError, AttributeError) as error:
        reason = str(error).splitlines()[-1].strip()
        raise ConfigError(
            f"'{start or ct_encoder or encoder}' does not fit the network of these settings: {reason}"
        ) from None
    return network
