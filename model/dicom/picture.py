"""The picture of a study's lesions as a DICOM Secondary Capture, so that any viewer of the PACS shows it."""

import hashlib
import io
from collections.abc import Sequence

import highdicom as hd
import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset
from pydicom.uid import ExplicitVRLittleEndian

from model import __version__
from model.dicom.derived import MANUFACTURER, MODEL, as_bytes, plain_text, series_description, sources_from, uid_from
from model.dicom.identity import identity_of
from model.dicom.seg import LONGEST_COMMENT, series_uid

SERIES_NUMBER = 9004  # above those that scanners use, and after SEG, RTSTRUCT and the organs
FROM_WORKSTATION = "WSD"  # ConversionType (DICOM PS3.3, C.8.6.1)


def dicom_picture(
    png: bytes, headers: Sequence[FileDataset], run: str, named: bool, terms: str = "", mark: str = ""
) -> bytes:
    """A DICOM file of a PNG in colour, in the study of the PET slices `headers`.

    run: names all that the lesions depend on besides the PET; the same run and picture have the same UIDs. named:
    whether the picture shows the patient's name. terms: licence and citation of the weights, for ImageComments. mark:
    goes into the series' description. Raises CaseError where headers cannot be referred to, OSError for a PNG that
    cannot be read.
    """
    with Image.open(io.BytesIO(png)) as image:
        pixels = np.asarray(image.convert("RGB"))
    source = sources_from(headers[:1])[0]
    picture = hashlib.sha256(png).hexdigest()
    made = hd.sc.SCImage.from_ref_dataset(
        ref_dataset=source,
        pixel_array=pixels,
        photometric_interpretation=hd.PhotometricInterpretationValues.RGB,
        bits_allocated=8,
        coordinate_system=hd.CoordinateSystemNames.PATIENT,
        series_instance_uid=uid_from("picture series", series_uid(headers), run),
        series_number=SERIES_NUMBER,
        sop_instance_uid=uid_from("picture", series_uid(headers), run, picture),
        instance_number=1,
        manufacturer=MANUFACTURER,
        patient_orientation=("L", "F"),
        transfer_syntax_uid=ExplicitVRLittleEndian,
    )
    identity_of(headers[0]).fill(made)
    made.PatientOrientation = made.Laterality = ""  # two projections of the body, side by side
    made.ConversionType = FROM_WORKSTATION
    made.BurnedInAnnotation = "YES" if named else "NO"
    made.SeriesDescription = series_description("Picture", mark)
    made.ManufacturerModelName, made.SoftwareVersions = MODEL, __version__
    if terms:
        made.ImageComments = plain_text(terms, LONGEST_COMMENT)
    return as_bytes(made)
