"""Check that leaving out windows without bright PET changes no voxel of any mask."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from msgspec import structs
from tqdm import tqdm

from model.bundle.manifest import load_bundle
from model.errors import ConfigError, WeightsError
from model.inference.options import SegmentOptions
from model.inference.segment import make_ready, segment_ready
from model.networks.weights import load_now, voters
from model.stopwatch import Stopwatch
from training.bundles.masks import read_for
from training.compute.device import scoring_device
from training.data.table import Study


def check_skip(folder: Path, studies: Iterable[Study], device: str = "auto") -> str:
    """Run every study with all windows, and without the windows that the bundle's skip_suv leaves out.

    Returns the result as a line of text. Raises WeightsError at the first mask that differs; ConfigError if no window
    of any study was left out, for then nothing was tried.
    """
    bundle, used = load_bundle(folder), scoring_device(device)
    whole = dataclasses.replace(bundle, manifest=structs.replace(bundle.manifest, skip_suv=None))
    level, networks = bundle.manifest.skip_suv, load_now(voters(bundle), used.torch_device)
    ways = [SegmentOptions(bundle=one, device=used, voters=networks) for one in (whole, bundle)]
    count = run = left_out = 0
    for study in tqdm(list(studies), unit="case", desc="skip", disable=None):
        case = read_for(bundle, study)
        ready = make_ready(case, bundle, Stopwatch())
        every, some = (segment_ready(ready, way) for way in ways)
        if differ := int(np.count_nonzero(every.mask != some.mask)):
            raise WeightsError(
                f"case {study.case}: {differ} voxels of the mask change when windows without PET above {level:g} are "
                f"left out ({some.skipped} of {every.windows}): no bundle was written; lower --skip-suv, or leave it "
                "out"
            )
        count, run, left_out = count + 1, run + some.windows, left_out + some.skipped
    if not left_out:
        raise ConfigError(
            f"in {count} cases each of {run} windows holds PET above {level:g}, so --skip-suv leaves none out and was "
            "not tried; raise it, or give other cases with --skip-index"
        )
    return f"no voxel changes in {count} cases when {left_out} of {run + left_out} windows are left out"
