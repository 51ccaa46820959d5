"""Folds and mirrorings of a bundle: which networks run, how often, and what is refused."""

from pathlib import Path

import pytest
from msgspec.structs import replace
from nnunet_bundles import MIRRORED, nnunet_bundle

from model.bundle.choice import cheaper_choice, chosen_members, passes_a_window
from model.bundle.format import Member
from model.bundle.manifest import Bundle, load_bundle
from model.errors import ConfigError


def folds_of(bundle: Bundle) -> list[str | None]:
    return [member.fold for member in bundle.manifest.members]


def test_a_bundle_stays_as_it_is_unless_something_else_is_asked_for() -> None:
    bundle = nnunet_bundle("01234")
    for folds, mirroring in ((None, "model"), (tuple("01234"), "model"), (tuple("43210"), "full")):
        assert chosen_members(bundle, folds, mirroring) == bundle


@pytest.mark.parametrize(
    ("folds", "mirroring", "passes", "changes"),
    [
        (None, "model", 5 * 8, ()),
        (None, "fast", 5 * 2, ("mirrored along x",)),
        (None, "none", 5, ("not mirrored",)),
        (("3", "0"), "model", 2 * 8, ("folds 0 3",)),
        (("2",), "none", 1, ("folds 2", "not mirrored")),
    ],
)
def test_passes_a_window_are_folds_times_mirrorings(folds, mirroring, passes, changes) -> None:
    found = chosen_members(nnunet_bundle("01234"), folds, mirroring)
    assert passes_a_window(found.manifest) == passes and found.changes == changes and found.warnings == ()
    assert folds_of(found) == [fold for fold in "01234" if folds is None or fold in folds]


def test_the_name_for_people_says_what_was_changed() -> None:
    bundle = nnunet_bundle("01")
    assert bundle.label == "random (eoa)"
    assert chosen_members(bundle, ("1",), "none").label == "random (eoa, folds 1, not mirrored)"


@pytest.mark.parametrize(
    ("folds", "mirroring", "message"),
    [
        (("5",), "model", "--folds takes some of 0, 1, 2, 3, 4, all, got '5'"),
        ((), "model", "--folds takes some of"),
        (("0", "0"), "model", "names a fold twice: 0 0"),
        (("0", "3", "all"), "model", "has no fold 3, all; it has the folds 0, 1"),
        (None, "half", "--mirroring must be one of model, none, fast, full, got 'half'"),
    ],
)
def test_what_is_not_there_is_refused(folds, mirroring, message) -> None:
    with pytest.raises(ConfigError, match=message):
        chosen_members(nnunet_bundle("01"), folds, mirroring)


def test_a_bundle_of_another_kind_has_no_folds_and_is_not_mirrored(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    with pytest.raises(ConfigError, match="the members of 'tiny' have no folds"):
        chosen_members(bundle, ("0",), "model")
    for mirroring in ("fast", "full"):
        with pytest.raises(ConfigError, match=f"--mirroring {mirroring} is for networks of nnU-Net's kind, and 'tiny'"):
            chosen_members(bundle, None, mirroring)
    assert chosen_members(bundle, None, "none") == bundle


def test_axes_that_the_manifest_does_not_mirror_are_warned_of() -> None:
    found = chosen_members(nnunet_bundle("0", mirrored=("z",)), None, "full")
    assert passes_a_window(found.manifest) == 8
    assert (
        len(found.warnings) == 1 and "mirrors along x, y, which the manifest of 'random' does not" in found.warnings[0]
    )
    assert chosen_members(nnunet_bundle("0", mirrored=("z",)), None, "none").warnings == ()


def of_two_models(own: tuple[str, ...], other: tuple[str, ...]) -> Bundle:
    """A mixed bundle: a model of these folds, and one of smaller windows; each has weight 1 in all."""
    first, second = nnunet_bundle(own), nnunet_bundle(other)
    smaller = replace(second.manifest.window, size=(16, 16, 16))

    def members(bundle: Bundle, window, prefix: str) -> list[Member]:
        manifest = bundle.manifest
        return [
            replace(
                member,
                file=prefix + member.file,
                network=manifest.network,
                window=window,
                preprocessing=manifest.preprocessing,
                intensity=manifest.intensity,
                weight=1 / len(manifest.members),
            )
            for member in manifest.members
        ]

    both = [*members(first, first.manifest.window, "a-"), *members(second, smaller, "b-")]
    return replace_manifest(first, kind="mixed", combine="parts", members=tuple(both))


def replace_manifest(bundle: Bundle, **changes) -> Bundle:
    return Bundle(folder=bundle.folder, sha256=bundle.sha256, manifest=replace(bundle.manifest, **changes))


def test_each_model_keeps_its_weight_in_the_vote() -> None:
    found = chosen_members(of_two_models(tuple("0123"), tuple("01")), ("0", "3"), "none")
    assert folds_of(found) == ["0", "3", "0"]
    assert [member.weight for member in found.manifest.members] == pytest.approx([0.5, 0.5, 1.0])
    assert passes_a_window(found.manifest) == 3


def test_a_model_is_not_left_out_unnoticed() -> None:
    bundle = of_two_models(tuple("0123"), ("all",))
    with pytest.raises(ConfigError, match="leaves out a whole model of 'random', which has the folds all"):
        chosen_members(bundle, ("0",), "model")
    assert folds_of(chosen_members(bundle, ("0", "all"), "model")) == ["0", "all"]


def test_members_without_a_fold_stay(tiny_bundle: Path) -> None:
    bundle, tiny = nnunet_bundle("01"), load_bundle(tiny_bundle).manifest
    own = replace(
        tiny.members[0], network=tiny.network, window=tiny.window, intensity=tiny.intensity, preprocessing=None
    )
    mixed = replace_manifest(bundle, kind="mixed", combine="parts", members=(*bundle.manifest.members, own))
    found = chosen_members(mixed, ("1",), "fast")
    assert folds_of(found) == ["1", None]
    assert [found.manifest.part(member).window.mirrored for member in found.manifest.members] == [("x",), ()]


def test_the_cheapest_choice_is_one_fold_of_each_model_without_mirroring() -> None:
    words, cheaper = cheaper_choice(nnunet_bundle("123")) or ("", nnunet_bundle("0"))
    assert words == "--folds 1 --mirroring none" and passes_a_window(cheaper.manifest) == 1
    words, cheaper = cheaper_choice(of_two_models(tuple("01"), ("all",))) or ("", nnunet_bundle("0"))
    assert words == "--folds 0 all --mirroring none" and passes_a_window(cheaper.manifest) == 2
    words, _ = cheaper_choice(nnunet_bundle("0", mirrored=MIRRORED)) or ("", None)
    assert words == "--mirroring none"
    assert cheaper_choice(nnunet_bundle("0", mirrored=())) is None


def test_a_soup_is_the_cheaper_choice_where_weights_may_be_averaged(tiny_bundle: Path) -> None:
    bundle = load_bundle(tiny_bundle)
    words, cheaper = cheaper_choice(bundle) or ("", bundle)
    assert words == "--method diwa" and passes_a_window(cheaper.manifest) == 1
    assert cheaper_choice(cheaper) is None
    for norm, words in (("body", "--method diwa"), ("batch", None)):
        network = replace(bundle.manifest.network, norm=norm)
        found = cheaper_choice(replace_manifest(bundle, network=network))
        assert (found[0] if found else None) == words
    others = tuple(replace(member, start_sha256=None) for member in bundle.manifest.members)
    assert cheaper_choice(replace_manifest(bundle, members=others)) is None
