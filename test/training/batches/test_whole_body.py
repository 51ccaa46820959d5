import pytest

from training.batches.whole_body import SliceOrder, spread
from training.settings import WholeBody


def order(patients: int = 9, slices: int = 10, lesions: int = 40, seed: int = 0, **settings) -> SliceOrder:
    whole = {f"p{n}": [(f"p{n}", z) for z in range(slices)] for n in range(patients)}
    lesion = [(f"p{n % patients}", n // patients) for n in range(lesions)]
    return SliceOrder(lesion=lesion, whole=whole, settings=WholeBody(**settings), seed=seed)


def test_groups_are_as_drawn_in_the_docstring() -> None:
    """Nine patients of ten slices, forty slices with lesion: four patients a group, one of them met again."""
    groups = order().groups()
    assert [len(group) for group in groups] == [4, 4, 4]
    circle = groups[0] + groups[1][1:] + groups[2][1:-1]
    assert sorted(circle) == [f"p{n}" for n in range(9)]
    for group, following in zip(groups, [*groups[1:], groups[0]], strict=True):
        assert group[-1] == following[0] and len({*group} & {*following}) == 1


@pytest.mark.parametrize(("alpha", "overlap", "patients"), [(0.5, 0.25, 11), (1, 0.25, 10), (2, 0.5, 25), (1, 0.0, 7)])
def test_every_patient_comes_and_neighbours_share_at_least_the_overlap(alpha, overlap, patients) -> None:
    groups = order(patients=patients, alpha=alpha, overlap=overlap).groups()
    assert {patient for group in groups for patient in group} == {f"p{n}" for n in range(patients)}
    for group, following in zip(groups, [*groups[1:], groups[0]], strict=True):
        assert len(group) == len(set(group)) == min(round(alpha * 4), patients)
        again = max(round(overlap * len(group)), int(overlap > 0))
        assert len({*group} & {*following}) >= again or len(groups) == 1


@pytest.mark.parametrize("alpha", [0, 0.5, 1, 2])
def test_an_epoch_has_every_slice_with_lesion_and_alpha_times_as_many_of_whole_bodies(alpha) -> None:
    made = order(alpha=alpha)
    for epoch in range(7):
        found = made.epoch(epoch)
        assert len(found) == len(made) == 40 + alpha * 40
        counts = {item: found.count(item) for item in made.lesion}
        assert min(counts.values()) >= 1
        extra = list(found)
        for item in made.lesion:
            extra.remove(item)
        assert len(set(extra)) == len(extra) == alpha * 40


@pytest.mark.parametrize(("patients", "slices", "lesions"), [(20, 30, 50), (4, 20, 8), (5, 10, 12)])
def test_every_slice_of_every_patient_comes_in_time(patients, slices, lesions) -> None:
    """Groups hold more slices than an epoch takes: what one epoch leaves out, another of the same group shows."""
    made = order(patients=patients, slices=slices, lesions=lesions, beta=40)
    rounds = made.settings.beta * len(made.groups())
    seen = {item for epoch in range(rounds) for item in made.epoch(epoch)}
    assert seen == {item for part in made.whole.values() for item in part}


def test_the_group_changes_after_beta_epochs_and_comes_round() -> None:
    made = order(beta=5)

    def patients(epoch: int) -> set[str]:
        extra = made.epoch(epoch)
        for item in made.lesion:
            extra.remove(item)
        return {case for case, _ in extra}

    groups = [set(group) for group in made.groups()]
    assert [patients(epoch) for epoch in (0, 4, 5, 9, 10, 14, 15)] == [
        groups[0],
        groups[0],
        groups[1],
        groups[1],
        groups[2],
        groups[2],
        groups[0],
    ]


def test_asking_for_more_slices_than_there_are_gives_each_once() -> None:
    made = order(patients=3, alpha=5)
    assert len(made.groups()) == 1 and len(made) == 40 + 30
    alone = order(lesion=False)
    assert sorted(alone.epoch(0)) == sorted(slice_ for part in alone.whole.values() for slice_ in part)
    assert len(alone) == 90


def test_an_epoch_is_a_function_of_seed_and_number() -> None:
    assert order().epoch(3) == order().epoch(3)
    assert order().epoch(3) != order().epoch(4)
    assert order().epoch(3) != order(seed=1).epoch(3)


def test_added_slices_lie_at_even_intervals() -> None:
    a, b = [("a", n) for n in range(6)], [("b", n) for n in range(3)]
    assert "".join(case for case, _ in spread(a, b)) == "aabaabaab"
    assert "".join(case for case, _ in spread(b, b)) == "bbbbbb"
    assert "".join(case for case, _ in spread(a[:3], b)) == "ababab"
    assert spread(a, []) == a and spread([], b) == b


def test_asking_for_more_slices_than_there_are_gives_a_warning() -> None:
    """Ninety slices of nine patients for forty with lesion."""
    assert order(alpha=2).shortage() is None and order(lesion=False).shortage() is None
    assert "90 for 40 with lesion: it is 2.25" in (order(alpha=3).shortage() or "")
