import numpy as np
import pytest
import torch
from conftest import tiny_training
from monai.inferers import sliding_window_inference

from model.lesions import score
from model.networks import build
from training.predict import device_for, kept_margin, margin, score_margin, validate, validation_dice
from training.prepare import load

CPU = device_for("float32", "cpu")


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    torch.manual_seed(0)
    return build(tiny_training().network)


def test_margin_is_monais_sliding_window_of_the_scaled_study(network, tiny_cache) -> None:
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
    scores = validate(network, ["case0", "case3"], tiny_cache, tiny_training(), CPU)
    assert scores["case3"].lesions_true == 0 and validation_dice(scores) == scores["case0"].dice
    assert validation_dice({"case3": scores["case3"]}) == 0


def test_a_margin_that_is_the_truth_scores_1(tiny_cache) -> None:
    study = load(tiny_cache, "case0")
    assert score_margin(np.where(study.truth, 1.0, -1.0), study).dice == 1
    out = np.random.default_rng(0).normal(size=study.truth.shape)
    assert score_margin(out, study) == score(out > 0, study.truth, 0.064)


def test_a_margin_is_computed_once(network, tiny_cache, tmp_path, monkeypatch) -> None:
    first, seconds = kept_margin(tmp_path / "m", "case0", network, tiny_cache, tiny_training(), CPU)
    monkeypatch.setattr("training.predict.margin", lambda *_: pytest.fail("computed again"))
    again, same = kept_margin(tmp_path / "m", "case0", network, tiny_cache, tiny_training(), CPU)
    assert np.array_equal(first, again) and seconds == same > 0


def test_half_precision_is_single_precision_on_a_cpu() -> None:
    assert device_for("float16", "cpu").precision == torch.float32
    assert device_for("bfloat16", "cpu").precision == torch.bfloat16
