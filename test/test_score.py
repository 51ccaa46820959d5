"""score.py on tiny studies, in a process of its own."""

import csv
import io
import json
import os
import re
import signal
import stat
import subprocess
import time
from pathlib import Path

import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from organ_bundles import organ_bundle
from tiny_batches import command, contents, dicom_studies, environment, image_study, score, score_here, small, started

from model.bundle.organs import ORGANS
from model.hospital.console import print_plan
from model.hospital.find.entry import Entry
from model.hospital.job import Job, Options
from model.hospital.plan import Plan

OURS = ("mask.mha", "lesions.csv", "lesions.json", "preview.png", "thumbnail.png", "report.json")


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(path.read_text())))


@pytest.fixture(scope="module")
def first_run(tiny_bundle, tmp_path_factory) -> tuple[Path, Path, subprocess.CompletedProcess[str]]:
    """Three DICOM studies, a pair of images, a damaged one, a PET and a CT alone: (studies, results, run)."""
    root = tmp_path_factory.mktemp("batch")
    studies, output = dicom_studies(root / "ward"), root / "results"
    image_study(studies / "Meier_Anna")
    bad = image_study(studies / "Mueller_Otto")
    path = bad / "Mueller_Otto_pet.mha"
    path.write_bytes(path.read_bytes()[:-300])
    for name in ("Huber_Eva", "Vogel_Ida"):
        (studies / name).mkdir()
    (studies / "Meier_Anna" / "Meier_Anna_ct.mha").rename(studies / "Vogel_Ida" / "lone_ct.mha")
    (studies / "Meier_Anna" / "Meier_Anna_pet.mha").rename(studies / "Huber_Eva" / "lone_pet.mha")
    image_study(studies / "Meier_Anna")
    words = command(studies, "--output", output, "--weights", tiny_bundle, "--rtstruct", "--disagreement")
    done = subprocess.run(words, capture_output=True, text=True, timeout=600, env=environment())  # a cold start
    return studies, output, done


@pytest.mark.slow
def test_studies_that_can_be_scored_are_and_the_others_are_listed(first_run) -> None:
    _, output, done = first_run
    assert done.returncode == 3 and done.stderr.splitlines()[-1].startswith("error: 2 of 6 studies could not be scored")
    assert len(rows(output / "summary.csv")) == 4
    stages = {row["stage"]: row for row in rows(output / "failures.csv")}
    assert set(stages) == {"find", "read", "no PET"} and "1 CT without a PET passed over" in done.stdout
    assert "is cut off or damaged" in stages["read"]["message"]
    assert stages["read"]["remedy"] == "copy or convert it again"
    assert "has no CT beside it" in stages["find"]["message"]


@pytest.mark.slow
def test_a_study_has_all_its_files_and_they_agree(first_run) -> None:
    _, output, _ = first_run
    dicom = 0
    for row in rows(output / "summary.csv"):
        folder = output / row["folder"]
        names = {path.name for path in folder.iterdir()}
        more = names - {*OURS, "disagreement.mha"}
        assert names >= {*OURS, "disagreement.mha"} and more in (set(), {"seg.dcm", "rtstruct.dcm"})
        mask = sitk.GetArrayFromImage(sitk.ReadImage(str(folder / "mask.mha")))
        image = sitk.ReadImage(str(folder / "mask.mha"))
        volume_ml = mask.sum() * np.prod(image.GetSpacing()) / 1000
        table, report = (json.loads((folder / name).read_text()) for name in ("lesions.json", "report.json"))
        assert float(row["mtv_ml"]) == pytest.approx(volume_ml, abs=1e-3) == table["totals"]["mtv_ml"]
        volumes = [float(lesion["volume_ml"]) for lesion in rows(folder / "lesions.csv")]
        assert sum(volumes) == pytest.approx(volume_ml, abs=0.1)
        assert report["weights"]["manifest_sha256"] and report["notice"].startswith("Research use")
        if more:
            dicom += 1
            seg = pydicom.dcmread(folder / "seg.dcm")
            assert seg.pixel_array.sum() == mask.sum() and report["suv_conversion"]["units"] in ("BQML", "CNTS")
    assert dicom == 3


@pytest.mark.slow
def test_every_table_and_page_says_research_use(first_run) -> None:
    _, output, _ = first_run
    for path in output.rglob("*"):
        if path.suffix in (".html", ".json") or path.name in ("lesions.csv", "summary.csv"):
            assert "Research use only" in path.read_text(), path
    for path in output.rglob("*.mha"):
        assert b"Research use only" in path.read_bytes()[:2000], path


@pytest.mark.slow
def test_no_name_is_written_anywhere_but_where_it_must_be(first_run) -> None:
    _, output, done = first_run
    names = re.compile(rb"smith|meier|mueller|huber|vogel|ward", re.IGNORECASE)
    for path in output.rglob("*"):
        assert not names.search(str(path.relative_to(output)).encode())
        if path.is_file() and path.name not in ("keys.csv", ".last-run", "seg.dcm", "rtstruct.dcm"):
            assert not names.search(path.read_bytes()), path
    printed = (done.stdout + done.stderr).replace(str(output), "")
    assert not names.search(printed.encode())


@pytest.mark.slow
def test_keys_map_names_back_and_are_private(first_run) -> None:
    studies, output, _ = first_run
    keys = rows(output / "keys.csv")
    assert stat.S_IMODE((output / "keys.csv").stat().st_mode) == 0o600
    assert {Path(row["source"]).relative_to(studies).parts[0] for row in keys} == {
        "Smith_John_0",
        "Smith_John_1",
        "Smith_John_2",
        "Meier_Anna",
        "Mueller_Otto",
        "Huber_Eva",
        "Vogel_Ida",
    }
    assert {row["study"] for row in keys} == {
        row["study"] for name in ("summary.csv", "failures.csv") for row in rows(output / name)
    }


@pytest.mark.slow
def test_a_second_run_tries_only_what_failed(first_run, tiny_bundle) -> None:
    studies, output, _ = first_run
    before = contents(output)
    times = {path: path.stat().st_mtime_ns for path in (output / "studies").rglob("*")}
    again = score(studies, "--output", output, "--weights", tiny_bundle, "--rtstruct", "--disagreement")
    assert "5 studies found: 4 done before, 1 to do" in again.stdout and again.returncode == 3
    assert contents(output) == before
    assert {path: path.stat().st_mtime_ns for path in (output / "studies").rglob("*")} == times


@pytest.mark.slow
def test_a_dry_run_writes_nothing_and_lists_what_would_be_done(first_run, tiny_bundle, tmp_path) -> None:
    studies, _, _ = first_run
    done = score(studies, "--output", tmp_path / "new", "--weights", tiny_bundle, "--dry-run")
    assert done.returncode == 0 and done.stdout.count("\nto do  s-") == 5 and done.stdout.count("\nnot    s-") == 2
    assert not (tmp_path / "new").exists() and "Smith" not in done.stdout
    again = score(studies, "--output", tmp_path / "new", "--weights", tiny_bundle, "--dry-run")
    names = [set(re.findall(r"s-[0-9a-f]{12}", run.stdout)) for run in (done, again)]
    assert len(names[0]) == 7 and not names[0] & names[1], "a hash without a secret could be guessed"
    named = score(studies, "--output", tmp_path / "new", "--weights", tiny_bundle, "--dry-run", "--names")
    assert "Smith_John_0" in named.stdout


@pytest.mark.slow
def test_changed_files_and_other_weights_are_scored_anew(make_bundle, tmp_path) -> None:
    studies, output = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        image_study(studies / name)
    bundle = make_bundle(tmp_path / "one")
    first = score(studies, "--output", output, "--weights", bundle)
    assert "2 to do" in first.stdout and first.returncode == 0, first.stderr
    image_study(studies / "a", seed=3)
    os.utime(studies / "b" / "b_pet.mha")  # looked at again, and found to be the same
    second = score(studies, "--output", output, "--weights", bundle)
    assert "1 done before, 1 to do" in second.stdout
    mask = next((output / "studies").glob("*/mask.mha"))
    mask.unlink()  # lost since: a row of the summary without its mask helps nobody
    assert "1 done before, 1 to do" in score(studies, "--output", output, "--weights", bundle).stdout and mask.is_file()
    third = score(studies, "--output", output, "--weights", make_bundle(tmp_path / "two", members=1))
    assert "0 done before, 2 to do" in third.stdout


@pytest.mark.slow
def test_other_weights_and_other_names_leave_one_result_of_the_last_weights(make_bundle, tmp_path) -> None:
    """A result by weights A without names, then B with and B without: the mask is B's, as of a run by B alone."""
    studies, output = dicom_studies(tmp_path / "in", 1), tmp_path / "out"
    one = make_bundle(tmp_path / "one")
    two = make_bundle(tmp_path / "two", weights=[1.0, 5.0])
    assert score(studies, "--output", output, "--weights", one).returncode == 0
    by_one = mask_of(output)
    assert score(studies, "--output", tmp_path / "alone", "--weights", two).returncode == 0
    for options in (["--names"], []):
        assert score(studies, "--output", output, "--weights", two, *options).returncode == 0
        assert mask_of(output) == mask_of(tmp_path / "alone") != by_one


def mask_of(output: Path) -> bytes:
    """The voxels of a results folder's only mask."""
    (path,) = output.glob("studies/*/mask.mha")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path))).tobytes()


@pytest.mark.slow
def test_organs_are_added_once_and_then_no_network_is_needed(make_bundle, tmp_path) -> None:
    studies, output = dicom_studies(tmp_path / "in", 1), tmp_path / "out"
    bundle = make_bundle(tmp_path / "organs", 1, **organ_bundle())
    assert score(studies, "--output", output, "--weights", bundle).returncode == 0
    assert not (output / "organs.csv").exists()
    mask, uids = mask_of(output), uids_of(output)
    added = score(studies, "--output", output, "--weights", bundle, "--organs")
    assert added.returncode == 0 and "0 done before, 1 to do;" in added.stdout, added.stderr
    assert mask_of(output) == mask and uids_of(output)["seg.dcm"] == uids["seg.dcm"]
    table, organs = (output / "organs.csv").read_text(), organs_of(output)
    assert [row["organ"] for row in rows(output / "organs.csv")] == list(ORGANS)
    assert len(np.unique(organs)) > 2
    (folder,) = (output / "studies").iterdir()
    seg = pydicom.dcmread(folder / "seg-organs.dcm")
    assert seg.pixel_array.sum() == (organs > 0).sum()
    assert "organs" in json.loads((folder / "report.json").read_text())
    assert "salivary glands" in (output / "report.html").read_text()
    uids = uids_of(output)
    for more in (["--organs"], ["--organs", "--rtstruct"], ["--organs", "--format", "nifti"], ["--rtstruct"]):
        again = score(studies, "--output", output, "--weights", bundle, *more)
        assert again.returncode == 0 and ("1 done before" in again.stdout or "(1 with the masks" in again.stdout)
        assert (output / "organs.csv").read_text() == table and np.array_equal(organs_of(output), organs)
        assert uids_of(output).items() >= uids.items()
    next(folder.glob("organs.*")).unlink()
    anew = score(studies, "--output", output, "--weights", bundle, "--organs")
    assert "0 done before, 1 to do;" in anew.stdout and np.array_equal(organs_of(output), organs)


def uids_of(output: Path) -> dict[str, str]:
    """The UIDs of a results folder's DICOM files, by their names."""
    return {path.name: pydicom.dcmread(path).SOPInstanceUID for path in output.glob("studies/*/*.dcm")}


def organs_of(output: Path) -> np.ndarray:
    """The labels of a results folder's only organ map."""
    (path,) = output.glob("studies/*/organs.*")
    return sitk.GetArrayFromImage(sitk.ReadImage(str(path)))


@pytest.mark.slow
def test_rules_make_new_tables_and_a_new_seg_without_a_network_and_the_networks_mask_stays(
    tiny_bundle, tmp_path
) -> None:
    """Rules on, other rules, rules off again: each is made of the networks' own mask, and the last is as the first."""
    studies, output = dicom_studies(tmp_path / "in", 1), tmp_path / "out"
    (studies / "overrides.csv").write_text("study;height_m;sex\nSmith_John_0;1.75;M\n")
    asked = [studies, "--output", output, "--weights", tiny_bundle]
    assert score(*asked).returncode == 0
    (folder,) = (output / "studies").iterdir()
    mask, uids, lesions = mask_of(output), uids_of(output), rows(folder / "lesions.csv")
    (first,) = rows(output / "summary.csv")
    assert float(first["sul_peak"]) < float(first["suv_peak"]) and first["given"] == "height_m 1.75, sex M"
    for options, kept in ((["--refine", "50%"], 1), (["--min-suv-max", "900"], 0)):
        done = score(*asked, *options)
        assert done.returncode == 0 and "(1 with the masks that are there)" in done.stdout, done.stderr
        (row,) = rows(output / "summary.csv")
        dropped, rules = (
            rows(folder / "dropped-lesions.csv"),
            json.loads((folder / "lesions.json").read_text())["rules"],
        )
        assert int(row["lesions"]) == kept == len(rows(folder / "lesions.csv"))
        assert int(row["dropped_lesions"]) == len(dropped) == len(lesions) - kept == rules["dropped_lesions"]
        assert rules["found_mtv_ml"] == pytest.approx(float(first["mtv_ml"]), abs=1e-3)
        assert [row["found_volume_ml"] for row in rows(folder / "lesions.csv")] == [lesions[0]["volume_ml"]] * kept
        network = sitk.ReadImage(str(folder / "network-mask.mha"))
        assert sitk.GetArrayFromImage(network).tobytes() == mask != mask_of(output)
        assert uids_of(output)["seg.dcm"] != uids["seg.dcm"]
        assert ("left out (" in (output / "report.html").read_text()) == (not kept)
        assert "the networks drew 1 lesions" in (output / "report.html").read_text()
        assert "1 done before, 0 to do" in score(*asked, *options).stdout
    again = score(*asked)
    assert again.returncode == 0 and "(1 with the masks that are there)" in again.stdout
    assert mask_of(output) == mask and uids_of(output) == uids and rows(folder / "lesions.csv") == lesions
    assert not (folder / "network-mask.mha").exists() and not (folder / "dropped-lesions.csv").exists()
    assert rows(output / "summary.csv") == [first]


def test_organs_need_networks_that_know_them(tiny_bundle, tmp_path) -> None:
    done = score(tmp_path, "--output", tmp_path / "out", "--weights", tiny_bundle, "--organs")
    assert done.returncode == 2 and "'tiny' has none" in done.stderr and not (tmp_path / "out").exists()


@pytest.mark.slow
def test_truths_are_compared_with(tiny_bundle, tmp_path) -> None:
    studies, output = tmp_path / "in", tmp_path / "out"
    image_study(studies / "a")
    assert score(studies, "--output", output, "--weights", tiny_bundle).returncode == 0
    (row,) = rows(output / "summary.csv")
    mask = sitk.ReadImage(str(output / row["folder"] / "mask.mha"))
    half = sitk.GetArrayFromImage(mask)
    half[: len(half) // 2] = 0
    truth = sitk.GetImageFromArray(half)
    truth.CopyInformation(mask)
    sitk.WriteImage(truth, str(studies / "a" / "a_truth.mha"))
    done = score(studies, "--output", output, "--weights", tiny_bundle, "--truth")
    assert "0 done before, 1 to do" in done.stdout and done.returncode == 0
    (row,) = rows(output / "summary.csv")
    found, true = sitk.GetArrayFromImage(mask).sum(), half.sum()
    assert float(row["dice"]) == pytest.approx(2 * true / (found + true), abs=1e-4)  # the truth lies in the mask
    assert float(row["fnv_ml"]) == 0 and row["convention"] == "autopet_1_2"
    totals = json.loads((output / "summary.json").read_text())
    assert totals["truth"]["dice_mean"] == pytest.approx(float(row["dice"]), abs=1e-4)


@pytest.mark.slow
def test_names_are_used_if_asked_for(tiny_bundle, tmp_path) -> None:
    studies = dicom_studies(tmp_path / "in", 1)
    done = score(studies, "--output", tmp_path / "out", "--weights", tiny_bundle, "--names", "--format", "nifti")
    assert done.returncode == 0
    (folder,) = (tmp_path / "out" / "studies").iterdir()
    assert folder.name.startswith("Smith_John_0_SYNTHETIC1_Smith_John_0-") and (folder / "mask.nii.gz").is_file()


@pytest.mark.slow
def test_a_study_whose_results_do_not_fit_on_the_disk_fails_and_the_others_are_scored(tiny_bundle, tmp_path) -> None:
    studies, output = tmp_path / "in", tmp_path / "out"
    pet, ct = small()
    for name, image in (("big", sitk.Expand(pet, (3, 3, 3))), ("fine", pet)):
        (studies / name).mkdir(parents=True)
        sitk.WriteImage(image, str(studies / name / f"{name}_pet.mha"), True)
        sitk.WriteImage(ct, str(studies / name / f"{name}_ct.mha"), True)

    asked = [studies, "--output", output, "--weights", tiny_bundle, "--disagreement"]  # a map of 350 kB
    done = score(*asked, file_limit_bytes=60_000)  # stands for a full disk
    assert done.returncode == 3, done.stderr
    (failure,) = rows(output / "failures.csv")
    assert failure["stage"] == "write" and "free some space" in failure["remedy"] + failure["message"], failure
    assert len(rows(output / "summary.csv")) == 1
    assert [path.name for path in (output / "studies").iterdir()] == [rows(output / "summary.csv")[0]["study"]]
    assert score(*asked).returncode == 0  # with space again
    assert len(rows(output / "summary.csv")) == 2


@pytest.mark.slow
def test_a_study_that_takes_all_memory_fails_and_the_others_are_scored(tiny_bundle, tmp_path) -> None:
    """What the kernel does when memory runs out is done here by the test: it ends the scoring process, twice."""
    studies, output = tmp_path / "in", tmp_path / "out"
    for name in ("a", "b"):
        image_study(studies / name)
    hog = studies / "b" / "b_pet.mha"
    running = started(studies, "--output", output, "--weights", tiny_bundle)
    killed = set()
    while running.poll() is None and len(killed) < 2:
        for child in children(running.pid) - killed:
            if (output / "studies").is_dir() or killed:  # from its first result on
                os.kill(child, signal.SIGKILL)
                killed.add(child)
        time.sleep(0.02)
    errors = running.wait(600).stderr
    assert hog.is_file() and len(killed) == 2
    assert len(rows(output / "summary.csv")) + len(rows(output / "failures.csv")) == 2, errors
    for failure in rows(output / "failures.csv"):
        assert "SIGKILL" in failure["message"] and "more memory" in failure["remedy"]
    assert score(studies, "--output", output, "--weights", tiny_bundle).returncode == 0
    assert len(rows(output / "summary.csv")) == 2


def children(pid: int) -> set[int]:
    try:
        return {int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()}
    except OSError:
        return set()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["gone"], 2, "is neither a folder nor a CSV"),
        ([".", "--weights", "absent"], 4, "no manifest.json"),
        (["."], 2, "holds no PET/CT study"),
        ([".", "--limit", "pet=3"], 2, "no such limit"),
        ([".", "--limit-minutes", "-1"], 2, "--limit-minutes must be 0 to"),
        ([".", "--disagreement", "--method", "diwa"], 2, "--disagreement needs two or more networks"),
    ],
)
def test_a_command_that_cannot_be_done_is_an_error(
    arguments: list[str], code: int, words: str, tiny_bundle, tmp_path
) -> None:
    (tmp_path / "in").mkdir()
    weights = [] if "--weights" in arguments else ["--weights", tiny_bundle]
    done = score(*arguments, "--output", tmp_path / "out", *weights, cwd=tmp_path / "in")
    assert done.returncode == code and words in done.stderr.splitlines()[-1], done.stderr


def test_studies_without_a_truth_are_named_where_truths_are_asked_for(tmp_path, capsys) -> None:
    jobs = {}
    for number in range(8):
        entry = Entry(
            identity=str(number),
            source=tmp_path,
            kind="images",
            pet=(tmp_path / "p.mha",),
            ct=(tmp_path / "c.mha",),
            truth=tmp_path / "t.mha" if number == 3 else None,
        )
        jobs[f"s-{number}"] = Job(
            name=f"s-{number}", entry=entry, root=tmp_path, output=tmp_path, key="k", options=Options()
        )
    plan = Plan(jobs=jobs, done={}, unusable={})
    print_plan(plan, True)
    printed = capsys.readouterr().out
    assert "1 have a truth" in printed and "without a truth: s-0, s-1, s-2, s-4, s-5 and 2 more" in printed
    print_plan(plan, False)
    assert "truth" not in capsys.readouterr().out


def uids(output: Path) -> dict[str, dict[str, str]]:
    """SOPInstanceUIDs of what is there, by the hash in the study's name and by file."""
    found: dict[str, dict[str, str]] = {}
    for path in sorted(output.glob("studies/*/*.dcm")):
        found.setdefault(path.parent.name[-12:], {})[path.name] = pydicom.dcmread(path).SOPInstanceUID
    return found


@pytest.mark.slow
def test_options_that_only_add_outputs_leave_masks_and_uids_as_they_are(tiny_bundle, tmp_path) -> None:
    """Each study is one folder, whatever it is called; two folders of results made in another order agree, too."""
    studies, output = dicom_studies(tmp_path / "in", 2), tmp_path / "out"
    asked = [studies, "--output", output, "--weights", tiny_bundle]
    assert score(*asked).returncode == 0
    first, masks = uids(output), {p.parent.name[-12:]: p.read_bytes() for p in output.glob("studies/*/mask.mha")}
    (tmp_path / "truths").mkdir()
    for options in (["--rtstruct"], ["--rtstruct", "--names"], ["--rtstruct", "--truth", tmp_path / "truths"], []):
        done = score(*asked, *options)
        assert done.returncode == 0, done.stderr
        assert "2 to do (2 with the masks that are there)" in done.stdout or "2 done before, 0 to do" in done.stdout
        assert {name: made["seg.dcm"] for name, made in uids(output).items()} == {
            name: made["seg.dcm"] for name, made in first.items()
        }
        assert {p.parent.name[-12:]: p.read_bytes() for p in output.glob("studies/*/mask.mha")} == masks
        assert len(rows(output / "summary.csv")) == 2 == len(rows(output / "keys.csv"))
        named = [path.name.startswith("Smith") for path in (output / "studies").iterdir()]
        assert named == ["--names" in options] * 2
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / ".salt").write_bytes((output / ".salt").read_bytes())
    done = score(studies, "--output", tmp_path / "other", "--weights", tiny_bundle, "--rtstruct", "--names")
    assert done.returncode == 0 and uids(tmp_path / "other") == uids(output)


@pytest.mark.slow
def test_a_study_keeps_its_name_and_tables_keep_every_study(tiny_bundle, tmp_path) -> None:
    """A missing weight, given by a CSV, then by overrides.csv; the second study is never touched."""
    studies, output = dicom_studies(tmp_path / "in", 2), tmp_path / "out"
    lacking = studies / "Smith_John_0" / "pet"
    for path in lacking.iterdir():
        header = pydicom.dcmread(path)
        del header.PatientWeight
        header.save_as(path)
    (studies / "Meier").mkdir()
    image_study(studies / "Meier")
    (studies / "Meier" / "Meier_ct.mha").unlink()
    asked = ["--output", output, "--weights", tiny_bundle]
    assert score(studies, *asked).returncode == 3
    failed = {row["stage"]: row["study"] for row in rows(output / "failures.csv")}
    (whole,) = (row["study"] for row in rows(output / "summary.csv"))
    before = contents(output / "studies" / whole)

    table = tmp_path / "list.csv"
    table.write_text(f"pet,ct,weight_kg\n{lacking},{lacking.parent / 'ct'},70\n")
    done = score(table, *asked)
    assert done.returncode == 0, done.stderr
    assert {row["study"] for row in rows(output / "summary.csv")} == {whole, failed["read"]}
    assert [row["study"] for row in rows(output / "failures.csv")] == [failed["find"]]
    assert {row["study"] for row in rows(output / "keys.csv")} == {whole, *failed.values()}
    mask = (output / "studies" / failed["read"] / "mask.mha").read_bytes()

    (studies / "overrides.csv").write_text(f"study,weight_kg,height_m\n{failed['read']},70,1.75\n")
    done = score(studies, *asked)
    assert "2 studies found: 1 done before, 1 to do (1 with the masks that are there)" in done.stdout
    assert (output / "studies" / failed["read"] / "mask.mha").read_bytes() == mask
    report = json.loads((output / "studies" / failed["read"] / "report.json").read_text())
    assert report["given"] == {"weight_kg": 70.0, "height_m": 1.75}
    (studies / "overrides.csv").write_text(f"study,weight_kg\n{failed['read']},140\n")
    twice = score(studies, *asked)
    assert "1 done before, 1 to do; 1 cannot be scored" in twice.stdout
    report = json.loads((output / "studies" / failed["read"] / "report.json").read_text())
    assert report["suv_conversion"]["weight_kg"] == 140 and contents(output / "studies" / whole) == before
    (studies / "overrides.csv").write_text("study,weight_kg\nnobody,140\n")
    wrong = score(studies, *asked)
    assert wrong.returncode == 2 and "its study is not among the 2 studies found" in wrong.stderr
    assert len(rows(output / "summary.csv")) == 2


@pytest.mark.slow
def test_a_seg_that_cannot_be_made_is_a_warning_of_its_study(tiny_bundle, tmp_path) -> None:
    """A slice without SOPInstanceUID can be scored, and not be referred to; a sex that DICOM does not know is no reason
    for anything.
    """
    studies, output = dicom_studies(tmp_path / "in", 2), tmp_path / "out"
    for path in (studies / "Smith_John_0" / "pet").iterdir():
        header = pydicom.dcmread(path)
        header.SOPInstanceUID = ""
        header.save_as(path)
    for path in studies.glob("Smith_John_1/*/*"):
        content = path.read_bytes()
        tag = b"\x10\x00\x20\x00LO"  # PatientID follows PatientSex, which is put before it
        sex = b"\x10\x00\x40\x00CS\x02\x00U "
        assert content.count(tag) == 1
        length = int.from_bytes(content[content.index(tag) + 6 : content.index(tag) + 8], "little")
        end = content.index(tag) + 8 + length
        path.write_bytes(content[:end] + sex + content[end:])
    done = score(studies, "--output", output, "--weights", tiny_bundle, "--rtstruct")
    assert done.returncode == 0, done.stderr + done.stdout
    found = {bool(list((output / row["folder"]).glob("seg.dcm"))): row for row in rows(output / "summary.csv")}
    assert "no SEG (seg.dcm)" in found[False]["warnings"] and "SOPInstanceUID" in found[False]["warnings"]
    assert "no RTSTRUCT (rtstruct.dcm)" in found[False]["warnings"]
    assert "PatientSex (0010,0040) is not M, F or O" in found[True]["warnings"]
    page = (output / "report.html").read_text()
    report = json.loads((output / found[False]["folder"] / "report.json").read_text())
    assert "no SEG (seg.dcm)" in page and any("no SEG (seg.dcm)" in warning for warning in report["warnings"])
    assert all((output / found[False]["folder"] / name).is_file() for name in OURS)
    assert "Smith" not in page and pydicom.dcmread(output / found[True]["folder"] / "seg.dcm").PatientSex == ""
    again = score(studies, "--output", output, "--weights", tiny_bundle, "--rtstruct")
    assert "2 done before, 0 to do" in again.stdout


@pytest.mark.slow
def test_a_picture_is_made_anew_when_the_study_gets_another_name_and_only_then(tiny_bundle, tmp_path) -> None:
    """The name is drawn in it; the SEG of the same lesions stays."""
    studies, output = dicom_studies(tmp_path / "in", 1), tmp_path / "out"
    asked = [studies, "--output", output, "--weights", tiny_bundle, "--picture", "--device", "cpu"]
    burned_in, made = [], []
    for options in ([], ["--format", "nifti"], ["--format", "nifti", "--names"]):
        score_here(*asked, *options)
        (files,) = uids(output).values()
        (path,) = output.glob("studies/*/picture.dcm")
        made.append((files["seg.dcm"], files["picture.dcm"]))
        burned_in.append(pydicom.dcmread(path).BurnedInAnnotation)
    assert burned_in == ["NO", "NO", "YES"]
    assert len({seg for seg, _ in made}) == 1 and made[0] == made[1] and made[2][1] != made[0][1]
