"""Where the files of an nnU-Net v2 model lie: a released zip, its dataset's folder, or the model's own folder.

A model's folder is named <trainer>__<plans>__<configuration> and holds plans.json, dataset.json and fold_0 to fold_4,
or fold_all, each with checkpoint_final.pth or checkpoint_best.pth. A released zip holds such folders below
DatasetNNN_Name/. Nothing is unpacked but what is read, one checkpoint at a time.
"""

import json
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from model.errors import ConfigError, WeightsError
from training.data.table import some_of
from training.weights.checkpoint_reader import START_BYTES, why_not_zip

PLANS, DATASET = "plans.json", "dataset.json"
JSON_LIMIT_BYTES = 64 * 2**20  # a dataset.json that lists every case is large; larger is something else
CHECKPOINT_LIMIT_BYTES = 32 * 2**30  # ResEnc XL's has 5 GB with its optimizer's state; larger is something else
FOLDS = ("0", "1", "2", "3", "4")
DEPTH = 6  # folders below the one given in which a model's files are looked for
ZIP_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)  # the last: encrypted


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
        with tempfile.TemporaryDirectory(prefix="checkpoint-") as folder:
            target = Path(folder) / f"fold_{self.folds[number]}.pth"
            self._unpack(str(self.inside / relative), target)
            yield target

    def _unpack(self, name: str, target: Path) -> None:
        """Write a file of the zip. Raises WeightsError if it cannot be one, ConfigError if there is no room for it."""
        with _opened(self.path) as archive:
            member = archive.getinfo(name)
            if member.file_size > CHECKPOINT_LIMIT_BYTES:
                raise WeightsError(
                    f"'{self.path}': {member.filename} would unpack to {member.file_size / 1e9:.1f} GB, at most "
                    f"{CHECKPOINT_LIMIT_BYTES / 1e9:.1f} can be a checkpoint; fetch the zip again"
                )
            free = shutil.disk_usage(target.parent).free
            if free < member.file_size:
                raise ConfigError(
                    f"'{target.parent}' has {free / 1e9:.1f} GB free, {name} takes {member.file_size / 1e9:.1f} GB: "
                    "set TMPDIR to a folder with more, or unpack the zip yourself"
                )
            with archive.open(member) as source, target.open("wb") as file:
                shutil.copyfileobj(source, file, 2**20)

    def check_beginnings(self) -> None:
        """Raise WeightsError for a checkpoint that does not begin as one, such as a pointer of Git LFS."""
        for relative in self.checkpoints:
            if self.inside is None:
                with (self.path / relative).open("rb") as file:
                    start = file.read(START_BYTES)
            else:
                with _opened(self.path) as archive, archive.open(str(self.inside / relative)) as entry:
                    start = entry.read(START_BYTES)
            if why := why_not_zip(start, str(self.path / (self.inside or "") / relative)):
                raise WeightsError(why)


def is_nnunet(path: Path) -> bool:
    """Whether this is a folder, or a zip archive that holds plans.json: a model of nnU-Net, not a checkpoint alone.

    Raises ConfigError if nothing is there, or for a zip of zips, WeightsError for a .zip that is none.
    """
    if not path.exists():
        raise ConfigError(f"'{path}' is not there; give checkpoints, a released zip or a model's folder")
    if path.is_dir():
        return True
    if not zipfile.is_zipfile(path):
        if path.suffix.lower() == ".zip":
            raise WeightsError(f"'{path}' is not a whole zip archive; fetch it again")
        return False
    with _opened(path) as archive:
        names = [PurePosixPath(name) for name in archive.namelist()]
    within = [str(name) for name in names if name.suffix.lower() == ".zip"]
    if within and all(name.name != PLANS for name in names):
        raise ConfigError(f"'{path}' holds other zips, {some_of(within)}; unpack it, and give one of them")
    return any(name.name == PLANS for name in names)


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
    model = models[0] if len(models) == 1 else _chosen(path, models, configuration)
    names = {file.relative_to(model).as_posix() for file in files if file.is_relative_to(model)}
    kept, checkpoints = _checkpoints(names, folds, checkpoint, path)
    plans, dataset = (_json(path, model / name) for name in (PLANS, DATASET))
    named = _configuration_of(path, model, plans, configuration)
    return FoundModel(
        path=path if zipfile.is_zipfile(path) else path / model,
        inside=model if zipfile.is_zipfile(path) else None,
        trainer=_name(path, model).split("__")[0],
        configuration=named,
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
            for depth in range(1, DEPTH)
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
    except ZIP_DAMAGE as error:
        raise WeightsError(f"'{path}' is not a whole zip archive ({error}); fetch it again") from None
    except FileNotFoundError:
        raise ConfigError(f"'{path}' is not there; give a released zip or a model's folder") from None


def _is_model(folder: PurePosixPath, files: Sequence[PurePosixPath]) -> bool:
    has_dataset = any(file == folder / DATASET for file in files)
    return has_dataset and any(file.parent.parent == folder and file.suffix == ".pth" for file in files)


def _name(path: Path, model: PurePosixPath) -> str:
    return model.name or path.resolve().name


def _chosen(path: Path, models: Sequence[PurePosixPath], wanted: str | None) -> PurePosixPath:
    """The model of several whose configuration, folder's name or place is `wanted`."""
    chosen = [m for m in models if wanted in (_name(path, m).split("__")[-1], _name(path, m), str(m))]
    if len(chosen) != 1:
        there = ", ".join(str(model) for model in chosen or models)
        what = "--configuration NAME" if wanted is None else f"more than --configuration {wanted}"
        raise ConfigError(
            f"'{path}' holds {len(chosen or models)} models, {there}; say which by {what}: what stands after the last "
            "__, or all of it as listed"
        )
    return chosen[0]


def _configuration_of(path: Path, model: PurePosixPath, plans: dict[str, Any], wanted: str | None) -> str:
    """The configuration of a model by its folder's name; of a folder that was renamed, the one wanted, or its only one.

    Raises ConfigError if that does not decide, or another one is wanted.
    """
    name, found = _name(path, model), plans.get("configurations")
    known = sorted(found) if isinstance(found, dict) else []
    own = name.split("__")[-1] if name.count("__") >= 2 else None
    if own is not None and wanted in (None, own, name, str(model)):
        return own
    if own is None and (wanted in known or (wanted is None and len(known) == 1)):
        return wanted or str(known[0])
    raise ConfigError(
        f"'{path}': the folder '{name}' is of configuration {own or 'unknown'}, plans.json has {some_of(known)}, and "
        f"--configuration is {wanted or 'not given'}; say the one that was trained"
    )


def _checkpoints(
    there: set[str], wanted: Sequence[str] | None, kind: str, path: Path
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The folds to take and the checkpoint of each."""
    name = f"checkpoint_{kind}.pth"
    have = [fold for fold in (*FOLDS, "all") if f"fold_{fold}/{name}" in there]
    folds = list(wanted) if wanted else [fold for fold in have if fold != "all"] or have
    missing = [fold for fold in folds if fold not in have]
    if missing or not folds:
        others = sorted(
            file for file in there if file.startswith("fold_") and file.endswith(".pth") and name not in file
        )
        raise ConfigError(
            f"'{path}' has {name} of the folds {', '.join(have) or 'none'}, not of {', '.join(missing) or 'any'}"
            f"{f' (but {some_of(others)})' if others else ''}; choose by --folds and --checkpoint final or best"
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
