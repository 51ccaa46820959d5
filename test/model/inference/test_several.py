import gc
import threading
import weakref

import numpy as np
import pytest
from cases import case_of
from tiny_studies import tiny_images

from model.bundle.manifest import load_bundle
from model.errors import CaseError
from model.inference.options import SegmentOptions
from model.inference.segment import segment
from model.inference.several import segment_each


@pytest.mark.slow
def test_every_study_has_the_mask_that_it_has_alone(tiny_bundle, cpu) -> None:
    options = SegmentOptions(bundle=load_bundle(tiny_bundle), device=cpu)
    pet, ct = tiny_images()
    cases = [case_of(pet, ct), case_of(pet * 2, ct), case_of(pet * 0, ct)]
    found = list(segment_each(range(3), cases.__getitem__, options))
    for case, (same, result) in zip(cases, found, strict=True):
        assert same is case
        np.testing.assert_array_equal(result.mask, segment(case, options).mask)


def test_the_next_study_is_read_before_the_present_one_is_done(tiny_bundle, cpu) -> None:
    case, read = case_of(*tiny_images()), [threading.Event() for _ in range(3)]
    studies = segment_each(
        range(3), lambda n: read[n].set() or case, SegmentOptions(bundle=load_bundle(tiny_bundle), device=cpu)
    )
    next(studies)
    assert read[1].wait(30) and not read[2].is_set()


def test_an_error_of_reading_is_raised_when_the_study_s_turn_comes(tiny_bundle, cpu) -> None:
    case, done = case_of(*tiny_images()), 0

    def read(number: int):
        if number == 1:
            raise CaseError("damaged")
        return case

    try:
        for _ in segment_each(range(3), read, SegmentOptions(bundle=load_bundle(tiny_bundle), device=cpu)):
            done += 1
    except CaseError as error:
        assert str(error) == "damaged"
    assert done == 1


@pytest.mark.slow
def test_no_more_than_three_studies_are_in_memory(tiny_bundle, cpu) -> None:
    """That which was given out, the present one and the next: so five studies need no more memory than three."""
    there: set[int] = set()
    most = 0

    def read(number: int):
        nonlocal most
        gc.collect()
        case = case_of(*tiny_images())
        there.add(number)
        weakref.finalize(case, there.discard, number)
        most = max(most, len(there))
        return case

    for case, result in segment_each(range(5), read, SegmentOptions(bundle=load_bundle(tiny_bundle), device=cpu)):
        del case, result
    assert 1 < most <= 3
