"""The values of one DICOM slice, rescaled.

Values are read one file at a time, so that a CT of a thousand slices is never in memory twice.
"""

from pathlib import Path

import numpy as np
import SimpleITK as sitk
from numpy.typing import NDArray
from pydicom.dataset import FileDataset
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from model.dicom.elements import UNREADABLE, number, path_of, tag_name, text
from model.dicom.headers import read_file
from model.errors import CaseError
from model.files import silence

OUTSIDE_HU = -1024.0  # air: what CT padding outside the field of view becomes
TRANSFER_SYNTAXES = (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    ExplicitVRBigEndian,
    DeflatedExplicitVRLittleEndian,
    RLELossless,
    JPEGLosslessSV1,
    JPEGLossless,
    JPEGLSLossless,
    JPEG2000Lossless,
    JPEGLSNearLossless,
    JPEG2000,
)  # that `read_values` reads, what is exact before what is not; a PACS is offered these


def read_values(path: Path) -> NDArray[np.float64]:
    """The values of one slice (y, x), after its own RescaleSlope and RescaleIntercept.

    CT padding (PixelPaddingValue) below -1024 HU becomes -1024. SimpleITK (GDCM) reads what pydicom cannot decompress
    alone (JPEG lossless, JPEG-LS). Raises CaseError if the pixels are damaged, or in a compression that neither reads.
    """
    data = read_file(path, pixels=True)
    slope, intercept = rescale_of(data)
    syntax = UID(str(data.file_meta.TransferSyntaxUID))
    try:
        if syntax.is_compressed and not get_decoder(syntax).is_available:
            values = _decompress(path)
        else:
            values = np.asarray(data.pixel_array, np.float64) * slope + intercept
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[-1][:200] if str(error).strip() else type(error).__name__
        raise CaseError(
            f"the pixels of '{path}' cannot be read (transfer syntax {syntax.name}): {reason}; copy the file again, "
            "or decompress the series first (for example with dcmdjpeg or gdcmconv --raw)"
        ) from None
    shape = number(data, "Rows"), number(data, "Columns")
    if values.shape != shape:
        raise CaseError(f"'{path}' holds pixels of shape {values.shape}, not one slice of {shape}; export it again")
    padding = number(data, "PixelPaddingValue") if text(data, "Modality") == "CT" else None
    if padding is not None and padding * slope + intercept < OUTSIDE_HU:
        values[values == padding * slope + intercept] = OUTSIDE_HU
    return values


def rescale_of(header: FileDataset) -> tuple[float, float]:
    """RescaleSlope and RescaleIntercept of a slice. Raises CaseError if one is absent, or the slope is 0."""
    slope, intercept = number(header, "RescaleSlope"), number(header, "RescaleIntercept")
    if not slope or intercept is None:
        raise CaseError(
            f"'{path_of(header)}' has {tag_name('RescaleSlope')} {slope} and {tag_name('RescaleIntercept')} {intercept}"
            ": without them its values have no unit; export the series again from the scanner or the PACS"
        )
    return slope, intercept


def _decompress(path: Path) -> NDArray[np.float64]:
    """One compressed slice by GDCM, which applies the file's slope and intercept itself."""
    reader = sitk.ImageFileReader()
    reader.SetImageIO("GDCMImageIO")
    reader.SetFileName(str(path))
    with silence():
        image = reader.Execute()
    array: NDArray[np.float64] = sitk.GetArrayFromImage(image).astype(np.float64)
    return array[0] if array.ndim == 3 else array
