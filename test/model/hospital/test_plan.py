"""Names that studies keep, and results of other runs that stay in the tables."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from tiny_batches import image_study

from model.bundle.manifest import load_bundle
from model.hospital.bundles import Bundles
from model.hospital.find.entry import Entry, FoundStudies
from model.hospital.job import Options
from model.hospital.journal import DONE, FAILED, Record, stat_of
from model.hospital.names import name_of
from model.hospital.plan import OTHER_WEIGHTS, make_plan, with_precision
from model.hospital.result_keys import with_keys

SALT = b"salt"


def entry(folder: Path, **changes) -> Entry:
    given = {
        "identity": "dicom:1.2",
        "also": ("csv:p | c",),
        "source": folder / "p",
        "kind": "dicom",
        "pet": (folder / "p" / "1",),
        "ct": (folder / "c" / "1",),
        "person": ("Müller^J", "7"),
    }
    return Entry(**given | changes)


def result(output: Path, name: str, bundle, **changes) -> Record:
    folder = output / "studies" / name
    folder.mkdir(parents=True)
    row = {"study": name, "lesions": 0, "mtv_ml": 0.0, "warnings": []}
    batch = {"key": "k", "input_sha256": "i", "stat": "t", "row": row} | changes
    (folder / "report.json").write_text(json.dumps({"weights": {"manifest_sha256": bundle.sha256}, "batch": batch}))
    return Record(study=name, state=DONE, key="k", input_sha256="i", stat="t", row=row)


def plan(output: Path, bundle, records, entries, root: Path = Path("/studies"), **options):
    return make_plan(
        FoundStudies(entries=tuple(entries)), root, output, SALT, records, Bundles(main=bundle), Options(**options)
    )


def test_a_study_that_was_named_by_its_row_of_a_csv_keeps_that_name(tiny_bundle, tmp_path) -> None:
    bundle, one = load_bundle(tiny_bundle), entry(tmp_path)
    by_row, by_uid = (name_of(one, SALT, identity=identity) for identity in ("csv:p | c", "dicom:1.2"))
    assert list(plan(tmp_path, bundle, {}, [one]).jobs) == [by_uid]
    failed = Record(study=by_row, state=FAILED, key="k")
    assert list(plan(tmp_path, bundle, {by_row: failed}, [one]).jobs) == [by_row]
    result(tmp_path, by_row, bundle)
    assert list(plan(tmp_path, bundle, {}, [one]).jobs) == [by_row]
    result(tmp_path, by_uid, bundle)
    assert list(plan(tmp_path, bundle, {}, [one]).jobs) == [by_uid]


def test_patients_who_share_a_uid_have_a_result_each(tiny_bundle, tmp_path) -> None:
    """FoundStudies one after the other, from two folders: the second does not take the first one's place."""
    bundle, one = load_bundle(tiny_bundle), entry(tmp_path, also=("dicom:1.2:7",))
    name = name_of(one, SALT)
    result(tmp_path, name, bundle)
    (tmp_path / "keys.csv").write_text(f"study,source,patient,patient_id\n{name},x,Müller^J,7\n")
    other = replace(one, person=("Maier^K", "8"), also=("dicom:1.2:8",))
    assert list(plan(tmp_path, bundle, {}, [one]).jobs) == [name]
    assert list(plan(tmp_path, bundle, {}, [other]).jobs) == [name_of(other, SALT, identity="dicom:1.2:8")]


def test_an_image_keeps_its_name_in_whatever_list_or_folder_it_is_found(tiny_bundle, tmp_path) -> None:
    bundle, name = load_bundle(tiny_bundle), "s-0123456789ab"
    files = {"pet": (tmp_path / "in" / "x_pet.mha",), "ct": (tmp_path / "in" / "x_ct.mha",)}
    one = entry(tmp_path, identity="csv:../in/x_pet.mha | ../in/x_ct.mha", also=(), kind="images", person=(), **files)
    other = replace(one, pet=(tmp_path / "lists" / ".." / "in" / "x_pet.mha",))
    (tmp_path / "keys.csv").write_text(f"study,source,pet,ct\n{name},x,{files['pet'][0]},{files['ct'][0]}\n")
    assert list(plan(tmp_path, bundle, {}, [one]).jobs) == [name_of(one, SALT)]  # nothing is there under that name
    result(tmp_path, name, bundle)
    for same in (one, other):
        assert list(plan(tmp_path, bundle, {}, [same]).jobs) == [name]
    assert list(plan(tmp_path, bundle, {}, [one], named=True).jobs) == ["p-0123456789ab"]
    assert list(plan(tmp_path, bundle, {}, [replace(one, ct=(tmp_path / "c",))]).jobs) == [name_of(one, SALT)]
    dicom = replace(one, kind="dicom", identity="dicom:1.9")  # another patient's, put into the old place
    assert list(plan(tmp_path, bundle, {}, [dicom]).jobs) == [name_of(dicom, SALT)]


def test_a_folder_whose_letters_were_written_otherwise_keeps_its_name(tiny_bundle, tmp_path) -> None:
    bundle, one = load_bundle(tiny_bundle), entry(tmp_path)
    new = name_of(one, SALT, named=True)
    old = new.replace("ü", "_")
    assert new.startswith("Müller_J_7_p-") and list(plan(tmp_path, bundle, {}, [one], named=True).jobs) == [new]
    record = result(tmp_path, old, bundle)
    assert list(plan(tmp_path, bundle, {old: record}, [one], named=True).jobs) == [old]
    assert list(plan(tmp_path, bundle, {old: record}, [one]).jobs) == [name_of(one, SALT)]  # without --names


def test_results_of_studies_that_this_run_does_not_find_are_kept(tiny_bundle, tmp_path) -> None:
    bundle, one = load_bundle(tiny_bundle), entry(tmp_path)
    here, gone, named = "s-0123456789ab", "s-ba9876543210", f"Smith-{name_of(one, SALT)[2:]}"
    records = {name: result(tmp_path, name, bundle) for name in (here, named)}
    records[gone] = replace(records[here], study=gone)  # its folder was removed
    made = plan(tmp_path, bundle, records, [one])
    assert list(made.earlier) == [here] and made.earlier[here].row["warnings"] == []
    other = plan(tmp_path, replace(bundle, sha256="0" * 64), records, [one])
    assert other.earlier[here].row["warnings"] == [OTHER_WEIGHTS]
    folds = plan(tmp_path, replace(bundle, changes=("folds 0",)), records, [one])
    assert folds.earlier[here].row["warnings"] == [OTHER_WEIGHTS]


def test_a_failure_is_kept_unless_its_study_was_looked_for_and_is_gone(tiny_bundle, tmp_path) -> None:
    bundle, name = load_bundle(tiny_bundle), "s-0123456789ab"
    (tmp_path / "keys.csv").write_text(f"study,source\n{name},/ward/7\n")
    records = {name: Record(study=name, state=FAILED, key="k", stage="read", message="m")}
    assert list(plan(tmp_path, bundle, records, [entry(tmp_path)], Path("/lists/two.csv")).earlier) == [name]
    assert plan(tmp_path, bundle, records, [entry(tmp_path)], Path("/ward")).earlier == {}
    (tmp_path / "keys.csv").write_text(f"study,source,found_in\n{name},/ward/7,/lists/two.csv\n")
    assert plan(tmp_path, bundle, records, [entry(tmp_path)], Path("/lists/two.csv")).earlier == {}  # its line is gone
    assert list(plan(tmp_path, bundle, records, [entry(tmp_path)], Path("/lists/one.csv")).earlier) == [name]


def scored(tmp_path: Path, bundle, made_in: str, older: bool = False) -> tuple[Entry, Path]:
    """A study of images with a whole result, as a run in this precision left it; older: before keys held it."""
    folder = image_study(tmp_path / "in" / "a")
    one = Entry(
        identity="images:a:a", source=folder, kind="images", pet=(folder / "a_pet.mha",), ct=(folder / "a_ct.mha",)
    )
    output = tmp_path / "out"
    (job,) = make_plan(
        FoundStudies(entries=(one,)), folder, output, SALT, {}, Bundles(main=bundle), Options(), "float32"
    ).todo
    job = with_keys(job, bundle, "float32" if older else made_in)
    target = output / "studies" / job.name
    target.mkdir(parents=True)
    (target / "mask.mha").write_bytes(b"")
    batch = {
        "key": job.key,
        "mask_key": job.mask_key,
        "input_sha256": "",
        "stat": stat_of(one.files),
        "images_stat": stat_of(one.images),
        "images_sha256": "",
        "options": asdict(Options()),
        "row": {"study": job.name, "warnings": []},
    }
    run = {"precision": made_in} | ({} if older else {"passes_a_window": 2})
    on_gpu = {"peak_gpu_memory_bytes": 7 if made_in == "float16" else None}
    (target / "report.json").write_text(json.dumps({"run": run, "batch": batch} | on_gpu))
    return one, output


@pytest.mark.parametrize(
    ("made_in", "older"),
    [("float32", False), ("float16", False), ("bfloat16", False), ("float32", True), ("float16", True)],
)
@pytest.mark.parametrize("wanted", ["auto", "float32", "float16", "bfloat16"])
def test_a_study_is_scored_anew_only_for_a_precision_that_was_asked_for(
    tiny_bundle, tmp_path, made_in: str, wanted: str, older: bool
) -> None:
    bundle = load_bundle(tiny_bundle)
    one, output = scored(tmp_path, bundle, made_in, older)
    entries = FoundStudies(entries=(one,))
    same = wanted in ("auto", made_in)
    made = make_plan(entries, one.source, output, SALT, {}, Bundles(main=bundle), Options(), wanted)
    assert list(made.done) == (list(made.jobs) if same else [])
    again = make_plan(
        entries, one.source, output, SALT, made.done, Bundles(main=bundle), Options(), wanted
    )  # by the journal's line
    assert list(again.done) == list(made.done) and again.not_in_journal == ()
    (added,) = make_plan(
        entries, one.source, output, SALT, {}, Bundles(main=bundle), Options(convention="autopet_3"), wanted
    ).todo
    assert bool(added.stored) == same
    if same:  # so that the SEG of the mask keeps its UIDs
        assert added.mask_key == with_keys(added, bundle, "float32" if older else made_in).mask_key


@pytest.mark.parametrize(
    ("wanted", "taken"), [("auto", True), ("float32", False), ("float16", True), ("bfloat16", False)]
)
def test_the_oldest_results_which_have_one_key_were_made_in_float16_on_a_gpu(
    tiny_bundle, tmp_path, wanted: str, taken: bool
) -> None:
    bundle = load_bundle(tiny_bundle)
    one, output = scored(tmp_path, bundle, "float16", older=True)
    (path,) = output.glob("studies/*/report.json")
    report = json.loads(path.read_text())
    del report["batch"]["mask_key"]
    path.write_text(json.dumps(report))
    options = Options(convention="autopet_3")
    (job,) = make_plan(
        FoundStudies(entries=(one,)), one.source, output, SALT, {}, Bundles(main=bundle), options, wanted
    ).todo
    assert bool(job.stored) == taken


def test_only_jobs_that_need_the_networks_get_the_keys_of_the_runs_precision(tiny_bundle, tmp_path) -> None:
    bundle = load_bundle(tiny_bundle)
    one, output = scored(tmp_path, bundle, "float16")
    other = replace(one, identity="images:b:b", pet=one.ct, ct=one.pet)
    options = Options(convention="autopet_3")
    made = make_plan(FoundStudies(entries=(one, other)), one.source, output, SALT, {}, Bundles(main=bundle), options)
    assert [bool(job.stored) for job in made.todo] == [True, False]
    stored, new = with_precision(made, Bundles(main=bundle), "bfloat16").todo
    assert stored == made.todo[0] == with_keys(stored, bundle, "float16")
    assert new == with_keys(made.todo[1], bundle, "bfloat16") != made.todo[1]
    assert with_precision(made, Bundles(main=bundle), "auto") == made


def test_other_folds_or_mirroring_make_another_mask(tiny_bundle, tmp_path) -> None:
    bundle = load_bundle(tiny_bundle)
    one, output = scored(tmp_path, bundle, "float32")
    other = replace(bundle, changes=("folds 0",))
    made = make_plan(FoundStudies(entries=(one,)), one.source, output, SALT, {}, Bundles(main=other), Options())
    assert made.done == {} and [job.stored for job in made.todo] == [""]
