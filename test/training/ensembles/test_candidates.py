import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tiny_runs import make_run, make_runs, random_state

from model.errors import ConfigError, WeightsError
from training.ensembles.candidates import check_one_start, read_candidate, read_candidates, soup


@pytest.fixture
def runs(tmp_path) -> list[Path]:
    return make_runs(tmp_path)


def test_members_know_their_weights_their_start_and_what_trained_them(runs, tmp_path) -> None:
    base = tmp_path / "base"
    found = read_candidates(runs)
    assert list(found) == ["m1", "m2", "m3"]
    assert found["m1"].start == found["m2"].start == json.loads((base / "run.json").read_text())["sha256"]
    assert found["m1"].seen.cases == {"case0"} and found["m1"].base == base


def test_a_base_run_is_found_again_when_all_runs_are_moved(runs, tmp_path) -> None:
    shutil.move(tmp_path / "base", tmp_path / "elsewhere" / "base")
    assert read_candidate(runs[0]).base is None
    moved = shutil.move(runs[0], tmp_path / "elsewhere" / "members" / "m1")
    assert read_candidate(Path(moved)).base == tmp_path / "elsewhere" / "base"


def test_another_run_of_the_same_name_is_not_the_base_run(runs, tmp_path) -> None:
    shutil.rmtree(tmp_path / "base")
    make_run(tmp_path / "base", random_state(9))
    assert read_candidate(runs[0]).base is None


def test_a_soup_is_the_mean_of_weights_each_as_often_as_it_counts(runs) -> None:
    paths = [run / "mean.safetensors" for run in runs[:2]]
    found = soup([(paths[0], 2), (paths[1], 1)])
    one, two = (load_file(path) for path in paths)
    for name in one:
        expected = (2 * one[name].numpy().astype(np.float64) + two[name].numpy()) / 3
        np.testing.assert_allclose(found[name], expected, rtol=1e-6, atol=1e-8)
        assert found[name].dtype == torch.float32


def test_a_soup_of_one_is_that_one(runs) -> None:
    path = runs[0] / "mean.safetensors"
    found, expected = soup([(path, 3)]), load_file(path)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_members_of_other_networks_or_windows_are_refused(runs, tmp_path) -> None:
    other = make_run(tmp_path / "other", random_state(5), tmp_path / "base", window={"size": [32, 32, 32]})
    with pytest.raises(ConfigError, match=r"m1' and .*other' differ in window"):
        read_candidates([*runs, other])


def test_an_unfinished_run_and_two_of_one_name_are_refused(runs, tmp_path) -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        read_candidates([tmp_path])
    with pytest.raises(ConfigError, match="two runs are called m1"):
        read_candidates([runs[0], runs[0]])
    with pytest.raises(ConfigError, match="no member"):
        read_candidates([])


def test_weights_that_are_not_those_the_run_ended_with_are_refused(runs) -> None:
    shutil.copy(runs[1] / "mean.safetensors", runs[0] / "mean.safetensors")
    with pytest.raises(WeightsError, match="its run ended with"):
        read_candidate(runs[0])
    (runs[0] / "mean.safetensors").unlink()
    with pytest.raises(WeightsError, match="cannot read"):
        read_candidate(runs[0])


def test_a_run_file_without_what_it_must_hold_is_refused(runs) -> None:
    (runs[0] / "run.json").write_text("{}")
    with pytest.raises(ConfigError, match="does not say what the run ended with"):
        read_candidate(runs[0])


def test_members_of_several_starts_are_named(runs, tmp_path) -> None:
    check_one_start(list(read_candidates(runs).values()))
    stranger = make_run(tmp_path / "s", random_state(8), make_run(tmp_path / "base2", random_state(7)))
    with pytest.raises(ConfigError, match=r"m1 from [0-9a-f]{12}, .*s from [0-9a-f]{12}.* --method eoa"):
        check_one_start(list(read_candidates([*runs, stranger]).values()))


def test_a_shared_ct_encoder_is_no_shared_start(tmp_path) -> None:
    runs = [make_run(tmp_path / name, random_state(seed)) for seed, name in enumerate("ab")]
    for run in runs:
        result = json.loads((run / "run.json").read_text())
        result["start"] = {"ct_encoder": "encoder.safetensors", "sha256": "0" * 64}
        (run / "run.json").write_text(json.dumps(result))
    with pytest.raises(ConfigError, match="a from no base run, b from no base run"):
        check_one_start(list(read_candidates(runs).values()))
    check_one_start([read_candidate(runs[0])])  # one alone averages with nobody
