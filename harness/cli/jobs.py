"""From the settings of `harness score` to a job of the engine."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from harness.benchmarks.benchmark import Benchmark, load_benchmark
from harness.engine.applicable import inapplicable
from harness.engine.scorer import Job
from harness.proxies import available, get_proxy, spec_of


def job_of(config: Any) -> Job:
    """The engine's job for a configuration of `harness score`. Raises UnknownNameError: no such benchmark or proxy."""
    benchmark = load_benchmark(config.benchmark)
    dataset = next(iter(benchmark.datasets)) if config.dataset is None else config.dataset
    return Job(
        benchmark=config.benchmark,
        dataset=dataset,
        proxies=scored(config.proxies, benchmark, dataset),
        inputs=config.inputs.name,
        inputs_path=config.inputs.path,
        seed=config.seed,
        population=config.population,
        limit=config.limit,
        shard=str(config.shard),
        device=config.device,
        workers=config.workers,
        chunk=config.chunk,
        flush_seconds=config.flush_seconds,
        store=config.store,
        stores=tuple(config.stores),
    )


def scored(names: Iterable[str], benchmark: Benchmark, dataset: str) -> tuple[str, ...]:
    """The proxies that are scored for some names, each once: an aggregate stands for its members.

    `all` stands for every proxy, with its default settings, that has a value on the dataset's networks.
    """
    found: list[str] = []
    for name in names:
        if name == "all":
            found += [one for one in available() if not inapplicable(get_proxy(one), benchmark, dataset)]
        elif name.split(":")[0] in available():
            found.append(name)
        else:  # an aggregate, or a proxy of a module
            from harness.rankings.results import proxies_of

            found += map(spec_of, proxies_of(name))
    return tuple(dict.fromkeys(found))
