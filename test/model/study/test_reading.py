import gzip
import json
import os
import tempfile
import zlib
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from tiny_studies import tiny_images, write_study

from model.bundle.settings import Limits
from model.errors import CaseError
from model.study.reading import find_pair, name_of, read_case, read_volume, stem
from training.data.layouts import find


def test_a_case_is_named_after_the_ct_and_keeps_both_grids(tiny_study) -> None:
    case = read_case([tiny_study], Limits())
    pet, ct = tiny_images()
    assert case.name == "ct-study" and case.warnings == ()
    assert case.pet.grid.size == pet.GetSize() and case.ct.grid.origin_mm == ct.GetOrigin()
    np.testing.assert_array_equal(case.pet.array, sitk.GetArrayFromImage(pet))


@pytest.mark.parametrize(
    ("pet", "ct", "name"),
    [
        (
            "PETCT_0117d7f11f/09-14-2001-NA-PET-CT Ganz-68547/SUV.nii.gz",
            "PETCT_0117d7f11f/09-14-2001-NA-PET-CT Ganz-68547/CTres.nii.gz",
            "PETCT_0117d7f11f_09-14-2001-NA-PET-CT-Ganz-68547",
        ),
        ("PETCT_1/s2/SUV.mha", "PETCT_1/s2/CT.mha", "PETCT_1_s2"),
        ("STS_001/SUV.nii.gz", "STS_001/CTres.nii.gz", "STS_001"),
        ("images/pet/a.mha", "images/ct/b.mha", "b"),
        ("x/PET.nii.gz", "x/CT.nii.gz", "CT"),
        ("x/SUV.nii.gz", "x/a_CTres.nii.gz", "a_CTres"),
    ],
)
def test_two_files_of_autopets_folders_are_named_as_training_names_them(pet, ct, name, tmp_path) -> None:
    for path in (pet, ct):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).touch()
    assert name_of(tmp_path / pet, tmp_path / ct) == name
    if "SUV" in pet and "a_" not in ct:
        _, [found], _ = find(tmp_path)
        assert found.case == name


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nii", ".nii.gz"])
def test_two_named_files_of_every_format_give_the_same_values(suffix: str, tmp_path) -> None:
    pet, ct = tiny_images()
    paths = [tmp_path / f"{name}{suffix}" for name in ("p", "c")]
    for image, path in zip((pet, ct), paths, strict=True):
        sitk.WriteImage(image, str(path))
    case = read_case(paths, Limits())
    assert case.name == "c"
    np.testing.assert_array_equal(case.pet.array, sitk.GetArrayFromImage(pet))
    np.testing.assert_allclose(case.ct.grid.origin_mm, ct.GetOrigin(), rtol=1e-6)


def test_the_stem_of_nii_gz_is_one_ending() -> None:
    assert [stem(Path(n)) for n in ("a.b.nii.gz", "a.mha", "A.MHA")] == ["a.b", "a", "A"]


def test_hidden_files_and_files_of_other_kinds_are_passed_over(tiny_study) -> None:
    (tiny_study / "images/pet/.DS_Store").write_text("")
    (tiny_study / "images/pet/._pet-study.mha").write_text("")
    (tiny_study / "images/ct/notes.txt").write_text("")
    assert [p.name for p in find_pair(tiny_study)] == ["pet-study.mha", "ct-study.mha"]


def listing(folder: Path, *sockets: tuple[str, str]) -> None:
    content = [{"interface": {"slug": slug, "relative_path": path}, "image": None} for slug, path in sockets]
    (folder / "inputs.json").write_text(json.dumps(content))


def test_inputs_json_is_matched_by_relative_path_before_the_slug(tiny_study) -> None:
    listing(tiny_study, ("x", "images/ct"), ("y", "images/pet"), ("old-pet", "images/old"))
    assert [p.parent.name for p in find_pair(tiny_study)] == ["pet", "ct"]


def test_inputs_json_is_matched_by_a_word_of_the_slug_else(tiny_study) -> None:
    (tiny_study / "images/pet").rename(tiny_study / "images/suv-image")
    (tiny_study / "images/ct").rename(tiny_study / "images/anatomy")
    listing(tiny_study, ("fdg-pet", "images/suv-image"), ("ct_image", "images/anatomy"), ("structure", "images/s"))
    assert [p.parent.name for p in find_pair(tiny_study)] == ["suv-image", "anatomy"]


@pytest.mark.parametrize(
    ("sockets", "message"),
    [
        ([("pet", "images/a"), ("pet-2", "images/b"), ("ct", "images/ct")], "names 2 sockets for PET"),
        ([("pet", "images/pet")], "names 0 sockets for CT"),
        ([("pet-ct", "images/both")], "one folder"),
        ([("pet", "../../elsewhere"), ("ct", "images/ct")], "leads out of"),
        ([("pet", "/elsewhere"), ("ct", "images/ct")], "leads out of"),
        ([("pet", "images/../../elsewhere"), ("ct", "images/ct")], "leads out of"),
    ],
    ids=["two", "none", "both", "outside", "absolute", "hidden"],
)
def test_inputs_json_that_is_ambiguous_or_leads_away_is_refused(sockets, message: str, tiny_study) -> None:
    listing(tiny_study, *sockets)
    with pytest.raises(CaseError, match=message):
        find_pair(tiny_study)


@pytest.mark.parametrize("text", ["", "{}", '["x"]', "null", "[" * 100_000, '{"inputs": []}', "7", '"pet"'])
def test_inputs_json_that_is_no_list_of_sockets_is_refused(text: str, tiny_study) -> None:
    (tiny_study / "inputs.json").write_text(text)
    with pytest.raises(CaseError, match="inputs.json"):
        find_pair(tiny_study)


def socket(slug: str, path: str | None, **more: object) -> dict:
    """The description of one socket as the platform's starter kit of 2026 writes it."""
    kinds = {f"is_{kind}_kind": kind in ("image", "panimg") for kind in ("image", "panimg", "dicom_image", "json")}
    return {"slug": slug, "relative_path": path, **kinds, "is_file_kind": False} | more


TRACER = socket("tracer", "tracer.json", is_image_kind=False)
PET, CT = socket("pet-image", "images/pet"), socket("ct-image", "images/ct")
CLICKS = socket("lesion-clicks", "lesion-clicks.json", is_image_kind=False, is_panimg_kind=False, is_json_kind=True)


@pytest.mark.parametrize(
    "entries",
    [
        [{"socket": PET, "file": None, "image": {"name": "p"}, "value": None}, {"socket": CT}],
        [{"interface": PET}, {"interface": CT}],
        [{"socket": PET, "interface": PET}, {"interface": CT, "socket": CT}],
        [{"socket": PET, "interface": None}, {"socket": None, "interface": CT}],
        [{"socket": PET}, {"interface": CT}],
        [{"socket": CT}, {"socket": PET}, {"socket": CLICKS, "value": {"points": []}}],
        [{"socket": CT}, {"socket": PET}, {"socket": TRACER, "value": "fdg"}],
        [{"socket": CT}, {"socket": PET}, {"socket": PET, "interface": PET}, {"interface": CT}],
        [{"socket": CT}, {"socket": PET | {"relative_path": "images/pet/"}}, {"socket": PET}],
        [{"socket": CT}, {"socket": PET}, {"socket": socket("pet-report", None)}, {"interface": {"a": 1}}],
        [{"socket": {"slug": "p"}, "interface": {"relative_path": "images/pet"}}, {"socket": CT, "interface": {}}],
    ],
    ids=["socket", "interface", "both", "null", "mixed", "clicks", "string", "twice", "slash", "pathless", "parts"],
)
def test_inputs_json_is_read_as_the_platform_writes_it_now_and_wrote_it(entries: list, tiny_study) -> None:
    (tiny_study / "inputs.json").write_text(json.dumps(entries))
    assert [p.parent.name for p in find_pair(tiny_study)] == ["pet", "ct"]


def test_a_file_that_is_no_image_is_not_taken_for_its_slug(tiny_study) -> None:
    (tiny_study / "images/pet").rename(tiny_study / "images/fdg")
    other = [socket("pet-report", "pet-report.json"), socket("pet-mesh", "pet.stl", is_image_kind=False)]
    entries = [{"socket": s} for s in (*other, socket("fdg-pet", "images/fdg"), CT)]
    (tiny_study / "inputs.json").write_text(json.dumps(entries))
    assert [p.parent.name for p in find_pair(tiny_study)] == ["fdg", "ct"]


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ({"socket": PET, "interface": CT}, "entry 1 has two relative paths: images/ct and images/pet"),
        ({"socket": "pet-image"}, "entry 1 has no socket"),
        ({"image": {"name": "p"}}, "entry 1 has no socket"),
        ("images/pet", "entry 1 has no socket"),
        ({"socket": {"slug": 7, "relative_path": "images/pet"}}, "entry 1 has the slug 7"),
        ({"socket": {"slug": "pet", "relative_path": ["images/pet"]}}, "entry 1 has the slug 'pet' and"),
    ],
)
def test_an_entry_of_inputs_json_that_is_no_socket_is_named(entry: object, message: str, tiny_study) -> None:
    (tiny_study / "inputs.json").write_text(json.dumps([entry, {"socket": CT}]))
    with pytest.raises(CaseError, match=message):
        find_pair(tiny_study)


def test_inputs_json_may_have_a_byte_order_mark_and_folders_may_be_links(tiny_study, tmp_path) -> None:
    (tiny_study / "images/pet").rename(tmp_path / "elsewhere")
    (tiny_study / "images/pet").symlink_to(tmp_path / "elsewhere")
    listing(tiny_study, ("x", "./images/ct/"), ("y", "images/pet"))
    content = (tiny_study / "inputs.json").read_bytes()
    (tiny_study / "inputs.json").write_bytes(b"\xef\xbb\xbf" + content)
    assert [p.parent.name for p in find_pair(tiny_study)] == ["pet", "ct"]


def test_endings_in_capitals_are_read_and_names_that_are_not_utf8_are_refused(tmp_path) -> None:
    pet, _ = tiny_images()
    sitk.WriteImage(pet, str(tmp_path / "p.mha"))
    loud = (tmp_path / "p.mha").rename(tmp_path / "P.MHA")
    assert read_volume(loud, "PET").grid.size == pet.GetSize()
    strange = Path(os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.mha"))
    loud.rename(strange)
    with pytest.raises(CaseError, match="not UTF-8"):
        read_volume(strange, "PET")


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_nifti_with_fewer_bytes_than_its_header_says_is_refused(suffix: str, tmp_path) -> None:
    path = tmp_path / "p.nii"
    sitk.WriteImage(tiny_images()[0], str(path))
    content = path.read_bytes()[:-1]
    path = tmp_path / f"q{suffix}"
    path.write_bytes(gzip.compress(content) if suffix == ".nii.gz" else content)
    with pytest.raises(CaseError, match="its header asks for"):
        read_volume(path, "PET")


def test_lesion_clicks_are_noticed_and_left_alone(tiny_study) -> None:
    (tiny_study / "lesion-clicks.json").write_text("[]")
    assert "lesion-clicks.json" in read_case([tiny_study], Limits()).warnings[0]


def test_a_pet_above_200_is_a_warning_and_a_moved_limit_is_heeded(tmp_path) -> None:
    pet, ct = tiny_images()
    pet[10, 10, 10] = 201.0
    folder = write_study(tmp_path / "hot", pet, ct)
    assert "reaches SUV 201" in read_case([folder], Limits()).warnings[0]
    assert read_case([folder], Limits(pet_warn_suv=300)).warnings == ()
    with pytest.raises(CaseError, match="--limit pet_max_suv=201"):
        read_case([folder], Limits(pet_max_suv=200))


def test_a_gzip_cut_off_is_refused(tmp_path) -> None:
    path = tmp_path / "p.nii.gz"
    sitk.WriteImage(tiny_images()[0], str(path))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(CaseError, match="cut off or damaged"):
        read_volume(path, "PET")


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nii.gz"])
def test_a_damaged_compressed_image_is_refused(suffix: str, tmp_path) -> None:
    path = tmp_path / f"p{suffix}"
    sitk.WriteImage(tiny_images()[0], str(path), True)
    data = tmp_path / "p.zraw" if suffix == ".mhd" else path
    content = bytearray(data.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)
    data.write_bytes(bytes(content))
    with pytest.raises(CaseError, match="p"):
        read_volume(path, "PET")


def metaimage(path: Path, stream: bytes, size: int | None = None, order: str = "False") -> Path:
    """A compressed .mha of 4 x 3 x 2 voxels of 16 bits; `size`: of the stream, as the header says."""
    header = [
        "NDims = 3",
        "DimSize = 4 3 2",
        "ElementType = MET_SHORT",
        f"BinaryDataByteOrderMSB = {order}",
        "ElementSpacing = 4 4 4",
        "CompressedData = True",
        f"CompressedDataSize = {len(stream) if size is None else size}",
    ]
    path.write_bytes("\n".join([*header, "ElementDataFile = LOCAL\n"]).encode() + stream)
    return path


VOXELS = np.arange(24, dtype="<i2").reshape(2, 3, 4) - 9


@pytest.mark.parametrize("behind", [b"", b"more"])
@pytest.mark.parametrize(("kind", "order"), [("<i2", "False"), (">i2", "True")])
def test_a_compressed_mha_is_read_as_it_was_written(kind: str, order: str, behind: bytes, tmp_path) -> None:
    stream = zlib.compress(VOXELS.astype(kind).tobytes())
    path = metaimage(tmp_path / "p.mha", stream + behind, len(stream), order)
    np.testing.assert_array_equal(read_volume(path, "CT").array, VOXELS)


@pytest.mark.parametrize("size", [0, 20])
def test_a_header_that_makes_the_library_read_other_voxels_is_refused(size: int, tmp_path) -> None:
    with pytest.raises(CaseError, match="CompressedDataSize"):
        read_volume(metaimage(tmp_path / "p.mha", zlib.compress(VOXELS.tobytes()), size), "CT")


def test_a_good_compressed_mha_is_inflated_once(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("model.study.stored.decoded", lambda stored: pytest.fail("inflated for a second time"))
    read_volume(metaimage(tmp_path / "p.mha", zlib.compress(VOXELS.tobytes())), "CT")


@pytest.mark.parametrize(
    "stream",
    [
        zlib.compress(VOXELS.tobytes())[:-1],
        zlib.compress(VOXELS.tobytes())[:-6],
        zlib.compress(VOXELS.tobytes())[:-4] + bytes(4),
        zlib.compress(VOXELS.tobytes()[:-2]),
        zlib.compress(VOXELS.tobytes() + bytes(2)),
        b"",
        b"x",
    ],
    ids=["a byte less", "six bytes less", "another checksum", "a voxel less", "a voxel more", "none", "no stream"],
)
def test_a_compressed_mha_that_does_not_hold_its_voxels_is_refused(stream: bytes, tmp_path) -> None:
    with pytest.raises(CaseError, match="cut off or damaged"):
        read_volume(metaimage(tmp_path / "p.mha", stream), "CT")


def test_an_error_of_the_ct_comes_before_an_error_of_the_pet(tmp_path) -> None:
    pet, ct = (metaimage(tmp_path / f"{what}.mha", b"none") for what in ("pet", "ct"))
    with pytest.raises(CaseError, match="^CT '"):
        read_case([pet, ct], Limits())


@pytest.fixture
def another_user():
    """A folder and a user who owns nothing in it: root may read everything."""
    with tempfile.TemporaryDirectory() as name:
        folder, before = Path(name), os.geteuid()
        folder.chmod(0o755)
        write_study(folder / "study", *tiny_images())
        if before == 0:
            os.seteuid(65534)
        try:
            yield folder / "study"
        finally:
            os.seteuid(before)
            for path in folder.rglob("*"):
                path.chmod(0o755)


@pytest.mark.parametrize("closed", ["", "images", "images/pet", "images/ct", "images/pet/pet-study.mha", "inputs.json"])
def test_what_this_user_may_not_read_is_named(closed: str, another_user: Path) -> None:
    with as_owner():
        (another_user / "inputs.json").write_text("[]") if closed == "inputs.json" else None
        (another_user / closed).chmod(0)
    with pytest.raises(CaseError, match="Permission denied; check access to '") as error:
        read_case([another_user], Limits())
    assert "not grand-challenge's list" not in str(error.value)


@contextmanager
def as_owner():
    """The user that the tests run as, for a while."""
    before = os.geteuid()
    os.seteuid(os.getuid())
    yield
    os.seteuid(before)


def test_two_named_files_that_this_user_may_not_read_are_named(another_user: Path) -> None:
    paths = [another_user / "images/pet/pet-study.mha", another_user / "images/ct/ct-study.mha"]
    for closed in (paths[0], paths[1].parent):
        with as_owner():
            closed.chmod(0)
        with pytest.raises(CaseError, match="Permission denied; check access to '"):
            read_case(paths, Limits())
