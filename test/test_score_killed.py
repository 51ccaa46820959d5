"""A run that is killed at random moments: the next one goes on where it was, with the same results."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
from tiny_batches import contents, image_study, score, started
from warm import WarmProcess

KILLS = 10
STUDIES = 13  # more than runs that are killed can finish


@pytest.fixture(scope="module")
def studies(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("ward")
    for number in range(STUDIES):
        image_study(root / f"p{number}", seed=number)
    return root


@pytest.mark.slow
def test_after_ten_kills_the_results_are_the_same_as_without(studies, tiny_bundle, tmp_path) -> None:
    """Half the kills come at any time up to a run's first result, half while a result is written, or soon after."""
    whole, output = tmp_path / "whole", tmp_path / "killed"
    output.mkdir()
    (output / ".salt").write_text("0" * 32)
    whole.mkdir()
    (whole / ".salt").write_text("0" * 32)
    begun = time.time()
    assert score(studies, "--output", whole, "--weights", tiny_bundle).returncode == 0
    first_s = min(path.stat().st_mtime for path in (whole / "studies").iterdir()) - begun
    chance = random.Random(7)
    times: dict[str, int] = {}
    for number in range(KILLS):
        child = started(studies, "--output", output, "--weights", tiny_bundle)
        wait(child, output, number, chance, first_s)
        assert child.poll() is None, "it ended before it was killed"
        os.kill(child.pid, signal.SIGKILL)
        child.wait()
        for path in (output / "studies").glob("s-*"):  # complete, and never made again
            json.loads((path / "report.json").read_text())
            assert (
                times.setdefault(path.name, (path / "mask.mha").stat().st_mtime_ns)
                == (path / "mask.mha").stat().st_mtime_ns
            )
    last = score(studies, "--output", output, "--weights", tiny_bundle)
    assert last.returncode == 0, last.stderr
    assert {n: (output / "studies" / n / "mask.mha").stat().st_mtime_ns for n in times} == times
    assert contents(output, "summary.json") == contents(whole, "summary.json")
    assert not [path for path in output.rglob(".partial-*")]
    journal = [json.loads(line) for line in (output / "journal.jsonl").read_text().splitlines()]
    assert sorted(record["study"] for record in journal) == sorted(path.name for path in (output / "studies").iterdir())


def wait(child: WarmProcess, output: Path, number: int, chance: random.Random, first_s: float) -> None:
    """Until the moment to kill: at random before the first result, or a moment after its folder appears."""
    end = time.monotonic() + (chance.uniform(0, first_s) if number % 2 else 1e6)
    before = set((output / "studies").glob("*"))
    while child.poll() is None and time.monotonic() < end:
        if set((output / "studies").glob("s-*" if number % 4 else "*")) - before:  # whole, or being written
            time.sleep(chance.uniform(0, 0.05))
            return
        time.sleep(0.002)
