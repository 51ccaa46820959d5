"""PET slices whose headers differ, and the factor to SUV that arithmetic gives."""

from pathlib import Path

import numpy as np
import pytest
from dicom_writer import (
    DOSE_BQ,
    HALF_LIFE_S,
    WEIGHT_KG,
    ramp,
    write_pet,
)
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence as Items

from model.dicom.headers import find_series
from model.dicom.reading import read_pet
from model.dicom.suv import Conversion


def convert(folder: Path, weight_kg: float | None = None, **changes) -> Conversion:
    """The conversion of a written PET, after a check that its voxels are stored x slope x factor."""
    write_pet(folder, **changes)
    (series,) = find_series(folder)
    volume, conversion = read_pet(series, weight_kg)
    slopes = 1.0 + 0.25 * np.arange(6)
    expected = ramp() * (slopes * conversion.slice_factors)[:, None, None]
    np.testing.assert_allclose(volume.array, expected, rtol=1e-6)
    return conversion


def factor(decay_s: float, dose_bq: float = DOSE_BQ, half_life_s: float = HALF_LIFE_S, weight_kg: float = WEIGHT_KG):
    return pytest.approx(1000 * weight_kg / (dose_bq * 2 ** (-decay_s / half_life_s)), rel=1e-9)


def code(value: str, meaning: str = "") -> Items:
    item = Dataset()
    item.CodeValue, item.CodeMeaning = value, meaning
    return Items([item])


LATE = {"SeriesTime": "143000"}  # post-processed: after the first acquisition, 11:00:00
