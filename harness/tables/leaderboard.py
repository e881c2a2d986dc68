"""Our own table: what is stored of every proxy, benchmark by benchmark, with ranks and groups of what is alike.

Ranks are among the proxies that are complete on one population of a dataset, so that every comparison is paired. A
proxy that is complete on another one alone is shown with the figures that it has there, and without a rank.

A proxy belongs to one group with another where the difference of their Kendall's taus is not significant. The test
is the single-step max-|t| procedure (Romano & Wolf, 2005) on paired bootstrap resamples: a difference counts where
it exceeds, in units of its own bootstrap standard deviation, the 95% quantile of the largest such ratio over all
pairs. The family of all comparisons in one table so errs with a chance of 5%, and, as in a critical-difference
diagram (Demsar, 2006), a group is a longest run of neighbours in the ranking without a significant difference.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from scipy.stats import rankdata

from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
from harness.config import RowConfig
from harness.correlation import Sample, estimate, metric
from harness.engine.store import ScoreKey
from harness.errors import HarnessError
from harness.proxies import available
from harness.rankings.aggregates import AGGREGATES
from harness.rankings.labelled import LABELLED
from harness.rankings.learned import LEARNED
from harness.rankings.results import PAPER_INPUTS, Scores
from harness.tables import cells as figures
from harness.tables.cells import (
    NOT_APPLICABLE,
    Cell,
    find_block,
    interval_text,
    legend,
    marked,
    metric_title,
    not_computed,
    with_commands,
)
from harness.tables.groups import group_letters, indistinguishable
from harness.tables.lines import best_ranks, line_of, place_of
from harness.tables.measure import Block, Measurements, split_dataset
from harness.tables.sheet import Section, Sheet

COLUMNS = (
    *(name for name in figures.COLUMNS if name not in ("seeds", "seed_std", "published", "delta", "agrees")),
    "rank",
    "group",
)

#: By this metric the proxies are ranked and grouped.
MAIN = "kendall"
#: Which mini-batches a proxy's scores are taken from: its paper's, and noise where those are not stored.
SOURCES = (PAPER_INPUTS, "random")
#: Populations above this are not asked for: a sample of the table's is.
WORKABLE = 50_000


def entries(table: Any) -> list[str]:
    """The table's `BENCHMARK/DATASET`s: all there are, each once, where it names none."""
    if table.datasets:
        return list(table.datasets)
    found = []
    for name in list_benchmarks():
        benchmark = load_benchmark(name)
        # A benchmark that stands for another's scores under a second name would count them twice.
        if getattr(benchmark, "scores_of", name) == name:
            found += [f"{name}/{dataset}" for dataset in benchmark.datasets]
    return found


def rows_of(table: Any) -> list[Any]:
    """The table's rows: every proxy and aggregate of this package, and what spends few accuracies, if it names none."""
    if table.rows:
        return list(table.rows)
    own = {name: cls.caveat for name, cls in available().items() if cls.__module__.startswith("harness.")}
    return [RowConfig(proxy=name, note=own.get(name, "")) for name in [*sorted([*own, *AGGREGATES]), *LABELLED]]


def _parted(rows: Sequence[Any]) -> tuple[list[Any], list[Any]]:
    """Those that are ranked, and those that spend accuracies: they stand apart."""
    return [row for row in rows if row.proxy not in LEARNED], [row for row in rows if row.proxy in LEARNED]


@dataclass
class Board:
    """One dataset of one benchmark: its figures by row label, where they were computed."""

    benchmark: str
    dataset: str
    block: Block | None
    reason: str = ""
    seed: int = 0
    population: str = ""
    metrics: Sequence[str] = ()
    samples: Mapping[str, Sample] = ()
    cells: Sequence[Cell] = ()
    #: Labels of rows with figures on another population.
    elsewhere: Sequence[str] = ()
    #: How many accuracies rows spend that stand apart, by their labels.
    spent: Mapping[str, int] = field(default_factory=dict)
    #: Why rows cannot have figures, by their labels.
    inapplicable: Mapping[str, str] = field(default_factory=dict)

    @property
    def name(self) -> str:
        return f"{self.benchmark}/{self.dataset}"


def populations_of(table: Any, block: Block) -> list[str]:
    """Those of the table's populations that the benchmark has, in the table's order."""
    found = []
    for population in table.populations:
        try:
            if block.population(population).size > 1:
                found.append(population)
        except HarnessError:
            continue
    return found


def choose_population(complete: Mapping[str, set[str]]) -> str:
    """The first population over which at least half of the rows that are complete on any are; "" if none is."""
    scored = set().union(*complete.values())
    return next((name for name, rows in complete.items() if scored and 2 * len(rows) >= len(scored)), "")


def gain_places(n: int) -> int:
    """P of nDCG_P over a population of n: 1,000 as in VKDNW's table, a tenth of a population below 5,000."""
    return 1000 if n >= 5000 else max(1, n // 10)


def _signed(name: str, values: np.ndarray) -> np.ndarray:
    """The values such that higher is better."""
    return values if metric(name).direction == "higher" else -values


def _ranks(name: str, values: np.ndarray) -> np.ndarray:
    """Ranks (k, ...) along the first axis, 1 the best, ties shared; undefined values come last."""
    signed = _signed(name, values)
    return rankdata(np.where(np.isnan(signed), np.inf, -signed), axis=0)


def build_leaderboard(table: Any, measurements: Measurements) -> tuple[list[Cell], Sheet]:
    """Figures and sheet of the leaderboard."""
    rows, spending = _parted(rows_of(table))
    boards = [_board(table, rows, spending, entry, measurements) for entry in entries(table)]
    if not table.datasets:  # first what compares most proxies
        boards.sort(key=lambda board: -len(board.samples))
    overall, ranked = _overall(rows, boards)
    cells = with_commands([*overall, *(cell for board in boards for cell in board.cells)])
    return cells, _sheet(table, [*rows, *spending], boards, cells, ranked)


def _label(row: Any) -> str:
    return row.label or row.proxy


def _board(table: Any, rows: Sequence[Any], spending: Sequence[Any], entry: str, measurements: Measurements) -> Board:
    benchmark, dataset = split_dataset(table, entry)
    block, reason = find_block(table, entry, measurements)
    board = Board(benchmark, dataset, block, reason, table.seeds[0])
    if block is None:
        return board
    populations = populations_of(table, block)
    if not populations:
        return Board(benchmark, dataset, None, f"none of the table's populations has figures of {entry}")
    required = {_label(row): block.inapplicable(row.proxy) for row in rows}
    board.inapplicable = {label: what for label, what in required.items() if what}
    found: dict[str, dict[str, _Found]] = {name: {} for name in populations}
    lacking: dict[str, dict[str, Scores]] = {name: {} for name in populations}
    for population in populations:
        for row in rows:
            if _label(row) in board.inapplicable:
                continue
            for source in SOURCES if row.inputs == PAPER_INPUTS else (row.inputs,):
                scores = block.scores(row.proxy, population, source, table.seeds[0])
                if not scores.missing:
                    found[population][_label(row)] = _Found(population, source, scores)
                    break
                lacking[population].setdefault(_label(row), scores)
    board.population = choose_population({name: set(complete) for name, complete in found.items()})
    if not board.population:
        board.reason = "no scores of any population"
    n = {name: len(block.population(name)) for name in populations}
    population = board.population or next((name for name in populations if n[name] <= WORKABLE), populations[-1])
    whole = population == populations[0]
    # A leaderboard's nDCG has the cut-off of each population.
    names = (f"ndcg_{gain_places(n[population])}" if name == "ndcg" else metric(name).name for name in table.metrics)
    board.metrics = [
        name for name in dict.fromkeys(names) if block.admits(name) and (whole or not name.startswith("ndcg"))
    ]
    complete = found[population] if board.population else {}
    others: dict[str, _Found] = {}
    for name in populations if board.population else ():
        for label, one in found[name].items():
            if label not in complete:
                others.setdefault(label, one)
    board.elsewhere = list(others)
    apart = [row for row in spending if not block.inapplicable(row.proxy)] if board.population else []
    for row in apart:
        for source in SOURCES if row.inputs == PAPER_INPUTS else (row.inputs,):
            scores = block.scores(row.proxy, board.population, source, table.seeds[0])
            if not scores.missing and scores.members.any():
                others[_label(row)] = _Found(population, source, scores)
                board.spent[_label(row)] = LEARNED[row.proxy].train
                break
    columns = {label: block.column(one.population, one.scores) for label, one in {**complete, **others}.items()}
    measured = block.measure((columns[label] for label in complete), board.metrics, table.resamples)
    board.samples = {label: measured[columns[label].digest] for label in complete}
    # nDCG at the cut-off of this population means another thing on another one.
    shared = [name for name in board.metrics if not name.startswith("ndcg")]
    measured = block.measure((columns[label] for label in others), shared, table.resamples)
    samples = board.samples | {label: measured[columns[label].digest] for label in others}
    ask = next((name for name in populations if n[name] <= min(n[population], WORKABLE)), population)
    missing = {label: tuple((ask, key) for key in scores.missing) for label, scores in lacking[ask].items()}
    rows = [*rows, *(row for row in apart if _label(row) in board.spent)]
    board.cells = _cells(board, rows, complete | others, samples, missing, population)
    return board


@dataclass(frozen=True)
class _Found:
    """Scores that are complete on a population, and the kind of mini-batches that they are of."""

    population: str
    source: str
    scores: Scores


def _cells(
    board: Board,
    rows: Sequence[Any],
    found: Mapping[str, _Found],
    samples: Mapping[str, Sample],
    missing: Mapping[str, tuple[tuple[str, ScoreKey], ...]],
    population: str,
) -> list[Cell]:
    labels = list(board.samples)
    ranks = {
        name: _ranks(name, np.array([board.samples[label].values[name] for label in labels])) for name in board.metrics
    }
    groups = dict(zip(labels, _groups([board.samples[label] for label in labels], board.metrics), strict=True))
    cells = []
    for row in rows:
        label = _label(row)
        source = found[label].source if label in found else row.inputs
        inputs = board.block.inputs(row.proxy, source)
        empty = Cell(
            proxy=label, dataset=board.dataset, metric="all", n=0, ours=None, ci_low=math.nan, ci_high=math.nan,
            published=None, note=row.note, benchmark=board.benchmark, population=population, inputs=inputs,
        )  # fmt: skip
        if label in board.inapplicable:
            reason = f"{NOT_APPLICABLE}: {board.inapplicable[label]}"
            cells.append(replace(empty, note="; ".join(filter(None, [reason, row.note]))))
            continue
        if label not in found:
            cells.append(not_computed(empty, missing=missing.get(label, ())))
            continue
        one, sample = found[label], samples[label]
        notes = [row.note, f"{sample.n_failed} without a score, ranked last" if sample.n_failed else ""]
        notes += one.scores.notes(row.proxy)
        if source != PAPER_INPUTS and source != row.inputs and inputs != board.block.inputs(row.proxy, row.inputs):
            notes.append("on noise: scores on images are not stored")
        notes.append(board.block.stand_in(row.proxy, source))
        if label in board.elsewhere:
            notes.insert(0, f"not ranked: {one.population}, {sample.n:,} architectures")
        if label in board.spent:
            notes.insert(0, f"spends {board.spent[label]:,} accuracies, over the {sample.n:,} other architectures")
        done = replace(
            empty,
            n=sample.n,
            seeds=1,
            population=one.population,
            note="; ".join(filter(None, notes)),
            missing=missing.get(label, ()) if label in board.elsewhere else (),
        )
        for name in board.metrics:
            if name not in sample.values:
                continue
            value = estimate(sample.values[name], sample.resampled[name])
            ranked = label in board.samples
            cells.append(
                replace(
                    done, metric=name, ours=value.value, ci_low=value.low, ci_high=value.high,
                    resamples=sample.resampled[name].size,
                    rank=float(ranks[name][labels.index(label)]) if ranked else None,
                    group=groups[label] if ranked and name == MAIN else "",
                )
            )  # fmt: skip
        cells.append(replace(done, metric="seconds", ours=one.scores.seconds))
    return cells


def _groups(samples: Sequence[Sample], metrics: Sequence[str]) -> list[str]:
    if MAIN not in metrics or not samples:
        return [""] * len(samples)
    values = np.array([sample.values[MAIN] for sample in samples])
    defined = np.flatnonzero(~np.isnan(values))
    resampled = np.stack([sample.resampled[MAIN] for sample in samples])[defined]
    same = indistinguishable(values[defined], resampled)
    letters = [""] * len(samples)
    for place, letter in zip(defined, group_letters(np.argsort(-values[defined], kind="stable"), same), strict=True):
        letters[place] = letter
    return letters


@dataclass(frozen=True)
class Ranked:
    """Mean ranks over the boards that count: `boards`, and those rows that are on all of them."""

    boards: Sequence[str]
    metrics: Sequence[str]
    n_rows: int


def general_name(name: str) -> str:
    """A metric without the cut-off that differs between boards."""
    return "ndcg_P" if name.startswith("ndcg_") else name


def _overall(rows: Sequence[Any], boards: Sequence[Board]) -> tuple[list[Cell], Ranked]:
    """Mean rank over the boards with half of the rows that are on any, of the rows on all of these.

    No cells where fewer than two boards have as many: the ranks of one are in its own section.
    """
    scored = {label for board in boards for label in board.samples}
    counting = [
        board
        for board in boards
        if board.samples and 2 * len(board.samples) >= len(scored.difference(board.inapplicable))
    ]
    labels = [_label(row) for row in rows if counting and all(_label(row) in board.samples for board in counting)]
    shared = [
        name
        for name in dict.fromkeys(general_name(name) for board in counting for name in board.metrics)
        if all(name in map(general_name, board.metrics) for board in counting)
    ]
    ranked = Ranked([board.name for board in counting], shared, len(labels))
    if not labels or len(counting) < 2:
        return [], ranked
    means: dict[str, np.ndarray] = {}
    resampled: dict[str, np.ndarray] = {}
    for general in shared:
        values, draws = [], []
        for board in counting:
            (name,) = (one for one in board.metrics if general_name(one) == general)
            values.append(_ranks(name, np.array([board.samples[label].values[name] for label in labels])))
            draws.append(_ranks(name, np.stack([board.samples[label].resampled[name] for label in labels])))
        fewest = min(draw.shape[1] for draw in draws)
        means[general] = np.mean(values, axis=0)
        resampled[general] = np.mean([draw[:, :fewest] for draw in draws], axis=0)
    groups = [""] * len(labels)
    if MAIN in means:
        best_first = np.argsort(means[MAIN], kind="stable")
        groups = group_letters(best_first, indistinguishable(means[MAIN], resampled[MAIN]))
    cells = []
    for row in rows:
        label = _label(row)
        empty = Cell(label, "all", "rank", 0, None, math.nan, math.nan, None, row.note, benchmark="all")
        if label not in labels:
            absent = ", ".join(board.name for board in counting if label not in board.samples)
            cells.append(not_computed(empty, f"not on {absent}"))
            continue
        place = labels.index(label)
        for general in shared:
            one = estimate(float(means[general][place]), resampled[general][place])
            cells.append(
                replace(
                    empty, metric=f"rank by {general}", n=len(counting), ours=one.value, ci_low=one.low,
                    ci_high=one.high, resamples=resampled[general].shape[1],
                    rank=float(rankdata(means[general])[place]), group=groups[place] if general == MAIN else "",
                )
            )  # fmt: skip
    return cells, ranked


def _sheet(table: Any, rows: Sequence[Any], boards: Sequence[Board], cells: Sequence[Cell], ranked: Ranked) -> Sheet:
    sheet = Sheet(table.title, [table.protocol.strip(), _state(_parted(rows)[0], boards, ranked)])
    intervals = interval_text(table.resamples, [cell.n for cell in cells if cell.benchmark != "all"])
    explained = "Each cell: value [95% interval], in bold the best of the column."
    sheet.paragraphs.append(" ".join(filter(None, [explained, intervals, legend(rows)])))
    found: dict[tuple[str, str], dict[str, list[Cell]]] = {}
    for cell in cells:
        found.setdefault((cell.benchmark, cell.dataset), {}).setdefault(cell.proxy, []).append(cell)
    shown = {_label(row): marked(_label(row), row.proxy) for row in rows}
    if ("all", "all") in found:
        sheet.sections.append(_overall_section(sheet, found["all", "all"], ranked, shown))
    for board in boards:
        sheet.sections += _sections(sheet, board, found.get((board.benchmark, board.dataset), {}), shown)
    return sheet


def _state(rows: Sequence[Any], boards: Sequence[Board], ranked: Ranked) -> str:
    """How much of the table there is."""
    known = [board for board in boards if board.block is not None]
    total = sum(len(rows) - len(board.inapplicable) for board in known)
    on_board, elsewhere = sum(len(board.samples) for board in known), sum(len(board.elsewhere) for board in known)
    text = (
        f"Computed: {on_board + elsewhere} of {total} pairs of a proxy and a dataset to which it applies, "
        f"{elsewhere} of them on another population than their dataset's ranking."
    )
    if len(ranked.boards) < 2:
        with_half = " and ".join(ranked.boards) or "none"
        text += (
            " Mean ranks over benchmarks are given where at least two datasets rank half of all proxies that "
            f"have scores on one population each; so far: {with_half}."
        )
    return text


def _overall_section(sheet: Sheet, rows: Mapping[str, list[Cell]], ranked: Ranked, shown: Mapping[str, str]) -> Section:
    names = [f"mean rank, {metric_title(name)}" for name in ranked.metrics]
    section = Section("Over benchmarks", ["proxy", "rank", "group", *names, "notes"])
    section.text = (
        f"Mean of the ranks among the {ranked.n_rows} proxies that are on every dataset that has at least half of "
        f"all proxies that have scores: {', '.join(ranked.boards)}. Intervals and groups are from the "
        f"{min(cell.resamples for row in rows.values() for cell in row if cell.resamples)} resamples that all of them "
        "have, of the same architectures on all datasets of a benchmark."
    )
    metrics = [f"rank by {name}" for name in ranked.metrics]
    for label, row in sorted(rows.items(), key=place_of):
        section.rows.append(line_of(sheet, shown[label], row, metrics, best_ranks(rows)))
    return section


def _sections(sheet: Sheet, board: Board, rows: Mapping[str, list[Cell]], shown: Mapping[str, str]) -> list[Section]:
    """What is ranked, and apart from it what spends accuracies."""
    names = [metric_title(name) for name in board.metrics]
    header = ["proxy", "rank", "group", "n", *names, "seconds, at most", "inputs", "notes"]
    section = Section(f"{board.benchmark}, {board.dataset}", header)
    if not board.population:
        notes = [note for row in rows.values() for cell in row for note in cell.note.split("; ")]
        commands = dict.fromkeys(command for note in notes for command in re.findall("`harness score [^`]*`", note))
        section.text = " ".join([f"Not computed: {board.reason}.", *commands])
        return [section]
    n = len(board.block.population(board.population))
    section.text = f"Ranks are over population {board.population}, {n:,} architectures."
    texts = board.block.benchmark.populations_of_card
    section.text += "".join(f" {name}: {text}" for name, text in texts.items() if board.population.startswith(name))
    apart = Section(f"{section.heading}: with accuracies", header)
    apart.text = (
        "What spends accuracies is no training-free proxy. Each has its figures over the population less the "
        f"architectures whose accuracies it asked for, chosen with seed {board.seed}, and is not ranked."
    )
    for label, row in sorted(rows.items(), key=place_of):
        counted = [f"{row[0].n:,}" if row[0].n else ""]
        figures = [*board.metrics, "seconds"]
        best, unit = best_ranks(rows), board.block.figure.unit
        line = line_of(sheet, shown[label], row, figures, best, counted, [row[0].inputs], unit)
        (apart if label in board.spent else section).rows.append(line)
    return [section, apart] if apart.rows else [section]
