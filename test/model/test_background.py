import threading

import pytest

from model.background import prefetched


def test_everything_comes_in_order() -> None:
    assert list(prefetched(range(5), lambda n: n * n)) == [0, 1, 4, 9, 16] and list(prefetched([], str)) == []


def test_the_next_is_made_while_one_is_used_and_no_more_than_that() -> None:
    made = [threading.Event() for _ in range(4)]
    for number in prefetched(range(4), lambda n: made[n].set() or n):
        assert made[min(number + 1, 3)].wait(30)
        assert not any(event.is_set() for event in made[number + 2 :])


def test_an_error_is_raised_where_its_result_would_have_come() -> None:
    def make(number: int) -> int:
        if number == 2:
            raise ValueError("two")
        return number

    found = []
    with pytest.raises(ValueError, match="two"):
        for number in prefetched(range(4), make):
            found.append(number)
    assert found == [0, 1]


def test_who_stops_listening_leaves_no_thread_behind() -> None:
    before = threading.active_count()
    these = prefetched(range(100), lambda n: n)
    next(these)
    these.close()
    assert threading.active_count() == before
