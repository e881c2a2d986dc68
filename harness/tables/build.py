"""`harness report`: every table, written from stored scores, with what is missing."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.benchmarks.benchmark import list_targets
from harness.config import choices
from harness.engine.store import ScoreStore, open_store, write_text
from harness.errors import HarnessError, UnknownNameError
from harness.paths import OUTPUT
from harness.rankings.results import scoring_commands
from harness.tables import leaderboard, overview, papers
from harness.tables.cells import COLUMNS, Cell, find_block, load_table, retarget, to_csv
from harness.tables.measure import Measurements
from harness.tables.sheet import WRITERS, Sheet


def build_table(table: Any, measurements: Measurements) -> tuple[Sequence[Cell], Sheet, Sequence[str]]:
    """Figures of a table, how it is shown, and the columns of its CSV."""
    if table.kind == "leaderboard":
        return *leaderboard.build_leaderboard(table, measurements), leaderboard.COLUMNS
    if table.kind == "overview":
        tables = [load_table(name) for name in choices("table")]
        cells = [cell for one in tables if one.kind == "paper" for cell in papers.table_cells(one, measurements)]
        cells = overview.compared(cells)
        return cells, overview.to_sheet(table, cells), overview.COLUMNS
    if table.kind != "paper":
        raise UnknownNameError("kind of table", table.kind, ["paper", "leaderboard", "overview"])
    cells = papers.table_cells(table, measurements)
    return cells, papers.to_sheet(table, cells), COLUMNS


def build_tables(config: Any) -> int:
    """Write the tables that a report configuration asks for; list what the store lacks for them.

    Returns the exit code: 1 with `strict` where a figure could not be computed, or not from all seeds asked for.
    """
    measurements = Measurements(open_store(config.store, config.stores))
    tables = [config.table] if config.table is not None else [load_table(name) for name in choices("table")]
    if config.target is not None:
        tables = _retargeted(tables, config.target, measurements)
    output = Path(config.output or Path(OUTPUT, "tables" if config.target is None else "targets"))
    lacking = 0
    for table in tables:
        cells, sheet, columns = build_table(table, measurements)
        texts = {"csv": to_csv(cells, columns), **{kind: write(sheet) for kind, write in WRITERS.items()}}
        try:
            output.mkdir(parents=True, exist_ok=True)
            for kind, text in texts.items():
                write_text(output / f"{table.name}.{kind}", text)
        except OSError as error:
            raise HarnessError(
                f"cannot write tables to {output} ({error.strerror or error}): free some space or set output=DIR"
            ) from error
        if len(tables) == 1:
            print(texts["md"])
        lacking += _summarise(output / f"{table.name}.md", cells, measurements.store)
    return 1 if config.strict and lacking else 0


def _summarise(path: Path, cells: Sequence[Cell], store: ScoreStore) -> int:
    """Print how much of a table was computed and what is missing; returns the number of figures that lack scores."""
    computed = sum(cell.ours is not None for cell in cells)
    compared = [cell.agrees for cell in cells if cell.agrees is not None]
    agreement = f", {sum(compared)} of {len(compared)} published ones agree" if compared else ""
    print(f"{path}: {computed} of {len(cells)} figures computed{agreement}")
    commands = scoring_commands((pair for cell in cells for pair in cell.missing), store)
    for command in dict.fromkeys(commands.values()):
        print(f"  missing: {command}", file=sys.stderr)
    without = dict.fromkeys(
        (f"{cell.benchmark}/{cell.dataset}", cell.note.split("; ")[0])
        for cell in cells
        if cell.ours is None and not cell.missing
    )
    for place, note in without:
        print(f"  {place}: {note}", file=sys.stderr)
    return sum(cell.ours is None or bool(cell.missing) for cell in cells)


def _retargeted(tables: Sequence[Any], target: str, measurements: Measurements) -> list[Any]:
    """The tables of which a dataset has the target, on these datasets. Raises UnknownNameError where none has it."""
    chosen = []
    for table in map(retarget, tables, [target] * len(tables)):
        having = []
        for entry in datasets_of(table):
            with suppress(UnknownNameError):
                if find_block(table, entry, measurements)[0] is not None:
                    having.append(entry)
        if having:
            table.datasets = having
            chosen.append(table)
    if not chosen:
        known = {name.rpartition(" ")[2] for name in list_targets()}
        raise UnknownNameError("target of these tables", target, known)
    return chosen


def datasets_of(table: Any) -> list[str]:
    """The datasets of a table; those of every benchmark for a leaderboard that names none."""
    if table.kind == "leaderboard":
        return leaderboard.entries(table)
    return list(table.datasets)
