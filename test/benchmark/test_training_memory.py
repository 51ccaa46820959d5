"""The memory of a training step, counted on tensors without values."""

import pytest
import torch
from torch import nn

from benchmark.tensor_memory import MostBytes
from benchmark.training_memory import LAST, counted_network, largest_batch, step_bytes
from model.bundle.network import Network
from model.networks.unet import Block, build
from training.compute.fused_norm import put_into
from training.compute.recompute import recompute_stages

TWO_STAGES = Network(fusion="early", widths=(8, 16))
PAPER = Network(fusion="middle", widths=(32, 32, 64, 128, 256))


@pytest.mark.slow
def test_recomputing_spares_three_images_and_four_numbers_a_channel_of_every_stage() -> None:
    """A stage is two blocks: convolved, activated, convolved, activated, of which the last is kept in either case. Its
    normalisations keep a factor and a summand a channel, in float32. Two bytes a value; stages of 8 channels at full
    resolution, 16 at half the edge, 8 at full resolution.
    """
    voxels, batch = 16**3, 3
    all_kept, fewer = (step_bytes(TWO_STAGES, 16, batch, recompute=how).kept for how in (False, True))
    images = 3 * 2 * (8 * voxels + 16 * voxels // 8 + 8 * voxels)
    numbers = 2 * 2 * 4 * (8 + 16 + 8)
    assert all_kept - fewer == batch * (images + numbers)


@pytest.mark.parametrize("recompute", [False, True])
def test_a_real_forward_pass_keeps_what_is_counted_without_values(recompute: bool) -> None:
    real = build(TWO_STAGES).to(torch.bfloat16)
    for block in [one for one in real.modules() if isinstance(one, Block)]:
        put_into(block)
    if recompute:
        recompute_stages(real)
    kept = []
    for network, device in ((real, "cpu"), (counted_network(TWO_STAGES, recompute=recompute), "meta")):
        image = torch.empty(2, 2, 8, 8, 8, dtype=torch.bfloat16, device=device).contiguous(memory_format=LAST).fill_(1)
        kept.append(kept_bytes(network, image))
    assert kept[0] == kept[1] > 0


def kept_bytes(network: nn.Module, image: torch.Tensor) -> int:
    with MostBytes() as counted:
        out = network(image)  # holds all that the backward pass needs
        alive = counted.alive
    return alive - out.untyped_storage().nbytes()


@pytest.mark.slow
def test_a_batch_of_two_of_160_fits_16_gb_where_stages_are_computed_again_and_not_where_not() -> None:
    assert largest_batch(PAPER, 160, 16, recompute=True) >= 2 > largest_batch(PAPER, 160, 16, recompute=False)


@pytest.mark.slow
def test_the_largest_batch_is_the_largest_that_its_bytes_allow() -> None:
    """Of 24 GB, 92 % less 1.5 GB."""
    batch = largest_batch(PAPER, 96, 24, recompute=True)
    most = [step_bytes(PAPER, 96, one, recompute=True).most for one in (batch, batch + 1)]
    assert most[0] <= 24e9 * 0.92 - 1.5e9 < most[1]
    assert largest_batch(PAPER, 160, 2, recompute=True) == 0
