from dataclasses import replace

import numpy as np
import pytest
import torch
from cases import case_of
from msgspec import structs
from safetensors.torch import load_file
from slices_bundles import slices_bundle
from tiny_studies import tiny_images

from benchmark.nnunet_models import dataset_of, plans_of, write_model
from model.bundle.format import Provenance
from model.bundle.manifest import load_bundle
from model.bundle.settings import Crop, Window
from model.errors import ConfigError
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from training.__main__ import main
from training.bundles.mix import mix


def probability(bundle, cpu) -> np.ndarray:
    found = segment(case_of(*tiny_images()), SegmentOptions(bundle=bundle, device=cpu, with_probability=True))
    assert found.probability is not None
    np.testing.assert_array_equal(found.mask, found.probability > 0.5)
    return found.probability


@pytest.mark.slow
def test_a_mixed_bundle_says_the_weighted_mean_of_the_probabilities(make_bundle, tmp_path, cpu) -> None:
    origin = Provenance(
        data="d",
        commit="c",
        date="t",
        attribution="a",
        scores={"trained_on_cases": ["x"], "trained_on_patients": ["p"]},
    )
    volumes = load_bundle(
        make_bundle(tmp_path / "v", members=2, weights=[3.0, 1.0], combine="probabilities", provenance=origin)
    )
    slices = load_bundle(make_bundle(tmp_path / "s", members=1, **slices_bundle(crop=Crop())))
    mix([volumes, slices], [1.0, 2.0], "both", tmp_path / "m")
    mixed = load_bundle(tmp_path / "m")
    assert mixed.manifest.kind == "mixed" and [m.weight for m in mixed.manifest.members] == [0.75, 0.25, 2.0]
    expected = (probability(volumes, cpu) + 2 * probability(slices, cpu)) / 3
    np.testing.assert_allclose(probability(mixed, cpu), expected, atol=2e-6)
    assert "trained_on_cases" not in mixed.manifest.provenance.scores  # one of them does not say


@pytest.mark.slow
def test_where_the_window_of_slices_does_not_reach_the_networks_for_volumes_decide(make_bundle, tmp_path, cpu) -> None:
    """Of 40 x 36 voxels a slice, uncropped, the window holds 32 x 32."""
    crop = Crop(suv_above=-1.0)
    narrow = slices_bundle(window=Window(size=(32, 32, 1)), crop=crop)
    volumes = load_bundle(make_bundle(tmp_path / "v", members=1, combine="probabilities", crop=crop))
    slices = load_bundle(make_bundle(tmp_path / "s", members=1, **narrow))
    mix([volumes, slices], [1.0, 3.0], "both", tmp_path / "m")
    alone, narrowly = probability(volumes, cpu), probability(slices, cpu)
    seen = narrowly > 1e-30  # else sigmoid(-100)
    assert seen.sum() == 32 * 32 * 50
    found = probability(load_bundle(tmp_path / "m"), cpu)
    np.testing.assert_allclose(found, np.where(seen, (alone + 3 * narrowly) / 4, alone), atol=2e-6)


@pytest.mark.slow
def test_where_slices_do_not_reach_there_is_no_disagreement_with_them(make_bundle, tmp_path, cpu) -> None:
    crop = Crop(suv_above=-1.0)
    volumes = load_bundle(make_bundle(tmp_path / "v", members=1, combine="probabilities", crop=crop, skip_suv=0.5))
    slices = load_bundle(
        make_bundle(tmp_path / "s", members=1, **slices_bundle(window=Window(size=(32, 32, 1)), crop=crop))
    )
    mix([volumes, slices], [1.0, 3.0], "both", tmp_path / "m")
    mixed = load_bundle(tmp_path / "m")
    assert mixed.manifest.skip_suv is None
    disagreement = segment(
        case_of(*tiny_images()), SegmentOptions(bundle=mixed, device=cpu, with_disagreement=True)
    ).disagreement
    one, other = probability(replace_skip(volumes), cpu), probability(slices, cpu)
    mean = (one + 3 * other) / 4
    expected = np.sqrt(((one - mean) ** 2 + 3 * (other - mean) ** 2) / 4)
    np.testing.assert_allclose(disagreement, np.where(other > 1e-30, expected, 0), atol=2e-5)


def replace_skip(bundle):
    return replace(bundle, manifest=structs.replace(bundle.manifest, skip_suv=None))


def test_cases_that_trained_either_bundle_are_named(make_bundle, tmp_path) -> None:
    def origin(case: str) -> Provenance:
        return Provenance(data=case, commit="c", date="t", scores={"trained_on_cases": [case]}, attribution="a")

    bundles = [load_bundle(make_bundle(tmp_path / case, members=1, provenance=origin(case))) for case in "ab"]
    mix(bundles, [1, 1], "both", tmp_path / "m")
    found = load_bundle(tmp_path / "m").manifest.provenance
    assert found.scores["trained_on_cases"] == ["a", "b"] and found.data == "a; b"


def test_bundles_that_crop_otherwise_and_soups_are_refused(make_bundle, tmp_path, capsys) -> None:
    one, other = (
        load_bundle(make_bundle(tmp_path / name, members=1, crop=Crop(suv_above=suv)))
        for name, suv in (("a", 0.0), ("b", 1.0))
    )
    with pytest.raises(ConfigError, match="crop or limits"):
        mix([one, other], [1, 1], "x", tmp_path / "m")
    soup = load_bundle(make_bundle(tmp_path / "c", members=2, method="diwa"))
    with pytest.raises(ConfigError, match="averages weights"):
        mix([soup], [1], "x", tmp_path / "m")
    assert (
        main(["mix", str(tmp_path / "a"), "--name", "../x y", "--output", str(tmp_path / "m")]) == ConfigError.exit_code
    )
    assert "got '../x y'" in capsys.readouterr().err and not (tmp_path / "m").exists()
    assert main(["mix", str(tmp_path / "a"), "--shares", "1", "2", "--name", "x", "--output", str(tmp_path / "m")]) != 0
    assert "--shares has 2 numbers, there are 1 bundles" in capsys.readouterr().err and not (tmp_path / "m").exists()


def test_members_in_float16_stay_in_float16_and_others_in_float32(make_bundle, tmp_path) -> None:
    model = write_model(tmp_path / "model", plans_of(), dataset_of())
    assert main(["import", str(model), "--name", "half", "--output-folder", str(tmp_path)]) == 0
    other = make_bundle(tmp_path / "other", members=1)
    words = ["mix", str(tmp_path / "half"), str(other), "--name", "both", "--output", str(tmp_path / "both")]
    assert main(words) == 0
    one, two = (load_file(path) for path in sorted((tmp_path / "both").glob("*.safetensors")))
    assert {tensor.dtype for tensor in one.values()} == {torch.float16}
    assert {tensor.dtype for tensor in two.values()} == {torch.float32}
    half = load_file(tmp_path / "half/fold-0.safetensors")
    assert all(torch.equal(one[name], half[name]) for name in half)
