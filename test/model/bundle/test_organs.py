from pathlib import Path
from types import SimpleNamespace

import pytest
from organ_bundles import organ_bundle, organ_network

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.bundle.organs import ORGANS, organ_names, organ_voters
from model.errors import ConfigError


def manifest_of(*networks: Network, method: str = "eoa") -> SimpleNamespace:
    """What of a manifest is asked for: a member for each network."""
    return SimpleNamespace(
        name="tiny", method=method, members=networks, part=lambda network: SimpleNamespace(network=network)
    )


def test_eleven_classes_are_the_public_models_organs_after_the_background() -> None:
    names = organ_names(manifest_of(organ_network()))
    assert len(names) == 10 and (names[0], names[2], names[9]) == ("spleen", "liver", "salivary glands")


def test_names_of_the_bundle_count_before_those() -> None:
    letters = tuple("abcdefghij")
    assert organ_names(manifest_of(organ_network(organ_names=letters))) == letters
    assert organ_names(manifest_of(organ_network(3, organ_names=("liver", "brain")))) == ("liver", "brain")


@pytest.mark.parametrize(
    ("networks", "message"),
    [
        ([organ_network(0)], "'tiny' has none"),
        ([organ_network(5)], "has 5 classes, and nothing says which"),
        ([organ_network(), organ_network(2, organ_names=("liver",))], "know other organs"),
    ],
)
def test_a_bundle_that_knows_no_organs_is_refused(networks, message) -> None:
    with pytest.raises(ConfigError, match=message):
        organ_names(manifest_of(*networks))


def test_members_without_the_head_are_said_and_do_not_count() -> None:
    manifest = manifest_of(organ_network(), organ_network(0), organ_network())
    assert organ_names(manifest) == ORGANS and organ_voters(manifest) == (2, 3)
    assert organ_voters(manifest_of(organ_network(), organ_network(), method="diwa")) == (1, 1)


@pytest.mark.parametrize("names", [("liver",), ("liver", "liver"), ("Liver", "brain"), ("a, b", "c")])
def test_names_must_be_one_an_organ_and_plain(names) -> None:
    with pytest.raises(ConfigError, match="organ_names"):
        organ_network(3, organ_names=names)


def test_names_stand_in_the_manifest_and_are_left_out_without(make_bundle, tmp_path) -> None:
    for names in ((), tuple("abcdefghij")):
        folder: Path = make_bundle(
            tmp_path / f"n{len(names)}", 1, **organ_bundle(network=organ_network(organ_names=names))
        )
        assert load_bundle(folder).manifest.network.organ_names == names
        assert ("organ_names" in (folder / "manifest.json").read_text()) == bool(names)
