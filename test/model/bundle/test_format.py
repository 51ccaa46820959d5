import json
import pickle

import pytest

from model.bundle.format import Manifest, manifest_from, manifest_to
from model.errors import ConfigError

GOOD = {
    "format_version": 1,
    "name": "x",
    "kind": "volumes",
    "network": {"fusion": "middle", "widths": [4, 4]},
    "channels": ["CT", "PET"],
    "intensity": {},
    "crop": {},
    "window": {"size": [32, 32, 32]},
    "method": "eoa",
    "members": [{"file": "a.safetensors", "sha256": "0" * 64}],
    "intended_use": "tests",
    "licence": "MIT",
    "provenance": {"data": "", "commit": "", "date": "", "scores": {}, "attribution": ""},
}


def changed(path: str, value: object) -> dict:
    data = json.loads(json.dumps(GOOD))
    *parents, last = path.split(".")
    place = data
    for key in parents:
        place = place[int(key)] if key.isdigit() else place[key]
    place[last] = value
    return data


def test_defaults_are_the_authors_container() -> None:
    manifest = manifest_from(GOOD)
    intensity = manifest.intensity
    assert (intensity.ct_low_hu, intensity.ct_high_hu, intensity.suv_top) == (-1000, 1000, 40)
    assert not intensity.ct_clip and not intensity.suv_clip
    assert manifest.crop.suv_above == 0 and manifest.window.overlap == 0.5 and manifest.window.weighting == "constant"


def test_a_manifest_reads_back_as_it_was_written() -> None:
    manifest = manifest_from(GOOD)
    assert manifest_from(json.loads(json.dumps(manifest_to(manifest)))) == manifest
    assert isinstance(manifest, Manifest)


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("colour", 1, "unknown keys: colour"),
        ("window.colour", 1, "manifest: window has unknown keys: colour; there are size, overlap, weighting, shrink"),
        ("members.0.colour", 1, r"members\[0\] has unknown keys"),
        ("format_version", 2, "format_version is 2"),
        ("kind", "pictures", "kind must be"),
        ("channels", ["PET", "CT"], "channels must be"),
        ("network.fusion", "sideways", "fusion must be one of"),
        ("network.norm", "group", "norm must be one of instance, body, batch"),
        ("network.widths", [0, 4], "widths"),
        ("network.widths", "44", "widths"),
        ("network.widths", [4.5, 4], "widths"),
        ("intensity.suv_top", 0, "suv_top must be at least 0.001, got 0"),
        ("intensity.suv_top", "40", "must be a finite number"),
        ("intensity.ct_clip", 1, "ct_clip must be true or false, got 1"),
        ("intensity.ct_low_hu", 1000, "must lie below"),
        ("crop.suv_above", float("nan"), "finite"),
        ("window.size", [32, 32], "size must be a list of 3, each a whole number from 1 to 2048"),
        ("window.size", [33, 32, 32], "multiples of 2"),
        ("window.size", [2, 2, 2], "must be above 2"),
        ("window.overlap", 1, "overlap must be a number from 0 and below 1, got 1"),
        ("window.weighting", "round", "one of constant, gaussian"),
        ("method", "soup", "method must be"),
        ("skip_suv", -1, "skip_suv is an SUV from 0 on"),
        ("skip_suv", "0.5", "must be a finite number"),
        ("combine", "votes", "combine must be"),
        ("members", [], "members is empty"),
        ("members.0.file", "../a.safetensors", "plain name"),
        ("members.0.sha256", "abc", "64 hexadecimal"),
        ("members.0.weight", 0, "weight must be a number above 0 and below 1000000, got 0"),
        ("members.0.weight", True, r"members\[0\].weight must be a number above 0"),
        ("members.0.network", {"fusion": "middle", "widths": [0]}, r"members\[0\].network.widths\[0\] must be a whole"),
        ("members.0.network", {"fusion": "middle", "widths": [4]}, r"members\[0\].network: widths must be at least 2"),
        ("window.shrink", 1, "window.shrink must be true or false, got 1"),
        ("window.mirrored", ["x", "x"], "window.*: mirrored has an axis twice: x, x"),
        ("members.0.fold", "7", r"members\[0\].fold must be one of 0, 1, 2, 3, 4, all or null, got '7'"),
        ("provenance.scores", [], "must be a mapping"),
        ("network", [], "must be a mapping"),
    ],
)
def test_a_wrong_value_is_refused_by_name(path: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        manifest_from(changed(path, value))


def test_a_manifest_is_the_same_in_another_process() -> None:
    manifest = manifest_from(changed("limits", {"pet_max_suv": 2000}))
    assert pickle.loads(pickle.dumps(manifest)) == manifest


def test_a_missing_key_is_named() -> None:
    with pytest.raises(ConfigError, match="lacks keys: licence"):
        manifest_from({k: v for k, v in GOOD.items() if k != "licence"})


def test_a_file_named_twice_is_refused() -> None:
    with pytest.raises(ConfigError, match="twice"):
        manifest_from(changed("members", GOOD["members"] * 2))
