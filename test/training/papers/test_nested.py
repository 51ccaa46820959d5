import argparse
import fcntl
import re
import shlex
import threading
from dataclasses import replace

import pytest
from conftest import ROOT
from msgspec import structs
from tiny_studies import lesion_study

from model.errors import ConfigError
from model.schema import build
from model.whole import locked
from training.__main__ import main
from training.bundles.export import ExportOptions
from training.command import parse
from training.data.folds import Fold, read_fold
from training.papers import nested, nested_data, nested_folds, nested_scores, nested_shipping
from training.papers.nested_data import NestedData, blend_tumours
from training.papers.nested_folds import fold_of
from training.papers.nested_progress import hours_of, report_lines
from training.papers.shipping import Shipping
from training.phantom.table import study_name
from training.settings import read_yaml, settings_from
from training.stopping import StoppedInTime
from training.weights.checkpoint import write_json

CONFIGS = ROOT / "training" / "configs"


@pytest.fixture(
    scope="module",
    params=["shipped.yaml", "slices.yaml", "start.yaml", "pet.yaml"],
)
def shipping(request) -> Shipping:
    return build(Shipping, read_yaml(CONFIGS / request.param), request.param)


def test_each_run_on_phantoms_goes_on_from_the_one_before(shipping, tmp_path, monkeypatch) -> None:
    """As long as its own schedule; a plan without such runs has nothing to go on from."""
    runs: list[tuple[str, str | None]] = []
    monkeypatch.setattr(nested_folds, "train_run", lambda folder, *_, start, **__: runs.append((folder, start)))
    data = NestedData(
        studies={}, phantoms=Fold(name="p", train=(), validate=(), test=()), originals={}, copies={}, cache=tmp_path
    )
    options = argparse.Namespace(run=tmp_path, device="cpu")
    two = structs.replace(shipping, starts={"one": {"schedule": {"epochs": 7}}, "two": {"schedule": {"epochs": 9}}})
    assert nested_folds.train_start(two, data, options) == tmp_path / "two"
    assert runs == [(tmp_path / "one", None), (tmp_path / "two", tmp_path / "one")]
    schedules = [settings.schedule for settings in two.start_settings().values()]
    assert [(s.epochs, s.stop) for s in schedules] == [(7, None), (9, None)]
    assert nested_folds.train_start(structs.replace(two, starts={}), data, options) is None and len(runs) == 2


def test_a_fold_trains_and_is_scored_on_cut_copies(tmp_path) -> None:
    studies = [lesion_study(tmp_path, seed) for seed in range(3)]
    copies = {s.patient: [f"{s.case}-r0", f"{s.case}-r1"] for s in studies}
    data = NestedData(
        studies={s.case: s for s in studies} | {c: replace(s, case=c) for s in studies for c in copies[s.patient]},
        phantoms=Fold(name="p", train=("A0",), validate=("A1",), test=("A2",)),
        copies=copies,
        originals={s.patient: [s.case] for s in studies},
        cache=tmp_path,
    )
    fold = fold_of("f", {"patient0"}, {"patient1"}, {"patient2"}, data)
    assert fold.train == ("A0", "case0-r0", "case0-r1")
    assert fold.validate == ("case1-r0", "case1-r1", "A1") and fold.test == ("case2-r0", "case2-r1")
    whole = fold_of("f", {"patient0"}, {"patient1"}, {"patient2"}, data, originals=True)
    assert whole.train == (*fold.train, "case0") and whole.validate == fold.validate and whole.test == fold.test


def test_blended_tumours_train_and_never_validate_or_test(tmp_path) -> None:
    studies = [lesion_study(tmp_path, seed) for seed in range(3)]
    data = NestedData(
        studies={s.case: s for s in studies},
        phantoms=Fold(name="p", train=("A0",), validate=("A1",), test=("A2",)),
        copies={s.patient: [f"{s.case}-r0"] for s in studies},
        originals={s.patient: [s.case] for s in studies},
        blended={s.patient: [f"{s.case}-b0"] for s in studies},
        cache=tmp_path,
    )
    fold = fold_of("f", {"patient0"}, {"patient1"}, {"patient2"}, data)
    assert fold.train == ("A0", "case0-r0", "case0-b0")
    assert fold.validate == ("case1-r0", "A1") and fold.test == ("case2-r0",)


def test_blended_needs_a_number_and_phantoms_that_train(shipping, tmp_path) -> None:
    with pytest.raises(ConfigError, match=r"blended must be 0 \(none\) or more, got -1"):
        structs.replace(shipping, blended=-1)
    with pytest.raises(ConfigError, match="the plan has no phantoms to train"):
        blend_tumours(structs.replace(shipping, blended=1), [], tmp_path, 1)


def test_shipped_seeds_keep_to_their_ranges_and_f_is_never_seen(shipping) -> None:
    phantoms = shipping.plan.phantoms
    assert all(first + count <= 100_000 for first, count in phantoms["train"].values())
    assert all(100_000 <= first and first + count <= 200_000 for first, count in phantoms["validate"].values())
    assert all(200_000 <= first for first, _ in phantoms["test"].values())
    assert "F" in phantoms["test"] and "F" not in {*phantoms["train"], *phantoms["validate"]}


def test_no_copy_and_no_choice_are_refused(shipping) -> None:
    with pytest.raises(ConfigError, match="copies must be 1 or more, got 0"):
        structs.replace(shipping, copies=0)
    with pytest.raises(ConfigError, match="bundles must name choices out of WA best, EoA uniform"):
        structs.replace(shipping, bundles={"eoa": "EoA"})


def test_both_kinds_are_trained_and_tested_on_the_same_studies() -> None:
    volumes, slices = (build(Shipping, read_yaml(CONFIGS / name), name) for name in ("start.yaml", "slices.yaml"))
    assert volumes.plan.phantoms == slices.plan.phantoms and volumes.plan.crop == slices.plan.crop
    assert (volumes.copies, volumes.seed) == (slices.copies, slices.seed)
    assert (volumes.plan.base.network.kind, slices.plan.base.network.kind) == ("volumes", "slices")


def test_studies_from_another_source_are_not_used_again(tmp_path) -> None:
    source = {"root": "/data/one", "copies": 2}
    for _ in range(2):
        nested_data.check_same_source(tmp_path / "real.json", source)
    with pytest.raises(ConfigError, match="give another --run"):
        nested_data.check_same_source(tmp_path / "real.json", source | {"copies": 3})


def test_the_kept_start_is_the_last_run_on_phantoms_of_the_plan() -> None:
    shipping = build(Shipping, read_yaml(CONFIGS / "start.yaml"), "start.yaml")
    kept = read_yaml(CONFIGS.parent / "start" / "config.yaml")
    assert settings_from(kept["settings"]) == list(shipping.start_settings().values())[-1]
    named = {
        study_name(seed, site)
        for site, (first, count) in shipping.plan.phantoms["train"].items()
        for seed in range(first, first + count)
    }
    assert set(kept["train"]) == named and kept["start"]["run"] == list(shipping.starts)[-2]


def test_a_bundle_says_whose_data_it_was_trained_on(shipping, tmp_path, monkeypatch) -> None:
    """The words of --data and --licence, after the number of patients; nothing of them without."""
    study = lesion_study(tmp_path, 0)
    two = {f"patient{n}": [f"case{n}"] for n in range(2)}
    data = NestedData(
        studies={c: replace(study, case=c, patient=p) for p, (c,) in two.items()},
        originals=two,
        copies=two,
        phantoms=Fold(name="p", train=("A0",), validate=(), test=()),
        cache=tmp_path,
    )
    monkeypatch.setattr(nested_shipping, "train_and_select", lambda *_: ([], dict.fromkeys(shipping.bundles)))
    monkeypatch.setattr(nested_scores, "score", lambda *_: dict.fromkeys(shipping.bundles))
    monkeypatch.setattr(nested_scores, "report", lambda *_: None)
    exported: list[ExportOptions] = []
    monkeypatch.setattr(nested_shipping, "export", exported.append)
    monkeypatch.setattr(nested_shipping, "key_of_fold", lambda *_: "this plan")
    words = ["--real", "r", "--run", str(tmp_path), "--ship", "--validation", "0.5", "--output", str(tmp_path)]
    nested_shipping.ship(shipping, data, tmp_path, parse("nested", nested, words))
    nested_shipping.ship(
        shipping, data, tmp_path, parse("nested", nested, [*words, "--data", "of Mars", "--licence", "MIT"])
    )
    first, last = exported[0], exported[-1]
    assert first.data.startswith("2 patients, some of them") and first.licence == "unknown"
    assert last.data.startswith("2 patients (of Mars), some of them") and last.licence == "MIT"
    options = parse("nested", nested, words)
    assert nested_shipping.is_written(shipping, data, options)
    monkeypatch.setattr(nested_shipping, "key_of_fold", lambda *_: "another plan")
    assert not nested_shipping.is_written(shipping, data, options)  # so --all does not take the old plan's bundles


def test_one_outer_fold_alone_is_done_and_not_summed_up(shipping, tmp_path, monkeypatch) -> None:
    names = [f"patient{n}" for n in range(9)]
    study = lesion_study(tmp_path, 0)
    data = NestedData(
        studies={n: replace(study, case=n, patient=n) for n in names},
        originals={n: [n] for n in names},
        copies={n: [n] for n in names},
        phantoms=Fold(name="p", train=(), validate=(), test=()),
        cache=tmp_path,
    )
    done: list[tuple[str, tuple[str, ...]]] = []
    titles: list[str] = []
    monkeypatch.setattr(
        nested_scores, "train_and_select", lambda *args: done.append((args[2].name, args[2].test)) or ([], {})
    )
    monkeypatch.setattr(nested_scores, "score", lambda *_: {name: [] for name in shipping.bundles})
    monkeypatch.setattr(nested_scores, "key_of_fold", lambda *_: "of its studies, which are not prepared here")
    monkeypatch.setattr(nested_scores, "report", lambda scores, path, title: titles.append(title))
    monkeypatch.setattr(nested_scores, "report_phantoms", lambda *_: None)
    words = ["--real", "r", "--run", str(tmp_path)]
    nested_scores.score_outer_folds(shipping, data, tmp_path, parse("nested", nested, [*words, "--fold", "1"]))
    assert [name for name, _ in done] == ["outer-1"] and not any("all 3 outer folds" in title for title in titles)
    nested_scores.score_outer_folds(shipping, data, tmp_path, parse("nested", nested, words))
    assert sorted(case for _, test in done[1:] for case in test) == names and "all 3 outer folds" in titles[-1]
    for name in shipping.bundles:
        (tmp_path / f"outer-0/{name}.csv").write_text("")
    found: list[bool] = []
    monkeypatch.setattr(nested_scores, "read_rows", lambda *_: [])
    monkeypatch.setattr(nested_scores, "run_side_by_side", lambda *args: found.append(args[-1]("outer-0")))
    side_by_side = parse("nested", nested, [*words, "--parallel", "2"])
    nested_scores.score_outer_folds(shipping, data, tmp_path, side_by_side)
    one, test = done[1]  # was not trained again, and training baselines gets its split
    assert one == "outer-0" and read_fold(tmp_path / "outer-0/split.json", one).test == test
    monkeypatch.setattr(nested_scores, "key_of_fold", lambda *_: "of another plan: its scores are made anew")
    nested_scores.score_outer_folds(shipping, data, tmp_path, side_by_side)
    assert found == [True, False]


def test_scores_from_another_start_are_not_those_of_this_one(shipping, tmp_path) -> None:
    """A record without a start is an earlier version's: it counts as one of the same start."""
    for name in shipping.bundles:
        (tmp_path / f"{name}.csv").touch()
    for run, sha256 in (("a", "1" * 64), ("b", "2" * 64)):
        (tmp_path / run).mkdir()
        write_json(tmp_path / run / "run.json", {"result": "last.safetensors", "sha256": sha256, "epoch": 1})
    words = ["--real", "r", "--run", str(tmp_path)]
    random, planned = (structs.replace(shipping, starts=starts) for starts in ({}, {"s": {"schedule": {"epochs": 7}}}))
    longer = structs.replace(shipping, starts={"s": {"schedule": {"epochs": 8}}})
    options = [parse("nested", nested, [*words, *more]) for more in ([], ["--start", str(tmp_path / "a")])]
    options.append(parse("nested", nested, [*words, "--start", str(tmp_path / "b")]))
    pairs = [(random, options[0]), (planned, options[0]), (longer, options[0]), (random, options[1])]
    keys = [nested_scores.start_key(*pair) for pair in (*pairs, (random, options[2]))]
    assert keys[0] is None and keys[3:] == ["1" * 64, "2" * 64] and len(set(keys)) == 5
    for written in keys:
        write_json(tmp_path / "scored.json", {"key": "k", "start": written, "views": False})
        found = [nested_scores.is_scored(tmp_path, {"key": "k", "start": key}, shipping, options[0]) for key in keys]
        assert found == [key == written for key in keys]
    write_json(tmp_path / "scored.json", {"key": "k", "views": False})
    assert all(nested_scores.is_scored(tmp_path, {"key": "k", "start": key}, shipping, options[0]) for key in keys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--fold", "3"], "--fold must be from 0 to 2, got 3"),
        (["--outer", "1"], "--outer must be 2 or more, got 1"),
        (["--validation", "1"], "--validation must be a share in (0, 1), got 1"),
        (["--fold", "0", "--only", "summary"], "--only is a part of the whole procedure"),
        (["--parallel", "0"], "--parallel must be from 1 to 1000, got 0"),
        (["--workers", "0"], "--workers must be at least 1, got 0"),
        ([], "--real 'r' is no folder; give the folder of a data set"),
        (["--real", ".", "--start", "none"], "'none' holds no finished run"),
    ],
)
def test_wrong_numbers_are_refused_before_anything_is_made(words, message, tmp_path, capsys) -> None:
    assert main(["nested", "--real", "r", "--run", str(tmp_path / "run"), *words]) == ConfigError.exit_code
    assert message in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "run").exists()


@pytest.mark.parametrize("words", [["--ship"], ["--ship", "--output", "w", "--fold", "0"], ["--output", "w"]])
def test_bundles_are_written_only_where_that_is_asked_for(words: list[str], capsys) -> None:
    assert main(["nested", "--real", "r", "--run", "x", *words]) == ConfigError.exit_code
    assert "--output" in capsys.readouterr().err.splitlines()[-1]


def test_a_fold_waits_while_another_makes_what_both_share(tmp_path, monkeypatch) -> None:
    made = threading.Event()
    monkeypatch.setattr(nested, "data_of", lambda *_: made.set())
    monkeypatch.setattr(nested, "score_outer_folds", lambda *_: None)
    monkeypatch.setattr(nested, "check_places", lambda *_: None)
    words = ["nested", "--real", "r", "--run", str(tmp_path), "--start", "s", "--fold", "0"]
    with locked(tmp_path, fcntl.LOCK_EX):
        other = threading.Thread(target=main, args=(words,))
        other.start()
        assert not made.wait(0.5)
    assert made.wait(30)
    other.join()


def test_what_ships_comes_before_the_outer_folds_and_the_rest_is_named(tmp_path, monkeypatch, capsys) -> None:
    """--all, stopped in the first outer fold: done is what is there, and everything else stands under missing."""
    done: list[str] = []

    def folds(*_) -> None:
        done.append("folds")
        raise StoppedInTime("stopped in time: step 3 of 8")

    monkeypatch.setattr(nested, "data_of", lambda *_: None)
    monkeypatch.setattr(nested, "ship", lambda *_: done.append("ship"))
    monkeypatch.setattr(nested, "score_outer_folds", folds)
    monkeypatch.setattr(nested, "check_places", lambda *_: None)
    (tmp_path / "all").mkdir()
    words = ["--real", "r", "--run", str(tmp_path), "--start", "s", "--output", str(tmp_path / "w"), "--outer", "2"]
    assert main(["nested", "--all", *words]) == 0 and done == ["ship", "folds"]
    out = capsys.readouterr().out.splitlines()
    assert out[0] == "done: nothing" and out[-1] == "stopped in time: step 3 of 8"
    runs = ["base", "members/adamw-weak", "members/adamw-paper", "members/adamp-weak", "selection"]
    wanted = [
        f"{fold}/{run}"
        for fold in ("all", "outer-0", "outer-1")
        for run in [*runs, "bundles" if fold == "all" else "scores"]
    ]
    assert out[1] == f"missing: {', '.join(wanted)}"


def test_a_part_that_is_done_is_named_with_its_hours(tmp_path, capsys) -> None:
    shipping = build(Shipping, read_yaml(CONFIGS / "shipped.yaml"), "plan")
    (tmp_path / "all").mkdir()
    write_json(tmp_path / "all/written.json", {"hours": 0.25})
    first, second = report_lines(shipping, tmp_path, 2)
    assert first == "done: all (0.250 h)" and second.startswith("missing: outer-0/base, outer-0/members/adamw-weak")


def test_the_hours_of_a_base_run_count_when_its_weights_are_gone(tmp_path) -> None:
    shipping = build(Shipping, read_yaml(CONFIGS / "shipped.yaml"), "plan")
    base = tmp_path / "all/base"
    base.mkdir(parents=True)
    (base / "config.yaml").write_text("settings: {}\n")
    write_json(
        base / "run.json",
        {"result": "last.safetensors", "sha256": "", "epoch": 60, "seconds": {"data": 900, "compute": 900}},
    )
    assert hours_of(shipping, tmp_path, "all") == 0.5
    assert "all/base (0.500 h)" not in report_lines(shipping, tmp_path, 1)[0]  # it is not done


def test_a_fold_of_its_own_works_on_the_same_studies_plan_and_folder(tmp_path, monkeypatch) -> None:
    """The words of an outer fold's command read back as the options that all folds were given, from any folder."""
    monkeypatch.chdir(tmp_path)
    words = ["--pack", "p.pack", "--run", "r", "--outer", "4", "--validation", "0.3", "--views", "--device", "cpu"]
    given = parse(
        "nested", nested, [*words, "--plan", "plan.yaml", "--parallel", "3", "--minutes", "5", "--state", "s"]
    )
    found = parse("nested", nested, nested_folds.fold_words(given, 2)[1:])
    assert (found.fold, found.outer, found.validation, found.views, found.device) == (2, 4, 0.3, True, "cpu")
    assert found.pack == tmp_path / "p.pack" and found.run == tmp_path / "r" and found.plan == tmp_path / "plan.yaml"
    assert (found.real, found.parallel, found.minutes, found.state) == (None, 1, None, None)


@pytest.mark.parametrize("page", ["docs/gpu.md", "docs/cluster.md", "training/README.md", "weights/README.md"])
def test_the_commands_in_the_pages_are_commands(page) -> None:
    lines = re.findall(r"^python -m training nested (.*)", (ROOT / page).read_text(), re.M)
    assert lines
    for line in lines:
        nested.check(parse("nested", nested, shlex.split(line)))
