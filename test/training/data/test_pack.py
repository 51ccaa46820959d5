"""Prepared studies in a file that travels: bit for bit, in any order, and nothing that leads out of the cache."""

import json
import lzma
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_studies import lesion_study

from model.bundle.settings import Crop
from model.errors import ConfigError
from training.data.pack import ABOUT, decoded, read_pack, unpack, write_pack
from training.data.prepare import prepare_one
from training.data.prepared import POINTS, digest_of, load
from training.data.table import study_sha256

SOURCE = {"copies": 1, "seed": 0, "site": "sts"}
KINDS = {"case0": "real", "case0-r0": "copy", "case1": "phantom", "case2": "phantom"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Studies, cache and pack of a patient with a copy, and two phantoms."""
    folder = tmp_path_factory.mktemp("pack")
    studies = [lesion_study(folder, seed, lesions=2) for seed in range(3)]
    paths = {name: folder / f"copy-{name}.mha" for name in ("pet", "ct", "truth")}
    for name, path in paths.items():
        sitk.WriteImage(sitk.Crop(sitk.ReadImage(str(getattr(studies[0], name))), [3, 2, 1], [2, 0, 4]), str(path))
    studies.insert(1, replace(studies[0], case="case0-r0", **paths, sha256=study_sha256(*paths.values())))
    (folder / "cache").mkdir()
    for study in studies:
        prepare_one(study, folder / "cache", Crop())
    groups = [studies[:2], *([one] for one in studies[2:])]
    assert write_pack(folder / "p.pack", groups, KINDS, folder / "cache", SOURCE, Crop(), 1e9) == []
    return studies, folder / "cache", folder / "p.pack"


def test_a_pack_gives_back_the_cache_bit_for_bit(made, tmp_path) -> None:
    """Arrays, points, and the sha256 of study.json: so a run goes on with what was unpacked."""
    studies, cache, path = made
    pack = read_pack(path)
    assert pack.kinds == KINDS and pack.source == SOURCE
    unpack(pack, tmp_path, Crop(), KINDS)
    for study in studies:
        before, after = load(cache, study.case), load(tmp_path, study.case)
        for name in ("hu", "suv", "truth", *POINTS):
            one, other = getattr(before, name), getattr(after, name)
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), (study.case, name)
        assert before.sha256 == after.sha256 and before.spacing_mm == after.spacing_mm
        row = pack.studies[study.case]
        assert replace(row, pet=study.pet, ct=study.ct, truth=study.truth) == study and not row.pet.is_absolute()
    every = [[load(where, case) for case in KINDS] for where in (cache, tmp_path)]
    assert digest_of(every[0]) == digest_of(every[1])


def test_every_float16_survives_the_planes_of_bytes() -> None:
    """All 65536 patterns in one row, NaN and infinity too, against bytes laid out by hand: high bytes, then low."""
    bits = np.arange(65536, dtype=np.uint16)[::-1].copy()
    steps = [(int(bits[n]) - (int(bits[n - 1]) if n else 0)) % 65536 for n in range(len(bits))]
    planes = bytes(step >> 8 for step in steps) + bytes(step & 255 for step in steps)
    hu, suv, truth = decoded(bytes(2 * 65536) + planes + b"\x80" + bytes(8191), (1, 1, 65536), 65536)
    assert np.array_equal(suv.view(np.uint16).ravel(), bits)
    assert not hu.any() and truth.ravel()[0] and truth.sum() == 1


def test_a_copy_costs_little_beside_its_original(made, tmp_path) -> None:
    studies, cache, _ = made
    sizes = []
    for name, groups in (("one", [studies[:1]]), ("both", [studies[:2]])):
        write_pack(tmp_path / name, groups, KINDS, cache, SOURCE, Crop(), 1e9)
        sizes.append(zipfile.ZipFile(tmp_path / name).getinfo("group-0000.xz").file_size)
    assert sizes[1] < 1.5 * sizes[0]


def test_phantoms_that_do_not_fit_are_left_out_and_patients_must_fit(made, tmp_path) -> None:
    studies, cache, path = made
    sizes = {name: item.file_size for name, item in zipfile.ZipFile(path).NameToInfo.items()}
    most = path.stat().st_size - sizes["group-0001.xz"] - 300  # 300: a row of pack.json has more
    groups = [studies[:2], [studies[2]] * 2, [studies[3]]]  # the middle one is too large
    (tmp_path / ".partial-1.pack").write_bytes(b"of a pack that was killed")
    assert write_pack(tmp_path / "p", groups, KINDS, cache, SOURCE, Crop(), most) == ["case1", "case1"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]
    assert set(read_pack(tmp_path / "p").studies) == {"case0", "case0-r0", "case2"}
    assert (tmp_path / "p").stat().st_size <= most
    with pytest.raises(ConfigError, match=r"real studies alone have more than --most-mb .* raise it"):
        write_pack(tmp_path / "q", groups, KINDS, cache, SOURCE, Crop(), 1000)
    assert not (tmp_path / "q").exists()


def test_a_pack_of_another_crop_is_refused(made, tmp_path) -> None:
    with pytest.raises(
        ConfigError, match=r"prepared with the crop \{'suv_above': 0.0.*the plan has \{'suv_above': 0.2"
    ):
        unpack(read_pack(made[2]), tmp_path, Crop(suv_above=0.2), KINDS)
    assert not list(tmp_path.iterdir())


def changed(path: Path, target: Path, change) -> Path:
    """A copy of a pack; change(about, members) changes its content."""
    with zipfile.ZipFile(path) as file:
        members = {name: file.read(name) for name in file.namelist()}
    about = json.loads(members[ABOUT])
    change(about, members)
    members[ABOUT] = json.dumps(about).encode()
    with zipfile.ZipFile(target, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)
    return target


def name_outside(about, members) -> None:
    about["groups"][0]["studies"][0]["row"]["case"] = "../outside"


def name_huge(about, members) -> None:
    about["groups"][0]["studies"][0]["shape"] = [2**20, 2**20, 2**20]


def flip_bit(about, members) -> None:
    members["group-0000.xz"] = members["group-0000.xz"][:-9] + b"x" + members["group-0000.xz"][-8:]


def swell(about, members) -> None:
    """More bytes than the shapes have, with a sha256 that fits."""
    import hashlib

    members["group-0000.xz"] = lzma.compress(bytes(10**7))
    about["groups"][0]["sha256"] = hashlib.sha256(members["group-0000.xz"]).hexdigest()


def other_version(about, members) -> None:
    about["cache_format"] += 1


def other_study(about, members) -> None:
    about["groups"][0]["studies"][0]["row"]["sha256"] = "0" * 64


def other_patient(about, members) -> None:
    """Whoever divides by the row would not know whose study it is."""
    about["groups"][0]["studies"][0]["row"]["patient"] = "somebody"


def no_spacing(about, members) -> None:
    facts = json.loads(about["groups"][0]["studies"][0]["facts"])
    del facts["spacing_mm"]
    about["groups"][0]["studies"][0]["facts"] = json.dumps(facts)


def cut_facts(about, members) -> None:
    about["groups"][0]["studies"][0]["facts"] = about["groups"][0]["studies"][0]["facts"][:20]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (name_outside, r"'\.\./outside', which is no name of a folder"),
        (name_huge, "is none of a study"),
        (flip_bit, "group-0000.xz has another sha256"),
        (swell, "has not .* bytes"),
        (other_version, "pack of another version"),
        (other_study, "its study.json is of another study"),
        (other_patient, "its study.json is of another study"),
        (no_spacing, r"its study.json is damaged \('spacing_mm'\)"),
        (cut_facts, "its study.json is damaged"),
    ],
)
def test_a_pack_that_is_damaged_or_made_to_harm_is_refused(change, message, made, tmp_path) -> None:
    path = changed(made[2], tmp_path / "bad.pack", change)
    with pytest.raises(ConfigError, match=message):
        unpack(read_pack(path), tmp_path / "cache", Crop(), ["case0"])
    assert not (tmp_path / "outside").exists() and not (tmp_path / "cache/case0").exists()


def test_what_is_no_pack_is_said_so(tmp_path) -> None:
    (tmp_path / "text").write_text("text")
    for path, message in ((tmp_path / "text", "is no pack, or damaged"), (tmp_path / "gone", "cannot read the pack")):
        with pytest.raises(ConfigError, match=message):
            read_pack(path)


def test_a_study_that_is_in_the_cache_is_not_unpacked_again(made, tmp_path) -> None:
    _, cache, path = made
    shutil.copytree(cache, tmp_path / "cache")
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")}
    unpack(read_pack(path), tmp_path / "cache", Crop(), KINDS)
    assert {file: file.stat().st_mtime_ns for file in (tmp_path / "cache").rglob("*.npy")} == before
