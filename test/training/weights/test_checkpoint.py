import json
import os

import pytest
import torch
from safetensors.torch import save_file

from model.errors import ConfigError, OutputError, WeightsError
from model.files import sha256_of
from training.weights import checkpoint


class Harmful:
    """What a pickle could run when it is read."""

    def __reduce__(self) -> tuple:
        return exec, ("raise SystemExit('it ran')",)


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
