"""Writes tiny PET and CT series as DICOM, in the header styles of GE, Siemens and Philips, every field settable.

Nothing of model/ is used here: what the reader makes of these files is checked against arithmetic. Files are named
so that their order by name is not their order in space.
"""

from collections.abc import Callable, Sequence
from datetime import date, datetime, timedelta
from pathlib import Path

import numpy as np
import SimpleITK as sitk
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

PT = "1.2.840.10008.5.1.4.1.1.128"
CT = "1.2.840.10008.5.1.4.1.1.2"
WEIGHT_KG, DOSE_BQ, HALF_LIFE_S = 70.0, 350e6, 6586.2
INJECTED, SCANNED = datetime(2024, 3, 5, 10), datetime(2024, 3, 5, 11)  # one hour apart
DECAYED_BQ = DOSE_BQ * 2 ** (-3600 / HALF_LIFE_S)
STUDY, FRAME, PATIENT = "1.2.3.1", "1.2.3.2", "SYNTHETIC"
UPRIGHT = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)  # image orientation: a row runs along x, a column along y
VENDORS = {"ge": "GE MEDICAL SYSTEMS", "siemens": "SIEMENS", "philips": "Philips Medical Systems"}

Edit = Callable[[FileDataset, int], None]


def write_pet(
    folder: Path,
    stored: np.ndarray | None = None,
    *,
    vendor: str = "ge",
    slopes: Sequence[float] | None = None,
    item: dict | None = None,
    **changes,
) -> list[Path]:
    """A PET of Bq/ml = stored x slope, (z, y, x); `item` changes the radiopharmaceutical, the rest see write_series.

    Unchanged: 70 kg, 350 MBq of F-18 injected at 10:00, decay-corrected to 11:00, beds of 3 minutes from then on.
    """
    stored = ramp() if stored is None else stored
    slopes = slopes or [1.0 + 0.25 * z for z in range(len(stored))]
    fields = {
        "Modality": "PT",
        "Units": "BQML",
        "DecayCorrection": "START",
        "CorrectedImage": ["DECY", "ATTN", "SCAT"],
        "SeriesType": ["WHOLE BODY", "IMAGE"],
        "NumberOfSlices": len(stored),
        "PatientWeight": WEIGHT_KG,
        "SeriesDate": f"{SCANNED:%Y%m%d}",
        "SeriesTime": f"{SCANNED:%H%M%S}",
        "AcquisitionDate": f"{SCANNED:%Y%m%d}",
        "ActualFrameDuration": 180_000,
        "CollimatorType": "NONE",
        "SeriesDescription": "PET AC",
        "RadiopharmaceuticalInformationSequence": Items([_radiopharmaceutical(vendor, item or {})]),
    }
    per_slice = {
        "RescaleSlope": slopes,
        "AcquisitionTime": [_clock(SCANNED, 180 * (z // 3)) for z in range(len(stored))],
    }
    return write_series(folder, stored, PT, fields | changes.pop("fields", {}), per_slice, vendor=vendor, **changes)


def write_ct(folder: Path, stored: np.ndarray | None = None, *, vendor: str = "ge", **changes) -> list[Path]:
    """A CT of HU = stored - 1024, (z, y, x). Without `stored`: a body of 40 HU (1064) in air (24)."""
    if stored is None:
        stored = np.full((6, 8, 10), 24, np.uint16)
        stored[:, 2:6, 2:8] = 1064
    fields = {
        "Modality": "CT",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "RescaleType": "HU",
        "SeriesDescription": "CT",
        "GantryDetectorTilt": 0.0,
    }
    per_slice = {"RescaleSlope": [1] * len(stored), "RescaleIntercept": [-1024] * len(stored)}
    changes = {"spacing_mm": (2.0, 2.0, 3.0), "series_uid": "1.2.3.8"} | changes
    return write_series(folder, stored, CT, fields | changes.pop("fields", {}), per_slice, vendor=vendor, **changes)


def write_series(
    folder: Path,
    stored: np.ndarray,
    storage: str,
    fields: dict,
    per_slice: dict,
    *,
    vendor: str = "ge",
    spacing_mm: tuple[float, float, float] = (4.0, 4.0, 3.0),
    origin_mm: tuple[float, float, float] = (0.0, 0.0, 0.0),
    orientation: Sequence[float] = UPRIGHT,
    step: Sequence[float] | None = None,
    series_uid: str = "1.2.3.9",
    edit: Edit | None = None,
    leave_out: Sequence[int] = (),
) -> list[Path]:
    """One file a slice of `stored` (z, y, x), integers. Returns the paths, by z.

    orientation: ImageOrientationPatient; slice z lies z x `step` (mm, by default the spacing along the normal) from
    the origin. fields: by keyword, None removes. per_slice: keyword -> a value for each z. edit(header, z) may change
    a header last, before its file is written. leave_out: slices that are not written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    normal = np.cross(orientation[:3], orientation[3:])
    step = spacing_mm[2] * normal if step is None else np.array(step)
    paths = []
    for z, plane in enumerate(stored):
        path = folder / f"slice{(z * 37) % 101 + 101 * (z // 202):03d}-{z % 2}.dcm"  # each another name
        header = FileDataset(str(path), {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128)
        header.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        header.file_meta.MediaStorageSOPClassUID = storage
        values = (
            {
                "SOPClassUID": storage,
                "SOPInstanceUID": generate_uid(),
                "SeriesInstanceUID": series_uid,
                "StudyInstanceUID": STUDY,
                "FrameOfReferenceUID": FRAME,
                "PatientID": PATIENT,
                "PatientName": "Synthetic",
                "Manufacturer": VENDORS[vendor],
                "InstanceNumber": len(stored) - z,
                "SamplesPerPixel": 1,
                "PhotometricInterpretation": "MONOCHROME2",
                "Rows": plane.shape[0],
                "Columns": plane.shape[1],
                "PixelSpacing": [spacing_mm[1], spacing_mm[0]],
                "ImageOrientationPatient": list(orientation),
                "ImagePositionPatient": [f"{v:.10g}" for v in np.array(origin_mm) + z * step],
                "BitsAllocated": 16,
                "BitsStored": 16,
                "HighBit": 15,
                "PixelRepresentation": int(plane.dtype.kind == "i"),
                "RescaleIntercept": 0,
            }
            | fields
            | {keyword: column[z] for keyword, column in per_slice.items()}
        )
        for keyword, value in values.items():
            if value is not None:
                setattr(header, keyword, value)
        header.PixelData = plane.astype("<u2" if plane.dtype.kind == "u" else "<i2").tobytes()
        if edit:
            edit(header, z)
        header.file_meta.MediaStorageSOPInstanceUID = header.SOPInstanceUID
        if z not in leave_out:
            header.save_as(path, enforce_file_format=True)
        paths.append(path)
    return paths


def write_study(
    folder: Path,
    suv: sitk.Image,
    hu: sitk.Image,
    vendor: str = "ge",
    number: int = 0,
    day: date = SCANNED.date(),
    **fields,
) -> Path:
    """A study of any images in SUV and HU, with a RescaleSlope of each slice's own; returns the folder.

    number: another one is another patient, study, frame of reference and pair of series. day: of injection and scan.
    fields: of both series.
    """
    days = dict.fromkeys(("StudyDate", "SeriesDate", "AcquisitionDate"), f"{day:%Y%m%d}")
    started = datetime.combine(day, INJECTED.time())
    item = {"RadiopharmaceuticalStartDateTime": f"{started:%Y%m%d%H%M%S}.000000"} if vendor == "siemens" else {}
    fields = (
        days
        | {
            "StudyInstanceUID": f"{STUDY}.{number}",
            "FrameOfReferenceUID": f"{FRAME}.{number}",
            "PatientID": f"{PATIENT}{number}",
        }
        | fields
    )
    series = (("pet", sitk.GetArrayFromImage(suv), suv), ("ct", sitk.GetArrayFromImage(hu), hu))
    for name, array, image in series:
        columns = np.array(image.GetDirection()).reshape(3, 3)
        place = {
            "spacing_mm": image.GetSpacing(),
            "origin_mm": image.GetOrigin(),
            "orientation": [*columns[:, 0], *columns[:, 1]],
            "vendor": vendor,
            "series_uid": f"1.2.3.{number}.{8 if name == 'ct' else 9}",
        }
        if name == "ct":
            write_ct(folder / name, (np.round(array) + 1024).clip(0, 65535).astype(np.uint16), fields=fields, **place)
            continue
        bqml = array.clip(0) * DECAYED_BQ / (WEIGHT_KG * 1000)
        tops = np.array([f"{max(float(plane.max()), 1.0) / 32767:.8g}" for plane in bqml], float)
        stored = np.round(bqml / tops[:, None, None]).clip(0, 32767).astype(np.int16)
        slopes = [f"{top:.8g}" for top in tops]
        philips = philips_factors(1000 * WEIGHT_KG / DECAYED_BQ, 0) if vendor == "philips" else None
        units = {"Units": "CNTS"} if vendor == "philips" else {}
        write_pet(folder / name, stored, slopes=slopes, item=item, edit=philips, fields=fields | units, **place)
    return folder


def ramp(slices: int = 6) -> np.ndarray:
    """Every voxel another number: int16 (slices, 4, 5)."""
    return np.arange(slices * 20, dtype=np.int16).reshape(slices, 4, 5) * 10


def ge_time(when: str) -> Edit:
    """An edit that adds GE's private scan time (0009,100D)."""
    return lambda header, z: _private(header, 0x0009, "GEMS_PETD_01", {0x0D: ("DT", when)})


def siemens_time(when: str) -> Edit:
    """An edit that adds Siemens' private decay correction time (0071,1022)."""
    return lambda header, z: _private(header, 0x0071, "SIEMENS MED PT", {0x22: ("DT", when)})


def philips_factors(suv: object, activity: object) -> Edit:
    """An edit that adds Philips' SUV and activity-concentration factors (7053,1000) and (7053,1009); None: without."""
    values = {element: ("DS", f"{v:.10g}") for element, v in ((0x00, suv), (0x09, activity)) if v is not None}
    return lambda header, z: _private(header, 0x7053, "Philips PET Private Group", values)


def after(moment: datetime, seconds: float) -> dict:
    """Series and acquisition fields of a scan that many seconds after `moment`."""
    when = moment + timedelta(seconds=seconds)
    return {"SeriesDate": f"{when:%Y%m%d}", "SeriesTime": f"{when:%H%M%S}", "AcquisitionDate": f"{when:%Y%m%d}"}


def _private(header: FileDataset, group: int, creator: str, values: dict[int, tuple[str, str]]) -> None:
    block = header.private_block(group, creator, create=True)
    for element, (kind, value) in values.items():
        block.add_new(element, kind, value)


def _radiopharmaceutical(vendor: str, changes: dict) -> Dataset:
    code = Dataset()
    code.CodeValue, code.CodingSchemeDesignator, code.CodeMeaning = "C-111A1", "SRT", "^18^Fluorine"
    values = {
        "RadiopharmaceuticalStartTime": f"{INJECTED:%H%M%S}",
        "RadionuclideTotalDose": DOSE_BQ,
        "RadionuclideHalfLife": HALF_LIFE_S,
        "RadionuclideCodeSequence": Items([code]),
    }
    if vendor == "siemens":
        values["RadiopharmaceuticalStartDateTime"] = f"{INJECTED:%Y%m%d%H%M%S}.000000"
    item = Dataset()
    for keyword, value in (values | changes).items():
        if value is not None:
            setattr(item, keyword, value)
    return item


def _clock(moment: datetime, seconds: float) -> str:
    return f"{moment + timedelta(seconds=seconds):%H%M%S}.00"
