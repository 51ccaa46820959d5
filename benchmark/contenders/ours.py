"""Our own way, the steps of process.py, in a process of its own; benchmark.inference starts it."""

import json
import os
import sys
import time
from pathlib import Path
from threading import Thread

from benchmark.contenders.clock import age_s
from model.background import run_in_background
from model.bundle.manifest import load_bundle
from model.bundle.settings import Limits
from model.challenge.run import get_ready
from model.files import peak_memory_bytes
from model.results.writing import write_mask
from model.study.reading import read_case
from model.whole import Staging


def main() -> None:
    """One study from the command line's task, a benchmark.contenders.monai.Task; prints what was measured as JSON."""
    started_s, start = age_s(), time.perf_counter()
    task = json.loads(sys.argv[1])
    bundle = load_bundle(Path(task["bundle"]))
    checked = time.perf_counter()
    threads: list[Thread] = []

    def get_ready_limited() -> None:
        from benchmark.contenders.monai import limit_gpu

        limit_gpu(task["gpu_gb"])
        get_ready(bundle.manifest, task["device"])

    case = read_case([Path(task["study"])], Limits(), lambda: threads.append(run_in_background(get_ready_limited)))
    read = time.perf_counter()

    import torch

    from benchmark.contenders.monai import limit_gpu
    from model.inference.device import choose_device, make_deterministic
    from model.inference.options import SegmentOptions
    from model.inference.segment import make_ready, segment_ready
    from model.stopwatch import Stopwatch

    limit_gpu(task["gpu_gb"])  # again here, where an error ends the process
    make_deterministic()
    device = choose_device(task["device"], task["precision"])
    gpu = device.torch_device.type == "cuda"
    imports = started_s + time.perf_counter() - read
    seconds = {"import": imports, "weights": checked - start, "read": read - checked}
    ready = make_ready(case, bundle, Stopwatch(seconds=seconds))
    watch = Stopwatch(seconds=seconds, wait=torch.cuda.synchronize if gpu else lambda: None)
    with watch.stage("import"):
        for thread in threads:
            thread.join()
    result = segment_ready(ready, SegmentOptions(bundle=bundle, device=device), watch)
    with watch.stage("write"), Staging() as staging:
        write_mask(result.mask, case.pet.grid, Path(task["mask"]), staging)
        staging.commit()
    print(
        json.dumps(
            {
                "seconds": watch.seconds,
                "peak_bytes": peak_memory_bytes(),
                "peak_gpu_bytes": torch.cuda.max_memory_allocated() if gpu else None,
                "rung": result.rung,
                "windows": result.windows,
                "threads": torch.get_num_threads(),
                "precision": str(device.precision).removeprefix("torch."),
            }
        ),
        flush=True,
    )


if __name__ == "__main__":
    main()
    os._exit(0)  # as process.py does
