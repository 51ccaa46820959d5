import json
from pathlib import Path

import pytest
from manifests import edit

from model.bundle import manifest as module
from model.bundle.manifest import find_bundle, load_bundle
from model.errors import ConfigError, WeightsError


def bundle_at(folder: Path) -> Path:
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text("{}")
    return folder


def test_a_good_bundle_loads_and_its_method_may_be_changed(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "good")
    assert load_bundle(folder).manifest.method == "eoa"
    assert load_bundle(folder, "diwa").manifest.method == "diwa"


def test_a_wrong_hash_is_refused(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "bad")
    with (folder / "m0.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(WeightsError, match="m0.safetensors' has sha256"):
        load_bundle(folder)


def test_a_missing_member_is_refused(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "bad")
    (folder / "m1.safetensors").unlink()
    with pytest.raises(WeightsError, match="m1.safetensors'"):
        load_bundle(folder)


def test_a_git_lfs_pointer_is_named(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "bad")
    (folder / "m0.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(WeightsError, match="git lfs pull"):
        load_bundle(folder)


@pytest.mark.parametrize("text", ["", "[1", "[]", '{"name": 1}', "\x00"])
def test_a_manifest_that_is_none_is_refused(text: str, tmp_path) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(WeightsError, match="manifest.json"):
        load_bundle(tmp_path)


def test_an_unknown_key_is_refused_with_the_file(make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "bad")
    edit(folder, colour="red")
    with pytest.raises(WeightsError, match=r"manifest.json'.*colour"):
        load_bundle(folder)


def test_a_key_that_stands_twice_is_refused_with_the_file(make_bundle, tmp_path) -> None:
    path = make_bundle(tmp_path / "bad") / "manifest.json"
    path.write_text(path.read_text().replace('"overlap":', '"overlap": 0.25, "overlap":', 1))
    with pytest.raises(WeightsError, match=r"manifest.json' has keys twice: overlap"):
        load_bundle(path.parent)


@pytest.mark.parametrize("start", [None, "differ"])
def test_diwa_is_refused_unless_all_members_have_one_start(start: str | None, make_bundle, tmp_path) -> None:
    folder = make_bundle(tmp_path / "mixed")
    members = json.loads((folder / "manifest.json").read_text())["members"]
    members[1]["start_sha256"] = None if start is None else "1" * 64
    edit(folder, members=members)
    assert load_bundle(folder).manifest.method == "eoa"
    with pytest.raises(ConfigError, match="common start"):
        load_bundle(folder, "diwa")


def test_one_member_of_unknown_start_may_be_its_own_soup(make_bundle, tmp_path) -> None:
    assert load_bundle(make_bundle(tmp_path / "one", members=1, start=None), "diwa").manifest.method == "diwa"


def test_an_unknown_method_is_refused(make_bundle, tmp_path) -> None:
    with pytest.raises(ConfigError, match="eoa, diwa"):
        load_bundle(make_bundle(tmp_path / "good"), "soup")


def test_which_weights_are_taken(tmp_path, monkeypatch) -> None:
    weights, mounted, own = tmp_path / "weights", tmp_path / "mounted", bundle_at(tmp_path / "own")
    monkeypatch.setattr(module, "WEIGHTS", weights)
    monkeypatch.delenv("LESION_DEFAULT_WEIGHTS", raising=False)
    for name in ("eoa", "diwa", "third"):
        bundle_at(weights / name)
    assert find_bundle(None, None, mounted) == weights / "eoa"
    assert find_bundle(None, "diwa", mounted) == weights / "diwa"
    assert find_bundle("third", None, mounted) == weights / "third"
    assert find_bundle(str(own), "diwa", mounted) == own
    bundle_at(mounted)
    assert find_bundle(None, None, mounted) == mounted
    assert find_bundle(None, "eoa", mounted) == weights / "eoa"
    assert find_bundle("third", None, mounted) == weights / "third"


def test_an_image_s_own_bundle_comes_after_a_mounted_one(tmp_path, monkeypatch) -> None:
    weights, mounted = tmp_path / "weights", tmp_path / "mounted"
    monkeypatch.setattr(module, "WEIGHTS", weights)
    bundle_at(weights / "third")
    monkeypatch.setenv("LESION_DEFAULT_WEIGHTS", "third eoa")
    assert find_bundle(None, None, mounted) == weights / "third"
    with pytest.raises(WeightsError, match="diwa'; .* one of the names third"):
        find_bundle(None, "diwa", mounted)
    bundle_at(mounted)
    assert find_bundle(None, None, mounted) == mounted
    monkeypatch.setenv("LESION_DEFAULT_WEIGHTS", "")
    with pytest.raises(WeightsError, match="one of the names third"):
        find_bundle(None, None, tmp_path / "absent")


def test_a_name_is_found_under_the_working_folders_weights_too_and_a_shipped_one_first(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path / "software" / "weights")
    bundle_at(tmp_path / "software" / "weights" / "eoa")
    for name in ("mine", "eoa"):
        bundle_at(tmp_path / "work" / "weights" / name)
    monkeypatch.chdir(tmp_path / "work")
    assert find_bundle("mine", None).resolve() == tmp_path / "work" / "weights" / "mine"
    assert find_bundle("weights/mine", None).resolve() == tmp_path / "work" / "weights" / "mine"
    assert find_bundle("eoa", None) == tmp_path / "software" / "weights" / "eoa"
    with pytest.raises(WeightsError, match="nor in 'weights/absent'; .*names eoa"):
        find_bundle("absent", None)


def test_a_folder_without_a_manifest_is_named_once_with_the_way_to_a_bundle(tmp_path) -> None:
    with pytest.raises(WeightsError, match="training import") as error:
        find_bundle(str(tmp_path), None)
    assert str(error.value).count(f"'{tmp_path}'") == 1


def test_weights_that_are_not_there_are_an_error_with_the_names_that_are(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(module, "WEIGHTS", tmp_path)
    bundle_at(tmp_path / "eoa")
    with pytest.raises(WeightsError, match="names eoa"):
        find_bundle("absent", None)
