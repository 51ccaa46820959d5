import dataclasses
import math
import threading

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from msgspec.structs import replace
from nnunet_networks import res_enc_l
from study_views import view_of_image
from torch import nn

from model.bundle.manifest import Bundle, load_bundle
from model.bundle.network import BodyLevels, Network
from model.bundle.nnunet import Normalisation, Preprocessing
from model.bundle.settings import Crop, Intensity, Part, Window
from model.inference import pace
from model.inference.device import Device
from model.inference.ensemble import vote
from model.inference.options import SegmentOptions
from model.inference.preprocess import Placed
from model.inference.sliding import OUTSIDE
from model.inference.view import view_of
from model.networks.unet import build
from model.networks.weights import Voter
from model.study.geometry import Grid, las_view


class Constant(nn.Module):
    """Logits (0, difference) everywhere; counts its calls, and runs out of memory at one of them."""

    def __init__(self, difference: float, fail_at: int | None = None) -> None:
        super().__init__()
        self.difference, self.fail_at, self.calls = difference, fail_at, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB")
        lesion = torch.full_like(image[:, :1], self.difference)
        return torch.cat([torch.zeros_like(lesion), lesion], dim=1)


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return load_bundle(tiny_bundle)


def part_of(bundle: Bundle) -> Part:
    return bundle.manifest.part(bundle.manifest.members[0])


def changed(bundle: Bundle, **manifest) -> Bundle:
    return dataclasses.replace(bundle, manifest=replace(bundle.manifest, **manifest))


def run(networks: list[tuple[float, nn.Module]], bundle: Bundle, device: Device, image=None, part=None, **options):
    part = part or part_of(bundle)
    image = torch.rand(2, 40, 20, 20) if image is None else image
    voters = [Voter(weight=weight, part=part, load=lambda network=network: network) for weight, network in networks]
    options = {"windows_at_a_time": 1} | options
    return vote(view_of_image(image), voters, SegmentOptions(bundle=bundle, device=device, **options))


def test_it_is_the_weighted_mean_of_logit_differences(bundle, cpu) -> None:
    found = run([(2, Constant(3.0)), (1, Constant(-1.0)), (1, Constant(0.5))], bundle, cpu)
    torch.testing.assert_close(found.margin, torch.full((40, 20, 20), (2 * 3 - 1 + 0.5) / 4))


def test_probabilities_are_averaged_if_the_bundle_says_so(bundle, cpu) -> None:
    asked = changed(bundle, combine="probabilities")
    networks = [(1, Constant(4.0)), (2, Constant(-1.5))]
    expected = (1 / (1 + math.exp(-4)) + 2 / (1 + math.exp(1.5))) / 3 - 0.5
    torch.testing.assert_close(run(networks, asked, cpu).margin, torch.full((40, 20, 20), expected))
    assert expected < 0 < (4 - 2 * 1.5) / 3  # the two ways disagree here: the sign tells them apart
    assert (run(networks, bundle, cpu).margin > 0).all()


def test_a_member_of_weight_two_is_run_once(bundle, cpu) -> None:
    network = Constant(1.0)
    found = run([(2, network)], bundle, cpu)
    assert network.calls == found.windows == 2  # 40 voxels in windows of 32, stepping by 16: two


def test_progress_counts_all_windows_of_all_networks(bundle, cpu) -> None:
    calls = []
    networks = [(1.0, Constant(1.0)), (1.0, Constant(2.0))]
    run(networks, bundle, cpu, on_windows=lambda done, total: calls.append((done, total)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_after_memory_ran_out_progress_counts_that_network_s_windows_anew(bundle, cpu) -> None:
    calls = []
    networks = [(1.0, Constant(1.0)), (1.0, Constant(2.0, fail_at=2)), (1.0, Constant(3.0))]
    image = torch.rand(2, 80, 20, 20)  # four windows of 32 that step by 16, two at a time
    found = run(
        networks, bundle, cpu, image, windows_at_a_time=2, on_windows=lambda done, total: calls.append((done, total))
    )
    assert [done for done, _ in calls] == [2, 4, 6, 5, 6, 7, 8, 9, 10, 11, 12]
    assert found.rung.windows == 1 and "memory ran out" in found.warnings[0]
    torch.testing.assert_close(found.margin, torch.full((80, 20, 20), 2.0))


def test_a_tie_is_background(bundle, cpu) -> None:
    assert not (run([(1, Constant(1.0)), (1, Constant(-1.0))], bundle, cpu).margin > 0).any()


def test_a_window_that_shrinks_gives_what_monai_gives_with_the_smaller_window(bundle, cpu) -> None:
    """A volume of 26 x 41 x 9 voxels and a window of 32^3: the network, of three stages, sees 28 x 32 x 12."""
    torch.manual_seed(0)
    part = part_of(bundle)
    part = replace(part, window=replace(part.window, size=(32, 32, 32), shrink=True))
    network, image = build(part.network).eval(), torch.rand(2, 26, 41, 9)
    found = run([(1.0, network)], bundle, cpu, image, part, windows_at_a_time=2)
    with torch.no_grad():
        logits = sliding_window_inference(image[None], (28, 32, 12), 1, network, overlap=part.window.overlap)[0]
    torch.testing.assert_close(found.margin, logits[1] - logits[0], rtol=1e-4, atol=1e-5)
    assert found.windows == 2 and found.margin.shape == (26, 41, 9)


def test_windows_without_bright_pet_are_not_run_and_counted(bundle, cpu) -> None:
    """40 x 32 x 70 voxels in windows of 32^3 that step by 16: two along x, one along y, four along z, at 0, 16, 32, 38.
    A voxel of SUV 3 at (39, 9, 20) lies in the second window of x and the first two of z.
    """
    image = torch.zeros(2, 40, 32, 70)
    image[1, 39, 9, 20] = 3.0 / bundle.manifest.intensity.suv_top
    for level, count in ((2.9, 2), (3.1, 0), (None, 8)):
        network = Constant(1.5)
        found = run([(1.0, network)], changed(bundle, skip_suv=level), cpu, image)
        assert (found.windows, found.skipped, network.calls) == (count, 8 - count, count)
        expected = torch.full((40, 32, 70), 1.5 if level is None else OUTSIDE)
        if count == 2:
            expected[8:, :, :48] = 1.5
        torch.testing.assert_close(found.margin, expected)


def test_the_next_voters_weights_are_asked_for_before_this_one_ends(bundle, cpu) -> None:
    asked = [threading.Event() for _ in range(3)]

    class Waits(Constant):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            assert asked[1].wait(30), "the second network is loaded while the first runs"
            return super().forward(image)

    def load(number: int) -> nn.Module:
        asked[number].set()
        return Waits(1.0)

    voters = [Voter(weight=1.0, part=part_of(bundle), load=lambda number=number: load(number)) for number in range(3)]
    vote(view_of_image(torch.rand(2, 20, 20, 20)), voters, SegmentOptions(bundle=bundle, device=cpu))
    assert asked[2].is_set()


def test_disagreement_is_the_weighted_standard_deviation_of_the_probabilities(bundle, cpu) -> None:
    networks = [(2.0, Constant(3.0)), (1.0, Constant(-1.0)), (1.0, Constant(0.5))]
    found = run(networks, bundle, cpu, with_disagreement=True)
    chances = [1 / (1 + math.exp(-d)) for d in (3.0, 3.0, -1.0, 0.5)]  # weight 2 counts twice
    mean = sum(chances) / 4
    expected = math.sqrt(sum((p - mean) ** 2 for p in chances) / 4)
    torch.testing.assert_close(found.disagreement, torch.full((40, 20, 20), expected))
    assert run(networks, bundle, cpu).disagreement is None


def test_a_network_that_sees_nothing_is_not_run_and_votes_background(bundle, cpu) -> None:
    """Of two equal voters one is certain of lesion and the other not run: on average the probability is a half less."""
    network, blind = Constant(30.0), Constant(30.0)
    part = part_of(bundle)
    other = replace(part, window=replace(part.window, overlap=0.25))
    voters = [
        Voter(weight=1, part=one, load=lambda found=found: found) for one, found in ((part, network), (other, blind))
    ]
    view = dataclasses.replace(view_of_image(torch.rand(2, 40, 20, 20)), sees_nothing=lambda part: part == other)
    asked = SegmentOptions(bundle=changed(bundle, combine="probabilities"), device=cpu, with_disagreement=True)
    found = vote(view, voters, asked)
    torch.testing.assert_close(found.margin, torch.full((40, 20, 20), 0.0), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.disagreement, torch.full((40, 20, 20), 0.5), atol=1e-6, rtol=0)
    assert blind.calls == 0 and network.calls == found.windows


def test_a_box_of_no_pet_is_nothing_to_a_network_of_that_box_and_all_to_others() -> None:
    """In a bundle of both kinds: PET of zeros, and CT of water, in which nnU-Net's networks still look."""
    grid = Grid(size=(9, 8, 7), spacing_mm=(5.0,) * 3, origin_mm=(0.0,) * 3, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    water = np.ones((7, 8, 9), np.float32)
    placed = Placed(view=las_view(grid), box=(slice(None),) * 3, suv=water * 0, hu=water, ct_share=1.0)
    normalisation = Normalisation(scheme="none")
    one = Part(network=Network(fusion="early", widths=(2, 4)), intensity=Intensity(), window=Window(size=(8, 8, 8)))
    other = replace(
        one,
        network=res_enc_l((2,) * 6),
        window=Window(size=(64, 64, 64)),
        preprocessing=Preprocessing(ct=normalisation, pet=normalisation, spacing_mm=(5.0,) * 3),
    )
    view = view_of(placed, Crop(), mixed=True)
    assert view.sees_nothing(one) and not view.sees_nothing(other) and view.size(other) == (9, 8, 7)
    assert not view_of(placed, Crop(), mixed=False).sees_nothing(one)


def test_every_network_gets_the_channels_and_the_body_that_its_settings_name(bundle, cpu) -> None:
    """One image is kept for networks that take the same: CT and PET alone, or with either body, of 1 or 4 voxels."""
    suv = np.zeros((32, 32, 32), np.float32)
    suv.flat[:4] = [1, 1, 1, 9]
    grid = Grid(size=(32,) * 3, spacing_mm=(5.0,) * 3, origin_mm=(0.0,) * 3, direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
    placed = Placed(view=las_view(grid), box=(slice(None),) * 3, suv=suv, hu=suv * 0 - 1000, ct_share=1.0)
    seen = []

    class Watching(Constant):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            seen.append((image.shape[1], int(image[:, 2:].sum())))
            return super().forward(image)

    parts = [
        replace(part_of(bundle), network=Network(fusion="middle", widths=(2, 2, 4), norm=norm, body=body))
        for norm, body in (
            ("instance", BodyLevels()),
            ("body", BodyLevels()),
            ("body", BodyLevels(suv=5.0)),
            ("body", BodyLevels(suv=5.0)),
        )
    ]
    voters = [Voter(weight=1.0, part=part, load=lambda: Watching(1.0)) for part in parts]
    vote(view_of(placed, Crop(), mixed=False), voters, SegmentOptions(bundle=bundle, device=cpu, windows_at_a_time=1))
    assert seen == [(2, 0), (3, 4), (3, 1), (3, 1)]


def test_how_long_it_will_take_is_said_once_the_second_pass_was_timed(bundle, cpu, monkeypatch) -> None:
    """40 x 20 x 20 voxels in windows of 32^3: two. The tiny bundle has two networks."""
    monkeypatch.setattr(pace, "LEAST_TIMED_S", 0.0)
    monkeypatch.setattr(pace, "LEAST_SHOWN_S", 0.0)
    found: list[tuple[int, pace.TimeEstimate]] = []
    network = Constant(1.0)
    run([(1.0, network), (1.0, Constant(2.0))], bundle, cpu, on_estimate=lambda one: found.append((network.calls, one)))
    ((calls, estimate),) = found
    assert calls == 2 and (estimate.passes, estimate.windows, estimate.device) == (4, 2, "CPU")
    assert estimate.words().endswith("on this CPU (2 passes of 2 windows); --method diwa: about 1 s")


IN_BFLOAT16 = Device(torch_device=torch.device("cpu"), precision=torch.bfloat16, name="a CPU")


def wide_network() -> nn.Module:
    """With layers of 32 channels, which compute in bfloat16."""
    torch.manual_seed(0)
    return build(Network(fusion="early", widths=(32, 32))).eval()


@pytest.mark.slow
def test_in_bfloat16_the_mask_is_that_of_float32_but_near_its_border(bundle, cpu) -> None:
    """Six layers of 8 bits: a margin is off by about sqrt(6) * 2**-9 of its spread, no voxel by eight times that."""
    network, image = wide_network(), torch.rand(2, 40, 32, 32)
    single, narrow = (run([(1, network)], bundle, device, image).margin for device in (cpu, IN_BFLOAT16))
    assert narrow.dtype == torch.float32 and not torch.equal(single, narrow)
    off = 6**0.5 * 2**-9 * float(single.std())
    assert float((narrow - single).square().mean().sqrt()) < 2 * off
    assert (single.abs()[(single > 0) != (narrow > 0)] < 8 * off).all()


@pytest.mark.slow
def test_what_overflows_in_bfloat16_is_run_again_in_float32(bundle, cpu) -> None:
    """3.4e38 is a float32 number, but rounds to infinity in bfloat16, whose largest is 3.39e38."""
    network = wide_network()
    first, second = network.get_submodule("encoder.layer1")
    first.norm.weight.data.fill_(1e-33)
    second.conv.weight.data[0, 0, 1, 1, 1] = 3.4e38
    image = torch.rand(2, 40, 32, 32)
    expected, found = (run([(1, network)], bundle, device, image) for device in (cpu, IN_BFLOAT16))
    assert torch.equal(found.margin, expected.margin) and expected.warnings == ()
    assert [warning.split("; ")[1] for warning in found.warnings] == ["it was run again in float32"]
