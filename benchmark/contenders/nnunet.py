"""nnU-Net v2's predictor with the same networks plugged in, in a process of its own; benchmark.inference starts it.

Mirroring is off and the step is half a window, its defaults otherwise: Gaussian weights, sums in half precision,
windows spread evenly. It needs an environment of its own: benchmark/requirements.txt says how to make it. Everything
before and after the networks is that of benchmark.contenders.monai.
"""

import os
from types import SimpleNamespace

from torch import Tensor

from benchmark.contenders.monai import Task, Timed, run
from model.stopwatch import Stopwatch

for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results"):
    os.environ.setdefault(name, "/nowhere")  # unused, but nnU-Net complains where they are not set


def predict_by_nnunet(networks: list[tuple[float, Timed]], image: Tensor, task: Task, watch: Stopwatch) -> Tensor:
    """The weighted sum of the networks' logits, by nnU-Net's sliding window."""
    with watch.stage("import"):
        from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor  # type: ignore[import-not-found]
    predictor = nnUNetPredictor(
        tile_step_size=0.5,
        use_gaussian=True,
        use_mirroring=False,
        perform_everything_on_device=True,
        device=image.device,
        allow_tqdm=False,
    )
    labels = SimpleNamespace(num_segmentation_heads=2)
    plans = SimpleNamespace(get_label_manager=lambda _: labels)
    patch = SimpleNamespace(patch_size=(task.window,) * 3)
    total: Tensor | None = None
    for weight, network in networks:
        predictor.manual_initialization(network, plans, patch, None, {}, "none", None)
        with watch.stage("sums"):
            logits = predictor.predict_sliding_window_return_logits(image).to("cpu").float()
            total = weight * logits if total is None else total + weight * logits
    assert total is not None  # a bundle has members
    return total / sum(weight for weight, _ in networks)


if __name__ == "__main__":
    run(predict_by_nnunet)
