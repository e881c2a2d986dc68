"""Measurements of one report: scores are read and correlated once, however many tables ask for them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.benchmarks.benchmark import Benchmark, Target, load_benchmark
from harness.correlation import Sample, sample_many
from harness.engine.store import ScoreStore
from harness.errors import HarnessError
from harness.proxies.base import Proxy
from harness.rankings.learned import LEARNED
from harness.rankings.results import PAPER_INPUTS, Reader, Scores, inapplicable

#: Rows times resamples that an interval may cost, and the fewest resamples of any. At 9,445 rows it leaves 264,
#: which places the ends of an interval to about a sixth of a standard error.
BUDGET = 2_500_000
FEWEST = 50


def resamples_for(n: int, most: int) -> int:
    """Bootstrap resamples over n architectures: `most`, on large populations BUDGET / n, but FEWEST at least."""
    return min(most, max(FEWEST, BUDGET // max(n, 1)))


def explain(error: HarnessError, benchmark: str) -> str:
    """Why a benchmark has no accuracies, in words that are the same on every machine."""
    text = str(error)
    try:
        return text.replace(f"{load_benchmark(benchmark).folder}/", f"benchmarks/{benchmark}/")
    except HarnessError:
        return text


@dataclass(frozen=True)
class Column:
    """Scores that a correlation takes: `values` (n,) of the architectures `indices` (n,)."""

    indices: np.ndarray
    values: np.ndarray

    @cached_property
    def rows(self) -> str:
        """Equal for columns of the same architectures."""
        return hashlib.blake2b(self.indices.tobytes(), digest_size=16).hexdigest()

    @cached_property
    def digest(self) -> str:
        """Equal for columns of the same architectures with the same scores."""
        return hashlib.blake2b(self.rows.encode() + self.values.tobytes(), digest_size=16).hexdigest()


@dataclass
class Block:
    """A benchmark's figures for one dataset: what the scores of a table are to predict."""

    benchmark: Benchmark
    reader: Reader
    dataset: str
    target: str | None
    accuracies: np.ndarray
    _populations: dict[str, np.ndarray] = field(default_factory=dict)
    _scores: dict[tuple, Scores] = field(default_factory=dict)
    _samples: dict[tuple, dict[str, Sample]] = field(default_factory=dict)

    @cached_property
    def figure(self) -> Target:
        """What the accuracies are: kind, unit, direction."""
        return self.benchmark.target(self.dataset, self.target)

    def inapplicable(self, spec: str | Proxy) -> str:
        """Why a proxy or what is made of several has no value on these networks; "" where it has."""
        return inapplicable(spec, self.benchmark, self.dataset)

    def admits(self, metric: str) -> bool:
        """Whether a metric means something for the figure: nDCG does for percentages alone."""
        return self.figure.admits(metric)

    def inputs(self, spec: str, inputs: str = PAPER_INPUTS) -> str:
        """The mini-batches that the scores of a proxy or aggregate were computed on; `none` where it reads none."""
        read = {key.inputs for key in self.reader.keys(spec, self.dataset, inputs)} - {"none"}
        return " + ".join(sorted(read)) or "none"

    def stand_in(self, spec: str, inputs: str = PAPER_INPUTS) -> str:
        """What has to be said of the images that the scores were computed from, as `Reader.stand_in`."""
        return self.reader.stand_in(spec, self.dataset, inputs)

    def draws(self, spec: str, inputs: str = PAPER_INPUTS) -> bool:
        """Whether scores depend on the seed."""
        first, second = (self.reader.keys(spec, self.dataset, inputs, seed) for seed in (0, 1))
        return first != second or spec in LEARNED

    def population(self, text: str) -> np.ndarray:
        """Indices of a population's members for which the benchmark stores a figure."""
        if text not in self._populations:
            self._populations[text] = self.benchmark.with_figures(text, self.accuracies)
        return self._populations[text]

    def scores(self, spec: str, population: str, inputs: str = PAPER_INPUTS, seed: int = 0) -> Scores:
        """Stored scores over a population, as `Reader.scores`."""
        key = spec, population, inputs, seed
        if key not in self._scores:
            found = self.reader.scores(spec, self.dataset, self.population(population), inputs, seed, self.target)
            if found.missing:
                return found
            self._scores[key] = found
        return self._scores[key]

    def column(self, population: str, scores: Scores, scored_only: bool = False) -> Column:
        """The members of a population that a correlation may use, with their scores."""
        used = scores.members & np.isfinite(scores.values) if scored_only else scores.members
        return Column(self.population(population)[used], scores.values[used])

    def measure(self, columns: Iterable[Column], metrics: Iterable[str], most: int) -> dict[str, Sample]:
        """Correlations by the columns' digests. Columns of the same architectures share their resamples."""
        metrics = tuple(metrics)
        columns = {column.digest: column for column in columns}
        known = {
            name: self._samples.setdefault((name, resamples_for(len(column.indices), most)), {})
            for name, column in columns.items()
        }
        groups: dict[tuple, dict[str, Column]] = {}
        for name, column in columns.items():
            lacking = tuple(metric for metric in metrics if metric not in known[name])
            if lacking:
                groups.setdefault((column.rows, lacking), {})[name] = column
        for (_, lacking), group in groups.items():
            indices = next(iter(group.values())).indices
            values = {name: column.values for name, column in group.items()}
            found = sample_many(values, self.accuracies[indices], lacking, resamples_for(len(indices), most))
            for name, sample in found.items():
                known[name].update(dict.fromkeys(lacking, sample))
        return {name: _joined([known[name][metric] for metric in metrics], metrics) for name in columns}


def _joined(samples: Sequence[Sample], metrics: Sequence[str]) -> Sample:
    """One sample of all metrics from those that hold them."""
    return Sample(
        samples[0].n,
        samples[0].n_failed,
        {metric: sample.values[metric] for metric, sample in zip(metrics, samples, strict=True)},
        {metric: sample.resampled[metric] for metric, sample in zip(metrics, samples, strict=True)},
    )


class Measurements:
    """The blocks of a report's tables over one store."""

    def __init__(self, store: ScoreStore):
        self.store = store
        self._readers: dict[str, Reader] = {}
        self._blocks: dict[tuple[str, str, str | None], Block] = {}
        self._built: list[tuple[Any, list]] = []

    def once(self, table: Any, build: Callable[[], list]) -> list:
        """The figures of a table, built the first time that any asks for them: the overview counts those of all."""
        for known, cells in self._built:
            if known == table:
                return cells
        cells = build()
        self._built.append((table.copy(), cells))
        return cells

    def reader(self, benchmark: str) -> Reader:
        """Raises UnknownNameError for a benchmark that there is not."""
        if benchmark not in self._readers:
            self._readers[benchmark] = Reader(self.store, load_benchmark(benchmark))
        return self._readers[benchmark]

    def block(self, benchmark: str, dataset: str, target: str | None = None) -> Block:
        """Raises HarnessError where there is no such benchmark, dataset or target, or it has no accuracies."""
        key = benchmark, dataset, target
        if key not in self._blocks:
            reader = self.reader(benchmark)
            accuracies = reader.benchmark.accuracies(dataset, target).to_numpy(dtype=np.float64)
            self._blocks[key] = Block(reader.benchmark, reader, dataset, target, accuracies)
        return self._blocks[key]


def split_dataset(table: Any, entry: str) -> tuple[str, str]:
    """Benchmark and dataset of an entry of a table's `datasets`."""
    benchmark, slash, dataset = entry.rpartition("/")
    return (benchmark, dataset) if slash else (table.benchmark, entry)


def mean_over_seeds(samples: Sequence[Sample], metric: str) -> tuple[float, np.ndarray, float | None]:
    """A metric's mean over seeds, its (R,) resampled means, and its standard deviation over seeds (None: one seed)."""
    values = np.array([sample.values[metric] for sample in samples])
    resampled = np.mean([sample.resampled[metric] for sample in samples], axis=0)
    return float(values.mean()), resampled, float(values.std(ddof=1)) if len(samples) > 1 else None
