"""Run folders as training train leaves them, of small random networks, without training; and studies to score them."""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
import torch
import yaml
from monai.inferers import sliding_window_inference
from tiny_settings import tiny_training

from model.bundle.settings import Crop
from model.files import sha256_of
from model.networks.unet import build
from training.data.folds import Fold
from training.data.prepare import prepare_one
from training.data.table import Study, study_sha256
from training.settings import settings_to
from training.weights.checkpoint import write_json, write_weights

FOLD = Fold(name="0", train=("case0",), validate=("case1", "case2", "case3"))  # case3 has no lesion


def small_studies(folder: Path) -> list[Study]:
    """Rows of an index: four studies of 18 x 20 x 24 voxels of 5 mm with large lesions, the last without."""
    folder.mkdir(parents=True, exist_ok=True)
    z, y, x = np.mgrid[:18, :20, :24]
    studies = []
    for seed in range(4):
        rng = np.random.default_rng(seed)
        cz, cy, cx = rng.integers(6, 12, 3)
        truth = ((z - cz) ** 2 + (y - cy) ** 2 + (x - cx) ** 2 < 36).astype(np.uint8) * (seed < 3)
        pet = rng.gamma(4.0, 0.3, z.shape) + 5 * truth
        ct = rng.normal(30, 60, z.shape)
        ct[:, 0] = -1000
        paths = {name: folder / f"case{seed}-{name}.mha" for name in ("pet", "ct", "truth")}
        for path, array in zip(paths.values(), (pet.astype(np.float32), ct.astype(np.int16), truth), strict=True):
            image = sitk.GetImageFromArray(array)
            image.SetSpacing((5.0, 5.0, 5.0))
            sitk.WriteImage(image, str(path))
        studies.append(
            Study(
                case=f"case{seed}",
                patient=f"patient{seed}",
                diagnosis="lymphoma",
                tracer="FDG",
                site="A",
                **paths,
                lesion_ml=float(truth.sum()) * 0.125,
                sha256=study_sha256(*paths.values()),
            )
        )
    return studies


def small_cache(folder: Path) -> Path:
    """The four studies, prepared."""
    for study in small_studies(folder / "studies"):
        (folder / "cache").mkdir(exist_ok=True)
        prepare_one(study, folder / "cache", Crop())
    return folder / "cache"


def random_state(seed: int, near: dict | None = None, **changes: object) -> dict:
    """Weights of a network that finds both classes: random, or `near` others."""
    torch.manual_seed(seed)
    state = {name: tensor.clone() for name, tensor in build(tiny_training(**changes).network).state_dict().items()}
    for name in state:
        if name.endswith("fc.bias"):
            state[name].zero_()
        if near is not None:
            state[name] = near[name] + 0.3 * torch.randn_like(near[name]) * near[name].std(unbiased=False)
    return state


def make_run(
    folder: Path, state: dict, base: Path | None = None, train: tuple = FOLD.train, settings=None, **changes: object
) -> Path:
    """A finished run with these weights, started from `base`."""
    name = "mean.safetensors" if base else "last.safetensors"
    write_weights(folder / name, state)
    start = {"run": str(base.resolve()), "sha256": sha256_of(base / "last.safetensors")} if base else None
    seen = {"cases": list(train), "patients": [case.replace("case", "patient") for case in train]}
    for key, names in yaml.safe_load((base / "config.yaml").read_text())["seen"].items() if base else ():
        seen[key] = sorted({*seen[key], *names})
    config = {
        "settings": settings_to(settings or tiny_training(**changes)),
        "train": list(train),
        "validate": list(FOLD.validate),
        "data": "",
        "seen": seen,
        "start": start,
        "processes": 1,
    }
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    write_json(
        folder / "run.json",
        {
            "result": name,
            "sha256": sha256_of(folder / name),
            "epoch": 4,
            "start": start,
            "validation": {},
        },
    )
    return folder


def make_runs(folder: Path, members: int = 3) -> list[Path]:
    """A base run and members m1, m2, ... near it."""
    theta = random_state(0)
    base = make_run(folder / "base", theta)
    return [make_run(folder / f"m{seed}", random_state(seed, near=theta), base) for seed in range(1, members + 1)]


def logits(state: dict, cache: Path, case: str) -> np.ndarray:
    """Logits (2, X, Y, Z) of weights over a prepared case, by MONAI's sliding window."""
    hu, suv = (np.load(cache / case / f"{name}.npy").astype(np.float32) for name in ("hu", "suv"))
    image = torch.from_numpy(np.stack([np.clip((hu + 1000) / 2000, 0, 1), suv / 20]))[None]
    network = build(tiny_training().network)
    network.load_state_dict(state)
    with torch.no_grad():
        return sliding_window_inference(image, (16, 16, 16), 4, network.eval(), overlap=0.5)[0].numpy()


def dice_of(mean_logits: np.ndarray, cache: Path, case: str) -> float:
    """Dice of the argmax."""
    found, truth = mean_logits.argmax(0) == 1, np.load(cache / case / "truth.npy")
    return 2 * (found & truth).sum() / (found.sum() + truth.sum())
