import pickle
from pathlib import Path

import pytest
from conftest import ROOT

from model.bundle.network import Network
from model.errors import ConfigError
from training.settings import Averaging, Crops, Training, changed, read_settings, settings_from, settings_to


def test_defaults_are_the_papers() -> None:
    settings = Training()
    assert settings.network == Network(fusion="middle", widths=(32, 32, 64, 128, 256))
    assert settings.crops.size == (160, 160, 160) and settings.window.overlap == 0.5
    assert settings.optimizer.name == "adamp" and settings.optimizer.rate == 1e-4
    assert settings.optimizer.betas == (0.9, 0.999) and settings.optimizer.weight_decay == 0.05
    assert settings.schedule.epochs == 1000 and settings.batch * settings.accumulate == 8
    assert settings.suv_tops == (20, 40) and settings.loss.kind == "dice_focal" and settings.loss.gamma == 2


def test_zhong_yaml_is_what_the_paper_says_of_its_training() -> None:
    """Zhong et al., section 2.3."""
    settings = read_settings(ROOT / "training/configs/zhong.yaml")
    assert settings.network.fusion == "regnety_160" and settings.window.size == (256, 256, 1)
    assert (settings.whole_body.alpha, settings.whole_body.beta, settings.whole_body.overlap) == (1.0, 5, 0.25)
    assert settings.loss.kind == "dice_lovasz_bce" and settings.loss.weights_rate == 1e-4
    assert settings.optimizer.name == "adamw" and settings.optimizer.betas == (0.5, 0.999)
    assert (settings.optimizer.rate, settings.schedule.floor) == (1e-5, 1e-8)
    assert (settings.schedule.epochs, settings.schedule.stop, settings.schedule.warmup_epochs) == (100, 80, 0)
    assert settings.batch * settings.accumulate == 24 and settings.keep == "best"


def test_what_is_written_reads_back() -> None:
    settings = Training(averaging=Averaging(start=3, per_step=True), seed=5, crops=Crops(pairs=True))
    assert settings_from(settings_to(settings)) == settings


def test_settings_are_the_same_in_another_process() -> None:
    settings = Training(averaging=Averaging(constant=1e-5), crops=Crops(size=(32, 32, 16)))
    assert pickle.loads(pickle.dumps(settings)) == settings


def test_a_whole_number_stays_one_in_what_a_run_writes_down(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("intensity: {suv_top: 20}\nschedule: {warmup_epochs: 5}\n")
    plain = settings_to(read_settings(path))
    assert repr(plain["intensity"]["suv_top"]) == "20" and repr(plain["schedule"]["warmup_epochs"]) == "5"


def test_yaml_becomes_settings(tmp_path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("network: {fusion: early, widths: [2, 4]}\ncrops: {size: [16, 16, 16]}\nbatch: 1\n")
    settings = read_settings(path)
    assert settings.network.widths == (2, 4) and settings.crops.size == (16, 16, 16) and settings.batch == 1


def test_a_change_touches_only_what_it_names() -> None:
    settings = changed(Training(), {"optimizer": {"name": "adamw"}})
    assert settings.optimizer.name == "adamw" and settings.optimizer.weight_decay == 0.05
    assert changed(settings, {"optimizer": {"name": "adamp"}}) == Training()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("batsch: 2", "unknown keys: batsch"),
        ("optimizer: {name: sgd}", "name must be one of adamp, adamw, adabelief, got 'sgd'"),
        ("optimizer: {rate: -1}", "rate must be a number from 1e-12 to 10, got -1"),
        ("augmentation: huge", "augmentation must be one of none, weak, paper, strong, got 'huge'"),
        ("crops: {size: [160, 160]}", "crops.size must be a list of 3, each a whole number from 1"),
        ("crops: {size: [24, 24, 20]}", "must be multiples of 16"),
        ("crops: {size: [16, 16, 16]}", "must be above 16"),
        ("crops: {positive: 0, negative: 0}", "both 0"),
        ("crops_on: moon", "crops_on must be one of workers, device"),
        ("fixed_statistics: true", "fixed_statistics is for network.norm: batch"),
        ("network: {fusion: swin_unetr, widths: [24], norm: batch}", "norm is for U-Nets"),
        ("schedule: {epochs: 10, stop: 11, warmup_epochs: 1}", "stop must be from 1 to 10, got 11"),
        ("averaging: {start: -1}", "averaging.start must be a whole number from 0"),
        ("suv_tops: []", "suv_tops must be a list of one or more, each a number above 0, got"),
        ("seed: abc", "seed must be a whole number from 0 to 2147483648, got 'abc'"),
        ("flips: !!set {0: null, 1: null}", "holds a set"),
        ("batch: 1\nbatch: 2", "the key 'batch' stands twice"),
        ("a: &a [*a]", "nested too deep, or refers to itself"),
        ("[" * 3000, "is not YAML"),
        ("{1: 2}", "has unknown keys: 1; there are network, intensity"),
        ("schedule: {epochs: 10, warmup_epochs: 11}", "schedule: warmup_epochs must be at most 10"),
        ("batch: true", "batch must be a whole number"),
        ("batch: 1.5", "batch must be a whole number from 1 to 1000000, got 1.5"),
        ("channels_last: 'no'", "channels_last must be true or false, got 'no'"),
        ("crops: {pairs: 'no'}", "crops.pairs must be true or false"),
        ("loss: null", "loss must be a mapping, got None"),
        ("flips: 0", "flips must be a list, each a whole number from 0 to 2, got 0"),
        ("suv_tops: [.inf]", r"suv_tops\[0\] must be a number above 0, got inf"),
        (
            "optimizer: {rate: 5e-5}",
            "rate must be a number from 1e-12 to 10, got '5e-5'; write it .* in YAML as 5.0e-5",
        ),
        ("validate_at_most: -1", "validate_at_most must be a whole number from 1 to 1000000000 or null, got -1"),
        ("optimizer: 3", "must be a mapping"),
        ("{", "is not YAML"),
    ],
)
def test_a_wrong_setting_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message) as caught:
        read_settings(path)
    assert "wrong.yaml" in str(caught.value)


def test_a_missing_file_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="nothing.yaml"):
        read_settings(tmp_path / "nothing.yaml")
