"""How fast what needs no network is: loading a benchmark, and counting all its architectures.

    python -m harness.bench.rates

Rates are of processor time on one thread, so that other work on the machine does not enter. What a user waits for
at first use, the import of Python's packages, is not part of them.
"""

from __future__ import annotations

import json
import multiprocessing
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

COUNTS = ("params", "flops", "trainable_layers", "sed")


def _seconds(task: Callable[[], object], least: float = 0.2) -> float:
    """Processor seconds of one call: the mean over as many calls as take `least` seconds, after one that warms up."""
    task()
    calls, started = 0, time.process_time()
    while (spent := time.process_time() - started) < least:
        task()
        calls += 1
    return spent / calls


def topology_rates(benchmark: str = "nasbench201", networks: int = 10, seed: int = 0) -> dict[str, Any]:
    """Architectures a second, for each proxy that needs no network, over the whole benchmark, and for synflow.

    A proxy is asked as the engine asks it: the observables of all architectures at once, and its score of them.
    `from_codes` starts from what the benchmark keeps of its encodings once they were read, `from_strings` from the
    encodings as text. synflow is the median over `networks` networks of a sample: building, initialising, its pass.
    `times_synflow` is the slowest of the proxies, from strings, over synflow.
    """
    import torch

    from harness.benchmarks.benchmark import load_benchmark
    from harness.engine.scorer import Job, Scorer, score_subject
    from harness.proxies import get_proxy

    torch.set_num_threads(1)
    held = load_benchmark(benchmark)
    dataset = next(iter(held.datasets.values()))

    def ask(name: str, architectures: Any) -> None:
        proxy = get_proxy(name)
        seen: dict[str, Any] = {}
        for probe in proxy.needs():
            seen.update(probe.read(held.space, architectures, dataset.classes, dataset.resolution))
        proxy.score(seen)

    sources = {"from_codes": held.architectures, "from_strings": list(held.architectures)}
    rates: dict[str, Any] = {
        name: {how: round(len(held) / _seconds(lambda n=name, s=source: ask(n, s))) for how, source in sources.items()}
        for name in COUNTS
    }
    scorer = Scorer(Job(benchmark, dataset.name, ("synflow",), device="cpu"))
    synflow = [get_proxy("synflow")]
    spent = []
    for index in held.population(f"sample({networks}, seed={seed})"):
        started = time.process_time()
        score_subject(scorer.subject(int(index)), synflow)
        spent.append(time.process_time() - started)
    rates["synflow"] = round(1 / statistics.median(spent), 2)
    rates["times_synflow"] = round(min(rates[name]["from_strings"] for name in COUNTS) / rates["synflow"])
    return rates


def load_costs(names: list[str] | None = None) -> dict[str, dict[str, float]]:
    """Cost of `load_benchmark`, its architectures and its default accuracies, each in a process of its own.

    `seconds` by the clock, `processor_seconds`, and `peak_megabytes` by which the peak of resident memory grew
    (Linux). The packages that a benchmark needs (numpy, pandas, pyarrow, yaml) are imported before.
    """
    from harness.benchmarks.benchmark import list_benchmarks

    context = multiprocessing.get_context("spawn")
    found = {}
    for name in names or list_benchmarks():
        answer = context.Queue()
        process = context.Process(target=_load, args=(name, answer))
        process.start()
        found[name] = answer.get()
        process.join()
    return found


def _load(name: str, answer: Any) -> None:
    import pandas  # noqa: F401
    import pyarrow.parquet  # noqa: F401
    import yaml  # noqa: F401

    from harness.benchmarks.benchmark import load_benchmark
    from harness.registry import modules_of

    modules_of("harness.spaces")
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak that the imports reached
    before, clock, processor = _peak(), time.perf_counter(), time.process_time()
    benchmark = load_benchmark(name)
    accuracies = benchmark.accuracies(next(iter(benchmark.datasets)))
    assert len(benchmark.architectures) == len(accuracies)
    answer.put(
        {
            "rows": len(accuracies),
            "seconds": round(time.perf_counter() - clock, 3),
            "processor_seconds": round(time.process_time() - processor, 3),
            "peak_megabytes": round((_peak() - before) / 1024, 1),
        }
    )


def _peak() -> int:
    """Peak of resident memory in kB."""
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))


if __name__ == "__main__":
    print(json.dumps({"topology": topology_rates(), "loading": load_costs()}, indent=2))
