"""The least time that any version of a network can take here: its operations over the machine's matrix rate.

    python -m benchmark.roofline                                        # the paper's network at 160^3 and 192^3
    python -m benchmark.roofline --widths 4 16 32 48 64 --windows 64

Operations are multiplications and additions, counted without running the network. The matrix rate is that of the
fastest of several products of two large matrices, in float32 on a CPU and float16 on a GPU, on the threads in use.
"""

import time

import torch

from benchmark.command import joined, parser_for
from benchmark.record import figure, print_and_write, record, table
from model.bundle.network import Network
from model.inference.device import choose_device
from model.networks.operations import operations

EDGE = {"cpu": 2048, "cuda": 8192}  # of the matrices
SECONDS = 2.0  # how long the rate is measured


def main() -> None:
    parser = parser_for(__doc__, "fusion", "widths", "device")
    parser.add_argument("--windows", type=int, nargs="+", default=(160, 192), help="edges in voxels (default 160 192)")
    options = parser.parse_args()
    network = Network(fusion=options.fusion, widths=tuple(options.widths))
    rate = matrix_rate(choose_device(options.device).torch_device)
    rows, figures = [], {"matrix rate": figure([rate / 1e9], "GFLOP/s", "more")}
    for edge in options.windows:
        count = operations(network, (edge, edge, edge))
        rows.append([f"{edge}^3", f"{count / 1e12:.3g}", f"{count / rate:.3g}"])
        figures[f"roofline at {edge}^3"] = figure([count / rate], "s")
    printed = [
        f"{options.fusion} fusion, widths {joined(options.widths)}; matrix rate {rate / 1e9:.4g} GFLOP/s",
        "",
        *table(["window", "TFLOP", "roofline, s"], rows),
    ]
    print_and_write(record("The roofline: one window of one network", printed, figures), options.json)


def matrix_rate(device: torch.device, edge: int | None = None, seconds: float = SECONDS) -> float:
    """Floating-point operations a second in the fastest of the matrix products that fit into `seconds`."""
    edge = edge or EDGE[device.type]
    gpu = device.type == "cuda"
    one = torch.rand(edge, edge, device=device, dtype=torch.float16 if gpu else torch.float32)
    best, begun = float("inf"), time.perf_counter()
    while best == float("inf") or time.perf_counter() - begun < seconds:
        start = time.perf_counter()
        one @ one
        if gpu:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - start)
    return 2 * edge**3 / best


if __name__ == "__main__":
    main()
