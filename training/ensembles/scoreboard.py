"""What sets of candidates score on validation cases, by EoA and by DiWA (Ahn and Park, algorithms 1 and 2).

Every candidate goes over the cases once; its margins are kept on disk. The mean of logits has the mean of margins
as its own, so what EoA's sets score needs no network any more. Soups of DiWA are run, each distinct one once.
"""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm

from model.inference.device import Device
from model.networks.weights import as_network
from model.results.metrics import Scores
from training.data.prepared import Prepared, load, patient_of
from training.ensembles.candidates import Candidate, soup
from training.runs import checkpoint
from training.runs.batch_norm import keeps_statistics, refreshed
from training.runs.checkpoint import State
from training.runs.predict import (
    digest,
    finite,
    how_computed,
    kept_margin,
    margin,
    read_margin,
    score_margin,
    validation_dice,
)


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Scores of every case, and the seconds that the networks take for one, on average."""

    cases: dict[str, Scores]
    seconds_per_case: float

    @property
    def dice(self) -> float:
        """Mean over the cases that have lesion."""
        dice = validation_dice(self.cases)
        return math.nan if dice is None else dice

    @property
    def fpv_ml(self) -> float:
        """Mean over all cases."""
        return float(np.mean([scores.fpv_ml for scores in self.cases.values()]))

    @property
    def fnv_ml(self) -> float:
        """Mean over all cases."""
        return float(np.mean([scores.fnv_ml for scores in self.cases.values()]))


class Bench:
    """What sets of candidates score on these cases; what was computed once is kept in the folder `keep`."""

    def __init__(
        self, candidates: dict[str, Candidate], cache: Path, cases: Sequence[str], keep: Path, device: Device
    ) -> None:
        self.candidates, self.cache, self.keep, self.device = candidates, cache, keep, device
        self.settings = next(iter(candidates.values())).settings  # network, intensity and window are those of all
        self.studies = {case: load(cache, case) for case in cases}
        self.kept: dict[tuple[str, str], tuple[Path, float]] = {}  # (name, case): margin's file, seconds it took
        self.done: dict[tuple[Any, ...], Judged] = {}

    def run_all(self) -> None:
        """Every candidate over every case, unless it is kept; what the others need. Raises WeightsError."""
        with tqdm(total=len(self.candidates) * len(self.studies), unit="case", desc="predict", disable=None) as bar:
            for one in self.candidates.values():
                network = self._network(checkpoint.read_weights(one.weights), one.weights)
                for case in self.studies:
                    self._run(one, network, case)
                    bar.update()

    def eoa(self, names: Iterable[str]) -> Judged:
        """What the mean of the members' logits scores; a member that stands there twice counts twice."""
        key = ("eoa", *sorted(names))
        if key not in self.done:
            cases = {case: score_margin(self.mean_margin(key[1:], case), s) for case, s in self.studies.items()}
            seconds = sum(self.kept[name, case][1] for name in set(key[1:]) for case in self.studies)
            self.done[key] = Judged(cases=cases, seconds_per_case=seconds / len(cases))
        return self.done[key]

    def diwa(self, names: Iterable[str]) -> Judged:
        """What the network of the members' mean weights scores; of one member, that member."""
        key = ("diwa", *sorted(names))
        if len(set(key[1:])) == 1:
            return self.eoa(key[1:2])
        if key not in self.done:
            self.done[key] = self._soup(key[1:])
        return self.done[key]

    def mean_margin(self, names: Iterable[str], case: str) -> NDArray[Any]:
        """EoA's margin of a case, float32 (X, Y, Z); above 0 is lesion. The same whatever the order of the names."""
        counts = Counter(names)
        total = np.zeros(self.studies[case].truth.shape, np.float32)
        for name in sorted(counts):
            total += read_margin(self.kept[name, case][0]).astype(np.float32) * counts[name]
        return total / counts.total()

    def margin_of(self, method: str, names: Iterable[str]) -> Callable[[Prepared], NDArray[Any]]:
        """What a choice says of any study: the mean margin of its members (eoa), or that of their soup (diwa)."""
        counts = Counter(names)
        if method == "diwa":
            networks = [(1, self.soup_network(counts))]
        else:
            files = [(count, self.candidates[name].weights) for name, count in counts.items()]
            networks = [(count, self._network(checkpoint.read_weights(path), path)) for count, path in files]
        total = sum(count for count, _ in networks)

        def mean(study: Prepared) -> NDArray[Any]:
            parts = [
                count * finite(lambda on, one=one: margin(one, study, self.settings, on), self.device, study.case)
                for count, one in networks
            ]
            return np.sum(np.asarray(parts, dtype=np.float32), axis=0) / total

        return mean

    def soup_margin(self, names: Iterable[str], case: str) -> NDArray[Any]:
        """DiWA's margin of a case, (X, Y, Z)."""
        return self._margin(self.soup_network(tuple(names)), case)

    def _soup(self, names: tuple[str, ...]) -> Judged:
        of = [sorted(self.candidates[name].sha256 for name in names), [s.sha256 for s in self.studies.values()]]
        path = self.keep / f"soup-{digest([*of, how_computed(self.settings, self.device)])}.json"
        if not path.exists():
            network, cases, seconds = self.soup_network(names), {}, 0.0
            for case, study in self.studies.items():
                begun = time.perf_counter()
                out = self._margin(network, case)
                seconds += time.perf_counter() - begun
                cases[case] = asdict(score_margin(out, study))
            checkpoint.write_json(path, {"members": names, "cases": cases, "seconds_per_case": seconds / len(cases)})
        kept = checkpoint.read_json(path)
        cases = {case: Scores(**scores) for case, scores in kept["cases"].items()}
        return Judged(cases=cases, seconds_per_case=kept["seconds_per_case"])

    def soup_network(self, names: Iterable[str] | Mapping[str, int]) -> nn.Module:
        """The network of the members' mean weights, each as often as it is named; its batch statistics made anew.

        They are made on training slices as one of the members draws them, always the same one whatever else is on the
        bench. One member alone is that member, with the statistics it has.
        """
        counts = Counter(names)
        network = self._network(soup([(self.candidates[name].weights, counts[name]) for name in sorted(counts)]))
        first = min((self.candidates[name] for name in counts), key=lambda one: one.sha256)
        fixed = all(self.candidates[name].settings.fixed_statistics for name in counts)
        if not keeps_statistics(self.settings.network) or fixed or len(counts) == 1:  # then no study need be looked for
            return network
        settings = first.settings.changed_to(fixed_statistics=False)  # of another member they are not
        return refreshed(network, settings, self.cache, self.seen_in_common(counts), self.device)

    def seen_in_common(self, names: Iterable[str]) -> list[str]:
        """Cases of the cache that trained all of these members."""
        common = frozenset.intersection(*(self.candidates[name].seen.cases for name in names))
        return sorted(case for case in common if patient_of(self.cache, case) is not None)

    def _margin(self, network: nn.Module, case: str) -> NDArray[Any]:
        study = self.studies[case]
        return finite(lambda on: margin(network, study, self.settings, on), self.device, f"a soup, case {case}")

    def _run(self, one: Candidate, network: nn.Module, case: str) -> None:
        def compute(on: Device) -> NDArray[Any]:
            kept = kept_margin(self.keep, one.sha256, self.studies[case], network, self.settings, on)
            self.kept[one.name, case] = kept
            return read_margin(kept[0])

        finite(compute, self.device, f"'{one.weights}', case {case}")

    def _network(self, state: State, where: Path | str = "a soup") -> nn.Module:
        return as_network(self.settings.network, state, Path(where)).to(self.device.torch_device)
