"""The options of score.py that add outputs, and the comparison with masks."""

import argparse
from pathlib import Path

from model.results.metrics import CONVENTIONS

MASK_ENDINGS = {"mha": ".mha", "nifti": ".nii.gz"}
BESIDE = Path()  # --truth without a folder: the masks lie beside the studies


def add_output_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("outputs").add_argument
    add(
        "--format",
        default="mha",
        choices=tuple(MASK_ENDINGS),
        help="format of masks and maps: mha, or nifti (.nii.gz) (default: mha; cost: none)",
    )
    add(
        "--rtstruct",
        action="store_true",
        help="also write an RT Structure Set for studies that came as DICOM (default: no; cost: under a second)",
    )
    add(
        "--picture",
        action="store_true",
        help="also write the picture as a DICOM Secondary Capture, picture.dcm, for studies that came as DICOM "
        "(default: no; cost: under a second, some MB a study)",
    )
    add(
        "--sr",
        action="store_true",
        help="also write every lesion's measurements as DICOM SR (TID 1500) for studies that came as DICOM (default: "
        "no; cost: seconds, ten with hundreds of lesions)",
    )
    add(
        "--pdf",
        action="store_true",
        help="also write report.pdf, a page of each study for the record (default: no; cost: a second or two)",
    )
    add(
        "--disagreement",
        action="store_true",
        help="also write how far the networks disagree, as the standard deviation of their lesion probabilities, 0 "
        "to 0.5; needs a bundle with two or more voting networks (default: no; cost: 12 bytes of memory a voxel)",
    )
    add(
        "--organs",
        action="store_true",
        help="also find the organs that the bundle's networks know besides lesions: organs.mha (or .nii.gz) and, for "
        "DICOM, seg-organs.dcm for each study, the organs' SUV in report.json, report.html and organs.csv; needs "
        "networks with an organ head (default: no; cost: 4 bytes of memory a class and voxel of the network, 44 with "
        "eleven classes, and on a CPU as much again where networks are averaged)",
    )
    add(
        "--compare-dates",
        action="store_true",
        help="also compare the dates of patients with two studies or more, each date with the next and the first with "
        "the last: their CTs are laid onto each other, lesions are matched, and patients.html, patients.csv and "
        "patients_lesions.csv say what is new, gone, grown or shrunk (default: no; cost: 20 to 40 s of one core "
        "and 0.8 GB of memory a pair)",
    )
    add(
        "--names",
        action="store_true",
        help="call studies by the patient's and the folder's name, and let messages name files (default: no, by a "
        "salted hash that RESULTS/keys.csv maps back; cost: privacy)",
    )


def add_truth_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument_group("comparison").add_argument
    add(
        "--truth",
        nargs="?",
        type=Path,
        const=BESIDE,
        metavar="FOLDER",
        help="compare with masks: those in FOLDER under the study's path, SEG and RTSTRUCT that refer to the study, "
        "or, without FOLDER, masks beside the images or in the CSV (default: no; cost: a second or two a study)",
    )
    add(
        "--convention",
        default="autopet_1_2",
        choices=tuple(CONVENTIONS),
        help="what empty masks score with --truth, by autoPET's edition (default: autopet_1_2; cost: none)",
    )
