"""`harness queue --plan`: the queue of missing scoring runs, written from what the tables lack and what that costs.

A row is a command. What it costs is measured: a few of the networks that it lacks are scored in this process, and
nothing of that is stored.
"""

from __future__ import annotations

import platform
import re
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

from harness.benchmarks.benchmark import load_benchmark
from harness.cli.queue import images_for
from harness.config import choices
from harness.engine.inputs import inputs_for
from harness.engine.scorer import Job, Scorer
from harness.engine.scoring import check_host, plan
from harness.engine.store import ScoreKey, open_store, write_text
from harness.errors import HarnessError
from harness.probes.neutral import neutral
from harness.rankings.results import scoring_commands
from harness.tables.build import build_table
from harness.tables.cells import Cell, load_table
from harness.tables.leaderboard import rows_of
from harness.tables.measure import Measurements

#: A partition over a population: what a table's cell names as missing.
Pair = tuple[str, ScoreKey]

#: Leaderboard pairs that lack more architectures than this are planned on a sample, but for the main benchmark's.
LARGE = 1000
SAMPLE = "sample(300, seed=0)"
MAIN_BENCHMARK = "nasbench201"

#: Networks that are measured a row, and the processor seconds of one above which no second one is.
NETWORKS = 2
SLOW = 30.0
#: Cores that the hours of a row are for.
CORES = 2


@dataclass(frozen=True)
class Want:
    """A figure that could be computed were some scores stored.

    Attributes:
        name: equal for one figure, however many tables show it.
        table: the first of them.
        alternatives: sets of pairs, any of which is enough.
    """

    name: tuple
    table: str
    is_pair: bool
    alternatives: tuple[frozenset[Pair], ...]


@dataclass
class Row:
    """A command, what it would compute, and what figures that completes.

    Attributes:
        networks: labels of the proxies that the store lacks, by index of the architecture.
        seconds: mean processor seconds of a network; None: not measured.
    """

    job: Job
    command: str
    pairs: frozenset[Pair]
    networks: Mapping[int, Sequence[str]]
    seconds: float | None = None
    alone: list[Want] = field(default_factory=list)
    shared: list[Want] = field(default_factory=list)

    @property
    def hours(self) -> float | None:
        """On `CORES` cores, each with a process of its own; None where nothing was measured."""
        if not self.networks:
            return 0.0
        return None if self.seconds is None else len(self.networks) * self.seconds / 3600 / CORES

    @property
    def order(self) -> tuple:
        """Rows without hours last; then those that complete most an hour, alone before with others, first."""
        if self.hours is None:
            return 1, -len(self.alone), -len(self.shared), self.command
        hours = max(self.hours, 1e-9)
        return 0, -len(self.alone) / hours, -len(self.shared) / hours, self.command


def plan_queue(config: Any) -> int:
    """Write `config.queue`; returns the exit code. Where it is stopped, the rows not measured yet have no hours.

    Raises:
        HarnessError: a table, a store or images that cannot be read.
    """
    if config.queue is None:
        raise HarnessError("name the list that is written: harness queue --plan queue=FILE")
    names = list(config.tables) or choices("table")
    measurements = Measurements(open_store(config.store, config.stores))
    rows = planned_rows([load_table(name) for name in names], measurements, config.data)
    try:
        _measure(sorted(rows, key=_promise, reverse=True))
    finally:
        _write(rows, config.queue)
    return 0


def _measure(rows: Sequence[Row]) -> None:
    """The seconds of rows whose mini-batches are at hand."""
    for number, row in enumerate(rows, 1):
        if not row.networks or not _has_images(row.job):
            continue
        try:
            row.seconds = measured_seconds(row)
        except HarnessError as error:  # as of a proxy that reads more images than there are
            print(f"not measured: {error}", file=sys.stderr, flush=True)
            continue
        print(f"{number} of {len(rows)}: {row.seconds:.2f} s a network: {row.command}", flush=True)


def _write(rows: list[Row], queue: str) -> None:
    """The rows as a list, the best first."""
    rows.sort(key=lambda row: row.order)
    try:
        Path(queue).parent.mkdir(parents=True, exist_ok=True)
        write_text(Path(queue), to_markdown(rows))
    except OSError as error:
        raise HarnessError(f"cannot write {queue} ({error.strerror or error}): set queue=FILE") from error
    hours = sum(row.hours or 0.0 for row in rows)
    print(f"{queue}: {len(rows)} rows, {hours:.1f} hours on {CORES} cores")


def planned_rows(tables: Iterable[Any], measurements: Measurements, data: str | None) -> list[Row]:
    """The rows that complete a figure of the tables, alone or with others; none of them measured.

    A row whose images at `data` do not fit its networks is said, and is as one without images.
    """
    wants = collect(tables, measurements)
    root = str(measurements.store.root)
    enough: dict[bool, list[Pair]] = {True: [], False: []}
    for pair in dict.fromkeys(pair for want in wants for pairs in want.alternatives for pair in pairs):
        enough[_has_enough(_job([pair], root, data))].append(pair)
    groups: dict[str, list[Pair]] = defaultdict(list)
    # Apart, as a command ends where the images at hand are too few for one of its proxies.
    for pair, command in [
        one for pairs in enough.values() for one in scoring_commands(pairs, measurements.store).items()
    ]:
        groups[command].append(pair)
    stored = cache(measurements.store.read)
    rows, lacking = [], {}
    for command, pairs in groups.items():
        job = _job(pairs, root, data)
        if _has_images(job):
            try:
                check_host(job)
            except HarnessError as error:  # one benchmark's networks read another size than the images at hand
                print(f"not measured, as without images: {command}: {error}", file=sys.stderr)
                job = replace(job, inputs_path=None)
        networks: dict[int, list[str]] = defaultdict(list)
        for wanted, pair in zip(plan(job, stored), pairs, strict=True):
            lacking[pair] = frozenset(wanted.missing)
            if not wanted.counted:
                for index in wanted.missing:
                    networks[index].append(wanted.proxy.label)
        rows.append(Row(job, command, frozenset(pairs), networks))
    credit(rows, wants, lacking)
    return [row for row in rows if row.alone or row.shared]


def _job(pairs: Sequence[Pair], root: str, data: str | None) -> Job:
    """The run that computes the pairs of one command; images that are not given have no path."""
    population, key = pairs[0]
    inputs = next((key.inputs for _, key in pairs if key.inputs != "none"), "random")
    path = None if inputs == "random" else images_for(data, inputs)
    return Job(
        benchmark=key.space,
        dataset=key.dataset,
        proxies=tuple(key.proxy for _, key in pairs),
        inputs=inputs,
        inputs_path=None if path is None else str(path),
        seed=key.seed,
        population=population,
        device="cpu",
        workers=1,
        chunk=1,
        store=root,
    )


def _has_images(job: Job) -> bool:
    return job.inputs == "random" or job.inputs_path is not None


def _has_enough(job: Job) -> bool:
    """Whether the images of a job with one proxy are as many as its mini-batches take; True where they are not read."""
    if job.inputs_path is None:
        return True
    try:
        inputs = _images(job.benchmark, job.dataset, job.inputs, job.inputs_path)
    except HarnessError:  # which `check_host` says of the whole row
        return True
    try:
        inputs.check_enough(job.resolved)
    except HarnessError:
        return False
    return True


@cache
def _images(benchmark: str, dataset: str, name: str, path: str) -> Any:
    found = load_benchmark(benchmark).dataset(dataset)
    return inputs_for(found, name, path)


def collect(tables: Iterable[Any], measurements: Measurements) -> list[Want]:
    """What the tables lack: published figures that no table has, and pairs of the leaderboard."""
    alternatives: dict[tuple, list[frozenset[Pair]]] = defaultdict(list)
    shown: dict[tuple, str] = {}
    done: set[tuple] = set()
    for table in tables:
        if table.kind == "overview":  # the figures of the others once more
            continue
        table = table.copy()
        table.resamples = 2  # no interval is shown
        cells, _, _ = build_table(table, measurements)
        is_board = table.kind == "leaderboard"
        specs = {row.label or row.proxy: row for row in rows_of(table)} if is_board else {}
        for cell in cells:
            if is_board:
                name = "pair", cell.benchmark, cell.dataset, cell.proxy
            elif cell.published is not None:
                name = "figure", *cell.place
            else:
                continue
            if cell.ours is not None:
                done.add(name)
            elif cell.missing:
                shown.setdefault(name, table.name)
                found = _on_sample(table, specs[cell.proxy], cell, measurements) if is_board else cell.missing
                alternatives[name].append(frozenset(found))
    return [
        Want(name, shown[name], name[0] == "pair", tuple(dict.fromkeys(sets)))
        for name, sets in alternatives.items()
        if name not in done
    ]


def _on_sample(table: Any, row: Any, cell: Cell, measurements: Measurements) -> Iterable[Pair]:
    """What a leaderboard's pair lacks; of large populations, what it lacks of a sample."""
    benchmark, dataset = cell.benchmark, cell.dataset
    entry = f"{benchmark}/{dataset}"
    block = measurements.block(benchmark, dataset, table.targets.get(entry, table.target))
    size = max(block.population(population).size for population, _ in cell.missing)
    if benchmark == MAIN_BENCHMARK or size <= LARGE:
        return cell.missing
    scores = block.scores(row.proxy, SAMPLE, row.inputs, table.seeds[0])
    return [(SAMPLE, key) for key in scores.missing] or cell.missing


def credit(rows: Sequence[Row], wants: Iterable[Want], lacking: Mapping[Pair, frozenset[int]]) -> None:
    """Set what each row completes.

    Args:
        lacking: indices that the store lacks of each pair. A row over a population serves those within it as well.
    """
    held: list[dict[ScoreKey, frozenset[int]]] = [{key: lacking[p, key] for p, key in row.pairs} for row in rows]

    def serves(own: Mapping[ScoreKey, frozenset[int]], pair: Pair) -> bool:
        return pair[1] in own and lacking[pair] <= own[pair[1]]

    for want in wants:
        for row, own in zip(rows, held, strict=True):
            if any(all(serves(own, pair) for pair in pairs) for pairs in want.alternatives):
                row.alone.append(want)
            elif any(pairs & row.pairs for pairs in want.alternatives):
                row.shared.append(want)


def measured_seconds(row: Row) -> float:
    """Mean processor seconds of a few of the row's networks, evenly spread from those that lack least to most.

    Raises:
        HarnessError: images that do not serve; names the row.
    """
    _warm()
    spent: list[float] = []
    try:
        scorer = Scorer(row.job)
        for index in _measured(row):
            spent.append(_seconds(scorer, index, row.networks[index]))
            if spent[-1] > SLOW:
                break
    except HarnessError as error:
        raise HarnessError(f"{row.command}: {error}") from error
    return sum(spent) / len(spent)


def _measured(row: Row) -> list[int]:
    """The networks that are measured."""
    order = sorted(row.networks, key=lambda index: (len(row.networks[index]), index))
    count = min(NETWORKS, len(order))
    return [order[(2 * number + 1) * len(order) // (2 * count)] for number in range(count)]


def _promise(row: Row) -> float:
    """Figures for the multiply-adds of a forward pass a proxy: what is measured first, for a plan that is stopped."""
    benchmark = load_benchmark(row.job.benchmark)
    dataset, space = benchmark.dataset(row.job.dataset), benchmark.space_of(row.job.dataset)
    work = 0.0
    for index in _measured(row):
        counts = space.topology([benchmark.architectures[index]], dataset.classes, dataset.resolution)
        work += float(counts["flops"][0]) * len(row.networks[index])
    return (len(row.alone) + len(row.shared)) / (work * len(row.networks) + 1.0)


def _seconds(scorer: Scorer, index: int, labels: Sequence[str]) -> float:
    """Processor seconds of one network, as a worker process with one thread scores it."""
    with neutral(scorer.device, threads=1):
        started = time.process_time()
        scorer.score(index, labels)
        return time.process_time() - started


@cache
def _warm() -> None:
    """Score a network, so that the first that is measured does not pay for what a process does once."""
    proxies = tuple(f"{name}:batch_size=4" for name in ("snip", "naswot"))
    job = Job(MAIN_BENCHMARK, "cifar10", proxies, device="cpu", workers=1, chunk=1)
    _seconds(Scorer(job), 0, [proxy.label for proxy in job.resolved])


HEAD = """\
# Scoring runs still missing

`make queue MINUTES=60 DATA=…` runs them from the top for that long: rows whose scores are stored are skipped, rows
that name `DATA` too where their images are not given, and each command goes on where it was stopped. `DATA` is a folder
that holds one `.npz` a dataset (`cifar10.npz`, `cifar100_sample.npz`, …), or the CIFAR-10 images alone. A row is one
command between backticks; several runs of one row are a sweep (`-m seed=1,2`).

This file is written by `harness queue --plan`, best first: by figures and pairs that a row completes an hour. Figures
are published ones that no table has yet, pairs those of a proxy and a dataset in the leaderboard; in brackets those
that need other rows too. Networks are what the store lacks now: a row above may do a part of them. Seconds are
{seconds}
"""

COLUMNS = ("#", "command", "networks", "seconds each", f"hours, {CORES} cores", "figures", "pairs", "completes")


def to_markdown(rows: Sequence[Row]) -> str:
    """The file: what its seconds are, and one table. Counts that need other rows stand in brackets."""
    lines = [HEAD.format(seconds=_measured_with()), f"| {' | '.join(COLUMNS)} |", "|--:|---|--:|--:|--:|--:|--:|---|"]
    for number, row in enumerate(rows, 1):
        cells = [
            str(number),
            f"`{row.command}`",
            f"{len(row.networks):,}",
            "" if row.seconds is None else f"{row.seconds:.2f}",
            "" if row.hours is None else f"{row.hours:.2f}",
            _count(row, lambda want: not want.is_pair),
            _count(row, lambda want: want.is_pair),
            ", ".join(f"`{name}`" for name in sorted({want.table for want in row.alone or row.shared})),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _count(row: Row, counts: Callable[[Want], bool]) -> str:
    alone, shared = (sum(map(counts, wants)) for wants in (row.alone, row.shared))
    return f"{alone} ({shared})" if shared else str(alone)


def _measured_with() -> str:
    """What the seconds are, in words."""
    import torch

    return (
        f"processor seconds of one core ({_processor()}, torch {torch.__version__}), the mean of {NETWORKS} of the\n"
        f"row's networks (one where it took more than {SLOW:.0f} s); a row that was not measured, as its images were\n"
        "not given or the plan was stopped, has none."
    )


def _processor() -> str:
    """The processor's name, as Linux tells it, or its kind."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.machine()
