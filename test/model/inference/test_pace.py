"""The time that a study will take, by a clock that the test moves."""

import pytest
from nnunet_bundles import nnunet_bundle

from model.bundle.choice import chosen_members
from model.bundle.settings import Part
from model.inference.pace import Pace, TimeEstimate
from model.terminal import counted, duration


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def announced(bundle, windows: int, pass_s: list[float], on_gpu: bool = False) -> list[TimeEstimate]:
    """What is said when passes of the first network take so many seconds."""
    clock, found = Clock(), []
    pace = Pace(bundle, lambda part: windows, found.append, clock=clock)
    part: Part = bundle.manifest.part(bundle.manifest.members[0])
    for seconds in pass_s:
        clock.now += seconds
        pace.passed(part, 1, on_gpu)
    return found


def test_it_is_the_time_of_a_pass_times_all_passes_and_the_first_does_not_count() -> None:
    (found,) = announced(nnunet_bundle("01234"), 96, [40.0, 3.0, 3.0])
    assert found.seconds == pytest.approx(5 * 8 * 96 * 3.0)
    assert found.cheaper is not None
    assert found.cheaper[0] == "--folds 0 --mirroring none" and found.cheaper[1] == pytest.approx(96 * 3.0)
    assert found.words() == (
        "about 3.2 h on this CPU (40 passes of 96 windows); --folds 0 --mirroring none: about 5 min"
    )


def test_there_is_no_cheaper_choice_below_one_pass() -> None:
    bundle = chosen_members(nnunet_bundle("01"), ("1",), "none")
    (found,) = announced(bundle, 96, [1.0, 10.0], on_gpu=True)
    assert found.words() == "about 16 min on this GPU (1 pass of 96 windows)"


def test_nothing_is_said_before_five_seconds_or_of_a_run_below_a_minute() -> None:
    bundle = nnunet_bundle("0")
    assert announced(bundle, 1000, [9.0, *[0.4] * 12]) == []
    assert len(announced(bundle, 1000, [9.0, *[0.4] * 13])) == 1
    assert announced(bundle, 1, [5.0] * 8) == []  # 8 passes, 40 s
    assert announced(bundle, 1000, [9.0]) == []


def test_a_slower_network_that_comes_later_is_announced_too() -> None:
    bundle, clock, found = nnunet_bundle("0"), Clock(), []
    pace = Pace(bundle, lambda part: 96, found.append, clock=clock)
    part = bundle.manifest.part(bundle.manifest.members[0])
    for on_gpu, seconds in ((True, 5.0), (False, 7.0), (False, 60.0)):  # memory ran out: the rest is on the CPU
        for _ in range(2):
            clock.now += seconds
            pace.passed(part, 1, on_gpu)
    assert [one.device for one in found] == ["GPU", "CPU"]
    assert found[1].seconds == pytest.approx(8 * 96 * 7.0)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (45, "45 s"), (99.6, "2 min"), (300, "5 min"), (5400, "90 min"), (6000, "1.7 h"), (10800, "3 h")]
    + [(108_000, "30 h")],
)
def test_a_duration_has_the_unit_of_everyday_speech(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_nouns_agree_with_their_number() -> None:
    assert [counted(1, "pass"), counted(2, "pass"), counted(0, "window"), counted(1, "window")] == [
        "1 pass",
        "2 passes",
        "0 windows",
        "1 window",
    ]
