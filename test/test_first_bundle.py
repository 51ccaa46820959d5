import numpy as np
import pytest
import torch
from torch.optim.swa_utils import AveragedModel

from training import first_bundle
from training.first_bundle import Phase, Study, averaged, patches, rate_schedule


def test_the_running_mean_is_torchs_averaged_model() -> None:
    torch.manual_seed(0)
    network = torch.nn.Linear(3, 2)
    oracle, mean, terms = AveragedModel(network), {}, 0
    for _ in range(7):
        with torch.no_grad():
            network.weight += torch.randn(2, 3)
        oracle.update_parameters(network)
        mean, terms = averaged(mean, network.state_dict(), terms)
    assert terms == 7
    torch.testing.assert_close(mean["weight"], oracle.module.weight.detach(), atol=1e-6, rtol=0)


def phase(**changes: object) -> Phase:
    settings = dict(name="x", steps=40, rate=1e-3, strength=1.0, seed=0, average=False)
    return Phase(**(settings | changes))


@pytest.mark.parametrize("pairs", [False, True])
def test_crops_hold_image_and_truth_of_the_same_place(pairs: bool, monkeypatch) -> None:
    monkeypatch.setattr(first_bundle, "WINDOW", (16, 16, 16))
    rng = np.random.default_rng(0)
    truth = rng.random((20, 12, 30)) > 0.9
    study = Study(
        hu=np.zeros(truth.shape, np.float16), suv=(truth * 10).astype(np.float16),
        truth=truth, lesion=np.argwhere(truth), hot=np.argwhere(~truth),
    )  # fmt: skip
    for image, target in patches([study], phase(strength=0.0, pairs=pairs)):
        assert image.shape == (1 + pairs, 2, 16, 16, 16) and target.shape == (1 + pairs, 1, 16, 16, 16)
        assert torch.equal(image[:, 1] > 0.1, target[:, 0] > 0)


def test_the_rate_warms_up_and_falls_and_an_averaging_phase_ends_constant() -> None:
    base = [rate_schedule(phase(steps=100))(step) for step in range(100)]
    assert base[0] < base[5] and max(base) <= 1 and base[-1] < 0.05
    averaging = [rate_schedule(phase(steps=90, average=True))(step) for step in range(90)]
    assert averaging[10] > averaging[25] and averaging[40] == averaging[80] == 0.5
