"""The sheet of phantoms: its drawing, on a small phantom made by hand, and its command."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model.errors import OutputError
from training.__main__ import main
from training.command import parse
from training.phantom import sheet as phantom_sheet
from training.phantom.lesions import PhantomLesion
from training.phantom.physics import SITES
from training.phantom.sheet import RED, SHEET, caption, cell, check, onto, outlined, sheet, write_sheet
from training.phantom.study import Phantom


@pytest.fixture
def ill() -> Phantom:
    """A body of 50 cm, water, with a lesion of 8 cm in its middle."""
    pet, ct = np.full((50, 50, 50), 1.0, np.float32), np.zeros((50, 50, 50), np.int16)
    truth = np.zeros((50, 50, 50), np.uint8)
    truth[21:29, 21:29, 21:29] = 1
    grid = (10.0, 10.0, 10.0), (-245.0, -245.0, -245.0)
    return Phantom(
        pet,
        ct,
        truth,
        *grid,
        *grid,
        [PhantomLesion("node", 512.0, 1.0, (0.0, 0.0, 0.0))],
        "lymphoma",
        5,
        "A",
        "phantom-5",
    )


def red(picture: Image.Image) -> np.ndarray:
    return (np.asarray(picture.convert("RGB")) == RED).all(-1)


def test_the_sheet_has_twelve_of_all_sites_and_four_diseases() -> None:
    assert len(SHEET) == 12 and {site for site, _ in SHEET} == set(SITES)
    assert {diagnosis for _, diagnosis in SHEET} == {"negative", "melanoma", "lung cancer", "lymphoma", "sarcoma"}


def test_lesion_is_outlined_in_pet_and_ct(ill: Phantom) -> None:
    marks = red(cell(ill))
    half = marks.shape[1] // 2
    assert marks[:, :half].any() and marks[:, half:].any()


def test_outline_surrounds_the_lesion_and_leaves_it_visible() -> None:
    lesion = np.zeros((20, 20))
    lesion[8:12, 8:12] = 1
    marks = red(outlined(np.ones((20, 20)), lesion))
    assert marks[6, 9] and marks[9, 13] and not marks[7:13, 8:12].any() and not marks[0].any()


def test_a_phantom_without_lesion_has_no_outline(ill: Phantom) -> None:
    assert not red(cell(replace(ill, truth=np.zeros_like(ill.truth), lesions=[]))).any()


def test_a_plane_is_placed_by_its_millimetres() -> None:
    plane = np.array([[0.0, 1.0], [2.0, 3.0]])  # (z, x), spacing 10 in x and 20 in z, from x = 100, z = -40
    lines = np.array([-40.0, -30.0, 60.0]), np.array([100.0, 105.0])
    found = onto(plane, lines, (10, 1, 20), (100, 0, -40), -5.0)
    np.testing.assert_allclose(found, [[0, 0.5], [1, 1.5], [-5, -5]])


def test_caption_says_how_many_lesions_and_ml(ill: Phantom) -> None:
    assert caption(ill) == "lymphoma, 1 lesion, 512.0 ml"
    assert caption(replace(ill, diagnosis="negative", lesions=[])) == "negative"


def test_cells_are_set_in_rows_of_four() -> None:
    picture = sheet([Image.new("RGB", (100, 50), "black")] * 5)
    dark = np.asarray(picture.convert("L"))[60:] == 0  # below the line of text
    assert dark.any(1).sum() >= 50 + 50 - 14 and dark.any(0).sum() == 400


def test_sheet_is_written_as_png_with_few_colours(ill: Phantom, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(phantom_sheet, "make_phantom", lambda seed, site, diagnosis, maps: ill)
    write_sheet(tmp_path / "new" / "sheet.png", [(1, "A", "lymphoma")])
    picture = Image.open(tmp_path / "new" / "sheet.png")
    assert picture.format == "PNG" and picture.mode == "P" and red(picture).any()
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["sheet.png"]


def test_a_failure_leaves_nothing_behind(tmp_path: Path, monkeypatch) -> None:
    def broken(seed: int, site: str, diagnosis: str, maps: object) -> Phantom:
        raise OutputError("disk full")

    monkeypatch.setattr(phantom_sheet, "make_phantom", broken)
    with pytest.raises(OutputError):
        write_sheet(tmp_path / "new" / "sheet.png", [(1, "A", "lymphoma")])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        ([], 2, "nothing to do"),
        (["--statistics", "0"], 2, "--statistics must be 1 or more studies, got 0"),
        (["--statistics", "1", "--seed", "-1"], 2, "--seed must be 0 or more, got -1"),
        (["--statistics", "1", "--site", "Z"], 2, "--site must be one of A, B, C, D, E, F, got 'Z'"),
        (["--output", "sheet.jpg"], 2, "must be the name of a .png file, got 'sheet.jpg'"),
        (["--output", f"{__file__}/sheet.png"], 5, "cannot write into"),
    ],
)
def test_an_error_is_the_last_line_and_the_exit_code(arguments: list[str], code: int, message: str, capsys) -> None:
    assert main(["sheet", *arguments]) == code
    last = capsys.readouterr().err.strip().splitlines()[-1]
    assert last.startswith("error: ") and message in last


def test_right_options_are_accepted() -> None:
    check(parse("sheet", phantom_sheet, ["--statistics", "3", "--site", "F", "--output", "docs/phantoms.png"]))


def test_tables_are_printed(capsys) -> None:
    assert main(["sheet", "--tables"]) == 0
    assert "| F (held out) | 4 x 4 x 4 |" in capsys.readouterr().out
