"""`harness report`: every table, written from stored scores, with what is missing."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from harness.benchmarks.benchmark import list_targets
from harness.config import choices
from harness.engine.store import ScoreStore, open_store, write_text
from harness.errors import HarnessError, UnknownNameError
from harness.paths import OUTPUT, usable_cores
from harness.rankings.results import scoring_commands
from harness.tables import leaderboard, overview, papers
from harness.tables.cells import COLUMNS, Cell, find_block, load_table, retarget, to_csv, with_stand_ins
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
    names = choices("table")
    tables = [with_stand_ins(config.table)] if config.table is not None else [load_table(name) for name in names]
    if config.target is not None:
        tables = _retargeted(tables, config.target, measurements)
    output = Path(config.output or Path(OUTPUT, "tables" if config.target is None else "targets"))
    built: dict[str, Sequence[Cell]] = {}
    for table, cells, texts in _build_all(tables, measurements):
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
        print(f"{output / table.name}.md: {_counted(cells)}")
        built[table.name] = cells
    cells = [cell for table in tables for cell in built[table.name]]
    _summarise(tables, cells, measurements.store, output, config.missing)
    return 1 if config.strict and any(cell.ours is None or cell.missing for cell in cells) else 0


def _build_all(
    tables: Sequence[Any], measurements: Measurements
) -> Iterator[tuple[Any, Sequence[Cell], dict[str, str]]]:
    """Each table with its figures and its texts by kind, a leaderboard last.

    That takes as long as all others together, and so a process of its own where there are cores for two.
    """
    apart = [table for table in tables if table.kind == "leaderboard"]
    rest = [table for table in tables if table.kind != "leaderboard"]
    if not apart or not rest or usable_cores() < 2:
        yield from ((table, *_build_texts(table, measurements)) for table in (*rest, *apart))
        return
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        waiting = [
            (table, pool.submit(_build_apart, table, measurements.store.root, measurements.store.layers))
            for table in apart
        ]
        yield from ((table, *_build_texts(table, measurements)) for table in rest)
        yield from ((table, *future.result()) for table, future in waiting)


def _build_apart(table: Any, root: Path, layers: Sequence[Path]) -> tuple[Sequence[Cell], dict[str, str]]:
    """`_build_texts` in a process of its own."""
    return _build_texts(table, Measurements(ScoreStore(root, layers)))


def _build_texts(table: Any, measurements: Measurements) -> tuple[Sequence[Cell], dict[str, str]]:
    cells, sheet, columns = build_table(table, measurements)
    return cells, {"csv": to_csv(cells, columns), **{kind: write(sheet) for kind, write in WRITERS.items()}}


def _counted(cells: Sequence[Cell]) -> str:
    """How many figures of a table were computed, and how many of these agree with published ones."""
    computed = sum(cell.ours is not None for cell in cells)
    compared = [cell.agrees for cell in cells if cell.agrees is not None]
    agreement = f", {sum(compared)} of {len(compared)} published ones agree" if compared else ""
    return f"{computed} of {len(cells)} figures computed{agreement}"


def _summarise(tables: Sequence[Any], cells: Sequence[Cell], store: ScoreStore, output: Path, listed: bool) -> None:
    """Print three lines: what was read and built, what is missing, what is next; before them, if `listed`, each gap."""
    commands = list(dict.fromkeys(scoring_commands((p for cell in cells for p in cell.missing), store).values()))
    without = dict.fromkeys(
        f"{cell.benchmark}/{cell.dataset}: {cell.note.split('; ')[0]}"
        for cell in cells
        if cell.ours is None and not cell.missing
    )
    for line in (*(f"missing: {command}" for command in commands), *without) if listed else ():
        print(f"  {line}", file=sys.stderr)
    lacking = sum(bool(cell.missing) for cell in cells)
    gaps = [f"{lacking} figures lack scores, which {len(commands)} commands compute"] if commands else []
    gaps += [f"{sum(cell.ours is None and not cell.missing for cell in cells)} can have none"] if without else []
    more = "" if listed else " (missing=true lists them)"
    print(f"{len(tables)} table{'s' * (len(tables) > 1)} in {output}, {_counted(cells)}, from {store}")
    print(f"{', '.join(gaps)}{more}" if gaps else "no score is missing")
    print(f"next: open {output / tables[0].name}.html, or see all proxies and benchmarks by `harness report page`")


def _retargeted(tables: Sequence[Any], target: str, measurements: Measurements) -> list[Any]:
    """The tables of which a dataset has the target, on these datasets. Raises UnknownNameError where none has it."""
    chosen = []
    for table in map(retarget, tables, [target] * len(tables)):
        having = {}
        for entry in datasets_of(table):
            with suppress(UnknownNameError):
                block, _ = find_block(table, entry, measurements)
                if block is not None:
                    having[entry] = str(block.figure)
        if having:
            table.datasets = list(having)
            table.protocol = f"{_told(target, having.values())}\n\n{table.protocol}"
            chosen.append(table)
    if not chosen:
        known = {name.rpartition(" ")[2] for name in list_targets()}
        raise UnknownNameError("target of these tables", target, known)
    return chosen


def _told(target: str, figures: Iterable[str]) -> str:
    """What stands above a table of another figure than accuracies."""
    kinds = list(dict.fromkeys(figures))
    low = any("lower is better" in kind for kind in kinds)
    text = (
        f"Figures to predict: {target}, {'; '.join(kinds)}, in place of the accuracies that the protocol names. "
        "A positive correlation: high scores go with high figures"
    )
    return text + (", which are the worse ones." if low else ".")


def datasets_of(table: Any) -> list[str]:
    """The datasets of a table; those of every benchmark for a leaderboard that names none."""
    if table.kind == "leaderboard":
        return leaderboard.entries(table)
    return list(table.datasets)
