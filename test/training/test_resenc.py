"""Networks of nnU-Net's kind go through the chain: base run, members, averages, EoA, DiWA, bundle, mask."""

from pathlib import Path

import pytest
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from tiny_runs import small_cache, small_studies
from tiny_settings import tiny_training

from model.bundle.manifest import load_bundle
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.networks.unet import skeleton
from model.study.reading import read_case
from training.__main__ import main
from training.settings import changed, read_settings, settings_to

STAGE = {"kernel": [3, 3, 3], "blocks": 2}
STAGES = [STAGE | {"stride": [1, 1, 1]}, STAGE | {"stride": [2, 2, 2]}]
AVERAGING = {"start": 2, "length_epochs": 1}


def test_the_settings_of_resenc_are_those_of_the_published_network() -> None:
    """LesionTracer's ResEnc L has 102,350,634 parameters; four heads of deep supervision are not trained here."""
    heads = sum(2 * (width + 1) for width in (64, 128, 256, 320))
    settings = read_settings(ROOT / "training/configs/resenc.yaml")
    assert sum(tensor.numel() for tensor in skeleton(settings.network).parameters()) == 102_350_634 - heads


@pytest.fixture(scope="module")
def chain(tmp_path_factory, request) -> tuple[Path, str]:
    """A folder with the base run, two members, their selection and the bundles."""
    folder, fusion = tmp_path_factory.mktemp(request.param), request.param
    cache = small_cache(folder)
    split = folder / "split.json"
    split.write_text(
        '{"folds": [{"name": "0", "train": ["case0", "case3"], "validate": ["case1", "case2"], "test": []}]}'
    )
    at = ["--cache", str(cache), "--split", str(split), "--fold", "0", "--device", "cpu"]
    network = {"fusion": fusion, "widths": [4, 6], "stages": STAGES}
    base = tiny_training(network=network, schedule={"epochs": 4, "stop": 2, "warmup_epochs": 1, "steps_per_epoch": 2})
    member = changed(base, {"schedule": {"stop": None}, "averaging": AVERAGING})
    runs = {"base": base, "one": member, "two": changed(member, {"seed": 1, "optimizer": {"name": "adamp"}})}
    for name, settings in runs.items():
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings_to(settings)))
        start = [] if name == "base" else ["--start", str(folder / "base")]
        assert main(["train", "--settings", f"{folder}/{name}.yaml", *at, "--run", f"{folder}/{name}", *start]) == 0
    assert main(["select", f"{folder}/one", f"{folder}/two", *at, "--output", f"{folder}/selection.json"]) == 0
    return folder, fusion


@pytest.mark.slow
@pytest.mark.parametrize("chain", ["residual_unet", "plain_unet"], indirect=True)
def test_the_exported_bundles_are_of_that_network_and_segment(chain, cpu) -> None:
    folder, fusion = chain
    study = small_studies(folder / "studies")[1]
    for choice in ("eoa_uniform", "diwa_uniform"):
        words = ["--choice", choice, "--name", choice.replace("_", "-"), "--output", f"{folder}/{choice}"]
        told = ["--data", "four small studies", "--licence", "MIT"]
        assert main(["export", f"{folder}/selection.json", *words, *told]) == 0
        bundle = load_bundle(folder / choice)
        assert bundle.manifest.network.fusion == fusion and bundle.manifest.preprocessing is None
        case = read_case([study.pet, study.ct], bundle.manifest.limits)
        mask = segment(case, SegmentOptions(bundle=bundle, device=cpu)).mask
        assert mask.shape == case.pet.grid.shape
    states = [load_file(folder / name / "mean.safetensors") for name in ("one", "two")]
    (soup,) = (load_file(path) for path in (folder / "diwa_uniform").glob("*.safetensors"))
    for name, tensor in soup.items():
        torch.testing.assert_close(tensor, (states[0][name] + states[1][name]) / 2)


def test_a_run_does_not_start_from_a_bundle(tmp_path, capsys) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(settings_to(tiny_training(averaging=AVERAGING))))
    cache, split = tmp_path / "cache", tmp_path / "split.json"
    small_cache(tmp_path)
    split.write_text('{"folds": [{"name": "0", "train": ["case0"], "validate": ["case1"], "test": []}]}')
    words = ["--settings", path, "--cache", cache, "--split", split, "--fold", "0", "--run", tmp_path / "run"]
    assert main(["train", *map(str, words), "--start", str(ROOT / "weights/eoa")]) == 2
    assert "is a bundle of weights, which no run goes on from" in capsys.readouterr().err
