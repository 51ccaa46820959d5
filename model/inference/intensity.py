"""SUV and HU to network units (Ahn and Park, section 2.2). Pure: a new array out, the input unchanged."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle.settings import Intensity


def scale_suv(suv: NDArray[Any], settings: Intensity) -> NDArray[np.float32]:
    """Divide SUV by `suv_top`; values above 1 stay unless `suv_clip`.

    suv: any real type, any shape, finite. Returns float32 of the same shape.
    """
    scaled: NDArray[np.float32] = np.divide(suv, np.float32(settings.suv_top), dtype=np.float32)
    if settings.suv_clip:
        np.clip(scaled, 0, 1, out=scaled)
    return scaled


def scale_hu(hu: NDArray[Any], settings: Intensity) -> NDArray[np.float32]:
    """Map [ct_low_hu, ct_high_hu] to [0, 1]; values outside stay outside unless `ct_clip`.

    hu: any real type, any shape, finite. Returns float32 of the same shape.
    """
    scaled: NDArray[np.float32] = np.subtract(hu, np.float32(settings.ct_low_hu), dtype=np.float32)
    scaled /= np.float32(settings.ct_high_hu - settings.ct_low_hu)
    if settings.ct_clip:
        np.clip(scaled, 0, 1, out=scaled)
    return scaled
