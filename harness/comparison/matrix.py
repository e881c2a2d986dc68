"""Named proxies and the others on several datasets: their main metric on each, and mean ranks."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import rankdata

from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
from harness.comparison.field import Comparison
from harness.correlation import metric
from harness.errors import HarnessError
from harness.tables.cells import metric_title


@dataclass(frozen=True)
class Matrix:
    """Comparisons of the same named proxies on several datasets.

    Attributes:
        left_out: why a dataset has no column, by its `BENCHMARK/DATASET`.
    """

    comparisons: tuple[Comparison, ...]
    left_out: Mapping[str, str]

    @property
    def named(self) -> Mapping[str, str]:
        return self.comparisons[0].named

    @property
    def metric(self) -> str:
        return self.comparisons[0].metric

    def value(self, one: Comparison, label: str) -> float:
        """The main metric of a contestant on one dataset; NaN where it has no row."""
        return next((row.estimates[one.metric].value for row in one.rows if row.label == label), math.nan)

    @cached_property
    def mean_ranks(self) -> dict[str, float]:
        """Mean over the datasets of the ranks among the contestants that are ranked on every one of them."""
        ranked = [{row.label: row for row in one.rows if row.rank is not None} for one in self.comparisons]
        shared = [label for label in ranked[0] if all(label in rows for rows in ranked)]
        if not shared:
            return {}
        means = np.mean([rankdata([rows[label].rank for label in shared]) for rows in ranked], axis=0)
        return dict(zip(shared, means.tolist(), strict=True))

    @cached_property
    def order(self) -> list[str]:
        """Labels by mean rank, then those without one by how many datasets they are on."""
        labels = dict.fromkeys(row.label for one in self.comparisons for row in one.rows)
        counts = {label: sum(not math.isnan(self.value(one, label)) for one in self.comparisons) for label in labels}
        return sorted(labels, key=lambda label: (self.mean_ranks.get(label, math.inf), -counts[label], label))

    @property
    def header(self) -> list[str]:
        return ["proxy", "mean rank", *(one.name for one in self.comparisons)]

    def cells(self, label: str) -> list[str]:
        """A contestant's row: on each dataset its value and its rank among all that are ranked there."""
        cells = [label, f"{self.mean_ranks[label]:.2f}" if label in self.mean_ranks else "–"]
        for one in self.comparisons:
            row = next((row for row in one.rows if row.label == label), None)
            if row is None:
                cells.append("–")
                continue
            value = row.estimates[one.metric].value
            ranked = sum(other.rank is not None for other in one.rows)
            rank = f" ({row.rank:g} of {ranked})" if row.rank is not None else ""
            cells.append("undefined" if math.isnan(value) else f"{value:.3f}{rank}")
        return cells

    @property
    def text(self) -> str:
        """What the figures are."""
        samples: dict[str, list[str]] = {}
        for one in self.comparisons:
            samples.setdefault(f"{one.population}, n = {one.n:,}", []).append(one.name)
        places = "; ".join(f"{', '.join(names)}: {text}" for text, names in samples.items())
        better = metric(self.metric).direction
        return (
            f"{metric_title(self.metric)} ({better} is better) and in brackets the rank among all that are complete on "
            f"that dataset's population; the mean rank is among the {len(self.mean_ranks)} that are on every dataset "
            f"here. Seed {self.comparisons[0].place.seed}. {places}."
        )


def places_of(benchmarks: str | Iterable[str], dataset: str | None = None) -> list[tuple[str, str]]:
    """Pairs of a benchmark and a dataset that have accuracies.

    Args:
        benchmarks: `all`; or names of benchmarks, of which all datasets are meant, or `BENCHMARK/DATASET`s.
        dataset: only datasets of this name.

    Raises:
        UnknownNameError: no such benchmark or dataset.
    """
    if benchmarks == "all":
        # One that stands for another's scores under a second name would count them twice.
        benchmarks = [name for name in list_benchmarks() if load_benchmark(name).scores_of == name]
    found = []
    for entry in benchmarks:
        name, _, only = entry.partition("/")
        benchmark = load_benchmark(name)
        names = [benchmark.dataset(only).name] if only else list(benchmark.datasets)
        found += [
            (name, one)
            for one in names
            if dataset in (None, one) and benchmark.has_accuracies and benchmark.targets(one)
        ]
    return found


def compare_over(places: Sequence[tuple[str, str]], compare: Callable[[str, str], Comparison]) -> Matrix:
    """The matrix over several datasets; those that cannot be compared on are left out, with the reason.

    Raises:
        HarnessError: none is left.
    """
    done, left_out = [], {}
    for benchmark, dataset in places:
        try:
            done.append(compare(benchmark, dataset))
        except HarnessError as error:
            left_out[f"{benchmark}/{dataset}"] = str(error)
    if not done:
        reasons = "; ".join(f"{name}: {why}" for name, why in list(left_out.items())[:3])
        raise HarnessError(f"no dataset is left to compare on ({reasons})" if reasons else "no such dataset")
    done.sort(key=lambda one: -len(one.rows))
    return Matrix(tuple(done), left_out)
