"""What is done while a scheduler has no worker, with stand-ins for dask's futures; with real ones: test_engine.py."""

from types import SimpleNamespace

import pytest

from model import schedulers
from model.errors import ConfigError
from model.schedulers import as_completed


class Future:
    """A future that has ended when it was asked so many times."""

    def __init__(self, after: float, state: str = "finished") -> None:
        self.left, self.state = after, state

    @property
    def status(self) -> str:
        self.left -= 1
        return "pending" if self.left >= 0 else self.state


@pytest.fixture
def client(monkeypatch):
    """A client whose scheduler has so many workers, in turn, the last number for ever."""
    import distributed

    def waits(futures: list, timeout: float, return_when: str) -> None:
        clock[0] += 30
        raise TimeoutError

    def make(*counts: int) -> SimpleNamespace:
        left = list(counts)
        return SimpleNamespace(
            scheduler_info=lambda n_workers: {"workers": range(left.pop(0) if len(left) > 1 else left[0])}
        )

    clock = [0.0]
    monkeypatch.setattr(distributed, "wait", waits)
    monkeypatch.setattr(schedulers.time, "monotonic", lambda: clock[0])
    return make


def test_futures_come_as_they_end_also_ones_added_meanwhile(client) -> None:
    running, seen = {Future(4): "b", Future(0, "error"): "a"}, []
    for future in as_completed(client(1), running, 60):
        seen.append(running.pop(future))
        if seen == ["a"]:
            running[Future(0)] = "c"
    assert seen == ["a", "c", "b"]


def test_without_workers_it_warns_and_ends_after_the_limit(client, capsys) -> None:
    with pytest.raises(
        ConfigError,
        match=r"no worker is left, for 5.5 min .*--patience-minutes.*2 tasks wait for one.*"
        "the same command again",
    ):
        list(as_completed(client(1, 0), {Future(1e9): 1, Future(1e9): 2}, 300))
    assert capsys.readouterr().out.count("no worker at the scheduler; 2 tasks wait for one") == 5


def test_a_worker_that_comes_back_in_time_goes_on(client) -> None:
    running = {Future(30): "a"}
    for future in as_completed(client(1, 0, 0, 0, 1, 0, 0, 0, 1), running, 100):
        assert running.pop(future) == "a"


def test_queued_jobs_are_waited_for_without_a_limit_until_the_first_has_come(client) -> None:
    running = {Future(100): "a"}
    for future in as_completed(client(0), running, 60, queued=True):
        assert running.pop(future) == "a"
    with pytest.raises(ConfigError, match="no worker is left"):
        list(as_completed(client(*[0] * 50, 1, 0), {Future(1e9): "a"}, 60, queued=True))


def test_a_scheduler_that_is_lost_is_an_error(client) -> None:
    with pytest.raises(ConfigError, match="connection to the scheduler was lost; start it and its workers again"):
        list(as_completed(client(1), {Future(0): "a", Future(0, "cancelled"): "b"}, 60))
