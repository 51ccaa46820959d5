"""Score sets of candidates on validation cases, by EoA and by DiWA (Ahn and Park, algorithms 1 and 2).

Every candidate is run once over the cases, and its margins are kept on disk. The margin of the mean logits is the mean
of the margins, so the sets of EoA are scored without running a network again. For DiWA each different soup is run once.
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
from training.data.prepared import Prepared, load, patients_of
from training.ensembles.candidates import Candidate, soup
from training.judging.predict import (
    digest,
    finite,
    how_computed,
    kept_margin,
    margin,
    read_margin,
    score_margin,
    validation_dice,
)
from training.stopping import check_time
from training.weights import checkpoint
from training.weights.batch_norm import keeps_statistics, refreshed
from training.weights.checkpoint import State


@dataclass(frozen=True, kw_only=True)
class SetScores:
    """Scores of a set on every case, and the mean of the seconds that its networks take for one."""

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


class Scoreboard:
    """Scores of sets of candidates on these cases; margins and soups' scores are kept in the folder `keep`."""

    def __init__(
        self, candidates: dict[str, Candidate], cache: Path, cases: Sequence[str], keep: Path, device: Device
    ) -> None:
        self.candidates, self.cache, self.keep, self.device = candidates, cache, keep, device
        self.settings = next(iter(candidates.values())).settings  # all have the same network, intensity and window
        self.studies = {case: load(cache, case) for case in cases}
        self.kept: dict[tuple[str, str], tuple[Path, float]] = {}  # (name, case): margin's file, seconds it took
        self.scores: dict[tuple[str, ...], SetScores] = {}  # by method and sorted names

    def run_all(self) -> None:
        """Run every candidate over every case, where no margin is kept yet; `eoa` needs it. Raises WeightsError."""
        with tqdm(total=len(self.candidates) * len(self.studies), unit="case", desc="predict", disable=None) as bar:
            for one in self.candidates.values():
                network = self._network(checkpoint.read_weights(one.weights), one.weights)
                for case in self.studies:
                    longest = max((seconds for _, seconds in self.kept.values()), default=0.0)
                    check_time(f"'{one.name}' is to be run over {len(self.studies)} cases", longest)
                    self._run(one, network, case)
                    bar.update()

    def eoa(self, names: Iterable[str]) -> SetScores:
        """Scores of the mean of the members' logits; a member that is named twice counts twice."""
        key = ("eoa", *sorted(names))
        if key not in self.scores:
            cases = {case: score_margin(self.mean_margin(key[1:], case), s) for case, s in self.studies.items()}
            seconds = sum(self.kept[name, case][1] for name in set(key[1:]) for case in self.studies)
            self.scores[key] = SetScores(cases=cases, seconds_per_case=seconds / len(cases))
        return self.scores[key]

    def diwa(self, names: Iterable[str]) -> SetScores:
        """Scores of the network of the members' mean weights; of one member alone, that member's."""
        key = ("diwa", *sorted(names))
        if len(set(key[1:])) == 1:
            return self.eoa(key[1:2])
        if key not in self.scores:
            self.scores[key] = self._soup(key[1:])
        return self.scores[key]

    def mean_margin(self, names: Iterable[str], case: str) -> NDArray[Any]:
        """EoA's margin of a case, float32 (X, Y, Z); above 0 is lesion. The order of the names does not matter."""
        counts = Counter(names)
        total = np.zeros(self.studies[case].truth.shape, np.float32)
        for name in sorted(counts):
            total += read_margin(self.kept[name, case][0]).astype(np.float32) * counts[name]
        return total / counts.total()

    def margin_of(self, method: str, names: Iterable[str]) -> Callable[[Prepared], NDArray[Any]]:
        """A function that gives any study's margin: the mean of the members' (eoa), or that of their soup (diwa)."""
        counts = Counter(names)
        if method == "diwa":
            networks = [(1, self.soup_network(counts))]
        else:
            files = [(count, self.candidates[name].weights) for name, count in counts.items()]
            networks = [(count, self._network(checkpoint.read_weights(path), path)) for count, path in files]
        total = sum(count for count, _ in networks)

        def mean(study: Prepared) -> NDArray[Any]:
            summed = np.zeros(study.truth.shape, np.float32)
            for count, network in networks:
                summed += count * self._margin(network, study, study.case).astype(np.float32)
            return summed / total

        return mean

    def soup_margin(self, names: Iterable[str], case: str) -> NDArray[Any]:
        """DiWA's margin of a case, (X, Y, Z)."""
        return self._soup_margin(self.soup_network(names), case)

    def _soup(self, names: tuple[str, ...]) -> SetScores:
        members = sorted(self.candidates[name].sha256 for name in names)
        studies = [study.sha256 for study in self.studies.values()]
        path = self.keep / f"soup-{digest([members, studies, how_computed(self.settings, self.device)])}.json"
        if not path.exists():
            network, seconds, longest = self.soup_network(names), 0.0, 0.0
            cases: dict[str, dict[str, Any]] = {}
            for case, study in self.studies.items():
                check_time(f"the soup of {', '.join(names)} is to be scored", longest)
                begun = time.perf_counter()
                margin_of_case = self._soup_margin(network, case)
                longest = max(longest, time.perf_counter() - begun)
                seconds += time.perf_counter() - begun
                cases[case] = asdict(score_margin(margin_of_case, study))
            checkpoint.write_json(path, {"members": names, "cases": cases, "seconds_per_case": seconds / len(cases)})
        kept = checkpoint.read_json(path)
        return SetScores(
            cases={case: Scores(**scores) for case, scores in kept["cases"].items()},
            seconds_per_case=kept["seconds_per_case"],
        )

    def soup_network(self, names: Iterable[str] | Mapping[str, int]) -> nn.Module:
        """The network of the members' mean weights, each as often as it is named; its batch statistics computed anew.

        They are computed on training slices as one of the members draws them: the one of the smallest sha256, so that
        the other candidates do not matter. One member alone keeps its own statistics.
        """
        counts = Counter(names)
        network = self._network(soup([(self.candidates[name].weights, counts[name]) for name in sorted(counts)]))
        first = min((self.candidates[name] for name in counts), key=lambda one: one.sha256)
        fixed = all(self.candidates[name].settings.fixed_statistics for name in counts)
        if not keeps_statistics(self.settings.network) or fixed or len(counts) == 1:
            return network
        settings = first.settings.changed_to(fixed_statistics=False)  # another member's are not fixed
        return refreshed(network, settings, self.cache, self.common_training_cases(counts), self.device)

    def common_training_cases(self, names: Iterable[str]) -> list[str]:
        """Cases of the cache that trained all of these members."""
        common = frozenset.intersection(*(self.candidates[name].seen.cases for name in names))
        return sorted(case for case in common if patients_of(self.cache, case))

    def _soup_margin(self, network: nn.Module, case: str) -> NDArray[Any]:
        return self._margin(network, self.studies[case], f"a soup, case {case}")

    def _margin(self, network: nn.Module, study: Prepared, what: str) -> NDArray[Any]:
        return finite(lambda on: margin(network, study, self.settings, on), self.device, what)

    def _run(self, one: Candidate, network: nn.Module, case: str) -> None:
        """Compute a margin, or find it in `keep`; note its file and the seconds it took."""

        def compute(on: Device) -> NDArray[Any]:
            kept = kept_margin(self.keep, one.sha256, self.studies[case], network, self.settings, on)
            self.kept[one.name, case] = kept
            return read_margin(kept[0])

        finite(compute, self.device, f"'{one.weights}', case {case}")

    def _network(self, state: State, where: Path | str = "a soup") -> nn.Module:
        return as_network(self.settings.network, state, Path(where)).to(self.device.torch_device)
