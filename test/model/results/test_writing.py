import subprocess
import sys
import tempfile
import textwrap

import numpy as np
import pytest
import SimpleITK as sitk
from conftest import ROOT

from model.errors import OutputError
from model.results import writing
from model.results.writing import check_targets, label_notes, mask_path, mha_bytes, write_mask, write_probabilities
from model.study.geometry import Grid, grid_of
from model.whole import Staging

AWKWARD = Grid(
    size=(5, 6, 7),
    spacing_mm=(4.07283, 4.07283, 1 / 3),
    origin_mm=(-347.7962875, 1e-7, 0.1 + 0.2),
    direction=tuple(sitk.Euler3DTransform((0, 0, 0), 0.1, 0.2, 0.3).GetMatrix()),
)


def test_the_mask_reads_back_with_its_grid_to_the_last_bit(tmp_path) -> None:
    mask = np.random.default_rng(0).random(AWKWARD.shape) > 0.5
    with Staging() as staging:
        write_mask(mask, AWKWARD, tmp_path / "m.mha", staging)
        staging.commit()
    image = sitk.ReadImage(str(tmp_path / "m.mha"))
    assert image.GetPixelID() == sitk.sitkUInt8 and grid_of(image) == AWKWARD
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), mask.astype(np.uint8))


def test_probabilities_read_back_as_float32_with_their_grid(tmp_path) -> None:
    probability = np.random.default_rng(0).random(AWKWARD.shape).astype(np.float32)
    with Staging() as staging:
        write_probabilities(probability, AWKWARD, tmp_path / "p.nrrd", staging)
        staging.commit()
    image = sitk.ReadImage(str(tmp_path / "p.nrrd"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), probability)
    assert grid_of(image).equals(AWKWARD)


@pytest.mark.parametrize(
    ("edition", "folder"),
    [(e, "automated-petct-lesion-segmentation") for e in (1, 2, 3)]
    + [(e, "tumor-lesion-segmentation") for e in (4, 5)],
)
def test_the_mask_goes_where_the_edition_wants_it(edition: int, folder: str, tmp_path) -> None:
    assert mask_path(tmp_path, "x", edition) == tmp_path / "images" / folder / "x.mha"


def test_another_mha_below_the_output_is_refused_and_not_deleted(tmp_path) -> None:
    target = mask_path(tmp_path, "x", 2)
    target.parent.mkdir(parents=True)
    target.write_text("from before")
    check_targets(tmp_path, [target], [])
    other = tmp_path / "other.mha"
    other.write_text("kept")
    with pytest.raises(OutputError, match="already holds another result"):
        check_targets(tmp_path, [target], [])
    assert other.read_text() == "kept" and target.read_text() == "from before"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("images/automated-petct-lesion-segmentation/x.mha", "into one file"),
        ("other.mha", "only the mask"),
        ("folder", "is a folder"),
        ("y" * 300 + ".json", "longer than 255"),
        ("file/r.json", "cannot write into"),
    ],
)
def test_a_second_result_that_cannot_be_written_is_refused_before_the_work(name: str, message: str, tmp_path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").write_text("")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(OutputError, match=message):
        check_targets(tmp_path, [mask_path(tmp_path, "x", 2), tmp_path / name], [])
    assert sorted(tmp_path.rglob("*")) == before


def test_an_input_in_the_output_folder_is_refused(tmp_path) -> None:
    with pytest.raises(OutputError, match="lies in the output folder"):
        check_targets(tmp_path, [mask_path(tmp_path, "x", 2)], [tmp_path / "images/ct/x.mha"])


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path) -> None:
    code = f"""
        import resource, sys
        sys.path.insert(0, {str(ROOT)!r})
        import numpy as np
        from pathlib import Path
        from model.whole import Staging
        from model.errors import OutputError
        from model.study.geometry import Grid
        from model.results.writing import write_mask
        grid = Grid(size=(60, 60, 60), spacing_mm=(1, 1, 1), origin_mm=(0, 0, 0), direction=(1, 0, 0, 0, 1, 0, 0, 0, 1))
        mask = np.random.default_rng(0).random(grid.shape) > 0.5
        resource.setrlimit(resource.RLIMIT_FSIZE, (2000, 2000))
        try:
            with Staging() as staging:
                write_mask(mask, grid, Path({str(tmp_path)!r}) / "a/m.mha", staging)
                staging.commit()
        except OutputError as error:
            print(error)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True)
    assert "m.mha" in done.stdout and "MB free" in done.stdout, done
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("how", ["none", "full"])
def test_a_mask_needs_no_temporary_folder(how: str, tmp_path, monkeypatch) -> None:
    """Neither where there is none, nor where it is full: read back by ITK, all digits of the grid are there."""
    if how == "none":
        monkeypatch.setattr(tempfile, "tempdir", "/nonexistent")
    else:
        monkeypatch.setattr(writing, "_write_image", lambda *arguments: (_ for _ in ()).throw(OutputError("full")))
    mask = np.random.default_rng(1).random(AWKWARD.shape) > 0.5
    with Staging() as staging:
        write_mask(mask, AWKWARD, tmp_path / "m.mha", staging)
        staging.commit()
    image = sitk.ReadImage(str(tmp_path / "m.mha"))
    assert image.GetPixelID() == sitk.sitkUInt8 and grid_of(image) == AWKWARD
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), mask.astype(np.uint8))
    assert [path.name for path in tmp_path.iterdir()] == ["m.mha"]


def test_the_header_of_an_organ_map_names_its_labels_also_if_it_is_built_in_memory(tmp_path) -> None:
    labels = (np.arange(210) % 3).astype(np.uint8).reshape(AWKWARD.shape)
    with Staging() as staging:
        write_mask(labels, AWKWARD, tmp_path / "written.mha", staging, ("liver", "brain"))
        staging.commit()
    (tmp_path / "built.mha").write_bytes(mha_bytes(labels, AWKWARD, label_notes(("liver", "brain"))))
    for name in ("written.mha", "built.mha"):
        image = sitk.ReadImage(str(tmp_path / name))
        assert image.GetMetaData("Labels") == "1 liver, 2 brain"
        assert grid_of(image) == AWKWARD and np.array_equal(sitk.GetArrayFromImage(image), labels)


def test_only_the_mask_and_the_organ_map_may_be_an_mha_below_the_output(tmp_path) -> None:
    mask, organs = mask_path(tmp_path, "x", 2), tmp_path / "x_organs.mha"
    organs.write_bytes(b"")
    check_targets(tmp_path, [mask, organs], [], organs)
    with pytest.raises(OutputError, match="already holds another result"):
        check_targets(tmp_path, [mask], [])
