"""What kind of image a DICOM header describes: an original axial slice, or an image made of such slices.

ImageType (0008,0008) begins with ORIGINAL or DERIVED; its other values may name a reformat or a projection. Many
headers say MIP or NAC only in their SeriesDescription. A reformat is a volume; a projection (MIP) is not.
"""

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

ORIGINAL, DERIVED, REFORMAT, PICTURE = range(
    4
)  # from the scanner's own slices to the farthest from them: the lowest is preferred
KINDS = ("original", "derived", "a reformat", "a projection or a picture")
_PROJECTIONS = (
    r"MIP|MINIP|MAX_?IP|MIN_?IP|MAX IP|MIN IP|(?:RE)?PROJECTIONS?(?: IMAGE)?|MAXIMUM[ _]INTENSITY|VRT|VOLREN|RENDERED"
    r"|3D[ _]RENDERED|SSD"
)
PROJECTION = re.compile(rf"(?<![A-Z])(?:{_PROJECTIONS})(?![A-Z])")
DESCRIBED_PROJECTION = re.compile(r"(?<![A-Z])(?:MIPS?|MINIP|MAX(?:IMUM)?[ _]?I(?:NTENSITY|P)|ROTATING|CINE)(?![A-Z])")
REFORMATTED = re.compile(r"(?<![A-Z])(?:REFORMATTED|REFORMAT|C?MPR|MPVR|CPR|CURVED|RESAMPLED|RESLICED)(?![A-Z])")
DRAWN_PICTURE = re.compile(
    r"SCREEN ?(?:SAVE|SHOT|CAPTURE)|SNAPSHOT|CAPTURE|(?<![A-Z])(?:FUSED|FUSION|OVERLAY|RGB|COLOR|COLOUR)(?![A-Z])"
    r"|DOSE[ _]?(?:REPORT|INFO)|PATIENT PROTOCOL|(?<![A-Z])GRAPH(?![A-Z])"
)
NOT_CORRECTED = re.compile(
    r"(?<![A-Z])(?:NAC|NON?[ _-]?AC|(?:UN|NON?)[ _-]?[CK]ORR\w*|NOT[ _]CORR\w*|NO[ _-]?ATT(?:N|ENUATION)?"
    r"|(?:OHNE|SANS|SIN|SENZA)[ _]?(?:AC|[CK]ORR\w*))(?![A-Z])"
)
TIMED = ("DYNAMIC", "GATED")  # first value of SeriesType: the same slices several times


def is_axial(orientation: NDArray[np.float64] | None) -> bool:
    """Whether slices of this orientation (row and column, 6 numbers) are nearer to axial; True without one."""
    if orientation is None:
        return True
    normal = np.abs(np.cross(orientation[:3], orientation[3:]))
    return bool(normal[2] >= normal[:2].max())


def rank(image_type: str, series_type: str, description: str, axial: bool) -> int:
    """ORIGINAL, DERIVED, REFORMAT or PICTURE, from a header's texts (several values are joined by a backslash)."""
    kinds, described = image_type.upper(), description.upper()
    derived = "DERIVED" in kinds.split("\\")
    if (
        projection(image_type, series_type, description)
        or DRAWN_PICTURE.search(kinds)
        or (derived and DRAWN_PICTURE.search(described))
    ):
        return PICTURE
    if not axial or REFORMATTED.search(kinds):
        return REFORMAT
    return DERIVED if derived or series_type.upper().split("\\")[0] in TIMED else ORIGINAL


def projection(image_type: str, series_type: str, description: str) -> str:
    """The field by which an image is a projection, as "ImageType DERIVED\\SECONDARY\\MIP"; "" where none says so."""
    if PROJECTION.search(image_type.upper()):
        return f"ImageType {image_type}"
    if "REPROJECTION" in series_type.upper():
        return f"SeriesType {series_type}"
    return "SeriesDescription" if DESCRIBED_PROJECTION.search(description.upper()) else ""


def says_not_corrected(description: str) -> bool:
    """Whether a description says that the series is not attenuation-corrected; some headers say so nowhere else."""
    return bool(NOT_CORRECTED.search(description.upper()))


def plane(orientation: NDArray[np.float64] | None) -> str:
    """axial, coronal or sagittal, whichever the slices are nearest to; "" without an orientation."""
    if orientation is None:
        return ""
    normal: Sequence[float] = np.abs(np.cross(orientation[:3], orientation[3:])).tolist()
    return ("sagittal", "coronal", "axial")[2 if normal[2] >= max(normal[:2]) else int(normal[1] >= normal[0])]
