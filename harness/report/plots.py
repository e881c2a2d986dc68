"""`harness report plots`: how well proxies rank, drawn with matplotlib, the same bytes from the same scores.

Every plot compares proxies on one population over which all of them are complete; its title names it.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.benchmarks.benchmark import load_benchmark
from harness.correlation import Estimate, Metric
from harness.correlation import metric as get_metric
from harness.engine.store import ScoreStore
from harness.errors import HarnessError, UnknownNameError
from harness.proxies import get_proxy
from harness.rankings.aggregates import find_aggregate, ranks
from harness.rankings.results import PAPER_INPUTS, Reader
from harness.report.measures import (
    POPULATIONS,
    BandEstimate,
    Board,
    Entry,
    Estimates,
    SeedEstimate,
    Series,
    band_estimates,
    chance_curve,
    metric_title,
    ndcg_curve,
    seed_estimates,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Okabe and Ito's colours, told apart with any colour vision; yellow is left out, too pale on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
GREY, INK = "#b8bec6", "#30363d"

#: Fixed ids and no date: equal figures are equal bytes.
STYLE = {
    "svg.hashsalt": "nas-proxy-harness",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e6e9ed",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "text.color": INK,
    "legend.frameon": False,
    "figure.dpi": 150,
}
METADATA = {"svg": {"Date": None, "Creator": None}, "png": {"Software": None}}


def _matplotlib() -> Any:
    try:
        import matplotlib
    except ImportError as error:
        raise HarnessError("plots need matplotlib: pip install 'nas-proxy-harness[plot]'") from error
    return matplotlib


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _title(figure: Figure, *lines: str) -> None:
    """What is shown, then where, at the left edge of the figure: a long line has its whole width."""
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize=10)


def _interval(one: Estimate, digits: int = 3) -> str:
    return f"{one.value:.{digits}f} [{one.low:.{digits}f}, {one.high:.{digits}f}]"


def metric_range(chosen: Metric) -> str:
    """Unit and direction, for an axis."""
    unit = " (percentage points)" if chosen.name.startswith("regret") else ""
    return f"{metric_title(chosen.name)}{unit}, {chosen.direction} is better"


# The plots ------------------------------------------------------------------------------------------------------


def scatter(title: str, where: str, one: Series, top: int, quality: Mapping[str, Estimate]) -> Figure:
    """Score against accuracy, the `top` best-scored architectures marked (Entropic Score, Figure 2)."""
    figure, axes = _figure(6.4, 4.4)
    scored = np.isfinite(one.scores)
    scores, accuracies = one.scores[scored], one.accuracies[scored]
    threshold = np.sort(scores)[-min(top, len(scores))]
    best = scores >= threshold  # ties with the last of them too
    least = np.sort(one.accuracies)[-min(top, len(one.accuracies))]
    hits = int(np.count_nonzero(accuracies[best] >= least))
    axes.plot(scores[~best], accuracies[~best], ".", color=GREY, ms=3, rasterized=True, label="other architectures")
    marked = f"{best.sum():,} best-scored"
    axes.plot(scores[best], accuracies[best], ".", color=COLOURS[1], ms=4, rasterized=True, label=marked)
    axes.axhline(least, color=COLOURS[0], lw=0.8, ls="--", label=f"above: {top:,} most accurate")
    _score_axis(axes, scores)
    unscored = int(np.count_nonzero(~scored))
    axes.set_xlabel(f"score of {title}" + (f" ({unscored} without one, not drawn)" if unscored else ""))
    axes.set_ylabel("accuracy (%)")
    figures = ", ".join(f"{metric_title(name)} {_interval(value)}" for name, value in quality.items())
    share = f"{hits:,} of the {marked} are among the {top:,} most accurate"
    _title(figure, f"{title}: {figures}", share, where)
    axes.legend(loc="lower right", markerscale=2)
    return figure


def _score_axis(axes: Axes, scores: np.ndarray) -> None:
    """A logarithmic axis where scores span orders of magnitude, linear near zero where some are not positive."""
    if scores.min() > 0 and scores.max() / scores.min() > 100:
        axes.set_xscale("log")
        return
    inner = np.subtract(*np.quantile(scores, (0.95, 0.05)))
    if scores.min() <= 0 and inner > 0 and np.ptp(scores) > 20 * inner:
        axes.set_xscale("symlog", linthresh=float(np.median(np.abs(scores))) or 1.0)


def matrix(where: str, scores: Mapping[str, np.ndarray], accuracies: np.ndarray) -> Figure:
    """Spearman's rho between proxies, and with accuracy; alike ones stand together (average linkage on 1 - rho)."""
    from scipy.cluster.hierarchy import leaves_list, linkage
    from scipy.spatial.distance import squareform

    names = list(scores)
    correlations = np.ones((1, 1)) if len(names) == 1 else np.corrcoef([ranks(scores[name]) for name in names])
    correlations = np.nan_to_num(np.atleast_2d(correlations))  # a proxy that is constant here correlates with none
    np.fill_diagonal(correlations, 1.0)
    if len(names) > 2:
        distances = squareform(np.clip(1 - correlations, 0, 2), checks=False)
        names = [names[i] for i in leaves_list(linkage(distances, "average", optimal_ordering=True))]
    names = ["accuracy", *names]
    table = np.nan_to_num(np.corrcoef([ranks({"accuracy": accuracies, **scores}[name]) for name in names]))
    side = 2.6 + 0.25 * len(names)
    figure, axes = _figure(side + 0.9, side)
    image = axes.imshow(table, cmap="RdBu_r", vmin=-1, vmax=1)
    axes.set_xticks(range(len(names)), names, rotation=90)
    axes.set_yticks(range(len(names)), names)
    axes.grid(False)
    axes.axhline(0.5, color=INK, lw=1)
    axes.axvline(0.5, color=INK, lw=1)
    for i, j in np.ndindex(table.shape):
        shade = "white" if abs(table[i, j]) > 0.6 else INK
        axes.text(j, i, f"{100 * table[i, j]:.0f}", ha="center", va="center", fontsize=5.5, color=shade)
    figure.colorbar(image, ax=axes, shrink=0.6, label="Spearman rho")
    _title(figure, "Rank correlation of scores, Spearman rho x 100", where)
    return figure


def ndcg(where: str, curves: Mapping[str, Sequence[tuple[int, float]]], chance: Sequence[tuple[int, float]]) -> Figure:
    """nDCG_P over the cut-off P, the highest curves (by their mean over the cut-offs) in colour."""
    figure, axes = _figure(7.2, 4.4)
    order = sorted(curves, key=lambda name: (-np.mean([v for _, v in curves[name]]), name))
    for name in reversed(order[len(COLOURS) :]):
        axes.plot(*zip(*curves[name], strict=True), color=GREY, lw=0.7)
    for colour, name in reversed(list(zip(COLOURS, order, strict=False))):
        axes.plot(*zip(*curves[name], strict=True), color=colour, lw=1.6, label=name)
    axes.plot(*zip(*chance, strict=True), color=INK, lw=1, ls=":", label="random order")
    handles, labels = axes.get_legend_handles_labels()
    by_height = {label: handle for handle, label in zip(handles, labels, strict=True)}
    shown = [*order[: len(COLOURS)], "random order"]
    axes.legend([by_height[name] for name in shown], shown, loc="center left", bbox_to_anchor=(1, 0.5))
    axes.set_xscale("log")
    axes.set_ylim(0, 1)
    axes.set_xlabel("P, best-scored architectures")
    axes.set_ylabel("nDCG_P, higher is better")
    others = len(order) - len(COLOURS)
    _title(figure, "nDCG_P over the cut-off P" + (f"; grey: the other {others}" if others > 0 else ""), where)
    return figure


def pareto_front(seconds: Sequence[float], values: Sequence[float], direction: str) -> list[int]:
    """Places of those than which none is both cheaper and better, the cheapest first."""
    sign = -1 if direction == "lower" else 1
    front: list[int] = []
    for i in sorted(range(len(values)), key=lambda i: (seconds[i], -sign * values[i])):
        if not front or sign * values[i] > sign * values[front[-1]]:
            front.append(i)
    return front


def cost(where: str, points: Mapping[str, tuple[float, Estimate]], chosen: Metric) -> Figure:
    """A metric against seconds an architecture, with the Pareto front."""
    points = {n: p for n, p in points.items() if np.isfinite(p[0]) and np.isfinite(p[1].value)}
    names = list(points)
    seconds = [points[name][0] for name in names]
    values = [points[name][1].value for name in names]
    front = pareto_front(seconds, values, chosen.direction)
    figure, axes = _figure(8.4, 5.2)
    for i, name in enumerate(names):
        one = points[name][1]
        colour = COLOURS[1] if i in front else "#8c959f"
        axes.errorbar(
            seconds[i], one.value, [[max(0, one.value - one.low)], [max(0, one.high - one.value)]],
            fmt="o", ms=4, lw=0.8, color=colour, zorder=3 if i in front else 2,
        )  # fmt: skip
    axes.step(
        [seconds[i] for i in front], [values[i] for i in front], where="post",
        color=COLOURS[1], lw=1, ls="--", label="Pareto front",
    )  # fmt: skip
    axes.set_xscale("log")
    axes.margins(x=0.12)
    axes.set_xlabel("seconds an architecture of the passes that it reads, shared or not (median, an upper bound)")
    axes.set_ylabel(metric_range(chosen))
    axes.legend(loc="lower left")
    _title(figure, f"{metric_title(chosen.name)} against cost, 95% intervals", where)
    spans = {name: (seconds[i], points[name][1]) for i, name in enumerate(names)}
    _label(figure, axes, spans, {names[i] for i in front})
    return figure


def _label(figure: Figure, axes: Axes, spans: Mapping[str, tuple[float, Estimate]], bold: set[str]) -> None:
    """Write each name beside its point, at the nearest of a few places where it covers no other name, point or bar."""
    figure.canvas.draw()
    figure.set_layout_engine("none")  # the places below are those of this layout
    scale = figure.dpi / 72
    place = {name: axes.transData.transform((x, one.value)) for name, (x, one) in spans.items()}
    taken = []
    for name, (x, one) in spans.items():
        middle, (_, low), (_, high) = place[name], *axes.transData.transform([(x, one.low), (x, one.high)])
        taken.append((middle[0] - 3 * scale, middle[1] - 3 * scale, middle[0] + 3 * scale, middle[1] + 3 * scale))
        taken.append((middle[0] - scale, low, middle[0] + scale, high))
    frame = axes.get_window_extent()
    for name in sorted(spans, key=lambda name: (name not in bold, -spans[name][1].value, name)):
        x, one = spans[name]
        text = axes.annotate(
            name, (x, one.value), xytext=(0, 0), textcoords="offset points", fontsize=7,
            fontweight="bold" if name in bold else "normal",
            bbox={"facecolor": "white", "alpha": 0.8, "pad": 0.5, "lw": 0},
        )  # fmt: skip
        size = text.get_window_extent()
        w, h = size.width / scale, size.height / scale
        for reach in (5, 9, 14, 20, 27, 35, 44, 54, 65, 80):
            side, up = 0.8 * reach, 0.7 * reach
            offsets = [(reach, -h / 3), (-reach - w, -h / 3), (-w / 2, reach), (-w / 2, -reach - 0.8 * h)]
            offsets += [(side, up), (side, -up - 0.6 * h), (-side - w, up), (-side - w, -up - 0.6 * h)]
            for dx, dy in offsets:
                left, bottom = place[name][0] + dx * scale, place[name][1] + dy * scale
                box = (left, bottom, left + w * scale, bottom + h * scale)
                if _inside(box, frame) and not any(_overlap(box, other) for other in taken):
                    break
            else:
                continue
            text.set_position((dx, dy))
            taken.append(box)
            if reach > 9:
                end = (max(dx, min(0, dx + w)), max(dy, min(0, dy + h)))
                axes.annotate(
                    "", (x, one.value), xytext=end, textcoords="offset points",
                    arrowprops={"arrowstyle": "-", "color": GREY, "lw": 0.5, "shrinkA": 0, "shrinkB": 2},
                )  # fmt: skip
            break
        else:
            text.remove()


def _overlap(a: tuple, b: tuple) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _inside(box: tuple, frame: Any) -> bool:
    return frame.x0 <= box[0] and box[2] <= frame.x1 and frame.y0 <= box[1] and box[3] <= frame.y1


def bands(where: str, found: Mapping[str, Sequence[BandEstimate]], chosen: Metric) -> Figure:
    """A metric among all architectures and among the most accurate ones alone."""
    sign = -1 if chosen.direction == "higher" else 1
    order = sorted(found, key=lambda name: (np.nan_to_num(sign * found[name][0].estimate.value, nan=np.inf), name))
    figure, axes = _figure(7.2, 1.7 + 0.24 * len(order))
    markers = ("o", "s", "D")
    for k, (colour, marker) in enumerate(zip(COLOURS, markers, strict=False)):
        label = f"{found[order[0]][k].name}, n = {found[order[0]][k].n:,}"
        for place, name in enumerate(order):
            one = found[name][k].estimate
            height = place + 0.22 * (k - 1)
            axes.plot([one.low, one.high], [height, height], color=colour, lw=0.9, alpha=0.6)
            axes.plot(one.value, height, marker, color=colour, ms=4, label=label if place == 0 else None)
    _rows(axes, order)
    if chosen.value_range[0] < 0:
        axes.axvline(0, color=INK, lw=0.8)
    axes.set_xlabel(metric_range(chosen))
    _title(figure, f"{metric_title(chosen.name)} among the most accurate architectures alone, 95% intervals", where)
    axes.legend(title="most accurate", loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def seeds(where: str, found: Mapping[str, Sequence[SeedEstimate]], chosen: Metric) -> Figure:
    """A metric under each seed, with its standard deviation over the seeds."""
    sign = -1 if chosen.direction == "higher" else 1
    order = sorted(found, key=lambda name: (sign * np.mean([one.estimate.value for one in found[name]]), name))
    figure, axes = _figure(7.2, 1.7 + 0.24 * len(order))
    drawn = sorted({one.seed for name in order for one in found[name]})
    for seed in drawn:
        points = [(o.estimate.value, i) for i, name in enumerate(order) for o in found[name] if o.seed == seed]
        colour = COLOURS[drawn.index(seed) % len(COLOURS)]
        axes.plot(*zip(*points, strict=True), "o", color=colour, ms=4, alpha=0.8, label=f"seed {seed}")
    for place, name in enumerate(order):
        values = [one.estimate.value for one in found[name]]
        axes.plot([min(values), max(values)], [place, place], color=GREY, lw=2, zorder=1)
    _rows(axes, [f"{n}  (sd {np.std([o.estimate.value for o in found[n]], ddof=1):.3f})" for n in order])
    axes.set_xlabel(metric_range(chosen))
    _title(figure, f"{metric_title(chosen.name)} over seeds", where)
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)


# The command ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Comparison:
    """What the plots of one run show.

    Attributes:
        entries: by title, all complete on `population`.
        chosen: metric of the plots that show one.
        top: best-scored architectures that the scatter plots mark.
    """

    board: Board
    population: str
    entries: dict[str, Entry]
    estimates: Estimates
    chosen: Metric
    top: int

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


def _scatters(c: Comparison) -> dict[str, Figure]:
    quality = c.estimates.of(c.scores, c.accuracies, ["kendall", "spearman"])
    return {
        f"scatter_{_file(title)}": scatter(title, c.where(), one, c.top, quality[title])
        for title, one in c.series.items()
    }


def _matrix(c: Comparison) -> dict[str, Figure]:
    return {"matrix": matrix(c.where(), c.scores, c.accuracies)}


def _ndcg(c: Comparison) -> dict[str, Figure]:
    if not c.board.benchmark.target(c.board.dataset).admits("ndcg_1"):
        print("  no plot `ndcg`: the figures of this dataset are no percentages", file=sys.stderr)
        return {}
    curves = {title: ndcg_curve(scores, c.accuracies) for title, scores in c.scores.items()}
    return {"ndcg": ndcg(c.where(), curves, chance_curve(c.accuracies))}


def _cost(c: Comparison) -> dict[str, Figure]:
    values = c.estimates.of(c.scores, c.accuracies, [c.chosen.name])
    return {"cost": cost(c.where(), {t: (s.seconds, values[t][c.chosen.name]) for t, s in c.series.items()}, c.chosen)}


def _seeds(c: Comparison) -> dict[str, Figure]:
    """One figure a population; none where no proxy has scores of two seeds."""
    by_population: dict[str, dict[str, list[SeedEstimate]]] = {}
    for title, entry in c.entries.items():
        population, values = seed_estimates(c.board, entry, c.estimates, c.chosen.name)
        if values:
            by_population.setdefault(population, {})[title] = values
    figures = {name: seeds(c.where(name), found, c.chosen) for name, found in by_population.items()}
    return {"seeds" if len(figures) == 1 else f"seeds_{_file(name)}": figure for name, figure in figures.items()}


def _bands(c: Comparison) -> dict[str, Figure]:
    found = band_estimates(c.scores, c.accuracies, c.estimates, c.chosen.name)
    return {"bands": bands(c.where(), found, c.chosen)}


PLOTS: Mapping[str, Callable[[Comparison], dict[str, Figure]]] = {
    "scatter": _scatters, "matrix": _matrix, "ndcg": _ndcg, "cost": _cost, "seeds": _seeds, "bands": _bands,
}  # fmt: skip


def _file(title: str) -> str:
    """A title as a file's name."""
    return re.sub(r"[^\w.=-]+", "_", title).strip("_")


def choose(board: Board, proxies: Sequence[str], population: str | None) -> tuple[str, dict[str, Entry], list[Entry]]:
    """What is compared: the population, the entries complete on it by title, and those left out for it.

    Args:
        proxies: names with settings, or aggregates; empty for all that have scores, with their default settings.
        population: None for the one on which most of them are complete, the largest of these.

    Raises:
        HarnessError: none of the proxies is complete on the population, or on any; with the command to run.
    """
    if proxies:
        entries = [_entry(board, spec) for spec in proxies]
        complete = {entry: board.complete_on(entry) for entry in entries}
    else:
        complete = {e: names for e, names in board.complete.items() if e.is_default(board.dataset)}
        entries = list(complete) or board.defaults()
    if population is None:
        counts = {name: sum(name in names for names in complete.values()) for name in board.populations}
        population = max(counts, key=lambda name: counts[name])  # the largest comes first
    found = {e.title(board.dataset): e for e in entries if population in complete.get(e, ())}
    left_out = [e for e in entries if population not in complete.get(e, ())]
    if not found:
        command = next(iter(board.commands(left_out, population)))
        raise HarnessError(f"no proxy has scores on all of {population} of {board.benchmark.name}: run `{command}`")
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
    matplotlib = _matplotlib()
    for kind, names, valid in (("plot", config.plots, PLOTS), ("format", config.formats, METADATA)):
        for name in names:
            if name not in valid:
                raise UnknownNameError(kind, name, valid)
    try:
        chosen = get_metric(config.metric)
    except ValueError as error:
        raise HarnessError(str(error)) from error
    if config.top < 1 or config.resamples < 0:
        raise HarnessError(f"top={config.top} has to be 1 or more, resamples={config.resamples} 0 or more")
    benchmark = load_benchmark(config.benchmark)
    dataset = benchmark.dataset(config.dataset or next(iter(benchmark.datasets))).name
    asked = POPULATIONS
    if config.population is not None:
        benchmark.population(config.population)
        asked = (config.population, *POPULATIONS)
    board = Board(Reader(ScoreStore(config.store), benchmark), dataset, asked)
    population, entries, left_out = choose(board, config.proxies, config.population)
    estimates = Estimates(Path(config.cache) / "estimates.json" if config.cache else None, config.resamples)
    compared = Comparison(board, population, entries, estimates, chosen, config.top)
    folder = Path(config.output) / f"{benchmark.name}_{dataset}"
    lacking = board.commands(left_out, population)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with matplotlib.rc_context(STYLE):
            for plot in dict.fromkeys(config.plots):
                figures = PLOTS[plot](compared)
                for name, figure in figures.items():
                    for form in config.formats:
                        figure.savefig(folder / f"{name}.{form}", metadata=METADATA[form])
                        print(folder / f"{name}.{form}")
                if not figures:  # of the seeds, the only plot that may have nothing to show
                    print(f"{plot}: no proxy has scores of two seeds, not drawn", file=sys.stderr)
                    drawn = [entry for entry in entries.values() if 1 in {key.seed for key in board.keys(entry, 1)}]
                    lacking += board.commands(drawn, population, seed=1)
    except OSError as error:
        raise HarnessError(
            f"cannot write plots to {folder} ({error.strerror or error}): free some space or set output=DIR"
        ) from error
    finally:
        estimates.save()
    for command in lacking:
        print(f"  missing: {command}", file=sys.stderr)
    return 0
