"""One study, the same weights, in turn: ours, the authors' way with MONAI, and nnU-Net v2's predictor.

    python -m benchmark.inference                                    # 400 x 400 x 326, four full networks: for a GPU
    python -m benchmark.inference --size 200 200 160 --widths 4 16 32 48 64 --windows 96 --runs 3
    python -m benchmark.inference --size 48 40 44 --widths 2 4 --windows 32 --runs 1 --json toy.json

The study is synthetic and the weights are random: time and memory do not depend on either. Four networks vote with
weights 2, 1, 1, 1. MONAI's loop runs with four passes, which is equal work, and with five: the authors' container runs
the first network twice. Every run is a process of its own. Contenders run in turn, another one first each time. Seconds
are medians, from the process's start to its end; memory is the most of any run; agreement is that of the mask that is
least like ours. "x roofline" is the networks' seconds over those of benchmark.roofline for four passes. A contender
that cannot take part is named.

nnU-Net takes part where --nnunet names the Python of an environment that has it (benchmark/requirements.txt says how):

    python3.11 -m venv .nnunet && .nnunet/bin/pip install -r requirements.txt
    .nnunet/bin/pip install --no-deps -r benchmark/requirements.txt

With --folds or --model the bundle is one of nnU-Net v2's kind instead, and its contender nnU-Net's whole predictor on
the same model's folder: preprocessing, resampling, folds, mirroring.

    python -m benchmark.inference --folds 5 --windows 192                # ResEnc L, random weights; mirroring off, on
    python -m benchmark.inference --model Dataset221/nnUNetTrainer__... --mirroring on
    python -m benchmark.inference --folds 2 --size 80 72 60 --widths 4 8 16 --windows 32 --runs 1      # a minute
"""

import argparse
import contextlib
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from benchmark.command import PAPER_WIDTHS, joined, parser_for
from benchmark.contenders.monai import Task
from benchmark.contenders.start import MODULES, find_contenders, run_in_turn
from benchmark.inference_tables import figures_of, least_agreement, tables
from benchmark.nnunet_models import RESENC_L, dataset_of, residual_plans, write_model
from benchmark.record import figure, print_and_write, record
from benchmark.roofline import EDGE, matrix_rate
from benchmark.synthetic import EXTENT_MM, ct_size_for, make_bundle, make_study
from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.inference.device import choose_device
from model.networks.operations import operations
from training.__main__ import main as training


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """One table: what it is called, the task, the network, its window, and the passes of a window."""

    what: str
    task: Task
    network: Network
    window: tuple[int, int, int]
    passes: int = 1


def main() -> None:
    options = arguments()
    device = choose_device(options.device)
    rate = matrix_rate(device.torch_device, options.matrix)
    found, absent = find_contenders(options.only, options.nnunet, of_folder=of_nnunet(options), float32=options.float32)
    printed, figures = [text for line in absent for text in (line, "")], {}
    figures["matrix rate"] = figure([rate / 1e9], "GFLOP/s", "more")
    ct_size = tuple(options.ct or ct_size_for(options.size))
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_study(folder / "study", tuple(options.size), ct_size, compressed=True)
        compare = models if of_nnunet(options) else four_networks
        for number, one in enumerate(compare(options, folder, device.torch_device.type)):
            (folder / f"masks-{number}").mkdir()
            runs = run_in_turn(found, one.task, options.runs, folder / f"masks-{number}")
            count = runs["ours"][0]["windows"] * one.passes
            roofline_s = count * operations(one.network, one.window) / rate
            agreements = {name: least_agreement(measured, runs["ours"]) for name, measured in runs.items()}
            printed += [*tables(one.what, runs, agreements, roofline_s), ""]
            figures |= figures_of(one.what, runs, agreements, roofline_s)
    title = (
        f"Inference: PET of {joined(options.size, ' x ')} voxels, CT of {joined(ct_size, ' x ')}, {networks(options)}, "
        f"{device.name}"
    )
    print_and_write(record(title, printed, figures), options.json)


def arguments() -> argparse.Namespace:
    parser = parser_for(__doc__, "size", "widths", "device")
    add = parser.add_argument
    add("--ct", type=int, nargs=3, help="CT voxels x y z (default: 1.28, 1.28 and 1.84 times those of PET)")
    add("--windows", type=int, nargs="+", default=(192, 160), help="window edges in voxels (default 192 160)")
    add("--runs", type=int, default=3, help="runs of each contender; medians are printed (default 3)")
    add("--gpu-gb", type=float, help="GB of the GPU's memory that a contender may take, 14 for a T4 (default: all)")
    add("--only", nargs="+", choices=MODULES, default=tuple(MODULES), help="who takes part, ours always (default: all)")
    add("--nnunet", help="Python of an environment with nnU-Net v2 (default .nnunet/bin/python if it exists)")
    add("--matrix", type=int, help=f"edge of the matrices that measure the matrix rate (default {EDGE})")
    add(
        "--folds",
        type=int,
        help="compare a model of nnU-Net v2's kind of so many folds, random weights; widths of "
        "ResEnc L unless --widths says otherwise (default: four networks of the project's own kind)",
    )
    add("--model", type=Path, help="compare this folder of a model of nnU-Net v2 (plans.json, fold_*), all its folds")
    add(
        "--mirroring",
        nargs="+",
        choices=("off", "on"),
        default=("off", "on"),
        help="of such a model: off, on (eight passes a window), or both in turn (default both)",
    )
    add("--float32", action="store_true", help="ours takes part in float32, too: how far do the masks differ?")
    options = parser.parse_args()
    if options.folds is not None and not 1 <= options.folds <= 20:
        parser.error(f"--folds must be from 1 to 20, got {options.folds}")
    if options.folds and tuple(options.widths) == PAPER_WIDTHS:
        options.widths = RESENC_L["widths"]
    return options


def of_nnunet(options: argparse.Namespace) -> bool:
    """Whether a model of nnU-Net's kind is compared."""
    return bool(options.folds or options.model)


def networks(options: argparse.Namespace) -> str:
    """What is compared, in words."""
    if options.model:
        return f"nnU-Net's model {options.model.name}"
    if options.folds:
        return f"residual-encoder U-Net of widths {joined(options.widths)}, folds: {options.folds}"
    return f"four networks of widths {joined(options.widths)}"


def four_networks(options: argparse.Namespace, folder: Path, device: str) -> Iterator[Comparison]:
    """Four networks of the project's own kind, for each size of windows."""
    network = Network(fusion="middle", widths=tuple(options.widths))
    for edge in options.windows:
        bundle = make_bundle(folder / f"bundle-{edge}", network, edge)
        task = Task(str(folder / "study"), str(bundle), "", edge, 0, device, options.gpu_gb)
        yield Comparison(what=f"{edge}^3", task=task, network=network, window=(edge, edge, edge))


def models(options: argparse.Namespace, folder: Path, device: str) -> Iterator[Comparison]:
    """A model of nnU-Net's kind, for each size of windows without and with mirroring."""
    spacing = tuple(mm / n for mm, n in zip(EXTENT_MM, options.size, strict=True))
    for edge in [None] if options.model else options.windows:
        model = options.model
        if edge is not None:
            plans, dataset = residual_plans(options.widths, edge, spacing), dataset_of() | {"file_ending": ".mha"}
            model = write_model(folder / f"model-{edge}", plans, dataset, range(options.folds), half=True)
        for mirroring in options.mirroring:
            name = f"bundle-{edge or 'model'}-{mirroring}"
            bundle = bundle_of(model, folder, name, mirroring == "on")
            part = load_bundle(bundle).manifest
            window, axes = part.window.size, len(part.window.mirrored)
            yield Comparison(
                what=f"{joined(window, ' x ')}, mirroring {mirroring}",
                task=Task(
                    str(folder / "study"), str(bundle), "", window[0], 0, device, options.gpu_gb, str(model), axes > 0
                ),
                network=part.network,
                window=window,
                passes=2**axes,
            )


def bundle_of(model: Path, folder: Path, name: str, mirroring: bool) -> Path:
    """The bundle of a model's folder, as `training import` makes it."""
    words = [] if mirroring else ["--no-mirroring"]
    command = ["import", str(model), "--name", name, "--output-folder", str(folder), "--licence", "MIT", *words]
    with contextlib.redirect_stdout(sys.stderr):
        if code := training(command):
            raise SystemExit(code)
    return folder / name


if __name__ == "__main__":
    main()
