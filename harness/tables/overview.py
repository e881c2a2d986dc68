"""The overview: every published figure beside ours, counted by paper."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from harness.correlation import metric as find_metric
from harness.tables.cells import SLACK, Cell, Place, Published, is_of, read_published
from harness.tables.sheet import Section, Sheet

COLUMNS = (
    "paper",
    "paper_table",
    "published_proxy",
    "printed_for",
    "benchmark",
    "dataset",
    "metric",
    "published",
    "ours",
    "ci_low",
    "ci_high",
    "delta",
    "agrees",
    "rows",
    "rows_agree",
    "verified",
    "n",
    "population",
    "proxy",
    "inputs",
    "note",
)

#: Fewer architectures than most samples have: an interval over them is wide, and agreement says less.
FEW = 300


def is_correlation(metric: str) -> bool:
    """Whether a published metric is one that is computed here."""
    try:
        find_metric(metric)
    except ValueError:
        return False
    return True


def compared(cells: Iterable[Cell]) -> list[Cell]:
    """A cell for every published rank correlation, in their order: the first with a figure of ours, or one without.

    A figure on the dataset that the paper prints it for comes before those that a table has of others beside it.
    """
    found: dict[Place, list[Cell]] = {}
    for cell in cells:
        if cell.published is not None and cell.place is not None:
            found.setdefault(cell.place, []).append(cell)
    return [
        _of_rows(place, found.get(place, [])) or _without_row(place, figure)
        for place, figure in read_published().items()
        if is_correlation(place[-1])
    ]


def _of_rows(place: Place, rows: Sequence[Cell]) -> Cell | None:
    best = max(rows, key=lambda cell: (cell.ours is not None, is_of(place, cell.benchmark, cell.dataset)), default=None)
    if best is None:
        return None
    judged = [cell.agrees for cell in rows if cell.agrees is not None]
    return replace(best, missing=(), note=_shortly(best), rows=len(judged), rows_agree=sum(judged))


def _shortly(cell: Cell) -> str:
    """The note without the commands that compute what is missing: the tables have them."""
    said = [part for part in cell.note.split("; ") if "harness score" not in part]
    return "; ".join([*(["not computed: scores are missing"] if cell.ours is None and cell.missing else []), *said])


def _without_row(place: Place, figure: Published) -> Cell:
    _, _, space, dataset, proxy, metric = place
    nan = float("nan")
    note = "not computed: no row of a table"
    return Cell(proxy, dataset, metric, 0, None, nan, nan, figure, note, benchmark=space, place=place)


def to_sheet(table: Any, cells: Sequence[Cell]) -> Sheet:
    """Counts by paper and table of the paper, and over all."""
    explained = f"Difference: ours minus published, absolute; agrees: within our interval widened by {SLACK}."
    sheet = Sheet(table.title, [table.protocol.strip(), explained])
    heads = ["figures", "computed", f"n < {FEW}", "agree", "disagree", "agree in every row", "unverified"]
    heads += ["median difference", "largest difference"]
    papers: dict[str, list[Cell]] = {}
    tables: dict[tuple[str, str], list[Cell]] = {}
    for cell in cells:
        papers.setdefault(cell.place[0], []).append(cell)
        tables.setdefault(cell.place[:2], []).append(cell)
    by_paper = Section("By paper", ["paper", *heads])
    by_paper.rows = [[paper, *_counts(part)] for paper, part in papers.items()]
    by_paper.rows.append(["all", *_counts(cells)])
    by_table = Section("By table", ["paper", "table", *heads])
    by_table.rows = [[*names, *_counts(part)] for names, part in tables.items()]
    sheet.sections += [by_paper, by_table]
    return sheet


def _counts(cells: Sequence[Cell]) -> list[str]:
    judged = [cell for cell in cells if cell.agrees is not None]
    differences = [abs(cell.delta) for cell in judged]
    agree = sum(cell.agrees for cell in judged)
    largest = max(judged, key=lambda cell: abs(cell.delta), default=None)
    return [
        f"{len(cells):,}",
        f"{len(judged):,}",
        f"{sum(cell.n < FEW for cell in judged):,}",
        f"{agree:,}",
        f"{len(judged) - agree:,}",
        f"{sum(cell.rows_agree == cell.rows for cell in judged):,}",
        f"{sum(cell.published.unverified for cell in cells):,}",
        f"{statistics.median(differences):.3f}" if differences else "–",
        f"{abs(largest.delta):.3f} ({largest.proxy}, {largest.dataset}, {largest.metric})" if largest else "–",
    ]
