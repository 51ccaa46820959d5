"""GPU-hours of a plan: its steps times the seconds of a step, measured where a card was, by arithmetic elsewhere.

    python -m benchmark.training_hours                                          # training/configs/paper.yaml
    python -m benchmark.training_hours --results benchmark/results/gpu-2-window.json

measured: samples a second of benchmark.training for the plan's network and crops, among --results. from windows: where
there is no such result, three times a forward pass as it trains (`plain`, of benchmark.window, in half precision),
scaled by the operations of a crop: a step is a forward pass, and a backward pass of twice the operations. It has no
optimizer, no data and no norm's second reading in it. arithmetic: the longer of two times that no version can go below,
three forward passes' operations at the card's matrix rate, and three times what every layer reads and writes, in two
bytes a value, at its memory's bandwidth, both as the maker states them; then the same, times what the first measured
card takes above its own.
"""

import argparse
import re
import statistics
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmark.command import PAPER_WIDTHS, ROOT, joined, parser_for
from benchmark.record import print_and_write, read, record, table
from model.bundle.network import Network
from model.networks.operations import operations
from model.networks.unet import skeleton
from training.papers.plan import ExperimentPlan, read_plan
from training.settings import Training

PASSES = 3  # forward passes whose operations a step takes
SAMPLES = re.compile(r"ours(?: at (\d+)\^3)?: samples a second")
WINDOWS = re.compile(r"plain at (\d+)\^3")


@dataclass(frozen=True, kw_only=True)
class CardRates:
    """What its maker states. tflops: dense float16 products with sums in float32, 1e12 operations a second."""

    name: str
    tflops: float
    gb_per_s: float


CARDS = (  # NVIDIA's data sheets; matrix rates without sparsity
    CardRates(name="NVIDIA H200", tflops=989.5, gb_per_s=4800),
    CardRates(name="NVIDIA H100 80GB HBM3", tflops=989.5, gb_per_s=3350),
    CardRates(name="NVIDIA A100 80GB", tflops=312, gb_per_s=2039),
    CardRates(name="NVIDIA GeForce RTX 4090", tflops=165.2, gb_per_s=1008),
    CardRates(name="NVIDIA T4", tflops=65, gb_per_s=320),
)


@dataclass(frozen=True, kw_only=True)
class Work:
    """Steps of a plan: the base run's, and all members'; samples (crops) of a step."""

    base_steps: int
    member_steps: int
    samples: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Seconds of a step on a card, and how they were found."""

    card: str
    seconds: float
    how: str


def main() -> None:
    parser = parser_for(__doc__)
    add = parser.add_argument
    add("--plan", type=Path, default=ROOT / "training/configs/paper.yaml", help="default training/configs/paper.yaml")
    add("--cases", type=int, help="studies that train (default: the plan's phantoms to train)")
    add("--results", type=Path, nargs="*", help="files of benchmark results (default: all in benchmark/results)")
    options = parser.parse_args()
    plan = read_plan(options.plan)
    paths = sorted((ROOT / "benchmark/results").glob("*.json")) if options.results is None else options.results
    print_and_write(hours(plan, options, [read(path) for path in paths]), options.json)


def hours(plan: ExperimentPlan, options: argparse.Namespace, results: list[dict[str, Any]]) -> dict[str, Any]:
    """The table, as the result of this command."""
    work, settings = work_of(plan, options.cases), plan.base
    size = settings.crops.size
    step_operations = PASSES * work.samples * operations(settings.network, size)
    step_bytes = PASSES * work.samples * bytes_read_and_written(settings.network, size)
    rows, above = [], None
    for one in measured(settings, work, results):
        rows.append([one.card, one.how, *cells(one.seconds, work)])
        card = next((card for card in CARDS if card.name == one.card), None)
        if card and above is None:
            above = one.seconds / least_seconds(card, step_operations, step_bytes), one
    for card in CARDS:
        least = least_seconds(card, step_operations, step_bytes)
        rows.append([card.name, "arithmetic: at least", *cells(least, work)])
        if above and card.name != above[1].card:
            how = f"arithmetic: {above[0]:.1f} times that, as the {above[1].card.removeprefix('NVIDIA ')}"
            rows.append([card.name, how, *cells(above[0] * least, work)])
    printed = [
        f"{options.plan.name}: {settings.network.fusion} fusion, widths {joined(settings.network.widths)}, crops of "
        f"{joined(size, ' x ')}, {work.samples} a step: {step_operations / 1e12:.1f} TFLOP and {step_bytes / 1e9:.0f} "
        f"GB read and written; {work.base_steps} steps of the base run, {work.member_steps} of "
        f"{len(plan.members)} members",
        "",
        *table(["card", "from", "seconds a step", "hours of the base run", "of the members", "in all"], rows),
    ]
    return record("GPU-hours of a plan", printed, {})


def work_of(plan: ExperimentPlan, cases: int | None) -> Work:
    """Steps of the plan's base run and members. cases: studies that train; None: the plan's phantoms."""
    cases = cases or sum(count for kind in (plan.phantoms, plan.on_maps) for _, count in kind.get("train", {}).values())
    base, members = plan.base, plan.member_settings().values()

    def steps(settings: Training, first: int) -> int:
        samples = settings.batch * settings.accumulate
        return (settings.schedule.last - first) * (settings.schedule.steps_per_epoch or -(-cases // samples))

    return Work(
        base_steps=steps(base, 0),
        member_steps=sum(steps(member, base.schedule.last) for member in members),
        samples=base.batch * base.accumulate,
    )


def measured(settings: Training, work: Work, results: list[dict[str, Any]]) -> list[Measured]:
    """What GPUs took for these settings: a step of training where it was measured, else forward passes."""
    steps: dict[str, Measured] = {}
    windows: dict[str, Measured] = {}
    for result in results:
        card = result["machine"]["gpu"]
        if not card or words_after("--widths", result, PAPER_WIDTHS) != settings.network.widths:
            continue
        for name, one in result["figures"].items():
            value = statistics.median(one["values"])
            if result["benchmark"] == "training" and (found := SAMPLES.fullmatch(name)):
                edge = int(found[1] or words_after("--crop", result, (160,))[0])
                if settings.crops.size == (edge,) * 3:
                    steps[card] = Measured(card=card, seconds=work.samples / value, how="measured")
            elif result["benchmark"] == "window" and (found := WINDOWS.fullmatch(name)):
                edge, batch = int(found[1]), words_after("--batch", result, (1,))[0]
                share = operations(settings.network, settings.crops.size) / operations(settings.network, (edge,) * 3)
                seconds = PASSES * work.samples * share * value / batch
                how = f"measured forward passes of {edge}^3, times {PASSES}"
                windows[card] = Measured(card=card, seconds=seconds, how=how)
    return list((windows | steps).values())


def words_after(option: str, result: dict[str, Any], default: tuple[int, ...]) -> tuple[int, ...]:
    """The numbers behind an option of the command that measured."""
    words = result["command"].split()
    if option not in words:
        return default
    numbers = []
    for word in words[words.index(option) + 1 :]:
        if not word.isdigit():
            break
        numbers.append(int(word))
    return tuple(numbers)


def least_seconds(card: CardRates, step_operations: float, step_bytes: float) -> float:
    """The longer of the times that products and memory take at the rates of the card's maker."""
    return max(step_operations / (1e12 * card.tflops), step_bytes / (1e9 * card.gb_per_s))


def bytes_read_and_written(network: Network, size: tuple[int, int, int]) -> int:
    """What every layer of a forward pass of one crop reads and writes, in two bytes a value, without its weights."""
    values = 0

    def count(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += sum(one.numel() for one in inputs if isinstance(one, Tensor)) + output.numel()

    with torch.device("meta"):
        image = torch.empty(1, 2, *size)
    whole = skeleton(network).to("meta").eval()
    for module in whole.modules():
        if not list(module.children()):
            module.register_forward_hook(count)
    with torch.no_grad():
        whole(image)
    return 2 * values


def cells(seconds: float, work: Work) -> list[str]:
    """Seconds of a step, and hours of the base run, of the members, and of both."""
    base, members = (seconds * steps / 3600 for steps in (work.base_steps, work.member_steps))
    return [f"{seconds:.3f}", f"{base:.1f}", f"{members:.1f}", f"{base + members:.1f}"]


if __name__ == "__main__":
    main()
