"""Phantoms on organ maps: organs are the map's, the body encloses them, and maps stay on their side."""

import csv

import numpy as np
import pytest
import SimpleITK as sitk
from scipy.ndimage import binary_dilation, label

from model.errors import ConfigError
from training.__main__ import main
from training.phantom.anatomy import draw_build
from training.phantom.fit import LEAST_SCALE, MOST_SCALE, find_landmarks, fit_frame
from training.phantom.fitted import STAMPS, Organs, linear, paint_fitted
from training.phantom.maps import ORGANS, OWN_MAPS, OrganMap, find_maps, part_of, read_map
from training.phantom.shapes import block, box_around, to_phantom_mm
from training.phantom.study import make_phantom, maps_for
from training.phantom.table import read_rows
from training.phantom.tissues import LABELS

GRID = (4.0, 4.0, 4.0)
TISSUES_OF = {organ: (tissue,) for organ, tissue in STAMPS.items()} | {
    "lungs": ("lung",),
    "brain": ("grey matter", "white matter", "brain fluid"),
    "kidneys": ("kidney", "urine"),
    "stomach": ("stomach", "gut gas"),
}


@pytest.fixture(scope="module")
def map() -> OrganMap:
    return read_map(find_maps(OWN_MAPS, "train")[0])


@pytest.fixture(scope="module")
def painted(map):
    rng = np.random.default_rng(3)
    return paint_fitted(map, draw_build(rng, 0.5), GRID, None, rng)


def test_the_own_maps_are_five_of_the_training_side_with_their_patients() -> None:
    found = find_maps(OWN_MAPS, "train")
    assert len(found) == 5 and all(file.patient.startswith("fdg_") for file in found)
    assert (OWN_MAPS / "NOTICE").is_file() and (OWN_MAPS / "LICENSE").is_file()


def test_a_maps_side_is_that_of_its_number() -> None:
    sides = [part_of(f"organs_{number:03d}") for number in range(240)]
    assert [sides.count(side) for side in ("train", "validate", "test")] == [168, 24, 48]
    with pytest.raises(ConfigError, match="must end in its number"):
        part_of("liver")


@pytest.mark.parametrize("seed", [100_000, 200_000])
def test_seeds_of_other_sides_get_no_training_map(seed: int) -> None:
    with pytest.raises(ConfigError, match="holds no organ map for"):
        maps_for(seed, OWN_MAPS)


@pytest.mark.slow
def test_the_painted_organs_are_the_maps(map, painted) -> None:
    """Volumes within a tenth, and nearly every voxel within the map's organ: an independent resampling by SimpleITK."""
    frame, labels = painted
    _, zero = fit_frame(map, GRID, None)
    image = sitk.GetImageFromArray(map.labels)
    image.SetSpacing(map.spacing_mm)
    target = sitk.Image(list(labels.shape[::-1]), sitk.sitkUInt8)
    target.SetSpacing(GRID)
    target.SetOrigin([float(frame.origin_mm[axis] + zero[axis]) for axis in range(3)])
    there = sitk.GetArrayFromImage(sitk.Resample(image, target, sitk.Transform(), sitk.sitkNearestNeighbor))
    for number, organ in enumerate(ORGANS, start=1):
        mask = there == number
        if organ in ("glands", "heart") or mask.sum() < 100:  # the model's glands and vessels have the same labels
            continue
        ours = np.isin(labels, [LABELS[tissue] for tissue in TISSUES_OF[organ]])
        near = binary_dilation(mask, iterations=2)
        common = (ours & mask).sum() / mask.sum()
        assert common > 0.8, organ
        if organ not in ("kidneys", "brain", "stomach"):  # ureters, the model's cerebellum, gas of the bowel lie beyond
            assert (ours & ~near).sum() < 0.12 * ours.sum(), organ


@pytest.mark.slow
def test_organs_lie_within_one_body_under_its_skin(painted) -> None:
    _, labels = painted
    body = labels > 0
    for tissue in ("liver", "lung", "spleen", "kidney", "bladder", "grey matter"):
        organ = labels == LABELS[tissue]
        assert not (binary_dilation(organ)[1:-1] & ~body[1:-1]).any(), tissue  # the scan may cut an organ at its ends
    parts, count = label(body)
    sizes = np.bincount(parts.ravel())[1:]
    assert sizes.max() > 0.93 * sizes.sum(), count  # arms that lie free may be parts of their own


def test_landmarks_rise_and_the_scale_stays_within_its_limits() -> None:
    for file in find_maps(OWN_MAPS, "train"):
        marks = find_landmarks(read_map(file))
        scale = np.diff(marks.heights[:, 0]) / np.diff(marks.heights[:, 1])
        assert (scale > LEAST_SCALE - 1e-6).all() and (scale < MOST_SCALE + 1e-6).all()
        assert (np.diff(marks.lines[:, 0]) > 0).all()


def test_a_fitted_frame_finds_a_point_where_its_coordinates_say(map) -> None:
    frame, _ = fit_frame(map, GRID, None)
    for point in ((0, 0, 300), (60, 40, 470), (-80, 10, 120), (10, -20, 700)):
        box = box_around(frame, np.subtract(point, 15), np.add(point, 15))
        x, y, z = block(frame, box)
        away = (x - point[0]) ** 2 + (y - point[1]) ** 2 + (z - point[2]) ** 2
        assert away.min() < 12.0  # voxels of 4 mm: the nearest lies within 3.5 mm
        index = np.unravel_index(int(away.argmin()), away.shape)
        voxel = [box[2 - axis].start + index[2 - axis] for axis in range(3)]
        found = np.array([frame.origin_mm[axis] + GRID[axis] * voxel[axis] for axis in range(3)])
        assert np.abs(to_phantom_mm(frame, point) - found).max() < 7.0


def test_linear_reads_between_voxels_as_scipy_does() -> None:
    from scipy.ndimage import map_coordinates

    volume = np.random.default_rng(0).random((5, 6, 7)).astype(np.float32)
    places = [np.array([0.0, 1.25, 3.9]), np.array([0.5, 4.75]), np.array([2.0, 5.999])]
    wanted = map_coordinates(volume, np.meshgrid(*places, indexing="ij"), order=1)
    assert np.allclose(linear(volume, places), wanted, atol=1e-5)


def test_an_absent_organ_paints_nothing(map) -> None:
    frame, zero = fit_frame(map, GRID, None)
    without = OrganMap(map.name, map.patient, np.where(map.labels == 9, 0, map.labels), map.spacing_mm)
    box, deep = Organs(without, frame, zero).inside("prostate")
    assert deep.size == 0 and box == (slice(0, 0),) * 3


@pytest.mark.slow
def test_a_phantom_on_a_map_belongs_to_the_maps_patient_and_shows_its_liver() -> None:
    maps = find_maps(OWN_MAPS, "train")
    phantom = make_phantom(7, "A", "positive", keep_organs=True, maps=maps)
    assert phantom.patient in {file.patient for file in maps} and phantom.truth.any()
    again = make_phantom(7, "A", "positive", maps=maps)
    assert again.pet.tobytes() == phantom.pet.tobytes() and again.ct.tobytes() == phantom.ct.tobytes()
    liver = phantom.pet[(phantom.organs == LABELS["liver"]) & (phantom.truth == 0)]
    assert 1.2 < np.median(liver) < 3.3  # published: 2.29, deviation 0.33


@pytest.mark.slow
def test_the_command_writes_a_study_under_the_maps_patient(tmp_path) -> None:
    words = ["phantoms", "--seed", "5", "--output", str(tmp_path), "--diagnosis", "negative", "--maps", str(OWN_MAPS)]
    assert main(words) == 0
    (row,) = read_rows(tmp_path).values()
    assert row["case"] == "Ar000005" and row["patient"].startswith("fdg_") and row["diagnosis"] == "negative"


@pytest.mark.slow
@pytest.mark.parametrize("maps", [(), find_maps(OWN_MAPS, "train")], ids=["model", "map"])
def test_on_the_pets_grid_the_ct_has_its_voxels_and_the_same_lesions_show(maps) -> None:
    fine, coarse = (make_phantom(7, "A", "positive", maps=maps, on_pet_grid=on) for on in (False, True))
    assert coarse.ct_spacing_mm == coarse.pet_spacing_mm == fine.pet_spacing_mm != fine.ct_spacing_mm
    assert coarse.diagnosis == fine.diagnosis and coarse.truth.any()
    body = [float((phantom.pet > 0.15).sum()) for phantom in (fine, coarse)]
    assert body[1] == pytest.approx(body[0], rel=0.1)


def test_a_folder_without_the_table_and_a_map_without_its_row_are_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="organs.csv"):
        find_maps(tmp_path, "train")
    (tmp_path / "organs.csv").write_text("name,source\norgans_001,fdg_1\n")
    (tmp_path / "organs_002.nii.gz").write_bytes(b"")
    with pytest.raises(ConfigError, match="organs_002"):
        find_maps(tmp_path, "train")


def test_a_map_without_liver_is_refused_by_name(tmp_path, map) -> None:
    image = sitk.GetImageFromArray(np.where(map.labels == 3, 0, map.labels).astype(np.uint8))
    image.SetSpacing(map.spacing_mm)
    sitk.WriteImage(image, str(tmp_path / "organs_001.nii.gz"))
    with (tmp_path / "organs.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["name", "source"], ["organs_001", "fdg_1"]])
    (found,) = find_maps(tmp_path, "train")
    with pytest.raises(ConfigError, match=r"organs_001.*0 ml of liver, 50 ml at least"):
        read_map(found)
