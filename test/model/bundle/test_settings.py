from collections.abc import Callable

import pytest
from msgspec.structs import replace

from model.bundle.network import BodyLevels, Network
from model.bundle.nnunet import UNetStage
from model.bundle.settings import Intensity, Limits, Part, Window, override_limits
from model.errors import ConfigError
from model.schema import build, to_plain

STAGES = to_plain([UNetStage(kernel=(3, 3, 3), stride=(s, s, s), blocks=1) for s in (1, 2)])


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


@pytest.mark.parametrize(
    ("network", "message"),
    [
        ({"fusion": "swin_unetr", "widths": (12,), "norm": "body"}, "norm is for U-Nets for volumes; swin_unetr has"),
        ({"fusion": "regnety_002", "widths": (8,) * 5, "norm": "body"}, "norm is for U-Nets for volumes; regnety_002"),
        ({"fusion": "plain_unet", "widths": (4, 4), "stages": STAGES, "norm": "body"}, "norm of plain_unet must be"),
        ({"fusion": "middle", "widths": (4, 4), "body": {"hu": -500}}, "body is for norm: body, and norm is instance"),
        ({"fusion": "plain_unet", "widths": (4, 4), "stages": STAGES, "body": {"suv": 1}}, "norm of plain_unet is"),
        ({"fusion": "middle", "widths": (4, 4), "norm": "body", "body": {"hu": "lung"}}, "body.hu must be a finite"),
    ],
)
def test_the_norm_over_the_body_is_refused_where_it_has_no_place(network: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(Network, network, "settings")


@pytest.mark.parametrize(
    ("body", "intensity", "message"),
    [
        ({}, {"ct_clip": True, "ct_low_hu": -160.0}, r"body.hu must lie from intensity.ct_low_hu, -160, .*got -700"),
        ({"suv": 5.0}, {"suv_clip": True, "suv_top": 5.0}, "body.suv must lie from 0 to below intensity.suv_top, 5,"),
        ({"suv": -1.0}, {"suv_clip": True}, "body.suv must lie from 0 .*got -1"),
    ],
)
def test_a_body_that_clipping_would_hide_is_refused(body: dict, intensity: dict, message: str) -> None:
    network = Network(fusion="middle", widths=(4, 4), norm="body", body=BodyLevels(**body))
    window = Window(size=(8, 8, 8))
    with pytest.raises(ConfigError, match=message):
        Part(network=network, intensity=Intensity(**intensity), window=window)
    clips = {name: False for name in ("ct_clip", "suv_clip")}
    assert Part(network=network, intensity=Intensity(**intensity | clips), window=window).network == network


def test_the_levels_of_the_body_are_written_only_where_they_are_not_the_default() -> None:
    """So that the hashes of earlier settings hold."""
    networks = [Network(fusion="middle", widths=(4, 4), norm="body", body=BodyLevels(hu=hu)) for hu in (-700.0, -600.0)]
    assert "body" not in to_plain(networks[0]) and to_plain(networks[1])["body"] == {"hu": -600.0, "suv": 0.2}
    assert [build(Network, to_plain(network), "settings") for network in networks] == networks


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
