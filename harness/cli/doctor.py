"""Is everything here that the harness needs? One line each: versions, device, threads, data, store."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from collections import Counter
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import harness
from harness.benchmarks.benchmark import broken_benchmarks, list_benchmarks, load_benchmark
from harness.config import choices
from harness.engine.inputs import inputs_for
from harness.engine.scorer import resolve_device
from harness.engine.store import ScoreKey, ScoreStore, is_sealed, open_store
from harness.errors import HarnessError
from harness.paths import reference_scores, usable_cores
from harness.progress import progress_bar
from harness.proxies import available, broken, get_proxy
from harness.tables.cells import load_table, read_published
from harness.verify.findings import Finding, show

if TYPE_CHECKING:
    import pandas as pd

REQUIRED = ("torch", "numpy", "scipy", "pandas", "pyarrow", "hydra-core", "omegaconf")


def examine(config: Any) -> int:
    """Print what is found; exit code 1 when something is broken."""
    broken = sum(finding.verdict == "FAILS" for finding in show(findings(config)))
    print(
        "something is broken: see the lines that begin with FAILS" if broken else "everything that was looked at works"
    )
    return 1 if broken else 0


def findings(config: Any) -> Iterator[Finding]:
    """All findings, in the order in which one thing needs another."""
    store = open_store(config.store, config.stores)
    yield from _versions()
    yield from _machine()
    yield from _names()
    yield from _benchmarks()
    yield _images(config.inputs)
    yield _reference()
    for layer in store.layers:
        yield from _store(ScoreStore(layer), config.seal and layer == store.root)


def _versions() -> Iterator[Finding]:
    yield Finding("harness", "ok", f"{harness.__version__}, Python {platform.python_version()}, {platform.platform()}")
    for name in REQUIRED:
        yield Finding(name, *_version(name, "FAILS"))
    for extra in sorted(_extras() - {"dev"}):
        for name in _of_extra(extra):
            yield Finding(f"{name} (extra {extra})", *_version(name, "note"))


def _version(name: str, otherwise: str) -> tuple[str, str]:
    try:
        return "ok", importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return otherwise, f"is not installed: pip install {name}"


def _extras() -> set[str]:
    try:
        return set(importlib.metadata.metadata("nas-proxy-harness").get_all("Provides-Extra") or ())
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return set()


def _of_extra(extra: str) -> list[str]:
    """Names of the packages of an extra."""
    from packaging.requirements import Requirement

    wanted = map(Requirement, importlib.metadata.requires("nas-proxy-harness") or ())
    return [r.name for r in wanted if r.marker and r.marker.evaluate({"extra": extra})]


def _machine() -> Iterator[Finding]:
    import torch

    device = resolve_device("auto")
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or platform.machine()
    try:
        value = float((torch.ones(2, 2, device=device) @ torch.ones(2, 2, device=device)).sum())
        yield Finding("device", "ok" if value == 8 else "FAILS", f"{device.type}, {name}")
    except RuntimeError as error:
        yield Finding("device", "FAILS", f"{device.type}, {name}: {str(error).splitlines()[0]}: use device=cpu")
    cores = usable_cores()
    asked = os.environ.get("OMP_NUM_THREADS", "not set")
    yield Finding(
        "threads", "ok", f"{cores} cores, torch takes {torch.get_num_threads()} of them (OMP_NUM_THREADS {asked})"
    )


def _names() -> Iterator[Finding]:
    """Proxies, tables and published figures."""
    try:
        yield Finding("proxies", "ok", f"{len(available())} known")
        yield from (Finding("proxies", "FAILS", reason) for reason in broken().values())
    except HarnessError as error:
        yield Finding("proxies", "FAILS", str(error))
    try:
        tables = [load_table(name) for name in choices("table")]
        yield Finding("tables", "ok", f"{len(tables)} can be read, {len(read_published()):,} published figures")
    except HarnessError as error:
        yield Finding("tables", "FAILS", str(error))


def _benchmarks() -> Iterator[Finding]:
    for name, reason in broken_benchmarks().items():
        yield Finding(f"benchmark {name}", "FAILS", str(reason))
    for name in list_benchmarks():
        try:
            benchmark = load_benchmark(name)
            if not benchmark.has_accuracies:
                yield Finding(f"benchmark {name}", "note", f"comes without accuracies: `harness import {name} PATH`")
                continue
            dataset = next(iter(benchmark.datasets))
            present = int(benchmark.accuracies(dataset).notna().sum())
            yield Finding(f"benchmark {name}", "ok", f"{present:,} of {len(benchmark):,} with an accuracy on {dataset}")
        except HarnessError as error:
            yield Finding(f"benchmark {name}", "FAILS", str(error))


def _images(inputs: Any) -> Finding:
    subject = f"images of {inputs.name}"
    if inputs.path is None:
        return Finding(subject, "note", "not looked for: set inputs.path=DATA; proxies that read images need them")
    try:
        datasets = [load_benchmark(name).datasets.get(inputs.name) for name in list_benchmarks()]
        dataset = next((dataset for dataset in datasets if dataset), None)
        if dataset is None:
            return Finding(subject, "FAILS", "no benchmark has this dataset")
        source = inputs_for(dataset, inputs.name, inputs.path)
        source.batch(0, 0, 64)
        return Finding(subject, "ok", f"{inputs.path}, a mini-batch of 64 can be drawn")
    except HarnessError as error:
        return Finding(subject, "FAILS", str(error))


def _reference() -> Finding:
    """Whether the scores of the package are there; what they hold is looked at on request."""
    folder = reference_scores()
    count = len(list(ScoreStore(folder).keys()))
    if not count:
        return Finding("scores of the package", "note", f"{folder} holds none: reports show your scores alone")
    return Finding("scores of the package", "ok", f"{count:,} partitions in {folder} (stores=[reference] reads them)")


def _store(store: ScoreStore, seal: bool = False) -> Iterator[Finding]:
    """Every part readable, every proxy and version known, every index in range; counts by status.

    Args:
        seal: give older parts the digest of their bytes for a name.
    """
    subject = f"store {store.root}"
    keys = list(store.keys())
    if not keys:
        yield Finding(subject, "note", "holds no score: `harness score` fills it, store=DIR names another")
        return
    statuses: Counter[str] = Counter()
    found: list[Finding] = []
    sealed = 0
    with progress_bar(len(keys), "partitions") as progress:
        for key in keys:
            progress.update()
            try:
                frame = store.read(key)
                sealed += store.seal(key) if seal else 0
                found += [Finding(subject, *seen) for seen in _partition(key, frame)]
            except HarnessError as error:
                found.append(Finding(subject, "FAILS", str(error)))
                continue
            statuses.update("error" if status.startswith("error") else status for status in frame["status"])
    parts = list(store.root.rglob("part-*.parquet"))
    size = sum(part.stat().st_size for part in parts if part.is_file()) / 2**20
    total = f"{statuses.total():,} scores in {len(keys)} partitions, {len(parts)} parts of {size:.1f} MiB"
    yield Finding(subject, "ok", total)
    for status, count in statuses.most_common():
        again = ", which the same scoring commands try again" if status == "error" else ""
        yield Finding(f"{subject}, status {status}", "note" if again else "ok", f"{count:,}{again}")
    yield from found
    if sealed:
        yield Finding(subject, "ok", f"{sealed:,} parts bear their digest now")
    bare = sum(not is_sealed(part) for part in parts)
    if bare:
        what = f"{bare:,} parts bear no digest, so that a changed bit may go unseen: `harness doctor seal=true` renames"
        yield Finding(subject, "note", f"{what} them")
    for stray in store.strays():
        yield Finding(subject, "note", f"{stray} is no partition and not read, as its seed is no number: remove it")
    left = list(store.root.rglob(".*.writing"))
    if left:
        what = f"{len(left)} unfinished files, such as {left[0]}: a later run of the same shard removes them"
        yield Finding(subject, "note", f"{what}, or you when no run is going")


def _partition(key: ScoreKey, frame: pd.DataFrame) -> Iterator[tuple[str, str]]:
    """Verdicts and details of what is wrong with a partition. Raises HarnessError for unknown names."""
    benchmark, proxy = load_benchmark(key.space), get_proxy(key.proxy)
    benchmark.dataset(key.dataset)
    if proxy.label != key.proxy:
        yield "FAILS", f"{key}: the proxy is now called {proxy.label}, its scores are not found under the old name"
    current = proxy.version_on(benchmark.space)
    for version, count in frame["version"][frame["version"] != current].value_counts().sort_index().items():
        yield "note", f"{key}: {count:,} scores are of version {version} and left out, the code has {current}"
    outside = int(((frame["index"] < 0) | (frame["index"] >= len(benchmark))).sum())
    if outside:
        yield "FAILS", f"{key}: {outside:,} indices are none of the {len(benchmark):,} architectures: remove the folder"
    wrong = int((frame["score"].notna() != (frame["status"] == "ok")).sum())
    if wrong:
        yield "FAILS", f"{key}: {wrong:,} rows have a score and a status that says otherwise: score them again"
