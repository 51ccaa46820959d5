"""Train a bundle small enough for a CPU, on phantoms alone: one base run, members from it, weight averaging.

    python -m training.first_bundle --run runs/first

makes the phantoms (seeds 0 and up: the training range), trains a base network to theta_0, fine-tunes the
members from it with different learning rates and augmentation strengths while averaging their weights
(Ahn and Park, section 2.5, equation 2), and writes weights/eoa (all members) and weights/diwa (their
uniform soup). The run folder keeps every phantom and network; what is done there is not done again.
"""

import argparse
import json
import math
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.losses import DiceFocalLoss
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.config import Crop, Intensity, Manifest, Member, Network, Provenance, Window
from model.cropping import foreground_box
from model.geometry import las_view
from model.networks import build
from model.reading import volume_of
from model.resampling import resample_ct
from training.bundle import State, state_sha256, write_bundle
from training.phantom import make_phantom, to_images

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
NETWORK = Network(fusion="middle", widths=(8, 8, 16, 32, 64))
WINDOW = (64, 64, 64)  # of training and inference alike: instance norm sees the same
CROP = Crop(suv_above=0.2)  # cuts most of the air: fewer windows on a CPU
INTENSITY = Intensity(ct_clip=True, suv_top=20.0)
LESION_BIAS = 2.0  # of 0, 1, 2, 3, 4 the highest with FPV below 50 ml on each of the phantoms 100010 to 100015
HOT_SUV = 2.5  # physiological uptake above this is what a lesion can be taken for
SITES = ("A", "B", "A", "D", "A", "C")  # half of the studies are of the sample's kind of scanner


@dataclass(frozen=True, kw_only=True)
class Study:
    """A prepared study in LAS, cropped: hu, suv float16 and truth bool, all (X, Y, Z).

    lesion, hot: (n, 3) voxels of the truth, and voxels of physiological uptake.
    """

    hu: np.ndarray
    suv: np.ndarray
    truth: np.ndarray
    lesion: np.ndarray
    hot: np.ndarray


@dataclass(frozen=True, kw_only=True)
class Phase:
    """One run of the optimizer: steps, peak learning rate, augmentation strength, and whether weights are averaged.

    pairs: each step takes a crop near a lesion and one near physiological uptake, and the Dice of both
    together: alone, a crop without lesion gives the Dice loss no gradient.
    """

    name: str
    steps: int
    rate: float
    strength: float
    seed: int
    average: bool = False
    pairs: bool = True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", type=Path, required=True, help="run folder; what is done there is not done again")
    parser.add_argument("--studies", type=int, default=30, help="phantoms to train on (default 30)")
    parser.add_argument("--base", type=int, default=900, help="steps of the base run (default 900)")
    parser.add_argument("--paired", type=int, default=700, help="steps on pairs of crops (default 700)")
    parser.add_argument("--member", type=int, default=60, help="steps of each member (default 60)")
    parser.add_argument("--force", action="store_true", help="replace weights/eoa and weights/diwa")
    options = parser.parse_args()
    options.run.mkdir(parents=True, exist_ok=True)

    studies = prepare_all(options.run, options.studies)
    base = Phase(name="base", steps=options.base, rate=2e-3, strength=1.0, seed=1, pairs=False)
    paired = Phase(name="paired", steps=options.paired, rate=1.5e-3, strength=1.0, seed=4)
    members = [
        Phase(name="weak", steps=options.member, rate=4e-4, strength=0.5, seed=2, average=True),
        Phase(name="strong", steps=options.member, rate=6e-4, strength=1.5, seed=3, average=True),
    ]
    start = run(paired, run(base, None, studies, options), studies, options)
    states = {phase.name: more_sensitive(run(phase, start, studies, options)) for phase in members}
    export(states, start, options)


def prepare_all(folder: Path, count: int) -> list[Study]:
    """Phantoms 0 to count - 1 through the container's own resampling and crop, kept in the run folder."""
    studies = []
    for seed in range(count):
        path = folder / f"phantom-{seed}.npz"
        if not path.exists():
            save_study(prepare(seed), path)
        with np.load(path) as file:
            studies.append(Study(**{name: file[name] for name in ("hu", "suv", "truth", "lesion", "hot")}))
    return studies


def prepare(seed: int) -> Study:
    """One phantom as the network will see it; five of six have lesions."""
    phantom = make_phantom(seed, SITES[seed % len(SITES)], "negative" if seed % 6 == 5 else "positive")
    pet, ct, truth = (volume_of(image, Path(f"phantom-{seed}")) for image in to_images(phantom))
    view = las_view(pet.grid)
    suv = view.to_las(pet.array)
    hu, _ = resample_ct(ct, view.grid)
    box = foreground_box(suv, CROP.suv_above)
    assert box is not None  # a phantom always has a body
    hu, suv, mask = (a[box].transpose(2, 1, 0) for a in (hu, suv, view.to_las(truth.array)))
    return Study(
        hu=hu.astype(np.float16), suv=suv.astype(np.float16), truth=mask.astype(bool),
        lesion=np.argwhere(mask), hot=np.argwhere((suv > HOT_SUV) & (mask == 0))[::7].astype(np.int16),
    )  # fmt: skip


def save_study(study: Study, path: Path) -> None:
    partial = path.with_name(f".partial-{path.name}")
    with partial.open("wb") as file:
        np.savez(file, hu=study.hu, suv=study.suv, truth=study.truth, lesion=study.lesion, hot=study.hot)
    partial.rename(path)


def run(phase: Phase, start: State | None, studies: list[Study], options: argparse.Namespace) -> State:
    """Train one phase; the state it ends with (averaged, if it averages). Done before: read from the run folder."""
    path = options.run / f"{phase.name}.safetensors"
    if path.exists():
        return load_file(path)
    torch.manual_seed(phase.seed)
    network = build(NETWORK)
    if start is not None:
        network.load_state_dict(start)
    loss_of = DiceFocalLoss(softmax=True, to_onehot_y=True, include_background=True, gamma=2.0, batch=phase.pairs)
    optimizer = torch.optim.AdamW(network.parameters(), lr=phase.rate, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate_schedule(phase))
    mean: State = {}
    terms = 0
    begun = time.perf_counter()
    log = (options.run / f"{phase.name}.jsonl").open("w")
    for step, (image, truth) in enumerate(patches(studies, phase), start=1):
        loss = loss_of(network(image), truth)
        if not torch.isfinite(loss):
            raise SystemExit(f"loss is {loss.item()} at step {step} of {phase.name}: lower the rate")
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 5.0)
        optimizer.step()
        schedule.step()
        if phase.average and step > phase.steps // 3 and step % 5 == 0:
            mean, terms = averaged(mean, network.state_dict(), terms)  # equation 2, every fifth step
        seconds = time.perf_counter() - begun
        print(json.dumps({"step": step, "loss": round(loss.item(), 4), "s": round(seconds, 1)}), file=log, flush=True)
        if step % 50 == 0:
            save_file(network.state_dict(), options.run / f"{phase.name}-latest.safetensors")
    state = mean if phase.average else {k: v.detach().clone() for k, v in network.state_dict().items()}
    save_file(state, path)
    return state


def more_sensitive(state: State) -> State:
    """The state with LESION_BIAS added to the lesion's logit: the Dice loss leaves a short run too cautious."""
    return state | {"decoder.fc.bias": state["decoder.fc.bias"] + torch.tensor([0.0, LESION_BIAS])}


def rate_schedule(phase: Phase) -> Callable[[int], float]:
    """Warm-up over 5 %, then cosine; an averaging phase falls to half its peak and stays (figure 3's constant)."""

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / (0.05 * phase.steps + 1))
        done = min(1.0, step / phase.steps * (3 if phase.average else 1))
        floor = 0.5 if phase.average else 0.02
        return warm * (floor + (1 - floor) * (1 + math.cos(math.pi * done)) / 2)

    return factor


def averaged(mean: State, new: State, terms: int) -> tuple[State, int]:
    """The running mean of equation 2 with one more term."""
    if not terms:
        return {name: tensor.detach().clone() for name, tensor in new.items()}, 1
    return {k: mean[k] + (new[k].detach() - mean[k]) / (terms + 1) for k in mean}, terms + 1


def patches(studies: list[Study], phase: Phase) -> Iterator[tuple[Tensor, Tensor]]:
    """Augmented crops (B, 2, *WINDOW) and truth (B, 1, *WINDOW), B = 2 for pairs.

    Single crops: 45 % near a lesion if there is one, of the rest three quarters near physiological uptake.
    """
    rng = np.random.default_rng(phase.seed)
    ill = [study for study in studies if len(study.lesion)]
    for _ in range(phase.steps):
        study = studies[rng.integers(len(studies))]
        if phase.pairs:
            sick = ill[rng.integers(len(ill))]
            crops = [crop(sick, sick.lesion, phase, rng), crop(study, hot_or_any(study, rng), phase, rng)]
        elif len(study.lesion) and rng.random() < 0.45:
            crops = [crop(study, study.lesion, phase, rng)]
        else:
            crops = [crop(study, hot_or_any(study, rng), phase, rng)]
        yield torch.stack([image for image, _ in crops]), torch.stack([truth for _, truth in crops])


def hot_or_any(study: Study, rng: np.random.Generator) -> np.ndarray:
    """Where a crop without a sought lesion lies: near physiological uptake three times of four, else anywhere."""
    return study.hot if len(study.hot) and rng.random() < 0.75 else np.array([rng.integers(0, study.suv.shape)])


def crop(study: Study, near: np.ndarray, phase: Phase, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """An augmented crop around one of the voxels `near`, moved by up to a third of its edge."""
    edges, shape = np.array(WINDOW), np.array(study.suv.shape)
    centre = near[rng.integers(len(near))] + rng.integers(-edges // 3, edges // 3 + 1)
    low = np.clip(centre - edges // 2, 0, np.maximum(shape - edges, 0))
    box = tuple(slice(a, a + n) for a, n in zip(low, WINDOW, strict=True))
    part = replace(study, hu=study.hu[box], suv=study.suv[box], truth=study.truth[box])
    return augmented(part, phase.strength, rng)


def augmented(part: Study, strength: float, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Intensity as in the container, SUV over 20 or 40, flips, and gamma, scale and noise by `strength`."""
    hu, suv = np.clip((part.hu.astype(np.float32) + 1000) / 2000, 0, 1), part.suv.astype(np.float32) / 20
    if rng.random() < 0.2:
        suv = suv / 2
    if rng.random() < 0.3 * strength:
        suv = suv * rng.uniform(1 - 0.25 * strength, 1 + 0.25 * strength)
    if rng.random() < 0.3 * strength:
        hu = hu ** rng.uniform(1 - 0.2 * strength, 1 + 0.3 * strength)
    if rng.random() < 0.2 * strength:
        suv = suv + rng.normal(0, rng.uniform(0, 0.01 * strength), suv.shape)
        hu = hu + rng.normal(0, rng.uniform(0, 0.03 * strength), hu.shape)
    image = np.zeros((2, *WINDOW), np.float32)
    truth = np.zeros((1, *WINDOW), np.float32)
    x, y, z = part.truth.shape
    image[0, :x, :y, :z], image[1, :x, :y, :z], truth[0, :x, :y, :z] = hu, suv, part.truth
    axes = [axis for axis in (1, 2, 3) if rng.random() < (0.5 if axis == 1 else 0.1)]
    return torch.from_numpy(np.flip(image, axes).copy()), torch.from_numpy(np.flip(truth, axes).copy())


def export(states: dict[str, State], start: State, options: argparse.Namespace) -> None:
    """Write weights/eoa with the members and weights/diwa with their uniform soup."""
    names = list(states)
    soup = {
        key: torch.stack([states[name][key].double() for name in names]).mean(0).float() for key in states[names[0]]
    }

    def manifest(name: str, method: str) -> Callable[[tuple[Member, ...]], Manifest]:
        return lambda members: Manifest(
            format_version=1, name=name, kind="volumes", network=NETWORK, channels=("CT", "PET"),
            intensity=INTENSITY, crop=CROP, window=Window(size=WINDOW), method=method, members=members,
            provenance=Provenance(
                data=f"synthetic phantoms alone, seeds 0 to {options.studies - 1}, "
                f"sites {', '.join(sorted(set(SITES)))}",
                commit=commit(), date=time.strftime("%Y-%m-%d"), scores={"measured": "weights/README.md"},
                attribution="method of Ahn and Park, Domain-Adaptive PET/CT Tumor Lesion Segmentation Networks "
                "through Effective Training Methods",
            ),
            intended_use="Research and testing; trained on synthetic studies only. Not a medical device.",
            licence="MIT",
        )  # fmt: skip

    common: dict[str, Any] = {"start_sha256": state_sha256(start), "force": options.force}
    write_bundle(WEIGHTS / "eoa", states, manifest("eoa", "eoa"), weights=[1.0] * len(names), **common)
    write_bundle(WEIGHTS / "diwa", {"soup": soup}, manifest("diwa", "diwa"), weights=[1.0], **common)


def commit() -> str:
    """The commit this runs from, or "unknown"."""
    command = ["git", "-C", str(WEIGHTS.parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


if __name__ == "__main__":
    main()
