"""Figures of tables: a cell, the papers' printed figure beside it, and how both are named and written."""

from __future__ import annotations

import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

from harness.benchmarks.benchmark import list_benchmarks
from harness.config import TableConfig, choices, load_option
from harness.correlation import metric
from harness.engine.store import ScoreKey
from harness.errors import HarnessError, UnknownNameError
from harness.paths import published_csv
from harness.rankings.results import proxies_of, scoring_commands
from harness.tables.measure import Block, Measurements, explain, resamples_for, split_dataset

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

#: Beginning of the note of a row that cannot have a figure.
NOT_APPLICABLE = "not applicable"

METRIC_NAMES = {"kendall": "Kendall tau", "spearman": "Spearman rho"}


#: Where a figure is printed: (paper, table, benchmark, dataset, the paper's name of the proxy, metric).
Place = tuple[str, str, str, str, str, str]


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
    are the leaderboard's. `place` is where `published` is printed; a table of `absolute` values prints it without its
    sign. The overview's cells say how many `rows` of all tables have a figure beside the published one, and in how many
    of these it agrees.
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
    place: Place | None = None
    absolute: bool = False
    rows: int = 0
    rows_agree: int = 0

    @property
    def delta(self) -> float | None:
        """Ours, without its sign where the paper leaves it out, minus published."""
        if self.ours is None or self.published is None:
            return None
        return (abs(self.ours) if self.absolute else self.ours) - self.published

    @property
    def agrees(self) -> bool | None:
        """Whether the published figure lies in our 95% interval widened by `SLACK`; None: nothing to compare."""
        if self.delta is None or math.isnan(self.delta):
            return None
        low, high = self.ci_low, self.ci_high
        if self.absolute:
            low, high = max(low, -high, 0.0), max(high, -low)
        return low - SLACK <= self.published <= high + SLACK


def list_tables() -> dict[str, str]:
    """Names of the tables with their titles."""
    return {name: load_table(name).title for name in choices("table")}


def load_table(name: str) -> TableConfig:
    """The configuration of a table with its stand-ins' rows, the caller's own.

    Raises UnknownNameError with the nearest name.
    """
    return _composed(name).copy()


@cache
def _composed(name: str) -> Any:
    return with_stand_ins(load_option("table", name))


def with_stand_ins(table: Any) -> Any:
    """The table with the rows that its `stand_ins` add, each behind the row that it stands in for."""
    table = table.copy()
    rows = []
    for row in table.rows:
        rows.append(row)
        for one in table.stand_ins:
            proxy = _replaced(row.proxy, one.members)
            places = [place for place in one.benchmarks if _admits(row, *place.split("/"))]
            if proxy != row.proxy and places:
                other = row.copy()
                other.proxy, other.benchmarks = proxy, places
                other.label, other.published = f"{row.label or row.proxy} {one.label}", row.published or row.proxy
                other.note = "; ".join(filter(None, [row.note, one.note]))
                rows.append(other)
    table.rows, table.stand_ins = rows, []
    return table


def _replaced(proxy: str, members: Mapping[str, str]) -> str:
    """The proxy or combination with others for the members named, where they stand without settings."""
    return re.sub(r"[\w.]+(:[\w.=]+)*", lambda match: members.get(match[0], match[0]), proxy)


def read_published() -> dict[Place, Published]:
    """Printed figures by where they are printed."""
    path = published_csv()
    try:
        with open(path, newline="", encoding="utf-8") as file:
            return {
                tuple(row[name] for name in ("paper", "table", "space", "dataset", "proxy", "metric")): Published(
                    row["value"], row.get("notes") or ""
                )
                for row in csv.DictReader(file)
            }
    except (OSError, KeyError, ValueError) as error:
        raise HarnessError(f"{path} cannot be read ({error!r}): restore the file of published figures") from error


def place_of(table: Any, row: Any, entry: str, metric: str) -> Place:
    """Where the figure beside a row's on one dataset of the table would be printed."""
    space, dataset = split_dataset(table, row.published_dataset or entry)
    paper = row.paper or table.paper, row.paper_table or table.paper_table
    return (*paper, space, dataset, row.published or row.proxy, metric)


def is_of(place: Place, benchmark: str, dataset: str) -> bool:
    """Whether a figure is printed for this dataset; a question mark behind its name there says that it is not sure."""
    return (place[2], place[3].rstrip("?")) == (benchmark, dataset)


def target_of(table: Any, row: Any, entry: str) -> str | None:
    """Which stored figure a row of a table ranks on one of its datasets; None: the benchmark's default."""
    return row.target or table.targets.get(entry, table.target)


def is_on(row: Any, table: Any, entry: str) -> bool:
    """Whether a row of a table is on one of its datasets."""
    return _admits(row, *split_dataset(table, entry))


def _admits(row: Any, benchmark: str, dataset: str) -> bool:
    return not row.benchmarks or bool({benchmark, f"{benchmark}/{dataset}"} & set(row.benchmarks))


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
        row.paper = row.target = None
    return table


def admitted_metrics(table: Any, entries: Iterable[str], measurements: Measurements) -> list[str]:
    """The table's metrics but for those that mean nothing for the target of any dataset."""
    blocks = [find_block(table, entry, measurements)[0] for entry in entries]
    known = [block for block in blocks if block is not None]
    names = dict.fromkeys(metric(name).name for name in table.metrics)
    return [name for name in names if not known or any(block.admits(name) for block in known)]


def find_block(
    table: Any, entry: str, measurements: Measurements, target: str | None = None
) -> tuple[Block | None, str]:
    """What the scores of one dataset are to predict, or None and why the benchmark does not have it.

    `target` stands in for the table's.

    Raises UnknownNameError for a dataset or a target that the benchmark does not have.
    """
    benchmark, dataset = split_dataset(table, entry)
    if benchmark not in list_benchmarks():
        return None, f"this installation has no benchmark {benchmark}"
    try:
        return measurements.block(benchmark, dataset, target or table.targets.get(entry, table.target)), ""
    except UnknownNameError:
        raise
    except HarnessError as error:
        return None, explain(error, benchmark)


def not_computed(cell: Cell, reason: str = "", missing: tuple[tuple[str, ScoreKey], ...] = ()) -> Cell:
    """The cell without a figure; `with_commands` adds the command where scores are missing."""
    note = "; ".join(filter(None, [f"not computed: {reason}" if reason else "not computed", cell.note]))
    return replace(cell, note=note, missing=missing)


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
            **dict(zip(("paper", "paper_table", "", "", "published_proxy"), cell.place or (), strict=False)),
            "printed_for": "/".join(cell.place[2:4]) if cell.place else "",
            "verified": "" if cell.published is None else "no" if cell.published.unverified else "yes",
        }
        writer.writerow([values[name] if name in values else getattr(cell, name) for name in columns])
    return out.getvalue()


def metric_title(metric: str) -> str:
    """A metric as the field writes it, at the head of a column."""
    kind, _, number = metric.partition("_")
    forms = {"ndcg": "nDCG_{}", "top": "top-{} precision", "regret": "regret of the best of {}"}
    return METRIC_NAMES.get(metric) or (forms[kind].format(number) if number and kind in forms else metric)


def digits_of(metric: str, unit: str = "%") -> int:
    """Digits after the point with which a metric, or the mean of its ranks, is shown; a regret is in `unit`."""
    if metric.startswith("regret"):
        return 2 if unit == "%" else 4
    return 2 if metric.startswith("rank") else 3


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
