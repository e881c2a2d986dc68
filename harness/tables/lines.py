"""Lines of the leaderboard's sheet: figures as text, the best of a column in bold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from harness.tables.cells import NOT_APPLICABLE, Cell, digits_of
from harness.tables.sheet import Sheet


def place_of(item: tuple[str, list[Cell]]) -> tuple:
    """Ranked rows by rank, then those of another population, then those without figures."""
    label, (first, *_) = item
    return first.rank or math.inf, first.ours is None, label


def line_of(
    sheet: Sheet,
    name: str,
    row: Sequence[Cell],
    metrics: Sequence[str],
    best: Mapping[str, float],
    before: Sequence[str] = (),
    after: Sequence[str] = (),
    unit: str = "%",
) -> list[str]:
    """One line: rank and group by the first figure, what stands before the figures and after, marks of the notes.

    Args:
        best: the best rank by metric, of which the values are bold.
        unit: of what is ranked.
    """
    marks = " ".join(sheet.mark(n) for n in dict.fromkeys(n for cell in row for n in cell.note.split("; ") if n))
    first = row[0]
    figures = {
        cell.metric: _shown(cell, unit, cell.rank is not None and cell.rank == best.get(cell.metric))
        for cell in row
        if cell.ours is not None
    }
    blank = "–" if figures else NOT_APPLICABLE if first.note.startswith(NOT_APPLICABLE) else "not computed"
    rank = "–" if first.rank is None else f"{first.rank:g}"
    return [name, rank, first.group or "–", *before, *(figures.get(one, blank) for one in metrics), *after, marks]


def best_ranks(rows: Mapping[str, Sequence[Cell]]) -> dict[str, float]:
    """The best rank by metric."""
    found: dict[str, float] = {}
    for cell in (cell for row in rows.values() for cell in row if cell.rank is not None):
        found[cell.metric] = min(cell.rank, found.get(cell.metric, math.inf))
    return found


def _shown(cell: Cell, unit: str, bold: bool) -> str:
    if math.isnan(cell.ours):
        return "undefined"
    if cell.metric == "seconds":
        return f"{cell.ours:.3f}"
    digits = digits_of(cell.metric, unit)
    value = f"{cell.ours:.{digits}f}"
    return f"{f'**{value}**' if bold else value} [{cell.ci_low:.{digits}f}, {cell.ci_high:.{digits}f}]"
