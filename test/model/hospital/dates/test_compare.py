"""Two dates of a small patient, from files to the page."""

import csv
import io
import json
from dataclasses import replace
from datetime import datetime

import numpy as np
import pytest
import SimpleITK as sitk
from two_date_results import small_body, write_date

from model.bundle.settings import Limits
from model.hospital.dates import compare, pair
from model.hospital.dates.compare import ComparedDates, compare_dates
from model.hospital.dates.registration import Alignment
from model.hospital.dates.stored_pairs import is_compared, pair_job
from model.hospital.dates.worker import answer
from model.hospital.job import Setup, job_from, pair_job_from, to_json
from model.hospital.pages.page import About
from model.hospital.pages.patients import write_patients
from model.hospital.pages.words import shown_name

ABOUT = About(weights="w", weights_sha256="0" * 64, made=datetime(2026, 1, 1))
KEPT, GROWN_BOX = (slice(18, 22),) * 3, (slice(16, 24), slice(18, 22), slice(18, 22))  # 4.1 ml, then 8.2 ml
GONE_BOX, NEW_BOX = (slice(40, 43), slice(20, 23), slice(36, 39)), (slice(50, 53), slice(20, 23), slice(14, 17))
NAMES = ("s-00000000000a", "s-00000000000b")


class SameProcess:
    """A comparing process that is this one."""

    asked = 0

    def __init__(self, setup, lock, module) -> None: ...

    def __enter__(self):
        return self

    def __exit__(self, *error) -> None: ...

    def ask(self, job, following):
        type(self).asked += 1
        return answer(pair_job_from(json.loads(to_json(job))))


@pytest.fixture
def patient(tmp_path, monkeypatch, bundle):
    """The jobs of both dates; the CTs lie 20 mm apart in z, which is given here, not found."""
    monkeypatch.setattr(compare, "WorkerProcess", SameProcess)
    monkeypatch.setattr(SameProcess, "asked", 0)
    up = sitk.TranslationTransform(3, (0.0, 0.0, -20.0))
    aligned = Alignment(transform=up, kind="rigid", correlation=1.0, moved_mm=0.0, warnings=())
    monkeypatch.setattr(pair, "align", lambda first, second: aligned)
    body = small_body(sitk.Transform())
    later = sitk.Image(body)
    later.SetOrigin((0.0, 0.0, 20.0))
    sides = ((body, [KEPT, GONE_BOX], "2024-03-01"), (later, [GROWN_BOX, NEW_BOX], "2024-05-01"))
    return [
        write_date(tmp_path / "in", tmp_path / "out", name, ct, boxes, patient="Smith-1950", date=date)
        for name, (ct, boxes, date) in zip(NAMES, sides, strict=True)
    ]


@pytest.fixture
def bundle():
    class Plain:
        class manifest:
            limits = Limits()

    return Plain()


def run(jobs, bundle):
    setup = Setup(weights="", method=None, device="cpu")
    return compare_dates(jobs, jobs[0].output, b"salt", bundle, setup, None)


def rows(path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


def test_a_patient_at_two_dates_from_files_to_tables(patient, bundle, capsys) -> None:
    output = patient[0].output
    write_patients(output, *run(patient, bundle), ABOUT)
    found = rows(output / "patients_lesions.csv")
    assert [(row["lesion_1"], row["lesion_2"], row["change"]) for row in found] == [
        ("1", "1", "grown"), ("", "2", "new"), ("2", "", "gone")
    ]  # fmt: skip
    assert (found[0]["volume_ml_1"], found[0]["volume_ml_2"], found[0]["volume_ml_change_percent"]) == (
        "4.096",
        "8.192",
        "100.0",
    )
    (whole,) = rows(output / "patients.csv")
    assert (whole["days"], whole["percist"], whole["aligned"]) == ("61", "PMD", "rigid")
    assert whole["mtv_ml_1"] == str(round((64 + 27) * 0.064, 4))
    page = (output / "patients.html").read_text()
    texts = [page, *((output / name).read_text() for name in ("patients.csv", "patients_lesions.csv"))]
    texts += [path.read_text() for path in output.glob("comparisons/*/pair.json")] + [capsys.readouterr().out]
    assert not any(secret in text for text in texts for secret in ("Smith", "2024-03-01"))
    assert "default-src 'none'" in page and "<script" not in page
    picture = sitk.GetArrayFromImage(sitk.ReadImage(str(next(output.glob("comparisons/*/two-dates.png")))))
    assert {tuple(colour) for colour in np.unique(picture.reshape(-1, 3), axis=0).tolist()} >= {
        (214, 30, 30), (200, 0, 160), (20, 80, 220)
    }  # fmt: skip


def test_a_pair_is_compared_again_only_when_its_lesions_change(patient, bundle) -> None:
    run(patient, bundle)
    run(patient, bundle)
    assert SameProcess.asked == 1
    table = patient[0].output / "studies" / NAMES[0] / "lesions.json"
    content = json.loads(table.read_text())
    content["numbers"] = {"sul_peak": 7.0}  # a number that the comparison does not depend on
    table.write_text(json.dumps(content))
    comparisons, _ = run(patient, bundle)
    assert SameProcess.asked == 1 and comparisons[0].totals["sul_peak_1"] == 7.0
    mask = patient[0].output / "studies" / NAMES[0] / "mask.mha"
    image = sitk.ReadImage(str(mask))
    image[36:39, 20:23, 40:43] = 0  # the second lesion was dropped
    sitk.WriteImage(image, str(mask))
    table.write_text(json.dumps(content | {"lesions": content["lesions"][:1]}))
    comparisons, _ = compare_dates(patient, patient[0].output, b"salt", bundle, None, None)
    assert SameProcess.asked == 1 and comparisons[0].failure[1].endswith("with --compare-dates")
    comparisons, _ = run(patient, bundle)
    assert SameProcess.asked == 2
    assert [row["change"] for row in comparisons[0].lesions] == ["grown", "new"]


def test_a_date_that_a_list_corrects_has_the_picture_drawn_anew(patient, bundle) -> None:
    run(patient, bundle)
    patient[1] = replace(patient[1], entry=replace(patient[1].entry, date="2024-06-01"))
    (one,), _ = run(patient, bundle)
    (stored,) = patient[0].output.glob("comparisons/*/pair.json")
    assert (SameProcess.asked, one.days, json.loads(stored.read_text())["days"]) == (2, 92, 92)


def test_two_studies_of_one_day_have_changes_but_no_response(patient, bundle) -> None:
    times = ("2024-03-01T09:30", "2024-03-01T11:00")
    jobs = [replace(job, entry=replace(job.entry, date=at)) for job, at in zip(patient, times, strict=True)]
    (one,), _ = run(jobs, bundle)
    assert (one.days, one.response.category, one.response.reason.startswith("both studies are of one day")) == (
        0, "", True
    )  # fmt: skip
    assert [row["change"] for row in one.lesions] == ["grown", "new", "gone"]


def test_a_later_run_over_other_studies_keeps_the_pair(patient, bundle) -> None:
    run(patient, bundle)
    later, why = compare_dates(
        [], patient[0].output, b"salt", bundle, Setup(weights="", method=None, device="cpu"), None
    )
    assert [(one.first, one.second, len(one.lesions)) for one in later] == [(*NAMES, 3)] and not why


def test_a_pair_that_fails_is_said_and_tried_again(patient, bundle) -> None:
    patient[1].entry.ct[0].write_bytes(b"changed")
    (failed,), _ = run(patient, bundle)
    assert failed.failure == (f"a file of '{NAMES[1]}' changed since it was scored", "run again")
    assert not list(patient[0].output.glob("comparisons/*"))
    run(patient, bundle)
    assert SameProcess.asked == 2


def test_a_picture_that_cannot_be_drawn_costs_no_numbers(patient, bundle, monkeypatch) -> None:
    monkeypatch.setattr(pair, "draw_two_dates", lambda *_: 1 / 0)
    (one,), _ = run(patient, bundle)
    assert len(one.lesions) == 3 and one.warnings == ("no picture was made: ZeroDivisionError (the numbers are whole)",)
    write_patients(patient[0].output, [one], {}, ABOUT)  # and the page has its table


def test_a_patients_pairs_stay_in_order_of_time_and_a_name_is_written_for_readers(tmp_path) -> None:
    """Without --names nothing but the order tells which pair is the earlier one: the studies' names are hashes."""
    given = (("Doe^Jane", "zz", "mm"), ("Doe^Jane", "mm", "aa"), ("Abe^Al", "cc", "bb"))
    failed = ("not aligned", "look")
    pairs = [ComparedDates(patient=name, first=one, second=two, days=30, failure=failed) for name, one, two in given]
    write_patients(tmp_path, pairs, {}, ABOUT)
    rows = list(csv.DictReader((tmp_path / "patients.csv").open()))
    assert [(row["study_1"], row["study_2"]) for row in rows] == [("cc", "bb"), ("zz", "mm"), ("mm", "aa")]
    assert shown_name("Doe^Jane^^Dr.=X^Y") == "Doe Jane Dr. / X Y"


def test_a_job_survives_its_way_to_the_comparing_process(patient, bundle) -> None:
    studies, _ = compare.dated(patient, b"salt")
    ((two,),) = compare.pairs_of(studies)[0].values()
    job = pair_job(two, bundle)
    assert pair_job_from(json.loads(to_json(job))) == job
    assert job.first == job_from(json.loads(to_json(patient[0]))) and not is_compared(job, patient[0].output)
