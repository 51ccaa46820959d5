"""Stages that are computed again: the same gradients to the bit, and fewer values kept."""

import pytest
import torch
from torch import nn

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage
from model.errors import ConfigError
from model.networks.unet import build
from training.compute.recompute import recompute_stages
from training.settings import settings_from

STAGES = tuple(UNetStage(kernel=(3, 3, 3), stride=(s, s, s), blocks=1) for s in (1, 2))
NETWORKS = {
    "middle": (Network(fusion="middle", widths=(4, 8)), 5),  # stages: two of each encoder, one of the decoder
    "body": (Network(fusion="middle", widths=(4, 8), norm="body"), 5),
    "early": (Network(fusion="early", widths=(4, 8)), 3),
    "residual": (Network(fusion="residual_unet", widths=(4, 8), stages=STAGES), 3),
}


def gradients_and_kept_bytes(network: nn.Module, channels: int) -> tuple[list[torch.Tensor], int]:
    kept = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    image = torch.rand(1, channels, 16, 16, 16, generator=torch.Generator().manual_seed(0))
    image[:, 2:] = image[:, 2:].round()
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = network(image).square().mean()
    loss.backward()
    return [parameter.grad for parameter in network.parameters()], sum(kept.values())


@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_are_the_same_and_less_is_kept(name: str) -> None:
    settings, stages = NETWORKS[name]
    torch.manual_seed(1)
    network = build(settings)
    wanted, all_bytes = gradients_and_kept_bytes(network, settings.image_channels)
    names = list(network.state_dict())
    network.zero_grad(set_to_none=True)
    assert recompute_stages(network) == stages and list(network.state_dict()) == names
    found, fewer_bytes = gradients_and_kept_bytes(network, settings.image_channels)
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert fewer_bytes < 0.7 * all_bytes


def test_it_is_refused_where_it_would_change_statistics() -> None:
    with pytest.raises(ConfigError, match="count every batch twice"):
        settings_from({"recompute": True, "network": {"fusion": "middle", "widths": [4, 8], "norm": "batch"}})
    with pytest.raises(ConfigError, match="recompute is for U-Nets"):
        settings_from({"recompute": True, "network": {"fusion": "swin_unetr", "widths": [12]}})
