"""Every benchmark runs at toy size and writes what benchmark.compare reads; its figures are not checked."""

import json

import numpy as np
import pytest
import torch
import warm

from benchmark import inference_tables, nnunet_models
from benchmark.contenders import start
from benchmark.record import read

TOYS = {
    "roofline": "--widths 2 4 --windows 16",
    "pipeline": "--pet 24 20 22 --ct 31 26 40 --runs 1",
    "window": "--widths 2 4 --windows 16 --runs 1 --check --grouped",
    "studies": "--size 24 20 22 --widths 2 4 --window 16 --studies 2 --runs 1",
    "training": "--size 24 20 22 --widths 2 4 --crop 16 --steps 1 --epochs 1 --workers 1 --only ours monai",
    "steps": "--size 24 20 22 --widths 2 4 --crop 16 --batches 1 --threads 1",
}


def run(name: str, words: str, path) -> dict:
    device = [] if name in ("pipeline", "precision") else ["--device", "cpu"]
    done = warm.run("-m", f"benchmark.{name}", *words.split(), *device, "--json", path)
    assert done.returncode == 0, done.stderr
    found = read(path)
    assert "\n".join(found["printed"]) in done.stdout and all(one["values"] for one in found["figures"].values())
    return found


@pytest.mark.slow
@pytest.mark.parametrize("name", TOYS)
def test_it_runs_at_toy_size(name: str, tmp_path) -> None:
    assert run(name, TOYS[name], tmp_path / "r.json")["benchmark"] == name


@pytest.mark.slow
def test_the_start_of_process_py_is_timed(tmp_path) -> None:
    figures = run("pipeline", "--start --runs 1", tmp_path / "r.json")["figures"]
    assert figures["first byte of input, page cache warm"]["values"][0] > 0


def test_a_contender_that_cannot_be_imported_is_named_and_is_an_error_if_it_was_asked_for(monkeypatch) -> None:
    monkeypatch.setattr(start, "import_error", lambda one: "no torch" if one.name == "nnU-Net v2" else None)
    found, absent = start.find_contenders(["monai", "nnunet"], None)
    assert [one.name for one in found] == ["ours", "MONAI, 4 passes", "MONAI, 5 passes"]
    assert absent[0].startswith("nnU-Net v2 took no part: no torch")
    with pytest.raises(SystemExit, match="asked for with --nnunet"):
        start.find_contenders(["nnunet"], "/some/python")


def test_of_several_masks_the_one_least_like_ours_counts() -> None:
    """Two of two voxels, and one of the two: Dice 1 and 2 * 1 / (1 + 2)."""
    ours, same, other = ({"mask": np.array(mask, bool)} for mask in ([1, 1, 0, 0], [1, 1, 0, 0], [1, 0, 0, 0]))
    assert inference_tables.least_agreement([same, other], [ours]) == (2 / 3, 1)


@pytest.mark.slow
def test_a_model_of_nnunets_kind_is_compared_and_on_a_cpu_float32_is_the_same(tmp_path) -> None:
    words = (
        "--folds 1 --mirroring off --size 24 20 22 --widths 4 8 --windows 16 --runs 1 --matrix 64 --only ours --float32"
    )
    figures = run("inference", words, tmp_path / "r.json")["figures"]
    assert figures["ours, float32 at 16 x 16 x 16, mirroring off: Dice with ours"]["values"] == [1.0]


@pytest.mark.slow
def test_the_random_model_has_every_tensor_that_nnunets_own_network_has(tmp_path) -> None:
    unet = pytest.importorskip("dynamic_network_architectures.architectures.unet")
    plans = nnunet_models.residual_plans((4, 8, 12), 16, (2.0, 2.0, 3.0))
    model = nnunet_models.write_model(tmp_path, plans, nnunet_models.dataset_of(), half=True)
    words = json.loads((model / "plans.json").read_text())["configurations"]["3d_fullres"]["architecture"][
        "arch_kwargs"
    ]
    types = {"conv_op": torch.nn.Conv3d, "norm_op": torch.nn.InstanceNorm3d, "nonlin": torch.nn.LeakyReLU}
    theirs = unet.ResidualEncoderUNet(2, num_classes=2, deep_supervision=False, **(words | types))
    found = torch.load(model / "fold_0/checkpoint_final.pth", weights_only=False)["network_weights"]
    theirs.load_state_dict(found)  # strict


@pytest.mark.slow
def test_where_no_layer_computes_in_bfloat16_both_masks_are_the_same(tiny_studies, tiny_bundle, tmp_path) -> None:
    """The tiny bundle's layers have 2 to 16 channels, and stay float32. The last study has no lesion."""
    rows = [f"{one.case},{one.pet},{one.ct},{one.truth}" for one in tiny_studies[2:]]
    (tmp_path / "studies.csv").write_text("\n".join(["case,pet,ct,truth", *rows, ""]))
    found = run("precision", f"{tmp_path / 'studies.csv'} --weights {tiny_bundle}", tmp_path / "r.json")
    figures = found["figures"]
    assert figures["tiny: Dice of both masks"]["values"] == [1.0, 1.0]
    truth = [figures[f"tiny: Dice with truth, {precision}"]["values"] for precision in ("float32", "bfloat16")]
    assert truth[0] == truth[1] and 0 < truth[0][0] < 1 and truth[0][1] == 0


@pytest.mark.slow
def test_ours_and_monais_loop_give_the_same_mask(tmp_path) -> None:
    """The same study and weights by our code, and by SimpleITK, MONAI, softmax and argmax."""
    words = "--size 24 20 22 --widths 2 4 --windows 16 --runs 1 --matrix 64"
    figures = run("inference", words, tmp_path / "r.json")["figures"]
    for passes in (4, 5):
        assert figures[f"MONAI, {passes} passes at 16^3: Dice with ours"]["values"][0] >= 0.999
