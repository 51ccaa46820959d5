"""Mutated image files through the reader: `python -m benchmark.fuzz --count 10000 --seed 1`.

A case is a small good file of one of the formats, changed in one to three ways. Case `number` of a seed is the same on
every machine. The file is read as any image of a study (model.study.reading.read_volume); if it is accepted, nibabel,
pynrrd or a plain reader of MetaImage must read the same (benchmark/fuzz_reference.py). Cases run in a process of their
own, so that a crash or an endless wait does not end this one.

Outcomes: refused (with the file's name in the message), equal (accepted, and the other reader reads the same values in
the same places), misread (accepted, but the other reader differs or fails), traceback (any other exception), crash,
hang, left (a file or an open descriptor is left behind). Ends with exit code 1 if any outcome is not refused or equal.
"""

import argparse
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path

from benchmark.fuzz_files import FORMATS, write
from benchmark.fuzz_mutations import mutate
from benchmark.fuzz_reference import difference, read
from model.errors import CaseError, shown
from model.study.reading import read_volume

LIMIT_S = 20.0  # for one case
GOOD, BAD = ("refused", "equal"), ("misread", "traceback", "crash", "hang", "left")
MOST_PRINTED = 10  # cases of each bad outcome

Outcome = tuple[str, str, str]  # its kind, the format and the changes, the message


def run_case(seed: int, number: int, folder: Path) -> Outcome:
    """One case, in a new folder that is removed afterwards."""
    dice = random.Random(f"{seed} {number}")
    form = FORMATS[number % len(FORMATS)]
    case = folder / "case"
    case.mkdir()
    (folder / "other.raw").write_bytes(bytes(4000))
    try:
        path, data = write(case, form, dice)
        changes = f"{form}: {mutate(path, data, dice)}"
        before = {p.name for p in case.iterdir()}, open_files()
        kind, message = outcome_of(path)
        after = {p.name for p in case.iterdir()}, open_files()
        return ("left" if after != before else kind), changes, message
    finally:
        shutil.rmtree(case)


def outcome_of(path: Path) -> tuple[str, str]:
    """The kind of outcome for one file, and the message."""
    try:
        volume = read_volume(path, "PET")
    except CaseError as error:
        return ("refused" if f"'{path}'" in str(error) else "traceback"), str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    try:
        message = difference(volume, read(path))
    except Exception as error:
        message = f"the other reader: {type(error).__name__}: {error}"
    return ("misread" if message else "equal"), message


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def run_cases(seed: int, first: int, count: int, folder: str, answers: Connection) -> None:
    """Run the cases from `first` on, and send each outcome when it is done."""
    import warnings

    warnings.simplefilter("ignore")
    for number in range(first, count):
        answers.send((number, run_case(seed, number, Path(folder))))


def fuzz(count: int, seed: int, limit_s: float = LIMIT_S) -> list[tuple[int, Outcome]]:
    """All cases' outcomes, in order."""
    found: list[tuple[int, Outcome]] = []
    context = multiprocessing.get_context("spawn")  # the parent may have threads
    while len(found) < count:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            answers, end = context.Pipe(duplex=False)
            worker = context.Process(target=run_cases, args=(seed, len(found), count, folder, end), daemon=True)
            worker.start()
            end.close()
            found += _receive(answers, len(found), count, limit_s)
            worker.kill()
            worker.join()
            answers.close()
    return found


def _receive(answers: Connection, first: int, count: int, limit_s: float) -> list[tuple[int, Outcome]]:
    """The outcomes that one worker sends. If it dies or takes too long, that is the outcome of its last case."""
    found: list[tuple[int, Outcome]] = []
    wait_s = limit_s + 60  # the first outcome comes after the imports
    for number in range(first, count):
        try:
            if not answers.poll(wait_s):
                return [*found, (number, ("hang", "", f"no answer in {limit_s:g} s"))]
            found.append(answers.recv())
        except EOFError:
            return [*found, (number, ("crash", "", "the process ended"))]
        wait_s = limit_s
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="cases (default: 300; cost: some 3 ms each)")
    parser.add_argument("--seed", type=int, default=1, help="which cases (default: 1)")
    parser.add_argument(
        "--only", type=int, metavar="NUMBER", help="run this case alone and print its message (default: all)"
    )
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    if options.only is not None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
            print(*run_case(options.seed, options.only, Path(folder)), sep="\n")
        return 0
    found = fuzz(options.count, options.seed)
    counts = Counter(kind for _, (kind, _, _) in found)
    for kind in BAD:
        for number, (_, changes, message) in [case for case in found if case[1][0] == kind][:MOST_PRINTED]:
            print(shown(f"{kind}: case {number}, {changes}: {message}"))
    totals = ", ".join(f"{counts[kind]} {kind}" for kind in (*GOOD, *BAD))
    print(f"seed {options.seed}, {len(found)} files, {time.monotonic() - begun:.0f} s: {totals}")
    return 0 if sum(counts[kind] for kind in GOOD) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
