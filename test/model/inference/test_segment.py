import dataclasses

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from cases import case_of
from monai.inferers import sliding_window_inference
from msgspec import structs
from tiny_studies import tiny_images

from model.bundle.manifest import Bundle, load_bundle
from model.bundle.network import Network
from model.bundle.settings import Limits
from model.inference.options import SegmentOptions
from model.inference.preprocess import place
from model.inference.segment import segment
from model.inference.view import image_of
from model.networks.weights import voters
from model.stopwatch import Stopwatch


@pytest.fixture(scope="module")
def bundle(tiny_bundle) -> Bundle:
    return load_bundle(tiny_bundle)


def run(pet: sitk.Image, ct: sitk.Image, bundle: Bundle, cpu, **options: bool):
    return segment(case_of(pet, ct), SegmentOptions(bundle=bundle, device=cpu, **options))


def test_the_mask_lies_on_the_pet_grid_and_says_both_classes(bundle, cpu) -> None:
    pet, ct = tiny_images()
    result = run(pet, ct, bundle, cpu)
    assert result.mask.shape == (50, 36, 40) and result.mask.dtype == bool
    assert 0.02 < result.mask.mean() < 0.9


@pytest.mark.parametrize("order", ["RPI", "SAL", "PIR", "LAS", "RAS", "IPR"])
def test_the_mask_is_the_same_bit_for_bit_however_pet_is_stored(order: str, bundle, cpu) -> None:
    pet, ct = tiny_images()
    expected = run(pet, ct, bundle, cpu).mask
    stored = sitk.DICOMOrient(pet, order)
    mask = sitk.GetImageFromArray(run(stored, ct, bundle, cpu).mask.astype(np.uint8))
    mask.CopyInformation(stored)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")), expected)


@pytest.mark.parametrize("order", ["RPI", "SAL"])
def test_the_mask_of_an_oblique_study_does_not_depend_on_how_pet_is_stored(order: str, bundle, cpu) -> None:
    pet, ct = tiny_images()
    turn = sitk.Euler3DTransform((0, 0, 0), 0.1, 0.05, -0.1)
    pet.SetDirection(turn.GetMatrix())
    pet.SetOrigin(turn.TransformPoint(pet.GetOrigin()))
    ct.SetDirection(turn.GetMatrix())
    ct.SetOrigin(turn.TransformPoint(ct.GetOrigin()))
    expected = run(pet, ct, bundle, cpu).mask
    stored = sitk.DICOMOrient(pet, order)
    mask = sitk.GetImageFromArray(run(stored, ct, bundle, cpu).mask.astype(np.uint8))
    mask.CopyInformation(stored)
    np.testing.assert_array_equal(sitk.GetArrayFromImage(sitk.DICOMOrient(mask, "LPS")), expected)
    assert expected.any()


def test_the_same_input_gives_the_same_mask(bundle, cpu) -> None:
    first, second = (run(*tiny_images(), bundle, cpu).mask for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_the_network_sees_las_ct_first_cropped_and_scaled(bundle) -> None:
    pet, ct = tiny_images()
    ready = place(case_of(pet, ct), bundle.manifest.crop.suv_above, Stopwatch())
    image = image_of(ready.hu, ready.suv, bundle.manifest.part(bundle.manifest.members[0]))
    las = sitk.DICOMOrient(pet, "LAS")
    suv = sitk.GetArrayFromImage(las).transpose(2, 1, 0)
    inside = np.argwhere(suv > 0)
    low, high = inside.min(0), inside.max(0) + 1
    box = tuple(slice(a, b) for a, b in zip(low, high, strict=True))
    np.testing.assert_allclose(image[1], suv[box] / 40, rtol=1e-6)
    moved = sitk.Resample(ct, las, sitk.Transform(), sitk.sitkLinear, -1024.0, sitk.sitkFloat32)
    hu = sitk.GetArrayFromImage(moved).transpose(2, 1, 0)
    np.testing.assert_allclose(image[0], (hu[box] + 1000) / 2000, atol=1e-4)


@pytest.mark.parametrize("norm", ["instance", "body"])
def test_it_is_monais_loop_softmax_and_argmax_pasted_back(norm: str, make_bundle, tmp_path, cpu) -> None:
    network = Network(fusion="middle", widths=(2, 2, 4), norm=norm)
    bundle = load_bundle(make_bundle(tmp_path / "eoa", members=3, weights=[2.0, 1.0, 1.0], network=network))
    pet, ct = tiny_images()
    ready = place(case_of(pet, ct), bundle.manifest.crop.suv_above, Stopwatch())
    total = torch.zeros(1)
    with torch.no_grad():
        for one in voters(bundle):
            image = image_of(ready.hu, ready.suv, one.part)[None]
            total = total + one.weight * sliding_window_inference(image, (32,) * 3, 1, one.load(), overlap=0.5)
    cropped = (total / 4).softmax(1).argmax(1)[0].numpy().transpose(2, 1, 0)
    las = np.zeros(ready.view.grid.shape, np.uint8)
    las[ready.box] = cropped
    image = sitk.GetImageFromArray(las)
    image.CopyInformation(sitk.DICOMOrient(pet, "LAS"))
    expected = sitk.GetArrayFromImage(sitk.DICOMOrient(image, "LPS")).astype(bool)
    assert (run(pet, ct, bundle, cpu).mask == expected).mean() >= 0.9999


def test_no_foreground_gives_an_empty_mask_and_a_warning(bundle, cpu) -> None:
    pet, ct = tiny_images()
    result = run(pet * 0, ct, bundle, cpu, with_probability=True)
    assert not result.mask.any() and result.probability is not None and not result.probability.any()
    assert "no voxel above 0" in result.warnings[0]


def test_probabilities_are_above_one_half_where_the_mask_is(bundle, cpu) -> None:
    for combine in ("logits", "probabilities"):
        asked = dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, combine=combine))
        result = run(*tiny_images(), asked, cpu, with_probability=True)
        assert result.probability is not None and 0 <= result.probability.min() <= result.probability.max() <= 1
        np.testing.assert_array_equal(result.probability > 0.5, result.mask)


def test_float16_storage_gives_the_masks_of_float32(make_bundle, tmp_path, cpu) -> None:
    whole, half = (
        run(*tiny_images(), load_bundle(make_bundle(tmp_path / name, half=name == "half")), cpu).mask
        for name in ("whole", "half")
    )
    assert 2 * (whole & half).sum() / (whole.sum() + half.sum()) >= 0.99  # random networks decide nothing clearly


def test_a_ct_that_covers_part_of_pet_is_warned_about_with_the_share(bundle, cpu) -> None:
    pet, ct = tiny_images()
    result = run(pet, ct[:, :, 35:], bundle, cpu)
    assert "% of the PET's uptake" in result.warnings[0]
    assert Limits().ct_coverage_warn == 0.99
