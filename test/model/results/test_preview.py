import io

import numpy as np
from PIL import Image

from model.results.preview import OUTLINE, PIXEL_MM, THUMBNAIL_PIXEL_MM, preview, thumbnail


def picture(mask: np.ndarray, spacing=(4.0, 4.0, 3.0)) -> np.ndarray:
    suv = np.zeros(mask.shape, np.float32)
    suv[mask] = 8
    return np.asarray(Image.open(io.BytesIO(preview(suv, mask, spacing, "test"))))


def red(pixels: np.ndarray) -> np.ndarray:
    return (pixels == OUTLINE).all(axis=2)


def test_a_sphere_is_outlined_as_a_circle_in_millimetres_in_both_projections() -> None:
    z, y, x = np.indices((100, 60, 80))
    mask = ((z - 50) * 3.0) ** 2 + ((y - 30) * 4.0) ** 2 + ((x - 40) * 4.0) ** 2 < 40**2
    marks = red(picture(mask))
    columns = np.flatnonzero(marks.any(axis=0))
    split = columns[np.argmax(np.diff(columns)) + 1]  # the white gap between the two projections
    for part in (marks[:, :split], marks[:, split:]):
        rows, cols = np.flatnonzero(part.any(axis=1)), np.flatnonzero(part.any(axis=0))
        for extent in (np.ptp(rows), np.ptp(cols)):
            assert abs(extent * PIXEL_MM - 80) < 10


def test_superior_is_up_and_the_patients_right_is_at_the_left() -> None:
    mask = np.zeros((100, 60, 80), bool)
    mask[80:90, 25:35, 5:15] = True  # LAS: high z is superior, low x is the patient's right
    marks = red(picture(mask))
    rows, columns = np.nonzero(marks)
    first = columns < marks.shape[1] // 3
    assert rows.mean() < marks.shape[0] / 2 and first.any()


def test_an_empty_mask_has_no_outline() -> None:
    assert not red(picture(np.zeros((20, 20, 20), bool))).any()


def test_lesions_have_their_numbers_beside_them() -> None:
    numbers = np.zeros((100, 60, 80), int)
    numbers[20:30, 25:35, 5:15] = 1
    suv = np.zeros(numbers.shape, np.float32)
    numbered, plain = (
        np.asarray(Image.open(io.BytesIO(preview(suv, numbers > 0, (4.0, 4.0, 3.0), "test", given)))).astype(int)
        for given in (numbers, None)
    )
    rows, columns = np.nonzero(np.abs(numbered - plain).sum(axis=2))
    middle = 2 * 36 + (100 - 25) * 3.0 / PIXEL_MM  # of the lesion, in rows of the picture
    assert abs(rows.mean() - middle) < 6
    coronal = columns[columns < 36 + 80 * 4.0 / PIXEL_MM]
    assert 36 + 15 * 4.0 / PIXEL_MM <= coronal.min() and coronal.max() < 36 + 15 * 4.0 / PIXEL_MM + 16


def test_a_thumbnail_is_small_and_its_outline_as_red_as_the_previews() -> None:
    mask = np.zeros((100, 60, 80), bool)
    mask[40:60, 25:35, 30:50] = True
    content = thumbnail(np.random.default_rng(0).gamma(2, 1, mask.shape), mask, (4.0, 4.0, 3.0))
    image = Image.open(io.BytesIO(content))
    assert image.height == 100 * 3.0 / THUMBNAIL_PIXEL_MM and len(content) < 12_000
    marks = red(np.asarray(image.convert("RGB")))
    rows, columns = np.nonzero(marks[:, :80])
    assert abs(np.ptp(rows) - 20 * 3.0 / THUMBNAIL_PIXEL_MM) <= 2 and abs(np.ptp(columns) - 20) <= 2
