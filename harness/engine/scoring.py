"""The engine: plan the fewest passes for the proxies asked, run them over a population, resume, never lose.

A pass is run once for all the proxies that read it. A score depends on (architecture, dataset, inputs, proxy
with its settings, seed) and on nothing else: not on the order, the chunk, the process, nor on which other
proxies were asked for.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.benchmarks.target import Dataset
from harness.engine.alike import alike, reason
from harness.engine.definitions import check_definitions
from harness.engine.inputs import Inputs, inputs_for
from harness.engine.scorer import Job, checked, resolve_device, without_score
from harness.engine.store import Row, ScoreKey, ScoreStore, open_store
from harness.engine.workers import score_networks
from harness.errors import HarnessError
from harness.progress import progress_bar
from harness.proxies.base import Proxy, is_counted

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Summary:
    """What a run did: rows asked, found stored, newly stored, and the statuses of the failed new rows.

    `alike`: how many of those found are another dataset's, by the proxy's label and what is said of them.
    """

    asked: int = 0
    stored_before: int = 0
    stored_now: int = 0
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
    alike: dict[tuple[str, str], int] = field(default_factory=dict)
    seconds: float = 0.0

    def add(self, label: str, rows: Sequence[Row]) -> None:
        """Count newly stored rows of a proxy."""
        self.stored_now += len(rows)
        for row in rows:
            if row.status != "ok":
                self.failed[f"{label}: {row.status}"] += 1

    @property
    def errors(self) -> int:
        """Rows that an exception kept from their score; the same command tries them again."""
        return sum(n for status, n in self.failed.items() if ": error" in status)


class Wanted(NamedTuple):
    """What a job asks of one proxy, beside what the store holds.

    Attributes:
        counted: whether the proxy is read from the encodings alone, without networks.
        asked: number of rows.
        missing: indices that have no row yet, or whose last attempt ended by an exception.
        errors: the statuses of those attempts, with how often each occurs.
        alike: how many rows are read from those of another dataset, by what is said of them.
    """

    proxy: Proxy
    counted: bool
    asked: int
    missing: list[int]
    errors: dict[str, int]
    alike: dict[str, int]


def plan(job: Job, read: Callable[[ScoreKey, int], pd.DataFrame] | None = None) -> list[Wanted]:
    """What the job asks for and what of it the store lacks; needs neither torch, nor a device, nor images.

    Args:
        read: reads stored rows of a key and version in place of the store.

    Raises:
        HarnessError, UnknownNameError: bad input.
    """
    for name, least in (("limit", 1), ("chunk", 1), ("workers", 0), ("seed", 0), ("flush_seconds", 0)):
        value = getattr(job, name)
        if value is not None and not least <= value < 2**63:
            raise HarnessError(f"{name}={value} makes no sense: give at least {least}, and less than 2^63")
    proxies = job.resolved
    benchmark = load_benchmark(job.benchmark)
    benchmark.dataset(job.dataset)
    part, parts = job.part_of
    members = benchmark.population(job.population)
    if job.limit is not None:
        members = members[: job.limit]
    representatives = np.unique(benchmark.representatives[members])[part::parts]
    read = read or open_store(job.store, job.stores).read
    found = []
    for proxy in proxies:
        counted = is_counted(proxy)
        asked = members[part::parts] if counted else representatives
        key = job.key(proxy)
        version = proxy.version_on(benchmark.space)
        held = read(key, version)
        failed = held["status"].str.startswith("error")
        missing = _lacking(asked, held)
        elsewhere = {}
        for other in alike(benchmark, proxy, key):
            before = len(missing)
            missing = _lacking(missing, read(other, version))
            if len(missing) < before:
                elsewhere[reason(benchmark, key.dataset, other.dataset)] = before - len(missing)
        errors = held.loc[failed & held["index"].isin(missing), "status"].value_counts()
        counts = {str(k): int(n) for k, n in errors.items()}
        found.append(Wanted(proxy, counted, len(asked), missing, counts, elsewhere))
    return found


def _lacking(asked: Iterable[int], held: pd.DataFrame) -> list[int]:
    """Those of the indices that have no row yet, or whose last attempt ended by an exception."""
    done = set(held.loc[~held["status"].str.startswith("error"), "index"])
    return [int(i) for i in asked if i not in done]


def check_host(job: Job) -> Inputs:
    """The mini-batches of a job. Raises HarnessError where this machine lacks those or the device."""
    dataset = load_benchmark(job.benchmark).dataset(job.dataset)
    if job.device not in ("auto", "cpu"):  # which every machine has: counts from encodings then load no torch
        resolve_device(job.device)
    return inputs_for(dataset, job.inputs, job.inputs_path)


def run(job: Job, progress: bool = True) -> Summary:
    """Score what `job` asks for and the store does not hold yet.

    Finished rows are written every `flush_seconds` and at the end, whatever ends the run; a killed run loses
    at most the rows since the last part.

    Raises:
        HarnessError: bad input, found before anything is computed, such as other images than those that stored
            scores were computed from, or another definition of a proxy; a worker that died.
        KeyboardInterrupt: after the finished rows were written.
    """
    started = time.perf_counter()
    wanted = plan(job)
    store = open_store(job.store, job.stores)
    if store.root.resolve() not in [layer.resolve() for layer in store.layers]:
        raise HarnessError(
            f"stores={','.join(map(str, store.layers))} leaves out store={store.root}: what is computed would not be "
            "found again, name it among the stores"
        )
    inputs = check_host(job)
    inputs.check_enough(one.proxy for one in wanted if one.missing)
    benchmark = load_benchmark(job.benchmark)
    dataset = benchmark.dataset(job.dataset)
    check_definitions(store.root, (one.proxy for one in wanted), keep=True)
    writer = "{}of{}".format(*job.part_of)
    targets: dict[str, tuple[ScoreKey, str | None]] = {}
    for proxy, _, _, missing, *_ in wanted:
        target = job.key(proxy), None if proxy.inputs == "none" else inputs.digest
        store.check_images(*target)  # of what is stored already too: its scores pass for those of the images at hand
        if missing:
            store.prepare(target[0], writer)
            targets[proxy.label] = target
    summary = Summary()

    networks: dict[int, list[str]] = {}
    for proxy, counted, asked, missing, _, elsewhere in wanted:
        summary.alike.update({(proxy.label, what): count for what, count in elsewhere.items()})
        summary.asked += asked
        summary.stored_before += asked - len(missing)
        if not missing:
            continue
        if counted:
            rows = _count(proxy, benchmark, missing, dataset)
            key, images = targets[proxy.label]
            store.append(key, rows, writer, images)
            summary.add(proxy.label, rows)
        else:
            for index in missing:
                networks.setdefault(index, []).append(proxy.label)

    if networks:
        writing = _Writer(store, targets, writer, job.flush_seconds)
        try:
            with (
                progress_bar(len(networks), enabled=progress) as bar,
                closing(score_networks(job, networks)) as scored,
            ):
                for rows, finished in scored:
                    for label, row in rows:
                        writing.add(label, row)
                        summary.add(label, [row])
                    bar.update(finished)
        finally:
            writing.flush()
        writing.compact()
    summary.seconds = time.perf_counter() - started
    return summary


def _count(proxy: Proxy, benchmark: Benchmark, indices: list[int], dataset: Dataset) -> list[Row]:
    """Rows of a proxy that is read from the encodings; what keeps one architecture from its score keeps no other."""
    started = time.perf_counter()
    space, version = benchmark.space_of(dataset.name), proxy.version_on(benchmark.space)
    architectures = [benchmark.architectures[i] for i in indices]
    seen: dict[str, Any] = {}
    try:
        for probe in proxy.needs():
            seen.update(probe.read(space, architectures, dataset.classes, dataset.resolution))
        values = np.broadcast_to(np.asarray(proxy.score(seen), dtype=np.float64), (len(indices),))
    except Exception as error:
        if len(indices) == 1:
            return [Row(indices[0], *without_score(error, time.perf_counter() - started), version)]
        return [row for index in indices for row in _count(proxy, benchmark, [index], dataset)]
    each = (time.perf_counter() - started) / len(indices)
    return [Row(i, *checked(float(value), each), version) for i, value in zip(indices, values, strict=True)]


class _Writer:
    """Collects rows and appends them to the store as parts, a part a proxy, every few seconds.

    Args:
        targets: partition and digest of the images, by the proxy's label.
    """

    def __init__(self, store: ScoreStore, targets: dict[str, tuple[ScoreKey, str | None]], writer: str, every: float):
        self._store, self._targets, self._writer, self._every = store, targets, writer, every
        self._rows: dict[str, list[Row]] = defaultdict(list)
        self._appended: set[ScoreKey] = set()
        self._last = time.monotonic()

    def add(self, label: str, row: Row) -> None:
        self._rows[label].append(row)
        if time.monotonic() - self._last >= self._every:
            self.flush()

    def flush(self) -> None:
        """Append the rows at hand. Raises the first error after all partitions that can be written have theirs."""
        failed: Exception | None = None
        for label in list(self._rows):
            key, images = self._targets[label]
            try:
                self._store.append(key, self._rows[label], self._writer, images)
            except Exception as error:
                failed = failed or error
                continue
            self._appended.add(key)
            del self._rows[label]
        self._last = time.monotonic()
        if failed is not None:
            raise failed

    def compact(self) -> None:
        """Merge the parts of the partitions that this run appended to; others may be another run's at the moment."""
        for key in sorted(self._appended):
            self._store.compact(key, self._writer)
