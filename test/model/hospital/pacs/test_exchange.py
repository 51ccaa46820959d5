"""The receiver and the outbox against a peer by pynetdicom: what is let in, and what comes back, once."""

import json
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from dicom_writer import PT, write_ct, write_pet
from pacs_peer import ARCHIVE, LESIONS, Archive, connect, free_port, push
from pydicom import dcmread
from pydicom.uid import ExplicitVRLittleEndian, JPEGBaseline8Bit
from pynetdicom import AE

from model.errors import OutputError
from model.hospital.pacs import connections
from model.hospital.pacs import ledger as ledgers
from model.hospital.pacs import outbox as outbox_module
from model.hospital.pacs.inbox import INCOMING, Inbox
from model.hospital.pacs.ledger import BEGUN, COMMITTED, NOT_TAKEN, SENT, SENT_FOLDER, WAITING, Ledger, SentObject
from model.hospital.pacs.outbox import Outbox, objects_in
from model.hospital.pacs.receiver import Receiver
from model.hospital.pacs.settings import Listening, Peer

STUDY = "s-0123456789ab"
CTS = "1.2.840.10008.5.1.4.1.1.2"


def listening(archive_port: int = 1, **changes) -> Listening:
    send = Peer(host="127.0.0.1", port=archive_port, aet=ARCHIVE)
    return Listening(port=free_port(), aet=LESIONS, send=send, callers=(ARCHIVE,), quiet_s=1000, **changes)


@pytest.fixture(scope="module")
def slices(tmp_path_factory) -> list[Path]:
    """Slices of a PET and a CT."""
    root = tmp_path_factory.mktemp("study")
    return [*write_pet(root / "pet"), *write_ct(root / "ct")]


@pytest.fixture
def results(tmp_path, slices) -> Path:
    """A results folder with a study of two DICOM files, which need not be what results are."""
    folder = tmp_path / "studies" / STUDY
    folder.mkdir(parents=True)
    for name, path in (("picture.dcm", slices[0]), ("seg.dcm", slices[-1])):
        (folder / name).write_bytes(path.read_bytes())
    return tmp_path


def wait_for(what: Callable[[], bool], seconds: float = 20) -> None:
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.02)


def states(results: Path) -> dict[str, str]:
    content = json.loads((results / SENT_FOLDER / "0123456789ab.json").read_text())
    return {one["file"]: one["state"] for one in content["objects"]}


def test_images_come_whole_and_others_are_not_let_in(slices, tmp_path, monkeypatch, capsys) -> None:
    settings = listening()
    inbox = Inbox(tmp_path, b"salt", 1000, on_release=True)
    with Receiver(settings, inbox, lambda report: None):
        stranger = connect(settings.port, calling="STRANGER")
        assert stranger.is_rejected and connect(settings.port, called="OTHER").is_rejected
        report = connect(settings.port, kinds=["1.2.840.10008.5.1.4.1.1.88.33", CTS])
        assert {str(c.abstract_syntax) for c in report.accepted_contexts} == {CTS}
        report.release()
        with monkeypatch.context() as patch:
            patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=100, f_frsize=4096))
            assert push(slices[:2], settings.port) == [0xA700, 0xA700]
        assert inbox.next(0) is None
        assert push(slices, settings.port) == [0] * len(slices)
        wait_for(lambda: inbox.next(0) is not None)
    kept = sorted((tmp_path / INCOMING).rglob("*.dcm"))
    assert sorted(dcmread(path).PixelData for path in kept) == sorted(dcmread(path).PixelData for path in slices)
    printed = capsys.readouterr().out
    assert "refused a connection from AE title 'STRANGER'" in printed and printed.count("images are refused") == 1
    assert "images are taken again" in printed and "Synthetic" not in printed


def test_a_compression_that_is_not_read_is_refused_with_a_line_once(tmp_path, capsys) -> None:
    settings = listening()
    with Receiver(settings, Inbox(tmp_path, b"salt", 1000, on_release=True), lambda report: None):
        entity = AE(ARCHIVE)
        entity.add_requested_context(PT, [JPEGBaseline8Bit])
        entity.add_requested_context(CTS, [JPEGBaseline8Bit, ExplicitVRLittleEndian])
        for _ in range(2):
            association = entity.associate("127.0.0.1", settings.port, ae_title=LESIONS)
            assert [str(context.abstract_syntax) for context in association.accepted_contexts] == [CTS]
            association.release()
    line = (
        "refused PET images from AE title 'ARCHIVE': it offers them only in JPEG Baseline (Process 1) (1.2.840.10008.1"
    )
    assert (printed := capsys.readouterr().out).count(line) == 1 and "refused CT" not in printed


def test_who_is_silent_or_stuck_keeps_nobody_out_and_holds_up_no_end(tmp_path, monkeypatch) -> None:
    """Twenty say nothing, one stops in the middle of its first message; then the PACS says nothing, either."""
    monkeypatch.setattr(connections, "STALL_S", 0.5)
    monkeypatch.setattr(outbox_module, "STOP_S", 0.3)
    settings = listening()
    with Receiver(settings, Inbox(tmp_path, b"salt", 1000, on_release=True), lambda report: None):
        silent = [socket.create_connection(("127.0.0.1", settings.port)) for _ in range(20)]
        silent[0].sendall(b"\x01\x00\x00\x00\x00\xcd\x00\x01")
        association = connect(settings.port)
        assert association.is_established
        association.release()
        silent[0].settimeout(5)
        assert silent[0].recv(1) == b"", "it is sent away"
        begun = time.monotonic()
    for one in silent:
        one.close()
    assert time.monotonic() - begun < 5


def test_a_pacs_that_never_answers_does_not_hold_up_the_end(results, monkeypatch) -> None:
    monkeypatch.setattr(outbox_module, "STOP_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        with Outbox(results, listening(silent.getsockname()[1])) as outbox:
            outbox.add(STUDY)
            silent.accept()
            begun = time.monotonic()
        assert time.monotonic() - begun < 2 and not outbox._thread.is_alive()


def test_an_image_without_its_uids_or_with_others_is_refused(slices, tmp_path) -> None:
    settings = listening()
    with Receiver(settings, Inbox(tmp_path, b"salt", 1000, on_release=True), lambda report: None):
        association = connect(settings.port)
        data = dcmread(slices[0])
        del data.StudyInstanceUID
        assert association.send_c_store(data).Status == 0xA900
        association.release()
    assert not list((tmp_path / INCOMING).rglob("*.dcm"))


def test_an_association_that_is_aborted_leaves_a_study_that_is_broken_off(slices, tmp_path) -> None:
    settings = listening()
    inbox = Inbox(tmp_path, b"salt", 0.1, on_release=True)
    with Receiver(settings, inbox, lambda report: None):
        association = connect(settings.port)
        assert association.send_c_store(dcmread(slices[0])).Status == 0
        association.abort()
        batch = inbox.next(10)
        wait_for(
            lambda: bool(batch) and batch.ready[0].broken or (b := inbox.next(1)) is not None and b.ready[0].broken
        )


def test_results_are_sent_once_also_after_a_restart(results, capsys) -> None:
    with Archive(commits=False) as archive:
        for _ in range(2):
            with Outbox(results, listening(archive.port)) as outbox:
                outbox.add(STUDY)
                wait_for(lambda: outbox.waiting_count == 0)
        assert sorted(archive.got.values()) == [1, 1] and archive.asked == 0
    assert states(results) == {"picture.dcm": SENT, "seg.dcm": SENT}
    assert capsys.readouterr().out.count("picture.dcm, seg.dcm sent to ARCHIVE") == 1


def test_what_was_refused_or_found_nobody_is_sent_later(results, monkeypatch, capsys) -> None:
    monkeypatch.setattr(ledgers, "FIRST_WAIT_S", 0.2)
    monkeypatch.setattr(ledgers, "LONGEST_WAIT_S", 0.4)  # also on a busy machine, where it tries more often
    archive = Archive(statuses=[0xA700, 0, 0xC000])
    with Outbox(results, listening(archive.port)) as outbox:
        outbox.add(STUDY)
        wait_for(lambda: "there is no connection" in capsys.readouterr().out)
        with archive:
            wait_for(lambda: outbox.waiting_count == 0)
    assert sorted(archive.got.values()) == [1, 1]
    printed = capsys.readouterr().out
    assert "it refused picture.dcm with status 0xA700" in printed and "seg.dcm with status 0xC000" in printed


def test_in_doubt_the_archive_is_asked_and_gets_nothing_twice(results, monkeypatch) -> None:
    """It drops the connection after it kept the first object, before it answered."""
    monkeypatch.setattr(ledgers, "FIRST_WAIT_S", 0.2)
    monkeypatch.setattr(ledgers, "LONGEST_WAIT_S", 0.4)  # also on a busy machine, where it tries more often
    with Archive(break_at=1) as archive, Outbox(results, listening(archive.port)) as outbox:
        outbox.add(STUDY)
        wait_for(lambda: outbox.waiting_count == 0)
        assert sorted(archive.got.values()) == [1, 1] and archive.asked == 1


def test_a_kind_that_the_archive_does_not_take_is_kept_here(results, capsys) -> None:
    with Archive(kinds=[PT]) as archive, Outbox(results, listening(archive.port)) as outbox:
        outbox.add(STUDY)
        wait_for(lambda: outbox.waiting_count == 0)
    assert states(results) == {"picture.dcm": SENT, "seg.dcm": NOT_TAKEN}
    assert "seg.dcm kept here, as this kind is not taken by ARCHIVE" in capsys.readouterr().out


def test_what_the_archive_did_not_keep_is_sent_again_and_the_rest_is_committed(results) -> None:
    settings = listening(free_port())
    archive = Archive(commits=True, report_to=settings.port)
    archive.port = settings.send.port
    lost = next(one.uid for one in objects_in(results / "studies" / STUDY) if one.file == "seg.dcm")
    archive.unkept = {lost}
    with archive, Outbox(results, settings) as outbox:
        inbox = Inbox(results, b"salt", 1000, on_release=False)
        with Receiver(settings, inbox, outbox.on_commitment):
            outbox.add(STUDY)
            wait_for(lambda: archive.got[lost] == 2)
            assert states(results)["picture.dcm"] == COMMITTED


def test_a_result_that_was_made_anew_is_sent_and_the_old_one_is_not(results, slices) -> None:
    """At once while it runs, and at the next start; also from a folder that got another name."""
    with Archive() as archive:
        with Outbox(results, listening(archive.port)) as outbox:
            outbox.add(STUDY)
            wait_for(lambda: outbox.waiting_count == 0)
            (results / "studies" / STUDY / "seg.dcm").write_bytes(slices[1].read_bytes())
            outbox.add(STUDY)
            wait_for(lambda: len(archive.got) == 3 and outbox.waiting_count == 0)
        folder = (results / "studies" / STUDY).rename(results / "studies" / "Doe_Jane-0123456789ab")
        (folder / "seg.dcm").write_bytes(slices[2].read_bytes())
        with Outbox(results, listening(archive.port)) as outbox:
            wait_for(lambda: len(archive.got) == 4 and outbox.waiting_count == 0)
        assert set(archive.got.values()) == {1}


def test_each_wait_is_twice_the_one_before_up_to_an_hour() -> None:
    waits = [
        Ledger(study=STUDY, objects=(SentObject(file="", kind="", uid=""),), tries=n, tried=1000).due() - 1000
        for n in range(12)
    ]
    assert waits == [0, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]


def test_a_damaged_ledger_is_named_since_all_would_be_sent_again(results) -> None:
    (results / SENT_FOLDER).mkdir()
    (results / SENT_FOLDER / "0123456789ab.json").write_text("{")
    with pytest.raises(OutputError, match="0123456789ab.json' cannot be read: it says what was sent"):
        Outbox(results, listening())


def test_a_run_that_was_killed_while_it_sent_asks_first(results) -> None:
    objects = [one for one in objects_in(results / "studies" / STUDY)]
    begun = Ledger(study=STUDY, objects=tuple(objects)).with_state([one.uid for one in objects], BEGUN)
    ledgers.write_ledger(results, begun)
    (results / SENT_FOLDER / ".partial-abc.json").write_text("{")  # of the ledger that it was writing
    with Archive() as archive:
        data = dcmread(results / "studies" / STUDY / "seg.dcm")
        archive.objects[str(data.SOPInstanceUID)] = data  # it came before the kill
        with Outbox(results, listening(archive.port)) as outbox:
            wait_for(lambda: outbox.waiting_count == 0)
        assert dict(archive.got) == {one.uid: 1 for one in objects if one.file == "picture.dcm"} and archive.asked == 2
    assert WAITING not in states(results).values()
