"""Groups of equal values and their weights, which all weighted forms are made of."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

Weighted = Callable[[np.ndarray], np.ndarray]
"""Maps (n, R) counts, rows in the order of the data and columns that sum to n, to the (R,) metric values."""


def _accumulate(table: np.ndarray) -> None:
    """Replace the rows of an (m, R) table by their running totals, in place.

    `np.cumsum` walks down one column after the other. Adding whole rows, many at a time, vectorises: twice
    as fast, and running totals are what all weighted values spend their time on.
    """
    width = 16
    whole = len(table) // width * width
    runs = table[:whole].reshape(-1, width, table.shape[1])
    for i in range(1, width):
        runs[:, i] += runs[:, i - 1]
    runs[1:] += np.cumsum(runs[:-1, -1], axis=0)[:, None]
    for i in range(max(whole, 1), len(table)):
        table[i] += table[i - 1]


def running_totals(weights: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(m + 1, R) total of the (n, R) weights over the first 0 .. m of (m,) row numbers, in `out` if given."""
    totals = np.empty((rows.size + 1, weights.shape[1]), weights.dtype) if out is None else out
    totals[0] = 0.0
    # "clip" because checking the bounds would buffer the output; the row numbers are in range.
    np.take(weights, rows, axis=0, out=totals[1:], mode="clip")
    _accumulate(totals[1:])
    return totals


#: Rows whose running total is taken one after the other, for all such runs at once.
_RUN = 16


class Running:
    """Running totals of (n, R) counts along an order of the rows, at some places of it alone.

    The order is cut into runs, and the first rows of all runs are laid before the second ones: to add these is one
    sum of neighbouring memory.

    Args:
        order: (m,) row numbers.
        places: (k,) in [0, m]: of how many of the first rows totals are asked for.
    """

    def __init__(self, order: np.ndarray, places: np.ndarray) -> None:
        runs = -(-order.size // _RUN)
        # What fills the last run comes after all places that are asked for.
        padded = np.concatenate((order, np.zeros(runs * _RUN - order.size, dtype=order.dtype)))
        # int32 halves the memory of the plan, which is what many proxies on a large space are limited by.
        self._rows = padded.reshape(-1, _RUN).T.ravel().astype(np.int32)
        run, step = np.divmod(places - 1, _RUN)
        self._places = np.where(places > 0, 1 + step * runs + run, 0).astype(np.int32)

    @property
    def size(self) -> int:
        """The rows of `totals`."""
        return 1 + self._rows.size

    def __call__(
        self, counts: np.ndarray, totals: np.ndarray | None = None, out: np.ndarray | None = None
    ) -> np.ndarray:
        """(k, R) totals; `totals` (size, R) is overwritten, `out` (k, R) too, which spares fresh memory."""
        if totals is None:
            totals = np.empty((self.size, counts.shape[1]), dtype=counts.dtype)
        totals[0] = 0.0
        # "clip" because checking the bounds would buffer the output; the row numbers are in range.
        np.take(counts, self._rows, axis=0, out=totals[1:], mode="clip")
        runs = totals[1:].reshape(_RUN, -1, counts.shape[1])
        for i in range(1, _RUN):
            runs[i] += runs[i - 1]
        runs[:, 1:] += np.cumsum(runs[-1, :-1], axis=0)
        return np.take(totals, self._places, axis=0, out=out, mode="clip")


@dataclass(frozen=True)
class Ties:
    """Groups of equal values in an order that keeps each group together.

    Attributes:
        order: (n,) row numbers.
        ends: (G,) exclusive ends of the groups along `order`.
    """

    order: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, *keys: np.ndarray) -> Ties:
        """Sort rows ascending by the keys, the first one foremost, and group the rows equal in all."""
        return cls.sorted(np.lexsort(keys[::-1]), *keys)

    @classmethod
    def sorted(cls, order: np.ndarray, *keys: np.ndarray) -> Ties:
        """Group the rows equal in all keys, which `order` keeps together."""
        changes = np.zeros(order.size - 1, dtype=bool)
        for key in keys:
            changes |= np.diff(key[order]) != 0
        return cls(order, np.append(np.flatnonzero(changes) + 1, order.size))

    @property
    def starts(self) -> np.ndarray:
        """(G,) starts of the groups along `order`."""
        return np.concatenate(([0], self.ends[:-1]))

    @cached_property
    def codes(self) -> np.ndarray:
        """(n,) group number of each row."""
        codes = np.empty(self.order.size, dtype=np.int64)
        codes[self.order] = np.repeat(np.arange(self.ends.size), np.diff(self.ends, prepend=0))
        return codes

    @cached_property
    def _running(self) -> Running:
        return Running(self.order, np.concatenate(([0], self.ends)))

    def cumulative(self, counts: np.ndarray) -> np.ndarray:
        """(G + 1, R) total count before each group, and of all groups in the last row."""
        return self._running(counts)

    @cached_property
    def _parted(self) -> tuple[Ties, np.ndarray]:
        """The groups of several rows alone, and the rows (m,) that share none."""
        sizes = np.diff(self.ends, prepend=0)
        several = np.repeat(sizes > 1, sizes)
        return Ties(self.order[several], np.cumsum(sizes[sizes > 1])), self.order[~several]

    def doubled_ranks(self, counts: np.ndarray) -> np.ndarray:
        """(G, R) twice the average rank of the copies in each group, less 1."""
        before = self.cumulative(counts)
        # A group that holds the copies before+1 .. before+t has the average rank before + (t+1)/2.
        return before[:-1] + before[1:]

    def powers(self, counts: np.ndarray, power: int, of_rows: np.ndarray) -> np.ndarray:
        """(R,) sum over the groups of a power of the group's total count; `of_rows` (R,) is that sum over the rows."""
        shared, alone = self._parted
        if not shared.ends.size:
            return of_rows
        of_groups = _powers(np.diff(shared.cumulative(counts), axis=0), power)
        # Rows that share no group count as they do in `of_rows`.
        if alone.size < shared.order.size:
            return of_groups + _powers(counts.take(alone, axis=0), power)
        return of_groups + of_rows - _powers(counts.take(shared.order, axis=0), power)


def _powers(values: np.ndarray, power: int) -> np.ndarray:
    """(R,) sums over the rows of a power of (m, R) values, in double precision."""
    raised = values if power == 2 else values ** (power - 1)
    return np.einsum("gr,gr->r", raised, values, dtype=np.float64)


class Outcomes:
    """What the metrics read of the (n,) accuracies alone, computed once a chunk of counts for all proxies."""

    def __init__(self, accuracies: np.ndarray) -> None:
        self.ties = Ties.of(accuracies)
        self._held = threading.local()  # each thread has a chunk of its own

    def once(self, weights: np.ndarray, name: Any, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it gave under `name` for these very counts."""
        held = self._held
        if getattr(held, "weights", None) is not weights:
            held.weights, held.values = weights, {}
        if name not in held.values:
            held.values[name] = compute()
        return held.values[name]

    def counts(self, weights: np.ndarray) -> np.ndarray:
        """The (n, R) counts, in single precision where they are whole numbers that it holds, as are all below 2^24.

        Running totals are at most n, and so is half a doubled rank: single precision holds them, and what they are
        multiplied by a count, and moves half the bytes. Sums over rows are double.
        """
        return self.once(weights, "counts", lambda: weights.astype(self._kind(weights), copy=False))

    def _kind(self, weights: np.ndarray) -> type:
        return np.float32 if 2 * self.greatest(weights) * len(weights) < 2**24 else np.float64

    def greatest(self, weights: np.ndarray) -> float:
        """The greatest count."""
        return self.once(weights, "greatest", lambda: weights.max(initial=1.0))

    def powers(self, weights: np.ndarray, power: int) -> np.ndarray:
        """(R,) sum over the rows of a power of their counts."""
        return self.once(weights, ("powers", power), lambda: _powers(weights, power))

    def tied(self, weights: np.ndarray) -> np.ndarray:
        """(R,) sum over the groups of equal accuracy of their squared total count."""
        return self.once(weights, "tied", lambda: self.ties.powers(self.counts(weights), 2, self.powers(weights, 2)))

    def variance(self, weights: np.ndarray) -> np.ndarray:
        """(R,) sum of the squared deviations of the average ranks from their mean."""
        return self.once(weights, "variance", lambda: self.variance_of(self.ties, weights))

    def variance_of(self, ties: Ties, weights: np.ndarray) -> np.ndarray:
        """The same of the groups of other values of the rows: those of 1..n, less what each group takes off."""
        n = float(len(weights))
        return (n**3 - ties.powers(self.counts(weights), 3, self.powers(weights, 3))) / 12

    def deviations(self, weights: np.ndarray) -> np.ndarray:
        """(n, R) counts times twice the deviation of the average rank from the mean."""

        def compute() -> np.ndarray:
            counts = self.counts(weights)
            deviations = self.ties.doubled_ranks(counts)
            deviations -= len(counts)
            return counts * deviations.take(self.ties.codes, axis=0)

        return self.once(weights, "deviations", compute)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide elementwise; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, math.nan), where=denominator != 0)
