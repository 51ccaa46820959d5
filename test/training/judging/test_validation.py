import pytest

from training.judging.validation import with_fewer_windows
from training.settings import settings_from


@pytest.mark.parametrize(("overlap", "between"), [(0.5, 0.25), (0.125, 0.125)])
def test_between_epochs_windows_are_few_and_not_mirrored(overlap: float, between: float) -> None:
    size = [32, 32, 32]
    settings = settings_from({"window": {"size": size, "overlap": overlap, "mirrored": ["z"]}, "crops": {"size": size}})
    found = with_fewer_windows(settings)
    assert found.window.overlap == between and found.window.mirrored == () and settings.window.mirrored == ("z",)
    assert found.changed_to(window=settings.window) == settings
