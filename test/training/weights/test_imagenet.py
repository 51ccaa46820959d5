import pytest
import torch
from safetensors.torch import save_file

from model.bundle.network import Network
from model.errors import ConfigError, WeightsError
from model.networks.unet import build
from training.weights.imagenet import load_encoder

NETWORK = Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4))


def timms(seed: int = 1) -> dict[str, torch.Tensor]:
    """A state as timm saves its classifier: three colours, a head, and no counts of batches in some versions."""
    torch.manual_seed(seed)
    state = {
        name: torch.randn_like(t) if t.is_floating_point() else t
        for name, t in build(NETWORK).encoder.state_dict().items()
    }
    state["stem.conv.weight"] = torch.randn(32, 3, 3, 3)
    return state | {"head.fc.weight": torch.randn(1000, 368), "head.fc.bias": torch.randn(1000)}


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_the_encoder_has_timms_weights_and_its_stem_two_of_the_three_colours(ending, tmp_path) -> None:
    state, path = timms(), tmp_path / f"weights{ending}"
    save_file(state, path) if ending == ".safetensors" else torch.save(state, path)
    encoder = build(NETWORK).encoder
    load_encoder(encoder, path)
    found = encoder.state_dict()
    torch.testing.assert_close(found["stem.conv.weight"], state["stem.conv.weight"][:, :2] * 1.5)
    assert all(torch.equal(found[name], t) for name, t in state.items() if name in found and "stem.conv" not in name)


def test_files_of_another_network_are_refused_and_change_nothing(tmp_path) -> None:
    encoder = build(NETWORK).encoder
    before = {name: tensor.clone() for name, tensor in encoder.state_dict().items()}
    path = tmp_path / "other.safetensors"
    save_file(timms() | {"s1.b1.conv1.conv.weight": torch.zeros(5, 5, 1, 1)}, path)
    with pytest.raises(WeightsError, match="s1.b1.conv1.conv.weight has shape"):
        load_encoder(encoder, path)
    save_file({"stem.conv.weight": torch.zeros(32, 3, 3, 3)}, path)
    with pytest.raises(ConfigError, match="lacks .* tensors of this encoder"):
        load_encoder(encoder, path)
    save_file(timms() | {"s1.b1.se.fc1.bias": torch.full((8,), torch.nan)}, path)
    with pytest.raises(WeightsError, match="s1.b1.se.fc1.bias holds NaN"):
        load_encoder(encoder, path)
    path.write_bytes(b"nothing")
    with pytest.raises(WeightsError, match="encoder weights"):
        load_encoder(encoder, path)
    assert all(torch.equal(before[name], tensor) for name, tensor in encoder.state_dict().items())
