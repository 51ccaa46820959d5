import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from safetensors.torch import save_file

from model.errors import ConfigError, OutputError, WeightsError
from model.files import sha256_of
from training.runs import checkpoint
from training.settings import Crops, Optimizer, Training, read_yaml, settings_to


class Harmful:
    """What a pickle could run when it is read."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('it ran')",)


def test_a_new_folder_begins_a_run_and_the_same_settings_resume_it(tmp_path) -> None:
    run = tmp_path / "run"
    assert checkpoint.open_run(run, {"seed": 1, "size": (2, 3)}) is None
    checkpoint.write_state(run / checkpoint.STATE, {"step": 7, "weights": torch.ones(2)})
    assert checkpoint.open_run(run, {"seed": 1, "size": (2, 3)})["step"] == 7


def test_other_settings_are_refused_by_name(tmp_path) -> None:
    checkpoint.open_run(tmp_path / "run", {"seed": 1, "batch": 2})
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        checkpoint.open_run(tmp_path / "run", {"seed": 2, "batch": 2})


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        checkpoint.open_run(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_before_its_configuration_was_written_resumes(tmp_path) -> None:
    for name in (checkpoint.LOCK, ".partial-123-config.yaml"):
        (tmp_path / name).touch()
    assert checkpoint.open_run(tmp_path, {"seed": 1}) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [checkpoint.LOCK, checkpoint.CONFIG]


def test_what_a_killed_process_left_is_removed_from_its_run(tmp_path) -> None:
    checkpoint.open_run(tmp_path / "run", {"seed": 1})
    (tmp_path / "run" / ".partial-123-checkpoint.pt").write_bytes(b"half")
    checkpoint.open_run(tmp_path / "run", {"seed": 1}, hold=False)
    assert (tmp_path / "run" / ".partial-123-checkpoint.pt").exists()  # the first process may be writing it
    checkpoint.open_run(tmp_path / "run", {"seed": 1})
    assert not (tmp_path / "run" / ".partial-123-checkpoint.pt").exists()


def test_a_process_that_cannot_see_the_first_ones_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="on a disk that all of them share"):
        checkpoint.open_run(tmp_path / "run", {"seed": 1}, hold=False)
    assert not (tmp_path / "run").exists()


def test_a_start_may_move_and_another_one_is_refused(tmp_path) -> None:
    start = {"run": "/old/base", "sha256": "a" * 64}
    checkpoint.open_run(tmp_path / "run", {"seed": 1, "start": start})
    checkpoint.open_run(tmp_path / "run", {"seed": 1, "start": start | {"run": "/new/base"}})
    for other in (start | {"sha256": "b" * 64}, None):
        with pytest.raises(ConfigError, match=r"other settings \(start\)"):
            checkpoint.open_run(tmp_path / "run", {"seed": 1, "start": other})


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch) -> None:
    path = tmp_path / checkpoint.STATE
    checkpoint.write_state(path, {"step": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OutputError, match="No space left"):
        checkpoint.write_state(path, {"step": 2})
    assert checkpoint.read_state(path) == {"step": 1} and [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_checkpoint_cannot_run_anything(tmp_path) -> None:
    torch.save({"step": Harmful()}, tmp_path / "bad.pt")
    with pytest.raises(WeightsError, match="cannot be read"):
        checkpoint.read_state(tmp_path / "bad.pt")


def test_the_message_of_a_damaged_checkpoint_says_what_to_do(tmp_path) -> None:
    (tmp_path / "cut.pt").write_bytes(b"PK\x03\x04 cut")
    with pytest.raises(WeightsError, match="delete it to start the run anew"):
        checkpoint.read_state(tmp_path / "cut.pt")


def test_weights_read_back_and_damaged_ones_are_refused(tmp_path) -> None:
    state = {"a": torch.randn(3, 2).T}
    checkpoint.write_weights(tmp_path / "w.safetensors", state)
    assert torch.equal(checkpoint.read_weights(tmp_path / "w.safetensors")["a"], state["a"])
    (tmp_path / "w.safetensors").write_bytes(b"1234")
    with pytest.raises(WeightsError, match=r"w\.safetensors"):
        checkpoint.read_weights(tmp_path / "w.safetensors")


def test_lines_after_the_checkpoint_and_half_lines_are_cut_from_the_log(tmp_path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"st')
    checkpoint.cut_log(log, 2)
    assert [json.loads(line) for line in log.read_text().splitlines()] == [{"step": 1}, {"step": 2}]


def test_an_unfinished_run_has_no_result(tmp_path) -> None:
    with pytest.raises(ConfigError, match="no finished run"):
        checkpoint.result_of(tmp_path)


def test_a_run_is_finished_only_with_the_weights_it_ended_with(tmp_path) -> None:
    assert checkpoint.finished(tmp_path) is None
    checkpoint.write_weights(tmp_path / "last.safetensors", {"a": torch.ones(2)})
    result = {"result": "last.safetensors", "sha256": sha256_of(tmp_path / "last.safetensors"), "epoch": 1}
    checkpoint.write_json(tmp_path / checkpoint.RESULT, result)
    assert checkpoint.finished(tmp_path) == result
    checkpoint.write_weights(tmp_path / "last.safetensors", {"a": torch.zeros(2)})
    assert checkpoint.finished(tmp_path) is None
    (tmp_path / "last.safetensors").unlink()
    assert checkpoint.finished(tmp_path) is None
    (tmp_path / checkpoint.RESULT).write_text("half")
    assert checkpoint.finished(tmp_path) is None


def test_settings_without_influence_on_the_weights_may_change(tmp_path) -> None:
    """A run goes on where there are fewer cores."""
    there = {"settings": {"seed": 1, "workers": 8, "checkpoint_minutes": 10}}
    assert checkpoint.differing(there, {"settings": {"seed": 1, "workers": 0, "checkpoint_minutes": 1}}) == []
    assert checkpoint.differing(there, {"settings": {"seed": 2, "workers": 8}}) == ["settings.seed"]


def test_settings_that_help_an_unfinished_run_may_change_and_are_recorded(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    first = {"settings": settings_to(Training(precision="float16"))}
    checkpoint.open_run(run, first)
    checkpoint.write_state(run / checkpoint.STATE, {"step": 30})
    lower = {"settings": settings_to(Training(precision="float32", optimizer=Optimizer(rate=5e-5, clip_norm=1.0)))}
    assert checkpoint.open_run(run, lower) == {"step": 30}
    assert "settings.optimizer.clip_norm, settings.optimizer.rate, settings.precision" in capsys.readouterr().out
    again = {"settings": lower["settings"] | {"precision": "bfloat16"}}
    checkpoint.open_run(run, again)
    there = read_yaml(run / checkpoint.CONFIG)
    assert there["settings"] == again["settings"]
    assert there["changes"] == [
        {
            "step": 30,
            "settings.optimizer.clip_norm": {"from": 0.0, "to": 1.0},
            "settings.optimizer.rate": {"from": 1e-4, "to": 5e-5},
            "settings.precision": {"from": "float16", "to": "float32"},
        },
        {"step": 30, "settings.precision": {"from": "float32", "to": "bfloat16"}},
    ]
    checkpoint.open_run(run, again)
    assert len(read_yaml(run / checkpoint.CONFIG)["changes"]) == 2
    with pytest.raises(ConfigError, match=r"other settings \(settings.seed\)"):
        checkpoint.open_run(run, {"settings": again["settings"] | {"seed": 8, "precision": "float32"}})
    checkpoint.write_json(run / checkpoint.RESULT, {"result": "last.safetensors", "sha256": "0", "epoch": 1})
    with pytest.raises(ConfigError, match=r"other settings \(settings.precision\)"):
        checkpoint.open_run(run, lower)


def test_a_run_resumes_with_another_number_of_processes_if_a_step_has_the_same_crops(tmp_path) -> None:
    def config(processes: int, batch: int, accumulate: int) -> dict:
        return {"settings": settings_to(Training(batch=batch, accumulate=accumulate)), "processes": processes}

    run = tmp_path / "run"
    checkpoint.open_run(run, config(4, 2, 1))
    checkpoint.open_run(run, config(1, 4, 2))
    there = read_yaml(run / checkpoint.CONFIG)
    assert (there["processes"], there["settings"]["batch"], there["settings"]["accumulate"]) == (1, 4, 2)
    assert there["changes"][0]["processes"] == {"from": 4, "to": 1}
    with pytest.raises(ConfigError, match=r"other settings \(processes\).*batch x accumulate x processes at 8"):
        checkpoint.open_run(run, config(2, 4, 2))
    checkpoint.write_json(run / checkpoint.RESULT, {"result": "last.safetensors", "sha256": "0", "epoch": 1})
    with pytest.raises(ConfigError, match="other settings"):
        checkpoint.open_run(run, config(4, 2, 1))


def test_a_run_that_an_earlier_version_began_resumes(tmp_path) -> None:
    """It knows nothing of a setting that came later, whose default is what it did."""
    settings = settings_to(Training(seed=3))
    before = {key: value for key, value in settings.items() if key not in ("most_left_out", "keep")}
    before["crops"] = {key: value for key, value in settings["crops"].items() if key != "recrop_mm"}
    checkpoint.open_run(tmp_path / "run", {"settings": before})
    checkpoint.open_run(tmp_path / "run", {"settings": settings})
    assert "changes" not in read_yaml(tmp_path / "run" / checkpoint.CONFIG)
    with pytest.raises(ConfigError, match=r"other settings \(settings.crops.recrop_mm\)"):
        checkpoint.open_run(tmp_path / "run", {"settings": settings_to(Training(seed=3, crops=Crops(recrop_mm=15.0)))})


@pytest.mark.slow
def test_a_second_process_is_kept_out_of_a_run(tmp_path) -> None:
    checkpoint.open_run(tmp_path / "run", {"seed": 1})
    code = (
        "import sys; from pathlib import Path; from training.runs import checkpoint\n"
        "try: checkpoint.open_run(Path(sys.argv[1]), {'seed': 1})\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True)
    assert "another process works on" in done.stdout
    assert checkpoint.open_run(tmp_path / "run", {"seed": 1}) is None  # the one that holds it may go on


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1]"])
def test_a_damaged_configuration_is_refused(content: bytes, tmp_path) -> None:
    checkpoint.open_run(tmp_path / "run", {"seed": 1})
    (tmp_path / "run" / checkpoint.CONFIG).write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml|other settings"):
        checkpoint.open_run(tmp_path / "run", {"seed": 1})


def test_a_file_in_place_of_the_run_is_refused(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        checkpoint.open_run(tmp_path / "run", {})


def test_a_finished_run_whose_weights_are_gone_is_refused(tmp_path) -> None:
    checkpoint.write_json(tmp_path / checkpoint.RESULT, {"result": "last.safetensors", "sha256": "0", "epoch": 1})
    with pytest.raises(ConfigError, match="last.safetensors' is not there"):
        checkpoint.result_file(tmp_path)
    checkpoint.write_json(tmp_path / checkpoint.RESULT, {})
    with pytest.raises(ConfigError, match="does not say what the run ended with"):
        checkpoint.result_of(tmp_path)


def test_weights_stored_in_half_precision_come_back_in_single(tmp_path) -> None:
    save_file({"w": torch.tensor([0.5, 2.0], dtype=torch.float16), "n": torch.tensor(3)}, tmp_path / "w.safetensors")
    state = checkpoint.read_weights(tmp_path / "w.safetensors")
    assert torch.equal(state["w"], torch.tensor([0.5, 2.0])) and state["n"].dtype == torch.int64
