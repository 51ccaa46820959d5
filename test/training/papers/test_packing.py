"""The studies of training nested in one file: on another machine they are the same, and the rest is made there."""

import argparse
import csv
import shutil
from pathlib import Path

import pytest
import SimpleITK as sitk
import yaml
from conftest import ROOT
from tiny_studies import lesion_study

from model.errors import ConfigError
from model.schema import build
from training.__main__ import main
from training.command import parse
from training.data.pack import read_pack
from training.data.prepared import load
from training.papers import nested, plan_phantoms
from training.papers.nested_data import data_of
from training.papers.nested_folds import shipped_fold
from training.papers.nested_shipping import case_to_check
from training.papers.packing import phantoms_to_pack
from training.papers.plan_phantoms import phantom_fold, stretches
from training.papers.shipping import Shipping
from training.phantom.table import COLUMNS, study_name
from training.settings import read_yaml


@pytest.fixture(autouse=True)
def generator(tmp_path, monkeypatch) -> list[str]:
    """A stand-in for the generator of phantoms; the names of those that it made."""
    made: list[str] = []

    def run(options: argparse.Namespace) -> None:
        options.output.mkdir(parents=True, exist_ok=True)
        for seed in range(options.seed, options.seed + options.count):
            name = study_name(seed, options.site)
            if name not in made:
                made.append(name)
            if (options.output / f"case{seed}-pet.mha").exists():
                continue
            study = lesion_study(options.output, seed)
            values = (name, f"phantom-{seed}", "lymphoma", "FDG", options.site)
            table, files = options.output / "studies.csv", (study.pet.name, study.ct.name, study.truth.name)
            rows = list(csv.reader(table.open())) if table.exists() else [COLUMNS]
            csv.writer(table.open("w", newline="")).writerows([*rows, (*values, *files)])

    monkeypatch.setattr(plan_phantoms.phantoms_command, "run", run)
    return made


@pytest.fixture
def plan(tmp_path) -> Path:
    """A plan of seven phantoms; of the real studies there are three."""
    content = read_yaml(ROOT / "training/configs/smoke-nested.yaml")
    content["plan"]["phantoms"] = {"train": {"A": [10, 4]}, "validate": {"A": [100008, 2]}, "test": {"A": [200402, 1]}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(content))
    for seed in range(3):
        study, folder = lesion_study(tmp_path / "made", seed), tmp_path / f"real/P{seed}"
        folder.mkdir(parents=True)
        for name, path in (("SUV", study.pet), ("CTres", study.ct), ("SEG", study.truth)):
            sitk.WriteImage(sitk.ReadImage(str(path)), str(folder / f"{name}.nii.gz"))
    return tmp_path / "plan.yaml"


def made_data(plan: Path, run: Path, *words: str):
    run.mkdir()
    more = ["--run", str(run), "--plan", str(plan), "--workers", "1", "--validation", "0.4"]
    options = parse("nested", nested, [*words, *more])
    shipping = build(Shipping, read_yaml(plan), "plan")
    return data_of(shipping, options), shipping, options


@pytest.mark.slow
def test_a_packs_studies_are_the_same_elsewhere_and_what_it_lacks_is_made(plan, generator, tmp_path) -> None:
    """The first phantom to validate, A100008, is left out on purpose: a bundle is checked by its images."""
    before, *_ = made_data(plan, tmp_path / "one", "--real", str(tmp_path / "real"))
    pack = tmp_path / "p.pack"
    assert main(["pack", "--run", str(tmp_path / "one"), "--plan", str(plan), "--output", str(pack)]) == 0
    assert set(read_pack(pack).studies) == set(before.studies) - {"A100008"}
    generator.clear()
    shutil.rmtree(tmp_path / "real")
    after, shipping, options = made_data(plan, tmp_path / "two", "--pack", str(pack))
    assert generator == ["A100008"] and after.phantoms == before.phantoms
    assert (after.originals, after.copies) == (before.originals, before.copies)
    for case in before.studies:
        assert load(after.cache, case).sha256 == load(before.cache, case).sha256
    assert case_to_check(shipped_fold(shipping, after, options), after) == "A100008"
    again = data_of(shipping, options)  # the same command again
    assert again.originals == before.originals and generator == ["A100008"]


@pytest.mark.slow
def test_a_small_pack_leaves_phantoms_out_and_they_are_made(plan, generator, tmp_path, capsys) -> None:
    made_data(plan, tmp_path / "one", "--real", str(tmp_path / "real"))
    words = ["pack", "--run", str(tmp_path / "one"), "--plan", str(plan), "--output"]
    assert main([*words, str(tmp_path / "all.pack")]) == 0
    megabytes = ["--most-mb", str(0.6 * (tmp_path / "all.pack").stat().st_size / 1e6)]
    assert main([*words, str(tmp_path / "few.pack"), *megabytes]) == 0
    assert "3 real studies, 3 made of them" in capsys.readouterr().out
    kept = {case for case, kind in read_pack(tmp_path / "few.pack").kinds.items() if kind == "phantom"}
    generator.clear()
    made_data(plan, tmp_path / "two", "--pack", str(tmp_path / "few.pack"))
    everything = set(phantom_fold(build(Shipping, read_yaml(plan), "plan").plan).train) | {"A100009", "A200402"}
    assert 0 < len(kept) < 6 and set(generator) == everything - kept | {"A100008"}


@pytest.mark.slow
def test_a_pack_of_other_copies_is_refused(plan, tmp_path) -> None:
    made_data(plan, tmp_path / "one", "--real", str(tmp_path / "real"))
    assert main(["pack", "--run", str(tmp_path / "one"), "--plan", str(plan), "--output", str(tmp_path / "p")]) == 0
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(read_yaml(plan) | {"copies": 2}))
    with pytest.raises(ConfigError, match="has copies: 1, the plan has 2; make a pack of this plan's run"):
        made_data(tmp_path / "other.yaml", tmp_path / "two", "--pack", str(tmp_path / "p"))


@pytest.mark.slow
def test_a_run_without_the_plans_phantoms_is_not_packed(plan, tmp_path) -> None:
    before, shipping, _ = made_data(plan, tmp_path / "one", "--real", str(tmp_path / "real"))
    studies = {case: study for case, study in before.studies.items() if case != "A000011"}
    with pytest.raises(ConfigError, match="phantom A000011 of the plan is not in the index"):
        phantoms_to_pack(shipping, studies)


def test_stretches_of_missing_seeds_are_made_in_one_go() -> None:
    assert stretches([True, True, False, True]) == [(0, 2), (3, 4)]
    assert stretches([False, False]) == [] and stretches([True]) == [(0, 1)] and stretches([]) == []


@pytest.mark.parametrize("words", [[], ["--real", "r", "--pack", "p"]])
def test_either_a_data_set_or_a_pack_is_given(words, tmp_path, capsys) -> None:
    assert main(["nested", *words, "--run", str(tmp_path / "run")]) == ConfigError.exit_code
    assert "give --real, a data set, or --pack" in capsys.readouterr().err.splitlines()[-1]
