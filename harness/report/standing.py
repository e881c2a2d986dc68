"""The matrix of proxies and datasets with mean ranks: figures, ranks and groups of the table `leaderboard`.

The page shows what `harness report table=leaderboard` writes, from the same cells: the same digits, intervals, ranks
and groups. Besides the proxies of this package it has those that others register, where the store has their scores.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from harness.config import RowConfig
from harness.correlation import metric
from harness.engine.store import ScoreStore
from harness.proxies import available
from harness.report.measures import Board
from harness.tables.cells import Cell, digits_of, load_table, metric_title
from harness.tables.leaderboard import build_leaderboard, entries, general_name, rows_of
from harness.tables.measure import Measurements

#: Of a metric over datasets, the mean of its ranks.
_RANK = "rank by "


def cells_of(store: ScoreStore, found: Sequence[Board], resamples: int) -> list[Cell]:
    """The leaderboard's cells on the boards of which the store has scores."""
    table = load_table("leaderboard")
    scored = {f"{board.benchmark.name}/{board.dataset}" for board in found}
    table.datasets = [entry for entry in entries(table) if entry in scored]
    stored = {entry.proxy for board in found for entry in board.complete}
    own = rows_of(table)
    known = {row.proxy for row in own}
    table.rows = own + [RowConfig(proxy=name) for name in sorted(stored & set(available()) - known)]
    table.resamples = resamples
    return build_leaderboard(table, Measurements(store))[0] if table.datasets else []


def groups_of(cells: Sequence[Cell]) -> dict[tuple[str, str, str, str], str]:
    """Letters of the proxies that no significant difference sets apart, by benchmark, dataset, population, proxy."""
    return {(c.benchmark, c.dataset, c.population, c.proxy): c.group for c in cells if c.group and c.dataset != "all"}


def standing(cells: Sequence[Cell], pages: Mapping[str, str]) -> dict[str, Any]:
    """What the matrix draws.

    Args:
        pages: the file of a proxy's page by its name. What has none, as all that spends accuracies, is left out.

    Returns:
        `metrics`: name, title, digits and whether lower is better. `places`: benchmark, dataset, population, n of the
        ranking, those with most proxies in it first. `rows`, the best first: proxy, page, the `mean` ranks with
        intervals by metric, their `rank` and `group`, and by metric a figure a place: value, low, high, rank (null on
        another population than the ranking's), n; null where there is none.
    """
    ranked = [cell for cell in cells if cell.dataset != "all" and cell.rank is not None]
    in_it = Counter((cell.benchmark, cell.dataset) for cell in ranked)
    places: dict[tuple[str, str], tuple[str, int]] = {}
    for cell in sorted(ranked, key=lambda cell: -in_it[cell.benchmark, cell.dataset]):
        places.setdefault((cell.benchmark, cell.dataset), (cell.population, cell.n))
    columns = {place: number for number, place in enumerate(places)}
    names = list(dict.fromkeys(general_name(cell.metric) for cell in ranked))
    rows: dict[str, dict[str, Any]] = {}
    for cell in cells:
        if cell.ours is None or cell.metric == "seconds" or cell.proxy not in pages:
            continue
        if cell.dataset != "all" and (cell.benchmark, cell.dataset) not in places:
            continue
        row = rows.setdefault(
            cell.proxy,
            {"proxy": cell.proxy, "page": pages[cell.proxy], "rank": None, "group": "", "mean": {}, "figures": {}},
        )
        if cell.dataset == "all":
            name = cell.metric.removeprefix(_RANK)
            row["mean"][name] = [*_rounded(cell, digits_of(cell.metric)), cell.rank]
            if cell.group:
                row |= {"rank": cell.rank, "group": cell.group}
            continue
        name = general_name(cell.metric)
        figures = row["figures"].setdefault(name, [None] * len(places))
        figures[columns[cell.benchmark, cell.dataset]] = [
            *_rounded(cell, digits_of(name)),
            cell.rank,
            cell.n,
        ]
    order = sorted(rows.values(), key=lambda row: (row["rank"] or math.inf, -_count(row), row["proxy"]))
    return {
        "metrics": [
            {"name": n, "title": metric_title(n), "digits": digits_of(n), "lower": _is_lower(n)} for n in names
        ],
        "places": [
            {"benchmark": benchmark, "dataset": dataset, "population": population, "n": n}
            for (benchmark, dataset), (population, n) in places.items()
        ],
        "counted": next((cell.n for cell in cells if cell.dataset == "all" and cell.ours is not None), 0),
        "rows": order,
    }


def _is_lower(name: str) -> bool:
    return metric(name.replace("_P", "_1")).direction == "lower"


def _count(row: Mapping[str, Any]) -> int:
    """Places with a figure of the metric that has most."""
    return max((sum(one is not None for one in figures) for figures in row["figures"].values()), default=0)


def _rounded(cell: Cell, digits: int) -> list[float | None]:
    """Value and interval with the digits of the tables; null where undefined."""
    return [round(v, digits) if math.isfinite(v) else None for v in (cell.ours, cell.ci_low, cell.ci_high)]
