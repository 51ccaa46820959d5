"""Measured uptake: drawn patients have the published means, deviations, percentiles and correlations."""

import csv

import numpy as np
import pytest
from conftest import ROOT

from training.phantom.tissues import LABELS
from training.phantom.uptake import SHARES, draw_measured_suv, draw_uptake, moments, quantiles

FOLDER = ROOT / "training/phantom"
PATIENTS = 3000


@pytest.fixture(scope="module")
def drawn() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(17)
    patients = [draw_uptake(rng) for _ in range(PATIENTS)]
    return {region: np.array([patient[region] for patient in patients]) for region in patients[0]}


def rows(name: str) -> list[dict[str, str]]:
    with (FOLDER / name).open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("row", rows("uptake.csv"), ids=lambda row: row["region"])
def test_a_region_has_the_published_mean_deviation_and_percentiles(row, drawn) -> None:
    values, mean, sd = drawn[row["region"]], float(row["mean"]), float(row["sd"])
    assert abs(values.mean() - mean) < 0.1 * sd + 4 * sd / np.sqrt(PATIENTS)
    assert values.std() == pytest.approx(sd, rel=0.1)
    for name, share in (("p5", 5), ("p25", 25), ("p50", 50), ("p75", 75), ("p95", 95)):
        assert abs(np.percentile(values, share) - float(row[name])) < 0.25 * sd


def test_organs_have_the_published_correlations(drawn) -> None:
    table = rows("uptake_correlation.csv")
    names = [row["region"] for row in table]
    found = np.corrcoef([drawn[name] for name in names])
    wanted = np.array([[float(row[name]) for name in names] for row in table])
    apart = np.abs(found - wanted)
    assert apart.mean() < 0.03 and apart.max() < 0.1  # 80 adults fix a correlation to within about 0.1


def test_moments_are_those_of_a_distribution_that_runs_straight_between_its_knots() -> None:
    knots = next(iter(quantiles().values()))
    shares = (np.arange(200_000) + 0.5) / 200_000
    values = np.interp(shares, SHARES, knots)
    mean, sd = moments(knots)
    assert mean == pytest.approx(values.mean(), rel=1e-6) and sd == pytest.approx(values.std(), rel=1e-5)


def test_the_tissues_of_a_brain_have_a_measured_mean_together() -> None:
    counts = {"grey matter": 400, "white matter": 500, "brain fluid": 100}
    labels = np.repeat([LABELS[name] for name in counts], list(counts.values())).astype(np.uint8)
    for seed in range(20):
        suv = draw_measured_suv(np.random.default_rng(seed), labels, extremes=False)
        mean = suv[labels].mean()
        assert quantiles()["brain"][0] - 1e-4 <= mean <= quantiles()["brain"][-1] + 1e-4
        assert suv[LABELS["grey matter"]] > suv[LABELS["white matter"]] > suv[LABELS["brain fluid"]]


def test_extremes_change_what_they_name_and_healthy_patients_stay_within_the_table() -> None:
    labels = np.zeros(1, np.uint8)
    healthy = np.array([draw_measured_suv(np.random.default_rng(s), labels, False) for s in range(400)])
    others = np.array([draw_measured_suv(np.random.default_rng(s), labels) for s in range(400)])
    for tissue, region in (("kidney", "kidney_right"), ("bladder", "urinary_bladder"), ("marrow", "vertebrae_L1")):
        assert healthy[:, LABELS[tissue]].max() <= max(quantiles()[region][-1], 4.2)
        assert others[:, LABELS[tissue]].max() > 1.3 * healthy[:, LABELS[tissue]].max()
    assert np.allclose(healthy[:, LABELS["liver"]], others[:, LABELS["liver"]])  # no extreme names the liver
    wall = others[:, LABELS["heart wall"]]
    assert (wall < 2.5).mean() > 0.1 and (wall > 8).mean() > 0.1  # from nearly nothing to intense
