import os
import signal
import time
from types import SimpleNamespace

import pytest

from model.errors import ConfigError
from training import stopping
from training.__main__ import COMMANDS, main
from training.stopping import STOP_AT, StoppedInTime, check_time, is_limited, limited, time_is_over


@pytest.fixture(autouse=True)
def no_limit(monkeypatch):
    monkeypatch.delenv(STOP_AT, raising=False)
    yield
    stopping._asked.clear()


def test_the_time_is_over_a_tenth_before_the_minutes_are(monkeypatch) -> None:
    """Of 1 minute 6 s are kept back, of 10 minutes 20 s; children of the process read the same moment."""
    now = time.time()
    for minutes, seconds in ((1, 54), (10, 580)):
        with limited(minutes):
            assert is_limited() and not time_is_over()
            monkeypatch.setattr(time, "time", lambda after=seconds: now + after - 2)
            assert not time_is_over()
            monkeypatch.setattr(time, "time", lambda after=seconds: now + after + 2)
            with pytest.raises(StoppedInTime, match=r"stopped in time: 3 of 4 are made; the same command goes on"):
                check_time("3 of 4 are made")
            monkeypatch.setattr(time, "time", lambda after=seconds: now + after - 30)
            check_time("3 of 4 are made", next_s=20)
            with pytest.raises(StoppedInTime):  # the fourth would take until the time is over
                check_time("3 of 4 are made", next_s=40)
            assert float(os.environ[STOP_AT]) == pytest.approx(now + seconds, abs=2)
        monkeypatch.setattr(time, "time", lambda: now)
    assert not is_limited() and not time_is_over()


def test_a_child_never_gets_more_time_than_its_parent() -> None:
    with limited(1):
        at = os.environ[STOP_AT]
        with limited(100):
            assert os.environ[STOP_AT] == at
        assert os.environ[STOP_AT] == at


@pytest.mark.parametrize("minutes", [0, -1, float("nan"), 1e9])
def test_minutes_that_are_no_time_are_refused(minutes: float) -> None:
    with pytest.raises(ConfigError, match="--minutes must be above 0"), limited(minutes):
        pass


def test_a_signal_asks_the_process_and_what_it_waits_for_to_stop(monkeypatch) -> None:
    monkeypatch.setattr(stopping, "_told", [lambda: told.append(1)])
    told: list[int] = []
    before = signal.getsignal(signal.SIGUSR1)
    try:
        stopping.stop_on_signal()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert time_is_over() and told == [1]
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_a_command_that_stops_in_time_ends_well_and_says_where(monkeypatch, capsys) -> None:
    def run(options):
        assert is_limited()
        raise StoppedInTime("stopped in time: step 3 of 8")

    def add_options(parser):
        stopping.add_minutes_option(parser)

    module = SimpleNamespace(run=run, add_options=add_options, __doc__="doc")
    monkeypatch.setattr("training.__main__.import_module", lambda _: module)
    before = signal.getsignal(signal.SIGUSR1)
    try:
        assert main([next(iter(COMMANDS)), "--minutes", "5"]) == 0
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert capsys.readouterr().out == "stopped in time: step 3 of 8\n" and not is_limited()
