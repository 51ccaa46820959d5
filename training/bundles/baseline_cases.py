"""Which studies baselines are scored on, which they may learn from, and scores as training evaluate writes them."""

import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass

from model.errors import ConfigError
from training.bundles.field_of_view import ViewScore
from training.bundles.study_views import originals_of
from training.data.folds import read_fold
from training.data.pack import without_images
from training.data.split import patients_of
from training.data.table import Study, patients_in, some_of
from training.judging.scores import CaseScore

CONVENTION = "autopet_1_2"


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The studies that are scored, and those that methods may learn from."""

    scored: list[Study]
    train: list[Study]

    @property
    def of_same_sites(self) -> list[Study]:
        """Training studies of the scored studies' sites, no tumour in another's body; all if there are none of them."""
        sites = {study.site for study in self.scored}
        return [study for study in self.train if study.site in sites and not study.body] or self.train


def parts_of(options: argparse.Namespace, index: dict[str, Study]) -> Parts:
    """Divide the index as the options say. Raises ConfigError for unknown cases, or patients on both sides."""
    if options.cases:
        patients = patients_of(options.cases, index)
        scored = [study for study in index.values() if study.patient in patients and not study.body]
        train = [study for study in index.values() if not patients_in([study]) & patients]
    elif options.split:
        fold = read_fold(options.split, options.fold)
        names = (*getattr(fold, options.part), *fold.train)
        if unknown := [case for case in names if case not in index]:
            raise ConfigError(
                f"split '{options.split}', fold {options.fold}: {len(unknown)} cases are not in '{options.index}': "
                f"{some_of(unknown)}; give the index that the split was made from"
            )
        scored, train = ([index[case] for case in part] for part in (getattr(fold, options.part), fold.train))
    else:
        scored, train = [study for study in index.values() if not study.body], []
    scored = originals_of(scored, index)
    if not scored:
        raise ConfigError("there is no case to score: name another --part, or other --cases")
    if both := patients_in(scored) & patients_in(train):
        raise ConfigError(f"patients both train and are scored: {some_of(both)}; divide by patient")
    if packed := without_images((*scored, *train)):
        raise ConfigError(
            f"'{options.index}' is of a run that came from a pack, which has no images ({some_of(packed)}); give the "
            "index.csv of the run that was packed"
        )
    return Parts(scored=scored, train=train)


def case_scores(rows: Sequence[ViewScore], index: dict[str, Study]) -> list[CaseScore]:
    """Rows of one view as training evaluate writes them."""
    by_patient = {study.patient: study for study in index.values()}
    found = []
    for row in rows:
        study = index.get(row.case) or by_patient[row.patient]
        found.append(
            CaseScore(
                case=row.case,
                patient=row.patient,
                diagnosis=study.diagnosis,
                tracer=study.tracer,
                site=study.site,
                dice=row.dice,
                fpv_ml=row.fpv_ml,
                fnv_ml=row.fnv_ml,
                lesions_true=row.lesions_true,
                lesions_found=row.lesions_found,
                seconds=math.nan,
                convention=CONVENTION,
            )
        )
    return found
