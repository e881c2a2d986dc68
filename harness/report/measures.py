"""What the plots and the page show: which proxies are complete over which population, and how well they rank.

A figure is given only over a population of which every score is stored. A proxy that lacks some is shown on a
sample on which it is complete, with its n, or not at all, with the command that fills it: never as a mean over
what happens to be there.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness import correlation
from harness.benchmarks.benchmark import Benchmark, Target, list_benchmarks, load_benchmark
from harness.correlation import Estimate, Metric, correlate_many
from harness.correlation.points import ndcg_at
from harness.engine.alike import alike
from harness.engine.store import ScoreKey, ScoreStore
from harness.errors import HarnessError
from harness.proxies import available, get_proxy
from harness.proxies.base import Proxy
from harness.rankings.aggregates import AGGREGATES
from harness.rankings.results import PAPER_INPUTS, Reader, Scores, inapplicable, inputs_of, scoring_commands
from harness.report.printed import Printed, paper_tables, printed
from harness.tables.cells import metric_title
from harness.tables.measure import resamples_for

#: Populations looked at, where a space has them, besides those that the tables of its benchmark name.
POPULATIONS = ("all", "no_dead_ops", "no_dead_ops.sample(1000, seed=0)", "sample(1000, seed=0)", "sample(300, seed=0)")

#: Shares of the population, most accurate first, inside which a proxy has to rank on its own.
BANDS = {"all": 1.0, "top 10%": 0.1, "top 1%": 0.01}


class Entry(NamedTuple):
    """A proxy with its settings or an aggregate, on one kind of mini-batches (`paper`: an aggregate's members')."""

    proxy: str
    inputs: str

    @property
    def family(self) -> str:
        """The proxy's name without settings."""
        return self.proxy.split(":")[0]

    def on_paper_inputs(self, dataset: str) -> bool:
        """Whether the mini-batches are of the paper's kind."""
        return self.inputs == PAPER_INPUTS or self.inputs == inputs_of(get_proxy(self.proxy), PAPER_INPUTS, dataset)

    def is_default(self, dataset: str) -> bool:
        """Whether settings and mini-batches are those of the paper."""
        return self.family == self.proxy and self.on_paper_inputs(dataset)

    def title(self, dataset: str) -> str:
        """The proxy, followed by its mini-batches where they are not the paper's."""
        return self.proxy if self.on_paper_inputs(dataset) else f"{self.proxy} ({self.inputs})"


class Series(NamedTuple):
    """Scores (n,) of one entry over a population, beside the accuracies (n,) of the architectures `indices` (n,)."""

    population: str
    indices: np.ndarray
    scores: np.ndarray
    accuracies: np.ndarray
    seconds: float


def metric_heading(chosen: Metric, unit: str = "") -> str:
    """A metric with its direction, for an axis; a regret with the unit of what is ranked, where that is one."""
    shown = f" ({'percentage points' if unit == '%' else unit})" if unit and chosen.name.startswith("regret") else ""
    return f"{metric_title(chosen.name)}{shown}, {chosen.direction} is better"


def figure_heading(figure: Target) -> str:
    """What a benchmark stores of its architectures, with its unit, for an axis."""
    unit = f" ({figure.unit})" if figure.unit else ""
    return f"{figure.kind}{unit}" + ("" if figure.higher_is_better else ", lower is better")


def is_sample(population: str) -> bool:
    """Whether a population is a sample of another one."""
    return "sample(" in population


def whole(population: str) -> str:
    """The population that a sample is drawn from; a population that is none is its own."""
    base = population.partition("sample(")[0].rstrip(" ./:") if is_sample(population) else population
    return base or "all"


class Board:
    """The stored scores of one benchmark and dataset.

    Args:
        reader: of the benchmark's scores; boards of several datasets may share it.
        populations: those looked at; one that the space does not have is left out.
    """

    def __init__(self, reader: Reader, dataset: str, populations: Sequence[str] = POPULATIONS):
        self.reader, self.benchmark, self.dataset = reader, reader.benchmark, dataset
        own = self.benchmark.populations_of_card
        self._asked = (*populations, *own, *_table_populations(self.benchmark.name))

    @cached_property
    def populations(self) -> dict[str, np.ndarray]:
        """Indices of the architectures that have an accuracy, by population, the largest first."""
        found = {}
        for population in dict.fromkeys(self._asked):
            try:
                found[population] = self.benchmark.with_figures(population, self._accuracies)
            except HarnessError:  # another space's population, or a sample larger than this benchmark
                continue
        return dict(sorted(found.items(), key=lambda item: (-len(item[1]), item[0])))

    @cached_property
    def _accuracies(self) -> np.ndarray:
        return self.benchmark.accuracies(self.dataset).to_numpy()

    @cached_property
    def _stored(self) -> set[ScoreKey]:
        """The benchmark's partitions that the store holds, and those that it can read from another dataset's."""
        return set(_served(self.reader.store.keys(), self.benchmark))

    @cached_property
    def entries(self) -> list[Entry]:
        """Proxies of which scores are stored, and aggregates of such proxies, sorted."""
        found = set()
        for key in self._stored:
            if key.dataset == self.dataset and _known(key.proxy) is not None:
                found.add(Entry(key.proxy, key.inputs))
        found |= {Entry(name, PAPER_INPUTS) for name in AGGREGATES if self.seeds(Entry(name, PAPER_INPUTS))}
        return sorted(found)

    def seeds(self, entry: Entry) -> list[int]:
        """Seeds under which every part of an entry has scores."""
        drawn = sorted({key.seed for key in self._stored})
        keys = {seed: self.keys(entry, seed) for seed in drawn}
        return [s for s in drawn if self._stored.issuperset(keys[s]) and (s == 0 or any(k.seed for k in keys[s]))]

    def keys(self, entry: Entry, seed: int = 0) -> tuple[ScoreKey, ...]:
        """The partitions that the scores of an entry are read from."""
        return self.reader.keys(entry.proxy, self.dataset, entry.inputs, seed)

    def scores(self, entry: Entry, population: str, seed: int = 0) -> Scores:
        """Scores of an entry over a population; `missing` says what the store lacks."""
        return self.reader.scores(entry.proxy, self.dataset, self.populations[population], entry.inputs, seed)

    def series(self, entry: Entry, population: str, seed: int = 0) -> Series | None:
        """The scores of an entry over a population, or None where one is missing."""
        found = self.scores(entry, population, seed)
        if found.missing:
            return None
        indices = self.populations[population]
        return Series(population, indices, found.values, self._accuracies[indices], found.seconds)

    @cached_property
    def complete(self) -> dict[Entry, list[str]]:
        """The populations over which all scores of an entry are stored; entries that have none are left out."""
        found = {entry: self.complete_on(entry) for entry in self.entries if 0 in self.seeds(entry)}
        return {entry: names for entry, names in found.items() if names}

    def complete_on(self, entry: Entry) -> list[str]:
        """The populations, largest first, over which all scores of an entry are stored."""
        return [name for name in self.populations if not self.scores(entry, name).missing]

    def commands(self, entries: Iterable[Entry], population: str, seed: int = 0) -> list[str]:
        """Commands that compute what the entries lack over a population."""
        keys = {key for entry in entries for key in self.scores(entry, population, seed).missing}
        return list(dict.fromkeys(scoring_commands(((population, key) for key in keys), self.reader.store).values()))

    def defaults(self) -> list[Entry]:
        """Every proxy that applies to the space, with its defaults on its paper's mini-batches, and every aggregate."""
        names = [name for name in available() if not inapplicable(name, self.benchmark, self.dataset)]
        proxies = [Entry(name, inputs_of(get_proxy(name), PAPER_INPUTS, self.dataset)) for name in names]
        return proxies + [Entry(name, PAPER_INPUTS) for name in AGGREGATES]


def boards(store: ScoreStore) -> list[Board]:
    """A board of each dataset of each benchmark of which the store has scores."""
    keys = store.keys()
    found = []
    for name in list_benchmarks():
        reader = Reader(store, load_benchmark(name))
        benchmark = reader.benchmark
        stored = {key.dataset for key in _served(keys, benchmark)}
        known = [name for name in benchmark.datasets if benchmark.has_accuracies and benchmark.targets(name)]
        found += [Board(reader, dataset) for dataset in known if dataset in stored]
    return found


def _served(keys: Iterable[ScoreKey], benchmark: Benchmark) -> Iterator[ScoreKey]:
    """Those of the partitions that are the benchmark's, each with those of other datasets that it serves as well."""
    for key in keys:
        if key.space == benchmark.name:
            yield key
            proxy = _known(key.proxy)
            if proxy is not None and key.dataset in benchmark.datasets:
                yield from alike(benchmark, proxy, key)


def _known(label: str) -> Proxy | None:
    """The proxy of a label in the store; None for one that is not installed, or whose settings are no more."""
    try:
        proxy = get_proxy(label)
    except HarnessError:
        return None
    return proxy if proxy.label == label else None


def _table_populations(benchmark: str) -> list[str]:
    return [name for table in paper_tables() if table.benchmark == benchmark for name in table.populations]


class Estimates:
    """Metrics with bootstrap intervals, which are those of tables: of as many resamples, drawn by the same seed.

    Those of the same scores, accuracies and settings are taken from `path`.
    The file names each value by a hash of all that it depends on, and may be removed at any time.
    """

    #: More values than this in the file: those that the last run did not ask for are dropped.
    KEPT = 100_000

    def __init__(self, path: Path | None = None, resamples: int = 1000):
        self.path, self.resamples = path, resamples
        self._known: dict[str, list[float]] = {}
        self._used: dict[str, list[float]] = {}
        code = sorted(Path(correlation.__file__).parent.rglob("*.py"))
        self._code = hashlib.sha256(b"".join(file.read_bytes() for file in code)).hexdigest()
        if path is not None and path.is_file():
            try:
                self._known = json.loads(path.read_text(encoding="utf-8"))
            except (OSError, ValueError):  # half a file of a run that was killed: compute again
                self._known = {}

    def of(
        self, scores: Mapping[str, np.ndarray], accuracies: np.ndarray, metrics: Sequence[str]
    ) -> dict[str, dict[str, Estimate]]:
        """Estimates by name of the scores (n,) and metric. Scores of equal accuracies (n,) share their resamples."""
        wanted = {
            (name, metric): self._hash(values, accuracies, metric)
            for name, values in scores.items()
            for metric in metrics
        }
        lacking: dict[tuple[str, ...], list[str]] = {}
        for name in scores:
            open_metrics = tuple(m for m in metrics if wanted[name, m] not in self._known)
            if open_metrics:
                lacking.setdefault(open_metrics, []).append(name)
        for open_metrics, names in lacking.items():
            columns = {name: scores[name] for name in names}
            found = correlate_many(columns, accuracies, open_metrics, resamples_for(len(accuracies), self.resamples))
            for name, result in found.items():
                for metric in open_metrics:
                    one = result[metric]
                    self._known[wanted[name, metric]] = [one.value, one.low, one.high]
        self._used |= {key: self._known[key] for key in wanted.values()}
        return {name: {metric: Estimate(*self._known[wanted[name, metric]]) for metric in metrics} for name in scores}

    def _hash(self, scores: np.ndarray, accuracies: np.ndarray, metric: str) -> str:
        resamples = resamples_for(len(scores), self.resamples)
        digest = hashlib.sha256(f"{self._code} {resamples} {metric} {len(scores)} ".encode())
        digest.update(np.ascontiguousarray(scores, dtype=np.float64).tobytes())
        digest.update(np.ascontiguousarray(accuracies, dtype=np.float64).tobytes())
        return digest.hexdigest()

    def save(self) -> None:
        """Keep the values for later runs. A folder that cannot be written costs the next run its time, nothing else."""
        if self.path is None:
            return
        kept = self._known if len(self._known) <= self.KEPT else self._used
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(kept, sort_keys=True), encoding="utf-8")
        except OSError:
            pass


def leaderboard_rows(board: Board, metrics: Sequence[str], estimates: Estimates) -> list[dict[str, Any]]:
    """One dictionary an entry, population and metric, for the page's leaderboard.

    Keys: benchmark, dataset, population, proxy, inputs, metric, value, low, high, n, failed (of n, ranked last),
    seconds (an architecture, as `Scores.seconds`), published (what a paper prints of these architectures, or None),
    delta (by how much ours is more), source (that paper and table). nDCG at a fixed cut-off means another thing on a
    sample, so it is given for whole populations only.
    """
    by_population: dict[str, dict[Entry, Series]] = {}
    for entry, names in board.complete.items():
        for name in names:
            by_population.setdefault(name, {})[entry] = board.series(entry, name)
    figure = board.benchmark.target(board.dataset)
    rows = []
    for population in board.populations:
        found = by_population.get(population, {})
        given = [m for m in metrics if figure.admits(m) and not (m.startswith("ndcg") and is_sample(population))]
        if not found or not given:
            continue
        columns = {entry: one.scores for entry, one in found.items()}
        accuracies = next(iter(found.values())).accuracies
        for entry, values in estimates.of(columns, accuracies, given).items():
            for metric, one in values.items():
                paper = _printed_of(board, entry, population, metric)
                rows.append(
                    {
                        "benchmark": board.benchmark.name,
                        "dataset": board.dataset,
                        "population": population,
                        "proxy": entry.proxy,
                        "inputs": entry.inputs,
                        "metric": metric,
                        "value": one.value,
                        "low": one.low,
                        "high": one.high,
                        "n": len(accuracies),
                        "failed": int(np.count_nonzero(~np.isfinite(columns[entry]))),
                        "seconds": found[entry].seconds,
                        "published": paper.value if paper else None,
                        "delta": paper.delta(one.value) if paper else None,
                        "source": paper.source if paper else None,
                    }
                )
    return rows


def printed_for(board: Board, entry: Entry, metric: str) -> list[Printed]:
    """What papers print for an entry, in the order of the tables' names."""
    kinds = [entry.inputs, PAPER_INPUTS] if entry.on_paper_inputs(board.dataset) else [entry.inputs]
    place = (board.benchmark.name, board.dataset, entry.proxy)
    return [one for kind in dict.fromkeys(kinds) for one in printed().get((*place, kind, metric), ())]


def _printed_of(board: Board, entry: Entry, population: str, metric: str) -> Printed | None:
    """The first table's figure for an entry over the architectures that a population is, or is a sample of.

    A table's first population is the paper's; those after it stand in where scores are missing.
    """
    found = [one for one in printed_for(board, entry, metric) if whole(population) == whole(one.populations[0])]
    return found[0] if found else None


def cutoffs(n: int) -> list[int]:
    """1, 2, 5, 10, 20, 50, … below n, and n."""
    steps = [m * 10**e for e in range(len(str(n))) for m in (1, 2, 5)]
    return [p for p in steps if p < n] + [n]


def ndcg_curve(scores: np.ndarray, accuracies: np.ndarray) -> list[tuple[int, float]]:
    """nDCG_P of scores (n,) at each of the `cutoffs`."""
    places = cutoffs(len(accuracies))
    return list(zip(places, ndcg_at(scores, accuracies, places), strict=True))


def chance_curve(accuracies: np.ndarray) -> list[tuple[int, float]]:
    """nDCG_P that an order drawn at random has on average: that of scores all of which are tied."""
    return ndcg_curve(np.zeros(len(accuracies)), accuracies)


def band(accuracies: np.ndarray, share: float) -> np.ndarray:
    """Boolean (n,): the share of the architectures that is most accurate; those tied with the last of them too."""
    place = max(2, math.floor(len(accuracies) * share + 0.5))
    return accuracies >= np.sort(accuracies)[-min(place, len(accuracies))]


class Best(NamedTuple):
    """The best-scored architectures of a population.

    Attributes:
        marked: boolean (n,): those with the best scores; those tied with the last of them too.
        least: the accuracy that as many of the most accurate architectures reach.
        hits: how many of the best-scored reach it.
    """

    marked: np.ndarray
    least: float
    hits: int


def best_scored(one: Series, top: int) -> Best:
    """The `top` best-scored architectures of the whole population; one without a score is none of them."""
    scored = one.scores[np.isfinite(one.scores)]
    least = np.sort(one.accuracies)[-min(top, len(one.accuracies))]
    if not len(scored):
        return Best(np.zeros(len(one.scores), dtype=bool), float(least), 0)
    marked = one.scores >= np.sort(scored)[-min(top, len(scored))]
    return Best(marked, float(least), int(np.count_nonzero(one.accuracies[marked] >= least)))


def score_axis(scores: np.ndarray) -> tuple[str, float]:
    """The axis that scores (n,) are read best on, and the score at which `symlog` turns from linear to logarithmic.

    Logarithmic where scores span orders of magnitude; linear near zero alone where some of these are not positive.
    """
    scores = scores[np.isfinite(scores)]
    if not len(scores):
        return "linear", 1.0
    if scores.min() > 0 and scores.max() / scores.min() > 100:
        return "log", 1.0
    inner = np.subtract(*np.quantile(scores, (0.95, 0.05)))
    if scores.min() <= 0 and inner > 0 and np.ptp(scores) > 20 * inner:
        return "symlog", float(np.median(np.abs(scores))) or 1.0
    return "linear", 1.0


class BandEstimate(NamedTuple):
    """A metric inside one of the `BANDS`, with the number of architectures in it."""

    name: str
    n: int
    estimate: Estimate


def band_estimates(
    scores: Mapping[str, np.ndarray], accuracies: np.ndarray, estimates: Estimates, metric: str = "kendall"
) -> dict[str, list[BandEstimate]]:
    """A metric inside each of the `BANDS`, by name of the scores (n,)."""
    found: dict[str, list[BandEstimate]] = {name: [] for name in scores}
    for label, share in BANDS.items():
        members = band(accuracies, share)
        inside = {name: values[members] for name, values in scores.items()}
        for name, values in estimates.of(inside, accuracies[members], [metric]).items():
            found[name].append(BandEstimate(label, int(members.sum()), values[metric]))
    return found


class SeedEstimate(NamedTuple):
    """A metric under one seed."""

    seed: int
    estimate: Estimate


def seed_estimates(
    board: Board, entry: Entry, estimates: Estimates, metric: str = "kendall"
) -> tuple[str, list[SeedEstimate]]:
    """The largest population on which at least two seeds of an entry are complete, and the metric under each.

    Empty where no population has two.
    """
    seeds = board.seeds(entry)
    if len(seeds) > 1:
        for population in board.populations:
            found = {seed: board.series(entry, population, seed) for seed in seeds}
            found = {seed: one for seed, one in found.items() if one is not None}
            if len(found) > 1:
                accuracies = next(iter(found.values())).accuracies
                values = estimates.of({str(s): one.scores for s, one in found.items()}, accuracies, [metric])
                return population, [SeedEstimate(s, values[str(s)][metric]) for s in found]
    return "", []
