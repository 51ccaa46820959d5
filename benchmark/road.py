"""Seconds and memory of everything but the network: from opening the inputs to the renamed mask.

    python -m benchmark.road                        # 400 x 400 x 326 PET, 512 x 512 x 600 CT
    python -m benchmark.road --pet 100 100 80 --ct 128 128 150 --runs 3

Makes the study (synthetic), runs it once so that the page cache is warm, then --runs times, each in a process of its
own, uncompressed and compressed. Imports, weights and the network are not counted: in the network's place a threshold
makes the mask. Memory is the process's peak before the network would start.
"""

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from benchmark.record import child, figure, record, table, told
from model.bundle.format import Manifest, Member, Provenance
from model.bundle.manifest import Bundle
from model.bundle.settings import Crop, Intensity, Limits, Network, Window
from model.files import Staging, peak_memory_bytes
from model.inference.preprocess import place, put_back
from model.inference.segment import image_of
from model.results.writing import mask_path, write_mask
from model.stopwatch import Stopwatch
from model.study.geometry import grid_of
from model.study.reading import read_case

EXTENT_MM = (815.0, 815.0, 978.0)  # of the PET: 400 x 400 x 326 voxels of 2.04 x 2.04 x 3 mm
CT_EXTENT_MM = (700.0, 700.0, 978.0)
KINDS = ("uncompressed", "compressed")
STAGES = ("read", "resample", "crop", "intensity", "paste", "write")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--pet", type=int, nargs=3, default=(400, 400, 326), help="PET voxels x y z (default 400 400 326)")
    add("--ct", type=int, nargs=3, default=(512, 512, 600), help="CT voxels x y z (default 512 512 600)")
    add("--runs", type=int, default=5, help="runs of each kind; the median is printed (default 5)")
    add("--json", type=Path, help="also write the figures here")
    add("--one", type=Path, help=argparse.SUPPRESS)  # what a child process runs
    options = parser.parse_args()
    if options.one:
        print(json.dumps(one_run(options.one)))
        return
    rows, figures = [], {}
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as place:
            make_study(Path(place) / "study", tuple(options.pet), tuple(options.ct), kind == "compressed")
            runs = [child("--one", Path(place) / "study") for _ in range(options.runs + 1)][1:]
        stages = {name: [run["stages"][name] for run in runs] for name in ("total", *STAGES)}
        peak_gb = [run["peak_bytes"] / 1e9 for run in runs]
        rows.append([kind, *(f"{statistics.median(values):.2f}" for values in stages.values()), f"{max(peak_gb):.2f}"])
        figures |= {f"{kind}: {name}": figure(values, "s") for name, values in stages.items()}
        figures[f"{kind}: memory"] = figure(peak_gb, "GB")
    sizes = (" x ".join(map(str, size)) for size in (options.pet, options.ct))
    title = "Everything but the network: PET of {} voxels, CT of {}".format(*sizes)
    head = ["input", "total, s", *STAGES, "peak GB before the network"]
    told(record(title, [f"Medians of {options.runs}", "", *table(head, rows)], figures), options.json)


def one_run(folder: Path) -> dict[str, object]:
    """One study through the road, with a threshold in the network's place."""
    watch = Stopwatch()
    bundle = stand_in()
    begun = time.perf_counter()
    with watch.stage("read"):
        case = read_case([folder], Limits())
    ready = place(case, bundle.manifest.crop.suv_above, watch)
    with watch.stage("intensity"):
        image = image_of(ready.hu, ready.suv, bundle.manifest.part(bundle.manifest.members[0]))
    peak_bytes = peak_memory_bytes()
    paused = time.perf_counter()
    margin = (image[1] > 0.1).numpy()  # the network would run here
    resumed = time.perf_counter()
    with watch.stage("paste"):
        mask = put_back(ready, margin)
    with watch.stage("write"), Staging() as staging:
        target = mask_path(folder / "output", case.name, 2)
        write_mask(mask, case.pet.grid, target, staging)
        staging.commit()
    total = time.perf_counter() - begun - (resumed - paused)
    return {"stages": watch.seconds | {"total": total}, "peak_bytes": peak_bytes}


def stand_in() -> Bundle:
    """A bundle of the default settings, for the stages that need one; its network is never built."""
    manifest = Manifest(
        format_version=1,
        name="stand-in",
        kind="volumes",
        network=Network(fusion="middle", widths=(4, 4)),
        channels=("CT", "PET"),
        intensity=Intensity(),
        crop=Crop(),
        window=Window(size=(64, 64, 64)),
        method="eoa",
        members=(Member(file="none.safetensors", sha256="0" * 64),),
        intended_use="benchmark",
        licence="MIT",
        provenance=Provenance(data="none", commit="", date="", scores={}, attribution=""),
    )
    return Bundle(folder=Path("."), manifest=manifest, sha256="")


def make_study(folder: Path, pet_size: tuple[int, ...], ct_size: tuple[int, ...], compressed: bool) -> None:
    """A noisy ellipsoid of water in air as PET (float32 SUV) and CT (int16 HU), written as MHA."""
    rng = np.random.default_rng(0)
    for what, size, extent in (("pet", pet_size, EXTENT_MM), ("ct", ct_size, CT_EXTENT_MM)):
        axes = [np.linspace(-1, 1, n, dtype=np.float32) * e / EXTENT_MM[0] for n, e in zip(size, extent, strict=True)]
        x, y, z = axes
        radius = (x / 0.5)[None, None] ** 2 + (y / 0.35)[None, :, None] ** 2 + (z / 1.3)[:, None, None] ** 2
        noise = rng.standard_normal(radius.shape, dtype=np.float32)
        if what == "pet":
            array = np.abs(np.where(radius < 1, 1.5 + 0.3 * noise, 0.02 * noise)).astype(np.float32)
        else:
            array = np.where(radius < 1, 40 + 15 * noise, -1000 + 5 * noise).astype(np.int16)
        image = sitk.GetImageFromArray(array)
        spacing = [e / n for e, n in zip(extent, size, strict=True)]
        image.SetSpacing(spacing)
        image.SetOrigin([-e / 2 + s / 2 for e, s in zip(extent, spacing, strict=True)])
        path = folder / "images" / what / f"{what}.mha"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(image, str(path), compressed)
        assert grid_of(image).size == size


if __name__ == "__main__":
    main()
