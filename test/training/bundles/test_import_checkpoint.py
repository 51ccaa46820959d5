"""A bundle from the authors' checkpoints, and the mask their pipeline gives with it."""

import argparse
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
import warm
from safetensors.torch import load_file
from slices_bundles import logits_by_steps
from torch import Tensor, nn
from torch.nn import functional

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.errors import ConfigError, LesionError, OutputError, WeightsError
from model.files import sha256_of
from model.networks.unet import build
from training.__main__ import main
from training.bundles import import_checkpoint
from training.bundles.import_checkpoint import import_checkpoints, member_name
from training.command import parse

ROOT = Path(__file__).resolve().parent.parent.parent.parent
SMALL = (2, 2, 4, 4, 8)
SUBMITTED = ["c1", "a2", "a3", "d2"]

# the network of the submission, written out from its description (paper, section 2.1 and figure 2)


class Convolution(nn.Module):
    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inside, outside, 3, padding=1, bias=False)
        self.norm = nn.InstanceNorm3d(outside, affine=True)

    def forward(self, x: Tensor) -> Tensor:
        return functional.selu(self.norm(self.conv(x)))


def pair(inside: int, outside: int) -> nn.Sequential:
    return nn.Sequential(Convolution(inside, outside), Convolution(outside, outside))


class Down(nn.Module):
    def __init__(self, w: tuple[int, ...]) -> None:
        super().__init__()
        self.layer1, self.layer2, self.layer3 = pair(1, w[0]), pair(w[0], w[1]), pair(w[1], w[2])
        self.layer4, self.layer5 = pair(w[2], w[3]), pair(w[3], w[4])

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        one = self.layer1(x)
        two = self.layer2(functional.max_pool3d(one, 2))
        three = self.layer3(functional.max_pool3d(two, 2))
        four = self.layer4(functional.max_pool3d(three, 2))
        return one, two, three, four, self.layer5(functional.max_pool3d(four, 2))


class Up(nn.Module):
    def __init__(self, w: tuple[int, ...]) -> None:
        super().__init__()
        for step, (below, here) in enumerate([(w[4], w[3]), (w[3], w[2]), (w[2], w[1]), (w[1], w[0])], start=1):
            setattr(self, f"upconv{step}", nn.ConvTranspose3d(below, here, 2, stride=2))
            setattr(self, f"layer{step}", pair(2 * here, here))
        self.fc = nn.Conv3d(w[0], 2, 1)

    def forward(self, one: Tensor, two: Tensor, three: Tensor, four: Tensor, five: Tensor) -> Tensor:
        x = self.layer1(torch.cat([self.upconv1(five), four], 1))
        x = self.layer2(torch.cat([self.upconv2(x), three], 1))
        x = self.layer3(torch.cat([self.upconv3(x), two], 1))
        return self.fc(self.layer4(torch.cat([self.upconv4(x), one], 1)))


class Submitted(nn.Module):
    def __init__(self, w: tuple[int, ...]) -> None:
        super().__init__()
        self.PET_encoder, self.CT_encoder, self.decoder = Down(w), Down(w), Up(tuple(2 * width for width in w))

    def forward(self, x: Tensor) -> Tensor:
        stages = zip(self.PET_encoder(x[:, 1:]), self.CT_encoder(x[:, :1]), strict=True)
        return self.decoder(*[torch.cat(both, 1) for both in stages])


def submitted(seed: int, widths: tuple[int, ...] = SMALL) -> Submitted:
    """Random weights, the normalisations' too, so that nothing is 0 or 1 by chance."""
    torch.manual_seed(seed)
    network = Submitted(widths)
    for name, parameter in network.named_parameters():
        if "norm" in name:
            nn.init.normal_(parameter, float("weight" in name), 0.3)
    return network.eval()


def save(network: nn.Module, path: Path, change: Callable[[dict[str, Any]], Any] = lambda state: None) -> Path:
    """A Lightning checkpoint; `change` works on its state dict."""
    state = {f"model.{name}": tensor for name, tensor in network.state_dict().items()}
    change(state)
    extras = {"hyper_parameters": argparse.Namespace(lr=1e-4), "optimizer_states": [{"step": torch.tensor(3.0)}]}
    torch.save({"epoch": 999, "state_dict": state, **extras, "best": np.float64(0.7)}, path)
    return path


@pytest.fixture
def four(tmp_path: Path) -> list[Path]:
    return [save(submitted(seed), tmp_path / f"{name}.ckpt") for seed, name in enumerate(SUBMITTED)]


def run(out: Path, *arguments: Any) -> Path:
    words = [str(word) for word in (*arguments, "--output-folder", out)]
    return import_checkpoints(parse("import", import_checkpoint, words))


def refused(error: type[LesionError], message: str, out: Path, *arguments: Any) -> None:
    """The error is raised, and the output folder holds what it held before."""
    before = sorted(out.rglob("*")) if out.exists() else []
    with pytest.raises(error, match=message):
        run(out, *arguments)
    assert (sorted(out.rglob("*")) if out.exists() else []) == before


# the bundle


def test_the_submission_becomes_a_bundle_of_four_members(tmp_path: Path, four: list[Path]) -> None:
    folder = run(tmp_path / "out", *four, "--weights", 2, 1, 1, 1, "--method", "eoa", "--name", "ahn-park-eoa")
    assert folder == tmp_path / "out" / "ahn-park-eoa"
    manifest = load_bundle(folder).manifest
    assert [(m.file, m.weight) for m in manifest.members] == [
        ("c1.safetensors", 2),
        ("a2.safetensors", 1),
        ("a3.safetensors", 1),
        ("d2.safetensors", 1),
    ]
    assert {m.start_sha256 for m in manifest.members} == {None}
    read = json.loads((folder / "manifest.json").read_text())
    assert read["window"] == {
        "size": [192, 192, 192],
        "overlap": 0.5,
        "weighting": "constant",
        "shrink": False,
    }
    assert read["network"] == {"fusion": "middle", "widths": list(SMALL), "classes": 2, "norm": "instance"}
    assert (read["method"], read["combine"], read["licence"]) == ("eoa", "logits", "unknown")
    assert (read["channels"], read["crop"]) == (["CT", "PET"], {"suv_above": 0})
    assert read["intensity"] == {
        "ct_low_hu": -1000,
        "ct_high_hu": 1000,
        "ct_clip": False,
        "suv_top": 40,
        "suv_clip": False,
    }
    provenance = read["provenance"]
    assert (provenance["commit"], provenance["date"], provenance["scores"]) == ("unknown", "unknown", {})
    assert all(f"{path.name} (sha256 {sha256_of(path)})" in provenance["attribution"] for path in four)
    assert "Ahn and Park" in provenance["data"] and "Research" in read["intended_use"]


def test_tensors_are_the_checkpoints_own_under_our_names(tmp_path: Path, four: list[Path]) -> None:
    folder = run(tmp_path / "out", four[0], "--name", "x")
    wanted = torch.load(four[0], weights_only=False)["state_dict"]
    found = load_file(folder / "c1.safetensors")
    assert len(found) == len(wanted)
    for name, tensor in wanted.items():
        ours = name.removeprefix("model.").replace("PET_encoder", "pet_encoder").replace("CT_encoder", "ct_encoder")
        assert found[ours].dtype == torch.float32
        assert torch.equal(found[ours], tensor)


def test_the_published_widths_are_recognised(tmp_path: Path) -> None:
    path = save(submitted(0, (32, 32, 64, 128, 256)), tmp_path / "DiWA3.ckpt")
    manifest = load_bundle(run(tmp_path / "out", path, "--method", "diwa", "--name", "ahn-park-diwa")).manifest
    assert (manifest.network.widths, manifest.method) == ((32, 32, 64, 128, 256), "diwa")


def test_half_precision_weights_are_stored_as_float32(tmp_path: Path) -> None:
    path = save(submitted(0).half(), tmp_path / "c1.ckpt")
    found = load_file(run(tmp_path / "out", path, "--name", "x") / "c1.safetensors")
    assert {tensor.dtype for tensor in found.values()} == {torch.float32}


def test_a_bare_state_dict_is_imported(tmp_path: Path) -> None:
    torch.save(submitted(0).state_dict(), tmp_path / "DiWA3.ckpt")
    save(submitted(0), tmp_path / "wrapped.ckpt")
    bare = load_file(run(tmp_path, tmp_path / "DiWA3.ckpt", "--name", "bare") / "DiWA3.safetensors")
    wrapped = load_file(run(tmp_path, tmp_path / "wrapped.ckpt", "--name", "wrapped") / "wrapped.safetensors")
    assert all(torch.equal(bare[name], wrapped[name]) for name in wrapped) and len(bare) == len(wrapped)


def test_entries_outside_the_network_are_left_out_and_named(tmp_path: Path, capsys: Any) -> None:
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.update({"loss.weight": torch.ones(2)}))
    run(tmp_path, path, "--name", "x")
    assert "left out 1 entries outside model.: loss.weight" in capsys.readouterr().out


def test_window_licence_and_weights_are_taken_from_the_command_line(tmp_path: Path, four: list[Path]) -> None:
    folder = run(tmp_path, *four[:2], "--name", "x", "--window", 160, 160, 96, "--licence", "CC-BY-4.0")
    manifest = load_bundle(folder).manifest
    assert (manifest.window.size, manifest.licence) == ((160, 160, 96), "CC-BY-4.0")
    assert [member.weight for member in manifest.members] == [1, 1]


def test_member_names_are_safe_and_differ() -> None:
    taken: dict[str, Any] = {}
    for stem in ("c1", "C1", "é b!c1", "..", "c1.5", "c1-2"):
        taken[member_name(Path(f"{stem}.ckpt"), taken)] = None
    assert list(taken) == ["c1", "C1-2", "b-c1", "member", "c1.5", "c1-2-2"]


# what is refused; nothing is left behind


def test_a_missing_tensor_is_named(tmp_path: Path) -> None:
    name = "model.decoder.upconv2.bias"
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.pop(name))
    refused(WeightsError, rf"c1\.ckpt' .*1 tensors missing: {name}; 0 super", tmp_path / "out", path, "--name", "x")


def test_a_superfluous_tensor_is_named(tmp_path: Path) -> None:
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.update({"model.decoder.more": torch.ones(1)}))
    refused(WeightsError, r"1 superfluous: model\.decoder\.more", tmp_path / "out", path, "--name", "x")


def test_a_missing_first_convolution_is_named(tmp_path: Path) -> None:
    name = "model.PET_encoder.layer5.0.conv.weight"
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.pop(name))
    refused(WeightsError, f"no 3-D convolution {name}", tmp_path / "out", path, "--name", "x")


def test_another_network_is_refused(tmp_path: Path) -> None:
    path = save(nn.Conv3d(1, 1, 1), tmp_path / "c1.ckpt")
    refused(WeightsError, "it holds model.bias, model.weight: only the authors'", tmp_path / "out", path, "--name", "x")


def test_a_tensor_of_another_shape_is_named(tmp_path: Path) -> None:
    changed = {"model.CT_encoder.layer1.0.norm.weight": torch.ones(3)}
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.update(changed))
    refused(WeightsError, r"layer1\.0\.norm\.weight has shape \(3,\), .*\(2,\)", tmp_path / "out", path, "--name", "x")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
def test_numbers_that_are_not_finite_in_float32_are_refused(tmp_path: Path, value: float) -> None:
    changed = {"model.decoder.fc.bias": torch.tensor([0, value], dtype=torch.float64)}
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.update(changed))
    refused(WeightsError, r"model\.decoder\.fc\.bias .*no finite float32", tmp_path / "out", path, "--name", "x")


def test_whole_numbers_are_refused(tmp_path: Path) -> None:
    path = save(
        submitted(0), tmp_path / "c1.ckpt", lambda state: state.update({"model.decoder.fc.bias": torch.tensor([0, 1])})
    )
    refused(WeightsError, r"fc\.bias \(torch\.int64\)", tmp_path / "out", path, "--name", "x")


def test_a_value_that_is_not_a_tensor_is_refused(tmp_path: Path) -> None:
    path = save(submitted(0), tmp_path / "c1.ckpt", lambda state: state.update({"model.note": "hello"}))
    refused(WeightsError, r"state_dict\['model\.note'\] is not a plain tensor", tmp_path / "out", path, "--name", "x")


def test_members_of_other_widths_are_refused(tmp_path: Path, four: list[Path]) -> None:
    other = save(submitted(0, (2, 2, 4, 4, 6)), tmp_path / "other.ckpt")
    message = r"other\.ckpt' is middle of widths \[2, 2, 4, 4, 6\], .*c1\.ckpt' is middle of widths \[2, 2, 4, 4, 8\]"
    refused(WeightsError, message, tmp_path / "out", four[0], other, "--name", "x")


def test_the_same_file_twice_is_refused(tmp_path: Path, four: list[Path]) -> None:
    refused(ConfigError, "are the same; give one, with a larger --weights", tmp_path, four[0], four[0], "--name", "x")


def test_a_file_that_is_not_there_is_refused(tmp_path: Path, four: list[Path]) -> None:
    refused(WeightsError, r"cannot read '.*none\.ckpt'", tmp_path, four[0], tmp_path / "none.ckpt", "--name", "x")


@pytest.mark.parametrize("name", ["../x", "a/b", "/tmp/x", "..", ".x", "", "a b", "x\n", "-x", "a\\b", "x" * 101])
def test_a_name_that_is_not_plain_is_refused(tmp_path: Path, four: list[Path], name: str) -> None:
    refused(ConfigError, "--name must be", tmp_path / "out", four[0], f"--name={name}")


@pytest.mark.parametrize(
    ("weights", "message"),
    [(["1"], "1 numbers, there are 2"), (["1", "0"], "above 0"), (["1", "nan"], "above 0"), (["1", "inf"], "above 0")],
)
def test_wrong_weights_are_refused(tmp_path: Path, four: list[Path], weights: list[str], message: str) -> None:
    refused(ConfigError, message, tmp_path / "out", *four[:2], "--name", "x", "--weights", *weights)


def test_diwa_of_several_checkpoints_is_refused(tmp_path: Path, four: list[Path]) -> None:
    refused(ConfigError, "give one checkpoint, or use", tmp_path / "out", *four, "--name", "x", "--method", "diwa")


@pytest.mark.parametrize(("edges", "message"), [((100, 96, 96), "multiples of 16"), ((0, 96, 96), "from 1 to 2048")])
def test_a_window_the_network_cannot_take_is_refused(
    tmp_path: Path, four: list[Path], edges: tuple[int, int, int], message: str
) -> None:
    (tmp_path / "out").mkdir()
    refused(ConfigError, message, tmp_path / "out", four[0], "--name", "x", "--window", *edges)


def test_an_existing_bundle_needs_force(tmp_path: Path, four: list[Path]) -> None:
    out = tmp_path / "out"
    run(out, four[0], "--name", "x")
    refused(ConfigError, "is there already; choose another --name, or --force", out, four[1], "--name", "x")
    assert sorted(path.name for path in (out / "x").iterdir()) == ["c1.safetensors", "manifest.json"]
    run(out, four[1], "--name", "x", "--force")
    assert sorted(path.name for path in (out / "x").iterdir()) == ["a2.safetensors", "manifest.json"]
    bad = save(submitted(0), tmp_path / "bad.ckpt", lambda state: state.pop("model.decoder.fc.bias"))
    refused(WeightsError, "missing", out, bad, "--name", "x", "--force")  # the old bundle stays
    assert load_bundle(out / "x").manifest.members[0].file == "a2.safetensors"


def test_an_output_folder_that_cannot_be_written_is_named(tmp_path: Path, four: list[Path]) -> None:
    (tmp_path / "out").write_text("a file")
    with pytest.raises(OutputError, match="cannot write"):
        run(tmp_path / "out", four[0], "--name", "x")


def test_a_disk_that_fills_up_leaves_no_folder(tmp_path: Path, four: list[Path], monkeypatch: Any) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "out").mkdir()
    monkeypatch.setattr("training.bundles.write.load_bundle", full)
    refused(OutputError, "No space left on device", tmp_path / "out", four[0], "--name", "x")


def test_the_error_is_the_last_line_and_the_exit_code_its_own(tmp_path: Path, four: list[Path], capsys: Any) -> None:
    assert main(["import", str(four[0]), "--name", "../x", "--output-folder", str(tmp_path)]) == ConfigError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: --name must be")
    broken = tmp_path / "broken.ckpt"
    broken.write_bytes(four[0].read_bytes()[:-50])
    assert main(["import", str(broken), "--name", "x", "--output-folder", str(tmp_path)]) == WeightsError.exit_code
    assert capsys.readouterr().err.splitlines()[-1].startswith(f"error: '{broken}' is damaged")
    assert main(["import", str(four[0]), "--name", "x", "--output-folder", str(tmp_path)]) == 0
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"wrote '{tmp_path / 'x'}'")


def test_bundles_go_into_weights_by_default() -> None:
    options = parse("import", import_checkpoint, ["c1.ckpt", "--name", "x"])
    assert options.output_folder == ROOT / "weights"
    assert options.window is None and import_checkpoint.WINDOWS["volumes"] == (192, 192, 192)


# from the published files to the mask


@pytest.mark.slow
def test_the_container_gives_the_mask_of_the_authors_pipeline(tmp_path: Path) -> None:
    """Against MONAI and the network above: PET/40, CT unclipped, (2 c1 + a2 + a3 + d2) / 5 of the logits, argmax."""
    pet, ct = write_study(tmp_path / "input")
    networks = [submitted(seed) for seed in range(4)]
    weights = torch.tensor([2.0, 1, 1, 1]).view(4, 1, 1, 1, 1)
    crop, logits = authors_logits(networks, pet, ct)
    mean = (weights * logits).sum(0) / 5
    for network in networks:  # a fifth of the voxels becomes lesion
        network.decoder.fc.bias.data[1] -= float((mean[1] - mean[0]).quantile(0.8))
    crop, logits = authors_logits(networks, pet, ct)
    wanted = np.zeros(pet.shape, bool)
    wanted[crop] = torch.softmax((weights * logits).sum(0) / 5, dim=0).argmax(0).numpy() == 1

    files = [str(save(network, tmp_path / f"{name}.ckpt")) for network, name in zip(networks, SUBMITTED, strict=True)]
    words = ["--weights", 2, 1, 1, 1, "--method", "eoa", "--name", "ahn-park-eoa", "--window", 32, 32, 32]
    done = warm.run("-m", "training", "import", *files, *words, "--output-folder", tmp_path / "weights")
    assert done.returncode == 0, done.stderr
    folders = ("--input", tmp_path / "input", "--output", tmp_path / "output")
    done = warm.run("process.py", *folders, "--weights", tmp_path / "weights/ahn-park-eoa", "--device", "cpu")
    assert done.returncode == 0, done.stderr
    path = tmp_path / "output" / "images" / "automated-petct-lesion-segmentation" / "ct-1.mha"
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(path))).transpose() > 0
    assert 0.05 < wanted[crop].mean() < 0.5 and 0.05 < mask[crop].mean() < 0.5
    assert (mask == wanted).mean() >= 0.9999
    uniform = logits.mean(0).argmax(0).numpy() == 1
    assert (uniform != wanted[crop]).mean() > 0.001  # the weights matter, so the equality says something


def write_study(folder: Path) -> tuple[Tensor, Tensor]:
    """PET and CT on one LAS grid, as MHA; returned as (X, Y, Z). The crop has 50 x 27 x 45 voxels, the window 32."""
    draw = np.random.default_rng(5)
    pet = np.zeros((58, 34, 52), np.float32)
    pet[3:53, 5:32, 2:47] = draw.gamma(1.0, 3.0, (50, 27, 45)) + 0.01
    pet[20:26, 12:20, 20:30] += 60.0  # above 40: not clipped
    ct = draw.integers(-1024, 3000, pet.shape).astype(np.int16)
    for name, array in (("pet", pet), ("ct", ct)):
        image = sitk.GetImageFromArray(np.ascontiguousarray(array.transpose()))
        image.SetDirection((1, 0, 0, 0, -1, 0, 0, 0, 1))  # first index to the left, second to anterior, third superior
        image.SetSpacing((4.0, 4.0, 3.0))
        (folder / "images" / name).mkdir(parents=True)
        sitk.WriteImage(image, str(folder / "images" / name / f"{name}-1.mha"))
    return torch.from_numpy(pet), torch.from_numpy(ct.astype(np.float32))


def authors_logits(networks: list[Submitted], pet: Tensor, ct: Tensor) -> tuple[tuple[slice, ...], Tensor]:
    """The crop, and in it each network's logits (networks, 2, X, Y, Z), by MONAI."""
    from monai.inferers import sliding_window_inference
    from monai.transforms import CropForeground, ScaleIntensityRange

    scaled_pet = ScaleIntensityRange(a_min=0, a_max=40, b_min=0, b_max=1, clip=False)(pet[None])
    scaled_ct = ScaleIntensityRange(a_min=-1000, a_max=1000, b_min=0, b_max=1, clip=False)(ct[None])
    start, end = CropForeground().compute_bounding_box(scaled_pet)
    crop = tuple(slice(int(a), int(b)) for a, b in zip(start, end, strict=True))
    image = torch.cat([torch.as_tensor(scaled_ct), torch.as_tensor(scaled_pet)])[(slice(None), *crop)][None]
    with torch.no_grad():
        parts = [sliding_window_inference(image, (32, 32, 32), 1, network, overlap=0.5) for network in networks]
    return crop, torch.cat(parts)


# the published network for slices (Zhong et al.), in segmentation_models_pytorch's names


def slices_state(classes: int, fusion: str = "regnety_002", widths: tuple[int, ...] = (16, 8, 8, 4, 4)) -> dict:
    torch.manual_seed(classes)
    network = build(Network(fusion=fusion, widths=widths, classes=classes))
    for name, tensor in network.state_dict().items():
        if tensor.is_floating_point():
            tensor.copy_(torch.rand_like(tensor) + 0.1 if "running_var" in name else torch.randn_like(tensor) * 0.2)
    return network.state_dict()


@pytest.mark.parametrize("classes", [1, 2])
@pytest.mark.parametrize(("prefix", "encoder"), [("", "encoder."), ("module.", "encoder."), ("", "encoder.model.")])
def test_the_published_network_for_slices_is_known_with_its_classes(classes, prefix, encoder, tmp_path, capsys) -> None:
    """Also as segmentation_models_pytorch 0.6 names it, where timm's network stands below `encoder.model.`."""
    state, path = slices_state(classes), tmp_path / "best.pkl"
    named = {prefix + re.sub("^encoder[.]", encoder, name): tensor for name, tensor in state.items()}
    torch.save({"model": named, "epoch": 3, "best": np.float64(0.7)}, path)
    assert main(["import", str(path), "--name", "zhong", "--output-folder", str(tmp_path)]) == 0, capsys.readouterr()
    bundle = load_bundle(tmp_path / "zhong")
    manifest = bundle.manifest
    assert manifest.network == Network(fusion="regnety_002", widths=(16, 8, 8, 4, 4), classes=classes)
    assert (manifest.kind, manifest.channels, manifest.window.size) == ("slices", ("PET", "CT"), (256, 256, 1))
    assert manifest.intensity.ct_clip and not manifest.intensity.suv_clip and "Zhong" in manifest.provenance.attribution
    found = load_file(bundle.folder / manifest.members[0].file)
    assert all(torch.equal(found[name], tensor) for name, tensor in state.items())


@pytest.mark.slow
def test_a_network_for_slices_that_lacks_a_tensor_or_has_another_encoder_is_refused(tmp_path) -> None:
    for change, match in (
        (lambda s: s.pop("encoder.s2.b1.se.fc1.bias"), "1 tensors missing: encoder.s2.b1.se.fc1.bias"),
        (lambda s: s.update({"encoder.s4.b1.conv3.conv.weight": torch.zeros(9, 9, 1, 1)}), "none of regnety_002"),
        (lambda s: s.update({"segmentation_head.0.weight": torch.zeros(3, 4, 3, 3)}), "classes must be 2, or 1"),
        (lambda s: s.update({"segmentation_head.0.weight": torch.zeros(())}), "segmentation_head.0.weight has shape"),
        (lambda s: s.update({"encoder.s1.b1.conv3.conv.weight": torch.zeros(())}), "s1.b1.conv3.conv.weight has shape"),
        (lambda s: s.update({"encoder.stem.conv.weight": torch.zeros(32, 3, 3, 3)}), "has shape"),
    ):
        state = dict(slices_state(1))
        change(state)
        torch.save({"model": state}, tmp_path / "best.pkl")
        with pytest.raises(WeightsError, match=match):
            import_checkpoint.read_authors(tmp_path / "best.pkl")


@pytest.mark.slow
def test_an_imported_network_for_slices_runs_as_its_steps_written_out(tmp_path, cpu) -> None:
    """On a grid below 256, so that where the window lies is not in question: clip, z-score, sigmoid, pasted back."""
    from cases import case_of
    from conftest import tiny_images

    from model.inference.options import SegmentOptions
    from model.inference.segment import segment

    pet, ct = tiny_images()
    state = slices_state(1)
    network = build(Network(fusion="regnety_002", widths=(16, 8, 8, 4, 4), classes=1)).eval()
    network.load_state_dict(state)
    logits = logits_by_steps(network, pet, ct, 256)
    middle = float(np.median(logits))  # so that random weights say both
    state["segmentation_head.0.bias"] -= middle
    torch.save({"model": state}, tmp_path / "best.pkl")
    assert main(["import", str(tmp_path / "best.pkl"), "--name", "zhong", "--output-folder", str(tmp_path)]) == 0
    found = segment(case_of(pet, ct), SegmentOptions(bundle=load_bundle(tmp_path / "zhong"), device=cpu)).mask
    expected = logits > middle
    assert 0.3 < expected.mean() < 0.7 and (found == expected).mean() > 0.999
