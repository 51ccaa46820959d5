from pathlib import Path

import pytest
import yaml
from tiny_settings import tiny_training

from model.errors import ConfigError
from training.ensembles.members import read_members
from training.settings import settings_to

GRID = {"optimizer": ["adamp", "adamw"], "augmentation": ["weak", "paper", "strong"], "averaging": [5e-5, "1e-4"]}


def settings(**changes: object) -> dict:
    return settings_to(tiny_training(averaging={"start": 4, "peak": 1e-3}, **changes))


def written(folder: Path, **data: object) -> Path:
    path = folder / "sweep.yaml"
    path.write_text(yaml.safe_dump({"settings": settings()} | data, sort_keys=False))
    return path


def test_a_grid_is_every_combination_under_a_name_that_says_it(tmp_path) -> None:
    members = read_members(written(tmp_path, grid=GRID))
    assert len(members) == 2 * 3 * 2
    assert list(members)[:3] == ["adamp-weak-5e-5", "adamp-weak-1e-4", "adamp-paper-5e-5"]
    one = members["adamw-strong-1e-4"]
    assert (one.optimizer.name, one.augmentation, one.averaging.constant) == ("adamw", "strong", 1e-4)


def test_a_member_differs_from_the_settings_only_in_what_its_name_says(tmp_path) -> None:
    one = read_members(written(tmp_path, grid=GRID))["adamw-weak-5e-5"]
    expected = settings(augmentation="weak")
    expected["averaging"]["constant"] = 5e-5
    expected["optimizer"]["name"] = "adamw"
    assert settings_to(one) == expected


def test_a_grid_takes_named_changes_and_any_other_setting(tmp_path) -> None:
    members = read_members(
        written(tmp_path, grid={"averaging": {"hot": {"constant": 1e-3, "per_step": True}}, "seed": [1, 2]})
    )
    assert list(members) == ["hot-seed1", "hot-seed2"]
    assert members["hot-seed2"].seed == 2 and members["hot-seed2"].averaging.per_step
    assert members["hot-seed2"].averaging.start == 4


def test_members_may_be_listed(tmp_path) -> None:
    members = read_members(written(tmp_path, members={"plain": None, "wild": {"augmentation": "strong"}}))
    assert {name: one.augmentation for name, one in members.items()} == {"plain": "paper", "wild": "strong"}


def test_settings_may_stand_in_a_file_beside(tmp_path) -> None:
    (tmp_path / "member.yaml").write_text(yaml.safe_dump(settings(seed=77)))
    assert read_members(written(tmp_path, settings="member.yaml", members={"a": {}}))["a"].seed == 77


def test_a_draw_is_a_subset_in_the_grids_order_that_its_seed_decides(tmp_path) -> None:
    everyone = list(read_members(written(tmp_path, grid=GRID)))
    drawn = [list(read_members(written(tmp_path, grid=GRID, draw=5, seed=seed))) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 5
    assert drawn[0] == [name for name in everyone if name in drawn[0]]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "either grid or members"),
        ({"grid": GRID, "members": {"a": {}}}, "either grid or members"),
        ({"gird": GRID}, "unknown keys: gird"),
        ({"members": ["a"]}, "members must be a mapping"),
        ({"grid": {"optimizer": "adamp"}}, "grid must be a mapping of settings to lists"),
        ({"grid": {"optimizer": []}}, "grid must be a mapping of settings to lists"),
        ({"grid": {"optimizer": ["sgd"]}}, "optimizer.name must be one of adamp, adamw, adabelief, got 'sgd'"),
        ({"grid": {"optimiser": ["adamp"]}}, "optimiser"),
        ({"grid": {"optimizer": [{"name": "adamp"}]}}, "give .* a name"),
        ({"grid": {"averaging": [5e-5, 0.00005]}}, "has a value twice"),
        ({"grid": {"optimizer": {"a": {}, "a-b": {}}, "loss": {"b-c": {}, "c": {}}}}, "the same name"),
        ({"grid": GRID, "draw": 13}, "draw must be from 1 to 12"),
        ({"grid": GRID, "draw": 0}, "draw must be from 1 to 12"),
        ({"members": {"../a": {}}}, "cannot be called '../a'"),
        ({"members": {"sweep": {}}}, "cannot be called 'sweep'"),
        ({"members": {"sweep.json": {}}}, "cannot be called 'sweep.json'"),
        ({"members": {"a": {"batch": 0}}}, "a: batch must be a whole number from 1"),
        ({"settings": {"bacth": 1}, "members": {"a": {}}}, "settings has unknown keys: bacth"),
        ({"settings": "none.yaml", "members": {"a": {}}}, "none.yaml"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path, data, message) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        read_members(written(tmp_path, **data))
    assert ".yaml" in str(caught.value)
