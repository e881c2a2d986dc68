"""What a scoring run comes to: how well each proxy ranks the architectures that were scored, and what to do next."""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.benchmarks.benchmark import load_benchmark
from harness.cli.jobs import job_of
from harness.cli.tracker import find_tracker
from harness.engine.scorer import Job
from harness.engine.scoring import run
from harness.errors import HarnessError
from harness.paths import REFERENCE, user_scores
from harness.proxies import spec_of

if TYPE_CHECKING:
    from harness.correlation import Estimate

METRICS = ("kendall", "spearman")
#: At most; on large populations fewer, as in tables.
RESAMPLES = 1000


def score(config: Any) -> int:
    """Score what a configuration of `harness score` asks for and tell what it comes to; returns the exit code."""
    track = find_tracker(config.tracker)
    job = job_of(config)
    summary = run(job)
    shard = "" if job.shard == "0/1" else f" shard {job.shard}"
    print(
        f"{job.benchmark}/{job.dataset} seed {job.seed}{shard}: {summary.stored_now:,} scores computed, "
        f"{summary.stored_before:,} were stored already, {summary.seconds:.1f} s; store {job.store}"
    )
    for (label, what), count in sorted(summary.alike.items()):
        print(f"  {label}: {count:,} of those stored are {what}")
    for status, count in sorted(summary.failed.items()):
        print(f"  without a score: {count:,} x {status}")
    print(*told(job), sep="\n")
    if track is not None:
        print(track(f"{job.benchmark}/{job.dataset} seed {job.seed}", *tracked(job)))
    return 1 if summary.errors else 0


def correlations_of(job: Job, most: int = 0) -> tuple[int, dict[str, Mapping[str, Estimate]]]:
    """Number of architectures with an accuracy, and by proxy the estimates of `METRICS` over these.

    They are taken over the run's population and the benchmark's default accuracies. A proxy of which the store lacks
    a score there, as in one shard of several, has none.

    Raises:
        HarnessError: the benchmark stores no accuracies, or none of this population.
        ImportError: without SciPy, which scoring itself does without.
    """
    from harness.correlation import correlate_many
    from harness.engine.store import open_store
    from harness.rankings.results import Reader
    from harness.tables.measure import resamples_for

    benchmark = load_benchmark(job.benchmark)
    reader = Reader(open_store(job.store, job.stores), benchmark)
    accuracies = benchmark.accuracies(job.dataset).to_numpy(dtype=np.float64)
    members = benchmark.population(job.population)[: job.limit]
    accuracies = accuracies[members]
    trained = np.isfinite(accuracies)
    n = int(trained.sum())
    found = {}
    for proxy in job.resolved:
        scores = reader.scores(proxy, job.dataset, members, job.inputs, job.seed)
        if not scores.missing and n > 1:
            found[proxy.label] = scores.values[trained]
    measured = correlate_many(found, accuracies[trained], METRICS, resamples_for(n, most)) if found else {}
    return n, {label: correlation.estimates for label, correlation in measured.items()}


def tracked(job: Job) -> tuple[dict[str, Any], dict[str, float]]:
    """The protocol of a run, and its correlations as `proxy/metric`, without intervals."""
    n, found = correlations_of(job)
    protocol = {name: getattr(job, name) for name in ("benchmark", "dataset", "inputs", "seed", "population", "limit")}
    figures = {f"{label}/{metric}": one[metric].value for label, one in found.items() for metric in METRICS}
    return {**protocol, "target": load_benchmark(job.benchmark).target(job.dataset).name, "n": n}, figures


def told(job: Job) -> list[str]:
    """Lines for a reader: tau and rho of each proxy with their 95% intervals and n, and the next command."""
    if job.part_of[1] > 1:
        return ["tau and rho: when the other shards are stored too, by the same command without shard="]
    try:
        n, found = correlations_of(job, RESAMPLES)
        target = load_benchmark(job.benchmark).target(job.dataset).name
    except (HarnessError, ImportError) as error:
        return [f"no correlation: {error}"]
    lines = [
        f"  {label}: tau {_shown(one['kendall'])}, rho {_shown(one['spearman'])}, n {n:,}"
        for label, one in found.items()
    ]
    if lines:
        lines.insert(0, f"rank correlation with {target} on {job.dataset} [95% interval]:")
    return [*lines, f"next: {_next(job)}"]


def _shown(one: Estimate) -> str:
    if math.isnan(one.value):
        return "undefined (all scores are equal, or all accuracies)"
    return f"{one.value:.3f} [{one.low:.3f}, {one.high:.3f}]"


def _next(job: Job) -> str:
    whole = len(load_benchmark(job.benchmark).population(job.population))
    if job.limit is not None and job.limit < whole:
        return f"the same without limit={job.limit} scores all {whole:,} architectures of population {job.population}"
    names = " ".join(shlex.quote(spec_of(proxy)) for proxy in job.resolved)
    own = [f"seed={job.seed}"] if job.seed else []
    if job.inputs != "random":
        own += [f"inputs={job.inputs}", f"inputs.path={job.inputs_path}"]
    if Path(job.store) != user_scores():
        own.append(f"store={job.store}")
    if tuple(job.stores or ()) not in ((), (job.store, REFERENCE)):
        own.append(f"stores=[{','.join(job.stores)}]")
    return (
        f'harness compare {names} benchmark={job.benchmark} dataset={job.dataset} "population={job.population}" '
        f"score=false{''.join(f' {shlex.quote(text)}' for text in own)}"
    )
