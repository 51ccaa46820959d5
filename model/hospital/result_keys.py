"""The keys of results: hashes of all that a result, and its mask, depend on besides the images.

The mask that the networks make depends on its images, the weights, the method, the folds and mirroring, the precision,
the limits, and the weight, dose and time that overrides.csv gives. Every other option (names, formats, RTSTRUCT,
picture, SR, PDF, a truth, rules about lesions) only decides what is made of it. So a result has two keys.
"""

import dataclasses
import hashlib
import json
from typing import Any

from model import __version__
from model.bundle.manifest import Bundle
from model.bundle.settings import Limits
from model.hospital.find.entry import Entry
from model.hospital.job import Job, Options
from model.schema import to_plain


def key_of(bundle: Bundle, limits: Limits, options: Options, entry: Entry, precision: str = "float32") -> str:
    """A hash of all that a study's results depend on besides its files. precision: of the convolutions, resolved."""
    depends = [
        __version__,
        bundle.sha256,
        bundle.manifest.method,
        to_plain(limits),
        options.plain,
        entry.kind,
        len(entry.pet),
        entry.truth is not None,
        entry.weight_kg,
    ]
    given = _given_values(entry, "height_m", "dose_MBq", "injection_time")
    return _hash(depends + given + _compared_with(entry) + _way(bundle, precision))


def edited_key_of(job: Job) -> str:
    """A hash of all that an edited study's results depend on besides its files: the edit stands for the networks."""
    assert job.edit is not None
    entry = job.entry
    depends = [
        __version__,
        ["edited", job.edit.sha256],
        job.options.plain,
        entry.kind,
        len(entry.pet),
        entry.truth is not None,
        entry.weight_kg,
    ]
    return _hash(depends + _given_values(entry, "height_m", "dose_MBq", "injection_time") + _compared_with(entry))


def mask_key_of(bundle: Bundle, limits: Limits, entry: Entry, precision: str = "float32") -> str:
    """A hash of all that a study's mask depends on besides its images."""
    depends = [
        __version__,
        bundle.sha256,
        bundle.manifest.method,
        to_plain(limits),
        entry.kind,
        len(entry.pet),
        entry.weight_kg,
    ]
    return _hash(depends + _given_values(entry, "dose_MBq", "injection_time") + _way(bundle, precision))


def with_keys(job: Job, bundle: Bundle, precision: str) -> Job:
    """The job with the keys of a mask that is computed in this precision."""
    limits, entry = bundle.manifest.limits, job.entry
    return dataclasses.replace(
        job,
        key=key_of(bundle, limits, job.options, entry, precision),
        mask_key=mask_key_of(bundle, limits, entry, precision),
    )


def _given_values(entry: Entry, *names: str) -> list[Any]:
    """The given values of these names as one item; no item if none is given: so older results keep their keys."""
    given = {name: value for name, value in entry.given.items() if name in names}
    return [given] if given else []


def _compared_with(entry: Entry) -> list[Any]:
    """What the numbers of lesions depend on beside SUV, as one item; no item if none of it is given.

    A height stands in it though it has an item of its own: results of before there was SUL are made anew.
    """
    values = {"height_m": entry.height_m, "sex": entry.sex}
    values |= {"liver": entry.liver_sphere, "blood": entry.blood_sphere}
    values |= {"liver_mask": entry.liver_mask is not None, "blood_mask": entry.blood_mask is not None}
    given: dict[str, Any] = {name: value for name, value in values.items() if value}
    return [["compared with", given]] if given else []


def _way(bundle: Bundle, precision: str) -> list[Any]:
    """Folds, mirroring and precision, each as one item, and only where it is not the bundle's own or float32: so older
    results keep their keys.
    """
    own = [["precision", precision]] if precision != "float32" else []
    return ([["changes", *bundle.changes]] if bundle.changes else []) + own


def _hash(depends: list[Any]) -> str:
    return hashlib.sha256(json.dumps(depends).encode()).hexdigest()
