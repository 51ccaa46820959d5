"""Functions that other processes can import by name, for tests of what runs in parallel."""

import os
import time

from model.errors import CaseError


def square(number: int) -> int:
    return number * number


def whose(number: int) -> int:
    return os.getpid()


def refuse(number: int) -> int:
    raise CaseError(f"case {number} is bad")


def die(number: int) -> int:
    os._exit(9)


def sleep(number: int) -> int:
    print(os.getpid(), flush=True)
    time.sleep(60)
    return number
