"""The best-ranked rows of each resample, in expectation over the orders of tied ones."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.correlation.weighted.ties import Ties, running_totals


@dataclass(frozen=True)
class Head:
    """The best-ranked tie groups, up to where every resample has filled the places asked for.

    Attributes:
        rows: (m,) row numbers, best first, within a group by descending accuracy.
        group: (m,) group number of each of these rows.
        starts: (G,) first position of each group in `rows`.
        weights: (m, R) counts of these rows.
        cumulative: (m, R) total count before each of these rows.
        before: (G + 1, R) total count before each group, and after the last.
    """

    rows: np.ndarray
    group: np.ndarray
    starts: np.ndarray
    weights: np.ndarray
    cumulative: np.ndarray
    before: np.ndarray

    def group_means(self, values: np.ndarray) -> np.ndarray:
        """(G, R) or (G, 1) mean over the copies in each group of (m, R) or (m, 1) values of the rows."""
        if self.starts.size == self.rows.size:
            return values
        totals = np.add.reduceat(self.weights * values, self.starts, axis=0)
        # A group without copies has a total of 0 and fills no place: any divisor but 0 will do.
        return totals / np.maximum(np.diff(self.before, axis=0), 1.0)


class Ranking:
    """Rows ranked best first, in groups of tied keys."""

    def __init__(self, keys: np.ndarray, accuracies: np.ndarray) -> None:
        self._order = np.lexsort((-accuracies, -keys))
        self._groups = Ties.sorted(self._order, keys)

    def head(self, weights: np.ndarray, places: int) -> Head:
        """Return the shortest head that fills `places` places (at most n) in each of the (n, R) counts."""
        n = self._order.size
        # The first m rows hold m + O(sqrt(m)) copies: eight deviations of slack make the fallback rare.
        guess = places + 8 * math.isqrt(places) + 64
        if guess < n:
            head = self._first_groups(weights, int(np.searchsorted(self._groups.ends, guess)) + 1)
            if head.before[-1].min() >= places:
                return head
        return self._first_groups(weights, self._groups.ends.size)

    def _first_groups(self, weights: np.ndarray, count: int) -> Head:
        ends, starts = self._groups.ends[:count], self._groups.starts[:count]
        rows = self._order[: ends[-1]]
        cumulative = running_totals(weights, rows)
        return Head(
            rows=rows,
            group=np.repeat(np.arange(count), ends - starts),
            starts=starts,
            weights=weights.take(rows, axis=0),
            cumulative=cumulative[:-1],
            before=cumulative.take(np.append(starts, ends[-1]), axis=0),
        )
