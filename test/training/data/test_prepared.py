import errno
import json
import resource
import subprocess
import sys
from dataclasses import replace

import pytest
import SimpleITK as sitk
from conftest import ROOT

from model.bundle.settings import Crop
from model.errors import ConfigError
from training.data import prepared
from training.data.prepare import prepare_all, prepare_one
from training.data.prepared import crop_of, digest_of, load
from training.data.table import read_table, study_sha256, write_table


def test_equal_studies_have_one_digest_wherever_the_cache_lies(tiny_studies, tmp_path) -> None:
    for place in "ab":
        prepare_all(tiny_studies[:2], tmp_path / place, Crop(), workers=1)
    prepare_all(tiny_studies[:2], tmp_path / "c", Crop(suv_above=0.5), workers=1)
    digests = [digest_of(load(tmp_path / place, case) for case in ("case0", "case1")) for place in "abc"]
    assert digests[0] == digests[1] != digests[2] and digest_of([load(tmp_path / "a", "case0")]) != digests[0]


def test_a_computed_study_is_the_same_though_a_processor_rounds_a_voxel_otherwise(tiny_studies, tmp_path) -> None:
    """Of a measured study each bit counts; of a computed one, how it was made."""
    made = replace(tiny_studies[0], made="phantoms 1")
    pet = sitk.ReadImage(str(made.pet))
    sitk.WriteImage(pet + 1e-6, str(tmp_path / "pet.mha"), True)
    sha256 = study_sha256(tmp_path / "pet.mha", made.ct, made.truth)
    rounded = replace(made, pet=tmp_path / "pet.mha", sha256=sha256)
    measured = replace(rounded, made="")
    of_another_version = replace(made, made="phantoms 2")
    digests = []
    for place, study in enumerate((made, rounded, of_another_version, tiny_studies[0], measured)):
        prepare_one(study, tmp_path / str(place), Crop())
        digests.append(digest_of([load(tmp_path / str(place), study.case)]))
    assert digests[0] == digests[1] and len({*digests}) == 4
    write_table([made], tmp_path / "index.csv")
    assert read_table(tmp_path / "index.csv")["case0"].made == "phantoms 1"


def test_a_damaged_or_older_cache_is_refused(tiny_studies, tmp_path) -> None:
    prepare_one(tiny_studies[0], tmp_path, Crop(suv_above=0.5))
    assert crop_of(tmp_path, "case0") == Crop(suv_above=0.5)
    (tmp_path / "case0/suv.npy").write_bytes(b"no array")
    with pytest.raises(ConfigError, match="is damaged"):
        load(tmp_path, "case0")
    facts = json.loads((tmp_path / "case0/study.json").read_text())
    (tmp_path / "case0/study.json").write_text(json.dumps(facts | {"format": 0}))
    with pytest.raises(ConfigError, match="no prepared study of this version"):
        load(tmp_path, "case0")


def test_more_studies_can_be_opened_than_the_usual_limit_lets(tiny_cache) -> None:
    """In a process of its own, whose soft limit of 64 files would not hold 40 studies of three."""
    code = (
        "import resource, sys, pathlib\n"
        "resource.setrlimit(resource.RLIMIT_NOFILE, (64, resource.getrlimit(resource.RLIMIT_NOFILE)[1]))\n"
        "from training.data.prepared import load\n"
        "print(len([load(pathlib.Path(sys.argv[1]), 'case0') for _ in range(40)]))\n"
    )
    assert resource.getrlimit(resource.RLIMIT_NOFILE)[1] > 3 * 40
    ran = subprocess.run([sys.executable, "-c", code, str(tiny_cache)], capture_output=True, text=True, cwd=ROOT)
    assert ran.stdout.strip() == "40", ran.stderr


def test_too_many_open_files_are_not_taken_for_damage(tiny_cache, monkeypatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(prepared.np, "load", full)
    with pytest.raises(ConfigError, match="raise its hard limit"):
        load(tiny_cache, "case0")
