"""The engine: plan the fewest passes for the proxies asked, run them over a population, resume, never lose.

A pass is run once for all the proxies that read it. A score depends on (architecture, dataset, inputs, proxy
with its settings, seed) and on nothing else: not on the order, the chunk, the process, nor on which other
proxies were asked for.
"""

from __future__ import annotations

import ctypes
import multiprocessing
import os
import signal
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.benchmark import Benchmark, load_benchmark
from harness.errors import HarnessError
from harness.inputs import Inputs, load_inputs
from harness.probes.base import EncodingProbe, Probe, Subject, Unscorable
from harness.progress import Progress
from harness.proxies import get_proxy
from harness.proxies.base import Proxy
from harness.seeds import stable_seed
from harness.store import Row, ScoreKey, ScoreStore

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn


#: Processes that share a GPU unless `workers` says otherwise; each holds a context of some hundred MB.
GPU_WORKERS = 8


class Result(NamedTuple):
    """A score or why there is none (`status` other than `ok`), and the time of the passes that it read."""

    score: float | None
    seconds: float
    status: str


def score_subject(
    subject: Subject,
    proxies: Iterable[Proxy],
    read: Callable[[EncodingProbe], dict[str, Any]] | None = None,
) -> dict[str, Result]:
    """Scores of one network by proxy label; each pass runs once.

    Args:
        read: answers a probe from the architecture's encoding; None for a network that belongs to no space.
    """
    proxies = list(proxies)
    needs = {proxy.label: dict(proxy.needs()) for proxy in proxies}
    wanted: dict[Probe, set[str]] = defaultdict(set)
    for probes in needs.values():
        for probe, names in probes.items():
            wanted[probe].update(names)

    def observe(probe: Probe, names: Iterable[str]) -> tuple[dict[str, Any] | Exception, float]:
        started = time.perf_counter()
        try:
            if read is not None and isinstance(probe, EncodingProbe):
                found = read(probe)
            else:
                with _own_state(subject, probe):
                    found = probe.run(subject, frozenset(names))
                    _synchronise(subject.device)
        except Exception as error:
            found = error
        return found, time.perf_counter() - started

    seen = {probe: observe(probe, names) for probe, names in wanted.items()}
    results = {}
    for proxy in proxies:
        observed: dict[str, Any] = {}
        failed: Exception | None = None
        spent = 0.0
        for probe, names in needs[proxy.label].items():
            found, seconds = seen[probe]
            if isinstance(found, Exception) and len(wanted[probe]) > len(names):
                # What fails may be an observable of another proxy: this one is to have its value all the same.
                found, seconds = observe(probe, names)
            spent += seconds
            if not isinstance(found, Exception) and not found.keys() >= set(names):
                found = LookupError(f"{type(probe).__name__} gave no {', '.join(sorted(set(names) - found.keys()))}")
            if isinstance(found, Exception):
                failed = failed or found
            else:
                observed.update({name: found[name] for name in names})
        results[proxy.label] = _result(proxy, observed, failed, spent)
    return results


def _result(proxy: Proxy, observed: dict[str, Any], failed: Exception | None, seconds: float) -> Result:
    started = time.perf_counter()
    try:
        if failed is not None:
            raise failed
        score = float(proxy.score(observed))
    except Unscorable as error:
        return Result(None, seconds, str(error))
    except HarnessError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines()
        return Result(None, seconds, f"error: {type(error).__name__}: {text[0] if text else ''}")
    return _checked(score, seconds + time.perf_counter() - started)


def _checked(score: float, seconds: float) -> Result:
    """NaN and infinity are a status, never a number."""
    if not np.isfinite(score):
        return Result(None, seconds, "nan" if np.isnan(score) else "inf" if score > 0 else "-inf")
    return Result(score, seconds, "ok")


@contextmanager
def full_precision() -> Iterator[None]:
    """Products of float32 in float32 for the time of the block: torch lets convolutions on a GPU take TF32's ten bits.

    So it may matrix products (TF32, bfloat16 on processors that have it), where the user chose it for the process.
    """
    import torch

    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):
        name, full = "fp32_precision", "ieee"
        places = [backends.cudnn.conv, backends.cudnn.rnn, backends.cuda.matmul]
        places += [backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
    else:  # before torch 2.9
        name, full, places = "allow_tf32", False, [backends.cudnn, backends.cuda.matmul]
    before = [getattr(place, name) for place in places]
    try:
        for place in places:
            setattr(place, name, full)
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            setattr(place, name, value)


@contextmanager
def _own_state(subject: Subject, probe: Probe) -> Iterator[None]:
    """What a pass is to depend on and no more: the process is given back as it was.

    Gradients on, global draws (dropout) seeded, attention by a kernel with all derivatives, float32 in full.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    devices = [subject.device] if subject.device.type == "cuda" else []
    with (
        torch.enable_grad(),
        torch.random.fork_rng(devices=devices),
        sdpa_kernel(SDPBackend.MATH),
        full_precision(),
    ):
        torch.manual_seed(stable_seed(subject.seed, "global draws", probe))
        yield


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Job:
    """One run of the engine over one (benchmark, dataset, inputs, seed); the fields are those of conf/score.yaml."""

    benchmark: str
    dataset: str
    proxies: tuple[str, ...]
    inputs: str = "random"
    inputs_path: str | None = None
    seed: int = 0
    population: str = "all"
    limit: int | None = None
    shard: str = "0/1"
    device: str = "auto"
    workers: int = 0
    chunk: int = 4
    flush_seconds: float = 20.0
    store: str = "results/scores"

    @cached_property
    def resolved(self) -> list[Proxy]:
        """The proxies, duplicates removed. Raises UnknownNameError."""
        if not self.proxies:
            raise HarnessError("no proxy was asked for: set proxies=[synflow,…]; `harness list proxies` names them")
        return list({proxy.label: proxy for proxy in map(get_proxy, self.proxies)}.values())

    def key(self, proxy: Proxy) -> ScoreKey:
        """Where the proxy's scores of this run are stored."""
        return ScoreKey(
            load_benchmark(self.benchmark).scores_of,
            self.dataset,
            "none" if proxy.inputs == "none" else self.inputs,
            proxy.label,
            self.seed if proxy.random else 0,
        )

    @property
    def part_of(self) -> tuple[int, int]:
        """(i, n) of shard "i/n". Raises HarnessError unless 0 <= i < n."""
        try:
            i, n = map(int, self.shard.split("/"))
        except ValueError:
            i, n = 0, 0
        if not 0 <= i < n:
            raise HarnessError(f"shard={self.shard!r} is not i/n with 0 <= i < n, such as shard=0/4")
        return i, n


class Scorer:
    """Scores architectures of one job, in whatever process it lives."""

    def __init__(self, job: Job):

        self.job = job
        self.benchmark: Benchmark = load_benchmark(job.benchmark)
        self.dataset = self.benchmark.dataset(job.dataset)
        shape = (3, self.dataset.resolution, self.dataset.resolution)
        self.inputs = load_inputs(job.inputs, job.inputs_path, self.dataset.classes, shape)
        self.device = resolve_device(job.device)
        self.proxies = {proxy.label: proxy for proxy in job.resolved}
        self._batches: dict[tuple[int, int], tuple[torch.Tensor, torch.Tensor]] = {}

    def batch(self, number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        import torch

        if (number, size) not in self._batches:
            images, labels = self.inputs.batch(self.job.seed, number, size)
            self._batches[number, size] = (
                torch.from_numpy(images).to(self.device, memory_format=torch.channels_last),
                torch.from_numpy(labels).to(self.device),
            )
        return self._batches[number, size]

    def subject(self, index: int, build: Callable[[str, int], nn.Module | None] | None = None) -> Subject | None:
        """The network of an architecture, seeded by its `network_key`: equal for all that share the key.

        `build` makes another network of it than the benchmark's; None where it makes none.
        """
        import torch

        architecture = self.benchmark.architectures[index]
        space = self.benchmark.space
        with torch.random.fork_rng(devices=[]):
            network = (build or space.build)(architecture, self.dataset.classes)
        if network is None:
            return None
        network.to(self.device, memory_format=torch.channels_last)
        return Subject(
            network,
            self.batch,
            stable_seed(space.name, space.network_key(architecture), self.job.seed),
            self.inputs.shape,
            self.dataset.classes,
            self.device,
            stages=network.stages,
            thin=lambda: self.subject(index, partial(space.build, thin=True)),
            cell=lambda: self.subject(index, space.build_cell),
            plain=True,
        )

    def score(self, index: int, labels: Sequence[str]) -> list[tuple[str, Row]]:
        """Rows of one architecture for the proxies named by `labels`."""
        architecture = self.benchmark.architectures[index]

        def read(probe: EncodingProbe) -> dict[str, Any]:
            seen = probe.read(self.benchmark.space, [architecture], self.dataset.classes, self.dataset.resolution)
            return {name: value[0] if isinstance(value, np.ndarray) else value for name, value in seen.items()}

        proxies = [self.proxies[label] for label in labels]
        found = score_subject(self.subject(index), proxies, read)
        return [(p.label, Row(index, *found[p.label], p.version)) for p in proxies]


def resolve_device(name: str) -> torch.device:
    """`auto` is a CUDA device where there is one. Raises HarnessError for a device that is not there."""
    import torch

    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise HarnessError(
            f"device={name} cannot be used here ({str(error).splitlines()[0]}): use device=cpu or device=auto"
        ) from error
    return device


#: Of this process; in a worker that could not make one, what kept it from it.
_scorer: Scorer | Exception | None = None


def _start_worker(job: Job) -> None:
    """Prepare a worker process: one thread, Ctrl-C left to the parent, and no life after the parent's death.

    An exception that ends an initializer is lost: what keeps the process from scoring is told by its first chunk.
    """
    global _scorer
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()  # before torch: its import takes seconds

    try:
        import torch

        torch.set_num_threads(1)
        _keep_freed_memory()
        _scorer = Scorer(job)
    except Exception as error:
        _scorer = error


def _keep_freed_memory() -> None:
    """Let this process hold what it frees: pages given back after each pass are faulted in again by the next.

    For glibc; other C libraries have no such setting.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_threshold = -1, -3
    mallopt(trim_threshold, 2**31 - 1)
    mallopt(mmap_threshold, 32 * 2**20)


def _score_chunk(chunk: list[tuple[int, list[str]]]) -> list[tuple[str, Row]]:
    if isinstance(_scorer, HarnessError):
        raise _scorer
    if isinstance(_scorer, Exception):
        cause = next(iter(str(_scorer).strip().splitlines()), "")
        raise HarnessError(
            f"a worker process cannot start ({type(_scorer).__name__}: {cause}): finished scores are stored; use fewer "
            "processes (workers=1) or device=cpu"
        ) from _scorer
    return [row for index, labels in chunk for row in _scorer.score(index, labels)]


@dataclass
class Summary:
    """What a run did: rows asked, found stored, newly stored, and the statuses of the failed new rows."""

    asked: int = 0
    stored_before: int = 0
    stored_now: int = 0
    failed: dict[str, int] = field(default_factory=lambda: defaultdict(int))
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
    """

    proxy: Proxy
    counted: bool
    asked: int
    missing: list[int]
    errors: dict[str, int]


def plan(job: Job, read: Callable[[ScoreKey, int], pd.DataFrame] | None = None) -> list[Wanted]:
    """What the job asks for and what of it the store lacks; needs neither torch, nor a device, nor images.

    Args:
        read: reads stored rows of a key and version in place of the store.

    Raises:
        HarnessError, UnknownNameError: bad input.
    """
    for name, least in (("limit", 1), ("chunk", 1), ("workers", 0)):
        value = getattr(job, name)
        if value is not None and value < least:
            raise HarnessError(f"{name}={value} makes no sense: give at least {least}")
    proxies = job.resolved
    benchmark = load_benchmark(job.benchmark)
    benchmark.dataset(job.dataset)
    part, parts = job.part_of
    members = benchmark.population(job.population)
    if job.limit is not None:
        members = members[: job.limit]
    representatives = np.unique(benchmark.representatives[members])[part::parts]
    read = read or ScoreStore(job.store).read
    found = []
    for proxy in proxies:
        counted = all(isinstance(probe, EncodingProbe) for probe in proxy.needs())
        asked = members[part::parts] if counted else representatives
        held = read(job.key(proxy), proxy.version)
        failed = held["status"].str.startswith("error")
        done = set(held.loc[~failed, "index"])
        missing = [int(i) for i in asked if i not in done]
        errors = held.loc[failed & held["index"].isin(missing), "status"].value_counts()
        found.append(Wanted(proxy, counted, len(asked), missing, {str(k): int(n) for k, n in errors.items()}))
    return found


def check_host(job: Job) -> Inputs:
    """The mini-batches of a job. Raises HarnessError where this machine lacks those or the device."""
    dataset = load_benchmark(job.benchmark).dataset(job.dataset)
    if job.device not in ("auto", "cpu"):  # which every machine has: counts from encodings then load no torch
        resolve_device(job.device)
    return load_inputs(job.inputs, job.inputs_path, dataset.classes, (3, dataset.resolution, dataset.resolution))


def run(job: Job, progress: bool = True) -> Summary:
    """Score what `job` asks for and the store does not hold yet.

    Finished rows are written every `flush_seconds` and at the end, whatever ends the run; a killed run loses
    at most the rows since the last part.

    Raises:
        HarnessError: bad input, found before anything is computed, such as other images than those that stored
            scores were computed from; a worker that died.
        KeyboardInterrupt: after the finished rows were written.
    """
    started = time.perf_counter()
    wanted = plan(job)
    inputs = check_host(job)
    benchmark = load_benchmark(job.benchmark)
    dataset = benchmark.dataset(job.dataset)
    store = ScoreStore(job.store)
    targets: dict[str, tuple[ScoreKey, str | None]] = {}
    for proxy, _, _, missing, _ in wanted:
        if missing:
            target = job.key(proxy), None if proxy.inputs == "none" else inputs.digest
            store.check_images(*target)
            targets[proxy.label] = target
    writer = "{}of{}".format(*job.part_of)
    summary = Summary()

    networks: dict[int, list[str]] = {}
    for proxy, counted, asked, missing, _ in wanted:
        summary.asked += asked
        summary.stored_before += asked - len(missing)
        if not missing:
            continue
        if counted:
            rows = _count(proxy, benchmark, missing, dataset.classes, dataset.resolution)
            key, images = targets[proxy.label]
            store.append(key, rows, writer, images)
            summary.add(proxy.label, rows)
        else:
            for index in missing:
                networks.setdefault(index, []).append(proxy.label)

    if networks:
        writing = _Writer(store, targets, writer, job.flush_seconds)
        bar = Progress(len(networks), enabled=progress)
        try:
            with closing(score_networks(job, networks)) as scored:
                for rows, finished in scored:
                    for label, row in rows:
                        writing.add(label, row)
                        summary.add(label, [row])
                    bar.advance(finished)
        finally:
            writing.flush()
            bar.close()
        writing.compact()
    summary.seconds = time.perf_counter() - started
    return summary


def _count(proxy: Proxy, benchmark: Benchmark, indices: list[int], classes: int, resolution: int) -> list[Row]:
    started = time.perf_counter()
    architectures = [benchmark.architectures[i] for i in indices]
    seen: dict[str, Any] = {}
    for probe in proxy.needs():
        seen.update(probe.read(benchmark.space, architectures, classes, resolution))
    try:
        scores = proxy.score(seen)
    except Unscorable as error:
        return [Row(i, None, 0.0, str(error), proxy.version) for i in indices]
    values = np.broadcast_to(np.asarray(scores, dtype=np.float64), (len(indices),))
    each = (time.perf_counter() - started) / len(indices)
    return [Row(i, *_checked(float(value), each), proxy.version) for i, value in zip(indices, values, strict=True)]


def score_networks(job: Job, networks: dict[int, list[str]]) -> Iterator[tuple[list[tuple[str, Row]], int]]:
    """Finished rows with the number of architectures that they complete, in any order.

    Args:
        networks: labels of the proxies to score by index of the architecture.
    """
    global _scorer
    items = sorted(networks.items())
    chunks = [items[i : i + job.chunk] for i in range(0, len(items), job.chunk)]
    workers = min(len(chunks), job.workers or _default_workers(job.device))
    if workers <= 1:
        import torch

        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        _scorer = Scorer(job)
        try:
            for chunk in chunks:
                yield _score_chunk(chunk), len(chunk)
        finally:
            torch.set_num_threads(threads)
        return

    context = multiprocessing.get_context("spawn")
    waiting = iter(chunks)
    others = set(multiprocessing.active_children())
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=(job,)) as pool:
        running: dict[Future, int] = {}
        try:
            for chunk in waiting:
                running[pool.submit(_score_chunk, chunk)] = len(chunk)
                if len(running) >= 2 * workers:
                    yield from _collect(running)
            while running:
                yield from _collect(running)
        except BrokenProcessPool as error:
            raise HarnessError(
                "a worker process died (out of memory, or killed): finished scores are stored; run the same "
                "command again to go on, with workers=1 if memory is short"
            ) from error
        except BaseException:
            # What the workers have begun nobody would store, and a network may take minutes.
            pool.shutdown(wait=False, cancel_futures=True)
            for process in set(multiprocessing.active_children()) - others:
                process.kill()
            raise


def _collect(running: dict[Future, int]) -> Iterator[tuple[list[tuple[str, Row]], int]]:
    done, _ = wait(running, return_when=FIRST_COMPLETED)
    for future in done:
        finished = running.pop(future)
        yield future.result(), finished


def _default_workers(device: str) -> int:
    """One process a core the scheduler lets us use; at most `GPU_WORKERS` on a GPU.

    Networks of these spaces are small: on a GPU what costs is to launch their kernels, one after the other, which
    several processes do at once.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores if resolve_device(device).type == "cpu" else min(cores, GPU_WORKERS)


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
        for label in list(self._rows):
            key, images = self._targets[label]
            self._store.append(key, self._rows[label], self._writer, images)
            self._appended.add(key)
            del self._rows[label]
        self._last = time.monotonic()

    def compact(self) -> None:
        """Merge the parts of the partitions that this run appended to; others may be another run's at the moment."""
        for key in sorted(self._appended):
            self._store.compact(key, self._writer)
