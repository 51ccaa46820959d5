from dataclasses import replace

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from tiny_settings import tiny_training

from model.errors import ConfigError
from model.inference.member import run_member
from model.inference.view import image_of
from model.networks.unet import build
from model.results.metrics import score
from training.compute.device import device_for
from training.data.prepared import load
from training.judging import predict
from training.judging.predict import (
    digest,
    how_computed,
    kept_margin,
    margin,
    read_margin,
    score_margin,
    validation_dice,
)
from training.settings import settings_from

CPU = device_for("float32", "cpu")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(tiny_training().network)


def test_a_kept_margin_is_found_under_the_name_that_older_versions_gave_it() -> None:
    settings = settings_from({"intensity": {"suv_top": 20, "ct_clip": True}})
    assert digest(how_computed(settings, CPU)) == "f3398e1f67d19862"


def test_the_norm_over_the_body_and_its_levels_give_another_margin() -> None:
    """No tensor tells them: the weights have the names and shapes of instance normalisation."""
    network = {"fusion": "middle", "widths": [2, 2, 4]}
    changes = ({}, {"norm": "body"}, {"norm": "body", "body": {"hu": -600.0}}, {"norm": "body", "body": {"suv": 1.0}})
    names = {digest(how_computed(tiny_training(network=network | change), CPU)) for change in changes}
    assert len(names) == 4


def test_the_margin_equals_monais_sliding_window(network, tiny_cache) -> None:
    study = load(tiny_cache, "case0")
    ct = np.clip((study.hu.astype(np.float32) + 1000) / 2000, 0, 1)
    image = torch.from_numpy(np.stack([ct, study.suv.astype(np.float32) / 20]))[None]
    with torch.no_grad():
        logits = sliding_window_inference(image, (16, 16, 16), 2, network.eval(), overlap=0.5)[0]
    expected = (logits[1] - logits[0]).numpy()
    np.testing.assert_allclose(margin(network, study, tiny_training(), CPU), expected, atol=2e-3, rtol=1e-3)


def test_a_network_in_training_stays_in_training(network, tiny_cache) -> None:
    network.train()
    margin(network, load(tiny_cache, "case0"), tiny_training(), CPU)
    assert network.training


def test_validation_dice_is_the_mean_over_cases_with_lesion(network, tiny_cache) -> None:
    studies = [load(tiny_cache, case) for case in ("case0", "case3")]
    scores = {s.case: score_margin(margin(network, s, tiny_training(), CPU), s) for s in studies}
    assert scores["case3"].lesions_true == 0 and validation_dice(scores) == scores["case0"].dice
    assert validation_dice({"case3": scores["case3"]}) is None and validation_dice({}) is None


def test_a_margin_for_which_memory_runs_out_is_computed_by_one_window_at_a_time(
    network, tiny_cache, monkeypatch
) -> None:
    """What training keeps on a GPU may leave no room for several windows."""
    study, settings = load(tiny_cache, "case0"), tiny_training()
    whole, windows = margin(network, study, settings, CPU), []

    def tight(image, part, predict, rung):
        windows.append(rung.windows)
        if rung.windows > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return run_member(image, part, predict, rung)

    monkeypatch.setattr(predict, "run_member", tight)
    np.testing.assert_allclose(margin(network, study, settings, CPU), whole, atol=2e-3)
    assert windows == [2, 1]

    def nothing_left(*rest):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(predict, "run_member", nothing_left)
    with pytest.raises(torch.OutOfMemoryError):
        margin(network, study, settings, CPU)


def test_a_margin_that_is_the_truth_scores_1(tiny_cache) -> None:
    study = load(tiny_cache, "case0")
    assert score_margin(np.where(study.truth, 1.0, -1.0), study).dice == 1
    out = np.random.default_rng(0).normal(size=study.truth.shape)
    assert score_margin(out, study) == score(out > 0, study.truth, 0.064)


def test_a_margin_is_computed_once(network, tiny_cache, tmp_path, monkeypatch) -> None:
    study = load(tiny_cache, "case0")
    path, seconds = kept_margin(tmp_path, "a" * 64, study, network, tiny_training(), CPU)
    np.testing.assert_array_equal(read_margin(path), margin(network, study, tiny_training(), CPU))
    monkeypatch.setattr("training.judging.predict.margin", lambda *_: pytest.fail("computed again"))
    assert kept_margin(tmp_path, "a" * 64, study, network, tiny_training(), CPU) == (path, seconds) and seconds > 0


@pytest.mark.slow
def test_other_weights_study_window_or_precision_give_another_margin(network, tiny_cache, tmp_path) -> None:
    study, settings, seen = load(tiny_cache, "case0"), tiny_training(), set()
    for weights, of, how, device in (
        ("a" * 64, study, settings, CPU),
        ("b" * 64, study, settings, CPU),
        ("a" * 64, replace(study, sha256="0"), settings, CPU),
        ("a" * 64, study, tiny_training(window={"size": [32, 32, 32]}), CPU),
        ("a" * 64, study, settings, device_for("bfloat16", "cpu")),
    ):
        seen.add(kept_margin(tmp_path, weights, of, network, how, device)[0])
    assert len(seen) == 5


def test_a_damaged_margin_is_named(network, tiny_cache, tmp_path) -> None:
    study = load(tiny_cache, "case0")
    path, _ = kept_margin(tmp_path, "a" * 64, study, network, tiny_training(), CPU)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ConfigError, match="is damaged.*delete it"):
        kept_margin(tmp_path, "a" * 64, study, network, tiny_training(), CPU)


def test_truth_outside_the_crop_counts_as_not_found(tiny_cache) -> None:
    """By hand: all truth inside is found, nothing else; as much lies outside, of it 1 ml in a component of its own."""
    study = load(tiny_cache, "case0")
    out = np.where(study.truth, 1.0, -1.0)
    truth_ml = float(study.truth.sum()) * study.voxel_ml
    lost = replace(study, lost_ml=truth_ml, lost_lesions=1, missed_ml=1.0)
    inside, found = score_margin(out, study), score_margin(out, lost)
    assert found.dice == pytest.approx(2 / 3)  # 2 x t / (t + 2 t)
    assert found.fnv_ml == inside.fnv_ml + 1 and found.lesions_true == inside.lesions_true + 1
    empty = replace(lost, truth=np.zeros_like(study.truth))
    assert score_margin(np.full(out.shape, -1.0), empty).dice == 0


def test_a_margin_of_windows_that_shrink_equals_the_containers(tiny_cache) -> None:
    settings = tiny_training(window={"size": [64, 64, 64], "shrink": True})
    study, network = load(tiny_cache, "case0"), build(settings.network).eval()
    size = tuple(-(-n // 4) * 4 for n in study.suv.shape)
    image = image_of(np.asarray(study.hu).T, np.asarray(study.suv, np.float32).T, settings.part)
    with torch.no_grad():
        logits = sliding_window_inference(image[None], size, 1, network)[0]
    found = margin(network, study, settings, device_for("float32", "cpu"))
    np.testing.assert_allclose(found, (logits[1] - logits[0]).numpy(), rtol=2e-3, atol=1e-3)
