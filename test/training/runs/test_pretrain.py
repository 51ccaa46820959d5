import json
from pathlib import Path

import pytest
import torch
import warm
import yaml
from safetensors.torch import load_file
from tiny_settings import tiny_training

from model.errors import ConfigError
from model.files import sha256_of
from training.__main__ import main
from training.data.folds import Fold
from training.runs import genesis, pretrain
from training.runs.pretrain import pretrain_run
from training.runs.start import starting_network
from training.settings import settings_to

FOLD = Fold(name="0", train=("case0", "case1"), validate=("case2",), test=("case3",))


@pytest.fixture(scope="module")
def done(tiny_cache, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ct"
    pretrain_run(folder, tiny_training(), tiny_cache, FOLD, "cpu")
    return folder


def lines(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]


def write_files(tmp_path: Path, settings: object) -> list[str]:
    """Settings and split as files, and the arguments that name them."""
    (tmp_path / "settings.yaml").write_text(yaml.safe_dump(settings_to(settings)))
    fold = {"name": "0", "train": ["case0"], "validate": [], "test": []}
    (tmp_path / "split.json").write_text(json.dumps({"folds": [fold]}))
    return [
        "--settings",
        str(tmp_path / "settings.yaml"),
        "--split",
        str(tmp_path / "split.json"),
        "--run",
        str(tmp_path / "run"),
        "--device",
        "cpu",
    ]


@pytest.mark.slow
def test_a_run_leaves_the_encoder_a_log_a_picture_and_its_settings(done) -> None:
    names = {path.name for path in done.iterdir()}
    assert names - {".lock"} == {
        "config.yaml",
        "log.jsonl",
        "checkpoint.pt",
        "reconstructions.png",
        "ct_encoder.safetensors",
        "run.json",
    }
    result = json.loads((done / "run.json").read_text())
    assert result["result"] == "ct_encoder.safetensors" and result["epoch"] == 4
    assert result["sha256"] == sha256_of(done / "ct_encoder.safetensors")
    assert ["reconstruction" in line for line in lines(done)] == [False, True, False, True]
    assert result["validation"]["reconstruction"] == lines(done)[-1]["reconstruction"]


@pytest.mark.slow
def test_the_picture_has_a_row_a_crop(done) -> None:
    from matplotlib.image import imread

    height, width, _ = imread(done / "reconstructions.png").shape
    assert width / height == pytest.approx(3 / 4, abs=0.02)  # 4 crops; original, distorted, restored


@pytest.mark.slow
def test_the_encoder_starts_a_base_run(done) -> None:
    network = starting_network(tiny_training(), None, done / "ct_encoder.safetensors")
    encoder = load_file(done / "ct_encoder.safetensors")
    state = network.get_submodule("ct_encoder").state_dict()
    assert state.keys() == encoder.keys() and all(torch.equal(state[name], encoder[name]) for name in state)


@pytest.mark.slow
def test_the_encoder_has_learned(done) -> None:
    torch.manual_seed(tiny_training().seed)
    fresh = genesis.network_for(tiny_training().network).get_submodule("encoder").state_dict()
    encoder = load_file(done / "ct_encoder.safetensors")
    assert all(not torch.equal(encoder[name], fresh[name]) for name in encoder if name.endswith("conv.weight"))


@pytest.mark.slow
def test_pretraining_lowers_the_loss_of_other_cases_too(tiny_cache, tmp_path) -> None:
    settings = tiny_training(
        schedule={"epochs": 3, "warmup_epochs": 1, "steps_per_epoch": 10},
        batch=2,
        validate_every=3,
        optimizer={"name": "adamw", "rate": 1e-2},
    )
    data = genesis.DistortedCrops(tiny_cache, FOLD.validate, settings)
    torch.manual_seed(0)
    untrained = genesis.network_for(settings.network)
    losses = [loss for _, loss in pretrain.restored(untrained, data, pretrain.device_for("float32", "cpu"))]
    result = pretrain_run(tmp_path / "run", settings, tiny_cache, FOLD, "cpu")
    log = lines(tmp_path / "run")
    assert log[-1]["loss"] < 0.7 * log[0]["loss"]
    assert result["validation"]["reconstruction"] < 0.7 * sum(losses) / len(losses)


def test_only_training_cases_are_trained_on(tiny_cache, tmp_path, monkeypatch) -> None:
    seen, box = set(), genesis.body_box
    monkeypatch.setattr(genesis, "body_box", lambda study, *given: seen.add(study.case) or box(study, *given))
    monkeypatch.setattr(pretrain, "validate", lambda *_: {})
    pretrain_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, "cpu")
    assert seen == set(FOLD.train)


def test_validation_crops_are_of_validation_cases(tiny_cache, tmp_path, monkeypatch) -> None:
    data = genesis.DistortedCrops(tiny_cache, FOLD.validate, tiny_training())
    network = genesis.network_for(tiny_training().network)
    cpu = pretrain.device_for("float32", "cpu")
    losses = [loss for _, loss in pretrain.restored(network, data, cpu)]
    with torch.no_grad():
        expected = [
            float(((network(given[None]).sigmoid()[0] - original) ** 2).mean())
            for given, original in (data[number] for number in range(8))
        ]
    assert losses == pytest.approx(expected, rel=1e-5)


def test_a_fold_without_validation_cases_is_no_error(tiny_cache, tmp_path) -> None:
    fold = Fold(name="all", train=("case0",), validate=())
    result = pretrain_run(tmp_path / "run", tiny_training(), tiny_cache, fold, "cpu")
    assert result["validation"] == {} and not (tmp_path / "run" / "reconstructions.png").exists()


@pytest.mark.slow
def test_an_interrupted_run_ends_with_the_same_encoder(done, tiny_cache, tmp_path, monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "validate", crash)
        pretrain_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, "cpu")
    assert not (tmp_path / "run" / "run.json").exists()
    pretrain_run(tmp_path / "run", tiny_training(), tiny_cache, FOLD, "cpu")
    one, other = (load_file(folder / "ct_encoder.safetensors") for folder in (done, tmp_path / "run"))
    assert all(torch.equal(one[name], other[name]) for name in one)
    assert [line["loss"] for line in lines(done)] == [line["loss"] for line in lines(tmp_path / "run")]


@pytest.mark.slow
def test_a_finished_run_is_not_done_again(done, tiny_cache) -> None:
    before = (done / "ct_encoder.safetensors").stat().st_mtime_ns
    result = pretrain_run(done, tiny_training(), tiny_cache, FOLD, "cpu")
    assert (done / "ct_encoder.safetensors").stat().st_mtime_ns == before
    assert result == json.loads((done / "run.json").read_text())


@pytest.mark.parametrize(
    ("changes", "fold", "message"),
    [
        ({"network": {"fusion": "early", "widths": [2, 2, 4]}}, FOLD, "'early': only 'middle' has a CT encoder"),
        ({"averaging": {"start": 2}}, FOLD, "averaging is set, and pre-training has none"),
        ({}, Fold(name="7", train=(), validate=("case0",)), "fold '7' has no training cases"),
        ({}, Fold(name="7", train=("absent",), validate=()), "run training prepare"),
    ],
)
def test_what_cannot_be_pretrained_is_refused_before_a_folder_is_made(
    changes: dict, fold: Fold, message: str, tiny_cache, tmp_path
) -> None:
    with pytest.raises(ConfigError, match=message):
        pretrain_run(tmp_path / "run", tiny_training(**changes), tiny_cache, fold, "cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_other_settings_in_the_same_folder_are_refused(done, tiny_cache) -> None:
    with pytest.raises(ConfigError, match=r"other settings \(settings\.seed\)"):
        pretrain_run(done, tiny_training(seed=9), tiny_cache, FOLD, "cpu")


@pytest.mark.slow
def test_the_command_pretrains_with_workers_of_its_own(tiny_cache, tmp_path) -> None:
    arguments = write_files(tmp_path, tiny_training(workers=1, schedule={"epochs": 1, "warmup_epochs": 0}))
    run = warm.run("-m", "training", "pretrain", "--cache", tiny_cache, *arguments)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.splitlines()[-1] == f"wrote '{tmp_path / 'run' / 'ct_encoder.safetensors'}'"
    assert (tmp_path / "run" / "ct_encoder.safetensors").exists()


@pytest.mark.parametrize("wrong", ["settings.yaml", "split.json"])
def test_the_last_line_of_the_command_says_what_is_wrong(wrong: str, tiny_cache, tmp_path, capsys) -> None:
    arguments = write_files(tmp_path, tiny_training())
    (tmp_path / wrong).write_text("batsch: 1\n")
    assert main(["pretrain", "--cache", str(tiny_cache), *arguments]) == ConfigError.exit_code
    message = capsys.readouterr().err.splitlines()[-1]
    assert message.startswith("error: ") and wrong in message and not (tmp_path / "run").exists()
