"""A pack: prepared studies in one file that travels, bit for bit, with the rows of their index.

A zip of pack.json and of groups of studies, each an xz stream: a patient's study with its copies, of which xz then
finds most voxels again, or a phantom. Arrays lie there as in the cache, SUV by differences along z in two planes of
bytes, which takes a tenth less; the points around which crops are drawn are found anew.
"""

import json
import lzma
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from model.bundle.settings import Crop
from model.errors import ConfigError
from model.files import sha256_of_bytes
from model.schema import to_plain
from model.whole import remove_left_behind, whole_file
from training.data.prepare import points_of
from training.data.prepared import FORMAT, POINTS, is_current, key_of, load, store
from training.data.table import CASE, Study
from training.stopping import check_time

ABOUT = "pack.json"
PACK_FORMAT = 1
PACKED = Path("packed")  # where the paths of a pack's studies seem to lie
MOST_VOXELS = 2**31  # of a study: more is no study, but a damaged or a malicious pack
ZIP_BYTES = 200  # at most, of an entry of the zip beside its content, and of the zip's end
MOST_SPACING_MM = 1000.0
MOST_ABOUT_BYTES = 10**8
FILES = ("pet", "ct", "truth")


@dataclass(frozen=True, kw_only=True)
class Pack:
    """What pack.json says. studies: rows by case, whose files are not there; kind: real, copy or phantom, by case.

    source: what the real studies and their copies were made with; crop: how all were prepared.
    """

    path: Path
    studies: dict[str, Study]
    kinds: dict[str, str]
    source: dict[str, Any]
    crop: dict[str, Any]
    groups: list[dict[str, Any]]


def write_pack(
    path: Path, groups: Iterable[Sequence[Study]], kinds: Mapping[str, str], cache: Path, source: dict[str, Any],
    crop: Crop, most_bytes: float,
) -> list[str]:  # fmt: skip
    """Write a pack. groups: studies in the order in which they are tried; one that would make the pack larger than
    `most_bytes` is left out if it is a phantom's. What a killed process left beside it goes. Returns the cases that
    were left out.

    Raises ConfigError if the real studies alone are larger.
    """
    content: dict[str, Any] = {"format": PACK_FORMAT, "cache_format": FORMAT, "crop": to_plain(crop), "source": source}
    left, about = list[str](), list[dict[str, Any]]()
    total = ZIP_BYTES + len(json.dumps(content, indent=1))
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_left_behind(path.parent)
    with whole_file(path) as partial, zipfile.ZipFile(partial, "w", zipfile.ZIP_STORED) as file:
        for number, group in enumerate(groups):
            packed = lzma.compress(b"".join(part for study in group for part in encoded(cache, study.case)), preset=6)
            name = f"group-{number:04}.xz"
            rows = [row_of(study, kinds[study.case], cache) for study in group]
            entry = {"file": name, "sha256": sha256_of_bytes(packed), "studies": rows}
            size = len(packed) + ZIP_BYTES + len(json.dumps([[entry]], indent=1))
            if total + size > most_bytes:
                if any(kinds[study.case] != "phantom" for study in group):
                    raise ConfigError(
                        f"the real studies alone have more than --most-mb {most_bytes / 1e6:g} (at {group[0].case} "
                        f"{(total + size) / 1e6:.1f} MB); raise it"
                    )
                left += [study.case for study in group]
                continue
            file.writestr(name, packed)
            total += size
            about.append(entry)
        file.writestr(ABOUT, json.dumps(content | {"groups": about}, indent=1))
    return left


def row_of(study: Study, kind: str, cache: Path) -> dict[str, Any]:
    """What pack.json says of a study: its row without files, its kind, its shape, and the text of its study.json."""
    row = {name: value for name, value in asdict(study).items() if name not in FILES}
    facts = (cache / study.case / "study.json").read_text(encoding="utf-8")
    return {"kind": kind, "row": row, "shape": load(cache, study.case).truth.shape, "facts": facts}


def encoded(cache: Path, case: str) -> Iterator[bytes]:
    """A prepared study's arrays as they are compressed. Raises ConfigError if its points are not of its arrays."""
    study = load(cache, case)
    suv, truth = np.ascontiguousarray(study.suv), np.asarray(study.truth)
    found = points_of(truth, suv, study.voxel_ml)
    if any(not np.array_equal(found[name], getattr(study, name)) for name in POINTS):
        raise ConfigError(f"'{cache / case}' was prepared by another version; delete it and prepare it again")
    yield np.ascontiguousarray(study.hu).tobytes()
    steps = np.diff(suv.view(np.uint16), axis=-1, prepend=np.uint16(0)).astype("<u2").ravel().view(np.uint8)
    yield steps[1::2].tobytes() + steps[0::2].tobytes()
    yield np.packbits(truth).tobytes()


def read_pack(path: Path) -> Pack:
    """What a pack holds. Raises ConfigError for a file that is none, of another version, or damaged."""
    try:
        with zipfile.ZipFile(path) as file:
            if file.getinfo(ABOUT).file_size > MOST_ABOUT_BYTES:
                raise ConfigError(f"'{path}' is no pack: its {ABOUT} is too large; make it with training pack")
            content = json.loads(file.read(ABOUT))
        if content["format"] != PACK_FORMAT or content["cache_format"] != FORMAT:
            raise ConfigError(f"'{path}' is a pack of another version; make it again with training pack")
        rows = [row for group in content["groups"] for row in group["studies"]]
        studies = {row["row"]["case"]: study_of(row["row"]) for row in rows}
        for row in rows:
            check_row(row, path)
        kinds = {row["row"]["case"]: str(row["kind"]) for row in rows}
        source, crop = dict(content["source"]), dict(content["crop"])
    except OSError as error:
        raise ConfigError(f"cannot read the pack '{path}': {error.strerror or error}") from None
    except (zipfile.BadZipFile, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{path}' is no pack, or damaged ({error}); make it with training pack") from None
    return Pack(path=path, studies=studies, kinds=kinds, source=source, crop=crop, groups=content["groups"])


def study_of(row: dict[str, Any]) -> Study:
    """The row of an index whose files did not travel; their paths name nothing."""
    files: dict[str, Any] = {name: PACKED / str(row["case"]) / name for name in FILES}
    return Study(**row | files)


def without_images(studies: Iterable[Study]) -> list[str]:
    """The cases that came from a pack: they are prepared, and their files are not here."""
    return [study.case for study in studies if study.pet.parts[:1] == PACKED.parts and not study.pet.exists()]


def check_row(row: dict[str, Any], path: Path) -> None:
    """Raise ConfigError for a case that is no name of a folder, or a shape that is none of a study."""
    case, shape = row["row"]["case"], row["shape"]
    if not CASE.fullmatch(case):
        raise ConfigError(f"'{path}' names the case {case!r}, which is no name of a folder; it is not unpacked")
    sizes = len(shape) == 3 and all(isinstance(edge, int) and edge > 0 for edge in shape)
    if not sizes or int(np.prod([int(edge) for edge in shape], dtype=object)) > MOST_VOXELS:
        raise ConfigError(f"'{path}', case {case}: the shape {shape} is none of a study; it is not unpacked")


def unpack(pack: Pack, cache: Path, crop: Crop, cases: Iterable[str]) -> None:
    """Put these cases into the cache, where they are not there yet. Raises ConfigError if the pack was made with
    another crop, or if a group is damaged.
    """
    if pack.crop != to_plain(crop):
        raise ConfigError(
            f"pack '{pack.path}' was prepared with the crop {pack.crop}, the plan has {to_plain(crop)}; make a pack of "
            "this plan's run"
        )
    wanted = {case for case in cases if not is_current(pack.studies[case], cache, crop)}
    with zipfile.ZipFile(pack.path) as file:
        for number, group in enumerate(pack.groups):
            if not any(row["row"]["case"] in wanted for row in group["studies"]):
                continue
            check_time(f"{number} of {len(pack.groups)} groups of studies are unpacked")
            for row, (hu, suv, truth) in zip(group["studies"], group_arrays(pack, file, group), strict=True):
                if row["row"]["case"] in wanted:
                    put_into_cache(facts_in(pack, row, crop), cache, hu, suv, truth)


def group_arrays(pack: Pack, file: zipfile.ZipFile, group: dict[str, Any]) -> Iterator[tuple[NDArray[Any], ...]]:
    """HU, SUV and truth of every study of a group, (X, Y, Z). Raises ConfigError if it is damaged."""
    shapes = [tuple(row["shape"]) for row in group["studies"]]
    sizes = [voxels_and_bytes(shape) for shape in shapes]
    expected = sum(size for _, size in sizes)
    try:
        packed = file.read(group["file"])
        if sha256_of_bytes(packed) != group["sha256"]:
            raise ConfigError(f"'{pack.path}' is damaged: {group['file']} has another sha256; copy it again")
        content = lzma.LZMADecompressor().decompress(packed, max_length=expected + 1)
    except (OSError, zipfile.BadZipFile, KeyError, lzma.LZMAError, EOFError) as error:
        raise ConfigError(f"'{pack.path}' is damaged: {group['file']}: {error}; copy it again") from None
    if len(content) != expected:
        raise ConfigError(f"'{pack.path}' is damaged: {group['file']} has not {expected} bytes; copy it again")
    begin = 0
    for shape, (voxels, size) in zip(shapes, sizes, strict=True):
        yield decoded(content[begin : begin + size], shape, voxels)
        begin += size


def voxels_and_bytes(shape: Sequence[int]) -> tuple[int, int]:
    """Voxels of a study, and bytes of its three arrays in a pack."""
    voxels = int(np.prod(shape))
    return voxels, 4 * voxels + -(-voxels // 8)


def decoded(content: bytes, shape: tuple[int, ...], voxels: int) -> tuple[NDArray[Any], ...]:
    """HU int16, SUV float16 and truth bool from what `encoded` gave."""
    hu = np.frombuffer(content, "<i2", voxels).reshape(shape)
    planes = np.frombuffer(content, np.uint8, 2 * voxels, 2 * voxels).reshape(2, voxels)
    steps = (planes[0].astype(np.uint16) << 8 | planes[1]).reshape(shape)
    suv = np.cumsum(steps, axis=-1, dtype=np.uint16).view(np.float16)
    truth = np.unpackbits(np.frombuffer(content, np.uint8, offset=4 * voxels), count=voxels).astype(bool)
    return hu, suv, truth.reshape(shape)


def facts_in(pack: Pack, row: dict[str, Any], crop: Crop) -> dict[str, Any]:
    """What a study's study.json says. Raises ConfigError unless it is of the study that the row names."""
    case = row["row"]["case"]
    try:
        facts = json.loads(row["facts"])
        lengths = [float(mm) for mm in facts["spacing_mm"]]
        if len(lengths) != 3 or not all(0 < mm < MOST_SPACING_MM for mm in lengths):
            raise ValueError(f"spacing_mm is {facts['spacing_mm']}")
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"'{pack.path}', case {case}: its study.json is damaged ({error}); copy it again") from None
    if any(facts.get(key) != value for key, value in key_of(pack.studies[case], crop).items()):
        raise ConfigError(f"'{pack.path}', case {case}: its study.json is of another study; make the pack again")
    return dict(facts)


def put_into_cache(
    facts: dict[str, Any], cache: Path, hu: NDArray[Any], suv: NDArray[Any], truth: NDArray[Any]
) -> None:
    """Write a study into the cache, with the study.json that it was prepared with. Raises OSError."""
    voxel_ml = float(np.prod(facts["spacing_mm"])) / 1000
    store(cache / facts["case"], {"hu": hu, "suv": suv, "truth": truth}, points_of(truth, suv, voxel_ml), facts)
