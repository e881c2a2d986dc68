"""Do stored scores come out again? A seeded sample of each partition is computed anew and compared."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from harness.benchmarks.benchmark import load_benchmark
from harness.engine.inputs import inputs_for
from harness.engine.scorer import Job
from harness.engine.store import Row, ScoreKey, ScoreStore, check_range, open_store
from harness.engine.workers import score_networks
from harness.errors import HarnessError
from harness.progress import progress_bar
from harness.proxies import get_proxy
from harness.proxies.base import Proxy, is_counted
from harness.seeds import stable_rng
from harness.verify.findings import Finding

#: A score that keeps its place among the stored ones may deviate by this many times its proxy's tolerance.
SAME_PLACE = 10.0


#: Below so many networks the start of processes takes longer than what they share.
FEW = 4


#: Of so many architectures that all partitions hold, the quickest is computed: large ones take ten times as long.
DRAWN = 20


#: What `exact` leaves to sums in float64, whose order may depend on how many architectures are read at once.
LAST_DIGITS = 1e-13


class _Partition(NamedTuple):
    key: ScoreKey
    proxy: Proxy
    stored: pd.DataFrame


def check_scores(config: Any) -> Iterator[Finding]:
    """Compute `config.cells` architectures of each partition again, one pass for all proxies that read it.

    The first is one that as many partitions as possible hold (`_common`); the others are drawn from each.

    A score agrees when it is equal to the last bit, or deviates by no more than the proxy's `tolerance`, or by no
    more than ten times that without passing another stored score (another processor or device rounds otherwise).
    With `config.exact`, nothing but a sum taken in another order (`LAST_DIGITS`) is tolerated. What could not be
    computed must again not be, for the same reason. Scores of other images than those at hand are only named.
    """
    if config.cells < 1:
        raise HarnessError(f"cells={config.cells} checks nothing: give at least 1")
    store = open_store(config.store, config.stores)
    keys = chosen_keys(store, list(config.proxies))
    at_hand = cache(lambda dataset, name: inputs_for(dataset, name, config.inputs.path).digest)
    groups: dict[Job, list[_Partition]] = defaultdict(list)
    for key in keys:
        subject = str(key)
        if key.inputs not in ("none", "random") and (config.inputs.path is None or config.inputs.name != key.inputs):
            yield Finding(subject, "note", f"images not at hand: set inputs={key.inputs} inputs.path=DATA")
            continue
        try:
            benchmark, proxy = load_benchmark(key.space), get_proxy(key.proxy)
            dataset = benchmark.dataset(key.dataset)
            version = proxy.version_on(benchmark.space)
            stored, held = store.read(key, version), store.images(key)
            check_range(stored["index"].to_numpy(), len(benchmark), store.place(key))
        except HarnessError as error:
            yield Finding(subject, "FAILS", str(error))
            continue
        stored = stored[~stored["status"].str.startswith("error")].set_index("index")
        if stored.empty:
            yield Finding(subject, "FAILS", f"no score of version {version}, which the code has: score it again")
            continue
        images = key.inputs not in ("none", "random")
        if images and held not in (None, at_hand(dataset, key.inputs)):
            other = f"the images at hand are {at_hand(dataset, key.inputs)}, these scores are of {held}"
            yield Finding(subject, "note", f"not computed again: {other}: point inputs.path at the same images")
            continue
        counted = is_counted(proxy)
        job = Job(
            key.space,
            key.dataset,
            (),
            inputs=key.inputs if images else "random",
            inputs_path=config.inputs.path if images else None,
            seed=key.seed,
            device=config.device,
            workers=1 if counted else config.workers,  # counts take no time, starting processes does
            chunk=1,
        )
        groups[job].append(_Partition(key, proxy, stored))
    yield from _recomputed(groups, config)


def chosen_keys(store: ScoreStore, proxies: list[str]) -> list[ScoreKey]:
    """The partitions of a store, those of `proxies` where any are named.

    Raises:
        HarnessError: there is none; UnknownNameError for a proxy that is not known.
    """
    labels = {get_proxy(spec).label for spec in proxies}
    keys = list(store.keys())
    if labels:
        keys = [key for key in keys if key.proxy in labels]
    if not keys:
        what = f"scores of {', '.join(sorted(labels))}" if labels else "scores"
        raise HarnessError(f"there are no {what} in {store}: set store=DIR, or stores=[DIR]")
    return keys


def _recomputed(groups: dict[Job, list[_Partition]], config: Any) -> Iterator[Finding]:
    networks = {job: _sampled(job, partitions, config) for job, partitions in groups.items()}
    with progress_bar(sum(map(len, networks.values()))) as progress:
        for job, partitions in groups.items():
            fresh: dict[str, dict[int, Row]] = defaultdict(dict)
            proxies = tuple(partition.key.proxy for partition in partitions)
            workers = 1 if len(networks[job]) < FEW else job.workers
            for rows, finished in score_networks(replace(job, proxies=proxies, workers=workers), networks[job]):
                for label, row in rows:
                    fresh[label][row.index] = row
                progress.update(finished)
            for partition in partitions:
                yield _compared(partition, fresh[partition.key.proxy], config.exact)


def _sampled(job: Job, partitions: list[_Partition], config: Any) -> dict[int, list[str]]:
    """Labels of the proxies to compute by architecture, `config.cells` of each partition."""
    # One order for all partitions of a dataset, so that proxies scored on the same cells are sampled on the same.
    size = len(load_benchmark(job.benchmark))
    place = stable_rng("verify", job.benchmark, job.dataset, config.seed).permutation(size)
    place[_common(partitions, place)] = -1
    networks: dict[int, list[str]] = defaultdict(list)
    for partition in partitions:
        indices = partition.stored.index.to_numpy()
        for index in indices[np.argsort(place[indices])[: config.cells]]:
            networks[int(index)].append(partition.key.proxy)
    return networks


def _common(partitions: list[_Partition], place: np.ndarray) -> int:
    """Of the architectures that most partitions hold, the quickest of the `DRAWN` of lowest place (n,)."""
    held, seconds = np.zeros(len(place), dtype=int), np.zeros(len(place))
    for partition in partitions:
        indices = partition.stored.index.to_numpy()
        held[indices] += 1
        seconds[indices] += partition.stored["seconds"].to_numpy()
    most = np.flatnonzero(held == held.max())
    drawn = most[np.argsort(place[most])[:DRAWN]]
    return int(drawn[np.argmin(seconds[drawn])])


def _compared(partition: _Partition, fresh: dict[int, Row], exact: bool) -> Finding:
    """The verdict on one partition from its rows computed anew."""
    proxy, stored = partition.proxy, partition.stored
    column = stored["score"].to_numpy(dtype=np.float64)
    column = column[np.isfinite(column)]
    tolerance = LAST_DIGITS if exact else proxy.tolerance
    worst, wrong = 0.0, []
    for index, row in sorted(fresh.items()):
        before = stored.loc[index]
        if before["status"] != row.status:
            wrong.append(f"cell {index} was {before['status']!r}, is {row.status!r}")
            continue
        if row.score is None:
            continue
        old, new = float(before["score"]), row.score
        size = max(abs(old), float(np.median(np.abs(column)))) if proxy.cancels else abs(old)
        deviation = 0.0 if new == old else abs(new - old) / size if size else float("inf")
        worst = max(worst, deviation)
        if deviation <= tolerance:
            continue
        # The score itself lies between: nothing else may, not even its equal.
        passed = np.count_nonzero((column >= min(old, new)) & (column <= max(old, new))) - 1
        if passed or deviation > SAME_PLACE * tolerance:
            wrong.append(f"cell {index} was {old!r}, is {new!r} (deviation {deviation:.1e}, at most {tolerance:.0e})")
    cells = f"{len(fresh)} cell{'s' if len(fresh) > 1 else ''} computed again"
    if wrong:
        return Finding(
            str(partition.key),
            "FAILS",
            f"{len(wrong)} of {cells} differ: {wrong[0]}; if the definition was changed, raise the proxy's `version` "
            "and score it again",
        )
    equal = "equal to the last bit" if worst == 0 else f"deviation at most {worst:.1e}, tolerated {tolerance:.0e}"
    return Finding(str(partition.key), "ok", f"{cells}, {equal}")
