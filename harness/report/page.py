"""`harness report page`: leaderboard, proxies and benchmarks as one static folder that opens from disk.

Data are scripts that the pages load by tag, since a page of `file://` may not fetch. Equal scores give equal bytes,
but for the foot, which has commit and day.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import rankdata

from harness.benchmarks.benchmark import Benchmark, list_benchmarks, load_benchmark
from harness.charts.definitions import AXES, chart
from harness.charts.imprint import imprint
from harness.charts.vega import bundle, library, shared
from harness.correlation import check_resamples
from harness.correlation import metric as get_metric
from harness.engine.store import ScoreStore, open_store
from harness.errors import HarnessError
from harness.paths import cache_file
from harness.progress import progress_bar
from harness.proxies import available, get_proxy
from harness.proxies.base import Proxy
from harness.rankings.aggregates import AGGREGATES, Aggregate
from harness.rankings.results import inapplicable, proxies_of
from harness.report.folder import FILES, make_folder, write_files
from harness.report.measures import (
    Board,
    Entry,
    Estimates,
    Series,
    band_estimates,
    best_scored,
    boards,
    chance_curve,
    figure_heading,
    is_sample,
    leaderboard_rows,
    metric_heading,
    ndcg_curve,
    printed_for,
    score_axis,
    seed_estimates,
    whole,
)
from harness.report.standing import cells_of, groups_of, standing
from harness.seeds import stable_rng
from harness.tables.cells import digits_of, metric_title

#: Bytes that the scores of all scatter plots may take: the folder stays under 5 MB however many scores there are.
POINT_BYTES = 1_000_000
BYTES_A_POINT = 15

#: Of commands that name an example.
DEFAULT_BENCHMARK = "nasbench201"

#: What a scatter plot can mark: the best-scored architectures, so many of the whole population.
TOPS = (10, 50)

#: The charts that pages draw, as `definitions.chart` knows them.
CHARTS = (*(f"scatter_{axis}" for axis in AXES), "ndcg", "cost")

#: Parts of a benchmark's card that its page prints as they are.
TEXTS = ("notes", "origin", "licence", "citation")

#: Of the site's own files; style and drawing are shared with other pages.
ASSETS = ("page.js", "matrix.js")

# Data of the scripts --------------------------------------------------------------------------------------------


def _rounded(value: float, digits: int = 3) -> float | None:
    """A number with the digits that the page shows, as tables have; null where it is not finite."""
    return round(float(value), digits) if math.isfinite(value) else None


def _significant(value: float) -> float | None:
    return float(f"{value:.5g}") if math.isfinite(value) else None


def leaderboard_data(
    rows: Iterable[Mapping[str, Any]],
    found: Sequence[Board],
    metrics: Sequence[str],
    groups: Mapping[tuple[str, str, str, str], str],
) -> dict:
    """What the leaderboard shows: rows with all metrics of an entry and population, and the choices of its filters.

    Args:
        rows: as `leaderboard_rows` returns them.
        groups: as `groups_of` returns them: of proxies with their default settings.
    """
    lines: dict[tuple, dict[str, Any]] = {}
    for row in rows:
        key = tuple(row[name] for name in ("benchmark", "dataset", "population", "proxy", "inputs"))
        line = lines.setdefault(
            key,
            {
                **dict(zip(("benchmark", "dataset", "population", "proxy", "inputs"), key, strict=True)),
                "n": row["n"],
                "failed": row["failed"],
                "seconds": _significant(row["seconds"]),
                "metrics": {},
            },
        )
        paper = []
        if row["published"] is not None:
            paper = [row["published"], row["source"], _rounded(row["delta"])]
        line["metrics"][row["metric"]] = [
            *(_rounded(row[name], digits_of(row["metric"])) for name in ("value", "low", "high")),
            *paper,
        ]
    by_place = {(board.benchmark.name, board.dataset): board for board in found}
    for line in lines.values():
        board = by_place[line["benchmark"], line["dataset"]]
        entry = Entry(line["proxy"], line["inputs"])
        line["page"] = slug(entry.family)
        line["caveat"] = getattr(available().get(entry.family), "caveat", "")
        line["title"] = entry.title(board.dataset)
        line["default"] = entry.is_default(board.dataset)
        place = (line["benchmark"], line["dataset"], line["population"], entry.proxy)
        line["group"] = groups.get(place, "") if line["default"] else ""
    return {
        "metrics": [
            {
                "name": name,
                "title": metric_title(name),
                "heading": metric_heading(get_metric(name)),
                "digits": digits_of(name),
                "lower": get_metric(name).direction == "lower",
            }
            for name in metrics
        ],
        "places": [_place(board) for board in found],
        "rows": list(lines.values()),
    }


def _place(board: Board) -> dict[str, Any]:
    """The populations of one benchmark and dataset, and what is not computed on each with the commands for it.

    A population shows a proxy that is not complete on it by the largest of its samples on which it is.
    """
    views = []
    known = {one for one in (*board.complete, *board.defaults()) if one.is_default(board.dataset)}
    for population in board.populations:
        shown = [population]
        if not is_sample(population):
            shown += [name for name in board.populations if is_sample(name) and whole(name) == population]
        lacking = sorted(one for one in known if not set(shown) & set(board.complete.get(one, ())))
        views.append(
            {
                "population": population,
                "n": len(board.populations[population]),
                "shows": shown,
                "missing": [one.title(board.dataset) for one in lacking],
                "commands": board.commands(lacking, shown[-1]),
            }
        )
    return {"benchmark": board.benchmark.name, "dataset": board.dataset, "views": views}


class Points:
    """The architectures that scatter plots show of each population: all, or a seeded draw of `limit` of them.

    Where only some are drawn, the best-scored of each proxy are shown besides.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._used: dict[tuple[str, str], dict[str, Series]] = {}
        self._besides: dict[tuple[str, str], dict[int, int]] = {}

    def shown(self, board: Board, series: Series) -> tuple[np.ndarray, list[tuple[int, int]]]:
        """Places in the population that all its plots show, ascending, and those of the best-scored besides.

        Each of the latter comes with its place in `data`, which has the architectures of both from now on.
        """
        key = (board.benchmark.name, series.population)
        self._used.setdefault(key, {})[board.dataset] = series
        drawn = self._draw(*key, len(series.indices))
        besides = self._besides.setdefault(key, {})
        filled = np.where(np.isfinite(series.scores), series.scores, -np.inf)
        best = np.argsort(-filled, kind="stable")[: min(max(TOPS), np.isfinite(filled).sum())]
        best = set(best.tolist()) - set(drawn.tolist())
        return drawn, [(place, len(drawn) + besides.setdefault(place, len(besides))) for place in sorted(best)]

    def _draw(self, benchmark: str, population: str, n: int) -> np.ndarray:
        if n <= self.limit:
            return np.arange(n)
        return np.sort(stable_rng("points", benchmark, population).permutation(n)[: self.limit])

    def data(self, benchmark: Benchmark) -> dict[str, Any]:
        """By population: encodings of the architectures shown, their accuracies, nDCG_P of a random order."""
        found = {}
        for (name, population), datasets in self._used.items():
            if name != benchmark.name:
                continue
            one = next(iter(datasets.values()))
            places = [*self._draw(name, population, len(one.indices)), *self._besides[name, population]]
            indices = one.indices[places]
            found[population] = {
                "index": indices.tolist(),
                "architecture": [benchmark.architectures[i] for i in indices],
                "datasets": {
                    dataset: {
                        "heading": figure_heading(benchmark.target(dataset)),
                        "accuracy": [_rounded(v, 2) for v in series.accuracies[places]],
                        "chance": _curve(benchmark, dataset, lambda series=series: chance_curve(series.accuracies)),
                    }
                    for dataset, series in datasets.items()
                },
            }
        return found


def _curve(benchmark: Benchmark, dataset: str, curve: Callable[[], list[tuple[int, float]]]) -> list[list[float]]:
    """nDCG_P over P; empty where the benchmark's figures are no percentages."""
    admitted = benchmark.target(dataset).admits("ndcg_1")
    return [[p, _rounded(v)] for p, v in curve()] if admitted else []


def proxy_data(name: str, found: Sequence[Board], points: Points, estimates: Estimates) -> list[dict[str, Any]]:
    """What a proxy's page draws: one dictionary a benchmark, dataset, setting and kind of mini-batches."""
    charts = []
    for board in found:
        for entry, populations in board.complete.items():
            if entry.family == name:
                charts.append(_chart(board, entry, board.series(entry, populations[0]), points, estimates))
    return charts


def _chart(board: Board, entry: Entry, series: Series, points: Points, estimates: Estimates) -> dict[str, Any]:
    column = {"": series.scores}
    quality = estimates.of(column, series.accuracies, ["kendall", "spearman"])[""]
    bands = band_estimates(column, series.accuracies, estimates)[""]
    population, seeds = seed_estimates(board, entry, estimates)
    taus = [one.estimate.value for one in seeds]
    drawn = any(key.seed for key in board.keys(entry, 1))
    best = {top: best_scored(series, top) for top in TOPS}
    return {
        "benchmark": board.benchmark.name,
        "dataset": board.dataset,
        "title": entry.title(board.dataset),
        "inputs": entry.inputs,
        "default": entry.is_default(board.dataset),
        "population": series.population,
        "n": len(series.scores),
        "failed": int(np.count_nonzero(~np.isfinite(series.scores))),
        "seconds": _significant(series.seconds),
        "quality": [
            {
                "title": metric_title(metric),
                "value": [_rounded(v) for v in dataclasses.astuple(one)],
                "published": [[paper.value, paper.source] for paper in printed_for(board, entry, metric)],
            }
            for metric, one in quality.items()
        ],
        "ndcg": _curve(board.benchmark, board.dataset, lambda: ndcg_curve(series.scores, series.accuracies)),
        "bands": [[one.name, one.n, [_rounded(v) for v in dataclasses.astuple(one.estimate)]] for one in bands],
        "seeds": {
            "population": population,
            "values": [[one.seed, [_rounded(v) for v in dataclasses.astuple(one.estimate)]] for one in seeds],
            "mean": _rounded(np.mean(taus)) if seeds else None,
            "deviation": _rounded(np.std(taus, ddof=1)) if seeds else None,
            "drawn": drawn,
            "commands": board.commands([entry], series.population, seed=1) if drawn and not seeds else [],
        },
        "best": {top: [int(one.marked.sum()), one.hits, _rounded(one.least, 2)] for top, one in best.items()},
        **_scores(series, *points.shown(board, series)),
    }


def _scores(series: Series, drawn: np.ndarray, besides: Sequence[tuple[int, int]]) -> dict[str, Any]:
    """Scores and ranks in the population, 1 the best, of the architectures drawn for all; of others after their place.

    Of `Points.shown`. Equal scores share their mean rank; what has no score has no rank.
    """
    scored = np.isfinite(series.scores)
    ranks = np.full(len(series.scores), np.nan)
    ranks[scored] = rankdata(-series.scores[scored])
    axis, unit = score_axis(series.scores)
    return {
        "axis": axis,
        "unit": unit,
        "scores": [_significant(v) for v in series.scores[drawn]],
        "ranks": [_rank(v) for v in ranks[drawn]],
        "besides": [[place, _significant(series.scores[i]), _rank(ranks[i])] for i, place in besides],
    }


def _rank(value: float) -> float | int | None:
    """A mean rank, without a fraction of 0; null where there is none."""
    return int(value) if value % 1 == 0 else _rounded(value, 1)


# Text of the pages ----------------------------------------------------------------------------------------------


def slug(name: str) -> str:
    """A proxy's name as the name of its page's file."""
    return re.sub(r"[^\w.-]+", "_", name)


def proxy_facts(name: str) -> dict[str, Any]:
    """Definition, citation and declaration of a proxy or aggregate, for its page."""
    kind = AGGREGATES[name] if name in AGGREGATES else available()[name]
    facts = {
        "name": name,
        "slug": slug(name),
        "summary": kind.summary,
        "definition": _paragraphs(kind.__doc__ or kind.summary),
        "citation": _linked(kind.citation),
        "command": _scoring_command(name),
    }
    if issubclass(kind, Aggregate):
        return facts | {"members": [(member, slug(member.split(":")[0])) for member in kind.members], "settings": []}
    proxy: Proxy = get_proxy(name)
    declared = [
        ("mini-batches", {"none": "reads none", "images": "images of the dataset", "random": "noise"}[proxy.inputs]),
        ("passes read", ", ".join(sorted(type(probe).__name__ for probe in proxy.needs()))),
        ("draws", "weights or inputs at random, from a seed for each architecture" if proxy.random else "nothing"),
        ("last layer", "read" if proxy.reads_head else "not read: on noise, datasets of one image shape share scores"),
        ("sign", "as in the paper" if proxy.sign > 0 else "negated, so that higher is better"),
        ("version of the definition", str(proxy.version)),
    ]
    settings = [(field.name, repr(field.default)) for field in dataclasses.fields(proxy)]
    return facts | {"members": [], "declared": declared, "settings": settings}


def _scoring_command(name: str) -> str:
    """A command that scores a proxy, or the members of an aggregate, on the first benchmark to which it applies."""
    fits = [one for one in list_benchmarks() if not inapplicable(name, load_benchmark(one))]
    if not fits:
        return ""
    benchmark = DEFAULT_BENCHMARK if DEFAULT_BENCHMARK in fits else fits[0]
    return f'harness score benchmark={benchmark} "proxies=[{",".join(proxy.label for proxy in proxies_of(name))}]"'


def _paragraphs(text: str) -> list[Any]:
    """Paragraphs of a docstring, `code` marked up."""
    from markupsafe import Markup, escape

    parts = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return [Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(part)))) for part in parts if part]


def _linked(text: str) -> Any:
    """A citation whose arXiv number is a link."""
    from markupsafe import Markup, escape

    link = r'<a rel="noreferrer" href="https://arxiv.org/abs/\1">arXiv \1</a>'
    return Markup(re.sub(r"arXiv (\d{4}\.\d{4,5})", link, str(escape(text))))


def benchmark_facts(benchmark: Benchmark, found: Sequence[Board]) -> dict[str, Any]:
    """The card of a benchmark and its accuracies, for its page."""
    card = benchmark.card
    datasets = []
    for name, dataset in benchmark.datasets.items():
        facts = {"name": name, "outputs": dataset.outputs, "resolution": dataset.resolution}
        if benchmark.has_accuracies and benchmark.targets(name):
            accuracies = benchmark.accuracies(name).dropna()
            facts["targets"] = list(benchmark.targets(name))
            facts |= {
                "least": f"{accuracies.min():.2f}",
                "median": f"{accuracies.median():.2f}",
                "most": f"{accuracies.max():.2f}",
            }
        else:
            facts |= {"targets": ["by import"], "least": "–", "median": "–", "most": "–"}
        datasets.append(facts)
    return {
        "name": benchmark.name,
        "title": card["title"],
        "space": card["space"],
        "rows": len(benchmark),
        "default_target": card.get("default_target", "–"),
        "datasets": datasets,
        "populations": [*benchmark.space.populations, *benchmark.populations_of_card],
        "scored": [board.dataset for board in found if board.benchmark is benchmark],
        "texts": {name: " ".join(str(card.get(name, "")).split()) for name in TEXTS},
    }


# The command ----------------------------------------------------------------------------------------------------


def _script(name: str, data: Any) -> str:
    """A script that hands `data` to the page."""
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return f"(window.HARNESS ??= {{}})[{json.dumps(name)}] = {text};\n"


def site_files(store: ScoreStore, metrics: Sequence[str], points: int, estimates: Estimates) -> dict[str, str]:
    """Every file of the site, by its path in the folder.

    Args:
        points: architectures that a scatter plot shows at most.
    """
    library()
    import jinja2

    from harness import __version__

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.report", "site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found = boards(store)
    benchmarks = [load_benchmark(name) for name in list_benchmarks()]
    drawn = sum(len(board.complete) for board in found)
    limits = Points(max(1, min(points, POINT_BYTES // (BYTES_A_POINT * max(1, drawn)))))
    proxies = [proxy_facts(name) for name in (*available(), *AGGREGATES)]
    common = {"imprint": imprint(__version__), "resamples": estimates.resamples}
    files = shared() | {asset: (templates.loader.get_source(templates, asset)[0]) for asset in ASSETS}
    files["vega.js"] = bundle()
    files["data/charts.js"] = _script("charts", {kind: chart(kind) for kind in CHARTS})
    rows = []
    with progress_bar(len(found) + len(proxies), "leaderboards and proxies") as progress:
        for board in found:
            rows += leaderboard_rows(board, metrics, estimates)
            progress.update()
        for facts in proxies:
            data = proxy_data(facts["name"], found, limits, estimates)
            files[f"data/proxies/{facts['slug']}.js"] = _script("proxy", data)
            files[f"proxies/{facts['slug']}.html"] = templates.get_template("proxy.html.j2").render(
                **common, root="../", proxy=facts, scored=bool(data)
            )
            progress.update()
    cells = cells_of(store, found, estimates.resamples)
    pages = {facts["name"]: facts["slug"] for facts in proxies}
    files["data/leaderboard.js"] = _script("leaderboard", leaderboard_data(rows, found, metrics, groups_of(cells)))
    files["data/matrix.js"] = _script("matrix", standing(cells, pages))
    cards = [benchmark_facts(benchmark, found) for benchmark in benchmarks]
    for benchmark, card in zip(benchmarks, cards, strict=True):
        files[f"data/points/{benchmark.name}.js"] = _script(f"points/{benchmark.name}", limits.data(benchmark))
        files[f"benchmarks/{benchmark.name}.html"] = templates.get_template("benchmark.html.j2").render(
            **common, root="../", benchmark=card
        )
    files["index.html"] = templates.get_template("index.html.j2").render(
        **common, root="", proxies=proxies, benchmarks=cards, entries=len({(r["proxy"], r["inputs"]) for r in rows})
    )
    files[FILES] = json.dumps(sorted(files), indent=0) + "\n"
    return files


def build_page(config: Any) -> int:
    """Write the site that a configuration asks for. Returns the exit code."""
    metrics = list(dict.fromkeys(get_metric(name).name for name in config.metrics))
    check_resamples(config.resamples)
    if config.points < 1 or not config.metrics:
        raise HarnessError("points have to be 1 or more, and metrics at least one")
    folder = Path(config.output)
    make_folder(folder)  # a fault is said before minutes of computing
    estimates = Estimates(cache_file(config.cache, "estimates.json"), config.resamples)
    try:
        files = site_files(open_store(config.store, config.stores), metrics, config.points, estimates)
    finally:
        estimates.save()
    write_files(folder, files)
    size = sum(len(text.encode()) for text in files.values())
    print(f"{folder / 'index.html'}: {len(files)} files, {size / 1e6:.1f} MB")
    return 0
