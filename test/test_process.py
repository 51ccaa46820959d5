"""The command line from outside: what it writes, where, and what it prints. Bad inputs: test_errors.py."""

import json
import os
import pty
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT
from organ_bundles import organ_bundle
from PIL import Image
from program import run_process
from tiny_studies import tiny_images, write_study

from model import __version__
from model.bundle.manifest import load_bundle
from model.errors import ConfigError
from model.study.geometry import grid_of

CONTRACT = "images/automated-petct-lesion-segmentation/ct-study.mha"


def files(folder: Path) -> list[str]:
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


@pytest.mark.slow
def test_the_mask_is_the_only_file_and_lies_on_the_pet_grid(tiny_study, tiny_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    done = run_process("--input", tiny_study, "--output", out, "--weights", tiny_bundle)
    assert done.returncode == 0, done.stderr
    assert files(out) == [CONTRACT]
    mask = sitk.ReadImage(str(out / CONTRACT))
    pet = sitk.ReadImage(str(tiny_study / "images/pet/pet-study.mha"))
    assert mask.GetPixelID() == sitk.sitkUInt8 and grid_of(mask) == grid_of(pet)
    values = np.unique(sitk.GetArrayFromImage(mask)).tolist()
    assert values == [0, 1]
    assert "lesions" in done.stdout and "ml" in done.stdout and "seconds" in done.stdout


@pytest.mark.slow
def test_every_optional_file_is_written(tiny_study, tiny_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    done = run_process(
        "--input",
        tiny_study / "images/pet/pet-study.mha",
        tiny_study / "images/ct/ct-study.mha",
        "--output",
        out,
        "--weights",
        tiny_bundle,
        "--method",
        "diwa",
        "--device",
        "cpu",
        "--edition",
        "3",
        "--preview",
        "--save-probabilities",
        "--report",
        out / "deep" / "report.json",
    )
    assert done.returncode == 0, done.stderr
    assert files(out) == sorted(
        [
            CONTRACT,
            "ct-study_preview.png",
            "ct-study_probabilities.nrrd",
            "data-centric-model.json",
            "deep/report.json",
        ]
    )
    assert json.loads((out / "data-centric-model.json").read_text()) is False
    mask = sitk.GetArrayFromImage(sitk.ReadImage(str(out / CONTRACT))).astype(bool)
    probability = sitk.GetArrayFromImage(sitk.ReadImage(str(out / "ct-study_probabilities.nrrd")))
    np.testing.assert_array_equal(probability > 0.5, mask)
    report = json.loads((out / "deep" / "report.json").read_text())
    assert report["volume_ml"] == round(int(mask.sum()) * 4.07 * 4.07 * 3.0 / 1000, 3)
    assert report["weights"]["method"] == "diwa" and report["weights"]["name"] == "tiny"
    assert report["weights"]["manifest_sha256"] == load_bundle(tiny_bundle).sha256
    assert {"start", "read", "import", "resample", "network", "write"} <= set(report["seconds"])
    assert report["run"]["rung"].startswith("cpu") and report["peak_memory_bytes"] > 1e8
    assert Image.open(out / "ct-study_preview.png").width > 300


@pytest.mark.slow
def test_organs_are_labels_on_the_pet_grid_and_in_the_report(tiny_study, make_bundle, tmp_path) -> None:
    bundle, out = make_bundle(tmp_path / "organs", 1, **organ_bundle()), tmp_path / "out"
    words = ["--input", tiny_study, "--output", out, "--weights", bundle, "--device", "cpu"]
    for _ in range(2):  # a second run replaces the first's files
        done = run_process(*words, "--organs", "--report", out / "report.json")
        assert done.returncode == 0, done.stderr
    assert files(out) == sorted([CONTRACT, "ct-study_organs.mha", "report.json"])
    assert f"organs: {out / 'ct-study_organs.mha'}" in done.stdout
    image = sitk.ReadImage(str(out / "ct-study_organs.mha"))
    pet = sitk.ReadImage(str(tiny_study / "images/pet/pet-study.mha"))
    assert image.GetPixelID() == sitk.sitkUInt8 and grid_of(image) == grid_of(pet)
    assert image.GetMetaData("Labels").startswith("1 spleen, 2 kidneys, 3 liver")
    labels, suv = sitk.GetArrayFromImage(image), sitk.GetArrayFromImage(pet)
    assert len(np.unique(labels)) > 3 and labels.max() <= 10
    lesion = sitk.GetArrayFromImage(sitk.ReadImage(str(out / CONTRACT))) == 1
    table = json.loads((out / "report.json").read_text())["organs"]["table"]
    assert [row["label"] for row in table] == list(range(1, 11))
    for row in table:
        inside = labels == row["label"]
        assert row["volume_ml"] == pytest.approx(inside.sum() * np.prod(pet.GetSpacing()) / 1000, abs=1e-3)
        if (inside & ~lesion).any():
            assert row["suv_mean"] == pytest.approx(suv[inside & ~lesion].mean(), abs=1e-3)
    refused = run_process(*words)  # the organ map of another run does not stay beside a new mask unseen
    assert refused.returncode != 0 and "ct-study_organs.mha" in refused.stderr


@pytest.mark.slow
def test_rules_decide_the_mask_and_the_report_says_what_they_left_out(tiny_study, tiny_bundle, tmp_path) -> None:
    asked = ["--input", tiny_study, "--output", tmp_path / "out", "--weights", tiny_bundle, "--device", "cpu"]
    asked += ["--report", tmp_path / "r.json", "--min-suv-max", 900, "--height-m", 1.8, "--weight-kg", 70, "--sex", "F"]
    done = run_process(*asked)
    assert done.returncode == 0, done.stderr
    (mask,) = (tmp_path / "out").rglob("*.mha")
    report = json.loads((tmp_path / "r.json").read_text())
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(mask))).any()
    assert (report["lesions"], report["volume_ml"], report["lesion_table"]) == (0, 0, [])
    dropped = report["lesion_rules"]["dropped"]
    assert len(dropped) == report["lesion_rules"]["found_lesions"] == done.stdout.count("dropped: lesion") > 0
    assert report["numbers"]["why"]["sul_peak"] == "there is no lesion"
    assert report["numbers"]["lean_body_kg"] == pytest.approx(9270 * 70 / (8780 + 244 * 70 / 1.8**2), abs=1e-3)


def test_organs_need_networks_that_know_them(tiny_study, tiny_bundle, tmp_path) -> None:
    done = run_process("--input", tiny_study, "--output", tmp_path / "o", "--weights", tiny_bundle, "--organs")
    assert done.returncode == ConfigError.exit_code and "'tiny' has none" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "o").exists()


@pytest.mark.slow
def test_editions_4_and_5_have_another_folder_and_the_environment_sets_it(tiny_study, tiny_bundle, tmp_path) -> None:
    (tiny_study / "lesion-clicks.json").write_text("[]")
    out = tmp_path / "out"
    done = run_process(
        "--input",
        tiny_study,
        "--output",
        out,
        AUTOPET_EDITION="5",
        LESION_WEIGHTS=str(tiny_bundle),
        LESION_METHOD="diwa",
    )
    assert done.returncode == 0 and files(out) == ["images/tumor-lesion-segmentation/ct-study.mha"]
    assert "tiny (diwa)" in done.stdout and "lesion-clicks.json" in done.stderr
    assert files(tiny_study).count("lesion-clicks.json") == 1


@pytest.mark.slow
def test_a_second_run_gives_the_same_file_and_replaces_the_first(tiny_study, tiny_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    contents = []
    for _ in range(2):
        assert run_process("--input", tiny_study, "--output", out, "--weights", tiny_bundle).returncode == 0
        contents.append((out / CONTRACT).read_bytes())
    assert contents[0] == contents[1] and files(out) == [CONTRACT]


@pytest.mark.slow
def test_an_empty_pet_gives_an_empty_mask_and_a_warning(tiny_bundle, tmp_path) -> None:
    pet, ct = tiny_images()
    folder = write_study(tmp_path / "study", pet * 0, ct)
    done = run_process("--input", folder, "--output", tmp_path / "out", "--weights", tiny_bundle, "--preview")
    assert done.returncode == 0 and "warning: PET" in done.stderr and "0 lesions, 0.0 ml" in done.stdout
    assert not sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "out" / CONTRACT))).any()


@pytest.mark.slow
def test_progress_is_plain_lines_without_a_terminal(tiny_study, tiny_bundle, tmp_path) -> None:
    done = run_process("--input", tiny_study, "--output", tmp_path / "out", "--weights", tiny_bundle)
    lines = done.stderr.splitlines()
    assert lines and all(line.startswith("window ") for line in lines)
    count = lines[-1].split()[-1]
    assert lines[-1] == f"window {count} of {count}" and len(lines) <= 11


@pytest.mark.slow
def test_on_a_terminal_progress_is_a_bar(tiny_study, tiny_bundle, tmp_path) -> None:
    master, slave = pty.openpty()
    command = [
        sys.executable,
        str(ROOT / "process.py"),
        "--input",
        str(tiny_study),
        "--output",
        str(tmp_path / "out"),
        "--weights",
        str(tiny_bundle),
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=slave)
    os.close(slave)
    output = b""
    while True:
        try:
            chunk = os.read(master, 4096)
        except OSError:  # the other end was closed
            break
        if not chunk:
            break
        output += chunk
    assert process.wait() == 0 and b"window" in output and b"%|" in output


def test_the_version_is_printed() -> None:
    assert run_process("--version").stdout == f"petct-lesion-segmentation {__version__}\n"


def test_help_says_default_and_cost_of_every_option() -> None:
    text = " ".join(run_process("--help").stdout.split())
    pattern = r" (--[a-z-]+) (?:(?! --[a-z]).)*?\(default: [^)]*; cost: [^)]*\)"
    options = re.findall(pattern, text.partition("options:")[2])
    assert sorted(options) == sorted(
        f"--{o}"
        for o in "input output weights method device folds mirroring precision edition preview save-probabilities "
        "report limit serve bind port debug version min-volume-ml min-suv-max drop-in-air drop-outside-body not-in "
        "refine refine-within-mm liver-sphere blood-sphere liver-mask blood-mask weight-kg height-m sex".split()
    )
    assert "not a medical device" in text


def test_debug_shows_the_traceback(tmp_path) -> None:
    assert "Traceback" in run_process("--input", tmp_path / "absent", "--output", tmp_path / "o", "--debug").stderr


def test_inputs_are_read_before_torch_is_imported(tiny_bundle, tmp_path) -> None:
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); sys.argv = ['process.py', '--input', {str(tmp_path)!r}, "
        f"'--output', {str(tmp_path / 'o')!r}, '--weights', {str(tiny_bundle)!r}]\n"
        "import process\nprint(process.main(), 'torch' in sys.modules, 'monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "3 False False\n", done


@pytest.mark.slow
@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "SIGINT")])
def test_a_stopped_run_says_so_and_leaves_no_file(number: int, name: str, make_bundle, tmp_path) -> None:
    slow = make_bundle(tmp_path / "slow", members=40)
    folder, out = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out"
    command = [sys.executable, str(ROOT / "process.py"), "--input", folder, "--output", out, "--weights", slow]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    process.stderr.readline()  # a tenth is done
    process.send_signal(number)
    last = process.stderr.read().strip().splitlines()[-1]
    assert process.wait(30) == 128 + number and last == f"error: stopped by {name}; no output was written"
    assert files(out) == []


@pytest.mark.slow
def test_a_killed_run_does_not_hinder_the_next(make_bundle, tmp_path) -> None:
    slow = make_bundle(tmp_path / "slow", members=20)
    folder, out = write_study(tmp_path / "study", *tiny_images()), tmp_path / "out"
    command = [sys.executable, str(ROOT / "process.py"), "--input", folder, "--output", out, "--weights", slow]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)
    assert process.stderr is not None
    process.stderr.readline()
    process.kill()
    process.wait()
    (out / ".partial-left").write_text("as if killed while writing")
    assert run_process("--input", folder, "--output", out, "--weights", slow).returncode == 0
    assert files(out) == [CONTRACT]


@pytest.mark.slow
@pytest.mark.parametrize("closed", ["<&-", "<&- >&- 2>&-", "| head -c 1 > /dev/null"])
def test_closed_streams_do_not_hinder_a_run(closed: str, tiny_study, tiny_bundle, tmp_path) -> None:
    out = tmp_path / "out"
    line = f"set -o pipefail; {sys.executable} {ROOT}/process.py --input {tiny_study} --output {out} "
    line += f"--weights {tiny_bundle} {closed}"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 0 and files(out) == [CONTRACT], done.stderr


def test_an_error_with_closed_stdout_is_still_one_line(tmp_path) -> None:
    line = f"{sys.executable} {ROOT}/process.py --input {tmp_path}/absent --output {tmp_path}/out >&-"
    done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1


def test_a_folder_without_permission_is_named() -> None:
    import process

    error = PermissionError(13, "Permission denied", "/studies/a")
    assert process.explain(error) == ("'/studies/a' cannot be used: Permission denied; check access to '/studies/a'", 3)


@pytest.mark.parametrize("what", ["image", "data file", "inputs.json", "manifest", "member"])
def test_a_pipe_without_a_writer_is_refused_at_once(what: str, tiny_study, tiny_bundle, tmp_path) -> None:
    """Whether as an image, as the voxels beside a header, or in a bundle: exit 3 or 4 at once."""
    pet, bundle = tiny_study / "images/pet/pet-study.mha", tmp_path / "bundle"
    shutil.copytree(tiny_bundle, bundle)
    place = {
        "image": pet,
        "data file": pet.with_name("p.raw"),
        "inputs.json": tiny_study / "inputs.json",
        "manifest": bundle / "manifest.json",
        "member": bundle / "m0.safetensors",
    }[what]
    if what == "data file":
        sitk.WriteImage(sitk.ReadImage(str(pet)), str(pet.with_name("p.mhd")))
        pet.unlink()
    place.unlink(missing_ok=True)
    os.mkfifo(place)
    done = run_process("--input", tiny_study, "--output", tmp_path / "out", "--weights", bundle, timeout=60)
    assert done.returncode == (4 if what in ("manifest", "member") else 3)
    assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1
    assert not list((tmp_path / "out").rglob("*.mha"))


def test_control_characters_of_a_name_are_printed_as_escapes(tiny_study, tiny_bundle, tmp_path) -> None:
    pet = tiny_study / "images/pet/pet-study.mha"
    pet = pet.rename(pet.with_name("p\x1b]0;x\x07\n\u202e.mha"))
    pet.write_bytes(b"x\x1b[2J = \x1b[31m")
    done = run_process("--input", tiny_study, "--output", tmp_path / "out", "--weights", tiny_bundle)
    assert done.returncode == 3 and len(done.stderr.splitlines()) == 1
    assert "p\\x1b]0;x\\x07" in done.stderr and not set("\x1b\x07\u202e") & set(done.stderr)
