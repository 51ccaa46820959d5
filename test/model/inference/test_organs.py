"""The organ map, against torch's plain module, and against loops that are written down here once more."""

import dataclasses
import itertools

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from cases import case_of
from msgspec.structs import replace
from organ_bundles import organ_bundle, organ_network
from scipy import ndimage
from study_views import view_of_image
from tiny_studies import tiny_images
from torch import nn

from model.bundle.manifest import load_bundle
from model.bundle.organs import organ_voters
from model.bundle.settings import Intensity, Part, Window
from model.inference.device import Device, choose_device
from model.inference.ensemble import vote
from model.inference.ladder import Ladder, Rung
from model.inference.options import SegmentOptions
from model.inference.organs import OrganMean
from model.inference.preprocess import Placed
from model.inference.segment import segment
from model.inference.view import view_of
from model.networks.unet import build
from model.networks.weights import Voter
from model.study.geometry import Grid, las_view
from training.__main__ import main as training

CLEAR = 1e-4  # logits that are closer may fall either way
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def bundle(make_bundle, tmp_path_factory):
    return load_bundle(make_bundle(tmp_path_factory.mktemp("organs") / "organs", **organ_bundle()))


def part_of(window: Window, organs: int = 11) -> Part:
    return Part(network=organ_network(organs), intensity=Intensity(), window=window)


def network_of(part: Part, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return build(part.network).eval()


def run(voters: list[tuple[float, Part, nn.Module]], bundle, cpu: Device, image: torch.Tensor, organs: bool = True):
    made = [Voter(weight=weight, part=part, load=lambda network=network: network) for weight, part, network in voters]
    return vote(view_of_image(image), made, SegmentOptions(bundle=bundle, device=cpu, with_organs=organs))


def assert_largest(labels: torch.Tensor, values: torch.Tensor) -> None:
    """Labels are the numbers of the largest of `values` (classes, X, Y, Z), where it is clear which that is."""
    first, second = values.topk(2, dim=0).values
    clear = first - second > CLEAR
    assert clear.float().mean() > 0.9 and len(values.argmax(0).unique()) > 3, "a map that could be right by chance"
    assert torch.equal(labels[clear].long(), values.argmax(0)[clear])


def test_in_one_window_it_is_the_largest_logit_of_the_plain_module(bundle, cpu) -> None:
    part = part_of(Window(size=(16, 16, 16)))
    network, image = network_of(part, 1), torch.randn(2, 16, 16, 16)
    found = run([(1.0, part, network)], bundle, cpu, image)
    with torch.no_grad():
        lesion, organs = network.with_organs(image[None])
    assert found.organs.dtype == torch.uint8
    assert torch.equal(found.organs.long(), organs[0].argmax(0))
    torch.testing.assert_close(found.margin, (lesion[0, 1] - lesion[0, 0]))


@pytest.mark.slow
def test_windows_mirrored_views_and_folds_are_averaged(bundle, cpu) -> None:
    """24 x 20 x 16 voxels in windows of 16^3 that step by 8 at most: x at 0, 8; y at 0, 4; z at 0."""
    part = part_of(Window(size=(16, 16, 16), placing="even", mirrored=("x", "z")))
    folds = [(2.0, network_of(part, 1)), (1.0, network_of(part, 2))]
    image = torch.randn(2, 24, 20, 16)
    total = torch.zeros(11, 24, 20, 16)
    for weight, network in folds:
        sums, counts = torch.zeros_like(total), torch.zeros(24, 20, 16)
        for x, y in itertools.product((0, 8), (0, 4)):
            box = (slice(None), slice(x, x + 16), slice(y, y + 16))
            for flips in ((), (2,), (4,), (2, 4)):
                with torch.no_grad():
                    features = network.decoder(network.encoder(image[box][None].flip(flips)))
                    sums[box] += network.organ_head(features).flip(flips)[0]
                counts[box[1:]] += 1
        total += weight / 3 * sums / counts
    found = run([(weight, part, network) for weight, network in folds], bundle, cpu, image)
    assert_largest(found.organs, total)


def test_networks_of_other_settings_vote_by_probability_and_those_without_the_head_do_not(bundle, cpu) -> None:
    one, other, without = (
        part_of(Window(size=(16, 16, 16), overlap=overlap), organs)
        for overlap, organs in ((0.5, 11), (0.25, 11), (0.5, 0))
    )
    voters = [
        (3.0, one, network_of(one, 1)),
        (1.0, other, network_of(other, 2)),
        (5.0, without, network_of(without, 3)),
    ]
    image = torch.randn(2, 16, 16, 16)
    with torch.no_grad():
        shares = [weight * network.with_organs(image[None])[1][0].softmax(0) for weight, _, network in voters[:2]]
    assert_largest(run(voters, bundle, cpu, image).organs, sum(shares))


def test_asking_for_organs_changes_no_bit_of_the_lesions(bundle, cpu) -> None:
    part = part_of(Window(size=(16, 16, 16), mirrored=("y",)))
    voters = [(1.0, part, network_of(part, seed)) for seed in (1, 2)]
    image = torch.randn(2, 24, 16, 16)
    with_them, without = (run(voters, bundle, cpu, image, organs) for organs in (True, False))
    assert torch.equal(with_them.margin, without.margin) and without.organs is None


def test_windows_that_are_not_run_are_background(bundle, cpu) -> None:
    asked = dataclasses.replace(bundle, manifest=replace(bundle.manifest, skip_suv=100.0))
    part = part_of(Window(size=(16, 16, 16)))
    found = run([(1.0, part, network_of(part, 1))], asked, cpu, torch.zeros(2, 16, 16, 16))
    assert found.windows == 0 and not found.organs.any()


def test_out_of_memory_on_a_gpu_it_is_the_cpus_turn(bundle, cpu) -> None:
    """A view that has no memory on the first rung's device, which stands for a GPU."""
    part, gpu = part_of(Window(size=(16, 16, 16))), torch.device("meta")
    logits = torch.randn(13, 4, 5, 6)

    def channel(part: Part, values: torch.Tensor, outside: float) -> torch.Tensor:
        if values.device == gpu:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return values

    view = dataclasses.replace(view_of_image(torch.zeros(2, 4, 5, 6)), channel=channel)
    mean = OrganMean()
    mean.add(part, torch.cat([torch.zeros(1, 4, 5, 6), logits[2:]]), 1.0)
    ladder = Ladder(rungs=[Rung(device=gpu, windows=4, slices=1, sums_on=gpu)], shape=(4, 5, 6))
    device = dataclasses.replace(cpu, torch_device=gpu)
    assert torch.equal(mean.labels(view, ladder, device).long(), logits[2:].argmax(0))
    assert ["memory ran out at meta" in warning for warning in ladder.warnings] == [True]


def test_a_class_is_brought_back_as_all_of_them_are(bundle) -> None:
    """By SciPy, on a study whose voxels are not the network's: linear, each class by itself, then the largest."""
    grid = Grid(
        size=(9, 8, 7), spacing_mm=(8.0, 8.0, 12.0), origin_mm=(0.0, 0.0, 0.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
    )
    rng = np.random.default_rng(0)
    suv = rng.random((7, 8, 9)).astype(np.float32) + 1
    whole = (slice(0, 7), slice(0, 8), slice(0, 9))
    placed = Placed(view=las_view(grid), box=whole, suv=suv, hu=suv * 0, ct_share=1.0)
    manifest = bundle.manifest
    part = manifest.part(manifest.members[0])
    view = view_of(placed, manifest.crop, mixed=False)
    assert view.size(part) == (9, 8, 10)  # voxels of 8 mm: 7 x 12 / 8 = 10.5, to the even one
    logits = torch.randn(11, 9, 8, 10)
    mean = OrganMean()
    mean.add(part, torch.cat([torch.zeros(1, 9, 8, 10), logits]), 1.0)
    ladder = Ladder(rungs=[Rung(device=CPU, windows=1, slices=1, sums_on=CPU)], shape=(9, 8, 7))
    labels = mean.labels(view, ladder, Device(torch_device=CPU, precision=torch.float32, name="CPU"))
    zoomed = [
        ndimage.zoom(one.numpy(), (1, 1, 0.7), order=1, mode="nearest", grid_mode=True, output=np.float64)
        for one in logits
    ]
    assert_largest(labels, torch.from_numpy(np.stack(zoomed)))


@pytest.mark.slow
def test_in_a_mix_the_organs_are_those_of_the_model_that_knows_them(bundle, tiny_bundle, cpu, tmp_path) -> None:
    words = ["mix", str(bundle.folder), str(tiny_bundle), "--name", "both", "--output", str(tmp_path / "both")]
    assert training(words) == 0
    both = load_bundle(tmp_path / "both")
    assert (both.manifest.kind, organ_voters(both.manifest)) == ("mixed", (2, 4))
    pet, ct = (padded(image) for image in tiny_images())
    alone, mixed = (
        segment(case_of(pet, ct), SegmentOptions(bundle=one, device=cpu, with_organs=True)).organs
        for one in (bundle, both)
    )
    assert len(np.unique(alone)) > 3
    np.testing.assert_array_equal(mixed, alone)


def padded(image: sitk.Image) -> sitk.Image:
    """With three voxels of zeros at every face: so the boxes of both kinds of networks are smaller than the study."""
    return sitk.ConstantPad(image, [3, 3, 3], [3, 3, 3], 0.0)


def test_an_empty_study_has_no_organs(bundle, cpu) -> None:
    images = [image * 0 for image in tiny_images()]
    found = segment(case_of(*images), SegmentOptions(bundle=bundle, device=cpu, with_organs=True))
    assert found.organs.dtype == np.uint8 and found.organs.shape == found.mask.shape and not found.organs.any()


@pytest.mark.gpu
def test_on_a_gpu_the_map_is_that_of_the_cpu(bundle, cpu) -> None:
    if not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    case = case_of(*tiny_images())
    here, there = (
        segment(case, SegmentOptions(bundle=bundle, device=device, with_organs=True))
        for device in (cpu, choose_device("cuda"))
    )
    alone = segment(case, SegmentOptions(bundle=bundle, device=choose_device("cuda")))
    assert np.array_equal(alone.mask, there.mask)
    assert there.rung.startswith("cuda") and (here.organs == there.organs).mean() > 0.99


@pytest.mark.slow
@pytest.mark.parametrize("method", ["eoa", "diwa"])
def test_the_map_lies_on_the_pets_grid_however_it_is_stored(method, bundle, cpu) -> None:
    asked = dataclasses.replace(bundle, manifest=replace(bundle.manifest, method=method))
    pet, ct = tiny_images()
    maps = []
    for images in ((pet, ct), (sitk.DICOMOrient(pet, "RAI"), sitk.DICOMOrient(ct, "PIL"))):
        found = segment(case_of(*images), SegmentOptions(bundle=asked, device=cpu, with_organs=True))
        assert found.organs.dtype == np.uint8 and found.organs.shape == found.mask.shape
        image = sitk.GetImageFromArray(found.organs)
        image.CopyInformation(images[0])
        maps.append(sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LAS")))
    assert len(np.unique(maps[0])) > 3
    np.testing.assert_array_equal(*maps)
