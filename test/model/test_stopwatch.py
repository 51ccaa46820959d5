from model import stopwatch as module
from model.stopwatch import Stopwatch


def test_a_stage_within_another_is_not_counted_to_it(monkeypatch) -> None:
    times = iter([0.0, 1.0, 4.0, 10.0])  # outer begins, inner begins, inner ends, outer ends
    monkeypatch.setattr(module.time, "perf_counter", lambda: next(times))
    watch = Stopwatch()
    with watch.stage("outer"), watch.stage("inner"):
        pass
    assert watch.seconds == {"inner": 3.0, "outer": 7.0}


def test_stages_of_one_name_are_added_and_the_gpu_is_waited_for() -> None:
    waited = []
    watch = Stopwatch(wait=lambda: waited.append(1))
    for _ in range(3):
        with watch.stage("a"):
            pass
    assert list(watch.seconds) == ["a"] and len(waited) == 6
