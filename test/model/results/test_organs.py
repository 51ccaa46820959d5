import csv
import io
import math

import numpy as np
import pytest
from organ_bundles import organ_bundle

from model.bundle.manifest import load_bundle
from model.results.organs import labels_hash, measure_organs, organ_rows, organs_csv, organs_report
from model.study.geometry import Grid

GRID = Grid(
    size=(4, 3, 2), spacing_mm=(10.0, 10.0, 5.0), origin_mm=(0.0, 0.0, 0.0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1)
)


def study() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """SUV 0 to 23; label 1 at SUV 1, 2, 3, 9 of which 9 is lesion; label 3 at 20, a lesion whole; voxels of 0.5 ml."""
    suv = np.arange(24, dtype=np.float32).reshape(2, 3, 4)
    labels = np.zeros_like(suv, np.uint8)
    labels[np.isin(suv, (1, 2, 3, 9))] = 1
    labels[suv == 20] = 3
    return suv, labels, np.isin(suv, (9, 10, 20))


def test_volume_counts_lesions_and_suv_does_not() -> None:
    one, two, three = measure_organs(*study(), GRID, ("liver", "brain", "heart"))
    assert (one.organ, one.label, one.volume_ml, one.lesion_ml) == ("liver", 1, 2.0, 0.5)
    assert (one.suv_mean, one.suv_median, one.suv_max) == (2.0, 2.0, 3.0)
    assert one.suv_sd == pytest.approx(math.sqrt(2 / 3))  # of 1, 2, 3
    assert (two.volume_ml, two.lesion_ml, two.suv_mean, two.suv_max) == (0.0, 0.0, None, None)
    assert (three.volume_ml, three.lesion_ml, three.suv_mean, three.suv_sd) == (0.5, 0.5, None, None)


def test_a_map_without_any_organ_has_a_row_for_each() -> None:
    suv, labels, mask = study()
    assert [organ.volume_ml for organ in measure_organs(suv, labels * 0, mask, GRID, ("a", "b"))] == [0.0, 0.0]


def test_the_table_has_a_row_a_study_and_organ_and_empty_cells_for_what_is_not_defined() -> None:
    rows = [{"study": "s"} | row for row in organ_rows(measure_organs(*study(), GRID, ("liver", "brain", "heart")))]
    read = list(csv.DictReader(io.StringIO(organs_csv(rows))))
    assert [(row["study"], row["organ"], row["volume_ml"], row["suv_mean"]) for row in read] == [
        ("s", "liver", "2.0", "2.0"),
        ("s", "brain", "0.0", ""),
        ("s", "heart", "0.5", ""),
    ]
    assert all("Research use" in row["notice"] for row in read)


def test_the_report_says_who_voted_and_what_the_labels_mean(make_bundle, tmp_path) -> None:
    bundle = load_bundle(make_bundle(tmp_path / "b", **organ_bundle()))
    report = organs_report((), bundle)
    assert (report["networks_with_organ_head"], report["networks"]) == (2, 2)
    assert report["labels"]["1"] == "spleen" and report["labels"]["10"] == "salivary glands"


def test_another_map_has_another_hash() -> None:
    _, labels, _ = study()
    other = np.where(labels == 3, 2, labels)
    assert labels_hash(labels) == labels_hash(labels.copy()) != labels_hash(other)
