"""Resamples as counts, values of the metrics on them, and percentile intervals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

from harness.correlation.inputs import proportion, whole
from harness.correlation.metrics import Metric
from harness.correlation.weighted.ties import Outcomes
from harness.errors import InputError
from harness.paths import usable_cores

# Columns of a chunk: few enough for a chunk at n of about 10^4 to stay in cache, and not a power of two,
# whose row stride would map a column to a few cache sets. The byte limit takes over for large n.
_CHUNK_COLUMNS = 56
_CHUNK_BYTES = 64 * 2**20

# Counts of resamples are kept for the next call up to this many of one n, 10 MB.
_KEPT_COUNTS = 5_000_000

# RandomState takes seeds of 32 bits: the user's and the number of the resample.
_STREAMS = 2**32

# Rows from which chunks are worth a thread each.
_WORTH_THREADS = 1000

# Resamples of an interval: a million place its ends to 0.3% of a standard error.
_MOST_RESAMPLES = 1_000_000

# Values of all proxies and metrics on all resamples, which are held at once.
_VALUES_BYTES = 2**30


def bootstrap_weights(n: int, resamples: int, seed: int, chunk: int | None = None) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples as counts, in chunks.

    Resample r draws n rows with replacement from the generator seeded with (seed, r), so that it depends
    neither on the chunk size nor on how many resamples are asked for.

    Args:
        n: rows of the data, at least 1.
        resamples: number of resamples, in [0, 2^32].
        seed: whole number in [0, 2^32), of any type of integer but bool.
        chunk: resamples in each array; by default at most 56, and no more than 64 MiB (or 1 resample).

    Yields:
        (n, c) float64 counts with c <= chunk; each column sums to n.

    Raises:
        InputError: an argument is out of range.
    """
    n, resamples, seed = whole(n, "n", 1), whole(resamples, "resamples", most=_STREAMS), check_seed(seed)
    chunk = _columns_of(n) if chunk is None else chunk
    chunk = whole(chunk, "chunk", 1)
    return (_drawn(n, columns, resamples, seed) for columns in _chunks(resamples, chunk))


def _columns_of(n: int) -> int:
    return max(1, min(_CHUNK_COLUMNS, _CHUNK_BYTES // (8 * n)))


def _chunks(resamples: int, chunk: int) -> list[slice]:
    return [slice(start, min(start + chunk, resamples)) for start in range(0, resamples, chunk)]


def _drawn(n: int, columns: slice, resamples: int, seed: int) -> np.ndarray:
    """The columns of `bootstrap_weights` over `resamples`."""
    kept = _counts if n * resamples <= _KEPT_COUNTS else _counts.__wrapped__
    return kept(n, columns.start, columns.stop - columns.start, seed).astype(np.float64)


@lru_cache(maxsize=128)
def _counts(n: int, start: int, columns: int, seed: int) -> np.ndarray:
    """(n, columns) counts of the resamples from `start` on.

    Drawing them takes as long as one proxy's tau; a report draws those of a few n for dozens of tables.
    """
    counts = np.empty((n, columns), dtype=np.uint16 if n < 2**16 else np.uint32)
    for column in range(columns):
        # RandomState: its streams never change with the version of numpy, so that tables do not either.
        rows = np.random.RandomState([seed, start + column]).randint(n, size=n)
        counts[:, column] = np.bincount(rows, minlength=n)
    return counts


def resampled_values(
    ranks: list[np.ndarray],
    accuracies: np.ndarray,
    metrics: list[Metric],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Return the (proxies, metrics, resamples) values of all metrics on the same resamples.

    Raises InputError where they would take more than 1 GiB.
    """
    size = 8 * len(ranks) * len(metrics) * resamples
    if size > _VALUES_BYTES:
        raise InputError(
            f"{resamples:,} resamples of {len(metrics)} metrics and {len(ranks)} proxies take {size / 2**30:.1f} GiB: "
            "ask for fewer resamples, or measure fewer proxies at once"
        )
    values = np.empty((len(ranks), len(metrics), resamples))
    if not values.size:
        return values
    # A count belongs to a row: what the same architectures have on another dataset is resampled as here, so that a mean
    # over datasets has its own distribution. The scores have no say in it: a proxy's resamples are the same whichever
    # others are measured beside it.
    order = np.argsort(accuracies, kind="stable")
    ordered = accuracies[order]
    outcomes = Outcomes(ordered)
    plans = [[chosen.weighted(rank[order], ordered, outcomes) for chosen in metrics] for rank in ranks]
    n = accuracies.size

    def fill(columns: slice) -> None:
        weights = _drawn(n, columns, resamples, seed)[order]
        for i, plans_of_proxy in enumerate(plans):
            for j, plan in enumerate(plans_of_proxy):
                values[i, j, columns] = plan(weights)

    # numpy computes outside Python's lock. On few rows the lock is held most of the time, and threads only disturb.
    threads = usable_cores() if n >= _WORTH_THREADS else 1
    with ThreadPoolExecutor(threads) as pool:
        for _ in pool.map(fill, _chunks(resamples, _columns_of(n))):
            pass
    return values


@dataclass(frozen=True)
class Estimate:
    """A value on the data with its bootstrap percentile interval.

    Attributes:
        value: the value on the data itself; NaN where undefined.
        low: lower end of the interval; NaN without resamples or if no resample has a defined value.
        high: upper end, likewise.
    """

    value: float
    low: float
    high: float


def estimate(value: float, resampled: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Return a value with the percentile interval of its (R,) resampled values, undefined ones left out."""
    defined = resampled[~np.isnan(resampled)]
    if not defined.size:
        return Estimate(value, math.nan, math.nan)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, (tail, 1.0 - tail))
    return Estimate(value, float(low), float(high))


def check_resamples(resamples: Any) -> int:
    """Return the number of resamples of an interval as an int in [0, 10^6]; raise InputError otherwise."""
    return whole(resamples, "resamples", most=_MOST_RESAMPLES)


def check_seed(seed: Any) -> int:
    """Return a seed as an int in [0, 2^32), the same for every type of integer; raise InputError otherwise."""
    return whole(seed, "seed", most=_STREAMS - 1)


def check_confidence(confidence: Any) -> float:
    """Return a coverage as a float in (0, 1); raise InputError otherwise."""
    return proportion(confidence, "confidence")
