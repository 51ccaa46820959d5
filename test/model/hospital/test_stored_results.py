"""Which results are a study's, and whether its mask is still the one that would be made."""

import dataclasses
import hashlib
import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_batches import image_study

from model import __version__
from model.bundle.manifest import load_bundle
from model.bundle.settings import Limits
from model.hospital.find.entry import Entry
from model.hospital.job import Job, Options, job_from, to_json
from model.hospital.journal import contents_of, stat_of
from model.hospital.result_keys import key_of, mask_key_of
from model.hospital.stored_results import mask_hash, precision_in, read_stored, usable_mask
from model.results.organs import labels_hash
from model.results.rule_options import LesionRules
from model.schema import build, to_plain
from model.study.geometry import grid_of

NAME = "s-0123456789ab"
FIRST_OPTIONS = ("mask_ending", "rtstruct", "disagreement", "convention", "named")  # in the order of their keys


@pytest.fixture
def study(tiny_bundle, tmp_path):
    """A study of images, its bundle, and a result as score.py wrote it before there were two keys."""
    folder = image_study(tmp_path / "in" / "a")
    entry = Entry(
        identity="images:a:a", source=folder, kind="images", pet=(folder / "a_pet.mha",), ct=(folder / "a_ct.mha",)
    )
    bundle = load_bundle(tiny_bundle)
    pet = sitk.ReadImage(str(entry.pet[0]))
    mask = sitk.Cast(pet > 2, sitk.sitkUInt8)
    target = tmp_path / "out" / "studies" / NAME
    target.mkdir(parents=True)
    sitk.WriteImage(mask, str(target / "mask.mha"), True)
    batch = {
        "key": old_key(bundle, Options(), entry),
        "input_sha256": contents_of(entry.files),
        "stat": stat_of(entry.files),
        "options": {name: getattr(Options(), name) for name in FIRST_OPTIONS},
        "row": {},
    }
    voxels = sitk.GetArrayFromImage(mask)
    volume_ml = float(voxels.sum()) * float(np.prod(pet.GetSpacing())) / 1000
    (target / "report.json").write_text(json.dumps({"volume_ml": volume_ml, "warnings": [], "batch": batch}))
    return entry, bundle, tmp_path / "out", voxels


def old_key(bundle, options: Options, entry: Entry) -> str:
    """The key as it was before there were overrides and organs: written down here once more."""
    limits = to_plain(bundle.manifest.limits)
    depends = [
        __version__,
        bundle.sha256,
        bundle.manifest.method,
        limits,
        {name: getattr(options, name) for name in FIRST_OPTIONS},
        entry.kind,
        len(entry.pet),
        entry.truth is not None,
        entry.weight_kg,
    ]
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()


def job_of(entry: Entry, bundle, output: Path, **options) -> Job:
    limits = bundle.manifest.limits
    chosen = Options(**options)
    return Job(
        name=NAME,
        entry=entry,
        root=output.parent,
        output=output,
        options=chosen,
        stored=NAME,
        key=key_of(bundle, limits, chosen, entry),
        mask_key=mask_key_of(bundle, limits, entry),
    )


def new_report(output: Path, job: Job, mask: np.ndarray, **changes) -> None:
    path = output / "studies" / NAME / "report.json"
    report = json.loads(path.read_text())
    report["batch"] |= {
        "mask_key": job.mask_key,
        "mask_sha256": mask_hash(mask),
        "images_stat": stat_of(job.entry.images),
        "images_sha256": contents_of(job.entry.images),
    } | changes
    path.write_text(json.dumps(report))


def test_keys_of_older_results_do_not_change(study) -> None:
    entry, bundle, _, _ = study
    assert key_of(bundle, bundle.manifest.limits, Options(rtstruct=True), entry) == old_key(
        bundle, Options(rtstruct=True), entry
    )


def test_asking_for_organs_is_another_key_and_the_same_mask(study) -> None:
    entry, bundle, output, _ = study
    plain, organs = (job_of(entry, bundle, output, organs=asked) for asked in (False, True))
    assert plain.key != organs.key and plain.mask_key == organs.mask_key


def test_a_mask_without_its_organ_map_is_usable_only_without_organs(study) -> None:
    entry, bundle, output, mask = study
    job, plain = job_of(entry, bundle, output, organs=True), job_of(entry, bundle, output)
    labels = (mask * 3).astype(np.uint8)
    new_report(output, job, mask)
    assert usable_mask(plain, NAME, bundle) and not usable_mask(job, NAME, bundle)
    new_report(output, job, mask, organs_sha256=labels_hash(labels))
    assert usable_mask(plain, NAME, bundle) and not usable_mask(job, NAME, bundle)
    path = output / "studies" / NAME / "organs.mha"
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(sitk.ReadImage(str(entry.pet[0])))
    sitk.WriteImage(image, str(path), True)
    assert usable_mask(job, NAME, bundle)
    stored = read_stored(job, stored_grid(entry), contents_of(entry.images))
    assert stored is not None and np.array_equal(stored.organs, labels)
    sitk.WriteImage(image * 2, str(path), True)  # edited since
    assert read_stored(job, stored_grid(entry), contents_of(entry.images)) is None
    without = read_stored(plain, stored_grid(entry), contents_of(entry.images))
    assert without is not None and without.organs is None


def test_a_masks_key_holds_what_decides_the_mask_and_no_option_that_adds_outputs(study) -> None:
    entry, bundle, _, _ = study
    limits = bundle.manifest.limits
    key = mask_key_of(bundle, limits, entry)
    for same in (dataclasses.replace(entry, truth=Path("t.mha")), dataclasses.replace(entry, height_m=1.8)):
        assert mask_key_of(bundle, limits, same) == key
        assert key_of(bundle, limits, Options(), same) != key_of(bundle, limits, Options(), entry)
    others = [
        mask_key_of(bundle, limits, dataclasses.replace(entry, **given))
        for given in (
            {"weight_kg": 70.0},
            {"dose_mbq": 300.0},
            {"injection_time": "10:00:00"},
            {"dose_mbq": 301.0},
        )
    ]
    others += [mask_key_of(bundle, Limits(pet_max_suv=2000.0), entry)]
    others += [mask_key_of(dataclasses.replace(bundle, sha256="0" * 64), limits, entry)]
    others += [
        mask_key_of(dataclasses.replace(bundle, changes=(word,)), limits, entry) for word in ("folds 0", "folds 1")
    ]
    others += [mask_key_of(bundle, limits, entry, precision) for precision in ("float16", "bfloat16")]
    assert len({key, *others}) == 1 + len(others)
    assert mask_key_of(bundle, limits, entry, "float32") == key


def test_a_masks_key_is_the_one_that_older_versions_made(monkeypatch) -> None:
    """Written down from the version in which limits were dataclasses; a whole number in a manifest stays one."""
    monkeypatch.setattr("model.hospital.result_keys.__version__", "1.0.0")
    entry = Entry(identity="images:a:a", source=Path("a"), kind="images", pet=(Path("p"),), ct=(Path("c"),))
    bundle = SimpleNamespace(sha256="0" * 64, manifest=SimpleNamespace(method="eoa"), changes=())
    moved = build(Limits, {"pet_max_suv": 2000, "ct_max_hu": 3071.0}, "limits")
    assert mask_key_of(bundle, Limits(), entry) == "8f3e53d1ed9907954ecdf1d6fd3bbab61bd5dad811d28bcf772c1a705fbc9bb2"
    assert mask_key_of(bundle, moved, entry) == "04de297a73d9fbddb59e982da585f270f916c406010d3110f5adcd750b63bc9c"


def stored_grid(entry: Entry):
    return grid_of(sitk.ReadImage(str(entry.pet[0])))


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"rtstruct": True}, {"named": True}, {"mask_ending": ".nii.gz"}, {"convention": "autopet_3"}]
)
def test_options_that_add_outputs_take_the_mask_that_is_there(options: dict, new: bool, study) -> None:
    entry, bundle, output, mask = study
    job = job_of(entry, bundle, output, **options)
    if new:
        new_report(output, job, mask)
    assert usable_mask(job, NAME, bundle)
    stored = read_stored(job, stored_grid(entry), contents_of(entry.images))
    assert stored is not None
    np.testing.assert_array_equal(stored.mask, mask == 1)
    if new:
        assert read_stored(job, stored_grid(entry), "0" * 64) is None


def test_the_mask_is_read_from_the_usable_folder_even_if_the_study_has_another_name_now(study) -> None:
    entry, bundle, output, mask = study
    job = job_of(entry, bundle, output)
    new_report(output, job, mask)
    other = output / "studies" / f"Doe-{NAME[2:]}"  # of other weights: a whole result, and another mask
    shutil.copytree(output / "studies" / NAME, other)
    image = sitk.ReadImage(str(other / "mask.mha"))
    sitk.WriteImage(image * 0, str(other / "mask.mha"))
    report = json.loads((other / "report.json").read_text())
    report["batch"] |= {"mask_key": "another", "mask_sha256": mask_hash(mask * 0)}
    (other / "report.json").write_text(json.dumps(report))
    named = dataclasses.replace(job, name=other.name, stored=NAME)
    stored = read_stored(named, stored_grid(entry), contents_of(entry.images))
    assert stored is not None and stored.path.parent.name == NAME
    np.testing.assert_array_equal(stored.mask, mask == 1)


@pytest.mark.parametrize("new", [False, True])
def test_a_mask_of_other_images_weights_or_limits_is_not_taken(new: bool, study) -> None:
    entry, bundle, output, mask = study
    job = job_of(entry, bundle, output)
    if new:
        new_report(output, job, mask)
    other = dataclasses.replace(bundle, sha256="0" * 64)
    assert not usable_mask(job_of(entry, other, output), NAME, other)
    assert not usable_mask(job_of(dataclasses.replace(entry, weight_kg=70.0), bundle, output), NAME, bundle)
    assert not usable_mask(job_of(entry, bundle, output, disagreement=True), NAME, bundle)  # no map is there
    assert not usable_mask(job, "s-ffffffffffff", bundle)
    entry.pet[0].write_bytes(entry.pet[0].read_bytes() + b" ")
    assert not usable_mask(job, NAME, bundle)


def test_a_truth_that_is_added_or_changed_leaves_the_mask(study) -> None:
    entry, bundle, output, mask = study
    truth = entry.source / "a_truth.mha"
    truth.write_bytes(b"x")
    job = job_of(dataclasses.replace(entry, truth=truth), bundle, output)
    assert usable_mask(job, NAME, bundle)
    new_report(output, job, mask)
    truth.write_bytes(b"another")
    assert usable_mask(job, NAME, bundle)


@pytest.mark.parametrize("new", [False, True])
@pytest.mark.parametrize("how", ["edited", "damaged", "gone", "elsewhere"])
def test_a_mask_that_differs_from_its_report_is_made_anew(how: str, new: bool, study) -> None:
    entry, bundle, output, mask = study
    job = job_of(entry, bundle, output)
    if new:
        new_report(output, job, mask)
    path = output / "studies" / NAME / "mask.mha"
    image = sitk.ReadImage(str(path))
    if how == "edited":
        image[0, 0, 0] = 1 - image[0, 0, 0]
        sitk.WriteImage(image, str(path), True)
    elif how == "elsewhere":
        image.SetOrigin((1.0, 2.0, 3.0))
        sitk.WriteImage(image, str(path), True)
    elif how == "damaged":
        path.write_bytes(path.read_bytes()[:-20])
    else:
        path.unlink()
    assert read_stored(job, stored_grid(entry), contents_of(entry.images)) is None


@pytest.mark.parametrize(
    ("report", "precision"),
    [
        (None, ""),
        ({}, ""),
        ({"run": {"precision": "float32"}, "peak_gpu_memory_bytes": None}, "float32"),
        ({"run": {"precision": "float16"}, "peak_gpu_memory_bytes": 5}, "float16"),
        ({"run": {"precision": "float32"}, "peak_gpu_memory_bytes": 5}, "float16"),  # an older one that left the GPU
        ({"run": {"precision": "float32", "passes_a_window": 1}, "peak_gpu_memory_bytes": 5}, "float32"),
        ({"run": {"precision": "bfloat16", "passes_a_window": 1}, "peak_gpu_memory_bytes": None}, "bfloat16"),
    ],
)
def test_the_precision_of_a_mask_is_read_from_its_report(report, precision) -> None:
    assert precision_in(report) == precision


def test_rules_about_lesions_are_another_key_and_the_networks_own_mask_is_taken(study) -> None:
    """With rules mask.mha is no longer the networks': theirs is beside it, and every other rule is applied to it."""
    entry, bundle, output, mask = study
    rules = LesionRules(min_volume_ml=1.5, not_in=("brain",))
    plain, ruled = job_of(entry, bundle, output), job_of(entry, bundle, output, rules=rules)
    assert plain.key != ruled.key and plain.mask_key == ruled.mask_key
    assert job_from(json.loads(to_json(ruled))) == ruled
    fewer = mask.copy()
    fewer[: len(mask) // 2] = 0
    new_report(output, ruled, fewer, network_mask_sha256=mask_hash(mask), options=ruled.options.plain)
    assert not usable_mask(plain, NAME, bundle)  # the networks' mask is not there
    folder = output / "studies" / NAME
    shutil.copy(folder / "mask.mha", folder / "network-mask.mha")
    assert usable_mask(plain, NAME, bundle) and usable_mask(ruled, NAME, bundle)
    stored = read_stored(plain, stored_grid(entry), contents_of(entry.images))
    assert stored is not None and np.array_equal(stored.mask, mask > 0) and stored.path.name == "network-mask.mha"


def test_what_lesions_are_compared_with_is_another_key_and_the_same_mask(study) -> None:
    entry, bundle, _, _ = study
    limits = bundle.manifest.limits
    keys = {key_of(bundle, limits, Options(), entry)}
    for given in ({"sex": "F"}, {"liver_sphere": "1,2,3"}, {"blood_sphere": "1,2,3"}, {"liver_mask": Path("l.mha")}):
        other = dataclasses.replace(entry, **given)
        assert mask_key_of(bundle, limits, other) == mask_key_of(bundle, limits, entry)
        keys.add(key_of(bundle, limits, Options(), other))
    assert len(keys) == 5
