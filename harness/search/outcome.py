"""What a search on a benchmark comes to: the stored accuracy of the cell that it holds, as evaluations go by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import bootstrap

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.store import ScoreStore, open_store
from harness.rankings.results import PAPER_INPUTS, Reader
from harness.search.algorithms import get_algorithm
from harness.search.engine import Budget, Ceilings, Run
from harness.search.objective import StoredScores
from harness.search.tabular import TabularSpace
from harness.seeds import stable_rng


@dataclass(frozen=True)
class Interval:
    """A mean over runs with its 95% interval (percentile bootstrap of the mean)."""

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, values: np.ndarray) -> Interval:
        """Of values (runs,)."""
        mean = float(np.mean(values))
        if len(values) < 2 or np.ptp(values) == 0:
            return cls(mean, mean, mean)
        found = bootstrap(
            (values,), np.mean, n_resamples=2000, method="percentile", rng=stable_rng("interval of a mean")
        )
        return cls(mean, float(found.confidence_interval.low), float(found.confidence_interval.high))


@dataclass(frozen=True)
class Outcome:
    """Runs of one search on one benchmark and dataset.

    Attributes:
        accuracy: (runs, evaluations) percent, of the best member so far by the proxies.
        seconds: (runs, evaluations) time that scoring the distinct networks met so far took when they were stored.
        oracle: the best accuracy in the population. mean: its mean accuracy. members: its size.
        distinct: (runs,) number of distinct networks met.
        scattered: whether moves go to the nearest member (`TabularSpace`).
    """

    accuracy: np.ndarray
    seconds: np.ndarray
    oracle: float
    mean: float
    members: int
    distinct: np.ndarray
    scattered: bool

    @property
    def final(self) -> Interval:
        """Accuracy of what the runs found."""
        return Interval.of(self.accuracy[:, -1])


class TabularSearches:
    """Searches on one population of a benchmark, which share its coding and the columns of its scores.

    Args:
        scores: an open store, or what `open_store` opens.
    """

    def __init__(
        self,
        benchmark: str,
        dataset: str,
        population: str,
        scores: ScoreStore | str | None = None,
        target: str | None = None,
        seed: int = 0,
    ):
        self.benchmark = load_benchmark(benchmark)
        self.population, self.score_seed = population, seed
        self.space = TabularSpace(
            self.benchmark, self.benchmark.dataset(dataset), self.benchmark.population(population)
        )
        self.accuracies = self.benchmark.accuracies(dataset, target).to_numpy()[self.space.population]
        store = scores if isinstance(scores, ScoreStore) else open_store(scores)
        self._reader = Reader(store, self.benchmark)

    def objective(self, proxies: Sequence[str]) -> StoredScores:
        """Raises HarnessError where scores are missing."""
        return StoredScores(self.space, self._reader, proxies, self.population, PAPER_INPUTS, self.score_seed)

    def run(
        self,
        objective: StoredScores,
        algorithm: str,
        budget: str,
        seed: int,
        ceilings: Ceilings | None = None,
        combine: str = "normalised_sum",
    ) -> Run:
        """One run, not yet started."""
        return Run(self.space, objective, get_algorithm(algorithm), Budget.parse(budget), seed, ceilings, combine)

    def accuracy_of(self, run: Run) -> np.ndarray:
        """(evaluations,) accuracy of the best member after each evaluation."""
        rows = np.array([self.space.row(genotype) for genotype in run.state.history])
        return self.accuracies[rows[run.incumbents()]]

    def outcome(self, runs: Sequence[Run]) -> Outcome:
        """What runs came to that are over. Shorter ones (of a time budget) keep their last accuracy."""
        length = max(len(run.state.history) for run in runs)

        def padded(values: np.ndarray) -> np.ndarray:
            return np.concatenate([values, np.full(length - len(values), values[-1])])

        return Outcome(
            np.stack([padded(self.accuracy_of(run)) for run in runs]),
            np.stack([padded(np.cumsum(run.state.costs)) for run in runs]),
            float(np.nanmax(self.accuracies)),
            float(np.nanmean(self.accuracies)),
            len(self.accuracies),
            np.array([len({self.space.row(genotype) for genotype in run.state.history}) for run in runs]),
            self.space.scattered,
        )
