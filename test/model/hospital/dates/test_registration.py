"""A small trunk whose movement is known."""

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from two_date_results import small_body

from model.hospital.dates import registration
from model.hospital.dates.coarse_ct import coarse_ct
from model.hospital.dates.registration import align
from model.study.reading import volume_of

ORIGIN_MM = (12.0, -20.0, -500.0)
POINTS_MM = np.array([(88, 80, 88), (112, 124, 160), (150, 84, 168)], float)  # liver, spine, a lung
POSE = sitk.Euler3DTransform((112.0, 88.0, 120.0), 0.02, 0.0, 0.06, (9.0, -5.0, 7.0))


def coarse(image: sitk.Image):
    return coarse_ct(volume_of(image, Path("ct.mha")))


@pytest.fixture(scope="module")
def first():
    return coarse(small_body(sitk.Transform(), ORIGIN_MM))


@pytest.fixture(scope="module")
def turned():
    return coarse(small_body(POSE))


def off_mm(transform: sitk.Transform) -> float:
    wanted = [np.add(POSE.TransformPoint(p.tolist()), ORIGIN_MM) for p in POINTS_MM]
    return max(
        float(np.linalg.norm(np.subtract(transform.TransformPoint(p.tolist()), w)))
        for p, w in zip(POINTS_MM, wanted, strict=True)
    )


@pytest.mark.slow
def test_a_turned_and_shifted_body_is_laid_onto_itself_and_always_alike(first, turned) -> None:
    found = align(first, turned)
    assert found.kind == "deformable" and not found.warnings and found.correlation > 0.95
    assert off_mm(found.transform) < 3.0  # less than a voxel
    again = align(first, turned)
    np.testing.assert_allclose(  # to the rounding of sums
        [again.transform.TransformPoint(p.tolist()) for p in POINTS_MM],
        [found.transform.TransformPoint(p.tolist()) for p in POINTS_MM],
        rtol=0,
        atol=1e-9,
    )


def test_a_deformation_that_fails_or_is_implausible_leaves_the_rigid_movement(first, turned, monkeypatch) -> None:
    def fails(*_):
        raise RuntimeError("ITK ERROR: all samples map outside")

    monkeypatch.setattr(registration, "_deformable", fails)
    found = align(first, turned)
    assert found.kind == "rigid" and off_mm(found.transform) < 3.0
    assert found.warnings[0].startswith("the CTs were aligned rigidly, without deforming: the registration failed")

    spline = sitk.BSplineTransformInitializer(turned.image, [2, 2, 2], 3)
    spline.SetParameters([80.0] * len(spline.GetParameters()))
    monkeypatch.setattr(registration, "_deformable", lambda *_: spline)
    found = align(first, turned)
    assert found.kind == "rigid"
    assert found.warnings[0].endswith("deforming moved parts of the body by 139 mm, more than 45")


def test_a_rigid_movement_that_fails_leaves_the_position(first, turned, monkeypatch) -> None:
    monkeypatch.setattr(registration, "_rigid", lambda *_: sitk.Euler3DTransform((0, 0, 0), 0.0, 0.0, 1.0, (0, 0, 0)))
    found = align(first, turned)
    assert found.kind == "position"
    assert "turned the body by 57 degrees, more than 30" in found.warnings[0]


def test_ct_without_a_body_is_said_to_agree_with_nothing(first) -> None:
    empty = small_body(sitk.Transform()) * 0 - 1000
    found = align(first, coarse(empty))
    assert "are they of one patient" in found.warnings[-1]
