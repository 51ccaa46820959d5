"""Whether windows without bright PET may be left out: only where that changes no voxel of any mask that was tried."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from msgspec import structs
from tqdm import tqdm

from model.bundle.manifest import load_bundle
from model.errors import ConfigError, WeightsError
from model.inference.device import choose_device
from model.inference.segment import make_ready, segment_ready
from model.networks.weights import keep, voters
from model.stopwatch import Stopwatch
from model.study.reading import read_case
from training.data.table import Study


def check_skip(folder: Path, studies: Iterable[Study], wanted: str = "auto") -> str:
    """Run every study with all windows and without those that the bundle's skip_suv leaves out; what was found, as a
    line.

    Raises WeightsError at the first mask that differs; ConfigError if no window of any study was left out: then nothing
    was tried.
    """
    bundle, device = load_bundle(folder), choose_device(wanted)
    whole = dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, skip_suv=None))
    level, those = bundle.manifest.skip_suv, keep(voters(bundle), device.torch_device)
    count = run = left_out = 0
    for study in tqdm(list(studies), unit="case", desc="skip", disable=None):
        case = read_case([study.pet, study.ct], bundle.manifest.limits)
        ready = make_ready(case, bundle, Stopwatch())
        every, some = (segment_ready(ready, one, device, Stopwatch(), those=those) for one in (whole, bundle))
        if differ := int(np.count_nonzero(every.mask != some.mask)):
            raise WeightsError(
                f"case {study.case}: {differ} voxels of the mask change when windows without PET above {level:g} are "
                f"left out ({some.skipped} of {every.windows}): no bundle was written; lower --skip-suv, or leave it "
                "away"
            )
        count, run, left_out = count + 1, run + some.windows, left_out + some.skipped
    if not left_out:
        raise ConfigError(
            f"none of {run} windows of {count} cases holds no PET above {level:g}: --skip-suv was not tried by them; "
            "raise it, or give other cases with --skip-index"
        )
    return f"no voxel changes in {count} cases when {left_out} of {run + left_out} windows are left out"
