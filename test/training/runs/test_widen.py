"""A network made wider computes what the narrower one did; what it writes is a run to start from."""

from pathlib import Path

import pytest
import torch
import yaml
from tiny_settings import tiny_training

from model.bundle.network import Network
from model.errors import ConfigError
from model.files import sha256_of
from model.networks.unet import build
from training.__main__ import main
from training.judging.leakage import seen_by
from training.runs.start import starting_network
from training.runs.widen import widened
from training.settings import settings_from, settings_to
from training.weights import checkpoint
from training.weights.checkpoint import write_json, write_weights

NARROW = (2, 4, 6)


@pytest.mark.parametrize("fusion", ["early", "middle"])
@pytest.mark.parametrize("norm", ["instance", "body", "batch"])
@pytest.mark.parametrize("widths", [(4, 4, 6), (2, 8, 6), (3, 7, 11)])
def test_the_wider_network_gives_the_same_logits(fusion: str, norm: str, widths: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    before, after = (Network(fusion=fusion, widths=w, norm=norm) for w in (NARROW, widths))
    old = build(before)
    for name, tensor in old.named_parameters():
        if "norm" in name:
            tensor.data.uniform_(0.5, 1.5)
    if norm == "batch":
        old(torch.randn(2, 2, 16, 16, 16))  # statistics of its own
    new = build(after)
    new.load_state_dict(widened(old.state_dict(), before, after))
    image = torch.randn(1, after.image_channels, 16, 16, 16)
    image[:, 2:] = (image[:, 2:] > 0).float()
    torch.testing.assert_close(new.eval()(image), old.eval()(image), rtol=0, atol=2e-5)


def test_noise_parts_the_copies() -> None:
    before, after = Network(fusion="early", widths=NARROW), Network(fusion="early", widths=(4, 4, 6))
    state = build(before).state_dict()
    name = "encoder.layer1.0.conv.weight"
    exact, noisy = widened(state, before, after), widened(state, before, after, noise=0.05, seed=1)
    assert torch.equal(exact[name][:2], exact[name][2:])
    assert not torch.equal(noisy[name][:2], noisy[name][2:])
    assert (noisy[name] - exact[name]).std().item() == pytest.approx(0.05 * state[name].std().item(), rel=0.3)
    assert torch.equal(noisy["encoder.layer3.1.conv.weight"], state["encoder.layer3.1.conv.weight"])


@pytest.mark.parametrize("widths", [(1, 4, 6), (2, 4), (2, 4, 6, 8)])
def test_a_narrower_or_deeper_network_is_refused(widths: tuple[int, ...]) -> None:
    before, after = Network(fusion="early", widths=NARROW), Network(fusion="early", widths=widths)
    with pytest.raises(ConfigError, match="none below 2, 4, 6"):
        widened(build(before).state_dict(), before, after)


def test_the_wider_run_says_what_it_has_seen(tmp_path: Path) -> None:
    start, run = tmp_path / "narrow", tmp_path / "wider"
    settings = tiny_training(network={"fusion": "middle", "widths": list(NARROW)})
    write_weights(start / "last.safetensors", build(settings.network).state_dict())
    seen = {"cases": ["case0"], "patients": ["patient0"]}
    (start / "config.yaml").write_text(yaml.safe_dump({"settings": settings_to(settings), "seen": seen}))
    write_json(
        start / "run.json",
        {"result": "last.safetensors", "sha256": sha256_of(start / "last.safetensors"), "epoch": 3},
    )
    words = ["widen", "--start", str(start), "--run", str(run), "--norm", "batch"]
    assert main([*words, "--widths", "4", "4", "6"]) == 0
    after = settings_from(yaml.safe_load((run / "config.yaml").read_text())["settings"])
    assert (after.network.widths, after.network.norm) == ((4, 4, 6), "batch")
    assert seen_by(run).patients == {"patient0"}
    starting_network(after, run, None)  # fits
    assert main([*words, "--widths", "4", "4", "6"]) == 2  # never over a run that is there


@pytest.fixture
def start(tmp_path: Path) -> Path:
    """A finished run of a small network whose norm looks at the body, by a level of its own."""
    folder = tmp_path / "narrow"
    network = {"fusion": "middle", "widths": list(NARROW), "norm": "body", "body": {"hu": -600}}
    settings = tiny_training(network=network)
    write_weights(folder / "last.safetensors", build(settings.network).state_dict())
    config = {"settings": settings_to(settings), "seen": {"cases": [], "patients": []}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    sha256 = sha256_of(folder / "last.safetensors")
    write_json(folder / "run.json", {"result": "last.safetensors", "sha256": sha256, "epoch": 3})
    return folder


def test_another_norm_leaves_the_levels_of_the_body_behind(start: Path, tmp_path: Path) -> None:
    assert main(["widen", "--start", str(start), "--run", str(tmp_path / "wider"), "--norm", "instance"]) == 0
    assert settings_from(yaml.safe_load((tmp_path / "wider/config.yaml").read_text())["settings"]).network.norm == (
        "instance"
    )


def test_a_killed_command_leaves_nothing_and_is_given_again(start: Path, tmp_path: Path, monkeypatch) -> None:
    words = ["widen", "--start", str(start), "--run", str(tmp_path / "wider")]
    whole = checkpoint.write_json

    def killed(*_) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "write_json", killed)
    assert main(words) != 0 and not (tmp_path / "wider").exists()
    monkeypatch.setattr(checkpoint, "write_json", whole)
    assert main(words) == 0 and checkpoint.finished(tmp_path / "wider")


def test_a_folder_that_is_in_use_and_a_config_without_settings_are_refused(start: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "used").mkdir()
    (tmp_path / "used/mine.txt").write_text("mine")
    assert main(["widen", "--start", str(start), "--run", str(tmp_path / "used")]) == ConfigError.exit_code
    assert "is there and not empty" in capsys.readouterr().err
    (start / "config.yaml").write_text("- a")
    assert main(["widen", "--start", str(start), "--run", str(tmp_path / "wider")]) == ConfigError.exit_code
    assert "holds no settings of a run" in capsys.readouterr().err
