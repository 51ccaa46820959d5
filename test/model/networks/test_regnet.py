"""Published facts of RegNetY and of segmentation_models_pytorch's Unet on it; and those packages, where they import."""

import pytest
import torch

from model.bundle.network import Network
from model.networks.regnet import DESIGNS
from model.networks.unet import build, skeleton

SMP_WIDTHS = (256, 128, 64, 32, 16)
STAGES = {  # blocks and widths, Radosavovic et al., table of appendix D and timm's feature channels
    "regnety_002": [(1, 24), (1, 56), (4, 152), (7, 368)],
    "regnety_004": [(1, 48), (3, 104), (6, 208), (6, 440)],
    "regnety_008": [(1, 64), (3, 128), (8, 320), (2, 768)],
    "regnety_160": [(2, 224), (4, 448), (11, 1232), (1, 3024)],
}
CLASSIFIERS = {"regnety_002": 3_162_996, "regnety_004": 4_344_144, "regnety_008": 6_263_168, "regnety_160": 83_590_140}


def parameters(module: torch.nn.Module) -> int:
    return sum(tensor.numel() for tensor in module.parameters())


@pytest.mark.parametrize("name", STAGES)
def test_stages_are_the_published_ones(name) -> None:
    assert DESIGNS[name].stages() == STAGES[name]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_a_trunk_has_the_published_classifiers_parameters(name) -> None:
    """timm's counts, less the 1000 classes with their biases, and less what the third input channel has in the stem."""
    deepest = STAGES[name][-1][1]
    trunk = CLASSIFIERS[name] - 1000 * (deepest + 1) - 32 * 9
    assert parameters(skeleton(Network(fusion=name, widths=SMP_WIDTHS)).encoder) == trunk


def test_the_submitted_network_has_the_parameters_of_segmentation_models_pytorchs() -> None:
    network = skeleton(Network(fusion="regnety_160", widths=SMP_WIDTHS, classes=1))
    assert parameters(network) == 92_204_485 and parameters(network.encoder) == 80_564_852


@pytest.mark.parametrize("classes", [1, 2])
def test_logits_have_the_size_of_the_slice(classes) -> None:
    network = build(Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4), classes=classes)).eval()
    with torch.no_grad():
        features = network.encoder(torch.rand(2, 2, 64, 96))
        assert [tuple(f.shape[1:]) for f in features] == [
            (32, 32, 48),
            (24, 16, 24),
            (56, 8, 12),
            (152, 4, 6),
            (368, 2, 3),
        ]
        assert network(torch.rand(2, 2, 64, 96)).shape == (2, classes, 64, 96)


def test_names_are_those_of_timm_and_segmentation_models_pytorch() -> None:
    names = set(skeleton(Network(fusion="regnety_160", widths=SMP_WIDTHS, classes=1)).state_dict())
    conv_bn = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    expected = {"encoder.stem.conv.weight", *(f"encoder.stem.bn.{name}" for name in conv_bn)}
    for stage, blocks in enumerate((2, 4, 11, 1), start=1):
        for block in range(1, blocks + 1):
            below = f"encoder.s{stage}.b{block}"
            layers = ["conv1", "conv2", "conv3"] + ["downsample"] * (block == 1)
            expected |= {f"{below}.{layer}.conv.weight" for layer in layers}
            expected |= {f"{below}.{layer}.bn.{name}" for layer in layers for name in conv_bn}
            expected |= {f"{below}.se.fc{number}.{name}" for number in (1, 2) for name in ("weight", "bias")}
    for block in range(5):
        for layer in ("conv1", "conv2"):
            expected |= {f"decoder.blocks.{block}.{layer}.0.weight"}
            expected |= {f"decoder.blocks.{block}.{layer}.1.{name}" for name in conv_bn}
    assert names == expected | {"segmentation_head.0.weight", "segmentation_head.0.bias"}


def test_a_fresh_block_is_its_shortcut() -> None:
    """The last normalisation's weight is 0 at first, as in timm: what a block adds is nothing."""
    block = build(Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4))).encoder.s3[1].eval()
    image = torch.rand(1, 152, 4, 4)
    with torch.no_grad():
        torch.testing.assert_close(block(image), image)


def test_it_says_what_segmentation_models_pytorch_says() -> None:
    smp = pytest.importorskip(
        "segmentation_models_pytorch",
        reason="segmentation_models_pytorch is not here",
        exc_type=(ImportError, RuntimeError),
    )
    theirs = smp.Unet("timm-regnety_004", encoder_weights=None, in_channels=2, classes=1).eval()
    ours = build(Network(fusion="regnety_004", widths=SMP_WIDTHS, classes=1)).eval()
    state = {name.replace("encoder.model.", "encoder."): t for name, t in theirs.state_dict().items()}  # as of 0.6
    for name, tensor in state.items():  # a fresh block adds nothing, see above
        if name.endswith("bn.weight"):
            tensor.uniform_(0.5, 1.5)
    ours.load_state_dict(state)
    image = torch.rand(1, 2, 64, 64)
    with torch.no_grad():
        torch.testing.assert_close(ours(image), theirs(image))
