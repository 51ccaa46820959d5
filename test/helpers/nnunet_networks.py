"""Networks of nnU-Net's kind with random weights, normalisations included."""

from collections.abc import Sequence

import torch

from model.bundle.network import Network
from model.bundle.nnunet import UNetStage
from model.networks.nnunet import StridedUNet

STAGES = (  # kernels and strides that differ by axis; two units in one stage of the decoder
    UNetStage(kernel=(3, 3, 1), stride=(1, 1, 1), blocks=2, decoder_blocks=2),
    UNetStage(kernel=(3, 3, 3), stride=(2, 2, 1), blocks=2),
    UNetStage(kernel=(5, 3, 3), stride=(3, 2, 2), blocks=1),
)
RES_ENC_L = (1, 3, 4, 6, 6, 6)  # blocks of its six stages


def settings_of(fusion: str, widths: Sequence[int] = (8, 16, 24), **more) -> Network:
    """Settings of a small network with all that these networks may have."""
    return Network(fusion=fusion, widths=tuple(widths), stages=STAGES, classes=3, lesion=(2,), organs=11, **more)


def res_enc_l(widths: Sequence[int] = (32, 64, 128, 256, 320, 320)) -> Network:
    """Settings of ResEnc L."""
    stages = [
        UNetStage(kernel=(3, 3, 3), stride=(2, 2, 2) if number else (1, 1, 1), blocks=blocks)
        for number, blocks in enumerate(RES_ENC_L)
    ]
    return Network(fusion="residual_unet", widths=tuple(widths), stages=tuple(stages))


def network_of(settings: Network) -> StridedUNet:
    """A network whose normalisations are not those of new ones, which have 1 and 0 there."""
    torch.manual_seed(0)
    network = StridedUNet(settings).eval()
    for name, tensor in network.state_dict().items():
        if "norm" in name or name.endswith("bias"):
            tensor.copy_(torch.rand_like(tensor) + (0.5 if name.endswith("weight") else -0.5))
    return network
