"""Inputs that must be refused, and the table of what the user reads.

`python test/helpers/bad_inputs.py` writes docs/errors.md; so does `make docs`.

Each case is a function (folder) -> process.py's arguments, an optional limit on the process, and the
exit code. test_errors.py runs every case, and compares the messages with docs/errors.md.
"""

import json
import os
import re
import shutil
import struct
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import SimpleITK as sitk
import warm

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))
TABLE = ROOT / "docs" / "errors.md"


@dataclass(frozen=True, kw_only=True)
class Bad:
    """What is wrong, how to make it below a folder (returns extra arguments), and what must come back."""

    title: str
    make: Callable[[Path], list[str]]
    exit_code: int
    environment: tuple[tuple[str, str], ...] = ()
    file_limit_bytes: int | None = None  # stands for a full disk: no file may grow beyond


@dataclass(frozen=True, kw_only=True)
class Outcome:
    exit_code: int
    last_line: str
    stderr: str
    left: tuple[str, ...]


def study(folder: Path) -> tuple[Path, Path]:
    """A small good study, PET and CT paths."""
    rng = np.random.default_rng(0)
    paths = []
    for what, array in (
        ("pet", rng.gamma(2, 1, (20, 24, 28)).astype(np.float32)),
        ("ct", rng.normal(0, 300, (20, 24, 28)).astype(np.int16) - 500),
    ):
        image = sitk.GetImageFromArray(array)
        image.SetSpacing((4.0, 4.0, 4.0))
        path = folder / "input" / "images" / what / f"{what}.mha"
        path.parent.mkdir(parents=True)
        sitk.WriteImage(image, str(path))
        paths.append(path)
    return paths[0], paths[1]


def change_array(which: int, change: Callable[[np.ndarray], np.ndarray]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = study(folder)[which]
        image = sitk.ReadImage(str(path))
        changed = sitk.GetImageFromArray(change(sitk.GetArrayFromImage(image)))
        changed.CopyInformation(image)
        sitk.WriteImage(changed, str(path))
        return []

    return make


def change_bytes(which: int, change: Callable[[bytes], bytes]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = study(folder)[which]
        path.write_bytes(change(path.read_bytes()))
        return []

    return make


def change_image(which: int, change: Callable[[sitk.Image], sitk.Image]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        path = study(folder)[which]
        sitk.WriteImage(change(sitk.ReadImage(str(path))), str(path))
        return []

    return make


def header(old: bytes, new: bytes) -> Callable[[bytes], bytes]:
    def change(content: bytes) -> bytes:
        assert old in content
        return content.replace(old, new, 1)

    return change


def do(action: Callable[[Path, Path, Path], list[str] | None]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        return action(folder, *study(folder)) or []

    return make


def set_voxel(value: float) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array[5, 5, 5] = value
        return array

    return change


def moved(image: sitk.Image) -> sitk.Image:
    image.SetOrigin((0.0, 0.0, 5000.0))
    return image


def nan_in_nifti(folder: Path, pet: Path, ct: Path) -> list[str]:
    path = folder / "input" / "p.nii.gz"
    image = sitk.ReadImage(str(pet), sitk.sitkFloat32)
    image[5, 5, 5] = float("nan")
    sitk.WriteImage(image, str(path))
    return ["--input", str(path), str(ct)]


def as_nifti(folder: Path, pet: Path, ct: Path) -> list[str]:
    path = folder / "input" / "p.nii"
    sitk.WriteImage(sitk.ReadImage(str(pet)), str(path))
    path.write_bytes(path.read_bytes()[:-4000])
    return ["--input", str(path), str(ct)]


def as_header(text: str) -> Callable[[Path, Path, Path], list[str]]:
    """PET as .mhd with its voxels beside it, one line of the header changed to this one."""

    def action(folder: Path, pet: Path, ct: Path) -> list[str]:
        path = pet.with_suffix(".mhd")
        sitk.WriteImage(sitk.ReadImage(str(pet)), str(path))
        name = text.partition(" = ")[0]
        path.write_text(re.sub(rf"^{name} = .*$", text, path.read_text(), flags=re.M))
        return ["--input", str(path), str(ct)]

    return action


def nifti_field(at: int, layout: str, *values: object) -> Callable[[Path, Path, Path], list[str]]:
    """PET as .nii, one field of its header changed (offsets of nifti1.h)."""

    def action(folder: Path, pet: Path, ct: Path) -> list[str]:
        path = folder / "input" / "p.nii"
        sitk.WriteImage(sitk.ReadImage(str(pet)), str(path))
        content = bytearray(path.read_bytes())
        struct.pack_into(f"<{layout}", content, at, *values)
        path.write_bytes(content)
        return ["--input", str(path), str(ct)]

    return action


def nrrd_line(old: str, new: str) -> Callable[[Path, Path, Path], list[str]]:
    """PET as compressed .nrrd, a piece of its header changed."""

    def action(folder: Path, pet: Path, ct: Path) -> list[str]:
        path = folder / "input" / "p.nrrd"
        sitk.WriteImage(sitk.ReadImage(str(pet)), str(path), True)
        content = path.read_bytes()
        assert old.encode() in content
        path.write_bytes(content.replace(old.encode(), new.encode(), 1))
        return ["--input", str(path), str(ct)]

    return action


def data_link(folder: Path, pet: Path, ct: Path) -> list[str]:
    """PET as .mhd whose voxels are a link to a file elsewhere."""
    arguments = as_header("Comment = none")(folder, pet, ct)
    (folder / "input" / "elsewhere").mkdir()
    raw = pet.with_suffix(".raw")
    raw.symlink_to(raw.rename(folder / "input" / "elsewhere" / "v.raw"))
    return arguments


def pipe(folder: Path, pet: Path, ct: Path) -> None:
    pet.unlink()
    os.mkfifo(pet)


def escapes(folder: Path, pet: Path, ct: Path) -> list[str]:
    return ["--input", str(pet.rename(pet.with_name("p\x1b[2J.mha.txt"))), str(ct)]


def report_in_a_folder(folder: Path, pet: Path, ct: Path) -> list[str]:
    (folder / "output" / "reports").mkdir(parents=True)
    return ["--report", str(folder / "output" / "reports")]


def second(folder: Path, pet: Path, ct: Path) -> None:
    shutil.copy(pet, pet.with_name("second.mha"))


def damaged_compression(folder: Path, pet: Path, ct: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(pet)), str(pet), True)
    content = bytearray(pet.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 32] = bytes(32)
    pet.write_bytes(bytes(content))


def file_as_output(folder: Path, pet: Path, ct: Path) -> None:
    (folder / "output").write_text("a file where the folder should be")


def other_result(folder: Path, pet: Path, ct: Path) -> None:
    (folder / "output").mkdir()
    (folder / "output" / "old.mha").write_text("")


def bundle(change: Callable[[Path], None]) -> Callable[[Path], list[str]]:
    def make(folder: Path) -> list[str]:
        study(folder)
        shutil.copytree(ROOT / "weights" / "eoa", folder / "bundle")
        change(folder / "bundle")
        return ["--weights", str(folder / "bundle")]

    return make


def edit_manifest(**changes: object) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / "manifest.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | changes))

    return change


def damage_member(folder: Path) -> None:
    member = sorted(folder.glob("*.safetensors"))[0]
    member.write_bytes(member.read_bytes()[:-1] + b"x")


def other_start(folder: Path) -> None:
    content = json.loads((folder / "manifest.json").read_text())
    first = content["members"][0]
    shutil.copy(folder / first["file"], folder / "other.safetensors")
    content["members"].append(first | {"file": "other.safetensors", "start_sha256": "1" * 64})
    (folder / "manifest.json").write_text(json.dumps(content))


def sockets(*items: tuple[str, str]) -> Callable[[Path, Path, Path], None]:
    def action(folder: Path, pet: Path, ct: Path) -> None:
        content = [{"socket": {"slug": slug, "relative_path": place}} for slug, place in items]
        (folder / "input" / "inputs.json").write_text(json.dumps(content))

    return action


def write(name: str, text: str) -> Callable[[Path, Path, Path], None]:
    def action(folder: Path, pet: Path, ct: Path) -> None:
        (folder / "input" / name).write_text(text)

    return action


SIZE = b"DimSize = 28 24 20"
MATRIX = b"TransformMatrix = 1 0 0 0 1 0 0 0 1"
SPACING = b"ElementSpacing = 4 4 4"
CASES = [
    Bad(title="input folder is not there", make=lambda f: [], exit_code=3),
    Bad(title="no PET file", make=do(lambda f, pet, ct: pet.unlink()), exit_code=3),
    Bad(title="no CT folder", make=do(lambda f, pet, ct: shutil.rmtree(ct.parent)), exit_code=3),
    Bad(title="two PET files", make=do(second), exit_code=3),
    Bad(
        title="two sockets for PET in inputs.json",
        exit_code=3,
        make=do(sockets(("pet-1", "images/a"), ("pet-2", "images/b"), ("ct", "images/ct"))),
    ),
    Bad(
        title="entry of inputs.json without a socket",
        exit_code=3,
        make=do(write("inputs.json", '[{"image": {"name": "pet"}}]')),
    ),
    Bad(title="three input paths", make=lambda f: ["--input", "a", "b", "c"], exit_code=2),
    Bad(title="named file is not there", make=do(lambda f, pet, ct: ["--input", f"{pet}x.mha", str(ct)]), exit_code=3),
    Bad(
        title="DICOM file in place of an image",
        exit_code=3,
        make=do(lambda f, pet, ct: ["--input", str(pet.rename(pet.with_suffix(".dcm"))), str(ct)]),
    ),
    Bad(title="truncated MHA", make=change_bytes(0, lambda b: b[: len(b) // 2]), exit_code=3),
    Bad(title="truncated NIfTI", make=do(as_nifti), exit_code=3),
    Bad(title="damaged compressed MHA", make=do(damaged_compression), exit_code=3),
    Bad(title="random bytes", make=change_bytes(1, lambda b: bytes(np.random.default_rng(0).bytes(5000))), exit_code=3),
    Bad(title="empty file", make=change_bytes(0, lambda b: b""), exit_code=3),
    Bad(
        title="Git-LFS pointer",
        make=change_bytes(0, lambda b: b"version https://git-lfs.github.com/spec/v1\n"),
        exit_code=3,
    ),
    Bad(title="2-D image", make=change_image(0, lambda i: i[:, :, 3]), exit_code=3),
    Bad(title="4-D image", make=change_image(0, lambda i: sitk.JoinSeries([i, i])), exit_code=3),
    Bad(title="vector pixels", make=change_image(0, lambda i: sitk.Compose([i, i, i])), exit_code=3),
    Bad(title="complex pixels", make=change_image(0, lambda i: sitk.RealAndImaginaryToComplex(i, i)), exit_code=3),
    Bad(title="NaN in a NIfTI PET", make=do(nan_in_nifti), exit_code=3),
    Bad(title="NaN in PET", make=change_array(0, set_voxel(np.nan)), exit_code=3),
    Bad(title="infinite value in PET", make=change_array(0, set_voxel(np.inf)), exit_code=3),
    Bad(title="PET above 1,000", make=change_array(0, lambda a: a * 4000), exit_code=3),
    Bad(title="PET below -1", make=change_array(0, lambda a: a - 3), exit_code=3),
    Bad(title="CT with minimum above -100", make=change_array(1, lambda a: np.maximum(a, 0)), exit_code=3),
    Bad(title="CT with maximum above 32,767", make=change_array(1, lambda a: a.astype(np.float32) * 100), exit_code=3),
    Bad(title="PET and CT exchanged", make=do(lambda f, pet, ct: ["--input", str(ct), str(pet)]), exit_code=3),
    Bad(title="voxels of 4,000 mm", make=change_bytes(0, header(SPACING, b"ElementSpacing = 4000 4 4")), exit_code=3),
    Bad(title="zero spacing", make=change_bytes(0, header(SPACING, b"ElementSpacing = 0 4 4")), exit_code=3),
    Bad(title="infinite spacing", make=change_bytes(0, header(SPACING, b"ElementSpacing = inf 4 4")), exit_code=3),
    Bad(
        title="non-orthogonal direction",
        exit_code=3,
        make=change_bytes(0, header(MATRIX, b"TransformMatrix = 1 0 0 0.3 1 0 0 0 1")),
    ),
    Bad(
        title="singular direction",
        exit_code=3,
        make=change_bytes(0, header(MATRIX, b"TransformMatrix = 1 0 0 1 0 0 0 0 1")),
    ),
    Bad(title="PET and CT do not overlap", make=change_image(1, moved), exit_code=3),
    Bad(
        title="dimensions in the header larger than the file",
        exit_code=3,
        make=change_bytes(0, header(SIZE, b"DimSize = 28 24 30")),
    ),
    Bad(
        title="dimensions in the header larger than the memory",
        exit_code=3,
        make=change_bytes(0, header(SIZE, b"DimSize = 40000 30000 20000")),
    ),
    Bad(
        title="dimensions in the header smaller than the file",
        exit_code=3,
        make=change_bytes(0, header(SIZE, b"DimSize = 24 24 20")),
    ),
    Bad(title="a hundred dimensions", make=change_bytes(0, header(b"NDims = 3", b"NDims = 100")), exit_code=3),
    Bad(
        title="origin that is not a number",
        exit_code=3,
        make=change_bytes(0, header(b"Offset = 0 0", b"Offset = nan 0")),
    ),
    Bad(title="missing spacing", exit_code=3, make=change_bytes(0, header(SPACING + b"\n", b""))),
    Bad(
        title="header line that is no 'field = value'",
        exit_code=3,
        make=change_bytes(0, header(b"NDims = 3", b"NDims 3")),
    ),
    Bad(
        title="values to be scaled",
        exit_code=3,
        make=change_bytes(0, header(SPACING, SPACING + b"\nElementToIntensityFunctionSlope = 2")),
    ),
    Bad(title="data file elsewhere", make=do(as_header("ElementDataFile = /etc/passwd")), exit_code=3),
    Bad(title="data file that is a link to elsewhere", make=do(data_link), exit_code=3),
    Bad(title="NRRD of another size", make=do(nrrd_line("sizes: 28 24 20", "sizes: 28 24 19")), exit_code=3),
    Bad(
        title="NRRD with an origin that is not a number",
        exit_code=3,
        make=do(nrrd_line("space origin: (0,0,0)", "space origin: (0,0,-232.n1)")),
    ),
    Bad(title="NIfTI with two positions that differ", make=do(nifti_field(276, "f", 50.0)), exit_code=3),
    Bad(title="NIfTI with two voxel sizes that differ", make=do(nifti_field(80, "f", 5.0)), exit_code=3),
    Bad(title="NIfTI without a position", make=do(nifti_field(252, "2h", 0, 0)), exit_code=3),
    Bad(
        title="NIfTI with a sheared sform", exit_code=3, make=do(nifti_field(252, "2h24x4f", 0, 1, -4.0, 0.0, 1.0, 0.0))
    ),
    Bad(title="NIfTI without a voxel size", make=do(nifti_field(88, "f", float("nan"))), exit_code=3),
    Bad(title="named pipe in place of an image", make=do(pipe), exit_code=3),
    Bad(title="control characters in a name", make=do(escapes), exit_code=3),
    Bad(title="one slice", make=change_image(0, lambda i: i[:, :, :1]), exit_code=3),
    Bad(title="output is a file", make=do(file_as_output), exit_code=5),
    Bad(title="read-only output", make=do(lambda f, pet, ct: ["--output", "/sys/output"]), exit_code=5),
    Bad(title="output holds another result", make=do(other_result), exit_code=5),
    Bad(title="input in the output folder", make=do(lambda f, pet, ct: ["--output", str(f / "input")]), exit_code=5),
    Bad(title="report where a folder is", make=do(report_in_a_folder), exit_code=5),
    Bad(
        title="report at the mask's path",
        exit_code=5,
        make=do(lambda f, pet, ct: ["--report", str(f / "output/images/automated-petct-lesion-segmentation/ct.mha")]),
    ),
    Bad(title="disk full", make=do(lambda f, pet, ct: []), exit_code=5, file_limit_bytes=20),
    Bad(title="weights are not there", make=do(lambda f, pet, ct: ["--weights", "absent"]), exit_code=4),
    Bad(title="damaged weights", make=bundle(damage_member), exit_code=4),
    Bad(title="unknown key in the manifest", make=bundle(edit_manifest(colour="red")), exit_code=4),
    Bad(
        title="impossible number in the manifest",
        exit_code=4,
        make=bundle(edit_manifest(crop={"suv_above": 10**400})),
    ),
    Bad(
        title="weights of another network",
        exit_code=4,
        make=bundle(edit_manifest(network={"fusion": "early", "widths": [8, 8, 16, 32, 64]})),
    ),
    Bad(
        title="DiWA of members with different starts",
        exit_code=2,
        make=lambda f: [*bundle(other_start)(f), "--method", "diwa"],
    ),
    Bad(title="unknown method", make=do(lambda f, pet, ct: ["--method", "soup"]), exit_code=2),
    Bad(
        title="unknown method in the environment",
        make=do(lambda f, pet, ct: []),
        exit_code=2,
        environment=(("LESION_METHOD", "soup"),),
    ),
    Bad(
        title="folds of a bundle that has none",
        make=do(lambda f, pet, ct: ["--weights", "eoa", "--folds", "0"]),
        exit_code=2,
    ),
    Bad(
        title="mirroring for networks of another kind",
        make=do(lambda f, pet, ct: ["--weights", "eoa", "--mirroring", "full"]),
        exit_code=2,
    ),
    Bad(
        title="folds in the environment that are none",
        make=do(lambda f, pet, ct: []),
        exit_code=2,
        environment=(("LESION_FOLDS", "first"),),
    ),
    Bad(title="organs by networks that know none", make=do(lambda f, pet, ct: ["--organs"]), exit_code=2),
    Bad(title="least volume below 0", make=do(lambda f, pet, ct: ["--min-volume-ml=-1"]), exit_code=2),
    Bad(title="unknown way to refine", make=do(lambda f, pet, ct: ["--refine", "40%"]), exit_code=2),
    Bad(title="reach of no refining", make=do(lambda f, pet, ct: ["--refine-within-mm", "5"]), exit_code=2),
    Bad(title="sphere of two coordinates", make=do(lambda f, pet, ct: ["--liver-sphere=-60,20"]), exit_code=2),
    Bad(title="sphere of 2 m", make=do(lambda f, pet, ct: ["--blood-sphere=-60,20,410,1000"]), exit_code=2),
    Bad(title="segmentation that is not there", make=do(lambda f, pet, ct: ["--liver-mask", "l.mha"]), exit_code=2),
    Bad(title="height in cm", make=do(lambda f, pet, ct: ["--height-m", "175"]), exit_code=2),
    Bad(title="unknown edition", make=do(lambda f, pet, ct: ["--edition", "6"]), exit_code=2),
    Bad(title="unknown limit", make=do(lambda f, pet, ct: ["--limit", "pet_max=2000"]), exit_code=2),
    Bad(title="impossible port", make=do(lambda f, pet, ct: ["--serve", "--port", "65536"]), exit_code=2),
    Bad(title="impossible address", make=do(lambda f, pet, ct: ["--serve", "--bind", "everywhere"]), exit_code=2),
    Bad(
        title="LESION_SERVE that is none of its values",
        make=do(lambda f, pet, ct: []),
        exit_code=2,
        environment=(("LESION_SERVE", "maybe"),),
    ),
    Bad(
        title="CUDA where there is none",
        make=do(lambda f, pet, ct: ["--device", "cuda"]),
        exit_code=2,
        environment=(("CUDA_VISIBLE_DEVICES", ""),),
    ),
]


def run(case: Bad) -> Outcome:
    """Run process.py on one bad input, in a folder of its own that is removed."""
    with tempfile.TemporaryDirectory(prefix="bad-input-") as name:
        folder = Path(name)
        extra = case.make(folder)
        arguments = ["--input", str(folder / "input"), *extra] if "--input" not in extra else extra
        kept = {p for p in folder.rglob("*") if "input" not in p.parts[len(folder.parts) :]}
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("LESION_", "AUTOPET_"))}
        words = (ROOT / "process.py", "--output", folder / "output", *arguments)
        env = clean | {"OMP_NUM_THREADS": "1"} | dict(case.environment)
        done = warm.run(*words, env=env, file_limit_bytes=case.file_limit_bytes)
        left = {p for p in folder.rglob("*") if p.is_file() and "input" not in p.parts[len(folder.parts) :]} - kept
        lines = done.stderr.strip().splitlines() or [""]
        return Outcome(
            exit_code=done.returncode,
            last_line=tidy(lines[-1], folder),
            stderr=done.stderr,
            left=tuple(sorted(str(p.relative_to(folder)) for p in left)),
        )


def run_all() -> list[Outcome]:
    return [run(case) for case in CASES]


PAGE = """# Errors

What the user reads for each kind of bad input: the last line on stderr, and the exit code. No output
file is left. `make docs` writes this page from `test/helpers/bad_inputs.py`; `test/test_errors.py`
compares it with what the program prints. FOLDER stands for the study's folder, REPOSITORY for the
repository, N for a number that depends on the machine.

Exit codes: 2 a setting or option, 3 the study, 4 the weights, 5 the output, 1 anything unexpected,
130 interrupted (SIGINT), 143 terminated (SIGTERM). `--debug` adds a traceback. Limits on values are
settings: `--limit NAME=VALUE` moves one for one run, a bundle's manifest for every run with it.

Some things are warnings, on stderr and in the report, and the mask is written: a PET maximum above
200 SUV, a CT that covers less than 99 % of the PET's uptake, a PET without foreground, and a
lesion-clicks.json that is not used.

An image may be a link to anywhere, as in studies that are folders of links. The data file that a
header (.mhd, .nrrd) names must lie in the header's folder or below it. If the header is itself a
link, the data file may also lie in the folder that the link leads to. An absolute path, or one with
.., is refused, and so is anything but a regular file. Control characters are shown as escapes.

| bad input | what the user reads | exit code |
|---|---|---|
"""


def table(outcomes: list[Outcome]) -> str:
    """docs/errors.md."""
    rows = [
        f"| {case.title} | {outcome.last_line.replace('|', chr(92) + '|')} | {outcome.exit_code} |"
        for case, outcome in zip(CASES, outcomes, strict=True)
    ]
    return PAGE + "\n".join(rows) + "\n"


def tidy(line: str, folder: Path) -> str:
    """The message without what differs from machine to machine and run to run."""
    for path in {str(folder), os.path.realpath(folder)}:
        line = line.replace(path, "FOLDER")
    line = line.replace(str(ROOT), "REPOSITORY")
    line = re.sub(r"[0-9.]+( GB are free| MB free)", r"N\1", line)
    line = re.sub("Operation not permitted|Read-only file system", "Permission denied", line)  # root
    line = re.sub(r"(names )[a-z, -]+(?=$|;)", r"\1N", line)
    return re.sub(r"sha256 [0-9a-f]{64}|says [0-9a-f]{64}", lambda m: m[0].split()[0] + " N", line)


if __name__ == "__main__":
    TABLE.write_text(table(run_all()), encoding="utf-8")
    print(f"wrote {TABLE}")
