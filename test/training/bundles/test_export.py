import json
import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import FOLD, make_run, make_runs, random_state, small_cache, small_studies

from model.bundle.manifest import load_bundle
from model.bundle.settings import Crop, Window
from model.errors import ConfigError, WeightsError
from model.files import sha256_of
from model.networks.weights import main as verify
from model.networks.weights import read_state
from training.__main__ import main
from training.bundles.export import ExportOptions, export
from training.bundles.trained_on import PATIENTS, TRAINED_ON
from training.bundles.write import state_sha256
from training.commit import commit
from training.data.table import read_table, write_table
from training.ensembles.select import select_runs
from training.weights.checkpoint import write_json

WEIGHTS = {"m1": 2, "m3": 1}  # a choice that holds one member twice


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A folder with runs/, the cache, index.csv and selection.json, whose greedy choices are set to WEIGHTS."""
    folder = tmp_path_factory.mktemp("export")
    cache = small_cache(folder)
    write_table(small_studies(folder / "studies"), folder / "index.csv")
    report = select_runs(make_runs(folder / "runs"), cache, FOLD, folder / "margins", device="cpu")
    for method in ("eoa", "diwa"):
        report["choices"][f"{method}_greedy"]["weights"] = WEIGHTS
    write_json(folder / "selection.json", report)
    return folder


def export_bundle(selection: Path, choice: str, name: str, output: Path, **options: object) -> None:
    export(ExportOptions(selection=selection, choice=choice, name=name, output=output, **options))


def run_export(made: Path, output: Path, *more: object) -> int:
    """The exit code of the command, for the greedy choice of EoA."""
    words = ["--choice", "eoa_greedy", "--name", "ours", "--data", "made up", "--licence", "CC0", "--device", "cpu"]
    return main(["export", *map(str, (made / "selection.json", "--output", output, *words, *more))])


def states(made) -> dict:
    return {name: load_file(made / "runs" / name / "mean.safetensors") for name in WEIGHTS}


@pytest.mark.slow
def test_eoa_becomes_a_file_a_member_weighted_by_how_often_it_was_chosen(made, tmp_path) -> None:
    export_bundle(made / "selection.json", "eoa_greedy", "ours", tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    assert {m.file: m.weight for m in bundle.manifest.members} == {"m1.safetensors": 2.0, "m3.safetensors": 1.0}
    assert bundle.manifest.method == "eoa" and bundle.manifest.name == "ours"
    for member in bundle.manifest.members:
        expected = states(made)[member.file.removesuffix(".safetensors")]
        assert all(torch.equal(tensor, expected[name]) for name, tensor in read_state(bundle, member).items())


@pytest.mark.slow
def test_diwa_becomes_the_mean_of_weights(made, tmp_path) -> None:
    export_bundle(made / "selection.json", "diwa_greedy", "ours", tmp_path / "b")
    bundle = load_bundle(tmp_path / "b")
    (member,) = bundle.manifest.members
    assert (member.file, member.weight, bundle.manifest.method) == ("soup.safetensors", 1.0, "diwa")
    one, three = states(made)["m1"], states(made)["m3"]
    for name, tensor in read_state(bundle, member).items():
        expected = (2 * one[name].numpy().astype(np.float64) + three[name].numpy()) / 3
        np.testing.assert_allclose(tensor, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.slow
def test_the_manifest_is_that_of_the_members_and_says_where_they_come_from(made, tmp_path) -> None:
    export_bundle(
        made / "selection.json",
        "eoa_greedy",
        "ours",
        tmp_path / "b",
        data="made up",
        licence="CC0",
        trained_on=["extra"],
    )
    manifest = load_bundle(tmp_path / "b").manifest
    assert manifest.network.widths == (2, 2, 4) and manifest.window == Window(size=(16, 16, 16))
    assert manifest.intensity.suv_top == 20.0 and manifest.intensity.ct_clip and manifest.crop == Crop(suv_above=0.0)
    assert manifest.licence == "CC0" and manifest.provenance.data == "made up"
    assert manifest.provenance.commit == commit() and manifest.provenance.date == time.strftime("%Y-%m-%d")
    report = json.loads((made / "selection.json").read_text())
    scores = manifest.provenance.scores
    assert scores["validation"]["dice"] == report["choices"]["eoa_greedy"]["dice"]
    assert (scores["selected_on_cases"], scores["selected_on_cases_with_lesion"]) == (3, 2)
    assert scores[TRAINED_ON] == ["case0", "case1", "case2", "case3", "extra"]
    assert scores[PATIENTS] == [f"patient{number}" for number in range(4)]


@pytest.mark.slow
def test_the_start_is_the_hash_of_theta_0s_tensors(made, tmp_path) -> None:
    export_bundle(made / "selection.json", "eoa_greedy", "ours", tmp_path / "b")
    expected = state_sha256(load_file(made / "runs" / "base" / "last.safetensors"))
    assert {m.start_sha256 for m in load_bundle(tmp_path / "b").manifest.members} == {expected}
    load_bundle(tmp_path / "b", "diwa")  # so its members may be averaged, too


@pytest.mark.slow
def test_the_command_checks_a_case_through_process_and_the_bundle_verifies(made, tmp_path, capsys, monkeypatch) -> None:
    assert run_export(made, tmp_path / "b", "--half", "--index", made / "index.csv") == 0
    found = re.search(r"case case1: .* Dice ([0-9.]+) \((\d+) and", capsys.readouterr().out)
    assert found and float(found[1]) >= 0.99 and int(found[2]) > 0
    assert {t.dtype for t in load_file(tmp_path / "b" / "m1.safetensors").values()} == {torch.float16}
    monkeypatch.setattr("sys.argv", ["weights", str(tmp_path / "b")])
    assert verify() == 0


@pytest.mark.slow
def test_networks_over_the_body_are_selected_exported_and_checked_through_process(tmp_path, capsys) -> None:
    """Validation looks for the body in prepared arrays, process.py in the study's files."""
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": "body", "body": {"hu": -600.0, "suv": 0.5}}
    cache, theta = small_cache(tmp_path), random_state(0, network=network)
    write_table(small_studies(tmp_path / "studies"), tmp_path / "index.csv")
    base = make_run(tmp_path / "runs" / "base", theta, network=network)
    runs = [
        make_run(tmp_path / "runs" / name, random_state(seed, near=theta, network=network), base, network=network)
        for seed, name in ((1, "m1"), (2, "m2"))
    ]
    report = select_runs(runs, cache, FOLD, tmp_path / "margins", device="cpu")
    report["choices"]["diwa_greedy"]["weights"] = {"m1": 1, "m2": 1}
    write_json(tmp_path / "selection.json", report)
    options = {"index": tmp_path / "index.csv", "check_case": "case1", "device": "cpu"}
    export_bundle(tmp_path / "selection.json", "diwa_greedy", "ours", tmp_path / "b", **options)
    found = re.search(r"case case1: .* Dice ([0-9.]+)", capsys.readouterr().out)
    assert found and float(found[1]) >= 0.99
    network = load_bundle(tmp_path / "b").manifest.network
    assert network.norm == "body" and (network.body.hu, network.body.suv) == (-600, 0.5)


@pytest.mark.slow
def test_a_soup_is_checked_through_process_as_well(made, tmp_path, capsys) -> None:
    export_bundle(
        made / "selection.json",
        "diwa_greedy",
        "ours",
        tmp_path / "b",
        index=made / "index.csv",
        check_case="case2",
        device="cpu",
    )
    assert "case case2: the masks of process.py and of the selection have Dice" in capsys.readouterr().out


@pytest.mark.slow
@pytest.mark.parametrize("half", [False, True])
def test_another_mask_than_the_selections_leaves_no_bundle(made, tmp_path, monkeypatch, half) -> None:
    truth = read_table(made / "index.csv")["case1"].truth
    monkeypatch.setattr("training.bundles.export.run_process", lambda *_: truth)
    with pytest.raises(WeightsError, match=r"Dice 0\.\d+ .* at least 0.99 is needed"):
        export_bundle(
            made / "selection.json",
            "eoa_greedy",
            "b",
            tmp_path / "b",
            index=made / "index.csv",
            half=half,
            device="cpu",
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_bundle_that_is_there_stays_without_force_and_is_replaced_with(made, tmp_path) -> None:
    export_bundle(made / "selection.json", "eoa_greedy", "first", tmp_path / "b")
    with pytest.raises(ConfigError, match="--force"):
        export_bundle(made / "selection.json", "eoa_greedy", "second", tmp_path / "b")
    assert load_bundle(tmp_path / "b").manifest.name == "first"
    export_bundle(made / "selection.json", "eoa_greedy", "second", tmp_path / "b", force=True)
    assert load_bundle(tmp_path / "b").manifest.name == "second"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"half": True}, "--half needs --index"),
        ({"choice": "eoa_best"}, "has no choice 'eoa_best'; it has wa_best"),
        ({"check_case": "case0"}, "case0 is none of the cases that were selected on"),
    ],
)
def test_a_choice_that_cannot_be_exported_is_refused(made, tmp_path, changes, message) -> None:
    options = {"choice": "eoa_greedy", "name": "b", "output": tmp_path / "b"} | changes
    if "check_case" in changes:
        options["index"] = made / "index.csv"
    with pytest.raises(ConfigError, match=message):
        export_bundle(made / "selection.json", **options)
    assert not (tmp_path / "b").exists()


@pytest.mark.slow
def test_files_other_than_those_that_were_prepared_cannot_check(made, tmp_path) -> None:
    rows = read_table(made / "index.csv")
    text = (made / "index.csv").read_text().replace(rows["case1"].sha256, "0" * 64)
    (tmp_path / "index.csv").write_text(text)
    with pytest.raises(ConfigError, match="was not prepared from the files of case case1"):
        export_bundle(made / "selection.json", "eoa_greedy", "b", tmp_path / "b", index=tmp_path / "index.csv")


@pytest.mark.slow
def test_a_run_that_changed_since_it_was_selected_is_refused(made, tmp_path) -> None:
    report = json.loads((made / "selection.json").read_text())
    for member in report["members"]:
        member["sha256"] = "0" * 64
    (tmp_path / "s.json").write_text(json.dumps(report))
    with pytest.raises(WeightsError, match="is not what was selected"):
        export_bundle(tmp_path / "s.json", "eoa_greedy", "b", tmp_path / "b")


@pytest.mark.slow
def test_members_of_a_base_run_that_is_gone_still_have_one_start(made, tmp_path) -> None:
    shutil.copytree(made / "runs", tmp_path / "runs")
    report = json.loads((made / "selection.json").read_text())
    for member in report["members"]:
        member["run"] = str(tmp_path / "runs" / member["name"])
        path = tmp_path / "runs" / member["name"] / "run.json"
        path.write_text(path.read_text().replace(str(made / "runs"), "/gone"))
    (tmp_path / "s.json").write_text(json.dumps(report))
    export_bundle(tmp_path / "s.json", "eoa_greedy", "b", tmp_path / "found")  # beside the members
    (tmp_path / "runs" / "base" / "last.safetensors").unlink()  # then the hash of that file stands for the start
    export_bundle(tmp_path / "s.json", "eoa_greedy", "b", tmp_path / "b")
    starts = {member.start_sha256 for member in load_bundle(tmp_path / "b").manifest.members}
    assert starts == {sha256_of(made / "runs" / "base" / "last.safetensors")}


def test_the_command_refuses_a_file_that_is_no_selection(tmp_path, capsys) -> None:
    (tmp_path / "s.json").write_text("{}")
    words = ["--choice", "wa_best", "--name", "b", "--output", tmp_path / "b", "--data", "x", "--licence", "y"]
    assert main(["export", *map(str, [tmp_path / "s.json", *words])]) == ConfigError.exit_code
    assert "is no selection of this version" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize("cut", ["choices", "members", "crop"])
def test_a_damaged_selection_is_refused(made, tmp_path, cut) -> None:
    report = json.loads((made / "selection.json").read_text())
    write_json(tmp_path / "selection.json", report | {cut: [1]})
    with pytest.raises(ConfigError, match="is damaged"):
        export_bundle(tmp_path / "selection.json", "eoa_greedy", "ours", tmp_path / "b")


def test_skip_suv_and_skip_index_need_each_other(made, tmp_path) -> None:
    for options in ({"skip_suv": 0.1}, {"skip_index": [made / "index.csv"]}):
        with pytest.raises(ConfigError, match="need each other"):
            export_bundle(made / "selection.json", "eoa_greedy", "ours", tmp_path / "b", **options)


@pytest.mark.slow
@pytest.mark.parametrize("changes", [False, True])
def test_a_level_is_written_only_where_no_mask_changed(made, tmp_path, capsys, monkeypatch, changes) -> None:
    tried: list[tuple[float, list[str]]] = []

    def check(folder, studies, device) -> str:
        tried.append((load_bundle(folder).manifest.skip_suv, [study.case for study in studies]))
        if changes:
            raise WeightsError("case case0: 3 voxels of the mask change")
        return "no voxel changes"

    monkeypatch.setattr("training.bundles.export.check_skip", check)
    code = run_export(made, tmp_path / "b", "--skip-suv", 0.25, "--skip-index", made / "index.csv")
    cases = ["case0", "case1", "case2", "case3"]
    assert tried == [(0.25, cases)]
    if changes:
        assert code == WeightsError.exit_code and not (tmp_path / "b").exists()
        return
    manifest = load_bundle(tmp_path / "b").manifest
    assert code == 0 and manifest.skip_suv == 0.25 and "no voxel changes" in capsys.readouterr().out
    assert manifest.provenance.scores["skip_suv_tried_on_cases"] == cases
