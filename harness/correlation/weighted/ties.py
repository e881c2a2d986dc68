"""Groups of equal values and their weights, which all weighted forms are made of."""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
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
    totals = np.empty((rows.size + 1, weights.shape[1])) if out is None else out
    totals[0] = 0.0
    # "clip" because checking the bounds would buffer the output; the row numbers are in range.
    np.take(weights, rows, axis=0, out=totals[1:], mode="clip")
    _accumulate(totals[1:])
    return totals


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
        order = np.lexsort(keys[::-1])
        changes = np.zeros(order.size - 1, dtype=bool)
        for key in keys:
            changes |= np.diff(key[order]) != 0
        return cls(order, np.append(np.flatnonzero(changes) + 1, order.size))

    @property
    def starts(self) -> np.ndarray:
        """(G,) starts of the groups along `order`."""
        return np.concatenate(([0], self.ends[:-1]))

    @property
    def codes(self) -> np.ndarray:
        """(n,) group number of each row."""
        codes = np.empty(self.order.size, dtype=np.int64)
        codes[self.order] = np.repeat(np.arange(self.ends.size), np.diff(self.ends, prepend=0))
        return codes

    def cumulative(self, weights: np.ndarray) -> np.ndarray:
        """(G + 1, R) total weight before each group, and of all groups in the last row."""
        running = running_totals(weights, self.order)
        if self.ends.size == self.order.size:
            return running
        return running.take(np.concatenate(([0], self.ends)), axis=0)

    def centred_ranks(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(G, R) copies in each group, and the average rank of these less the mean of all ranks."""
        before = self.cumulative(weights)
        # A group that holds the copies before+1 .. before+t has the average rank before + (t+1)/2, and the
        # mean of all ranks is (n+1)/2: centred, half-integers whose sums stay exact for n up to 10^5.
        ranks = before[:-1] + before[1:]
        ranks -= self.order.size
        ranks /= 2
        return np.diff(before, axis=0), ranks

    def sums(self, values: np.ndarray) -> np.ndarray:
        """(G, R) sums over each group of (n, R) values of the rows."""
        ordered = values.take(self.order, axis=0)
        return ordered if self.ends.size == self.order.size else np.add.reduceat(ordered, self.starts, axis=0)

    def squares(self, weights: np.ndarray) -> np.ndarray:
        """(R,) sum over the groups of the squared total weight of the group."""
        if self.ends.size == self.order.size:
            return np.einsum("gr,gr->r", weights, weights)
        sizes = np.diff(self.cumulative(weights), axis=0)
        return np.einsum("gr,gr->r", sizes, sizes)


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

    def tied(self, weights: np.ndarray) -> np.ndarray:
        """(R,) sum over the groups of equal accuracy of their squared total weight."""
        return self.once(weights, "tied", lambda: self.ties.squares(weights))

    def centred(self, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(R,) variance sum of the average ranks, and (n, R) counts times centred rank."""

        def compute() -> tuple[np.ndarray, np.ndarray]:
            sizes, ranks = self.ties.centred_ranks(weights)
            variance = np.einsum("gr,gr->r", sizes * ranks, ranks)
            return variance, weights * ranks.take(self.ties.codes, axis=0)

        return self.once(weights, "centred", compute)


def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide elementwise; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, math.nan), where=denominator != 0)
