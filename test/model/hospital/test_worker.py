"""The scoring process's own object, in this process."""

import dataclasses
import json
from pathlib import Path

import pydicom
import pytest
import SimpleITK as sitk
from tiny_batches import dicom_studies

from model.bundle.manifest import load_bundle
from model.hospital import record_files, study_dicom, study_results
from model.hospital.bundles import Bundles
from model.hospital.find.tree import find_studies
from model.hospital.job import Job, Options, Setup
from model.hospital.plan import make_plan
from model.hospital.queue import record_of
from model.hospital.result_keys import with_keys
from model.hospital.worker import Scorer
from model.networks import weights
from model.results.rule_options import LesionRules


def jobs(studies: Path, output: Path, bundle, **options) -> list[Job]:
    return make_plan(
        find_studies(studies, output), studies, output, b"salt", {}, Bundles(main=bundle), Options(**options)
    ).todo


@pytest.mark.slow
def test_outputs_that_are_added_load_no_network(tiny_bundle, tmp_path, monkeypatch) -> None:
    studies, output, bundle = dicom_studies(tmp_path / "in", 1), tmp_path / "out", load_bundle(tiny_bundle)
    output.mkdir()
    setup = Setup(weights=str(tiny_bundle), method=None, device="cpu")
    (job,) = jobs(studies, output, bundle)
    first = Scorer(setup).answer(job, None)
    mask = (output / "studies" / job.name / "mask.mha").read_bytes()

    def forbidden(*what: object) -> None:
        raise AssertionError("a network was loaded")

    monkeypatch.setattr(weights, "read_state", forbidden)
    with pytest.raises(AssertionError):
        Scorer(setup)
    for options in ({"rtstruct": True}, {"sr": True, "pdf": True}, {"named": True}, {"mask_ending": ".nii.gz"}):
        (job,) = jobs(studies, output, bundle, **options)
        assert job.stored
        answer = Scorer(dataclasses.replace(setup, networks=False)).answer(job, None)
        assert answer["state"] == "done", answer
        assert {key: value for key, value in answer["row"].items() if key not in ("study", "seconds", "picks")} == {
            key: value for key, value in first["row"].items() if key not in ("study", "seconds", "picks")
        }
        if job.mask == "mask.mha":
            assert (output / "studies" / job.name / "mask.mha").read_bytes() == mask
        assert len(list((output / "studies").iterdir())) == 1
    (job,) = jobs(studies, output, bundle, rules=LesionRules(min_volume_ml=0.001))  # SEG, RTSTRUCT and SR are made anew
    Scorer(dataclasses.replace(setup, networks=False)).answer(job, None)
    folder = output / "studies" / job.name  # what an option added stays without it
    assert pydicom.dcmread(folder / "rtstruct.dcm").Modality == "RTSTRUCT"
    assert (folder / "report.pdf").read_bytes().startswith(b"%PDF")
    seg, sr = (pydicom.dcmread(folder / name) for name in ("seg.dcm", "sr.dcm"))
    (evidence,) = sr.CurrentRequestedProcedureEvidenceSequence
    referred = {s.SeriesInstanceUID: len(s.ReferencedSOPSequence) for s in evidence.ReferencedSeriesSequence}
    assert referred == {seg.SeriesInstanceUID: 1, "1.2.3.1.9": len(job.entry.pet), "1.2.3.1.8": len(job.entry.ct)}


@pytest.mark.slow
def test_the_mask_is_there_before_the_seg_is_made_and_stays(tiny_bundle, tmp_path, monkeypatch) -> None:
    """The process may die of the SEG: the next one finds mask, tables and pictures, and needs no network."""
    studies, output, bundle = dicom_studies(tmp_path / "in", 1), tmp_path / "out", load_bundle(tiny_bundle)
    output.mkdir()
    setup = Setup(weights=str(tiny_bundle), method=None, device="cpu")
    (job,) = jobs(studies, output, bundle)

    def dies(*what: object) -> bytes:
        there = {path.name for path in (output / "studies" / job.name).iterdir()}
        assert there == {"mask.mha", "lesions.csv", "lesions.json", "preview.png", "thumbnail.png", "report.json"}
        raise KeyboardInterrupt

    monkeypatch.setattr(study_dicom, "dicom_seg", dies)
    with pytest.raises(KeyboardInterrupt):
        Scorer(setup).answer(job, None)
    monkeypatch.undo()
    (again,) = jobs(studies, output, bundle)  # not done, as its SEG is lacking
    assert again.stored == job.name
    answer = Scorer(dataclasses.replace(setup, networks=False)).answer(again, None)
    assert answer["state"] == "done" and (output / "studies" / job.name / "seg.dcm").is_file()
    assert jobs(studies, output, bundle) == []
    report = json.loads((output / "studies" / job.name / "report.json").read_text())
    assert report["run"]["rung"] != "stored" and report["batch"]["key"] == again.key


@pytest.mark.slow
def test_a_mask_that_was_changed_by_hand_is_made_anew(tiny_bundle, tmp_path) -> None:
    studies, output, bundle = dicom_studies(tmp_path / "in", 1), tmp_path / "out", load_bundle(tiny_bundle)
    output.mkdir()
    scorer = Scorer(Setup(weights=str(tiny_bundle), method=None, device="cpu", networks=False))
    (job,) = jobs(studies, output, bundle)
    assert scorer.answer(job, None)["state"] == "done"  # the networks are loaded after all
    path = output / "studies" / job.name / "mask.mha"
    mask = path.read_bytes()
    path.write_bytes(mask[:-40])
    (job,) = jobs(studies, output, bundle, rtstruct=True)
    assert scorer.answer(job, None)["state"] == "done" and path.read_bytes() == mask


@pytest.mark.slow
def test_a_mask_that_is_made_anew_has_the_keys_of_the_precision_it_is_made_in(tiny_bundle, tmp_path) -> None:
    """--precision auto took it although it was of another precision; then it could not be read."""
    studies, output, bundle = dicom_studies(tmp_path / "in", 1), tmp_path / "out", load_bundle(tiny_bundle)
    output.mkdir()
    (job,) = jobs(studies, output, bundle)
    setup = Setup(weights=str(tiny_bundle), method=None, device="cpu", networks=False, precision="float32")
    first = Scorer(setup).answer(job, None)
    assert first["key"] == job.key and record_of(job, first).key == job.key
    path = output / "studies" / job.name / "mask.mha"
    path.write_bytes(path.read_bytes()[:-40])
    (job,) = jobs(studies, output, bundle, rtstruct=True)
    assert job.stored
    answer = Scorer(dataclasses.replace(setup, precision="bfloat16")).answer(job, None)
    report = json.loads((output / "studies" / job.name / "report.json").read_text())
    expected = with_keys(job, bundle, "bfloat16")
    assert report["run"]["precision"] == "bfloat16" and report["batch"]["mask_key"] == expected.mask_key
    assert report["batch"]["key"] == answer["key"] == record_of(job, answer).key == expected.key != job.key


def test_pictures_and_truths_are_no_reason_to_lose_a_mask(tiny_bundle, tmp_path, monkeypatch) -> None:
    studies, output, bundle = dicom_studies(tmp_path / "in", 1), tmp_path / "out", load_bundle(tiny_bundle)
    output.mkdir()
    (job,) = jobs(studies, output, bundle, sr=True, pdf=True)
    truth = tmp_path / "truth.mha"
    sitk.WriteImage(sitk.Image(3, 3, 3, sitk.sitkUInt8), str(truth))
    job = dataclasses.replace(job, entry=dataclasses.replace(job.entry, truth=truth))

    def fails(*what: object, **how: object) -> bytes:
        raise ZeroDivisionError("no height")

    monkeypatch.setattr(study_results, "thumbnail", fails)
    monkeypatch.setattr(record_files, "dicom_sr", fails)
    monkeypatch.setattr(record_files, "record_pdf", fails)
    answer = Scorer(Setup(weights=str(tiny_bundle), method=None, device="cpu")).answer(job, None)
    assert answer["state"] == "done" and "dice" not in answer["row"]
    assert {path.name for path in (output / "studies" / job.name).iterdir()} == {
        "mask.mha",
        "lesions.csv",
        "lesions.json",
        "report.json",
        "seg.dcm",
    }
    warnings = " | ".join(answer["row"]["warnings"])
    assert "not compared with its truth: truth" in warnings and "does not lie on PET" in warnings
    assert (
        "no picture of PET" in warnings
        and "ZeroDivisionError: no height (the mask and the tables are whole)" in warnings
    )
    assert "no SR (sr.dcm) of PET" in warnings and "no report.pdf of PET" in warnings
