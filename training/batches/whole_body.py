"""The whole-body strategy of Zhong et al. (section 2.1): which slices an epoch trains on, and in which order."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from training.settings import WholeBody

Slice = tuple[str, int]  # case, and z in the network's order


@dataclass(frozen=True, kw_only=True)
class SliceOrder:
    """Slices of an epoch: all that show a lesion, and between them, evenly, whole bodies of a group of patients.

    lesion: slices that show one; whole: every slice of every patient; both of the training part of one fold.

    Patients stand in a circle, in an order of the seed. A group is the next patients who together have at least alpha
    times as many slices as `lesion`; each epoch draws that many of their slices. After beta epochs comes the next
    group, which shares a part `overlap` of its patients (25 % in the paper), at least one, with the last; after the
    last group comes the first. Nine patients, in groups of four:

        patients   0 1 2 3 4 5 6 7 8
        group 0    x x x x              epochs 0 to beta - 1
        group 1          x x x x        epochs beta to 2 beta - 1: patient 3 again
        group 2    x           x x x    patient 6 again, and patient 0, who is in group 0, too

    If they do not divide so evenly, the last group shares more with the first. With an overlap a group has at least
    two patients.
    """

    lesion: Sequence[Slice]
    whole: Mapping[str, Sequence[Slice]]  # by patient
    settings: WholeBody
    seed: int = 0

    @property
    def wanted(self) -> int:
        """Slices of whole bodies in an epoch."""
        everything = sum(map(len, self.whole.values()))
        if not self.settings.lesion:
            return everything
        return min(round(self.settings.alpha * len(self.lesion)), everything)

    def shortage(self) -> str | None:
        """A warning if alpha asks for more slices of whole bodies than there are; else None."""
        if not self.settings.lesion or round(self.settings.alpha * len(self.lesion)) <= self.wanted:
            return None
        return (
            f"alpha {self.settings.alpha:g} asks for more slices of whole bodies than there are, {self.wanted} for "
            f"{len(self.lesion)} with lesion: it is {self.wanted / len(self.lesion):.2f}, all patients in one group"
        )

    def groups(self) -> list[list[str]]:
        """The patients of every group, in the order of the circle."""
        circle = sorted(self.whole)
        circle = [circle[number] for number in np.random.default_rng([self.seed, 0]).permutation(len(circle))]
        found: list[list[str]] = []
        first = 0
        again, least = self.settings.overlap, 2 if self.settings.overlap else 1
        while self.wanted and first < len(circle):
            group: list[str] = []
            slices = 0
            while (slices < self.wanted or len(group) < least) and len(group) < len(circle):
                group.append(circle[(first + len(group)) % len(circle)])
                slices += len(self.whole[group[-1]])
            found.append(group)
            if len(group) == len(circle):
                break
            first += max(len(group) - max(round(again * len(group)), least - 1), 1)
        return found

    def epoch(self, number: int) -> list[Slice]:
        """The slices of an epoch: slices with lesion, shuffled, and between them, evenly, slices of whole bodies.

        The same number of slices in every epoch.
        """
        rng = np.random.default_rng([self.seed, 1, number])
        base = list(self.lesion) if self.settings.lesion else []
        base = [base[i] for i in rng.permutation(len(base))]
        groups = self.groups()
        added: list[Slice] = []
        if groups:
            group = groups[number // self.settings.beta % len(groups)]
            added = [slice_ for patient in group for slice_ in self.whole[patient]]
            added = [added[i] for i in rng.permutation(len(added))[: self.wanted]]
        return spread(base, added)

    def __len__(self) -> int:
        """Slices of an epoch."""
        return (len(self.lesion) if self.settings.lesion else 0) + self.wanted


def spread(base: Sequence[Slice], added: Sequence[Slice]) -> list[Slice]:
    """Both, each in its order, the added at even intervals: a b a b if as many, a a b a a b if half as many."""
    places = [
        ((number + 1) / len(part), which, slice_)
        for which, part in enumerate((base, added))
        for number, slice_ in enumerate(part)
    ]
    return [slice_ for _, _, slice_ in sorted(places, key=lambda place: place[:2])]
