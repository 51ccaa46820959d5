"""Studies from a peer, scored in this process and sent back; the peer is pynetdicom."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import SimpleITK as sitk
from pacs_peer import Archive, connect, free_port, push
from pydicom import dcmread
from tiny_batches import dicom_studies, score_here

from model.bundle.manifest import load_bundle
from model.bundle.network import Network
from model.hospital.bundles import Bundles
from model.hospital.folder import LOCK
from model.hospital.job import Job, Setup
from model.hospital.journal import Journal, read_journal
from model.hospital.names import read_salt
from model.hospital.options import arguments
from model.hospital.pacs.inbox import Inbox
from model.hospital.pacs.listen import Scoring, keep_for_edits, serve_next
from model.hospital.pacs.outbox import Outbox
from model.hospital.pacs.receiver import Receiver
from model.hospital.worker import Scorer

PET_SLICES = 9


class Here:
    """A scoring process that is none. asked: the studies that it scored."""

    def __init__(self, bundle: Path, pet_only: str = "") -> None:
        setup = Setup(weights=str(bundle), method=None, device="cpu", precision="float32", pet_only=pet_only)
        self._scorer = Scorer(setup)
        self.asked: list[str] = []

    def ask(self, job: Job, following: Job | None) -> dict[str, Any]:
        self.asked.append(job.name)
        return self._scorer.answer(job, following)


@pytest.fixture(scope="module")
def here(tiny_bundle) -> Here:
    return Here(tiny_bundle)


@pytest.fixture(scope="module")
def ward(tmp_path_factory) -> list[list[Path]]:
    """The files of two patients' studies, the PET's first."""
    root = dicom_studies(tmp_path_factory.mktemp("ward"), 2)
    return [[*sorted(s.glob("pet/*")), *sorted(s.glob("ct/*"))] for s in sorted(root.iterdir())]


def run_once(
    here: Here, bundle: Path, output: Path, archive: Archive, on_open: Any, rounds: int, pet_only: Path | None = None
) -> None:
    """One run: it listens, `on_open(port)` sends to it, and it serves so many batches."""
    bundles = Bundles(main=load_bundle(bundle), pet_only=load_bundle(pet_only) if pet_only else None)
    words = ["--aet", "LESIONS", "--send", f"127.0.0.1:{archive.port}:ARCHIVE", "--output", str(output)]
    words += ["--listen", str(free_port()), "--quiet-seconds", "1", "--complete-on-release"]
    options = arguments(words)
    output.mkdir(exist_ok=True)
    (output / LOCK).touch()
    keep_for_edits(options, bundles)
    salt, settings = read_salt(output), options.pacs
    inbox = Inbox(output, salt, settings.quiet_s, settings.on_release)
    with Outbox(output, settings) as outbox, Receiver(settings, inbox, outbox.on_commitment):
        on_open(settings.port)
        scoring = Scoring(
            options=options,
            bundles=bundles,
            precision="float32",
            salt=salt,
            process=here,  # type: ignore[arg-type]
            journal=Journal(output),
        )
        for _ in range(rounds):
            serve_next(scoring, inbox, outbox, wait_s=5)
        end = SimpleNamespace(tries=400)
        while outbox.waiting_count and end.tries:
            inbox.next(0.05)
            end.tries -= 1


def two_at_once(ward: list[list[Path]]) -> Any:
    """Sends both studies over two associations, image by image in turn."""

    def send(port: int) -> None:
        associations = [connect(port) for _ in ward]
        for files in zip(*ward, strict=True):
            for association, path in zip(associations, files, strict=True):
                assert association.send_c_store(dcmread(path)).Status == 0
        for association in associations:
            association.release()

    return send


@pytest.mark.slow
def test_a_pet_without_ct_waits_for_one_and_is_then_scored_alone(
    ward, tiny_bundle, make_bundle, tmp_path, capsys
) -> None:
    """Its association ends, and only when no image came for a second is it complete; so no CT comes too late."""
    network = Network(fusion="early", widths=(2, 2), channels=("PET",))
    alone = make_bundle(tmp_path / "alone", members=1, network=network, channels=("PET",))
    here, pet = Here(tiny_bundle, str(alone)), [path for path in ward[0] if path.parent.name == "pet"]
    with Archive() as archive:
        run_once(here, tiny_bundle, tmp_path / "out", archive, lambda port: push(pet, port), 2, alone)
    assert len(here.asked) == 1 and "none of a CT; waiting whether one comes" in capsys.readouterr().out
    assert {data.Modality for data in archive.objects.values()} == {"OT", "RTSTRUCT", "SEG", "SR"}
    assert all(", no CT, " in data.SeriesDescription for data in archive.objects.values())


@pytest.mark.slow
def test_two_studies_at_once_come_back_once_and_no_name_is_printed(here, ward, tiny_bundle, tmp_path, capsys) -> None:
    here.asked.clear()
    with Archive() as archive:
        run_once(here, tiny_bundle, tmp_path / "out", archive, two_at_once(ward), 2)
        run_once(here, tiny_bundle, tmp_path / "out", archive, lambda port: push(ward[0], port), 1)
    assert len(here.asked) == len(set(here.asked)) == 2, "sent again as a whole, a study is not scored again"
    kinds = sorted(data.Modality for data in archive.objects.values())
    assert kinds == ["OT", "OT", "RTSTRUCT", "RTSTRUCT", "SEG", "SEG", "SR", "SR"] and set(archive.got.values()) == {1}
    studies = {str(dcmread(files[0]).StudyInstanceUID) for files in ward}
    assert {str(data.StudyInstanceUID) for data in archive.objects.values()} == studies
    assert {str(data.PatientName) for data in archive.objects.values()} == {"Smith^John^0", "Smith^John^1"}
    printed = capsys.readouterr().out
    assert "Smith" not in printed and "1.2.3" not in printed and "SYNTHETIC" not in printed
    assert len((tmp_path / "out" / "summary.csv").read_text().splitlines()) == 3


@pytest.mark.slow
def test_a_study_that_grows_is_scored_anew_and_what_was_broken_off_is_not(
    here, ward, tiny_bundle, tmp_path, capsys
) -> None:
    """The PET comes alone, then half of the CT and an abort, then all of it."""
    files, output = ward[0], tmp_path / "out"
    pet, ct = files[:PET_SLICES], sorted(files[PET_SLICES:], key=lambda path: dcmread(path).ImagePositionPatient[2])

    def break_off(port: int) -> None:
        association = connect(port)
        for path in ct[: len(ct) // 2]:
            association.send_c_store(dcmread(path))
        association.abort()

    here.asked.clear()
    with Archive() as archive:
        run_once(here, tiny_bundle, output, archive, lambda port: push(pet, port), 1)
        assert "has a PET but no CT" in (output / "failures.csv").read_text() and not archive.got
        run_once(here, tiny_bundle, output, archive, break_off, 1)
        assert "was broken off" in (output / "failures.csv").read_text() and not here.asked
        assert "send it again from the PACS" in capsys.readouterr().out
        run_once(here, tiny_bundle, output, archive, lambda port: push(ct, port), 1)
        assert here.asked and len(archive.got) == 4
        assert len((output / "failures.csv").read_text().splitlines()) == 1
        assert [record.state for record in read_journal(output).values()] == ["done"]


@pytest.mark.slow
def test_an_edit_is_taken_back_and_sent_and_stays_when_the_study_is_looked_at_again(
    here, ward, tiny_bundle, tmp_path, capsys
) -> None:
    output = tmp_path / "out"
    with Archive() as archive:
        run_once(here, tiny_bundle, output, archive, lambda port: push(ward[0], port), 1)
        (mask,) = output.glob("studies/*/mask.mha")
        network = sitk.ReadImage(str(mask))
        edited = network * 0
        edited[1:4, 1:4, 1:4] = 1
        sitk.WriteImage(edited, str(mask.with_name("mine.nrrd")))
        before, sent = dcmread(mask.with_name("seg.dcm")).SOPInstanceUID, set(archive.got)
        overrides = tmp_path / "overrides.csv"
        overrides.write_text("study,weight_kg\n1.2.3.99,70\n")  # of a study whose images are gone, or will come
        score_here(output, "--recompute", "--overrides", overrides)
        assert f"'{overrides}': passed over line 2: no images" in capsys.readouterr().out
        assert sitk.Hash(sitk.ReadImage(str(mask))) == sitk.Hash(edited)
        here.asked.clear()
        for scored in output.glob("incoming/*/*.scored"):
            scored.unlink()  # so the study is looked at again
        run_once(here, tiny_bundle, output, archive, lambda port: None, 1)
    assert not here.asked and sitk.Hash(sitk.ReadImage(str(mask))) == sitk.Hash(edited)
    new = [data for uid, data in archive.objects.items() if uid not in sent]
    assert sorted(data.Modality for data in new) == ["OT", "RTSTRUCT", "SEG", "SR"] and before in sent
    assert {path.name for path in mask.parent.glob("before-edit/*.dcm")} == {
        "picture.dcm",
        "rtstruct.dcm",
        "seg.dcm",
        "sr.dcm",
    }
