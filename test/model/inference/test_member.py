import pytest
import torch

from model.bundle.network import Network
from model.bundle.settings import Intensity, Part, Window
from model.inference.ladder import Rung
from model.inference.member import predict_mirrored, run_member
from model.inference.outputs import difference_of

CPU = torch.device("cpu")
RUNG = Rung(device=CPU, windows=2, slices=2, sums_on=CPU)
SLICES = Part(
    network=Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4)),
    intensity=Intensity(ct_clip=True),
    window=Window(size=(64, 64, 1)),
)


def test_the_difference_is_lesion_minus_background_or_the_lesion_s_logit_alone() -> None:
    logits = torch.tensor([[1.0, 3.5]])[..., None].half()
    assert difference_of(logits).tolist() == [[[2.5]]] and difference_of(logits).dtype == torch.float32
    assert difference_of(logits[:, 1:]).tolist() == [[[3.5]]]


@pytest.mark.parametrize(("width", "warned"), [(60, False), (80, True)])
def test_a_body_that_is_wider_than_the_window_is_a_warning(width: int, warned: bool) -> None:
    image = torch.zeros(2, 100, 64, 3)
    image[0] = -1000
    image[0, 10 : 10 + width, 10:50, 1] = 0  # water in one of three slices
    margin, warnings = run_member(image, SLICES, lambda patches: torch.ones(len(patches), 1, 64, 64), RUNG)
    assert margin.shape == (1, 100, 64, 3) and margin[0, 50, 32].tolist() == [1, 1, 1]
    expected = ["in 1 of 3 slices the body is wider than the 64 x 64 pixels"] if warned else []
    assert [line[: line.index(" that")] for line in warnings] == expected


@pytest.mark.parametrize("at_a_time", [1, 4, 5, 16])
def test_mirrored_patches_run_in_batches_and_give_the_mean_of_every_combination(at_a_time: int) -> None:
    """A patch weighted by a ramp, mirrored there and back in eight ways: the ramp becomes its mean over them."""
    patches, sizes = torch.rand(2, 1, 4, 5, 6), []
    ramp = torch.arange(120.0).reshape(4, 5, 6)

    def predict(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images * ramp

    flips = [[], [0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    mean = sum(ramp.flip(flip) for flip in flips) / 8  # constant: each pair of mirror images sums to 119
    assert torch.equal(mean, torch.full_like(ramp, 59.5))
    torch.testing.assert_close(predict_mirrored(predict, patches, ("x", "y", "z"), at_a_time), patches * mean)
    assert max(sizes) <= max(at_a_time, 2) and sum(sizes) == 16
