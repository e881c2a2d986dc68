"""Rank correlation between proxy scores and accuracies, with paired bootstrap intervals.

A training-free proxy is judged by how well the order of its scores agrees with the order of the trained
accuracies. Point values of Kendall's tau-b and Spearman's rho are SciPy's; nDCG, top-fraction precision and
regret are expectations over every order of tied scores, so no value depends on the order of the rows.

A bootstrap resample of n rows is a vector of n counts that sum to n. Every metric here has a weighted form
that takes an (n, R) matrix of such counts and returns the R values that the metric has on the R replicated
data sets, so that no replicated data set is ever built. One matrix serves all proxies: differences between
proxies are paired.

Conventions shared by the whole module:

* a higher score predicts a higher accuracy;
* a NaN or infinite score is a *failed* one: its row stays in the population, ranked below every finite score
  and tied with the other failed rows;
* accuracies are finite; nDCG needs them in percent, in [0, 100];
* a correlation with a constant vector is undefined, and reported as NaN.
"""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache, partial
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
from scipy import stats

__all__ = [
    "METRICS",
    "Correlation",
    "Estimate",
    "Metric",
    "Sample",
    "bootstrap_weights",
    "correlate",
    "correlate_many",
    "estimate",
    "kendall_tau",
    "metric",
    "ndcg",
    "paired_difference",
    "rank_scores",
    "regret",
    "sample_many",
    "spearman_rho",
    "top_precision",
]

Weighted = Callable[[np.ndarray], np.ndarray]
"""Maps (n, R) counts, rows in the order of the data and columns that sum to n, to the (R,) metric values."""

# A dense sign matrix and a product in BLAS beat a merge level up to blocks of about this many points.
_BLOCK = 64

# Columns of a chunk: few enough for a chunk at n of about 10^4 to stay in cache, and not a power of two,
# whose row stride would map a column to a few cache sets. The byte limit takes over for large n.
_CHUNK_COLUMNS = 56
_CHUNK_BYTES = 64 * 2**20

# Counts of resamples are kept for the next call up to this many of one n, 10 MB.
_KEPT_COUNTS = 5_000_000


# ---------------------------------------------------------------------------------------------------------
# Input
# ---------------------------------------------------------------------------------------------------------


def _vector(values: Any, label: str) -> np.ndarray:
    """Return `values` as a one-dimensional numeric array; missing entries of object arrays become NaN."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        if hasattr(values, "to_numpy"):
            array = values.to_numpy(dtype=np.float64, na_value=math.nan)
        else:
            array = array.astype(np.float64)
    if array.ndim != 1:
        raise ValueError(f"{label} must be one-dimensional, got shape {array.shape}")
    if array.size and array.dtype.kind not in "biuf":
        raise ValueError(f"{label} must be real numbers, got dtype {array.dtype}")
    return array


def _aligned(scores: Any, accuracies: Any, label: str) -> Any:
    """Return `scores` in the index order of `accuracies` if both carry an index, else as given."""
    if not all(hasattr(values, "index") and hasattr(values, "reindex") for values in (scores, accuracies)):
        return scores
    for values, name in ((scores, label), (accuracies, "accuracies")):
        if not values.index.is_unique:
            raise ValueError(f"{name}: {int(values.index.duplicated().sum())} duplicate index entries")
    unscored = len(accuracies.index.difference(scores.index))
    unknown = len(scores.index.difference(accuracies.index))
    if unscored or unknown:
        raise ValueError(
            f"{label} and accuracies have different indices: "
            f"{unscored} missing from {label}, {unknown} missing from accuracies"
        )
    return scores.reindex(accuracies.index)


def _check_accuracies(accuracies: Any) -> np.ndarray:
    """Return accuracies as (n,) float64, n >= 2, all finite; raise ValueError otherwise."""
    array = _vector(accuracies, "accuracies").astype(np.float64)
    if array.size < 2:
        raise ValueError(f"at least 2 rows are needed, got {array.size}")
    bad = int(np.count_nonzero(~np.isfinite(array)))
    if bad:
        raise ValueError(f"{bad} of {array.size} accuracies are not finite")
    return array


def _check_scores(scores: Any, accuracies: Any, label: str = "scores") -> np.ndarray:
    """Return scores as an (n,) array in the row order of `accuracies`; raise ValueError on a mismatch."""
    array = _vector(_aligned(scores, accuracies, label), label)
    if array.size != len(accuracies):
        raise ValueError(f"{label} has {array.size} rows, accuracies has {len(accuracies)}")
    return array


def _pair(scores: Any, accuracies: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) dense score ranks and (n,) float64 accuracies after all input checks."""
    accuracy_array = _check_accuracies(accuracies)
    return rank_scores(_check_scores(scores, accuracies)), accuracy_array


def _canonical_pair(scores: Any, accuracies: Any) -> tuple[np.ndarray, np.ndarray]:
    """Like `_pair`, rows sorted by (accuracy, score) so that rounding does not depend on the row order."""
    ranks, accuracy_array = _pair(scores, accuracies)
    order = np.lexsort((ranks, accuracy_array))
    return ranks[order], accuracy_array[order]


def _positive(value: Any, label: str) -> int:
    """Return `value` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise ValueError(f"{label} must be a whole number, got {value!r}") from None
    if number < 1:
        raise ValueError(f"{label} must be at least 1, got {number}")
    return number


def _fraction(value: float) -> float:
    """Return `value` if it lies in (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise ValueError(f"fraction must be in (0, 1], got {value!r}")
    return float(value)


def rank_scores(scores: Any) -> np.ndarray:
    """Rank scores densely, failed ones below all others.

    Args:
        scores: (n,) real numbers, higher is better; NaN and infinities mark failed rows.

    Returns:
        (n,) int64 dense ranks: 0 is the worst, equal scores share a rank, no rank is skipped. If any row
        failed, the failed rows are exactly those of rank 0.

    Raises:
        ValueError: `scores` is not one-dimensional or not made of real numbers.
    """
    values = _vector(scores, "scores")
    finite = np.isfinite(values)
    ranks = np.zeros(values.size, dtype=np.int64)
    _, inverse = np.unique(values[finite], return_inverse=True)
    ranks[finite] = inverse + (not finite.all())
    return ranks


# ---------------------------------------------------------------------------------------------------------
# Point values
# ---------------------------------------------------------------------------------------------------------


def kendall_tau(scores: Any, accuracies: Any) -> float:
    """Kendall's tau-b.

    tau_b = (C - D) / sqrt((n0 - n1)(n0 - n2)) with C and D the concordant and discordant pairs,
    n0 = n(n-1)/2, and n1, n2 the pairs tied in score and in accuracy (Kendall 1945, as in
    `scipy.stats.kendalltau`).

    Args:
        scores: (n,) scores, n >= 2; non-finite ones are ranked last.
        accuracies: (n,) finite accuracies, any unit.

    Returns:
        tau-b in [-1, 1]; NaN if the scores or the accuracies are constant.

    Raises:
        ValueError: lengths or indices differ, fewer than 2 rows, not one-dimensional, or an accuracy is not
            finite.
    """
    ranks, values = _canonical_pair(scores, accuracies)
    if _constant(ranks) or _constant(values):
        return math.nan
    return float(stats.kendalltau(ranks, values, variant="b").statistic)


def spearman_rho(scores: Any, accuracies: Any) -> float:
    """Spearman's rho: Pearson's correlation of the average ranks (as in `scipy.stats.spearmanr`).

    Args:
        scores: (n,) scores, n >= 2; non-finite ones are ranked last.
        accuracies: (n,) finite accuracies, any unit.

    Returns:
        rho in [-1, 1]; NaN if the scores or the accuracies are constant.

    Raises:
        ValueError: as `kendall_tau`.
    """
    ranks, values = _canonical_pair(scores, accuracies)
    if _constant(ranks) or _constant(values):
        return math.nan
    return float(stats.spearmanr(ranks, values).statistic)


def ndcg(scores: Any, accuracies: Any, p: int = 1000) -> float:
    """Normalised discounted cumulative gain at P, in expectation over the orders of tied scores.

    nDCG_P = DCG_P / ideal DCG_P with DCG_P = sum over rank i = 1..P of (2^acc_i - 1) / log2(1 + i), where
    acc_i is the accuracy in percent of the architecture that the score ranks i-th, and the ideal DCG_P
    ranks the same population by accuracy (VKDNW, arXiv 2502.04975). Each member of a group of tied scores
    has the mean gain of the group at each place, also in the group that straddles P.

    Args:
        scores: (n,) scores, n >= 2; non-finite ones are ranked last.
        accuracies: (n,) accuracies in percent, in [0, 100].
        p: places that count, at least 1; cut to n.

    Returns:
        nDCG_P in [0, 1], also for constant scores; NaN if every accuracy is 0.

    Raises:
        ValueError: as `kendall_tau`; `p` is not a whole number of at least 1; or an accuracy is outside
            [0, 100].
    """
    return _at_unit_weights(partial(_weighted_ndcg, p=_positive(p, "p")), scores, accuracies)


def top_precision(scores: Any, accuracies: Any, fraction: float = 0.01) -> float:
    """Share of the best-scored rows that are among the most accurate ones, in expectation over ties.

    With k = max(1, round(fraction * n)): the expected number of the k best-scored rows that are among the k
    most accurate, divided by k. Scores tied at place k are taken in random order; rows tied in accuracy at
    place k share the places that are left among them evenly, so that with such ties even a perfect score
    stays below 1.

    Args:
        scores: (n,) scores, n >= 2; non-finite ones are ranked last.
        accuracies: (n,) finite accuracies, any unit.
        fraction: share of the population, in (0, 1].

    Returns:
        Precision in [0, 1]; its expectation for random scores is k / n.

    Raises:
        ValueError: as `kendall_tau`, or `fraction` is outside (0, 1].
    """
    return _at_unit_weights(partial(_weighted_top_precision, fraction=_fraction(fraction)), scores, accuracies)


def regret(scores: Any, accuracies: Any, top: int = 10) -> float:
    """Accuracy lost by training only the best-scored rows and keeping the best of them.

    The best accuracy of the population minus the best among the `top` best-scored rows. If a group of tied
    scores straddles the last place, the value is the exact expectation over the random order of that group.

    Args:
        scores: (n,) scores, n >= 2; non-finite ones are ranked last.
        accuracies: (n,) finite accuracies.
        top: number of rows trained, at least 1; cut to n. The cost grows with it.

    Returns:
        Regret >= 0 in the unit of the accuracies (percentage points for accuracies in percent).

    Raises:
        ValueError: as `kendall_tau`, or `top` is not a whole number of at least 1.
    """
    return _at_unit_weights(partial(_weighted_regret, top=_positive(top, "top")), scores, accuracies)


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _at_unit_weights(weighted: Callable[..., Weighted], scores: Any, accuracies: Any) -> float:
    """Evaluate a weighted metric on the data itself: one resample that holds every row once."""
    ranks, values = _pair(scores, accuracies)
    return float(weighted(ranks, values, _Outcomes(values))(np.ones((values.size, 1)))[0])


# ---------------------------------------------------------------------------------------------------------
# Weighted values: kendall and spearman
# ---------------------------------------------------------------------------------------------------------


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


def _running_totals(weights: np.ndarray, rows: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """(m + 1, R) total of the (n, R) weights over the first 0 .. m of (m,) row numbers, in `out` if given."""
    totals = np.empty((rows.size + 1, weights.shape[1])) if out is None else out
    totals[0] = 0.0
    # "clip" because checking the bounds would buffer the output; the row numbers are in range.
    np.take(weights, rows, axis=0, out=totals[1:], mode="clip")
    _accumulate(totals[1:])
    return totals


@dataclass(frozen=True)
class _Ties:
    """Groups of equal values in an order that keeps each group together.

    Attributes:
        order: (n,) row numbers.
        ends: (G,) exclusive ends of the groups along `order`.
    """

    order: np.ndarray
    ends: np.ndarray

    @classmethod
    def of(cls, *keys: np.ndarray) -> _Ties:
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
        running = _running_totals(weights, self.order)
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


class _Outcomes:
    """What the metrics read of the (n,) accuracies alone, computed once a chunk of counts for all proxies."""

    def __init__(self, accuracies: np.ndarray) -> None:
        self.ties = _Ties.of(accuracies)
        self._weights: np.ndarray | None = None
        self._values: dict[Any, Any] = {}

    def once(self, weights: np.ndarray, name: Any, compute: Callable[[], Any]) -> Any:
        """`compute()`, or what it gave under `name` for these very counts."""
        if weights is not self._weights:
            self._weights, self._values = weights, {}
        if name not in self._values:
            self._values[name] = compute()
        return self._values[name]

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


def _ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """Divide elementwise; NaN where the denominator is 0."""
    return np.divide(numerator, denominator, out=np.full(denominator.shape, math.nan), where=denominator != 0)


@dataclass(frozen=True)
class _MergeLevel:
    """One level of the merge tree: what to do with each pair of neighbouring blocks.

    Attributes:
        half: points in each of the two blocks.
        left: (rows / 2,) positions of the left blocks' points, block by block, by descending score.
        above: (rows / 2,) for each point of a right block, the number of entries of `left` up to the last
            one of its own left block that has a strictly higher score.
    """

    half: int
    left: np.ndarray
    above: np.ndarray


class _DiscordantPairs:
    """Weighted count of discordant pairs, for all resamples together.

    Points sorted by (accuracy, score) are discordant exactly when an earlier one has the strictly higher
    score: pairs tied in accuracy are in score order, and pairs tied in score are not strict. Such pairs are
    counted as in the O(n log n) algorithm of Knight (1966): within blocks of neighbouring points by a dense
    indicator matrix, and between the two halves of ever larger blocks by merging. Which points pair up does
    not depend on the resample, so the plan is made once.
    """

    def __init__(self, ranks: np.ndarray, accuracies: np.ndarray) -> None:
        n = ranks.size
        self._order = np.lexsort((ranks, accuracies))
        depth = max(0, math.ceil(math.log2(n / _BLOCK)))
        self._width = math.ceil(n / 2**depth)
        # Padding makes all blocks of a level equally long; its weight is 0, so its rank is arbitrary.
        padded = np.zeros(self._width * 2**depth, dtype=np.int64)
        padded[:n] = ranks[self._order]
        self._leaves = padded.reshape(-1, self._width)
        self._levels = [self._merge_level(padded, self._width * 2**level) for level in range(depth)]

    @staticmethod
    def _merge_level(ranks: np.ndarray, half: int) -> _MergeLevel:
        blocks = ranks.reshape(-1, 2, half)
        number = np.arange(len(blocks))[:, None]
        by_score = np.argsort(-blocks[:, 0], axis=1, kind="stable")
        # A key that leads with the block number lets one search serve all blocks.
        keys = number * (ranks.max() + 1) + (ranks.max() - blocks.transpose(1, 0, 2))
        left_keys = np.take_along_axis(keys[0], by_score, axis=1)
        higher = np.searchsorted(left_keys.ravel(), keys[1].ravel(), side="left").reshape(keys[1].shape)
        # int32 halves the memory of the plan, which is what many proxies on a large space are limited by.
        return _MergeLevel(
            half=half,
            left=(by_score + 2 * half * number).astype(np.int32).ravel(),
            above=higher.astype(np.int32).ravel(),
        )

    def __call__(self, weights: np.ndarray) -> np.ndarray:
        """Return the (R,) discordant pairs of the (n, R) counts; exact below 2^53."""
        n, resamples = weights.shape
        # Running totals are at most n and are multiplied by single counts: below 2^24 single precision is exact,
        # and moves half the bytes. Sums over rows are double.
        kind = np.float32 if n * weights.max(initial=0.0) < 2**24 else np.float64
        points = np.zeros((self._leaves.size, resamples), dtype=kind)
        points[: self._order.size] = weights.astype(kind, copy=False).take(self._order, axis=0)
        leaves = points.reshape(-1, self._width, resamples)
        total = self._within_leaves(leaves)
        block_totals = leaves.sum(axis=1, dtype=np.float64)
        # One pair of buffers for all levels: fresh memory would cost as much as the arithmetic.
        totals = np.empty((len(points) // 2 + 1, resamples), dtype=kind)
        above = np.empty((len(points) // 2, resamples), dtype=kind)
        for level in self._levels:
            _running_totals(points, level.left, out=totals)
            np.take(totals, level.above, axis=0, out=above, mode="clip")
            right = points.reshape(-1, 2, level.half, resamples)[:, 1]
            products = above.reshape(right.shape)
            products *= right
            total += above.sum(axis=0, dtype=np.float64)
            # The running totals went on from block to block: take off what came before each left block.
            pairs = block_totals.reshape(-1, 2, resamples)
            before = np.cumsum(pairs[:, 0], axis=0) - pairs[:, 0]
            total -= np.einsum("br,br->r", before, pairs[:, 1])
            block_totals = pairs.sum(axis=1)
        return total

    def _within_leaves(self, points: np.ndarray) -> np.ndarray:
        later = np.tri(self._width, k=-1, dtype=bool)
        total = np.zeros(points.shape[2])
        # A slab of leaves at a time: the indicator matrices of all would be `_BLOCK` times the data.
        slab = 256
        for start in range(0, len(points), slab):
            ranks = self._leaves[start : start + slab]
            weights = points[start : start + slab]
            discordant = (ranks[:, None, :] > ranks[:, :, None]) & later
            pairs = discordant.astype(weights.dtype) @ weights
            pairs *= weights
            total += pairs.sum(axis=(0, 1), dtype=np.float64)
        return total


def _weighted_kendall(ranks: np.ndarray, accuracies: np.ndarray, outcomes: _Outcomes) -> Weighted:
    """Plan tau-b for resamples of (n,) score ranks and (n,) accuracies."""
    n = ranks.size
    by_score, by_both = _Ties.of(ranks), _Ties.of(accuracies, ranks)
    discordant_pairs = _DiscordantPairs(ranks, accuracies)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        pairs = n * (n - 1) / 2
        # The n copies of the rows pair up into n(n-1)/2; sum t(t-1)/2 = (sum t^2 - n)/2 of these are ties.
        squares = by_score.squares(weights), outcomes.tied(weights), by_both.squares(weights)
        tied_score, tied_accuracy, tied_both = ((square - n) / 2 for square in squares)
        difference = pairs - tied_score - tied_accuracy + tied_both - 2 * discordant_pairs(weights)
        tau = _ratio(difference, np.sqrt((pairs - tied_score) * (pairs - tied_accuracy)))
        return np.clip(tau, -1.0, 1.0)

    return evaluate


def _weighted_spearman(ranks: np.ndarray, accuracies: np.ndarray, outcomes: _Outcomes) -> Weighted:
    """Plan rho for resamples of (n,) score ranks and (n,) accuracies."""
    by_score = _Ties.of(ranks)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        accuracy_variance, weighted_ranks = outcomes.centred(weights)
        sizes, centred = by_score.centred_ranks(weights)
        covariance = np.einsum("gr,gr->r", centred, by_score.sums(weighted_ranks))
        sizes *= centred
        rho = _ratio(covariance, np.sqrt(np.einsum("gr,gr->r", sizes, centred) * accuracy_variance))
        return np.clip(rho, -1.0, 1.0)

    return evaluate


# ---------------------------------------------------------------------------------------------------------
# Weighted values: ndcg, top precision, regret
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Head:
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


class _Ranking:
    """Rows ranked best first, in groups of tied keys."""

    def __init__(self, keys: np.ndarray, accuracies: np.ndarray) -> None:
        ties = _Ties.of(-keys, -accuracies)
        self._order = ties.order
        self._groups = _Ties.of(-keys)

    def head(self, weights: np.ndarray, places: int) -> _Head:
        """Return the shortest head that fills `places` places (at most n) in each of the (n, R) counts."""
        n = self._order.size
        # The first m rows hold m + O(sqrt(m)) copies: eight deviations of slack make the fallback rare.
        guess = places + 8 * math.isqrt(places) + 64
        if guess < n:
            head = self._first_groups(weights, int(np.searchsorted(self._groups.ends, guess)) + 1)
            if head.before[-1].min() >= places:
                return head
        return self._first_groups(weights, self._groups.ends.size)

    def _first_groups(self, weights: np.ndarray, count: int) -> _Head:
        ends, starts = self._groups.ends[:count], self._groups.starts[:count]
        rows = self._order[: ends[-1]]
        cumulative = _running_totals(weights, rows)
        return _Head(
            rows=rows,
            group=np.repeat(np.arange(count), ends - starts),
            starts=starts,
            weights=weights.take(rows, axis=0),
            cumulative=cumulative[:-1],
            before=cumulative.take(np.append(starts, ends[-1]), axis=0),
        )


def _weighted_ndcg(ranks: np.ndarray, accuracies: np.ndarray, outcomes: _Outcomes, p: int) -> Weighted:
    """Plan nDCG at `p` for resamples of (n,) score ranks and (n,) accuracies in percent."""
    outside = int(np.count_nonzero((accuracies < 0.0) | (accuracies > 100.0)))
    if outside:
        raise ValueError(f"nDCG needs accuracies in percent: {outside} are outside [0, 100]")
    places = min(p, accuracies.size)
    gains = np.exp2(accuracies) - 1.0
    # total_discount[c] is the sum of 1 / log2(1 + rank) over the first c ranks, which start at 1.
    total_discount = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, places + 1)))))
    by_score, by_accuracy = _Ranking(ranks, accuracies), _Ranking(accuracies, accuracies)

    def dcg(ranking: _Ranking, weights: np.ndarray) -> np.ndarray:
        head = ranking.head(weights, places)
        filled = total_discount.take(np.minimum(head.before, places).astype(np.intp))
        means = head.group_means(gains[head.rows, None])
        return (means * np.diff(filled, axis=0)).sum(axis=0)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        # Rounding can put a perfect ranking an ulp above its ideal.
        ideal = outcomes.once(weights, ("ideal", p), lambda: dcg(by_accuracy, weights))
        return np.minimum(_ratio(dcg(by_score, weights), ideal), 1.0)

    return evaluate


def _weighted_top_precision(
    ranks: np.ndarray, accuracies: np.ndarray, outcomes: _Outcomes, fraction: float
) -> Weighted:
    """Plan the top precision at `fraction` for resamples of (n,) score ranks and (n,) accuracies."""
    places = max(1, round(fraction * accuracies.size))
    by_score = _Ranking(ranks, accuracies)
    by_accuracy = _Ties.of(-accuracies)
    code = by_accuracy.codes

    def shares(weights: np.ndarray) -> np.ndarray:
        before = by_accuracy.cumulative(weights)
        sizes = np.diff(before, axis=0)
        return np.clip(places - before[:-1], 0.0, sizes) / np.maximum(sizes, 1.0)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        membership = outcomes.once(weights, ("top", fraction), lambda: shares(weights))
        head = by_score.head(weights, places)
        means = head.group_means(membership.take(code[head.rows], axis=0))
        filled = np.diff(np.minimum(head.before, places), axis=0)
        return np.minimum((means * filled).sum(axis=0) / places, 1.0)

    return evaluate


def _weighted_regret(ranks: np.ndarray, accuracies: np.ndarray, outcomes: _Outcomes, top: int) -> Weighted:
    """Plan the regret of the `top` best-scored for resamples of (n,) score ranks and (n,) accuracies."""
    top = min(top, accuracies.size)
    by_score, by_accuracy = _Ranking(ranks, accuracies), _Ranking(accuracies, accuracies)

    def none_drawn(ahead: np.ndarray, size: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        # Hypergeometric: the chance that `drawn` of `size` miss the first `ahead`,
        # C(size - ahead, drawn) / C(size, drawn), as a product because factorials would lose digits.
        chance = np.ones(ahead.shape)
        for i in range(int(drawn.max())):
            factor = np.maximum(size - ahead - i, 0.0) / np.maximum(size - i, 1.0)
            chance *= np.where(i < drawn, factor, 1.0)
        return chance

    def greatest(weights: np.ndarray) -> np.ndarray:
        best_first = by_accuracy.head(weights, 1)
        return accuracies[best_first.rows[np.argmax(best_first.weights > 0, axis=0)]]

    def evaluate(weights: np.ndarray) -> np.ndarray:
        best = outcomes.once(weights, "best", lambda: greatest(weights))
        head = by_score.head(weights, top)
        values = accuracies[head.rows, None]
        before, after = head.before[head.group], head.before[head.group + 1]
        settled = np.where((after < top) & (head.weights > 0), values, -math.inf).max(axis=0)
        # Only the group that holds the last place is drawn from; its rows are in descending accuracy, so
        # the best drawn is the first of them that is drawn at all.
        last = (before < top) & (top <= after)
        size = after - before
        drawn = np.where(last, top - before, 0.0)
        ahead = head.cumulative - before
        chance = none_drawn(ahead, size, drawn) - none_drawn(ahead + head.weights, size, drawn)
        expected = np.where(last, chance * np.maximum(settled, values), 0.0).sum(axis=0)
        return np.maximum(best - expected, 0.0)

    return evaluate


# ---------------------------------------------------------------------------------------------------------
# Metrics by name
# ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Metric:
    """A measure of agreement between scores and accuracies.

    Attributes:
        name: canonical name, parameters included, as `metric` takes it.
        summary: one line for tables and help texts.
        point: (scores, accuracies), both (n,), to the value on the data.
        weighted: (scores, accuracies), both (n,), to a function that maps (n, R) counts, whose columns sum
            to n, to the (R,) values on the replicated data. The first call sorts; the second is repeatable.
        value_range: least and greatest value.
        direction: whether a "higher" or a "lower" value is better.
    """

    name: str
    summary: str
    point: Callable[[Any, Any], float]
    weighted: Callable[..., Weighted]
    value_range: tuple[float, float]
    direction: Literal["higher", "lower"]


def _checked(
    weighted: Callable[..., Weighted],
    scores: Any,
    accuracies: Any,
    outcomes: _Outcomes | None = None,
    **parameters: Any,
) -> Weighted:
    """Plan a weighted metric after the input checks of its point value; plans of equal accuracies share `outcomes`."""
    ranks, values = _pair(scores, accuracies)
    return weighted(ranks, values, outcomes or _Outcomes(values), **parameters)


_DEFAULT_NAMES = ("kendall", "spearman", "ndcg_1000", "top_1%", "regret_10")
_NAME_LIST = "kendall, spearman, ndcg_P (as ndcg_1000), top_F% (as top_1%), regret_K (as regret_10)"


@cache
def _parse_metric(name: str) -> Metric:
    if name == "kendall":
        return Metric(
            name,
            "Kendall's tau-b",
            kendall_tau,
            partial(_checked, _weighted_kendall),
            (-1.0, 1.0),
            "higher",
        )
    if name == "spearman":
        return Metric(
            name,
            "Spearman's rho",
            spearman_rho,
            partial(_checked, _weighted_spearman),
            (-1.0, 1.0),
            "higher",
        )
    if found := re.fullmatch(r"ndcg_([1-9][0-9]*)", name):
        p = int(found[1])
        return Metric(
            name,
            f"nDCG of 2^accuracy(%) - 1 over the {p} best-scored",
            partial(ndcg, p=p),
            partial(_checked, _weighted_ndcg, p=p),
            (0.0, 1.0),
            "higher",
        )
    if found := re.fullmatch(r"top_((?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?)%", name):
        fraction = float(found[1]) / 100.0
        if 0.0 < fraction <= 1.0:
            return Metric(
                name,
                f"share of the best-scored {found[1]}% that are among the most accurate {found[1]}%",
                partial(top_precision, fraction=fraction),
                partial(_checked, _weighted_top_precision, fraction=fraction),
                (0.0, 1.0),
                "higher",
            )
        raise ValueError(f"metric {name!r}: the percentage must be in (0, 100]")
    if found := re.fullmatch(r"regret_([1-9][0-9]*)", name):
        top = int(found[1])
        return Metric(
            name,
            f"percentage points lost by keeping the best of the {top} best-scored",
            partial(regret, top=top),
            partial(_checked, _weighted_regret, top=top),
            (0.0, 100.0),
            "lower",
        )
    near = difflib.get_close_matches(name.lower(), _DEFAULT_NAMES, n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise ValueError(f"unknown metric {name!r}{hint}; valid names: {_NAME_LIST}")


METRICS: Mapping[str, Metric] = MappingProxyType({name: _parse_metric(name) for name in _DEFAULT_NAMES})
"""The metrics at their usual parameters, by canonical name; `metric` makes those at other parameters."""


def metric(name: str) -> Metric:
    """Return the metric of a name.

    Args:
        name: "kendall", "spearman", "ndcg_P", "top_F%" (F in (0, 100]) or "regret_K", for instance
            "ndcg_50", "top_0.5%" or "regret_1".

    Returns:
        The metric; the same object for the same name.

    Raises:
        ValueError: no metric has this name; the message lists the names and the closest one.
    """
    return _parse_metric(name)


# ---------------------------------------------------------------------------------------------------------
# Bootstrap
# ---------------------------------------------------------------------------------------------------------


def bootstrap_weights(n: int, resamples: int, seed: int, chunk: int | None = None) -> Iterator[np.ndarray]:
    """Draw bootstrap resamples as counts, in chunks.

    Resample r draws n rows with replacement from the generator seeded with (seed, r), so that it depends
    neither on the chunk size nor on how many resamples are asked for.

    Args:
        n: rows of the data, at least 1.
        resamples: number of resamples, at least 0.
        seed: non-negative integer.
        chunk: resamples in each array; by default at most 56, and no more than 64 MiB (or 1 resample).

    Yields:
        (n, c) float64 counts with c <= chunk; each column sums to n.

    Raises:
        ValueError: an argument is out of range.
    """
    if n < 1 or resamples < 0:
        raise ValueError(f"n must be at least 1 and resamples at least 0, got {n} and {resamples}")
    if chunk is None:
        chunk = max(1, min(_CHUNK_COLUMNS, _CHUNK_BYTES // (8 * n)))
    return _draw(n, resamples, seed, _positive(chunk, "chunk"))


def _draw(n: int, resamples: int, seed: int, chunk: int) -> Iterator[np.ndarray]:
    kept = _counts if n * resamples <= _KEPT_COUNTS else _counts.__wrapped__
    for start in range(0, resamples, chunk):
        yield kept(n, start, min(chunk, resamples - start), seed).astype(np.float64)


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


def _bootstrap(
    ranks: list[np.ndarray],
    accuracies: np.ndarray,
    metrics: list[Metric],
    resamples: int,
    seed: int,
) -> np.ndarray:
    """Return the (proxies, metrics, resamples) values of all metrics on the same resamples."""
    values = np.empty((len(ranks), len(metrics), resamples))
    if not values.size:
        return values
    # A count belongs to a place in the order of accuracy, not to a row of the input. The scores have no say in
    # it: a proxy's resamples are the same whichever others are measured beside it.
    order = np.argsort(accuracies, kind="stable")
    ordered = accuracies[order]
    outcomes = _Outcomes(ordered)
    plans = [[chosen.weighted(rank[order], ordered, outcomes) for chosen in metrics] for rank in ranks]
    done = 0
    for weights in bootstrap_weights(accuracies.size, resamples, seed):
        columns = slice(done, done + weights.shape[1])
        for i, plans_of_proxy in enumerate(plans):
            for j, plan in enumerate(plans_of_proxy):
                values[i, j, columns] = plan(weights)
        done = columns.stop
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


@dataclass(frozen=True)
class Correlation:
    """The agreement of one proxy with the accuracies.

    Attributes:
        n: rows, failed ones included.
        n_failed: rows whose score is not finite.
        estimates: estimate by canonical metric name.
        confidence: coverage that the intervals aim at, in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resamples.
    """

    n: int
    n_failed: int
    estimates: dict[str, Estimate]
    confidence: float
    resamples: int
    seed: int

    def __getitem__(self, metric: str) -> Estimate:
        """Return the estimate of a metric; KeyError names those there are."""
        if metric not in self.estimates:
            raise KeyError(f"{metric!r} was not computed; there are {', '.join(self.estimates)}")
        return self.estimates[metric]


@dataclass(frozen=True)
class Sample:
    """The agreement of one proxy with the accuracies, on the data and on its resamples.

    Attributes:
        n: rows, failed ones included.
        n_failed: rows whose score is not finite.
        values: value on the data by canonical metric name; NaN where undefined.
        resampled: (R,) values on the resamples by canonical metric name; NaN where undefined.
    """

    n: int
    n_failed: int
    values: dict[str, float]
    resampled: dict[str, np.ndarray]


def estimate(value: float, resampled: np.ndarray, confidence: float = 0.95) -> Estimate:
    """Return a value with the percentile interval of its (R,) resampled values, undefined ones left out."""
    defined = resampled[~np.isnan(resampled)]
    if not defined.size:
        return Estimate(value, math.nan, math.nan)
    tail = (1.0 - confidence) / 2.0
    low, high = np.quantile(defined, (tail, 1.0 - tail))
    return Estimate(value, float(low), float(high))


def _check_bootstrap(resamples: int, confidence: float, seed: int) -> None:
    if resamples < 0:
        raise ValueError(f"resamples must be at least 0, got {resamples}")
    if not 0.0 < confidence < 1.0:
        raise ValueError(f"confidence must be in (0, 1), got {confidence!r}")
    if seed < 0:
        raise ValueError(f"seed must be at least 0, got {seed}")


def correlate(
    scores: Any,
    accuracies: Any,
    metrics: Iterable[str] | str = ("kendall", "spearman", "ndcg_1000"),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Measure how well the scores of one proxy rank the accuracies.

    The interval is the percentile bootstrap (Efron & Tibshirani 1993, section 13.3) over the rows, linear
    interpolation between order statistics. Values do not depend on the row order; intervals do within their
    sampling error, and only where accuracies are tied.

    nDCG, top precision and regret hang on the few most accurate rows, each of which more than a third of the
    resamples lack: their intervals are wide, need not be centred on the value, and may miss their coverage.

    Args:
        scores: (n,) scores, n >= 2, higher is better; non-finite ones are failed and ranked last.
        accuracies: (n,) finite accuracies; in percent, in [0, 100], for nDCG. If both this and `scores`
            are pandas Series they are aligned by index; otherwise rows correspond by position.
        metrics: names that `metric` takes.
        resamples: bootstrap resamples; 0 for no intervals.
        confidence: coverage of the intervals, in (0, 1).
        seed: non-negative seed of the resamples.

    Returns:
        Values and intervals. Resamples in which a metric is undefined are left out of its interval.

    Raises:
        ValueError: lengths or indices differ, fewer than 2 rows, not one-dimensional, an accuracy is not
            finite (or for nDCG not in percent), a metric is unknown, or an option is out of range.
    """
    return correlate_many({"scores": scores}, accuracies, metrics, resamples, confidence, seed)["scores"]


def correlate_many(
    scores: Mapping[str, Any],
    accuracies: Any,
    metrics: Iterable[str] | str = ("kendall", "spearman", "ndcg_1000"),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Correlation]:
    """Measure several proxies on the same rows and the same resamples.

    A proxy has the values and intervals that `correlate` gives it alone.

    Args:
        scores: (n,) scores by proxy name, each as in `correlate`.
        accuracies: (n,) accuracies, as in `correlate`.
        metrics: names that `metric` takes.
        resamples: bootstrap resamples; 0 for no intervals.
        confidence: coverage of the intervals, in (0, 1).
        seed: non-negative seed of the resamples.

    Returns:
        The correlation of each proxy, in the order of `scores`.

    Raises:
        ValueError: as `correlate`; the message names the proxy at fault.
    """
    _check_bootstrap(resamples, confidence, seed)
    return {
        name: Correlation(
            n=sample.n,
            n_failed=sample.n_failed,
            estimates={key: estimate(value, sample.resampled[key], confidence) for key, value in sample.values.items()},
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
        for name, sample in sample_many(scores, accuracies, metrics, resamples, seed).items()
    }


def sample_many(
    scores: Mapping[str, Any],
    accuracies: Any,
    metrics: Iterable[str] | str = ("kendall", "spearman", "ndcg_1000"),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Sample]:
    """Measure several proxies on the same rows and the same resamples, and keep the resampled values.

    Args:
        scores, accuracies, metrics, resamples, seed: as in `correlate_many`.

    Returns:
        Values on the data and on each resample, by proxy, in the order of `scores`. Entry r of every array
        belongs to the same resample, so that any function of several proxies' values has its own distribution.

    Raises:
        ValueError: as `correlate`; the message names the proxy at fault.
    """
    _check_bootstrap(resamples, 0.95, seed)
    chosen = [metric(name) for name in ((metrics,) if isinstance(metrics, str) else metrics)]
    accuracy_array = _check_accuracies(accuracies)
    arrays = {name: _check_scores(scores[name], accuracies, name) for name in sorted(scores)}
    ranks = {name: rank_scores(array) for name, array in arrays.items()}
    resampled = dict(zip(ranks, _bootstrap(list(ranks.values()), accuracy_array, chosen, resamples, seed), strict=True))
    return {
        name: Sample(
            n=accuracy_array.size,
            n_failed=int(np.count_nonzero(~np.isfinite(arrays[name]))),
            values={one.name: one.point(ranks[name], accuracy_array) for one in chosen},
            resampled={one.name: values for one, values in zip(chosen, resampled[name], strict=True)},
        )
        for name in scores
    }


def paired_difference(
    scores_a: Any,
    scores_b: Any,
    accuracies: Any,
    metric: str = "kendall",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate by how much a metric of one proxy exceeds that of another on the same rows.

    Both proxies are evaluated on the same resamples, so the interval is that of the difference and not of
    two independent values.

    Args:
        scores_a: (n,) scores of the first proxy, as in `correlate`.
        scores_b: (n,) scores of the second proxy.
        accuracies: (n,) accuracies, as in `correlate`.
        metric: a name that the function `metric` takes.
        resamples: bootstrap resamples; 0 for no interval.
        confidence: coverage of the interval, in (0, 1).
        seed: non-negative seed of the resamples.

    Returns:
        The metric of a minus the metric of b. Resamples in which either is undefined are left out.

    Raises:
        ValueError: as `correlate`.
    """
    _check_bootstrap(resamples, confidence, seed)
    chosen = _parse_metric(metric)
    accuracy_array = _check_accuracies(accuracies)
    ranks = [
        rank_scores(_check_scores(scores, accuracies, label))
        for scores, label in ((scores_a, "scores_a"), (scores_b, "scores_b"))
    ]
    value_a, value_b = (chosen.point(rank, accuracy_array) for rank in ranks)
    resampled_a, resampled_b = _bootstrap(ranks, accuracy_array, [chosen], resamples, seed)[:, 0]
    return estimate(value_a - value_b, resampled_a - resampled_b, confidence)
