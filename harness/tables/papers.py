"""The papers' tables: ours beside theirs, from stored scores alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from harness.correlation import Sample, estimate
from harness.engine.store import ScoreKey
from harness.rankings.results import Scores
from harness.tables.cells import (
    NOT_APPLICABLE,
    SLACK,
    UNVERIFIED,
    Cell,
    admitted_metrics,
    find_block,
    interval_text,
    is_on,
    legend,
    marked,
    metric_title,
    not_computed,
    place_of,
    read_published,
    with_commands,
)
from harness.tables.measure import Block, Measurements, mean_over_seeds, split_dataset
from harness.tables.sheet import Section, Sheet


def table_cells(table: Any, measurements: Measurements) -> list[Cell]:
    """All figures of a paper's table, row by row.

    A row takes the first of its populations over which the store holds all scores of the first seed; the number of
    architectures is in `n`. nDCG at a fixed cut-off means another thing on a sample than on the population of
    the paper, which comes first, so it is given for that one only.
    """
    return measurements.once(table, lambda: _cells(table, measurements))


def _cells(table: Any, measurements: Measurements) -> list[Cell]:
    published = read_published()
    metrics = admitted_metrics(table, table.datasets, measurements)
    cells = [cell for entry in table.datasets for cell in _block_cells(table, entry, metrics, measurements, published)]
    return with_commands(cells)


@dataclass(frozen=True)
class _Choice:
    """The scores that a row takes, one a seed, and what the store lacks for more."""

    population: str
    scores: tuple[Scores, ...]
    #: For the seeds after the first, and for the first population where a later one was taken.
    other_seeds: tuple[tuple[str, ScoreKey], ...] = ()
    first_population: tuple[tuple[str, ScoreKey], ...] = ()
    #: Why the row can have none.
    reason: str = ""


def _choose(table: Any, row: Any, block: Block) -> _Choice:
    """Without scores, `other_seeds` is all that is missing."""
    why = block.inapplicable(row.proxy)
    if why:
        return _Choice("", (), reason=f"{NOT_APPLICABLE}: {why}")
    lacking: tuple[tuple[str, ScoreKey], ...] = ()
    first_population: tuple[tuple[str, ScoreKey], ...] = ()
    populations = row.populations or table.populations
    first, *others = row.seeds or table.seeds
    for population in populations:
        scores = block.scores(row.proxy, population, row.inputs, first)
        if scores.missing:
            lacking = tuple((population, key) for key in scores.missing)
        elif scores.members.any():
            if not others or not block.draws(row.proxy, row.inputs):
                return _Choice(population, (scores,), (), first_population)
            more = [block.scores(row.proxy, population, row.inputs, seed) for seed in others]
            missing = tuple((population, key) for found in more for key in found.missing)
            return _Choice(population, (scores, *more) if not missing else (scores,), missing, first_population)
        if population == populations[0]:
            first_population = lacking
    return _Choice("", (), lacking)


def _block_cells(
    table: Any, entry: str, metrics: Sequence[str], measurements: Measurements, published: dict
) -> list[Cell]:
    """The cells of a dataset, those of rows with a target of their own measured by it."""
    rows = [row for row in table.rows if is_on(row, table, entry)]
    found: dict[int, list[Cell]] = {}
    for target in dict.fromkeys(row.target for row in rows):
        own = [row for row in rows if row.target == target]
        block, reason = find_block(table, entry, measurements, target)
        cells = _row_cells(table, entry, own, block, reason, metrics, published)
        found |= {id(row): of_row for row, of_row in zip(own, cells, strict=True)}
    return [cell for row in rows for cell in found[id(row)]]


def _row_cells(
    table: Any,
    entry: str,
    rows: Sequence[Any],
    block: Block | None,
    reason: str,
    metrics: Sequence[str],
    published: dict,
) -> list[list[Cell]]:
    benchmark, dataset = split_dataset(table, entry)
    choices_made = [_choose(table, row, block) if block else _Choice("", ()) for row in rows]
    samples = _measured(table, block, metrics, rows, choices_made) if block else [[] for _ in rows]
    of_rows: list[list[Cell]] = []
    for row, choice, of_seeds in zip(rows, choices_made, samples, strict=True):
        cells: list[Cell] = []
        for metric in metrics:
            place = place_of(table, row, entry, metric)
            cell = Cell(
                proxy=row.label or row.proxy,
                dataset=dataset,
                metric=metric,
                n=of_seeds[0].n if of_seeds else 0,
                ours=None,
                ci_low=math.nan,
                ci_high=math.nan,
                published=published.get(place),
                note=_note(row, dataset),
                benchmark=benchmark,
                population=choice.population,
                inputs=block.inputs(row.proxy, row.inputs) if block else "",
                place=place,
                absolute=table.absolute,
            )
            if block is None:
                cell = not_computed(cell, reason)
            elif not of_seeds:
                few = "fewer than two architectures have a score" if _has_too_few(table, row, choice) else ""
                cell = not_computed(cell, choice.reason or few, choice.other_seeds)
            elif not block.admits(metric):
                cell = not_computed(cell, f"means nothing for {block.figure}")
            elif metric not in of_seeds[0].values:
                needed = (row.populations or table.populations)[0]
                cell = not_computed(cell, f"needs all of {needed}", choice.first_population)
            else:
                cell = replace(cell, note="; ".join(filter(None, [cell.note, block.stand_in(row.proxy, row.inputs)])))
                cell = _computed(cell, metric, of_seeds, choice, table, row)
            cells.append(cell)
        of_rows.append(cells)
    return of_rows


def _note(row: Any, dataset: str) -> str:
    own = row.note if not row.note_datasets or dataset in row.note_datasets else ""
    return "; ".join(filter(None, [f"by {row.target}" if row.target else "", own]))


def _scored_only(table: Any, row: Any) -> bool:
    return table.scored_only if row.scored_only is None else row.scored_only


def _has_too_few(table: Any, row: Any, choice: _Choice) -> bool:
    """Whether leaving out what has no score leaves no ranking."""
    scored = [np.isfinite(scores.values[scores.members]).sum() for scores in choice.scores]
    return _scored_only(table, row) and min(scored, default=2) < 2


def _computed(cell: Cell, metric: str, of_seeds: Sequence[Sample], choice: _Choice, table: Any, row: Any) -> Cell:
    value, resampled, deviation = mean_over_seeds(of_seeds, metric)
    interval = estimate(value, resampled)
    notes = [cell.note]
    failed = [np.count_nonzero(~np.isfinite(scores.values[scores.members])) for scores in choice.scores]
    if any(failed):
        spread = str(max(failed)) if len(set(failed)) == 1 else f"{min(failed)} to {max(failed)}"
        notes.append(f"{spread} without a score, {'left out' if _scored_only(table, row) else 'ranked last'}")
    notes += dict.fromkeys(note for scores in choice.scores for note in scores.notes(row.proxy))
    if choice.other_seeds:
        asked = row.seeds or table.seeds
        notes.append(f"seed {asked[0]} alone, not all of the {len(asked)} seeds are stored")
    return replace(
        cell,
        ours=value,
        ci_low=interval.low,
        ci_high=interval.high,
        seeds=len(of_seeds),
        seed_std=deviation,
        resamples=resampled.size,
        note="; ".join(filter(None, notes)),
        missing=choice.other_seeds,
    )


def _measured(
    table: Any, block: Block, metrics: Sequence[str], rows: Sequence[Any], choices_made: Sequence[_Choice]
) -> list[list[Sample]]:
    """The samples of each row, one a seed. nDCG is left out on all populations but the row's first."""
    columns = [
        []
        if _has_too_few(table, row, choice)
        else [block.column(choice.population, scores, _scored_only(table, row)) for scores in choice.scores]
        for row, choice in zip(rows, choices_made, strict=True)
    ]
    whole = [
        choice.population in {(row.populations or table.populations)[0]}
        for row, choice in zip(rows, choices_made, strict=True)
    ]
    admitted = [metric for metric in metrics if block.admits(metric)]
    found: list[list[Sample]] = [[] for _ in columns]
    for is_whole in (True, False):
        chosen = [metric for metric in admitted if is_whole or not metric.startswith("ndcg")]
        places = [place for place, flag in enumerate(whole) if flag is is_whole and columns[place]]
        if not chosen or not places:
            continue
        samples = block.measure((c for place in places for c in columns[place]), chosen, table.resamples)
        for place in places:
            found[place] = [samples[column.digest] for column in columns[place]]
    return found


def seeds_text(table: Any, cells: Sequence[Cell]) -> str:
    """Which of the seeds asked for a table of several is over; "" for a table of one."""
    asked = len(table.seeds)
    if asked < 2:
        return ""
    means = {cell.proxy for cell in cells if cell.seeds > 1}
    alone = {cell.proxy for cell in cells if cell.seeds == 1 and cell.missing}
    text = f"{asked} seeds are asked for ({', '.join(map(str, table.seeds))})"
    if not means:
        return f"{text}, 1 is stored: every figure is that of seed {table.seeds[0]}." if alone else f"{text}."
    text += f": mean and standard deviation (±) over all of them for {len(means)} rows"
    if alone:
        text += f", seed {table.seeds[0]} alone for {len(alone)} rows of which not all are stored"
    return f"{text}. A row without ± that does not say so draws nothing."


def to_sheet(table: Any, cells: Sequence[Cell]) -> Sheet:
    """A paper's table: one section a dataset, ours with its interval beside the published figure."""
    several = any(cell.seed_std is not None for cell in cells)
    published = [cell.published for cell in cells if cell.published is not None]
    ours = f"Each cell: ours {'± standard deviation over seeds ' if several else ''}[95% interval]"
    alone = _is_retargeted(table)
    parts = [
        f"{ours}."
        if alone
        else f"{ours} / published, or {DISAGREES} published where that lies outside our interval widened by {SLACK}. "
        f"At a small n that interval is wide: without {DISAGREES} the two cannot be told apart at this n. `–`: the "
        "paper prints none.",
        f"`{UNVERIFIED}`: a figure that was not checked against the paper."
        if any(figure.unverified for figure in published)
        else "",
        "The papers' figures are absolute values: ours are compared without their signs." if table.absolute else "",
        legend(table.rows),
        interval_text(table.resamples, [cell.n for cell in cells]),
        "The CSV has n, population and number of resamples of each figure.",
    ]
    sheet = Sheet(table.title, [table.protocol.strip(), seeds_text(table, cells), " ".join(filter(None, parts))])
    sheet.paragraphs = list(filter(None, sheet.paragraphs))
    shown = {row.label or row.proxy: marked(row.label or row.proxy, row.proxy) for row in table.rows}
    benchmarks = {split_dataset(table, entry)[0] for entry in table.datasets}
    metrics = list(dict.fromkeys(cell.metric for cell in cells))
    for entry in table.datasets:
        benchmark, dataset = split_dataset(table, entry)
        heading = dataset if len(benchmarks) == 1 else f"{benchmark}, {dataset}"
        if entry in table.targets:
            heading += f", target {table.targets[entry]}"
        section = Section(heading, ["proxy", "n", "inputs", *map(metric_title, metrics), "notes"])
        rows: dict[str, list[Cell]] = {}
        for cell in cells:
            if (cell.benchmark, cell.dataset) == (benchmark, dataset):
                rows.setdefault(cell.proxy, []).append(cell)
        for proxy, row in rows.items():
            notes = dict.fromkeys(note for cell in row for note in cell.note.split("; ") if note)
            marks = " ".join(sheet.mark(note) for note in notes)
            figures = [_shown(cell, alone) for cell in row]
            section.rows.append([shown[proxy], str(row[0].n or ""), row[0].inputs, *figures, marks])
        sheet.sections.append(section)
    return sheet


def _printed(cell: Cell) -> str:
    """The published figure with its paper's digits, of which three after the point are enough beside ours."""
    if cell.published is None:
        return "–"
    text = cell.published.text
    if len(text.partition(".")[2]) > 3:
        text = f"{cell.published:.3f}"
    return text + (UNVERIFIED if cell.published.unverified else "")


#: Stands between our figure and a published one that disagrees with it.
DISAGREES = "≠"


def _is_retargeted(table: Any) -> bool:
    """Whether a table is of another figure than the papers' accuracies, beside which nothing is printed."""
    return table.target is not None and not table.paper and not any(row.paper for row in table.rows)


def _shown(cell: Cell, alone: bool = False) -> str:
    """Ours and, unless `alone`, what the paper prints."""
    if cell.ours is None:
        ours = "not computed"
    elif math.isnan(cell.ours):
        ours = "undefined"
    else:
        deviation = "" if cell.seed_std is None else f" ± {cell.seed_std:.3f}"
        ours = f"{cell.ours:.3f}{deviation} [{cell.ci_low:.3f}, {cell.ci_high:.3f}]"
    if alone:
        return ours
    return f"{ours} {DISAGREES if cell.agrees is False else '/'} {_printed(cell)}"
