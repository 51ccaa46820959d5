"""The paper's numbers: the defaults, training/configs/paper.yaml and the table in training/README.md agree."""

import re

import yaml
from conftest import ROOT

from training.batches.schedule import rate_at
from training.papers.plan import read_plan
from training.settings import Averaging, Training, changed, read_settings, settings_to


def table() -> dict[str, object]:
    """Settings and values of the table in training/README.md."""
    page = (ROOT / "training/README.md").read_text()
    rows = re.findall(r"^\| `([a-z_.]+)` \| ([^|]+) \| (?:paper|code|ours)", page, re.M)
    return {name: yaml.safe_load(value) for name, value in rows}


def at(settings: dict, name: str) -> object:
    for key in name.split("."):
        settings = settings[key]
    return settings


def test_the_page_s_table_of_settings_has_the_values_of_the_defaults_and_of_paper_yaml() -> None:
    plan = read_plan(ROOT / "training/configs/paper.yaml")
    member = settings_to(plan.member_settings()["adamp-paper"])
    default = settings_to(Training(averaging=Averaging()))
    assert len(table()) == 32
    for name, value in table().items():
        assert at(default, name) == value, name
        assert at(member, name) == value, name
    for settings in (Training(), plan.base):
        assert settings.batch * settings.accumulate == 8


def test_paper_yaml_differs_from_the_defaults_only_as_it_says() -> None:
    """In how the batch is divided, in t0, and in what only costs time. Its slices are zhong.yaml's."""
    plan = read_plan(ROOT / "training/configs/paper.yaml")
    costs = {"channels_last", "workers"}
    assert differing(plan.base, Training()) == costs | {"batch", "accumulate", "schedule", "validate_every"}
    assert changed(plan.base, {"schedule": {"stop": None}}).schedule == Training().schedule
    assert plan.base.schedule.stop == Averaging().start == 600
    zhong = read_settings(ROOT / "training/configs/zhong.yaml")
    assert differing(changed(plan.base, plan.slices), zhong) == costs


def test_both_averaging_phases_are_presets_of_paper_yaml() -> None:
    """Figure 3: up from t0, then down to a constant. The authors' code: only down."""
    plan = read_plan(ROOT / "training/configs/paper.yaml")
    settings = plan.member_settings()["adamp-paper"]
    authors = changed(settings, {"averaging": {"rates": "authors"}})
    rises, falls = ([rate_at(one, epoch) for epoch in (600, 625, 650, 999)] for one in (settings, authors))
    assert rises[0] < rises[1] == 1e-4 > rises[2] == rises[3] == 5e-5
    assert falls[0] == rises[0] and falls[3] == falls[2] == 5e-5
    assert falls == sorted(falls) or falls == sorted(falls, reverse=True)


def differing(one: Training, other: Training) -> set[str]:
    one, other = settings_to(one), settings_to(other)
    return {name for name in one if one[name] != other[name]}
