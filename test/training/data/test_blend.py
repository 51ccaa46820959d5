import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from found_studies import image
from scipy import ndimage

from model.bundle.settings import Crop
from model.errors import CaseError, ConfigError
from training.__main__ import main
from training.data.blend import Blend, blend
from training.data.folds import Fold, make_fold
from training.data.places import find_place, inside_body
from training.data.prepare import LIMITS, prepare_one
from training.data.prepared import load
from training.data.table import Study, read_table, study_sha256, write_table
from training.data.tumours import MARGIN_MM, put, quieted, take, weights
from training.judging.leakage import check_apart, seen_with

BODY_SHAPE, BODY_MM = (60, 50, 70), (4.0, 4.0, 4.0)  # (z, y, x); spacing (x, y, z)
TUMOUR_SUV = 9.0


def ball(shape: tuple[int, int, int], radius_mm: float, spacing: tuple[float, float, float], centre=None) -> np.ndarray:
    middle = centre or [(n - 1) / 2 for n in shape]
    far = sum(((grid - m) * s) ** 2 for grid, m, s in zip(np.indices(shape), middle, spacing[::-1], strict=True))
    return (far <= radius_mm**2).astype(np.uint8)


def row(folder: Path, case: str, patient: str, images: dict[str, sitk.Image], lesion_ml: float) -> Study:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{case}-{what}.nii.gz" for what in ("pet", "ct", "truth")]
    for path, what in zip(paths, ("pet", "ct", "truth"), strict=True):
        sitk.WriteImage(images[what], str(path), True)
    return Study(
        case=case,
        patient=patient,
        diagnosis="sarcoma",
        tracer="FDG",
        site="sts",
        pet=paths[0],
        ct=paths[1],
        truth=paths[2],
        lesion_ml=lesion_ml,
        sha256=study_sha256(*paths),
    )


def patient_images(radius_mm: float = 22.0) -> dict[str, sitk.Image]:
    """A ball of uptake that rises along x, in an image of 5 x 5 x 3.3 mm voxels that ends 50 mm from it."""
    spacing = (5.0, 5.0, 3.3)
    shape = tuple(int(2 * (radius_mm + 50) / s) for s in spacing[::-1])
    truth = ball(shape, radius_mm, spacing)
    z, y, x = np.indices(shape)
    suv = np.where(truth, TUMOUR_SUV + 0.2 * (x - (shape[2] - 1) / 2), 1.0).astype(np.float32)
    ct = np.full(shape, 45, np.int16)
    ct[:, :2] = -1000  # air, far from the tumour
    arrays = {"pet": suv, "ct": ct, "truth": truth}
    return {what: image(array, spacing, (10.0, -40.0, 300.0)) for what, array in arrays.items()}


def body_images(lesion: bool = True) -> dict[str, sitk.Image]:
    """A cylinder of water along z with a lesion of its own near one end."""
    rng = np.random.default_rng(8)
    z, y, x = np.indices(BODY_SHAPE)
    inside = ((y - 24.5) / 22) ** 2 + ((x - 34.5) / 32) ** 2 < 1
    own = ball(BODY_SHAPE, 10, BODY_MM, (7, 25, 35)) * lesion
    pet = np.where(inside, rng.gamma(4, 0.2, BODY_SHAPE), 0.0).astype(np.float32) + 5 * own.astype(np.float32)
    ct = np.where(inside, rng.normal(40, 5, BODY_SHAPE), -1000).astype(np.int16)
    return {what: image(array, BODY_MM) for what, array in (("pet", pet), ("ct", ct), ("truth", own.astype(np.uint8)))}


def indexes(folder: Path) -> tuple[Path, Path]:
    patients = [row(folder, f"S{n}", f"patient{n}", patient_images(18.0 + n), 30.0) for n in range(2)]
    bodies = [row(folder, f"Ap00000{n}", f"phantom-00000{n}", body_images(bool(n)), 4.0) for n in range(2)]
    write_table(patients, folder / "patients.csv")
    write_table(bodies, folder / "bodies.csv")
    return folder / "patients.csv", folder / "bodies.csv"


def run(patients: Path, bodies: Path, output: Path, *arguments: object) -> int:
    words = ["--patients", patients, "--bodies", bodies, "--output", output, "--seed", 3, "--workers", 1, *arguments]
    return main(["blend", *map(str, words)])


@pytest.fixture(scope="module")
def shared(tmp_path_factory) -> tuple[Path, Path, Path]:
    """Two indexes, and the folder of the studies made of them, one a patient."""
    folder = tmp_path_factory.mktemp("blend")
    made = indexes(folder)
    assert run(*made, folder / "out") == 0
    return *made, folder / "out"


def arrays_of(study: Study) -> list[np.ndarray]:
    return [sitk.GetArrayFromImage(sitk.ReadImage(str(path))) for path in (study.pet, study.ct, study.truth)]


def blended(mirrored: bool = False):
    """The patient's tumour in the middle of the body: its images, the body's, and the tumour alone."""
    body = tuple(body_images().values())
    at = np.array(body[0].TransformIndexToPhysicalPoint((35, 25, 33)))
    made = put(take(*patient_images().values()), body, at, mirrored)
    before, after = ([sitk.GetArrayFromImage(one) for one in images] for images in (body, made))
    return before, after, (after[2] != 0) & (before[2] == 0)


def test_the_tumour_keeps_its_uptake_and_its_volume() -> None:
    """Its mean SUV is TUMOUR_SUV, as the slope along x is even on both sides; a ball of 22 mm has 44.6 ml."""
    _, (pet, ct, _), tumour = blended()
    assert tumour.sum() * 0.064 == pytest.approx(4 / 3 * np.pi * 2.2**3, rel=0.05)
    core = ndimage.binary_erosion(tumour, iterations=2)
    assert pet[core].mean() == pytest.approx(TUMOUR_SUV, abs=0.1)
    assert (ct[tumour] == 45).all()


def test_beyond_the_margin_the_body_is_what_it_was_to_the_bit() -> None:
    before, after, tumour = blended()
    far = ndimage.distance_transform_edt(~tumour, sampling=BODY_MM) >= MARGIN_MM
    assert all(np.array_equal(old[far], new[far]) for old, new in zip(before, after, strict=True))
    near = ~far & ~tumour
    assert (before[0][near] != after[0][near]).mean() > 0.9


def test_the_truth_is_the_bodys_lesions_and_the_tumour() -> None:
    before, after, tumour = blended()
    assert before[2].sum() > 0 and after[2].sum() == before[2].sum() + tumour.sum()
    assert set(np.unique(after[2])) == {0, 1}


def test_a_mirrored_tumour_has_its_hot_side_on_the_other_side() -> None:
    def slope(mirrored: bool) -> float:
        _, (pet, _, _), tumour = blended(mirrored)
        core = ndimage.binary_erosion(tumour, iterations=2)
        return float(np.polyfit(np.nonzero(core)[2] * 4.0, pet[core], 1)[0])

    assert slope(False) == pytest.approx(0.2 / 5, rel=0.1) and slope(True) == pytest.approx(-0.2 / 5, rel=0.1)


def test_the_weight_is_half_at_half_the_margin() -> None:
    """One voxel in a row of 1 mm voxels: (1 + cos(pi d / 10)) / 2."""
    mask = np.zeros((1, 1, 25), bool)
    mask[0, 0, 0] = True
    weight = weights(mask, (1.0, 1.0, 1.0))[0, 0]
    assert weight[[0, 5]] == pytest.approx([1, 0.5], abs=1e-6) and (weight[10:] == 0).all()


def test_around_the_tumour_the_bodys_tissue_stays_where_the_patient_has_air() -> None:
    images = patient_images()
    ct = sitk.GetArrayFromImage(images["ct"])
    ct[sitk.GetArrayFromImage(images["truth"]) == 0] = -1000
    images["ct"] = image(ct, (5.0, 5.0, 3.3), (10.0, -40.0, 300.0))
    body = tuple(body_images().values())
    at = np.array(body[0].TransformIndexToPhysicalPoint((35, 25, 33)))
    made = put(take(*images.values()), body, at, mirrored=False)
    old, new = (sitk.GetArrayFromImage(one) for one in (body[1], made[1]))
    tumour = sitk.GetArrayFromImage(made[2]) != 0
    inside = ndimage.binary_erosion(old > -200, iterations=2) & ~tumour
    assert new[inside].min() >= -250 and np.array_equal(new[~(old > -200)], old[~(old > -200)])


def test_a_ct_of_its_own_finer_grid_gets_the_tumour_at_the_same_place() -> None:
    images = body_images()
    fine = sitk.Resample(
        images["ct"],
        (140, 100, 120),
        sitk.Transform(),
        sitk.sitkNearestNeighbor,
        (-21.0, -17.0, 99.0),
        (2.0, 2.0, 2.0),
        images["ct"].GetDirection(),
        -1000,
    )
    body = images["pet"], fine, images["truth"]
    patient = patient_images()
    patient["ct"] = sitk.Cast(100 * sitk.Cast(patient["truth"], sitk.sitkInt16), sitk.sitkInt16)
    at = np.array(body[0].TransformIndexToPhysicalPoint((35, 25, 33)))
    made = put(take(*patient.values()), body, at, mirrored=False)
    bright = np.argwhere(sitk.GetArrayFromImage(made[1]) > 85)[:, ::-1].mean(axis=0)
    assert np.abs(np.array(fine.TransformContinuousIndexToPhysicalPoint(bright.tolist())) - at).max() < 2.0


@pytest.mark.parametrize("seed", range(8))
def test_a_place_lies_in_the_body_and_off_its_lesions(seed: int) -> None:
    body = tuple(body_images().values())
    tumour = take(*patient_images().values())
    at = find_place(np.random.default_rng(seed), tumour, body, mirrored=False)
    assert at is not None
    made = put(tumour, body, at, mirrored=False)
    own, all_of_it = (sitk.GetArrayFromImage(one) != 0 for one in (body[2], made[2]))
    new = all_of_it & ~own
    hu = sitk.GetArrayFromImage(body[1])
    assert (hu[new] > -200).all() and new.sum() * 0.064 == pytest.approx(44.6, rel=0.05)
    assert ndimage.distance_transform_edt(~own, sampling=BODY_MM)[new].min() >= MARGIN_MM
    edge = np.ones(own.shape, bool)
    edge[2:-2, 2:-2, 2:-2] = False  # 8 mm: the margin's voxels, nearer than 10 mm, stay inside
    assert not new[edge].any()


def test_intense_uptake_and_lung_are_no_place() -> None:
    """A body that is hot or full of air in all but 60 % of every place."""
    images = body_images(lesion=False)
    for what, value in (("pet", 20.0), ("ct", -800)):
        body = dict(images)
        array = sitk.GetArrayFromImage(body[what])
        array[1:, :, ::5], array[1:, :, 1::5] = value, value  # the first slice closes the body
        body[what] = image(array, BODY_MM)
        assert (
            find_place(np.random.default_rng(0), take(*patient_images().values()), tuple(body.values()), False) is None
        )


def test_lungs_are_inside_the_body_and_a_separate_table_is_not() -> None:
    hu = np.full((5, 20, 20), -1000)
    hu[:, 3:14, 3:17] = 40
    hu[:, 6:10, 6:10] = -800
    hu[:, 17, :] = 100
    inside = inside_body(hu)
    assert inside[:, 6:10, 6:10].all() and not inside[:, 15:].any() and inside.sum() == 5 * 11 * 14


def test_noise_is_damped_to_the_bodys_and_edges_stay() -> None:
    rng = np.random.default_rng(0)
    loud, quiet = (rng.normal(40, level, (24, 24, 24)).astype(np.float32) for level in (30, 6))
    everywhere = np.ones(loud.shape, bool)
    made = quieted(loud, quiet, everywhere, (4.0, 4.0, 4.0))
    fine_made, fine_quiet = (one - ndimage.gaussian_filter(one, 1.0) for one in (made, quiet))
    assert fine_made.std() == pytest.approx(fine_quiet.std(), rel=0.25) and made.mean() == pytest.approx(40, abs=1)
    assert np.array_equal(quieted(quiet, loud, everywhere, (4.0, 4.0, 4.0)), quiet)
    loud[:, :, 12:] = 1000  # bone
    made = quieted(loud, quiet, everywhere, (4.0, 4.0, 4.0))
    assert (made[:, :, 14:] > 900).all()


def test_of_several_lesions_the_largest_group_is_taken() -> None:
    """Two balls 12 mm apart are one group, a third, 60 mm off, is left."""
    shape, spacing = (40, 40, 60), (3.0, 3.0, 3.0)
    near = ball(shape, 9, spacing, (20, 20, 10)) | ball(shape, 9, spacing, (20, 20, 20))
    truth = near | ball(shape, 10, spacing, (20, 20, 50))
    blank = image(np.zeros(shape, np.float32), spacing)
    tumour = take(blank, blank, image(truth.astype(np.uint8), spacing))
    assert np.array_equal(sitk.GetArrayFromImage(tumour.contour), near)


def test_an_empty_truth_has_no_tumour() -> None:
    blank = image(np.zeros((9, 9, 9), np.uint8))
    with pytest.raises(CaseError, match="the truth is empty"):
        take(blank, blank, blank)


@pytest.mark.slow
def test_the_table_names_the_patient_and_whose_body_it_is(tmp_path) -> None:
    patients, bodies = indexes(tmp_path)
    assert run(patients, bodies, tmp_path / "out", "--copies", 2) == 0
    rows = read_table(tmp_path / "out" / "index.csv")
    assert [(case, study.patient) for case, study in rows.items()] == [
        ("S0-b0", "patient0"),
        ("S0-b1", "patient0"),
        ("S1-b0", "patient1"),
        ("S1-b1", "patient1"),
    ]
    hosts = {study.patient: arrays_of(study) for study in read_table(bodies).values()}
    for study in rows.values():
        pet, ct, truth = arrays_of(study)
        assert study.diagnosis == "sarcoma" and study.sha256 == study_sha256(study.pet, study.ct, study.truth)
        assert study.lesion_ml == pytest.approx(truth.sum() * 0.064)
        far = ndimage.distance_transform_edt(truth == 0, sampling=BODY_MM) >= MARGIN_MM
        assert np.array_equal(pet[far], hosts[study.body][0][far])


def test_the_studies_pass_the_index(shared, tmp_path) -> None:
    _, _, out = shared
    words = [out / "index.csv", "--output", tmp_path / "again.csv", "--workers", 1, "--strict"]
    assert main(["index", *map(str, words)]) == 0
    assert (tmp_path / "again.csv").read_bytes() == (out / "index.csv").read_bytes()


@pytest.mark.slow
def test_the_seed_decides(tmp_path) -> None:
    patients, bodies = indexes(tmp_path)
    for name, seed in (("1", 3), ("2", 3), ("3", 4)):
        run(patients, bodies, tmp_path / name, "--seed", seed)
    one, two, three = ([study.sha256 for study in read_table(tmp_path / name / "index.csv").values()] for name in "123")
    assert one == two != three
    said = [[study.made for study in read_table(tmp_path / name / "index.csv").values()] for name in "123"]
    assert said[0] == said[1] and not {*said[0]} & {*said[2]}


def test_an_ordinary_index_has_no_column_for_what_was_computed(shared) -> None:
    patients, _, out = shared
    headers = [next(csv.reader(path.open())) for path in (patients, out / "index.csv")]
    assert not {"body", "made"} & {*headers[0]} and headers[1] == [*headers[0], "body", "made"]


def change(index: Path, which: str, **values: object) -> None:
    rows = read_table(index)
    write_table([replace(study, **values) if name == which else study for name, study in rows.items()], index)


@pytest.mark.parametrize(
    ("table", "case", "values", "message"),
    [
        ("bodies", "Ap000001", {"case": "Ap100000"}, "phantoms that must never train (Ap100000)"),
        ("bodies", "Ap000001", {"case": "Ap200000-r1"}, "phantoms that must never train (Ap200000-r1)"),
        ("bodies", "Ap000001", {"case": "Frp000001"}, "site F tests"),
        ("bodies", "Ap000001", {"patient": "patient1"}, "the patients' own studies (patient1)"),
        ("bodies", "Ap000001", {"body": "phantom-000007"}, "already put into bodies (Ap000001)"),
        ("patients", "S0", {"pet": Path("/nowhere/pet.nii.gz")}, "/nowhere/pet.nii.gz"),
    ],
)
def test_studies_that_cannot_serve_are_refused_by_name(tmp_path, capsys, table, case, values, message) -> None:
    made = dict(zip(("patients", "bodies"), indexes(tmp_path), strict=True))
    change(made[table], case, **values)
    assert run(made["patients"], made["bodies"], tmp_path / "out") in (2, 3)
    assert message in capsys.readouterr().err.splitlines()[-1] and not (tmp_path / "out").exists()


def test_texts_that_a_metaimage_cannot_hold_are_left_out_in_silence(tmp_path, capfd) -> None:
    """The bodies are NIfTI, whose texts ITK would name in a warning for each of three files."""
    assert run(*indexes(tmp_path), tmp_path / "out") == 0
    found = capfd.readouterr()
    assert found.out.count("\n") == 1 and found.out.startswith("wrote ") and "WARNING" not in found.err


def test_patients_without_lesion_are_refused(tmp_path, capsys) -> None:
    patients, bodies = indexes(tmp_path)
    for case in ("S0", "S1"):
        change(patients, case, lesion_ml=0.0)
    assert run(patients, bodies, tmp_path / "out") == 2
    assert "no study with a lesion of its own" in capsys.readouterr().err


@pytest.mark.parametrize(("option", "value"), [("--copies", 0), ("--seed", -1)])
def test_numbers_that_cannot_be_are_refused(tmp_path, capsys, option, value) -> None:
    assert run(*indexes(tmp_path), tmp_path / "out", option, value) == 2
    assert option in capsys.readouterr().err


@pytest.mark.slow
def test_a_tumour_that_fits_nowhere_is_named_and_left_out(tmp_path, capsys) -> None:
    patients, bodies = indexes(tmp_path)
    large = row(tmp_path, "large", "patient9", patient_images(110.0), 5575.0)
    write_table([*read_table(patients).values(), large], patients)
    assert run(patients, bodies, tmp_path / "out") == 0
    assert "left out: large-b0: its tumour of 5575 ml fits into none of 2 bodies (Ap000000, Ap000001)" in (
        capsys.readouterr().err
    )
    assert list(read_table(tmp_path / "out" / "index.csv")) == ["S0-b0", "S1-b0"]


def test_a_fold_trains_on_a_blended_study_alone_and_only_where_both_patients_train(shared) -> None:
    patients, bodies, out = shared
    studies = {**read_table(patients), **read_table(bodies), **read_table(out / "index.csv")}
    host = studies["S0-b0"].body
    other = ({"phantom-000000", "phantom-000001"} - {host}).pop()
    together = make_fold("f", {"patient0", host}, {"patient1", other}, set(), studies)
    assert "S0-b0" in together.train and not any("-b" in case for case in together.validate)
    apart = make_fold("f", {"patient0", other}, {"patient1", host}, set(), studies)
    assert not any("-b" in case for case in (*apart.train, *apart.validate))
    without = {case: study for case, study in studies.items() if study.patient != host}
    assert "S0-b0" in make_fold("f", {"patient0"}, {"patient1"}, set(), without).train


def test_a_run_has_seen_the_tumours_patient_and_the_bodys(shared, tmp_path) -> None:
    """A fold made by hand that validates on the body's phantom is refused."""
    _, bodies, out = shared
    study = read_table(out / "index.csv")["S0-b0"]
    host = next(one for one in read_table(bodies).values() if one.patient == study.body)
    for one in (study, host):
        prepare_one(one, tmp_path / "cache", Crop(), LIMITS)
    made = load(tmp_path / "cache", "S0-b0")
    assert seen_with([made], None) == {"cases": ["S0-b0"], "patients": ["patient0", host.patient]}
    with pytest.raises(ConfigError, match=f"it validates or tests with \\({host.case}\\)"):
        check_apart([made], Fold(name="f", train=("S0-b0",), validate=(host.case,)), tmp_path / "cache")


@pytest.mark.slow
def test_prepared_studies_are_blended_as_they_were_prepared(shared, tmp_path) -> None:
    """The files may be gone: what is beyond the margin is the prepared body, to the bit, and the volume stays."""
    patients, bodies, _ = shared
    every = read_table(patients) | read_table(bodies)
    for one in every.values():
        prepare_one(one, tmp_path / "cache", Crop(), LIMITS)
    gone = {case: replace(one, pet=tmp_path / "gone.mha") for case, one in every.items()}
    for name, index in (("patients.csv", patients), ("bodies.csv", bodies)):
        write_table([gone[case] for case in read_table(index)], tmp_path / name)
    tables = tmp_path / "patients.csv", tmp_path / "bodies.csv"
    blend(*tables, tmp_path / "out", Blend(seed=1, copies=1), cache=tmp_path / "cache")
    made = read_table(tmp_path / "out" / "index.csv")["S0-b0"]
    host = load(tmp_path / "cache", next(case for case, one in every.items() if one.patient == made.body))
    pet, _, truth = arrays_of(made)
    far = ndimage.distance_transform_edt(truth == 0, sampling=BODY_MM) >= MARGIN_MM
    assert np.array_equal(pet[far], np.asarray(host.suv).transpose(2, 1, 0).astype(np.float32)[far])
    ml = float(load(tmp_path / "cache", "S0").truth.sum()) * 0.0825  # voxels of 5 x 5 x 3.3 mm
    assert (truth.sum() - host.truth.sum()) * 0.064 == pytest.approx(ml, rel=0.03)
    prepare_one(made, tmp_path / "cache", Crop(), LIMITS)
    assert load(tmp_path / "cache", "S0-b0").truth.sum() == truth.sum()


@pytest.mark.slow
def test_real_tumours_keep_their_volume_and_uptake(real_data, tmp_path) -> None:
    """Each in the middle of a large even body, by what the contour holds there: 5 % of volume, 3 % of mean SUV."""
    for folder in sorted((real_data / "sts").glob("STS_*"))[:12]:
        images = [sitk.ReadImage(str(folder / f"{name}.nii.gz")) for name in ("SUV", "CTres", "SEG")]
        suv, _, mask = (sitk.GetArrayFromImage(one) for one in images)
        ml = float(np.prod(images[0].GetSpacing())) / 1000
        shape = (90, 70, 70)
        blank = [
            image(np.full(shape, value, kind), BODY_MM)
            for value, kind in ((1, np.float32), (40, np.int16), (0, np.uint8))
        ]
        at = np.array(blank[0].TransformIndexToPhysicalPoint((35, 35, 45)))
        made = [sitk.GetArrayFromImage(one) for one in put(take(*images), tuple(blank), at, mirrored=False)]
        there = made[2] != 0
        assert there.sum() * 0.064 == pytest.approx((mask != 0).sum() * ml, rel=0.05), folder.name
        assert made[0][there].mean() == pytest.approx(suv[mask != 0].mean(), rel=0.03), folder.name
