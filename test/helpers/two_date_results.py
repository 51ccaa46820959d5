"""Results of score.py for small studies of one patient at two dates, with masks by hand: no network runs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from model.hospital.find.entry import Entry
from model.hospital.folder import REPORT, STUDIES
from model.hospital.job import Job, Options
from model.hospital.journal import contents_of, stat_of
from model.results.lesion_table import rounded
from model.results.lesions import Lesion, measure
from model.study.geometry import grid_of

SHAPE, SPACING_MM = (60, 44, 56), (4.0, 4.0, 4.0)  # (z, y, x)


def small_body(move: sitk.Transform, origin_mm: tuple[float, ...] = (0.0, 0.0, 0.0)) -> sitk.Image:
    """A CT of a trunk with lungs, spine, liver and ribs, float32 HU; each point shows what lies at `move` of it."""
    z, y, x = np.mgrid[:60, :44, :56].astype(float)
    hu = np.full(SHAPE, -1000.0)
    hu[((x - 28) / 20) ** 2 + ((y - 22) / 14) ** 2 < 1] = 30
    for side in (-1, 1):
        hu[((x - 28 - 9 * side) / 7) ** 2 + ((y - 21) / 9) ** 2 + ((z - 42) / 12) ** 2 < 1] = -800
    hu[((x - 22) / 10) ** 2 + ((y - 20) / 9) ** 2 + ((z - 22) / 7) ** 2 < 1] = 110
    hu[((x - 28) / 3) ** 2 + ((y - 31) / 3) ** 2 < 1] = np.where(z % 8 < 6, 350, 60)[
        ((x - 28) / 3) ** 2 + ((y - 31) / 3) ** 2 < 1
    ]
    image = sitk.GetImageFromArray(hu.astype(np.float32))
    image.SetSpacing(SPACING_MM)
    moved = sitk.Resample(sitk.DiscreteGaussian(image, 4.0), image, move, sitk.sitkLinear, -1000.0)
    moved.SetOrigin(origin_mm)
    return moved


def rows_of(lesions: Sequence[Lesion]) -> list[dict]:
    """Rows of a lesion table, rounded as in lesions.json."""
    return [rounded(asdict(one)) for one in lesions]


def write_date(
    root: Path, output: Path, name: str, ct: sitk.Image, boxes: list[tuple[slice, slice, slice]], **entry: str
) -> Job:
    """One scored study: images below `root`, and its results with these boxes (z, y, x) as lesions of SUV 8."""
    mask = np.zeros(SHAPE, np.uint8)
    for box in boxes:
        mask[box] = 1
    suv = np.where(sitk.GetArrayViewFromImage(ct) > -500, 1.0, 0.0).astype(np.float32) + 7 * mask
    pet, stored = sitk.GetImageFromArray(suv), sitk.GetImageFromArray(mask)
    paths = {what: root / f"{name}_{what}.mha" for what in ("pet", "ct")}
    folder = output / STUDIES / name
    folder.mkdir(parents=True)
    root.mkdir(exist_ok=True)
    for image, path in (
        (pet, paths["pet"]),
        (sitk.Cast(ct, sitk.sitkInt16), paths["ct"]),
        (stored, folder / "mask.mha"),
    ):
        image.CopyInformation(ct)
        sitk.WriteImage(image, str(path))
    own = Entry(identity=name, source=root / name, kind="images", pet=(paths["pet"],), ct=(paths["ct"],), **entry)
    lesions, totals, _ = measure(suv, mask, grid_of(pet))
    (folder / "lesions.json").write_text(json.dumps({"totals": asdict(totals), "lesions": rows_of(lesions)}))
    batch = {
        "images_stat": stat_of(own.images),
        "images_sha256": contents_of(own.images),
        "options": {"mask_ending": ".mha"},
    }
    (folder / REPORT).write_text(json.dumps({"batch": batch}))
    return Job(name=name, entry=own, root=root, output=output, key="", options=Options())
