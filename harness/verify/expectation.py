"""Does a proxy, anyone's, reach what its author claims? For the continuous integration of other projects."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from harness.benchmarks.benchmark import load_benchmark
from harness.correlation import correlate, metric
from harness.engine.scorer import Job
from harness.engine.scoring import run
from harness.engine.store import ScoreStore
from harness.errors import HarnessError
from harness.proxies.base import Proxy
from harness.verify.findings import Finding

#: Small enough for every push, of every kind of cell, and known to every space.
POPULATION = "sample(100, seed=0)"

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True)
class Expectation:
    """A bound on a metric: `kendall >= 0.6`."""

    metric: str
    comparison: str
    bound: float

    def holds(self, value: float) -> bool:
        """NaN meets no bound."""
        return _COMPARISONS[self.comparison](value, self.bound)

    def __str__(self) -> str:
        return f"{self.comparison} {self.bound:g}"


def parse_expectation(text: str) -> Expectation:
    """The bound that a text such as `tau>=0.6`, `rho > 0.7` or `ndcg_10>=0.5` states. Raises HarnessError."""
    match = re.fullmatch(r"\s*([\w.%]+)\s*(>=|<=|>|<)\s*([-+]?\d*\.?\d+(?:e[-+]?\d+)?)\s*", text)
    if not match:
        raise HarnessError(
            f"{text!r} is no expectation: write METRIC>=VALUE in quotes, as in --expect 'tau>=0.6' (without them the "
            "shell takes > for itself)"
        )
    try:
        return Expectation(metric(match[1]).name, match[2], float(match[3]))
    except ValueError as error:
        raise HarnessError(f"{text!r}: {error}") from error


def check_expectations(proxy: Proxy, expectations: Sequence[Expectation], config: Any) -> Iterator[Finding]:
    """Score a population of `config` with `proxy` and hold each metric against its bound.

    A proxy that reads images gets noise where `config.inputs.path` names none; the protocol line says which.
    """
    benchmark = load_benchmark(config.benchmark)
    dataset = config.dataset or next(iter(benchmark.datasets))
    population = config.population or POPULATION
    accuracies = benchmark.accuracies(dataset).to_numpy(dtype=np.float64)
    benchmark.with_figures(population, accuracies)  # raises, before anything is scored, where they are of a selection
    inputs = config.inputs.name if config.inputs.path else "random"
    with TemporaryDirectory() as folder:
        job = Job(
            config.benchmark,
            dataset,
            (proxy,),
            inputs=inputs,
            inputs_path=config.inputs.path,
            seed=config.seed,
            population=population,
            device=config.device,
            workers=config.workers,
            store=folder,
            stores=(folder,),
        )
        run(job)
        rows = ScoreStore(folder).read(job.key(proxy)).set_index("index")
    members = benchmark.population(population)
    own = np.isin(members, rows.index.to_numpy())
    rows = rows.loc[np.where(own, members, benchmark.representatives[members])]
    accuracies = accuracies[members]
    trained = np.isfinite(accuracies)
    scores = rows["score"].to_numpy(dtype=np.float64)[trained]
    metrics = list(dict.fromkeys(expectation.metric for expectation in expectations))
    found = correlate(scores, accuracies[trained], metrics, resamples=config.resamples)
    reads = "no mini-batch" if proxy.inputs == "none" else f"inputs {inputs}"
    yield Finding(
        proxy.label,
        "note",
        f"protocol: {benchmark.name}/{dataset}, {benchmark.card['default_target']}, {population}, n = {found.n}, "
        f"{reads}, seed {config.seed}, 95% interval of {config.resamples} bootstrap resamples",
    )
    for status, count in rows["status"][rows["status"] != "ok"].value_counts().sort_index().items():
        yield Finding(proxy.label, "note", f"{count} of {len(rows)} without a score, ranked last: {status}")
    for expectation in expectations:
        value = found[expectation.metric]
        yield Finding(
            f"{expectation.metric} of {proxy.label}",
            "ok" if expectation.holds(value.value) else "FAILS",
            f"{value.value:.4f} [{value.low:.4f}, {value.high:.4f}], expected {expectation}",
        )
