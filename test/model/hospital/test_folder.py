import numpy as np
import pytest
import SimpleITK as sitk

from model.errors import OutputError
from model.hospital.folder import locked, remove_partial, study_folder
from model.study.geometry import Grid, grid_of
from model.whole import PARTIAL

GRID = Grid(
    size=(5, 4, 3),
    spacing_mm=(4.0, 4.0, 3.0),
    origin_mm=(-10.0, 20.0, -500.5),
    direction=(-1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, -1.0),
)


def test_nothing_is_seen_before_everything_is_there(tmp_path) -> None:
    with study_folder(tmp_path, "s-1") as folder:
        folder.write("a", b"1")
        assert not (tmp_path / "studies" / "s-1").exists()
    assert (tmp_path / "studies" / "s-1" / "a").read_bytes() == b"1"
    assert [path.name for path in (tmp_path / "studies").iterdir()] == ["s-1"]


def test_a_study_has_one_folder_under_either_name(tmp_path) -> None:
    """Older results of the same hash give way when the new one is there; others, and what is no result, stay."""
    names = ("s-0123456789ab", "Doe_Jane-0123456789ab", "s-ba9876543210", "notes-of-0123456789ab")
    for name in names:
        (tmp_path / "studies" / name).mkdir(parents=True)
        (tmp_path / "studies" / name / "a").write_bytes(b"old")
    with study_folder(tmp_path, names[0]) as folder:
        folder.write("a", b"new")
        assert len(list((tmp_path / "studies").rglob("a"))) == 5
    left = {path.parent.name: path.read_bytes() for path in (tmp_path / "studies").glob("*/a")}
    assert left == {names[0]: b"new", names[2]: b"old", names[3]: b"old"}


def test_an_error_leaves_the_result_that_was_there(tmp_path) -> None:
    with study_folder(tmp_path, "s-1") as folder:
        folder.write("lesions.csv", b"old")
    with pytest.raises(RuntimeError), study_folder(tmp_path, "s-1") as folder:
        folder.write("lesions.csv", b"new")
        raise RuntimeError
    assert (tmp_path / "studies" / "s-1" / "lesions.csv").read_bytes() == b"old"
    with study_folder(tmp_path, "s-1") as folder:
        folder.write("lesions.json", b"new")
    assert [p.name for p in (tmp_path / "studies").rglob("*")] == ["s-1", "lesions.json"]


@pytest.mark.parametrize("name", ["mask.mha", "mask.nii.gz"])
def test_images_are_read_back_by_simpleitk_where_they_were(name: str, tmp_path) -> None:
    mask = (np.arange(60).reshape(3, 4, 5) % 3 == 0).astype(np.uint8)
    with study_folder(tmp_path, "s-1") as folder:
        folder.write_image(name, mask, GRID)
    image = sitk.ReadImage(str(tmp_path / "studies" / "s-1" / name))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), mask)
    assert grid_of(image).equals(GRID)
    assert any("Research use" in image.GetMetaData(key) for key in image.GetMetaDataKeys())


def test_leftovers_of_killed_runs_are_removed(tmp_path) -> None:
    (tmp_path / "studies" / f"{PARTIAL}x").mkdir(parents=True)
    (tmp_path / "studies" / f"{PARTIAL}x" / "mask.mha").touch()
    (tmp_path / f"{PARTIAL}y").touch()
    (tmp_path / "studies" / "s-1").mkdir()
    remove_partial(tmp_path)
    assert [p.name for p in tmp_path.rglob("*")] == ["studies", "s-1"]


def test_a_results_folder_serves_one_run_at_a_time(tmp_path) -> None:
    with locked(tmp_path):
        with pytest.raises(OutputError, match="another run works"), locked(tmp_path, patience_s=0.2):
            pass
    with locked(tmp_path, patience_s=0):
        pass


def test_a_lock_that_cannot_be_made_is_an_error(tmp_path) -> None:
    (tmp_path / ".lock").mkdir()
    with pytest.raises(OutputError, match="cannot write"), locked(tmp_path):
        pass


def test_a_folder_that_cannot_be_made_is_an_error(tmp_path) -> None:
    (tmp_path / "studies").touch()
    with pytest.raises(OutputError, match="cannot write"):
        study_folder(tmp_path, "s-1").__enter__()
