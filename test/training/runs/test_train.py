"""One run from start to end, with what can happen to it on the way."""

import json
import os
import re
import shutil
import signal
import time
from functools import partialmethod
from pathlib import Path

import pytest
import torch
import warm
import yaml
from conftest import ROOT
from safetensors.torch import load_file
from tiny_settings import tiny_slices, tiny_training

from model.errors import ConfigError, WeightsError
from model.networks.unet import build
from training.__main__ import main
from training.batches.device_crops import DeviceCrops
from training.batches.schedule import rate_at
from training.compute.device import choose_convolutions
from training.compute.finite import TrainingError
from training.data.folds import Fold
from training.runs import loop
from training.runs.run import Run
from training.runs.start import starting_network
from training.runs.train import carry_on, train_run
from training.settings import changed, settings_to
from training.stopping import StoppedInTime
from training.weights import checkpoint
from training.weights.checkpoint import write_weights

README = ROOT / "training/README.md"
SCHEDULE = {"epochs": 4, "warmup_epochs": 1, "steps_per_epoch": 2}
FOLD = Fold(name="0", train=("case0", "case1", "case3"), validate=("case2",), test=())


def member(**changes: object):
    """Settings of a member that starts after epoch 4 of a base run."""
    return changed(
        tiny_training(**changes),
        {
            "schedule": {"epochs": 7},
            "averaging": {"start": 4, "length_epochs": 1, "constant": 5e-4, "peak": 1e-3},
        },
    )


@pytest.fixture(scope="module")
def base(tiny_cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "base"
    train_run(folder, tiny_training(), tiny_cache, FOLD, wanted="cpu")
    return folder


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_a_run_leaves_weights_log_pictures_and_its_settings(base) -> None:
    names = {path.name for path in base.iterdir()}
    expected = {"config.yaml", "log.jsonl", "checkpoint.pt", "tensorboard", "curves.png", "slices.png", "run.json"}
    assert names - {".lock"} == expected | {"last.safetensors"}
    assert [line["epoch"] for line in lines(base)] == [1, 2, 3, 4]
    assert ["dice" in line for line in lines(base)] == [False, True, False, True]
    assert {"loss", "rate", "data_s", "compute_s"} <= lines(base)[0].keys()
    result = json.loads((base / "run.json").read_text())
    assert result["epoch"] == 4 and result["start"] is None
    assert result["validation"].keys() == {"dice", "fpv_ml", "fnv_ml"}


@pytest.mark.slow
def test_a_finished_run_is_not_done_again(base, tiny_cache) -> None:
    before = (base / "last.safetensors").stat().st_mtime_ns
    train_run(base, tiny_training(), tiny_cache, FOLD, wanted="cpu")
    assert (base / "last.safetensors").stat().st_mtime_ns == before


@pytest.mark.slow
def test_crops_made_on_the_device_train_the_same_weights(base, tiny_cache, tmp_path) -> None:
    """On a CPU, where a device's crops are those of workers to the bit but for the order of a division."""
    train_run(tmp_path / "run", tiny_training(crops_on="device"), tiny_cache, FOLD, wanted="cpu")
    expected, found = load_file(base / "last.safetensors"), load_file(tmp_path / "run" / "last.safetensors")
    assert all(torch.allclose(found[name], expected[name], atol=1e-4) for name in expected)


@pytest.mark.slow
def test_a_network_over_the_body_trains_alike_in_any_layout_and_with_less_memory(tiny_cache, tmp_path) -> None:
    """Through crops, steps, averaging and validation, with stages computed again and crops made on the device."""
    body = {"network": {"fusion": "middle", "widths": [2, 2, 4], "norm": "body"}, "batch": 2}
    other = body | {"channels_last": True, "recompute": True, "crops_on": "device"}
    found = []
    for name, changes in (("plain", body), ("other", other)):
        base, run = tmp_path / name / "base", tmp_path / name / "member"
        train_run(base, tiny_training(**changes), tiny_cache, FOLD, wanted="cpu")
        train_run(run, member(**changes), tiny_cache, FOLD, start=base, wanted="cpu")
        assert json.loads((run / "run.json").read_text())["validation"].keys() == {"dice", "fpv_ml", "fnv_ml"}
        found.append(load_file(run / "mean.safetensors"))
    start = build(tiny_training(**body).network).state_dict()
    assert all(torch.allclose(found[0][name], found[1][name], atol=1e-4) for name in start)
    assert any(not torch.allclose(found[0][name], start[name], atol=1e-4) for name in start if "norm" in name)


@pytest.mark.slow
def test_fixed_statistics_stay_while_the_weights_are_trained_and_averaged(tiny_cache, tmp_path) -> None:
    """Also through validation, which runs the network in evaluation mode."""
    batch = {"network": {"fusion": "middle", "widths": [2, 2, 4], "norm": "batch"}}
    train_run(tmp_path / "base", tiny_training(**batch), tiny_cache, FOLD, wanted="cpu")
    train_run(
        tmp_path / "member",
        member(**batch, fixed_statistics=True),
        tiny_cache,
        FOLD,
        start=tmp_path / "base",
        wanted="cpu",
    )
    before, after = load_file(tmp_path / "base/last.safetensors"), load_file(tmp_path / "member/mean.safetensors")
    kept = [name for name in before if "running" in name or "num_batches" in name]
    assert kept and all(torch.equal(before[name], after[name]) for name in kept)
    assert any(not torch.equal(before[name], after[name]) for name in before if name.endswith("conv.weight"))


@pytest.mark.slow
@pytest.mark.parametrize("lost", [True, False])
def test_a_finished_run_whose_weights_are_lost_or_changed_writes_them_again(
    lost: bool, base, tiny_cache, tmp_path
) -> None:
    run = shutil.copytree(base, tmp_path / "run")
    before = (run / "last.safetensors").read_bytes()
    (run / "last.safetensors").unlink() if lost else (run / "last.safetensors").write_bytes(before[:-1] + b"x")
    train_run(run, tiny_training(), tiny_cache, FOLD, wanted="cpu")
    assert (run / "last.safetensors").read_bytes() == before


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(base, tiny_cache) -> None:
    with pytest.raises(ConfigError, match=r"other settings \(settings\.seed\)"):
        train_run(base, tiny_training(seed=9), tiny_cache, FOLD, wanted="cpu")


@pytest.mark.slow
def test_a_member_is_the_mean_of_its_weights_from_theta_0_on(base, tiny_cache, tmp_path, monkeypatch) -> None:
    """Equation 2 by hand: theta at t0 and the weights at the end of each of three epochs."""
    terms, write = [load_file(base / "last.safetensors")], checkpoint.write_state

    def keep(path: Path, state: dict) -> None:
        terms.append({name: tensor.clone() for name, tensor in state["network"].items()})
        write(path, state)

    monkeypatch.setattr("training.runs.loop.write_state", keep)
    result = train_run(tmp_path / "m", member(), tiny_cache, FOLD, start=base, wanted="cpu")
    mean = load_file(tmp_path / "m" / "mean.safetensors")
    assert len(terms) == 4 and result["terms"] == 4
    for name, tensor in mean.items():
        torch.testing.assert_close(tensor, torch.stack([t[name] for t in terms]).mean(0), atol=1e-6, rtol=1e-5)
    assert result["start"]["sha256"] == json.loads((base / "run.json").read_text())["sha256"]


@pytest.mark.slow
def test_the_average_is_what_is_validated(base, tiny_cache, tmp_path) -> None:
    from training.compute.device import device_for
    from training.data.prepared import load
    from training.judging.predict import margin, score_margin, validation_dice

    result = train_run(tmp_path / "m", member(), tiny_cache, FOLD, start=base, wanted="cpu")
    network = build(member().network)
    network.load_state_dict(load_file(tmp_path / "m" / "mean.safetensors"))
    scores, cpu = {}, device_for("float32", "cpu")
    for case in FOLD.validate:
        study = load(tiny_cache, case)
        scores[case] = score_margin(margin(network, study, member(), cpu), study)
    assert result["validation"]["dice"] == pytest.approx(validation_dice(scores), abs=1e-6)


@pytest.mark.slow
def test_a_member_resumes_when_its_base_run_moved(base, tiny_cache, tmp_path) -> None:
    first = train_run(tmp_path / "m", member(), tiny_cache, FOLD, start=base, wanted="cpu")
    shutil.copytree(base, tmp_path / "moved")
    assert train_run(tmp_path / "m", member(), tiny_cache, FOLD, start=tmp_path / "moved", wanted="cpu") == first


@pytest.mark.slow
def test_averaging_every_step_adds_a_term_each_step(base, tiny_cache, tmp_path) -> None:
    settings = changed(member(), {"averaging": {"per_step": True}})
    assert train_run(tmp_path / "m", settings, tiny_cache, FOLD, start=base, wanted="cpu")["terms"] == 1 + 3 * 2


def command(folder: Path, cache: Path, tmp_path: Path, settings: object, *more: object) -> list[str]:
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings_to(settings)))
    fold = {"name": "0", "train": list(FOLD.train), "validate": [], "test": []}
    split = {"index_sha256": "0" * 64, "by": "diagnosis", "seed": 0, "folds": [fold]}
    (tmp_path / "split.json").write_text(json.dumps(split))
    options = {"settings": tmp_path / "settings.yaml", "cache": cache, "split": tmp_path / "split.json", "run": folder}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    return ["-m", "training", "train", *words, "--device", "cpu", *map(str, more)]


@pytest.mark.slow
def test_a_run_killed_twice_ends_with_the_same_weights(base, tiny_cache, tmp_path) -> None:
    settings = changed(member(), {"schedule": {"epochs": 14, "steps_per_epoch": 5}, "checkpoint_minutes": 0})
    start = ("--start", base)
    whole = command(tmp_path / "whole", tiny_cache, tmp_path, settings, *start)
    assert warm.run(*whole).returncode == 0
    killed = command(tmp_path / "killed", tiny_cache, tmp_path, settings, *start)
    for after in (2, 6):  # epochs of ten
        run = warm.WarmProcess(*killed)
        log = tmp_path / "killed" / "log.jsonl"
        begun = time.monotonic()
        while run.poll() is None and time.monotonic() - begun < 100:
            if log.exists() and len(log.read_text().splitlines()) >= after:
                os.kill(run.pid, signal.SIGKILL)
                break
            time.sleep(0.005)
        assert run.wait().returncode == -signal.SIGKILL
        assert not (tmp_path / "killed" / "run.json").exists()
    assert warm.run(*killed).returncode == 0
    one, other = (load_file(tmp_path / name / "mean.safetensors") for name in ("whole", "killed"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in lines(tmp_path / "killed")]


@pytest.mark.slow
def test_a_run_that_stops_in_time_ends_with_the_same_weights(base, tiny_cache, tmp_path, monkeypatch) -> None:
    """Stopped after three of eight steps, and after the last step, before its validation: that is then done again."""
    over = iter([False, False, True])
    monkeypatch.setattr("training.compute.torchrun.time_is_over", lambda: next(over))
    with pytest.raises(StoppedInTime, match=r"stopped in time: '.*run' is at step 3 of 8$"):
        train_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, wanted="cpu")
    over = iter([False] * 4 + [True])
    with monkeypatch.context() as stopped, pytest.raises(StoppedInTime, match="is at step 8 of 8"):
        stopped.setattr("training.stopping.time_is_over", lambda: (tmp_path / "run" / "log.jsonl").read_text() > "")
        stopped.setattr("training.runs.train.check_time", lambda _: None)
        train_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, wanted="cpu")
    assert not (tmp_path / "run" / "run.json").exists() and "dice" not in lines(tmp_path / "run")[-1]
    result = train_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, wanted="cpu")
    whole = json.loads((base / "run.json").read_text())
    assert result["sha256"] == whole["sha256"] and result["validation"] == whole["validation"]
    assert [line["loss"] for line in lines(tmp_path / "run")] == [line["loss"] for line in lines(base)]


@pytest.mark.slow
def test_two_processes_of_torchrun_equal_one_process_with_twice_the_batch(tiny_cache, tmp_path) -> None:
    """Data-parallel gradients are means over the processes, so two batches of 1 are one batch of 2."""
    two, one = tiny_training(batch=1), tiny_training(batch=2)
    run = command(tmp_path / "two", tiny_cache, tmp_path, two)
    words = re.search(r"^(torchrun) --nproc_per_node 4 (-m training -- train) --settings", README.read_text(), re.M)
    assert words[1] == "torchrun"  # the same as python -m torch.distributed.run
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *words[2].split())
    done = warm.run(*torchrun, *run[3:])
    assert done.returncode == 0, done.stderr[-2000:]
    assert warm.run(*command(tmp_path / "one", tiny_cache, tmp_path, one)).returncode == 0
    first, second = (load_file(tmp_path / name / "last.safetensors") for name in ("two", "one"))
    for name in first:
        torch.testing.assert_close(first[name], second[name], atol=2e-4, rtol=2e-3)


@pytest.mark.slow
def test_a_base_run_carried_on_equals_the_longer_run(base, tiny_cache, tmp_path) -> None:
    longer, start = tiny_training(schedule=SCHEDULE), tiny_training(schedule=SCHEDULE | {"stop": 2})
    train_run(tmp_path / "start", start, tiny_cache, FOLD, wanted="cpu")
    carry_on(tmp_path / "start", tmp_path / "vanilla", longer)
    train_run(tmp_path / "vanilla", longer, tiny_cache, FOLD, wanted="cpu")
    one, other = load_file(tmp_path / "vanilla" / "last.safetensors"), load_file(base / "last.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    with pytest.raises(ConfigError, match="only schedule.stop may differ"):
        carry_on(tmp_path / "start", tmp_path / "other", tiny_training(seed=5))


@pytest.mark.slow
def test_a_loss_that_stays_not_finite_ends_the_run_which_resumes_with_other_settings(
    tiny_cache, tmp_path, monkeypatch
) -> None:
    folder, settings = tmp_path / "run", tiny_training(most_left_out=2, precision="float16")
    with monkeypatch.context() as broken:
        broken.setattr("training.runs.train.loss_function", lambda _: lambda out, truth: out.sum() * float("nan"))
        with pytest.raises(TrainingError, match="the loss is nan at step 2"):
            train_run(folder, settings, tiny_cache, FOLD, wanted="cpu")
    batch = load_file(folder / "bad-batch-2-0.safetensors")
    assert batch["image"].shape == (1, 2, 16, 16, 16) and batch["truth"].shape == (1, 1, 16, 16, 16)
    assert not (folder / "run.json").exists()
    helped = changed(settings, {"precision": "float32", "optimizer": {"rate": 5e-4, "clip_norm": 1.0}})
    result = train_run(folder, helped, tiny_cache, FOLD, wanted="cpu")
    assert result["left_out"] == 2 and result["precision"] == "float32"
    config = yaml.safe_load((folder / "config.yaml").read_text())
    assert config["settings"] == settings_to(helped)
    assert config["changes"] == [
        {
            "step": 2,
            "settings.optimizer.clip_norm": {"from": 0.0, "to": 1.0},
            "settings.optimizer.rate": {"from": 1e-3, "to": 5e-4},
            "settings.precision": {"from": "float16", "to": "float32"},
        }
    ]
    rates = [line["rate"] for line in lines(folder)]  # a checkpoint's rate is not gone on with
    assert rates[1:] == [rate_at(helped, epoch) for epoch in (1.5, 2.5, 3.5)]
    with pytest.raises(ConfigError, match=r"holds a run of other settings \(.*settings.precision"):
        train_run(folder, settings, tiny_cache, FOLD, wanted="cpu")  # it is finished, with the others


@pytest.mark.slow
def test_a_run_whose_batches_are_divided_differently_midway_is_the_same_run(tiny_cache, tmp_path, monkeypatch) -> None:
    """Four crops a step, as two batches of two, and from epoch 2 on as four of one."""
    schedule = SCHEDULE | {"epochs": 3}
    two, four = (tiny_training(schedule=schedule, batch=b, accumulate=a) for b, a in ((2, 2), (1, 4)))
    train_run(tmp_path / "whole", two, tiny_cache, FOLD, wanted="cpu")
    with monkeypatch.context() as killed:
        killed.setattr("training.judging.validation.Validation.scores", lambda self, epoch: 1 / (2 - epoch) and {})
        with pytest.raises(ZeroDivisionError):
            train_run(tmp_path / "divided", two, tiny_cache, FOLD, wanted="cpu")
    train_run(tmp_path / "divided", four, tiny_cache, FOLD, wanted="cpu")
    config = yaml.safe_load((tmp_path / "divided" / "config.yaml").read_text())
    assert config["changes"] == [
        {"step": 2, "settings.accumulate": {"from": 2, "to": 4}, "settings.batch": {"from": 2, "to": 1}}
    ]
    one, other = (load_file(tmp_path / name / "last.safetensors") for name in ("whole", "divided"))
    for name in one:
        torch.testing.assert_close(one[name], other[name], atol=2e-4, rtol=2e-3)


@pytest.mark.slow
def test_a_validation_without_a_lesion_has_no_dice_and_says_so(tiny_cache, tmp_path, capsys, monkeypatch) -> None:
    fold = Fold(name="0", train=("case0", "case1"), validate=("case3",))
    run = tmp_path / "run"
    words = command(run, tiny_cache, tmp_path, tiny_training(), "--start", "x")[3:-2]
    split = json.loads((tmp_path / "split.json").read_text())
    split["folds"][0] |= {"train": list(fold.train), "validate": list(fold.validate)}
    (tmp_path / "split.json").write_text(json.dumps(split))
    assert main(["train", *words]) == 0
    printed = capsys.readouterr()
    assert "none of the 1 cases that are validated has a lesion" in printed.err
    assert printed.out.endswith("validation Dice n/a: no validated case has a lesion\n")
    assert [line.get("dice", "none") for line in lines(run)] == ["none", None, "none", None]
    assert json.loads((run / "run.json").read_text())["validation"]["dice"] is None
    assert "NaN" not in (run / "log.jsonl").read_text() + (run / "run.json").read_text()
    with pytest.raises(ConfigError, match="keep: best needs a lesion"):
        train_run(tmp_path / "best", tiny_training(keep="best"), tiny_cache, fold, wanted="cpu")


@pytest.mark.slow
def test_a_validation_that_overflows_is_computed_in_float32(tiny_cache, tmp_path, monkeypatch) -> None:
    from training.judging import predict

    real, seen = predict.margin, []

    def overflowing(network, study, settings, device):
        seen.append(device.precision)
        out = real(network, study, settings, device)
        return out if device.precision == torch.float32 else out * float("nan")

    monkeypatch.setattr("training.judging.validation.margin", overflowing)
    settings = tiny_training(precision="bfloat16", schedule=SCHEDULE | {"epochs": 2, "steps_per_epoch": 1})
    result = train_run(tmp_path / "run", settings, tiny_cache, FOLD, wanted="cpu")
    assert seen == [torch.bfloat16, torch.float32] and 0 <= result["validation"]["dice"] <= 1


def test_weights_that_are_not_finite_are_not_written_as_the_result(tiny_cache, tmp_path, monkeypatch) -> None:
    def poisoned(run: Run, state: object) -> None:
        next(run.network.parameters()).data.fill_(float("nan"))

    monkeypatch.setattr("training.runs.train.train", poisoned)
    with pytest.raises(TrainingError, match="not finite after step 8"):
        train_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, wanted="cpu")
    assert not {"last.safetensors", "run.json"} & {path.name for path in (tmp_path / "run").iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize(("optimizer", "precision"), [("adamw", "float32"), ("adamp", "bfloat16")])
def test_training_lowers_the_loss(optimizer: str, precision: str, tiny_cache, tmp_path) -> None:
    settings = tiny_training(
        schedule={"epochs": 6, "warmup_epochs": 1, "steps_per_epoch": 10},
        augmentation="none",
        batch=2,
        optimizer={"name": optimizer, "rate": 1e-2},
        crops={"size": [16, 16, 16], "pairs": True},
        precision=precision,
        channels_last=True,
        loss={"batch_dice": True},
    )
    train_run(tmp_path / "run", settings, tiny_cache, FOLD, wanted="cpu")
    assert lines(tmp_path / "run")[-1]["loss"] < 0.8 * lines(tmp_path / "run")[0]["loss"]


def test_a_ct_encoder_is_loaded_into_the_ct_encoder_only(tmp_path) -> None:
    settings = tiny_training()
    torch.manual_seed(77)
    other = build(settings.network).get_submodule("ct_encoder").state_dict()
    write_weights(tmp_path / "ct.safetensors", other)
    state = starting_network(settings, None, tmp_path / "ct.safetensors").state_dict()
    fresh = starting_network(settings, None, None).state_dict()
    for name in state:
        same_as = other[name.removeprefix("ct_encoder.")] if name.startswith("ct_encoder.") else fresh[name]
        assert torch.equal(state[name], same_as)


@pytest.mark.slow
def test_wrong_starts_are_refused(base, tiny_cache, tmp_path) -> None:
    with pytest.raises(ConfigError, match="a member needs --start"):
        train_run(tmp_path / "a", member(), tiny_cache, FOLD, wanted="cpu")
    with pytest.raises(ConfigError, match="ended at epoch 4, averaging.start is 3"):
        train_run(tmp_path / "b", changed(member(), {"averaging": {"start": 3}}), tiny_cache, FOLD, start=base)
    with pytest.raises(ConfigError, match="the run ends at epoch 4"):
        train_run(tmp_path / "e", changed(member(), {"schedule": {"epochs": 4}}), tiny_cache, FOLD, start=base)
    wide = changed(member(), {"network": {"widths": [4, 4, 8]}})
    with pytest.raises(ConfigError, match="does not fit the network"):
        train_run(tmp_path / "c", wide, tiny_cache, FOLD, start=base, wanted="cpu")
    write_weights(tmp_path / "ct.safetensors", {})
    with pytest.raises(ConfigError, match=r"no config.yaml beside it, which says whose CT it was trained on"):
        train_run(tmp_path / "f", tiny_training(), tiny_cache, FOLD, ct_encoder=tmp_path / "ct.safetensors")
    with pytest.raises(ConfigError, match="exclude each other"):
        train_run(tmp_path / "d", member(), tiny_cache, FOLD, start=base, ct_encoder=tmp_path / "x")


@pytest.mark.slow
def test_an_imagenet_encoder_is_loaded_only_into_the_encoder_of_slices(tiny_cache, tmp_path) -> None:
    settings = tiny_slices()
    torch.manual_seed(77)
    other = build(settings.network).get_submodule("encoder").state_dict()
    write_weights(tmp_path / "timm.safetensors", other)
    run = tmp_path / "run"
    train_run(
        run,
        changed(settings, {"schedule": {"epochs": 2, "stop": 1, "warmup_epochs": 0, "steps_per_epoch": 1}}),
        tiny_cache,
        FOLD,
        encoder=tmp_path / "timm.safetensors",
        wanted="cpu",
    )
    state = starting_network(settings, None, None, tmp_path / "timm.safetensors").state_dict()
    fresh = starting_network(settings, None, None).state_dict()
    for name in state:
        same_as = other[name.removeprefix("encoder.")] if name.startswith("encoder.") else fresh[name]
        assert name.endswith("num_batches_tracked") or torch.equal(state[name], same_as), name
    assert yaml.safe_load((run / "config.yaml").read_text())["start"]["encoder"].endswith("timm.safetensors")
    with pytest.raises(ConfigError, match="--encoder is for networks for slices"):
        train_run(tmp_path / "v", tiny_training(), tiny_cache, FOLD, encoder=tmp_path / "timm.safetensors")
    with pytest.raises(ConfigError, match="exclude each other"):
        train_run(tmp_path / "b", settings, tiny_cache, FOLD, encoder=tmp_path / "timm.safetensors", start=run)
    with pytest.raises(ConfigError, match="encoder '.*gone' is not there"):
        train_run(tmp_path / "g", settings, tiny_cache, FOLD, encoder=tmp_path / "gone")


@pytest.mark.slow
def test_a_base_run_whose_weights_changed_is_refused_as_a_start(base, tiny_cache, tmp_path) -> None:
    moved = shutil.copytree(base, tmp_path / "base")
    write_weights(moved / "last.safetensors", {n: t + 1 for n, t in load_file(base / "last.safetensors").items()})
    with pytest.raises(WeightsError, match="sha256 .*, its run ended with .*; train the base run again"):
        train_run(tmp_path / "m", member(), tiny_cache, FOLD, start=moved, wanted="cpu")
    assert not (tmp_path / "m").exists()


@pytest.mark.slow
def test_a_start_that_has_seen_the_held_out_cases_is_refused(base, tiny_cache, tmp_path) -> None:
    swapped = Fold(name="s", train=FOLD.validate, validate=("case0",), test=())
    with pytest.raises(ConfigError, match=r"trained on 1 of the 1 cases to validate or test with.*\(case0\)"):
        train_run(tmp_path / "run", member(), tiny_cache, swapped, start=base, wanted="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_last_line_of_the_command_names_a_wrong_setting(tiny_cache, tmp_path) -> None:
    run = command(tmp_path / "run", tiny_cache, tmp_path, tiny_training())
    (tmp_path / "settings.yaml").write_text("batsch: 1\n")
    done = warm.run(*run)
    assert done.returncode == ConfigError.exit_code and not (tmp_path / "run").exists()
    assert done.stderr.splitlines()[-1].startswith("error: ") and "batsch" in done.stderr.splitlines()[-1]


def test_errors_are_found_before_the_run_folder_is_made(tiny_cache, tmp_path) -> None:
    with pytest.raises(ConfigError, match="training prepare"):
        train_run(tmp_path / "run", tiny_training(), tmp_path / "no-cache", FOLD, wanted="cpu")
    with pytest.raises(ConfigError, match="no training case"):
        train_run(tmp_path / "run", tiny_training(), tiny_cache, Fold(name="0", train=(), validate=()), wanted="cpu")
    mixed = tmp_path / "mixed"
    shutil.copytree(tiny_cache, mixed)
    facts = json.loads((mixed / "case1" / "study.json").read_text())
    (mixed / "case1" / "study.json").write_text(json.dumps(facts | {"crop": {"suv_above": 9.0}}))
    with pytest.raises(ConfigError, match="prepared with several crops"):
        train_run(tmp_path / "run", tiny_training(), mixed, FOLD, wanted="cpu")
    with pytest.raises(ConfigError, match="CT encoder '.*gone' is not there"):
        train_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, ct_encoder=tmp_path / "gone", wanted="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_the_cache_may_move_and_other_studies_in_its_place_are_refused(base, tiny_cache, tmp_path) -> None:
    shutil.copytree(tiny_cache, tmp_path / "moved")
    shutil.copytree(base, tmp_path / "base")
    train_run(tmp_path / "base", tiny_training(), tmp_path / "moved", FOLD, wanted="cpu")
    facts = json.loads((tmp_path / "moved" / FOLD.train[0] / "study.json").read_text())
    (tmp_path / "moved" / FOLD.train[0] / "study.json").write_text(json.dumps(facts | {"sha256": "0" * 64}))
    with pytest.raises(ConfigError, match=r"other settings \(data\)"):
        train_run(tmp_path / "base", tiny_training(), tmp_path / "moved", FOLD, wanted="cpu")


@pytest.fixture(scope="module")
def slices(tiny_cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "slices"
    train_run(folder, tiny_slices(keep="best"), tiny_cache, FOLD, wanted="cpu")
    return folder


@pytest.mark.slow
def test_a_network_for_slices_is_trained_by_the_same_command_and_its_best_weights_are_kept(slices) -> None:
    result = json.loads((slices / "run.json").read_text())
    validated = {line["epoch"]: line["dice"] for line in lines(slices) if "dice" in line}
    assert validated.keys() == {2, 4} and result["result"] == "best.safetensors" and result["epoch"] == 4
    best = min(epoch for epoch, dice in validated.items() if dice == max(validated.values()))
    assert result["kept_epoch"] == best and result["validation"]["dice"] == validated[best]
    assert set(load_file(slices / "best.safetensors")) == set(build(tiny_slices().network).state_dict())


@pytest.mark.slow
def test_the_losses_weights_are_learned_at_their_own_rate(slices) -> None:
    state = torch.load(slices / "checkpoint.pt", weights_only=True)
    assert (state["loss"]["scales"] != 1).all()
    groups = state["optimizer"]["param_groups"]
    assert [group["lr"] for group in groups] == [pytest.approx(groups[0]["lr"]), 1e-4] and groups[0]["lr"] != 1e-4
    assert groups[1]["weight_decay"] == 0 and groups[0]["betas"] == (0.5, 0.999)


@pytest.mark.slow
def test_a_run_on_slices_that_was_stopped_ends_with_the_same_weights(slices, tiny_cache, tmp_path, monkeypatch) -> None:
    import training.judging.validation as module

    def stop(self, epoch: int, figures: dict) -> dict:
        if epoch == 3:
            raise KeyboardInterrupt
        return found(self, epoch, figures)

    found = module.Validation.__call__
    monkeypatch.setattr(module.Validation, "__call__", stop)
    with pytest.raises(KeyboardInterrupt):
        train_run(tmp_path / "run", tiny_slices(keep="best"), tiny_cache, FOLD, wanted="cpu")
    monkeypatch.undo()
    result = train_run(tmp_path / "run", tiny_slices(keep="best"), tiny_cache, FOLD, wanted="cpu")
    assert result["sha256"] == json.loads((slices / "run.json").read_text())["sha256"]
    kept, expected = (torch.load(f / "checkpoint.pt", weights_only=True)["network"] for f in (tmp_path / "run", slices))
    assert all(torch.equal(kept[name], expected[name]) for name in expected)


@pytest.mark.slow
def test_an_average_of_networks_for_slices_has_statistics_of_its_own(slices, tiny_cache, tmp_path) -> None:
    """The mean's statistics are made anew: they are not the mean of the statistics."""
    settings = changed(
        tiny_slices(),
        {
            "schedule": {"epochs": 7},
            "averaging": {"start": 4, "length_epochs": 1, "constant": 5e-4, "peak": 1e-3},
        },
    )
    train_run(tmp_path / "m", settings, tiny_cache, FOLD, start=slices, wanted="cpu")
    kept = load_file(tmp_path / "m" / "mean.safetensors")
    mean = torch.load(tmp_path / "m" / "checkpoint.pt", weights_only=True)["average"]["mean"]
    assert torch.equal(kept["decoder.blocks.0.conv1.0.weight"], mean["decoder.blocks.0.conv1.0.weight"].float())
    assert not torch.allclose(kept["encoder.stem.bn.running_var"], mean["encoder.stem.bn.running_var"].float())


def test_keeping_the_best_without_a_lesion_to_validate_is_refused(tiny_cache, tmp_path) -> None:
    healthy = Fold(name="0", train=("case0",), validate=("case3",), test=())
    with pytest.raises(ConfigError, match="keep: best needs a lesion in the 1 cases"):
        train_run(tmp_path / "run", tiny_slices(keep="best"), tiny_cache, healthy, wanted="cpu")


ON_BOTH = pytest.mark.parametrize("wanted", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])


def as_on_a_gpu(wanted: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a CPU the loop and the crops do what they do on a GPU: look seldom, decide on the device, draw ahead."""
    if wanted == "cuda" and not torch.cuda.is_available():
        pytest.skip("no NVIDIA GPU here")
    if wanted == "cpu":
        monkeypatch.setattr(loop, "on_gpu", lambda run: True)
        monkeypatch.setattr(DeviceCrops, "batches", partialmethod(DeviceCrops.batches, ahead=True))


def deterministic(**changes: object):
    """Settings of a run with everything that may differ from run to run: crops by a thread, noise, batch statistics."""
    network = {"fusion": "middle", "widths": [2, 2, 4], "norm": "batch"}
    common = {"crops_on": "device", "augmentation": "strong", "channels_last": True, "batch": 2, "deterministic": True}
    return tiny_training(**{"network": network, "log_every": 3} | common | changes)


@ON_BOTH
@pytest.mark.slow
def test_two_deterministic_runs_end_with_the_same_weights(wanted: str, tiny_cache, tmp_path, monkeypatch) -> None:
    as_on_a_gpu(wanted, monkeypatch)
    one, other = (train_run(tmp_path / name, deterministic(), tiny_cache, FOLD, wanted=wanted) for name in "ab")
    assert one["sha256"] == other["sha256"]


@ON_BOTH
@pytest.mark.slow
@pytest.mark.parametrize("name", ["adamw", "adamp", "adabelief"])
def test_a_run_that_died_on_a_device_ends_with_the_same_weights(
    name: str, wanted: str, tiny_cache, tmp_path, monkeypatch
) -> None:
    as_on_a_gpu(wanted, monkeypatch)
    settings = deterministic(optimizer={"name": name, "rate": 1e-3})
    whole = train_run(tmp_path / "whole", settings, tiny_cache, FOLD, wanted=wanted)
    written: list[Path] = []

    def die(path: Path, state: dict) -> None:
        checkpoint.write_state(path, state)
        written.append(path)
        if len(written) == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(loop, "write_state", die)
        with pytest.raises(KeyboardInterrupt):
            train_run(tmp_path / "died", settings, tiny_cache, FOLD, wanted=wanted)
    done = train_run(tmp_path / "died", settings, tiny_cache, FOLD, wanted=wanted)
    assert done["sha256"] == whole["sha256"]
    assert [line["loss"] for line in lines(tmp_path / "whole")] == [line["loss"] for line in lines(tmp_path / "died")]


@pytest.mark.parametrize("deterministic", [True, False])
def test_deterministic_chooses_the_ways_of_cudnn_and_tf32_stays_off(deterministic: bool) -> None:
    try:
        choose_convolutions(tiny_training(deterministic=deterministic))
        cudnn = torch.backends.cudnn
        assert (cudnn.deterministic, cudnn.benchmark) == (deterministic, not deterministic)
        assert not cudnn.allow_tf32 and not torch.backends.cuda.matmul.allow_tf32
    finally:
        choose_convolutions(tiny_training())
