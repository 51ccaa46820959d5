"""Which studies a bundle was trained or selected on, as its manifest says."""

from collections.abc import Sequence

from model.bundle.manifest import Bundle
from model.errors import WeightsError
from training.data.table import Study, patients_in

TRAINED_ON = "trained_on_cases"  # key of a bundle's provenance.scores: the cases that trained or selected it
PATIENTS = "trained_on_patients"  # key of the same: their patients


def training_cases_among(bundle: Bundle, studies: Sequence[Study], index: dict[str, Study]) -> list[str] | None:
    """Cases among `studies` that the bundle was trained or selected on, or that are another study of such a patient.

    None if the bundle does not name them. Raises WeightsError if it has something else than a list of names there.
    """
    cases, patients = (bundle.manifest.provenance.scores.get(key) for key in (TRAINED_ON, PATIENTS))
    if cases is None:
        return None
    for key, names in ((TRAINED_ON, cases), (PATIENTS, patients or [])):
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise WeightsError(f"'{bundle.folder}': provenance.scores.{key} must list names; correct it")
    patients = {*(patients or []), *patients_in(index[case] for case in cases if case in index)}
    return [study.case for study in studies if study.case in cases or patients_in([study]) & patients]
