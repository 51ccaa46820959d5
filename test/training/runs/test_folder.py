import subprocess
import sys

import pytest
import torch
from conftest import ROOT

from model.errors import ConfigError
from training.runs import folder
from training.settings import Crops, Optimizer, Training, read_yaml, settings_to
from training.weights import checkpoint


def test_a_new_folder_begins_a_run_and_the_same_settings_resume_it(tmp_path) -> None:
    run = tmp_path / "run"
    assert folder.open_run(run, {"seed": 1, "size": (2, 3)}) is None
    checkpoint.write_state(run / checkpoint.STATE, {"step": 7, "weights": torch.ones(2)})
    assert folder.open_run(run, {"seed": 1, "size": (2, 3)})["step"] == 7


def test_other_settings_are_refused_by_name(tmp_path) -> None:
    folder.open_run(tmp_path / "run", {"seed": 1, "batch": 2})
    with pytest.raises(ConfigError, match=r"other settings \(seed\)"):
        folder.open_run(tmp_path / "run", {"seed": 2, "batch": 2})


def test_a_folder_of_something_else_is_left_alone(tmp_path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ConfigError, match="is not empty"):
        folder.open_run(tmp_path, {})
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_run_killed_before_its_configuration_was_written_resumes(tmp_path) -> None:
    for name in (folder.LOCK, ".partial-123-config.yaml"):
        (tmp_path / name).touch()
    assert folder.open_run(tmp_path, {"seed": 1}) is None
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.LOCK, checkpoint.CONFIG]


def test_what_a_killed_process_left_is_removed_from_its_run(tmp_path) -> None:
    folder.open_run(tmp_path / "run", {"seed": 1})
    (tmp_path / "run" / ".partial-123-checkpoint.pt").write_bytes(b"half")
    folder.open_run(tmp_path / "run", {"seed": 1}, hold=False)
    assert (tmp_path / "run" / ".partial-123-checkpoint.pt").exists()  # the first process may be writing it
    folder.open_run(tmp_path / "run", {"seed": 1})
    assert not (tmp_path / "run" / ".partial-123-checkpoint.pt").exists()


def test_a_process_that_cannot_see_the_first_ones_folder_is_refused(tmp_path) -> None:
    with pytest.raises(ConfigError, match="on a disk that all of them share"):
        folder.open_run(tmp_path / "run", {"seed": 1}, hold=False)
    assert not (tmp_path / "run").exists()


def test_a_start_may_move_and_another_one_is_refused(tmp_path) -> None:
    start = {"run": "/old/base", "sha256": "a" * 64}
    folder.open_run(tmp_path / "run", {"seed": 1, "start": start})
    folder.open_run(tmp_path / "run", {"seed": 1, "start": start | {"run": "/new/base"}})
    for other in (start | {"sha256": "b" * 64}, None):
        with pytest.raises(ConfigError, match=r"other settings \(start\)"):
            folder.open_run(tmp_path / "run", {"seed": 1, "start": other})


def test_settings_without_influence_on_the_weights_may_change(tmp_path) -> None:
    """A run goes on where there are fewer cores."""
    there = {"settings": {"seed": 1, "workers": 8, "checkpoint_minutes": 10}}
    assert folder.differing(there, {"settings": {"seed": 1, "workers": 0, "checkpoint_minutes": 1}}) == []
    assert folder.differing(there, {"settings": {"seed": 2, "workers": 8}}) == ["settings.seed"]


def test_settings_that_help_an_unfinished_run_may_change_and_are_recorded(tmp_path, capsys) -> None:
    run = tmp_path / "run"
    first = {"settings": settings_to(Training(precision="float16"))}
    folder.open_run(run, first)
    checkpoint.write_state(run / checkpoint.STATE, {"step": 30})
    lower = {"settings": settings_to(Training(precision="float32", optimizer=Optimizer(rate=5e-5, clip_norm=1.0)))}
    assert folder.open_run(run, lower) == {"step": 30}
    assert "settings.optimizer.clip_norm, settings.optimizer.rate, settings.precision" in capsys.readouterr().out
    again = {"settings": lower["settings"] | {"precision": "bfloat16"}}
    folder.open_run(run, again)
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
    folder.open_run(run, again)
    assert len(read_yaml(run / checkpoint.CONFIG)["changes"]) == 2
    with pytest.raises(ConfigError, match=r"other settings \(settings.seed\)"):
        folder.open_run(run, {"settings": again["settings"] | {"seed": 8, "precision": "float32"}})
    checkpoint.write_json(run / checkpoint.RESULT, {"result": "last.safetensors", "sha256": "0", "epoch": 1})
    with pytest.raises(ConfigError, match=r"other settings \(settings.precision\)"):
        folder.open_run(run, lower)


def test_a_run_resumes_with_another_number_of_processes_if_a_step_has_the_same_crops(tmp_path) -> None:
    def config(processes: int, batch: int, accumulate: int) -> dict:
        return {"settings": settings_to(Training(batch=batch, accumulate=accumulate)), "processes": processes}

    run = tmp_path / "run"
    folder.open_run(run, config(4, 2, 1))
    folder.open_run(run, config(1, 4, 2))
    there = read_yaml(run / checkpoint.CONFIG)
    assert (there["processes"], there["settings"]["batch"], there["settings"]["accumulate"]) == (1, 4, 2)
    assert there["changes"][0]["processes"] == {"from": 4, "to": 1}
    with pytest.raises(ConfigError, match=r"other settings \(processes\).*batch x accumulate x processes at 8"):
        folder.open_run(run, config(2, 4, 2))
    checkpoint.write_json(run / checkpoint.RESULT, {"result": "last.safetensors", "sha256": "0", "epoch": 1})
    with pytest.raises(ConfigError, match="other settings"):
        folder.open_run(run, config(4, 2, 1))


def test_a_run_that_an_earlier_version_began_resumes(tmp_path) -> None:
    """It knows nothing of a setting that came later, whose default is what it did."""
    settings = settings_to(Training(seed=3))
    before = {key: value for key, value in settings.items() if key not in ("most_left_out", "keep")}
    before["crops"] = {key: value for key, value in settings["crops"].items() if key != "recrop_mm"}
    folder.open_run(tmp_path / "run", {"settings": before})
    folder.open_run(tmp_path / "run", {"settings": settings})
    assert "changes" not in read_yaml(tmp_path / "run" / checkpoint.CONFIG)
    with pytest.raises(ConfigError, match=r"other settings \(settings.crops.recrop_mm\)"):
        folder.open_run(tmp_path / "run", {"settings": settings_to(Training(seed=3, crops=Crops(recrop_mm=15.0)))})


@pytest.mark.slow
def test_a_second_process_is_kept_out_of_a_run(tmp_path) -> None:
    folder.open_run(tmp_path / "run", {"seed": 1})
    code = (
        "import sys; from pathlib import Path; from training.runs import folder\n"
        "try: folder.open_run(Path(sys.argv[1]), {'seed': 1})\n"
        "except Exception as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "run")], cwd=ROOT, capture_output=True, text=True)
    assert "another process works on" in done.stdout
    assert folder.open_run(tmp_path / "run", {"seed": 1}) is None  # the one that holds it may go on


@pytest.mark.parametrize("content", [b"", b"\xff\xfe\x00", b"[1]"])
def test_a_damaged_configuration_is_refused(content: bytes, tmp_path) -> None:
    folder.open_run(tmp_path / "run", {"seed": 1})
    (tmp_path / "run" / checkpoint.CONFIG).write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.yaml|other settings"):
        folder.open_run(tmp_path / "run", {"seed": 1})


def test_a_file_in_place_of_the_run_is_refused(tmp_path) -> None:
    (tmp_path / "run").write_text("")
    with pytest.raises(ConfigError, match="is a file"):
        folder.open_run(tmp_path / "run", {})
