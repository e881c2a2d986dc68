"""`harness report plots`: how well proxies rank, as SVG, PNG or PDF; the same bytes from the same scores.

Every plot compares proxies on one population over which all of them are complete; its title names it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from harness.benchmarks.benchmark import load_benchmark
from harness.charts.definitions import chart, cost_start
from harness.charts.vega import COLOURS, FORMATS, filled, library, save
from harness.correlation import Estimate, Metric, check_resamples
from harness.correlation import metric as get_metric
from harness.engine.store import open_store
from harness.errors import HarnessError, UnknownNameError
from harness.paths import cache_file, data_dir
from harness.progress import progress_bar
from harness.proxies import get_proxy
from harness.rankings.aggregates import find_aggregate, ranks
from harness.rankings.results import PAPER_INPUTS, Reader
from harness.report.measures import (
    POPULATIONS,
    Board,
    Entry,
    Estimates,
    SeedEstimate,
    Series,
    band_estimates,
    best_scored,
    chance_curve,
    figure_heading,
    metric_heading,
    ndcg_curve,
    score_axis,
    seed_estimates,
)
from harness.report.published import draw_published
from harness.seeds import stable_rng
from harness.tables.cells import metric_title

#: Pixels across a plot.
WIDTH = 780

#: The plot of all published figures, which is of no benchmark.
PUBLISHED = "published"

#: Architectures that a scatter plot draws besides the best-scored, at most.
POINTS = 3000


class Figure(NamedTuple):
    """A plot to be drawn: the name of its file, its kind as `definitions.chart` has it, what fills it, its title."""

    file: str
    kind: str
    data: dict[str, list[dict[str, Any]]]
    signals: dict[str, Any]
    title: str
    lines: tuple[str, ...] = ()


def _interval(one: Estimate, digits: int = 3) -> str:
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def _finite(one: Estimate) -> dict[str, float | None]:
    """Value and ends of an interval; None where there are none."""
    return {name: float(v) if np.isfinite(v) else None for name, v in asdict(one).items()}


# The command ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What the plots of one run show.

    Attributes:
        entries: by title, all complete on `population`.
        chosen: metric of the plots that show one.
        top: best-scored architectures that the scatter plots mark.
        highlight: titles of the entries that stand out.
    """

    board: Board
    population: str
    entries: dict[str, Entry]
    estimates: Estimates
    chosen: Metric
    top: int
    highlight: tuple[str, ...] = ()

    @property
    def unit(self) -> str:
        """Of the figures that are ranked."""
        return self.board.benchmark.target(self.board.dataset).unit

    @cached_property
    def series(self) -> dict[str, Series]:
        """Scores beside accuracies, by title."""
        return {title: self.board.series(entry, self.population) for title, entry in self.entries.items()}

    @cached_property
    def scores(self) -> dict[str, np.ndarray]:
        """Scores (n,) by title."""
        return {title: one.scores for title, one in self.series.items()}

    @cached_property
    def accuracies(self) -> np.ndarray:
        """Accuracies (n,) in percent."""
        return next(iter(self.series.values())).accuracies

    def where(self, population: str | None = None) -> str:
        """Benchmark, dataset, population and n, for a title."""
        population = population or self.population
        n = len(self.board.populations[population])
        return f"{self.board.benchmark.name}, {self.board.dataset}, {population}, n = {n:,}"


def _scatters(c: Comparison) -> Iterator[Figure]:
    quality = c.estimates.of(c.scores, c.accuracies, ["kendall", "spearman"])
    for title, one in c.series.items():
        figures = ", ".join(f"{metric_title(name)} {_interval(value)}" for name, value in quality[title].items())
        yield _scatter(c, title, one, figures)


def _scatter(c: Comparison, title: str, one: Series, figures: str) -> Figure:
    best = best_scored(one, c.top)
    scored = np.isfinite(one.scores)
    others = np.flatnonzero(scored & ~best.marked)
    drawn = np.sort(stable_rng("points", c.where()).permutation(others)[:POINTS])
    axis, unit = score_axis(one.scores)
    points = [
        {"score": float(one.scores[i]), "accuracy": float(one.accuracies[i]), "mark": bool(best.marked[i])}
        for i in (*drawn, *np.flatnonzero(best.marked))
    ]
    marked = int(best.marked.sum())
    colour = "blue" if title in c.highlight else "orange"
    lines = [f"{colour}: the {marked:,} best-scored, of which {best.hits:,} are among the {c.top:,} most accurate"]
    if len(drawn) < len(others):
        lines.append(f"grey: {len(drawn):,} of the {len(others):,} other architectures, drawn at random")
    if not scored.all():
        lines.append(f"not drawn: {np.count_nonzero(~scored):,} without a score, which rank last")
    limits = [{"least": best.least, "name": f"above: the {c.top:,} most accurate"}]
    signals = {"heading": figure_heading(c.board.benchmark.target(c.board.dataset)), "unit": unit}
    signals["highlight"] = [title] if title in c.highlight else []
    return Figure(
        f"scatter_{_file(title)}", f"scatter_{axis}", {"points": points, "limits": limits},
        signals | {"across": f"score of {title}"}, f"{title}: {figures}", (*lines, c.where()),
    )  # fmt: skip


def _matrix(c: Comparison) -> Iterator[Figure]:
    """Spearman's rho between proxies, and with accuracy; alike ones stand together (average linkage on 1 - rho)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    columns = {"accuracy": c.accuracies, **c.scores}
    names = list(columns)
    # A proxy that is constant here correlates with none.
    rho = np.nan_to_num(np.corrcoef([ranks(columns[name]) for name in names]))
    np.fill_diagonal(rho, 1.0)
    order = list(range(len(names)))
    if len(names) > 3:
        distances = squareform(np.clip(1 - rho[1:, 1:], 0, 2), checks=False)
        order = [0, *(1 + leaves_list(linkage(distances, "average", optimal_ordering=True)))]
    cells = [
        {"row": names[i], "column": names[j], "rho": float(rho[i, j]), "text": f"{100 * rho[i, j]:.0f}"}
        for i in order
        for j in order
    ]
    title = "Rank correlation of scores, Spearman rho x 100"
    signals = {"highlight": ["accuracy", *c.highlight]}
    yield Figure("matrix", "matrix", {"cells": cells}, signals, title, ("alike ones stand together", c.where()))


def _ndcg(c: Comparison) -> Iterator[Figure]:
    """nDCG_P over the cut-off P, the highest curves (by their mean over the cut-offs) in colour."""
    if not c.board.benchmark.target(c.board.dataset).admits("ndcg_1"):
        print("  no plot `ndcg`: the figures of this dataset are no percentages", file=sys.stderr)
        return
    curves = {title: ndcg_curve(scores, c.accuracies) for title, scores in c.scores.items()}
    order = sorted(curves, key=lambda name: (-np.mean([v for _, v in curves[name]]), name))
    first = [*c.highlight, *(name for name in order if name not in c.highlight)]
    named = ["random order", *first[: len(COLOURS)]]
    curves["random order"] = chance_curve(c.accuracies)
    rows = [
        {"name": name, "P": p, "value": float(v), "series": name if name in named else None}
        for name in (*first[::-1], "random order")
        for p, v in curves[name]
    ]
    others = len(order) - len(COLOURS)
    title = "nDCG_P over the cut-off P" + (f"; grey: the other {others}" if others > 0 else "")
    signals = {"heading": "nDCG_P, higher is better", "names": named, "highlight": c.highlight}
    yield Figure("ndcg", "ndcg", {"curves": rows}, signals, title, (c.where(),))


def _cost(c: Comparison) -> Iterator[Figure]:
    values = c.estimates.of(c.scores, c.accuracies, [c.chosen.name])
    points = [
        {"name": title, "seconds": float(one.seconds), **_finite(values[title][c.chosen.name])}
        for title, one in c.series.items()
        if np.isfinite(one.seconds) and np.isfinite(values[title][c.chosen.name].value)
    ]
    yield Figure(
        "cost", "cost", {"points": points},
        {"heading": metric_heading(c.chosen, c.unit), "better": c.chosen.direction, "highlight": c.highlight,
         "start": cost_start([one["seconds"] for one in points])},
        f"{metric_title(c.chosen.name)} against cost, 95% intervals",
        ("orange: the Pareto front, of which no proxy is both cheaper and better",
         "time: median of the passes that a proxy reads, shared with others or not: an upper bound", c.where()),
    )  # fmt: skip


def _seeds(c: Comparison) -> Iterator[Figure]:
    """A metric under each seed, a figure a population; none where no proxy has scores of two seeds."""
    by_population: dict[str, dict[str, list[SeedEstimate]]] = {}
    for title, entry in c.entries.items():
        population, values = seed_estimates(c.board, entry, c.estimates, c.chosen.name)
        if values:
            by_population.setdefault(population, {})[title] = values
    sign = -1 if c.chosen.direction == "higher" else 1
    for population, found in by_population.items():
        taken = {name: np.array([one.estimate.value for one in values]) for name, values in found.items()}
        titles = {n: f"{n}  (sd {v.std(ddof=1):.3f})" for n, v in taken.items()}
        order = sorted(found, key=lambda name: (sign * taken[name].mean(), name))
        ends = {n: {"low": float(v.min()), "high": float(v.max())} for n, v in taken.items()}
        rows = [
            {"name": titles[name], "seed": str(one.seed), "value": one.estimate.value, **ends[name]}
            for name in order
            for one in found[name]
        ]
        yield Figure(
            "seeds" if len(by_population) == 1 else f"seeds_{_file(population)}", "seeds",
            {"rows": rows},
            {"heading": metric_heading(c.chosen, c.unit), "highlight": [titles[n] for n in c.highlight if n in titles]},
            f"{metric_title(c.chosen.name)} over seeds, with its standard deviation", (c.where(population),),
        )  # fmt: skip


def _bands(c: Comparison) -> Iterator[Figure]:
    found = band_estimates(c.scores, c.accuracies, c.estimates, c.chosen.name)
    sign = -1 if c.chosen.direction == "higher" else 1
    order = sorted(found, key=lambda name: (np.nan_to_num(sign * found[name][0].estimate.value, nan=np.inf), name))
    rows = [
        {"name": name, "band": f"{one.name}, n = {one.n:,}", **_finite(one.estimate)}
        for name in order
        for one in found[name]
    ]
    title = f"{metric_title(c.chosen.name)} among the most accurate architectures alone, 95% intervals"
    signals = {"heading": metric_heading(c.chosen, c.unit), "highlight": c.highlight}
    yield Figure("bands", "bands", {"rows": rows}, signals, title, (c.where(),))


PLOTS: Mapping[str, Callable[[Comparison], Iterator[Figure]]] = {
    "scatter": _scatters, "matrix": _matrix, "ndcg": _ndcg, "cost": _cost, "seeds": _seeds, "bands": _bands,
}  # fmt: skip


def _file(title: str) -> str:
    """A title as a file's name."""
    return re.sub(r"[^\w.=-]+", "_", title).strip("_")


def choose(
    board: Board, proxies: Sequence[str], population: str | None, highlight: Sequence[str] = ()
) -> tuple[str, dict[str, Entry], list[Entry]]:
    """What is compared: the population, the entries complete on it by title, and those left out for it.

    Args:
        proxies: names with settings, or aggregates; empty for all that have scores, with their default settings.
        population: None for the one on which most of them are complete, the largest of these; those of `highlight`
            have to be.
        highlight: further ones, which are not left out.

    Raises:
        HarnessError: none of the proxies, or not every one of `highlight`, is complete on the population, or on any;
            with the command to run.
    """
    if proxies:
        entries = [_entry(board, spec) for spec in proxies]
    else:
        entries = [entry for entry in board.complete if entry.is_default(board.dataset)] or board.defaults()
    marked = [_entry(board, spec) for spec in highlight]
    entries = list(dict.fromkeys((*entries, *marked)))
    complete = {entry: board.complete.get(entry) or board.complete_on(entry) for entry in entries}
    if population is None:
        shared = [name for name in board.populations if all(name in complete[entry] for entry in marked)]
        counts = {name: sum(name in names for names in complete.values()) for name in shared or board.populations}
        population = max(counts, key=lambda name: counts[name])  # the largest comes first
    found = {e.title(board.dataset): e for e in entries if population in complete[e]}
    left_out = [e for e in entries if population not in complete[e]]
    lacking = [entry for entry in marked if entry in left_out]
    if lacking or not found:
        who = f"not every one of highlight=[{','.join(highlight)}]" if lacking else "no proxy"
        command = next(iter(board.commands(lacking or left_out, population)))
        raise HarnessError(f"{who} has scores on all of {population} of {board.benchmark.name}: run `{command}`")
    return population, found, left_out


def _entry(board: Board, spec: str) -> Entry:
    """The entry of a name, on its paper's mini-batches unless scores are stored of other ones alone."""
    if find_aggregate(spec) is not None:
        return Entry(spec, PAPER_INPUTS)
    label = get_proxy(spec).label
    (key,) = board.reader.keys(label, board.dataset)
    stored = [entry for entry in board.entries if entry.proxy == label]
    own = Entry(label, key.inputs)
    return own if own in stored or not stored else stored[0]


def build_plots(config: Any) -> int:
    """Write the plots that a configuration asks for. Returns the exit code.

    What lacks scores is left out, and the commands that compute them are listed.
    """
    library()
    for kind, names, valid in (("plot", config.plots, [*PLOTS, PUBLISHED]), ("format", config.formats, FORMATS)):
        for name in names:
            if name not in valid:
                raise UnknownNameError(kind, name, valid)
    chosen = get_metric(config.metric)
    check_resamples(config.resamples)
    if config.top < 1:
        raise HarnessError(f"top={config.top} has to be 1 or more")
    benchmark = load_benchmark(config.benchmark)
    dataset = benchmark.dataset(config.dataset or next(iter(benchmark.datasets))).name
    asked = POPULATIONS
    if config.population is not None:
        benchmark.population(config.population)
        asked = (config.population, *POPULATIONS)
    board = Board(Reader(open_store(config.store, config.stores), benchmark), dataset, asked)
    population, entries, left_out = choose(board, config.proxies, config.population, config.highlight)
    highlight = tuple(_entry(board, spec).title(dataset) for spec in config.highlight)
    estimates = Estimates(cache_file(config.cache, "estimates.json"), config.resamples)
    compared = Comparison(board, population, entries, estimates, chosen, config.top, highlight)
    folder = Path(config.output) / f"{benchmark.name}_{dataset}"
    lacking = board.commands(left_out, population)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        kinds = _draw(compared, [name for name in PLOTS if name in config.plots], config.formats, folder)
        if "seeds" in config.plots and "seeds" not in kinds:
            print("seeds: no proxy has scores of two seeds, not drawn", file=sys.stderr)
            drawn = [entry for entry in entries.values() if 1 in {key.seed for key in board.keys(entry, 1)}]
            lacking += board.commands(drawn, population, seed=1)
    except OSError as error:
        raise HarnessError(
            f"cannot write plots to {folder} ({error.strerror or error}): free some space or set output=DIR"
        ) from error
    finally:
        estimates.save()
    if PUBLISHED in config.plots:
        _draw_published(config)
    for command in lacking:
        print(f"  missing: {command}", file=sys.stderr)
    return 0


def _draw_published(config: Any) -> None:
    """The plot that is of no benchmark; without its table the command that writes it is listed."""
    tables = data_dir("results") / "tables" if config.tables is None else Path(config.tables)
    try:
        for path in draw_published(tables, Path(config.output) / PUBLISHED, config.formats, config.highlight):
            print(path)
    except HarnessError as error:
        print(f"  {PUBLISHED}: {error}", file=sys.stderr)


def _draw(compared: Comparison, plots: Collection[str], formats: Sequence[str], folder: Path) -> set[str]:
    """Draw the plots of one run into a folder; returns the kinds of those that there were."""
    kinds = set()
    scatters = len(compared.entries) - 1 if "scatter" in plots else 0
    with progress_bar(len(plots) + scatters, "plots") as progress:
        for plot in plots:
            for figure in PLOTS[plot](compared):
                spec = filled(chart(figure.kind), figure.data, figure.signals, WIDTH, figure.title, *figure.lines)
                for path in save(spec, folder / figure.file, formats):
                    print(path)
                kinds.add(figure.kind)
                progress.update()
    return kinds
