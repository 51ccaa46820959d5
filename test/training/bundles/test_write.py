import pytest
import torch
from msgspec.structs import replace
from safetensors.torch import load_file

from model.bundle.manifest import load_bundle
from model.errors import ConfigError
from model.networks.weights import read_state
from training.bundles.write import state_sha256, write_bundle


def test_a_bundle_is_not_replaced_without_force(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "b")
    before = (folder / "manifest.json").read_bytes()
    with pytest.raises(ConfigError, match="--force"):
        make_bundle(folder, members=1)
    assert (folder / "manifest.json").read_bytes() == before


def test_a_bundle_that_cannot_be_read_back_is_not_left_behind(make_bundle, tmp_path) -> None:
    with pytest.raises(ConfigError):
        make_bundle(tmp_path / "b", combine="votes")
    assert list(tmp_path.iterdir()) == []


def test_every_file_may_be_read_by_another_user(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "b")
    assert all(path.stat().st_mode & 0o044 == 0o044 for path in folder.iterdir())
    assert len(load_bundle(folder).manifest.members) == 2


def test_the_start_hash_depends_on_names_shapes_and_values_alone() -> None:
    state = {"b": torch.ones(2, 3), "a": torch.zeros(1)}
    same = {"a": torch.zeros(1), "b": torch.ones(3, 2).T}
    assert state_sha256(state) == state_sha256(same)
    for other in ({"a": torch.zeros(1)}, state | {"a": torch.ones(1)}, state | {"b": torch.ones(3, 2)}):
        assert state_sha256(other) != state_sha256(state)


def test_a_folder_that_is_no_bundle_is_never_replaced(make_bundle, tmp_path) -> None:
    (tmp_path / "results").mkdir()
    (tmp_path / "results" / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="it is no bundle"):
        write_bundle(tmp_path / "results", {}, lambda members: None, weights=[], start_sha256=None, force=True)
    assert (tmp_path / "results" / "thesis.txt").read_text() == "mine"


def test_a_bundle_that_a_killed_process_had_moved_away_is_not_lost(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "b")
    before = (folder / "manifest.json").read_bytes()
    (tmp_path / ".partial-1" / "old").mkdir(parents=True)
    folder.rename(tmp_path / ".partial-1" / "old" / "b")  # killed between its two renames
    with pytest.raises(ConfigError, match="--force"):
        make_bundle(folder, members=1)
    assert [path.name for path in tmp_path.iterdir()] == ["b"]
    assert (folder / "manifest.json").read_bytes() == before


def test_a_number_that_float16_cannot_hold_is_stored_in_float32(make_bundle, tmp_path) -> None:
    """Variances of deep layers exceed 65504; written as float16 they would be infinite, and their channels dead."""
    made = load_bundle(make_bundle(tmp_path / "b"))
    state = read_state(made, made.manifest.members[0])
    name = next(iter(state))
    state[name] = torch.full_like(state[name], 70000.0)
    folder = tmp_path / "half"
    write_bundle(
        folder,
        {"m": state},
        lambda members: replace(made.manifest, members=members),
        weights=[1.0],
        start_sha256=None,
        half=True,
    )
    stored = load_file(folder / "m.safetensors")
    assert stored[name].dtype == torch.float32 and bool((stored[name] == 70000.0).all())
    assert {tensor.dtype for key, tensor in stored.items() if key != name} == {torch.float16}
