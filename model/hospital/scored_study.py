"""A study that is segmented and measured, and not written yet."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import FileDataset

from model.bundle.manifest import Bundle
from model.dicom.suv import Conversion
from model.hospital.job import Job
from model.hospital.stored_results import StoredMask, mask_hash
from model.inference.device import Device
from model.inference.segment import Result
from model.results.organs import OrganUptake
from model.results.study_measures import StudyMeasures
from model.study.masks import DrawnMask
from model.study.reading import Case


@dataclass(frozen=True, kw_only=True)
class ScoredStudy:
    """A study that is segmented and measured. stored: the earlier result that its mask was taken from, if any; edited:
    the mask of a reader's edit, which is then that of `result`.

    result: of the networks, or stored; `measures.mask` is what rules made of its mask.

    organs: what was measured of each organ; None without an organ map. hashes: of its files, as
    `model.hospital.stored_results` compares them. mask_warnings: from making the mask now.
    """

    job: Job
    bundle: Bundle
    device: Device
    case: Case
    result: Result
    stored: StoredMask | None
    edited: DrawnMask | None
    measures: StudyMeasures
    organs: tuple[OrganUptake, ...] | None
    conversion: Conversion | None
    headers: tuple[FileDataset, ...]
    truth: NDArray[np.bool_] | None
    hashes: dict[str, str]
    mask_warnings: tuple[str, ...]
    ct_headers: tuple[FileDataset, ...] = ()

    @cached_property
    def mask_sha256(self) -> str:
        """The hash of the mask by the rules."""
        return mask_hash(self.measures.mask)

    @cached_property
    def network_mask_sha256(self) -> str:
        """The hash of the mask before the rules."""
        return mask_hash(self.result.mask)
