import json

import pytest
import torch
import warm
from manifests import edit
from safetensors.torch import load_file, save_file

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.bundle.settings import Window
from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from model.networks.unet import build
from model.networks.weights import load_now, read_state, soup, voters


def replace_member(folder, change) -> None:
    """Rewrite m0 with changed tensors and put the new hash into the manifest, as a bad exporter would."""
    path = folder / "m0.safetensors"
    state = load_file(path)
    change(state)
    save_file(state, path)
    members = json.loads((folder / "manifest.json").read_text())["members"]
    members[0]["sha256"] = sha256_of(path)
    edit(folder, members=members)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("decoder.fc.bias"), r"1 tensors missing \['decoder.fc.bias'\]"),
        (lambda s: s.update(extra=torch.zeros(1)), r"1 superfluous \['extra'\]"),
        (lambda s: s.update({"decoder.fc.bias": torch.zeros(3)}), "shape"),
        (lambda s: s["decoder.fc.bias"].fill_(float("nan")), "NaN"),
    ],
    ids=["missing", "superfluous", "shape", "nan"],
)
def test_tensors_that_do_not_fit_are_refused(change, message: str, make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "bad")
    replace_member(folder, change)
    bundle = load_bundle(folder)
    with pytest.raises(WeightsError, match=message):
        read_state(bundle, bundle.manifest.members[0])


def test_a_file_that_is_no_safetensors_is_refused(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "bad")
    (folder / "m0.safetensors").write_bytes(b"not tensors")
    members = json.loads((folder / "manifest.json").read_text())["members"]
    members[0]["sha256"] = sha256_of(folder / "m0.safetensors")
    edit(folder, members=members)
    bundle = load_bundle(folder)
    with pytest.raises(WeightsError, match="not a safetensors file"):
        read_state(bundle, bundle.manifest.members[0])


def test_the_soup_is_the_weighted_mean(make_bundle, tmp_path) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "soup", members=3, weights=[2.0, 1.0, 1.0]), "diwa")
    states = [read_state(bundle, member) for member in bundle.manifest.members]
    for name, tensor in soup(bundle).items():
        expected = (2 * states[0][name].double() + states[1][name].double() + states[2][name].double()) / 4
        assert torch.equal(tensor, expected.float())


def test_eoa_runs_every_member_and_diwa_one_network(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "both", members=3, weights=[2.0, 1.0, 1.0])
    assert [voter.weight for voter in voters(load_bundle(folder))] == [2.0, 1.0, 1.0]
    assert [voter.weight for voter in voters(load_bundle(folder, "diwa"))] == [1.0]


def test_float16_storage_is_computed_in_float32(make_bundle, tmp_path) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "half", half=True))
    assert load_file(bundle.folder / "m0.safetensors")["decoder.fc.weight"].dtype == torch.float16
    network = voters(bundle)[0].load()
    assert {p.dtype for p in network.parameters()} == {torch.float32} and not network.training


@pytest.mark.slow
def test_the_command_verifies_bundles(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "checked")
    command = ("-m", "model.networks.weights", folder)
    assert warm.run(*command).returncode == 0
    (folder / "m0.safetensors").write_bytes(b"x")
    failed = warm.run(*command)
    assert failed.returncode == 4 and "sha256" in failed.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fusion", "widths"), [("early", (2, 4)), ("late", (2, 4)), ("late_features", (2, 4)), ("swin_unetr", (12,))]
)
def test_a_bundle_of_every_network_says_what_the_trained_network_says(fusion, widths, make_bundle, tmp_path) -> None:
    network = Network(fusion=fusion, widths=widths)
    folder = make_bundle(tmp_path / "b", members=1, network=network, window=Window(size=(64, 32, 32)))
    torch.manual_seed(0)
    trained = build(network).eval()
    trained.load_state_dict(load_file(folder / "m0.safetensors"))
    image = torch.rand(1, 2, 64, 32, 32)
    [voter] = voters(load_bundle(folder))
    with torch.no_grad():
        torch.testing.assert_close(voter.load()(image), trained(image))


def test_load_now_loads_every_network_once(tiny_bundle) -> None:
    bundle = load_bundle(tiny_bundle)
    loaded = load_now(voters(bundle), torch.device("cpu"))
    for one, fresh in zip(loaded, voters(bundle), strict=True):
        assert one.load() is one.load() and (one.weight, one.part) == (fresh.weight, fresh.part)
        for name, tensor in fresh.load().state_dict().items():
            torch.testing.assert_close(one.load().state_dict()[name], tensor, rtol=0, atol=0)


def batch_norm_bundle(folder, make_bundle, mean: float):
    """Two members of one start, whose batch statistics differ in the second's first mean, by `mean`."""
    make_bundle(folder, members=2)
    network = Network(fusion="middle", widths=(2, 2, 4), norm="batch")
    members = json.loads((folder / "manifest.json").read_text())["members"]
    for number, member in enumerate(members):
        state = build(network).state_dict()
        state["ct_encoder.layer1.0.norm.running_mean"].fill_(number * mean)
        save_file(state, folder / member["file"])
        member["sha256"] = sha256_of(folder / member["file"])
    edit(folder, members=members, network={"fusion": "middle", "widths": [2, 2, 4], "norm": "batch"})
    return load_bundle(folder, "diwa")


def test_members_whose_batch_statistics_differ_are_not_averaged(make_bundle, tmp_path) -> None:
    with pytest.raises(ConfigError, match="batch statistics that differ.*use --method eoa"):
        soup(batch_norm_bundle(tmp_path / "own", make_bundle, mean=0.5))


def test_members_of_the_same_batch_statistics_are_averaged_and_keep_them(make_bundle, tmp_path) -> None:
    bundle = batch_norm_bundle(tmp_path / "fixed", make_bundle, mean=0.0)
    states = [read_state(bundle, member) for member in bundle.manifest.members]
    state = soup(bundle)
    assert torch.equal(state["ct_encoder.layer1.0.norm.running_var"], states[0]["ct_encoder.layer1.0.norm.running_var"])
    name = "ct_encoder.layer1.0.conv.weight"
    torch.testing.assert_close(state[name], (states[0][name] + states[1][name]) / 2)
