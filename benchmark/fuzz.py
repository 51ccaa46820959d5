"""Mutated image files through the reader: `python -m benchmark.fuzz --count 10000 --seed 1`.

Case `number` of a seed is the same on every machine: a small good file of one of the formats, changed in one to three
ways. It is read as any study's image is (model.study.reading.read_volume), and what is accepted is held against
nibabel, pynrrd or a plain reader of MetaImage (benchmark/fuzz_reference.py). The reader runs in a process of its own,
so that a crash or an endless wait ends that one alone.

Classes: refused (with the file's name), equal (accepted, and the other reader reads the same values in the same
places), misread (accepted, and it does not, or refuses), traceback (any other exception), crash, hang, left (a file or
an open descriptor more than before). Returns 1 if there is any but the first two.
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
SHOWN = 10  # cases of a bad class that are printed

Outcome = tuple[str, str, str]  # class, what was done to which form, what was said


def one(seed: int, number: int, place: Path) -> Outcome:
    """One case, in an empty folder of its own that is removed."""
    dice = random.Random(f"{seed} {number}")
    form = FORMATS[number % len(FORMATS)]
    folder = place / "case"
    folder.mkdir()
    (place / "other.raw").write_bytes(bytes(4000))
    try:
        path, data = write(folder, form, dice)
        done = f"{form}: {mutate(path, data, dice)}"
        before = {p.name for p in folder.iterdir()}, open_files()
        kind, said = judge(path)
        after = {p.name for p in folder.iterdir()}, open_files()
        return ("left" if after != before else kind), done, said
    finally:
        shutil.rmtree(folder)


def judge(path: Path) -> tuple[str, str]:
    """The class of one file, and what was said of it."""
    try:
        volume = read_volume(path, "PET")
    except CaseError as error:
        return ("refused" if f"'{path}'" in str(error) else "traceback"), str(error)
    except Exception as error:
        return "traceback", f"{type(error).__name__}: {error}"
    try:
        said = difference(volume, read(path))
    except Exception as error:
        said = f"the other reader: {type(error).__name__}: {error}"
    return ("misread" if said else "equal"), said


def open_files() -> int:
    """How many descriptors this process has open."""
    return len(os.listdir("/proc/self/fd"))


def work(seed: int, first: int, count: int, place: str, answers: Connection) -> None:
    """Cases from `first` on, each answered when it is done."""
    import warnings

    warnings.simplefilter("ignore")
    for number in range(first, count):
        answers.send((number, one(seed, number, Path(place))))


def fuzz(count: int, seed: int, limit_s: float = LIMIT_S) -> list[tuple[int, Outcome]]:
    """All cases' outcomes, in order."""
    found: list[tuple[int, Outcome]] = []
    context = multiprocessing.get_context("spawn")  # the parent may have threads
    while len(found) < count:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            answers, end = context.Pipe(duplex=False)
            worker = context.Process(target=work, args=(seed, len(found), count, place, end), daemon=True)
            worker.start()
            end.close()
            found += _listen(answers, len(found), count, limit_s)
            worker.kill()
            worker.join()
            answers.close()
    return found


def _listen(answers: Connection, first: int, count: int, limit_s: float) -> list[tuple[int, Outcome]]:
    """What one worker answers, until it is done, dies or waits too long; the last two are its last case's outcome."""
    found: list[tuple[int, Outcome]] = []
    patience = limit_s + 60  # the first answer comes after the imports
    for number in range(first, count):
        try:
            if not answers.poll(patience):
                return [*found, (number, ("hang", "", f"no answer in {limit_s:g} s"))]
            found.append(answers.recv())
        except EOFError:
            return [*found, (number, ("crash", "", "the process ended"))]
        patience = limit_s
    return found


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmark.fuzz", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--count", type=int, default=300, help="cases (default: 300; cost: some 3 ms each)")
    parser.add_argument("--seed", type=int, default=1, help="which cases (default: 1)")
    parser.add_argument("--only", type=int, metavar="NUMBER", help="this case alone, and what was said (default: all)")
    options = parser.parse_args(arguments)
    begun = time.monotonic()
    if options.only is not None:
        with tempfile.TemporaryDirectory(prefix="fuzz-") as place:
            print(*one(options.seed, options.only, Path(place)), sep="\n")
        return 0
    found = fuzz(options.count, options.seed)
    counts = Counter(kind for _, (kind, _, _) in found)
    for kind in BAD:
        for number, (_, done, said) in [case for case in found if case[1][0] == kind][:SHOWN]:
            print(shown(f"{kind}: case {number}, {done}: {said}"))
    told = ", ".join(f"{counts[kind]} {kind}" for kind in (*GOOD, *BAD))
    print(f"seed {options.seed}, {len(found)} files, {time.monotonic() - begun:.0f} s: {told}")
    return 0 if sum(counts[kind] for kind in GOOD) == len(found) else 1


if __name__ == "__main__":
    sys.exit(main())
