"""Correlations of a run, or of each run of a sweep, in an experiment tracker."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.store import open_store
from harness.errors import HarnessError, UnknownNameError

if TYPE_CHECKING:
    from harness.engine.scorer import Job

METRICS = ("kendall", "spearman")


def find_tracker(name: str | None) -> Callable[[Job], None]:
    """What to call after a run. `None` tracks nothing.

    Raises:
        UnknownNameError: no such tracker. HarnessError: its package is not installed.
    """
    if name is None:
        return lambda job: None
    if name not in TRACKERS:
        raise UnknownNameError("tracker", name, TRACKERS)
    return TRACKERS[name]()


def correlations_of(job: Job) -> tuple[dict[str, Any], dict[str, float]]:
    """The protocol of a run, and its correlations as `proxy/metric` (value on the data, no interval).

    They are taken over the run's population and the benchmark's default accuracies. A proxy of which the store lacks
    a score there, as in one shard of several, has none.
    """
    from harness.correlation import correlate  # scipy, which scoring does without
    from harness.rankings.results import Reader

    benchmark = load_benchmark(job.benchmark)
    reader = Reader(open_store(job.store, job.stores), benchmark)
    accuracies = benchmark.accuracies(job.dataset).to_numpy(dtype=np.float64)
    benchmark.with_figures(job.population, accuracies)  # raises where they are of a selection that it exceeds
    members = benchmark.population(job.population)[: job.limit]
    accuracies = accuracies[members]
    trained = np.isfinite(accuracies)
    figures = {}
    for proxy in job.resolved:
        scores = reader.scores(proxy.label, job.dataset, members, job.inputs, job.seed)
        if not scores.missing and trained.sum() > 1:
            found = correlate(scores.values[trained], accuracies[trained], METRICS, resamples=0)
            figures.update({f"{proxy.label}/{metric}": found[metric].value for metric in METRICS})
    protocol = {name: getattr(job, name) for name in ("benchmark", "dataset", "inputs", "seed", "population", "limit")}
    return {**protocol, "target": benchmark.card["default_target"], "n": int(trained.sum())}, figures


def _mlflow() -> Callable[[Job], None]:
    try:
        import mlflow
    except ImportError as error:
        raise HarnessError(
            'tracker=mlflow needs MLflow: pip install "nas-proxy-harness[mlflow]", or leave tracker out'
        ) from error

    def track(job: Job) -> None:
        """One MLflow run in the experiment `nas-proxy-harness`, wherever MLFLOW_TRACKING_URI points."""
        protocol, figures = correlations_of(job)
        mlflow.set_experiment("nas-proxy-harness")
        with mlflow.start_run(run_name=f"{job.benchmark}/{job.dataset} seed {job.seed}"):
            mlflow.log_params(protocol)
            # MLflow's names know no = and no %; an undefined correlation is no metric.
            mlflow.log_metrics(
                {re.sub(r"[^\w./:-]", "_", name): value for name, value in figures.items() if np.isfinite(value)}
            )

    return track


TRACKERS: dict[str, Callable[[], Callable[[Job], None]]] = {"mlflow": _mlflow}
