"""What came from the PACS: whole or not at all, and complete at the right moment."""

import io
import os
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from dicom_writer import write_pet
from pydicom import dcmread

from model.hospital.journal import stat_of
from model.hospital.pacs import inbox as module
from model.hospital.pacs.inbox import INCOMING, Inbox, NoSpace
from model.hospital.pacs.received import Received, images_in

LONG_S, SHORT_S = 1000.0, 0.05


@pytest.fixture(scope="module")
def content(tmp_path_factory) -> bytes:
    """A PET slice as a DICOM file."""
    return write_pet(tmp_path_factory.mktemp("pet"))[0].read_bytes()


def image(content: bytes, number: int, study: str = "1.2.3.1", series: str = "9", patient: str = "Doe") -> Received:
    return Received(patient=patient, study=study, series=series, instance=f"{study}.{number}", content=content)


def files(output: Path) -> list[Path]:
    return sorted((output / INCOMING).rglob("*.dcm"))


def test_a_study_is_complete_after_a_quiet_time(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", 0.3, on_release=True)
    for number in range(3):
        inbox.store("association", image(content, number))
        assert inbox.next(0) is None
    batch = inbox.next(2)
    assert [(study.images, study.broken) for study in batch.ready] == [(3, False)]
    inbox.handled(batch.ready[0])
    assert inbox.next(0.4) is None


def test_names_on_the_disk_and_of_the_study_are_hashes(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", SHORT_S, on_release=False)
    inbox.store("association", image(content, 1, patient="Doe^Jane"))
    (path,) = files(tmp_path)
    assert "Doe" not in str(path) and "1.2.3" not in str(path.relative_to(tmp_path))
    assert inbox.next(1).ready[0].name.startswith("s-")


@pytest.mark.parametrize("on_release", [True, False])
def test_the_end_of_the_association_counts_where_it_is_asked_for(content, on_release: bool, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", LONG_S, on_release)
    inbox.store("association", image(content, 1))
    inbox.ended("association", released=True)
    assert (inbox.next(0) is not None) == on_release


def test_a_study_that_two_associations_bring_ends_with_the_last(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", LONG_S, on_release=True)
    inbox.store("pet", image(content, 1))
    inbox.store("ct", image(content, 2, series="8"))
    inbox.store("ct", image(content, 1, study="1.2.3.2"))
    inbox.ended("pet", released=True)
    assert inbox.next(0) is None
    inbox.ended("ct", released=True)
    batch = inbox.next(0)
    assert sorted(study.images for study in batch.ready) == [1, 2]


def test_of_two_studies_of_a_patient_only_the_quiet_one_is_ready(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", LONG_S, on_release=True)
    inbox.store("one", image(content, 1))
    inbox.store("two", image(content, 1, study="1.2.3.2"))
    inbox.ended("one", released=True)
    batch = inbox.next(0)
    assert len(batch.ready) == len(batch.unready) == 1 and batch.ready[0].folder != batch.unready[0]


@pytest.mark.parametrize("word", [False, None])
def test_what_is_broken_off_is_marked_also_for_the_next_run(content, word, tmp_path, monkeypatch) -> None:
    """word: an abort came, or only the connection closed."""
    monkeypatch.setattr(module, "CLOSING_S", 0.0)
    inbox = Inbox(tmp_path, b"salt", SHORT_S, on_release=True)
    inbox.store("association", image(content, 1))
    inbox.ended("association", word)
    inbox.next(0)
    for box in (inbox, Inbox(tmp_path, b"salt", SHORT_S, on_release=True)):
        (study,) = box.next(1).ready
        assert study.broken
        box.handled(study, stat_of(images_in(study.folder)))
        assert box.next(0.1) is None


def test_a_run_that_is_killed_while_images_come_takes_them_for_broken_off(content, tmp_path) -> None:
    Inbox(tmp_path, b"salt", LONG_S, on_release=True).store("association", image(content, 1))
    again = Inbox(tmp_path, b"salt", SHORT_S, on_release=True)
    assert again.next(1).ready[0].broken


def test_what_was_broken_off_is_whole_when_its_series_comes_again(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", LONG_S, on_release=True)
    inbox.store("first", image(content, 1))
    inbox.ended("first", released=False)
    inbox.store("other", image(content, 2, series="8"))
    inbox.ended("other", released=True)
    assert inbox.next(0) is None, "another series mends nothing"
    inbox.store("again", image(content, 1))
    inbox.ended("again", released=True)
    (study,) = inbox.next(0).ready
    assert (study.images, study.broken) == (2, False)


def test_an_image_that_comes_again_changes_nothing_and_another_one_of_its_uid_replaces_it(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", SHORT_S, on_release=False)
    inbox.store("first", image(content, 1))
    inbox.ended("first", released=True)
    (study,) = inbox.next(1).ready
    inbox.handled(study, stat_of(files(tmp_path)))
    before = stat_of(files(tmp_path))
    inbox.store("again", image(content, 1))
    assert stat_of(files(tmp_path)) == before and inbox.next(0.1) is None
    assert Inbox(tmp_path, b"salt", SHORT_S, on_release=False).next(0.1) is None, "even if it is killed now"
    inbox.store("again", image(content + b"\0\0", 1))
    inbox.ended("again", released=True)
    assert inbox.next(1) is not None and files(tmp_path)[0].read_bytes() == content + b"\0\0"


def test_a_series_that_comes_with_other_pictures_is_not_mixed_with_the_one_before(tmp_path, capsys) -> None:
    """Six slices, then under the same UIDs the first as it was and three others; a new name alone is no new picture."""
    slices = [dcmread(path) for path in write_pet(tmp_path / "pet")]

    def send(data) -> None:
        data.save_as(written := io.BytesIO(), enforce_file_format=True)
        uids = {"study": "1.2.3.1", "series": str(data.SeriesInstanceUID), "instance": str(data.SOPInstanceUID)}
        inbox.store("association", Received(patient="Doe", content=written.getvalue(), **uids))

    inbox = Inbox(tmp_path, b"salt", LONG_S, on_release=False)
    for data in slices:
        send(data)
    monotonic, later = time.monotonic, 2 * LONG_S
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "monotonic", lambda: monotonic() + later)
        slices[5].PatientName = "Roe"
        send(slices[5])
        assert len(files(tmp_path)) == 6
        later *= 2
        send(slices[0])
        for data in slices[1:4]:
            data.PixelData = data.PixelData[::-1]
            send(data)
    kept = [dcmread(path) for path in files(tmp_path)]
    assert {data.SOPInstanceUID: data.PixelData for data in kept} == {d.SOPInstanceUID: d.PixelData for d in slices[:4]}
    assert capsys.readouterr().out.count("images of before count no more") == 1


def test_a_study_that_grows_is_ready_again_and_the_next_run_knows_what_was_scored(content, tmp_path) -> None:
    inbox = Inbox(tmp_path, b"salt", SHORT_S, on_release=False)
    inbox.store("first", image(content, 1))
    inbox.ended("first", released=True)
    (study,) = inbox.next(1).ready
    inbox.store("second", image(content, 2))  # while it is scored
    inbox.ended("second", released=True)
    inbox.handled(study, stat_of([files(tmp_path)[0]]))
    (study,) = inbox.next(1).ready
    assert study.images == 2
    assert Inbox(tmp_path, b"salt", SHORT_S, on_release=False).next(1) is not None
    inbox.handled(study, stat_of(files(tmp_path)))
    assert Inbox(tmp_path, b"salt", SHORT_S, on_release=False).next(0.1) is None


def test_a_full_disk_refuses_and_keeps_nothing(content, tmp_path, monkeypatch) -> None:
    inbox = Inbox(tmp_path, b"salt", SHORT_S, on_release=False)
    with monkeypatch.context() as patch:
        patch.setattr(os, "statvfs", lambda path: SimpleNamespace(f_bavail=100, f_frsize=4096))
        with pytest.raises(NoSpace, match="No space"):
            inbox.store("association", image(content, 1))
    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", lambda *paths: (_ for _ in ()).throw(OSError(28, "No space left on device")))
        with pytest.raises(NoSpace, match="No space"):
            inbox.store("association", image(content, 1))
    assert not files(tmp_path) and not list(tmp_path.rglob(".partial-*"))
    assert inbox.next(0.1) is None
    inbox.store("association", image(content, 2))
    inbox.ended("association", released=True)
    assert inbox.next(1).ready[0].broken, "an image is missing"
    inbox.store("again", image(content, 1))
    inbox.ended("again", released=True)
    assert not inbox.next(1).ready[0].broken


def test_images_are_removed_when_their_days_are_over(content, tmp_path, monkeypatch) -> None:
    inbox = Inbox(tmp_path, b"salt", SHORT_S, on_release=False)
    inbox.store("association", image(content, 1))
    (study,) = inbox.next(1).ready
    inbox.handled(study, stat_of(files(tmp_path)))
    later = time.monotonic() + 8 * 86400
    monkeypatch.setattr(module.time, "monotonic", lambda: later)
    assert inbox.remove_old(0) == inbox.remove_old(9) == []
    assert inbox.remove_old(7) == [study.name]
    assert list((tmp_path / INCOMING).iterdir()) == []
