from collections.abc import Callable

import pytest
from msgspec.structs import replace

from model.bundle.settings import Intensity, Limits, Network, Part, Window, override_limits
from model.errors import ConfigError


def test_a_limit_is_moved_by_name() -> None:
    assert override_limits(Limits(), ["pet_max_suv=2000"]).pet_max_suv == 2000


@pytest.mark.parametrize(
    "setting", ["pet=1", "pet_max_suv", "pet_max_suv=much", "pet_max_suv=nan", "ct_coverage_warn=2"]
)
def test_a_wrong_limit_is_refused(setting: str) -> None:
    with pytest.raises(ConfigError, match=f"--limit {setting}: "):
        override_limits(Limits(), [setting])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Limits(pet_max_suv="1000"),
        lambda: Limits(ct_coverage_warn=1.5),
        lambda: replace(Limits(), pet_max_suv=float("nan")),
        lambda: Network(fusion="middle", widths=[4, 4]),
        lambda: Network(fusion="middle", widths=(4, True)),
        lambda: Network(fusion="middle\n", widths=(4, 4)),
        lambda: Intensity(ct_clip=1),
        lambda: Window(size=(32, 32)),
        lambda: Window(size=(32, 32, 32), overlap=1),
        lambda: Part(
            network={"fusion": "middle", "widths": (4, 4)}, intensity=Intensity(), window=Window(size=(8,) * 3)
        ),
    ],
)
def test_what_code_builds_is_checked_as_what_a_file_says(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError, match=r"^\w+\.\w+.* must be .*, got "):
        make()


def test_slices_whose_air_would_be_body_are_refused() -> None:
    slices = Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4))
    with pytest.raises(ConfigError, match="ct_low_hu of slices must be below -500 HU, got -400"):
        Part(network=slices, intensity=Intensity(ct_clip=True, ct_low_hu=-400.0), window=Window(size=(64, 64, 1)))


def test_a_window_that_shrinks_is_the_least_multiple_that_holds_the_volume() -> None:
    """Two stages divide by 2; five by 16, so that 32 is the least."""
    wide = Network(fusion="middle", widths=(4, 8, 8, 8, 8))
    part = Part(network=wide, intensity=Intensity(), window=Window(size=(64, 64, 64), shrink=True))
    assert part.window_for((33, 48, 100)) == (48, 48, 64) and part.window_for((1, 16, 32)) == (32, 32, 32)
    assert part.fitted((32, 64, 48), (33, 40, 20)) == (32, 48, 32)
    still = Part(network=wide, intensity=Intensity(), window=Window(size=(64, 64, 64)))
    assert still.window_for((33, 48, 100)) == (64, 64, 64)
    with pytest.raises(ConfigError, match="window.shrink is for networks for volumes"):
        slices = Network(fusion="regnety_002", widths=(8, 8, 4, 4, 4))
        Part(network=slices, intensity=Intensity(), window=Window(size=(64, 64, 1), shrink=True))
