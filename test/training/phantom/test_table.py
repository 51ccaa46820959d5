"""studies.csv, and the command that writes phantoms; the phantoms here are boxes of noise."""

from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest

from model.errors import ConfigError
from training.__main__ import main
from training.data.layouts import find
from training.phantom import study
from training.phantom.lesions import draw_diagnosis
from training.phantom.study import Phantom
from training.phantom.table import read_rows, write_row


@pytest.fixture
def made(monkeypatch) -> list[int]:
    """The seeds that were made, instead of minutes of phantoms."""
    seeds = []

    def box(seed: int, site: str, diagnosis: str | None, maps: object = (), on_pet_grid: bool = False) -> Phantom:
        seeds.append(seed)
        drawn = draw_diagnosis(np.random.default_rng(np.random.SeedSequence(seed).spawn(4)[2]), diagnosis)
        grid = {f"{what}_spacing_mm": (4, 4, 3) for what in ("pet", "ct")}
        grid |= {f"{what}_origin_mm": (0, 0, 0) for what in ("pet", "ct")}
        pet = np.ones((8, 9, 10), np.float32)
        return Phantom(
            pet=pet,
            ct=pet.astype(np.int16),
            truth=pet.astype(np.uint8),
            lesions=[],
            diagnosis=drawn,
            seed=seed,
            site=site,
            patient=f"phantom-{seed:06d}",
            **grid,
        )

    monkeypatch.setattr(study, "make_phantom", box)
    return seeds


def run(folder: Path, *arguments: object) -> int:
    return main(["phantoms", "--output", str(folder), *map(str, arguments)])


def test_the_command_leaves_files_and_a_table_that_index_finds(made, tmp_path) -> None:
    assert run(tmp_path, "--seed", 7, "--count", 2, "--site", "B", "--diagnosis", "melanoma") == 0
    layout, found, notes = find(tmp_path)
    assert layout == "phantoms" and notes == []
    assert [(f.case, f.patient, f.diagnosis, f.site) for f in found] == [
        ("B000007", "phantom-000007", "melanoma", "B"),
        ("B000008", "phantom-000008", "melanoma", "B"),
    ]
    assert all(path.is_file() for f in found for path in (f.pet, f.ct, f.truth))
    assert not [path for path in tmp_path.rglob(".partial-*")]


def test_a_complete_study_is_not_made_again_and_an_incomplete_one_is(made, tmp_path, capsys) -> None:
    run(tmp_path, "--seed", 7, "--count", 3)
    (tmp_path / "truth" / "A000008_ct.mha").unlink()
    assert run(tmp_path, "--seed", 7, "--count", 4) == 0
    assert made == [7, 8, 9, 8, 10] and len(read_rows(tmp_path)) == 4
    assert "2 studies made, 2 were there already" in capsys.readouterr().out


def test_the_same_seed_at_another_site_is_the_same_patient(made, tmp_path) -> None:
    run(tmp_path, "--seed", 7)
    run(tmp_path, "--seed", 7, "--site", "B")
    assert {row["patient"] for row in read_rows(tmp_path).values()} == {"phantom-000007"}


def test_a_study_that_is_there_with_another_diagnosis_is_refused(made, tmp_path, capsys) -> None:
    run(tmp_path, "--seed", 7, "--diagnosis", "melanoma")
    assert run(tmp_path, "--seed", 7, "--diagnosis", "negative") == 2
    assert "holds A000007 as 'melanoma'" in capsys.readouterr().err and made == [7]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--seed", 1, "--diagnosis", "flu"), "unknown diagnosis 'flu'"),
        (("--seed", -1), "--seed must be 0 or more"),
        (("--seed", 1, "--count", 0), "--count 1 or more"),
        (("--seed", 1, "--workers", 0), "must be at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_made(made, tmp_path, arguments, message, capsys) -> None:
    assert run(tmp_path / "new", *arguments) == 2
    assert message in capsys.readouterr().err.splitlines()[-1] and made == [] and not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_an_error(made, tmp_path, capsys) -> None:
    (tmp_path / "file").touch()
    assert run(tmp_path / "file", "--seed", 7) != 0
    assert capsys.readouterr().err.startswith("error: ")


def test_rows_of_several_processes_are_all_kept(tmp_path) -> None:
    with get_context("spawn").Pool(2) as pool:
        rows = [(tmp_path, f"A{seed:06d}", f"phantom-{seed}", "A", "negative") for seed in range(20)]
        pool.starmap(write_row, rows, chunksize=1)
    assert list(read_rows(tmp_path)) == [f"A{seed:06d}" for seed in range(20)]


def test_another_table_of_that_name_is_left_alone(tmp_path) -> None:
    (tmp_path / "studies.csv").write_text("name,age\nx,1\n")
    with pytest.raises(ConfigError, match="is not a table of phantoms"):
        write_row(tmp_path, "A000001", "phantom-1", "A", "negative")
    assert (tmp_path / "studies.csv").read_text() == "name,age\nx,1\n"
