"""The papers' tables: ours beside theirs, from stored scores alone."""

from __future__ import annotations

import csv
import io
import math
import re
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from harness.benchmark import list_benchmarks
from harness.config import TableConfig, choices, compose_config
from harness.correlation import Sample, estimate
from harness.errors import HarnessError, UnknownNameError
from harness.measure import Block, Measurements, explain, mean_over_seeds, resamples_for, split_dataset
from harness.paths import published_csv
from harness.results import Scores, proxies_of, scoring_commands
from harness.sheet import WRITERS, Section, Sheet
from harness.store import ScoreKey, ScoreStore, write_text

COLUMNS = (
    "proxy",
    "benchmark",
    "dataset",
    "population",
    "metric",
    "n",
    "ours",
    "ci_low",
    "ci_high",
    "seeds",
    "seed_std",
    "published",
    "delta",
    "agrees",
    "inputs",
    "resamples",
    "note",
)

#: A published figure agrees when it lies in our interval widened by this much: papers round and average seeds.
SLACK = 0.02

#: Stands beside the name of a proxy whose definition here is not the authors' (`Proxy.caveat`).
MARK = "†"
#: Stands beside a published figure that was not checked against the paper.
UNVERIFIED = "?"

METRIC_NAMES = {"kendall": "Kendall tau", "spearman": "Spearman rho", "top_1%": "top-1% precision"}


class Published(float):
    """A published figure, with the digits that its paper prints and whether it was checked against the paper."""

    def __new__(cls, text: str, note: str = "") -> Published:
        self = super().__new__(cls, text)
        self.text, self.unverified = text.strip(), note.startswith("unverified")
        return self


@dataclass(frozen=True)
class Cell:
    """One figure of a table. `ours` is None where scores are `missing`: pairs of population and partition.

    `ours` is the mean over `seeds` seeds of scoring, `seed_std` their standard deviation (None for one seed). A mean
    that lacks seeds is not taken: `ours` is the first seed's then, and `missing` names the others. `rank` and `group`
    are the leaderboard's.
    """

    proxy: str
    dataset: str
    metric: str
    n: int
    ours: float | None
    ci_low: float
    ci_high: float
    published: Published | None
    note: str
    missing: tuple[tuple[str, ScoreKey], ...] = ()
    benchmark: str = ""
    population: str = ""
    seeds: int = 0
    seed_std: float | None = None
    inputs: str = ""
    resamples: int = 0
    rank: float | None = None
    group: str = ""

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


def read_published() -> dict[tuple[str, str, str, str, str], Published]:
    """Printed figures by (paper, table, dataset, the paper's name of the proxy, metric)."""
    path = published_csv()
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {
                (row["paper"], row["table"], row["dataset"], row["proxy"], row["metric"]): Published(
                    row["value"], row.get("notes") or ""
                )
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read ({error!r}): restore the file of published figures") from error


def retarget(table: Any, target: str) -> Any:
    """The table with another stored figure in place of its accuracies, under a name and a title of its own.

    The papers' figures are of accuracies: none is set beside another target.
    """
    table = table.copy()
    table.target, table.targets = target, {}
    table.name = f"{table.name}--{re.sub(r'[^A-Za-z0-9.@_=-]', '_', target)}"
    table.title = f"{table.title}, target {target}"
    table.paper = ""
    for row in table.rows:
        row.paper = None
    return table


def table_cells(table: Any, measurements: Measurements) -> list[Cell]:
    """All figures of a paper's table, row by row.

    A row takes the first of its populations over which the store holds all scores of the first seed; the number of
    architectures is in `n`. nDCG at a fixed cut-off means another thing on a sample than on the population of
    the paper, which comes first, so it is given for that one only.
    """
    published = read_published()
    metrics = admitted_metrics(table, table.datasets, measurements)
    cells = [cell for entry in table.datasets for cell in _block_cells(table, entry, metrics, measurements, published)]
    return with_commands(cells)


def admitted_metrics(table: Any, entries: Iterable[str], measurements: Measurements) -> list[str]:
    """The table's metrics but for those that mean nothing for the target of any dataset."""
    blocks = [find_block(table, entry, measurements)[0] for entry in entries]
    known = [block for block in blocks if block is not None]
    return [metric for metric in table.metrics if not known or any(block.admits(metric) for block in known)]


def find_block(table: Any, entry: str, measurements: Measurements) -> tuple[Block | None, str]:
    """What the scores of one dataset are to predict, or None and why the benchmark does not have it.

    Raises UnknownNameError for a dataset or a target that the benchmark does not have.
    """
    benchmark, dataset = split_dataset(table, entry)
    if benchmark not in list_benchmarks():
        return None, f"this installation has no benchmark {benchmark}"
    try:
        return measurements.block(benchmark, dataset, table.targets.get(entry, table.target)), ""
    except UnknownNameError:
        raise
    except HarnessError as error:
        return None, explain(error, benchmark)


@dataclass(frozen=True)
class _Choice:
    """The scores that a row takes, one a seed, and what the store lacks for more."""

    population: str
    scores: tuple[Scores, ...]
    #: For the seeds after the first, and for the first population where a later one was taken.
    other_seeds: tuple[tuple[str, ScoreKey], ...] = ()
    first_population: tuple[tuple[str, ScoreKey], ...] = ()


def _choose(table: Any, row: Any, block: Block) -> _Choice:
    """Without scores, `other_seeds` is all that is missing."""
    lacking: tuple[tuple[str, ScoreKey], ...] = ()
    first_population: tuple[tuple[str, ScoreKey], ...] = ()
    populations = row.populations or table.populations
    first, *others = table.seeds
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
    benchmark, dataset = split_dataset(table, entry)
    block, reason = find_block(table, entry, measurements)
    cells = []
    rows = [row for row in table.rows if not row.benchmarks or benchmark in row.benchmarks]
    choices_made = [_choose(table, row, block) if block else _Choice("", ()) for row in rows]
    samples = _measured(table, block, metrics, rows, choices_made) if block else [[] for _ in rows]
    for row, choice, of_seeds in zip(rows, choices_made, samples, strict=True):
        paper, place = row.paper or table.paper, row.paper_table or table.paper_table
        for metric in metrics:
            theirs = row.published_dataset or dataset, row.published or row.proxy
            printed = published.get((paper, place, *theirs, metric))
            cell = Cell(
                proxy=row.label or row.proxy,
                dataset=dataset,
                metric=metric,
                n=of_seeds[0].n if of_seeds else 0,
                ours=None,
                ci_low=math.nan,
                ci_high=math.nan,
                published=printed,
                note=row.note if not row.note_datasets or dataset in row.note_datasets else "",
                benchmark=benchmark,
                population=choice.population,
                inputs=block.inputs(row.proxy, row.inputs) if block else "",
            )
            if block is None:
                cell = not_computed(cell, reason)
            elif not of_seeds:
                cell = not_computed(cell, missing=choice.other_seeds)
            elif not block.admits(metric):
                cell = not_computed(cell, f"means nothing for {block.figure}")
            elif metric not in of_seeds[0].values:
                needed = (row.populations or table.populations)[0]
                cell = not_computed(cell, f"needs all of {needed}", choice.first_population)
            else:
                cell = _computed(cell, metric, of_seeds, choice, table)
            cells.append(cell)
    return cells


def not_computed(cell: Cell, reason: str = "", missing: tuple[tuple[str, ScoreKey], ...] = ()) -> Cell:
    """The cell without a figure; `with_commands` adds the command where scores are missing."""
    note = "; ".join(filter(None, [f"not computed: {reason}" if reason else "not computed", cell.note]))
    return replace(cell, note=note, missing=missing)


def _computed(cell: Cell, metric: str, of_seeds: Sequence[Sample], choice: _Choice, table: Any) -> Cell:
    value, resampled, deviation = mean_over_seeds(of_seeds, metric)
    interval = estimate(value, resampled)
    notes = [cell.note]
    failed = [sample.n_failed for sample in of_seeds]
    if any(failed):
        spread = str(max(failed)) if len(set(failed)) == 1 else f"{min(failed)} to {max(failed)}"
        notes.append(f"{spread} without a score, ranked last")
    if choice.other_seeds:
        notes.append(f"seed {table.seeds[0]} alone, not all of the {len(table.seeds)} seeds are stored")
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
    columns = [[block.column(choice.population, scores) for scores in choice.scores] for choice in choices_made]
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


def with_commands(cells: Sequence[Cell]) -> list[Cell]:
    """The cells, where scores are missing with the commands that compute them in the note.

    A cell with a figure lacks scores of other seeds, or of more architectures.
    """
    commands = scoring_commands(pair for cell in cells for pair in cell.missing)
    done = []
    for cell in cells:
        if cell.missing:
            named = [f"`{command}`" for command in dict.fromkeys(commands[pair] for pair in cell.missing)]
            if cell.ours is None:
                reason, *others = cell.note.split("; ")
            else:
                same = {population for population, _ in cell.missing} == {cell.population}
                reason, others = "other seeds" if same else "on more architectures", cell.note.split("; ")
            parts = [f"{reason}: {command}" for command in named]
            cell = replace(cell, note="; ".join(filter(None, [*parts, *others])))
        done.append(cell)
    return done


def _number(value: float | None, digits: int = 4) -> str:
    return "" if value is None or math.isnan(value) else f"{value:.{digits}f}"


def to_csv(cells: Sequence[Cell], columns: Sequence[str] = COLUMNS) -> str:
    """The cells as CSV; figures rounded to four digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for cell in cells:
        values = {
            "ours": "not computed" if cell.ours is None else _number(cell.ours) or "undefined",
            "ci_low": _number(cell.ci_low),
            "ci_high": _number(cell.ci_high),
            "seeds": cell.seeds or "",
            "seed_std": _number(cell.seed_std),
            "published": "" if cell.published is None else cell.published.text,
            "delta": _number(cell.delta),
            "agrees": {None: "", True: "yes", False: "no"}[cell.agrees],
            "resamples": cell.resamples or "",
            "rank": "" if cell.rank is None else f"{cell.rank:g}",
        }
        writer.writerow([values.get(name, getattr(cell, name)) for name in columns])
    return out.getvalue()


def metric_name(metric: str) -> str:
    """A metric as it stands at the head of a column."""
    return METRIC_NAMES.get(metric, metric.replace("ndcg_", "nDCG_").replace("regret_", "regret of the best of "))


def interval_text(most: int, sizes: Iterable[int]) -> str:
    """How the intervals of a table over populations of these sizes are made."""
    counts = {n: resamples_for(n, most) for n in sorted(set(sizes) - {0})}
    if len(set(counts.values())) <= 1:
        count = min(counts.values(), default=most)
        return f"Intervals: percentile bootstrap over the architectures, {count:,} resamples."
    fewer = ", ".join(f"{count:,} at n = {n:,}" for n, count in counts.items() if count < most)
    return f"Intervals: percentile bootstrap over the architectures, {most:,} resamples; {fewer}."


def caveat(spec: str) -> str:
    """What has to be said of a proxy, or of a member of an aggregate, wherever its figures stand; "" for most."""
    return next((proxy.caveat for proxy in proxies_of(spec) if proxy.caveat), "")


def marked(label: str, spec: str) -> str:
    """A row's name as it is shown: with a mark where its proxy has a caveat."""
    return f"{label} {MARK}" if caveat(spec) else label


def legend(rows: Sequence[Any]) -> str:
    """What the mark in the first column means, where a row has it."""
    said = dict.fromkeys(filter(None, (caveat(row.proxy) for row in rows)))
    return f"{MARK}: {'; '.join(said)}." if said else ""


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
    parts = [
        f"Each cell: ours {'± standard deviation over seeds ' if several else ''}[95% interval] / published. "
        f"**Bold**: the published figure lies outside our interval widened by {SLACK}; at a small n that interval is "
        "wide, and not bold means that the two cannot be told apart at this n. `–`: the paper prints none.",
        f"`{UNVERIFIED}`: a figure that was not checked against the paper."
        if any(figure.unverified for figure in published)
        else "",
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
        section = Section(heading, ["proxy", "n", "inputs", *map(metric_name, metrics), "notes"])
        rows: dict[str, list[Cell]] = {}
        for cell in cells:
            if (cell.benchmark, cell.dataset) == (benchmark, dataset):
                rows.setdefault(cell.proxy, []).append(cell)
        for proxy, row in rows.items():
            notes = dict.fromkeys(note for cell in row for note in cell.note.split("; ") if note)
            marks = " ".join(sheet.mark(note) for note in notes)
            section.rows.append([shown[proxy], str(row[0].n or ""), row[0].inputs, *map(_shown, row), marks])
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


def _shown(cell: Cell) -> str:
    printed = _printed(cell)
    if cell.ours is None:
        return f"not computed / {printed}"
    if math.isnan(cell.ours):
        return f"undefined / {printed}"
    deviation = "" if cell.seed_std is None else f" ± {cell.seed_std:.3f}"
    text = f"{cell.ours:.3f}{deviation} [{cell.ci_low:.3f}, {cell.ci_high:.3f}] / {printed}"
    return f"**{text}**" if cell.agrees is False else text


def build_table(table: Any, measurements: Measurements) -> tuple[Sequence[Cell], Sheet, Sequence[str]]:
    """Figures of a table, how it is shown, and the columns of its CSV."""
    if table.kind == "leaderboard":
        from harness.leaderboard import COLUMNS as columns
        from harness.leaderboard import build_leaderboard

        return *build_leaderboard(table, measurements), columns
    if table.kind != "paper":
        raise UnknownNameError("kind of table", table.kind, ["paper", "leaderboard"])
    cells = table_cells(table, measurements)
    return cells, to_sheet(table, cells), COLUMNS


def build_tables(config: Any) -> int:
    """Write the tables that a report configuration asks for; list what the store lacks for them.

    Returns the exit code: 1 with `strict` where a figure could not be computed, or not from all seeds asked for.
    """
    measurements = Measurements(ScoreStore(config.store))
    tables = [config.table] if config.table is not None else [load_table(name) for name in choices("table")]
    if config.target is not None:
        tables = _retargeted(tables, config.target, measurements)
    output = Path(config.output or ("results/tables" if config.target is None else "results/targets"))
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
    commands = scoring_commands(pair for cell in cells for pair in cell.missing)
    for command in dict.fromkeys(commands.values()):
        print(f"  missing: {command} store={store.root}", file=sys.stderr)
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
    chosen, unknown = [], None
    for table in map(retarget, tables, [target] * len(tables)):
        having = []
        for entry in datasets_of(table):
            try:
                if find_block(table, entry, measurements)[0] is not None:
                    having.append(entry)
            except UnknownNameError as error:
                unknown = error
        if having:
            table.datasets = having
            chosen.append(table)
    if not chosen and unknown is not None:
        raise unknown
    return chosen


def datasets_of(table: Any) -> list[str]:
    """The datasets of a table; those of every benchmark for a leaderboard that names none."""
    if table.kind == "leaderboard":
        from harness.leaderboard import entries

        return entries(table)
    return list(table.datasets)
