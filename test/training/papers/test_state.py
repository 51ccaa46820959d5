"""A small folder from which training nested goes on elsewhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import SimpleITK as sitk
import torch
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from tiny_settings import tiny_training
from tiny_studies import lesion_study

from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from training import stopping
from training.__main__ import main
from training.data.folds import Fold
from training.data.table import write_table
from training.papers import going_on, nested_data, state
from training.papers.going_on import put_back
from training.papers.state import RUNS, STATE, start_names, write_state
from training.phantom.table import study_name
from training.runs.train import train_run
from training.settings import changed, read_yaml
from training.stopping import StoppedInTime
from training.weights import checkpoint

pytestmark = pytest.mark.slow  # all but two need a trained run
FOLD = Fold(name="0", train=("case0", "case1", "case3"), validate=("case2",))
PHANTOMS = {"train": [11], "validate": [100008, 100009], "test": [200402]}
WHERE = ("compute.torchrun", "ensembles.processes", "ensembles.sweep", "stopping")  # that ask whether the time is over


def stop_when(monkeypatch, condition) -> None:
    for where in WHERE:
        monkeypatch.setattr(f"training.{where}.time_is_over", condition)


@pytest.fixture(scope="module")
def pieces(tiny_cache, tmp_path_factory) -> Path:
    """A nested folder with a finished base run and a member that stopped after five of its six steps, and its state."""
    folder = tmp_path_factory.mktemp("pieces")
    base, member = tiny_training(), changed(tiny_training(seed=3), MEMBER)
    train_run(folder / "run/all/base", base, tiny_cache, FOLD, wanted="cpu")
    with pytest.MonkeyPatch.context() as stopped:
        over = iter([False] * 4 + [True])
        stopped.setattr("training.compute.torchrun.time_is_over", lambda: next(over))
        with pytest.raises(StoppedInTime, match="is at step 13 of 14"):
            run = folder / "run/all/members/m"
            train_run(run, member, tiny_cache, FOLD, start=folder / "run/all/base", wanted="cpu")
    assert "all/base (finished" in write_state(folder / "run", folder / "state")
    return folder


MEMBER = {"schedule": {"epochs": 7}, "averaging": {"start": 4, "length_epochs": 1}}


def planned(**changes):
    member = changed(tiny_training(seed=3), MEMBER)
    return {"all/base": (changed(tiny_training(), changes), FOLD), "all/members/m": (member, FOLD)}


def test_a_begun_member_goes_on_from_float16_with_its_average(pieces, tiny_cache, tmp_path) -> None:
    """Weights and mean are those of its checkpoint rounded to float16, so within 2^-11 of each; two epochs are
    averaged, with theta_0 three terms. It begins with the rounded base run's hash and warms up again, and says so.
    """
    assert put_back(pieces / "state", tmp_path, planned(), tiny_cache) == ["all/base", "all/members/m"]
    before = checkpoint.read_state(pieces / "run/all/members/m/checkpoint.pt")
    after = checkpoint.read_state(tmp_path / "all/members/m/checkpoint.pt")
    assert after["step"] == before["step"] == 13 and after["average"]["terms"] == before["average"]["terms"] == 3
    assert after["seconds"] == before["seconds"] and not after["optimizer"]
    for one, other in ((before["network"], after["network"]), (before["average"]["mean"], after["average"]["mean"])):
        for name in one:
            torch.testing.assert_close(other[name], one[name], rtol=2**-11, atol=2**-24)
    member, base = planned()["all/members/m"][0], tmp_path / "all/base"
    result = train_run(tmp_path / "all/members/m", member, tiny_cache, FOLD, start=base, wanted="cpu")
    finished = checkpoint.read_json(base / "run.json")
    assert result["terms"] == 4 and result["start"]["sha256"] == finished["sha256"] == sha256_of(
        base / "last.safetensors"
    )
    assert result["restarts"] == [{"step": 13, "warmup_steps": 50, "share": 0.1, "weights": "float16"}]
    assert "float16" in finished["rounded"]
    assert finished["sha256_before"] == sha256_of(pieces / "run/all/base/last.safetensors")
    assert result["seconds"]["compute"] >= round(before["seconds"]["compute"], 1)


def test_who_trained_a_run_survives(pieces, tiny_cache, tmp_path) -> None:
    put_back(pieces / "state", tmp_path, planned(), tiny_cache)
    for name in planned():
        one, other = (read_yaml(folder / name / "config.yaml") for folder in (pieces / "run", tmp_path))
        assert other["seen"] == one["seen"] and other["seen"]["cases"] == ["case0", "case1", "case3"]
    assert str(pieces) not in "".join(file.read_text() for file in (pieces / "state").rglob("*.yaml"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"optimizer": {"rate": 0.5}}, r"run all/base is of other settings.optimizer.rate than the plan has"),
        ("fold", "is of other studies (their sha256), cases to train"),
        ("missing", "run all/base: the plan has no such run"),
    ],
)
def test_a_state_of_another_plan_or_other_studies_is_refused(change, message, pieces, tiny_cache, tmp_path) -> None:
    runs = planned(**change) if isinstance(change, dict) else planned()
    if change == "fold":
        runs = {name: (settings, Fold(name="0", train=("case1",), validate=("case2",))) for name, (settings, _) in
                runs.items()}  # fmt: skip
    if change == "missing":
        del runs["all/base"]
    with pytest.raises(ConfigError) as error:
        put_back(pieces / "state", tmp_path, runs, tiny_cache)
    assert message in str(error.value) and not list(tmp_path.iterdir())


def test_a_damaged_state_is_refused_and_a_run_folder_with_runs_keeps_them(pieces, tiny_cache, tmp_path, capsys) -> None:
    shutil.copytree(pieces / "state", tmp_path / "state")
    weights = tmp_path / "state" / RUNS / "all/base/last.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    with pytest.raises(WeightsError, match="is not the file that the state"):
        put_back(tmp_path / "state", tmp_path / "run", planned(), tiny_cache)
    content = json.loads((pieces / "state" / RUNS / STATE).read_text())
    content["runs"]["../../outside"] = content["runs"]["all/base"]
    (tmp_path / "state" / RUNS / STATE).write_text(json.dumps(content))
    with pytest.raises(ConfigError, match="'../../outside', which is no folder below it"):
        put_back(tmp_path / "state", tmp_path / "run", planned(), tiny_cache)
    assert put_back(pieces / "state", pieces / "run", planned(), tiny_cache) == []
    assert "holds runs already" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="holds no state"):
        put_back(ROOT / "training" / "start", tmp_path / "run", planned(), tiny_cache)


def test_a_state_that_is_too_large_names_the_sizes_and_fits_by_leaving_out_the_cheapest(pieces, tmp_path) -> None:
    """A run that lies in the folder itself counts. Without its base run a member is of no use, so it goes, too."""
    sizes = {run.name: run.size for run in state.kept_runs(pieces / "run")}
    (tmp_path / "last.safetensors").write_bytes(bytes(1000))
    enough = (sizes["all/base"] + 1000 + 2500) / 1e6  # 2500 for state.json
    with pytest.raises(ConfigError, match=r"--most-mb is .*all/base 0.0. MB, all/members/m .*, other files .* 0.00 MB"):
        write_state(pieces / "run", tmp_path, enough)
    text = write_state(pieces / "run", tmp_path, enough, fit=True)
    assert text.endswith("to be trained again: all/members/m") and (tmp_path / "last.safetensors").exists()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) <= 1e6 * enough
    with pytest.raises(ConfigError, match="--most-mb must be above 0, got nan"):
        write_state(pieces / "run", tmp_path, float("nan"))
    assert write_state(pieces / "run", tmp_path, 0.001, fit=True).endswith("again: all/base, all/members/m")


def test_a_kill_while_a_state_is_put_back_loses_no_run(pieces, tiny_cache, tmp_path, monkeypatch) -> None:
    """The second run's folder cannot be written; the same command again puts it back, too."""
    whole = going_on.put_run_back

    def first_alone(kept: Path, run: Path) -> None:
        if run.name == "m":
            raise KeyboardInterrupt
        whole(kept, run)

    monkeypatch.setattr(going_on, "put_run_back", first_alone)
    with pytest.raises(KeyboardInterrupt):
        put_back(pieces / "state", tmp_path, planned(), tiny_cache)
    assert (tmp_path / "all/base/run.json").exists()
    monkeypatch.setattr(going_on, "put_run_back", whole)
    assert put_back(pieces / "state", tmp_path, planned(), tiny_cache) == ["all/base", "all/members/m"]
    assert (tmp_path / "all/members/m/checkpoint.pt").exists()
    assert put_back(pieces / "state", tmp_path, planned(), tiny_cache) == []


@pytest.mark.parametrize("further", ["all/members/m", "all/base", "outer-0/scored.json"])
def test_a_state_that_is_further_than_the_runs_is_not_written_over(further, pieces, tiny_cache, tmp_path) -> None:
    shutil.copytree(pieces / "run", tmp_path / "run")
    shutil.copytree(pieces / "state", tmp_path / "state")
    path = tmp_path / "state" / RUNS / STATE
    content = json.loads(path.read_text())
    if further == "all/members/m":
        content["runs"][further]["step"] = 14  # the folder's is at step 13
    elif further == "all/base":
        (tmp_path / "run/all/base/run.json").unlink()
    else:
        content["records"][further] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(ConfigError, match=rf"is further than .* \({further}\), and would be written over"):
        put_back(tmp_path / "state", tmp_path / "run", planned(), tiny_cache)


@pytest.mark.parametrize("content", [{}, {"runs": [], "records": {}}, {"runs": {"a": {}}, "records": {}}])
def test_a_state_that_does_not_say_what_it_holds_is_refused(content, tiny_cache, tmp_path) -> None:
    (tmp_path / "state" / RUNS).mkdir(parents=True)
    (tmp_path / "state" / RUNS / STATE).write_text(json.dumps({"format": 1} | content))
    with pytest.raises(ConfigError, match="is damaged: it does not say what it holds"):
        put_back(tmp_path / "state", tmp_path / "run", planned(), tiny_cache)


def test_writing_a_state_of_what_was_put_back_changes_no_weight(pieces, tiny_cache, tmp_path) -> None:
    put_back(pieces / "state", tmp_path / "run", planned(), tiny_cache)
    write_state(tmp_path / "run", tmp_path / "state")
    for path in (pieces / "state").rglob("*.safetensors"):
        assert sha256_of(path) == sha256_of(tmp_path / "state" / path.relative_to(pieces / "state"))


def test_of_runs_on_phantoms_the_last_finished_and_a_begun_one_are_kept(tmp_path) -> None:
    before = None
    for name in ("one", "two", "three"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text("{}")
        if name != "three":
            (tmp_path / name / "w").write_text(name)
            result = {"result": "w", "sha256": sha256_of(tmp_path / name / "w"), "epoch": 1, "start": before}
            checkpoint.write_json(tmp_path / name / "run.json", result)
            before = {"run": name, "sha256": result["sha256"]}
    assert start_names(tmp_path) == ["two", "three"]


def test_numbers_beyond_float16_stay_in_float32() -> None:
    """65504 is the largest number of float16; whole numbers stay what they are."""
    assert checkpoint.in_float16(torch.tensor([65504.0])).dtype == torch.float16
    assert (
        checkpoint.in_float16(torch.tensor([70000.0])).dtype == torch.float32
        and checkpoint.in_float16(torch.tensor([3])).dtype == torch.int64
    )


@pytest.fixture
def elsewhere(tmp_path, monkeypatch):
    """elsewhere(n, *words): training nested --all in a fresh folder n, from the state if there is one."""
    real = tmp_path / "real"
    for seed in range(4):
        study = lesion_study(tmp_path / "made", seed)
        folder = real / f"P{seed}"
        folder.mkdir(parents=True)
        for name, path in (("SUV", study.pet), ("CTres", study.ct), ("SEG", study.truth)):
            sitk.WriteImage(sitk.ReadImage(str(path)), str(folder / f"{name}.nii.gz"))
    plan = read_yaml(ROOT / "training/configs/smoke-nested.yaml")
    small = {"size": [16, 16, 16]}
    plan["plan"]["settings"] |= {"window": small, "crops": small, "network": {"fusion": "middle", "widths": [2, 2, 4]}}
    plan["plan"]["settings"]["schedule"] = {"epochs": 3, "stop": 2, "steps_per_epoch": 2, "warmup_epochs": 0}
    plan["starts"] = {"start": {"schedule": {"epochs": 2, "stop": None}}}
    (tmp_path / "plan.yaml").write_text(yaml.safe_dump(plan))

    def phantoms(plan, folder, *_):
        names = {part: tuple(study_name(seed, "A") for seed in seeds) for part, seeds in PHANTOMS.items()}
        studies = []
        for number, name in enumerate(name for part in names.values() for name in part):
            study = lesion_study(tmp_path / "made", 10 + number)
            studies.append(replace(study, case=name, patient=f"phantom-{name}"))
        write_table(studies, folder / "phantoms.csv")
        return folder / "phantoms.csv", Fold(name="phantoms", **names)

    def in_this_process(commands, engine):
        for command in commands:
            if stopping.time_is_over():
                return
            yield command.name, None if main(list(command.words[3:])) == 0 else "it failed"

    monkeypatch.setattr(nested_data, "make_phantoms", phantoms)
    monkeypatch.setattr("training.ensembles.sweep.run_commands", in_this_process)

    def go(number: int, *words: str) -> Path:
        run = tmp_path / f"machine-{number}" / "run"
        run.parent.mkdir()
        options = {"real": real, "plan": tmp_path / "plan.yaml", "run": run, "state": tmp_path / "state"}
        options |= {"output": tmp_path / "weights", "outer": 2, "validation": 0.5, "workers": 1, "device": "cpu"}
        flat = [str(word) for name, value in options.items() for word in (f"--{name}", value)]
        assert main(["nested", *flat, "--all", *words]) == 0
        return run

    return go


def test_three_pieces_on_three_machines_end_with_all_bundles(elsewhere, tmp_path, monkeypatch, capsys) -> None:
    """The first stops in the base run, the second after the first member; each machine knows the state alone."""
    run = tmp_path / "machine-1/run"
    base = run / "all/base/log.jsonl"
    stop_when(monkeypatch, lambda: base.exists() and len(base.read_text().splitlines()) == 1)
    elsewhere(1)
    said = capsys.readouterr().out
    assert "all/base (step 3 of 4" in said and "outer-1/scores" in said and "stopped in time" in said
    first = tmp_path / "machine-2/run/all/members/adamp-paper/run.json"
    stop_when(monkeypatch, first.exists)
    elsewhere(2)
    said = capsys.readouterr().out
    assert "done: start (" in said and "all/members/adamp-paper (" in said.split("missing:")[0].rsplit("done:")[1]
    stop_when(monkeypatch, lambda: False)
    run = elsewhere(3)
    assert "missing: nothing" in capsys.readouterr().out
    for name in ("eoa", "diwa"):
        manifest = json.loads((tmp_path / "weights" / name / "manifest.json").read_text())
        assert manifest["provenance"]["scores"]["hours_trained"] >= 0
    config = read_yaml(run / "all/base/config.yaml")
    assert config["restarts"][0]["step"] == 3 and "P0" in "".join(config["seen"]["cases"])
    assert (run / "eoa-outer-folds.csv").exists() and (run / "outer-1/scored.json").exists()
    kept = json.loads((tmp_path / "state" / RUNS / STATE).read_text())
    assert set(kept["runs"]) == {"start"} and "outer-0/eoa.csv" in kept["records"]
    again = elsewhere(4)  # all is done: nothing is trained, and the summary is there
    assert not (again / "all/base").exists() and (again / "eoa-outer-folds.csv").exists()
    assert (again / "eoa-outer-folds.csv").read_text() == (run / "eoa-outer-folds.csv").read_text()
    assert load_file(tmp_path / "weights/diwa/soup.safetensors")
