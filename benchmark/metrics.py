"""Dice, FPV and FNV: ours against autoPET's published evaluation as a loop over components; equality and time.

    python -m benchmark.metrics                      # about 2 minutes on one core
    python -m benchmark.metrics --size 120 120 100 --lesions 40 --phantoms 0

The loop is written from the published formulas: label the components, take each one's mask, multiply it with the
other mask, add its voxels where the product is empty. The original labels with cc3d; here both sides label with
SciPy, and the last column is the ratio when the loop's labelling is not counted at all. Ends with exit code 1 if
any number differs, or if the large mask is not done ten times as fast.
"""

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from model.results.metrics import score

VOXEL_ML = 2.04 * 2.04 * 3 / 1000  # autoPET's PET
WHOLE_BODY = (400, 400, 326)  # x, y, z
AIM = 10  # times as fast as the loop, on the large mask
CONNECTIVITY_18 = np.abs(np.indices((3, 3, 3)) - 1).sum(axis=0) <= 2
Mask = NDArray[np.bool_]
Three = tuple[float, float, float]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--size", type=int, nargs=3, default=WHOLE_BODY, help="voxels x y z of the large mask (default 400 400 326)")
    add("--lesions", type=int, default=160, help="lesions drawn into the large mask (default 160)")
    add("--random", type=int, default=200, help="pairs of random 24 x 24 x 24 masks (default 200)")
    add("--phantoms", type=int, default=3, help="phantoms, from seed 200300 on (default 3)")
    add("--runs", type=int, default=3, help="times each is run; the medians are compared (default 3)")
    options = parser.parse_args()
    sets: list[tuple[str, Iterator[tuple[Mask, Mask]], int]] = [
        (f"{options.random} random pairs, 24 x 24 x 24", random_pairs(options.random), 1),
        (f"{options.phantoms} phantoms", phantom_pairs(options.phantoms), options.runs),
        (" x ".join(map(str, options.size)), large_pair(tuple(options.size[::-1]), options.lesions), options.runs),
    ]
    print("| masks | components predicted, true | equal | loop, s | ours, s | ratio | ratio without its labelling |")
    print("|---|---|---|---|---|---|---|")
    wrong = 0
    for name, pairs, runs in sets:
        found = [compare(predicted, truth, runs) for predicted, truth in pairs]
        if found:
            wrong += sum(not one["equal"] for one in found)
            print(row(name, found), flush=True)
    slow = ratio(found) < AIM  # the large mask is the last
    if slow:
        print(f"the large mask: {ratio(found):.1f} times as fast as the loop, the aim is {AIM}", file=sys.stderr)
    return 1 if wrong or slow else 0


def published(predicted: Mask, truth: Mask, voxel_ml: float) -> tuple[Three, float, tuple[int, int]]:
    """Dice, FPV ml, FNV ml, one component after the other; seconds spent on labelling; components of both."""
    labelling_s, counts, lone = 0.0, [], []
    for mask, other in ((predicted, truth), (truth, predicted)):
        begun = time.perf_counter()
        labels, count = ndimage.label(mask, structure=CONNECTIVITY_18)
        labelling_s += time.perf_counter() - begun
        voxels = 0
        for number in range(1, count + 1):
            component = labels == number
            if (component * other).sum() == 0:
                voxels += int(component.sum())
        counts.append(count)
        lone.append(voxels * voxel_ml)
    total = int(predicted.sum()) + int(truth.sum())
    dice = 2 * int((predicted * truth).sum()) / total if total else float("nan")
    return (dice, lone[0], lone[1]), labelling_s, (counts[0], counts[1])


def ours(predicted: Mask, truth: Mask, voxel_ml: float) -> Three:
    scores = score(predicted, truth, voxel_ml)
    return scores.dice, scores.fpv_ml, scores.fnv_ml


def compare(predicted: Mask, truth: Mask, runs: int) -> dict[str, Any]:
    """Both on one pair of masks: whether all three numbers are the same to the last bit, and medians of seconds."""
    loops, labelling, quick = [], [], []
    for _ in range(runs):
        (numbers, labelling_s, counts), loop_s = timed(lambda: published(predicted, truth, VOXEL_ML))
        mine, our_s = timed(lambda: ours(predicted, truth, VOXEL_ML))
        loops.append(loop_s)
        labelling.append(labelling_s)
        quick.append(our_s)
    return {
        "equal": np.array_equal(numbers, mine, equal_nan=True),
        "components": counts,
        "loop_s": statistics.median(loops),
        "ours_s": statistics.median(quick),
        "rest_s": statistics.median(loop - label for loop, label in zip(loops, labelling, strict=True)),
    }


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    begun = time.perf_counter()
    result = call()
    return result, time.perf_counter() - begun


def ratio(found: list[dict[str, Any]]) -> float:
    """The loop's seconds over ours, of a set of pairs."""
    return float(sum(one["loop_s"] for one in found) / sum(one["ours_s"] for one in found))


def row(name: str, found: list[dict[str, Any]]) -> str:
    """A line of the table: sums over the pairs of a set."""
    loop_s, our_s, rest_s = (sum(one[key] for one in found) for key in ("loop_s", "ours_s", "rest_s"))
    counts = [sum(one["components"][side] for one in found) for side in (0, 1)]
    equal = f"{sum(one['equal'] for one in found)} of {len(found)}"
    return (
        f"| {name} | {counts[0]}, {counts[1]} | {equal} | {loop_s:.3g} | {our_s:.3g} | {ratio(found):.1f} | "
        f"{rest_s / our_s:.1f} |"
    )


def random_pairs(count: int) -> Iterator[tuple[Mask, Mask]]:
    """Voxels set at random, from none to most of them; some masks are empty."""
    rng = np.random.default_rng(0)
    for _ in range(count):
        shares = rng.choice([0.0, 0.001, 0.01, 0.05, 0.2, 0.6], 2)
        yield rng.random((24, 24, 24)) < shares[0], rng.random((24, 24, 24)) < shares[1]


def phantom_pairs(count: int) -> Iterator[tuple[Mask, Mask]]:
    """Truths of phantoms; the prediction is PET above SUV 4, which holds organs too and misses faint lesions."""
    from training.phantom.study import TEST_SEEDS_FROM, make_phantom

    for seed in range(TEST_SEEDS_FROM + 300, TEST_SEEDS_FROM + 300 + count):
        phantom = make_phantom(seed, "A", "positive")
        yield phantom.pet > 4, phantom.truth.astype(bool)


def large_pair(shape: tuple[int, ...], lesions: int) -> Iterator[tuple[Mask, Mask]]:
    """Balls of 1 to 8 voxels radius all over; a fifth only in the truth, a fifth only predicted, the rest shifted."""
    rng = np.random.default_rng(1)
    predicted, truth = np.zeros(shape, bool), np.zeros(shape, bool)
    for number in range(lesions):
        radius = rng.uniform(1, 8)
        centre = np.array([rng.uniform(10, edge - 10) for edge in shape])
        if number % 5 != 0:
            paint(truth, centre, radius)
        if number % 5 != 1:
            paint(predicted, centre + rng.uniform(-1, 1, 3), radius)
    yield predicted, truth


def paint(mask: Mask, centre: NDArray[np.float64], radius: float) -> None:
    low, high = np.floor(centre - radius).astype(int), np.ceil(centre + radius).astype(int) + 1
    box = tuple(slice(max(a, 0), b) for a, b in zip(low, high, strict=True))
    places = np.meshgrid(
        *[np.arange(s.start, min(s.stop, n)) for s, n in zip(box, mask.shape, strict=True)], indexing="ij"
    )
    mask[box] |= sum((p - c) ** 2 for p, c in zip(places, centre, strict=True)) <= radius**2


if __name__ == "__main__":
    sys.exit(main())
