import os
from pathlib import Path

import pytest

from model.errors import CaseError, ConfigError
from training.parallel import over


def square(number: int) -> int:
    return number * number


def whose(number: int) -> int:
    return os.getpid()


def refuse(number: int) -> int:
    raise CaseError(f"case {number} is bad")


def die(number: int) -> int:
    os._exit(9)


@pytest.mark.parametrize("workers", [1, 2])
def test_results_come_in_the_order_of_the_items(workers: int) -> None:
    assert list(over(square, [3, 1, 2], workers)) == [9, 1, 4]


def test_one_worker_is_this_process_and_more_are_not() -> None:
    assert set(over(whose, [1, 2], 1)) == {os.getpid()}
    assert os.getpid() not in set(over(whose, [1, 2], 2))


def test_what_the_function_raises_is_raised_here() -> None:
    with pytest.raises(CaseError, match="case 1 is bad"):
        list(over(refuse, [1, 2], 2))


def test_a_process_that_is_killed_is_told_with_the_remedy() -> None:
    with pytest.raises(ConfigError, match="fewer --workers"):
        list(over(die, [1, 2], 2))


def test_no_workers_are_refused() -> None:
    with pytest.raises(ConfigError, match="--workers must be at least 1, got 0"):
        list(over(square, [1], 0))


def test_nothing_to_do_is_no_error(tmp_path: Path) -> None:
    assert list(over(square, [], 4)) == []
