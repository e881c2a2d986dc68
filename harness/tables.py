"""The papers' tables: ours beside theirs, from stored scores alone."""

from __future__ import annotations

import csv
import io
import math
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from harness.benchmark import load_benchmark
from harness.config import TableConfig, choices, compose_config
from harness.correlation import Correlation, correlate_many
from harness.errors import HarnessError
from harness.paths import published_csv
from harness.results import Reader, Scores, scoring_commands
from harness.store import ScoreKey, ScoreStore

COLUMNS = (
    "proxy",
    "dataset",
    "metric",
    "n",
    "ours",
    "ci_low",
    "ci_high",
    "published",
    "delta",
    "agrees",
    "note",
)

#: A published figure agrees when it lies in our interval widened by this much: papers round and average seeds.
SLACK = 0.02

METRIC_NAMES = {"kendall": "Kendall tau", "spearman": "Spearman rho"}


@dataclass(frozen=True)
class Cell:
    """One figure of a table. `ours` is None where scores are `missing`: pairs of population and partition."""

    proxy: str
    dataset: str
    metric: str
    n: int
    ours: float | None
    ci_low: float
    ci_high: float
    published: float | None
    note: str
    missing: tuple[tuple[str, ScoreKey], ...] = ()

    @property
    def delta(self) -> float | None:
        """Ours minus published."""
        return None if self.ours is None or self.published is None else self.ours - self.published

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies in our 95% interval widened by `SLACK`; None: nothing to compare."""
        if self.delta is None or math.isnan(self.delta):
            return None
        return self.ci_low - SLACK <= self.published <= self.ci_high + SLACK


def list_tables() -> dict[str, str]:
    """Names of the tables with their titles."""
    return {name: load_table(name).title for name in choices("table")}


def load_table(name: str) -> TableConfig:
    """The configuration of a table. Raises UnknownNameError with the nearest name."""
    return compose_config("report", [f"table={name}"]).table


def read_published() -> dict[tuple[str, str, str, str, str], float]:
    """Printed figures by (paper, table, dataset, the paper's name of the proxy, metric)."""
    path = published_csv()
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {
                (row["paper"], row["table"], row["dataset"], row["proxy"], row["metric"]): float(row["value"])
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read ({error!r}): restore the file of published figures") from error


def table_cells(table: Any, store: ScoreStore) -> list[Cell]:
    """All figures of a table, row by row.

    A row takes the first of the table's populations over which the store holds all its scores; the number of
    architectures is in `n`. nDCG at a fixed cut-off means another thing on a sample than on the population of
    the paper, which comes first, so it is given for that one only. Architectures for which the benchmark stores no
    figure are left out, and so are metrics that mean nothing for the figure (`Target.admits`).
    """
    benchmark = load_benchmark(table.benchmark)
    reader = Reader(store, benchmark)
    published = read_published()
    cells: list[Cell] = []
    for dataset in table.datasets:
        target = benchmark.target(dataset, table.target)
        accuracies = benchmark.accuracies(dataset, target.name).to_numpy()
        chosen: dict[int, Scores] = {}
        missing: dict[int, tuple[tuple[str, ScoreKey], ...]] = {}
        results: dict[int, Correlation] = {}
        for population in table.populations:
            indices = benchmark.population(population)
            indices = indices[~np.isnan(accuracies[indices])]
            metrics = [
                m
                for m in table.metrics
                if target.admits(m) and (population == table.populations[0] or not m.startswith("ndcg"))
            ]
            together: dict[bytes, dict[int, Scores]] = {}
            for place, row in enumerate(table.rows):
                if place in chosen:
                    continue
                scores = reader.scores(row.proxy, dataset, indices, row.inputs, table.seed)
                if scores.missing:
                    missing[place] = tuple((population, key) for key in scores.missing)
                elif scores.members.any():
                    chosen[place] = scores
                    together.setdefault(scores.members.tobytes(), {})[place] = scores
            # Rows of equal members share their resamples.
            for group in together.values():
                members = next(iter(group.values())).members
                columns = {str(place): scores.values[members] for place, scores in group.items()}
                stored = accuracies[indices[members]]
                found = correlate_many(columns, stored, metrics, resamples=table.resamples)
                results.update({int(place): result for place, result in found.items()})
        for place, row in enumerate(table.rows):
            result = results.get(place)
            lacking = () if place in chosen else missing[place]
            for metric in table.metrics:
                printed = published.get((table.paper, table.paper_table, dataset, row.published or row.proxy, metric))
                notes = [_note(row, dataset)]
                if result is not None and metric in result.estimates:
                    estimate = result[metric]
                    ours, low, high = estimate.value, estimate.low, estimate.high
                    if result.n_failed:
                        notes.append(f"{result.n_failed} without a score, ranked last")
                else:
                    ours, low, high = None, math.nan, math.nan
                    reason = "" if result is None else f": needs all of {table.populations[0]}"
                    if not target.admits(metric):
                        reason = f": means nothing for {target}"
                    notes.insert(0, f"not computed{reason}")
                n = result.n if result is not None else 0
                label = row.label or row.proxy
                cells.append(
                    Cell(
                        label,
                        dataset,
                        metric,
                        n,
                        ours,
                        low,
                        high,
                        printed,
                        "; ".join(filter(None, notes)),
                        lacking,
                    )
                )
    return cells


def _note(row: Any, dataset: str) -> str:
    return row.note if not row.note_datasets or dataset in row.note_datasets else ""


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def to_csv(cells: list[Cell]) -> str:
    """The table as CSV with the columns `COLUMNS`; figures rounded to four digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    for cell in cells:
        agrees = {None: "", True: "yes", False: "no"}[cell.agrees]
        ours = "not computed" if cell.ours is None else _number(cell.ours) or "undefined"
        numbers = [
            ours,
            _number(cell.ci_low),
            _number(cell.ci_high),
            _number(cell.published, 3),
            _number(cell.delta),
        ]
        writer.writerow([cell.proxy, cell.dataset, cell.metric, cell.n, *numbers, agrees, cell.note])
    return out.getvalue()


def to_markdown(table: Any, cells: list[Cell]) -> str:
    """The table as Markdown: one block a dataset, ours with its interval beside the published figure."""
    lines = [f"# {table.title}", "", table.protocol.strip(), ""]
    lines += [
        "Each cell: ours [95% interval] / published; **bold** where the published figure lies outside our interval "
        f"widened by {SLACK}. `–`: the paper prints none.",
        "",
    ]
    notes: dict[str, int] = {}
    for dataset in table.datasets:
        names = [METRIC_NAMES.get(m, m.replace("ndcg_", "nDCG_")) for m in table.metrics]
        lines += [f"## {dataset}", "", "| proxy | n | " + " | ".join(names) + " | notes |"]
        lines.append("|---|--:|" + "--:|" * len(names) + "---|")
        rows: dict[str, list[Cell]] = {}
        for cell in cells:
            if cell.dataset == dataset:
                rows.setdefault(cell.proxy, []).append(cell)
        for proxy, row in rows.items():
            marks = []
            for note in dict.fromkeys(note for cell in row for note in cell.note.split("; ") if note):
                if not note.startswith("not computed"):
                    marks.append(f"[{notes.setdefault(note, len(notes) + 1)}]")
            shown = " | ".join(_markdown_cell(cell) for cell in row)
            lines.append(f"| {proxy} | {row[0].n or ''} | {shown} | {' '.join(marks)} |")
        lines.append("")
    lines += [f"[{number}] {note}  " for note, number in notes.items()]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_cell(cell: Cell) -> str:
    printed = _number(cell.published, 3) or "–"
    if cell.ours is None:
        return f"not computed / {printed}"
    text = f"{cell.ours:.3f} [{cell.ci_low:.3f}, {cell.ci_high:.3f}] / {printed}"
    return f"**{text}**" if cell.agrees is False else text


def build_tables(config: Any) -> int:
    """Write the tables that a report configuration asks for; list what the store lacks for them.

    Returns the exit code: 1 with `strict` where a figure could not be computed.
    """
    store = ScoreStore(config.store)
    tables = [config.table] if config.table is not None else [load_table(name) for name in choices("table")]
    output = Path(config.output)
    lacking = 0
    for table in tables:
        cells = table_cells(table, store)
        try:
            output.mkdir(parents=True, exist_ok=True)
            (output / f"{table.name}.csv").write_text(to_csv(cells), encoding="utf-8")
            (output / f"{table.name}.md").write_text(to_markdown(table, cells), encoding="utf-8")
        except OSError as error:
            raise HarnessError(
                f"cannot write tables to {output} ({error.strerror or error}): free some space or set output=DIR"
            ) from error
        if len(tables) == 1:
            print(to_markdown(table, cells))
        computed = sum(cell.ours is not None for cell in cells)
        compared = [cell.agrees for cell in cells if cell.agrees is not None]
        lacking += len(cells) - computed
        print(
            f"{output / table.name}.md: {computed} of {len(cells)} figures computed, "
            f"{sum(compared)} of {len(compared)} published ones agree"
        )
        missing: dict[str, set[ScoreKey]] = {}
        for population, key in dict.fromkeys(pair for cell in cells for pair in cell.missing):
            missing.setdefault(population, set()).add(key)
        for population, keys in missing.items():
            for command in scoring_commands(keys, population, str(store.root)):
                print(f"  missing: {command}", file=sys.stderr)
    return 1 if config.strict and lacking else 0
