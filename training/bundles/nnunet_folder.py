"""Where the files of an nnU-Net v2 model lie: a released zip, its dataset's folder, or the model's own folder.

A model's folder is named <trainer>__<plans>__<configuration> and holds plans.json, dataset.json and fold_0 to fold_4,
or fold_all, each with checkpoint_final.pth or checkpoint_best.pth. A released zip holds such folders below
DatasetNNN_Name/. Nothing is unpacked but what is read, one checkpoint at a time.
"""

import json
import shutil
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model.errors import ConfigError, WeightsError

PLANS, DATASET = "plans.json", "dataset.json"
JSON_LIMIT_BYTES = 64 * 2**20  # a dataset.json that lists every case is large; larger is something else
FOLDS = ("0", "1", "2", "3", "4")


@dataclass(frozen=True, kw_only=True)
class FoundModel:
    """One model: where it is (a folder, or a zip and the folder within), its configuration and its folds.

    checkpoints: the file of each fold, relative to the model's folder.
    """

    path: Path
    inside: PurePosixPath | None
    trainer: str
    configuration: str
    plans: dict[str, Any]
    dataset: dict[str, Any]
    folds: tuple[str, ...]
    checkpoints: tuple[str, ...]

    @contextmanager
    def checkpoint(self, number: int) -> Iterator[Path]:
        """The file of a fold's checkpoint; out of a zip it is unpacked for as long as it is read."""
        relative = self.checkpoints[number]
        if self.inside is None:
            yield self.path / relative
            return
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder, _opened(self.path) as archive:
            member = archive.getinfo(str(self.inside / relative))
            free = shutil.disk_usage(folder).free
            if free < member.file_size:
                raise ConfigError(
                    f"'{folder}' has {free / 1e9:.1f} GB free, the checkpoint of fold {self.folds[number]} takes "
                    f"{member.file_size / 1e9:.1f} GB: set TMPDIR to a folder with more, or unpack the zip yourself"
                )
            target = Path(folder) / f"fold_{self.folds[number]}.pth"
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)
            yield target


def is_nnunet(path: Path) -> bool:
    """Whether this is a folder, or a zip archive that holds plans.json: a model of nnU-Net, not a checkpoint alone."""
    if path.is_dir() or not zipfile.is_zipfile(path):
        return path.is_dir()
    with zipfile.ZipFile(path) as archive:
        return any(PurePosixPath(name).name == PLANS for name in archive.namelist())


def find_model(
    path: Path, configuration: str | None = None, folds: Sequence[str] | None = None, checkpoint: str = "final"
) -> FoundModel:
    """The model at `path`. folds: those wanted, None: all five, or all that are there, or fold_all.

    Raises ConfigError if there is none, or more than one and `configuration` does not choose; WeightsError if a file of
    it is damaged or missing.
    """
    files = _files(path)
    models = sorted({file.parent for file in files if file.name == PLANS and _is_model(file.parent, files)})
    if not models:
        raise ConfigError(
            f"'{path}' holds no model of nnU-Net v2: a model's folder has {PLANS}, {DATASET} and "
            "fold_0/checkpoint_*.pth; give the released zip, the dataset's folder or the model's own folder"
        )
    chosen = [model for model in models if configuration is None or _configuration(path, model) == configuration]
    if len(chosen) != 1:
        there = ", ".join(_shown(path, model) for model in models)
        raise ConfigError(f"'{path}' holds {there}: say which by --configuration NAME, or give its own folder")
    model = chosen[0]
    names = {file.relative_to(model).as_posix() for file in files if file.is_relative_to(model)}
    kept, checkpoints = _checkpoints(names, folds, checkpoint, path)
    plans, dataset = (_json(path, model / name) for name in (PLANS, DATASET))
    return FoundModel(
        path=path if zipfile.is_zipfile(path) else path / model,
        inside=model if zipfile.is_zipfile(path) else None,
        trainer=_name(path, model).split("__")[0],
        configuration=_configuration(path, model),
        plans=plans,
        dataset=dataset,
        folds=kept,
        checkpoints=checkpoints,
    )


def _files(path: Path) -> list[PurePosixPath]:
    """Every file of the model's layout below `path`, relative to it."""
    if path.is_dir():
        found = [
            PurePosixPath(file.relative_to(path).as_posix())
            for depth in range(1, 5)
            for file in path.glob("/".join("*" * depth))
        ]
        return [file for file in found if (path / file).is_file()]
    with _opened(path) as archive:
        return [PurePosixPath(entry.filename) for entry in archive.infolist() if not entry.is_dir()]


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except zipfile.BadZipFile as error:
        raise WeightsError(f"'{path}' is not a whole zip archive ({error}); fetch it again") from None
    except FileNotFoundError:
        raise ConfigError(f"'{path}' is not there; give a released zip or a model's folder") from None


def _is_model(folder: PurePosixPath, files: Sequence[PurePosixPath]) -> bool:
    has_dataset = any(file == folder / DATASET for file in files)
    return has_dataset and any(file.parent.parent == folder and file.suffix == ".pth" for file in files)


def _name(path: Path, model: PurePosixPath) -> str:
    return model.name or path.resolve().name


def _configuration(path: Path, model: PurePosixPath) -> str:
    return _name(path, model).split("__")[-1]


def _shown(path: Path, model: PurePosixPath) -> str:
    return f"{_configuration(path, model)} ({_name(path, model)})"


def _checkpoints(
    there: set[str], wanted: Sequence[str] | None, kind: str, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folds to take and the checkpoint of each."""
    name = f"checkpoint_{kind}.pth"
    have = [fold for fold in (*FOLDS, "all") if f"fold_{fold}/{name}" in there]
    folds = list(wanted) if wanted else [fold for fold in have if fold != "all"] or have
    missing = [fold for fold in folds if fold not in have]
    if missing or not folds:
        raise ConfigError(
            f"'{path}' has {name} of the folds {', '.join(have) or 'none'}, not of {', '.join(missing) or 'any'}: "
            "choose by --folds and --checkpoint final or best"
        )
    if len(set(folds)) < len(folds):
        raise ConfigError(f"--folds names a fold twice: {' '.join(folds)}")
    return tuple(folds), tuple(f"fold_{fold}/{name}" for fold in folds)


def _json(path: Path, name: PurePosixPath) -> dict[str, Any]:
    try:
        if path.is_dir():
            content = (path / name).read_bytes()
        else:
            with _opened(path) as archive:
                if archive.getinfo(str(name)).file_size > JSON_LIMIT_BYTES:
                    raise WeightsError(f"'{path}': {name} is larger than {JSON_LIMIT_BYTES} bytes; fetch it again")
                content = archive.read(str(name))
        found = json.loads(content)
    except (OSError, ValueError, RecursionError) as error:
        raise WeightsError(f"'{path}': {name} cannot be read ({error}); fetch it again") from None
    if not isinstance(found, dict):
        raise WeightsError(f"'{path}': {name} is not a JSON object; fetch it again")
    return found
