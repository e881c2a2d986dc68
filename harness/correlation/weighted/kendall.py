"""Kendall's tau-b of many resamples: discordant pairs by merging."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.correlation.weighted.ties import Outcomes, Running, Ties, Weighted, ratio

# A dense sign matrix and a product in BLAS beat a merge level up to blocks of about this many points. Of larger
# ones OpenBLAS would share the product with a chunk of resamples among threads of its own, which wait for one another.
_BLOCK = 64


@dataclass(frozen=True)
class _MergeLevel:
    """One level of the merge tree: what to do with each pair of neighbouring blocks.

    Attributes:
        half: points in each of the two blocks.
        above: for each point of a right block, the total of the points of all left blocks, block by block, by
            descending score, up to the last one of its own left block that has a strictly higher score.
    """

    half: int
    above: Running


class _Buffers:
    """What the levels write to, for all scores: fresh memory would cost as much as the arithmetic.

    Attributes:
        points: (rows, R) counts of the points, 0 for those that pad the blocks.
        products: (rows, R) of each point with the counts of those of its block that it is discordant with.
        above: (rows / 2, R) of the points of right blocks, the totals that they are multiplied by.
        totals: what `Running` writes to for these.
    """

    def __init__(self, plan: _DiscordantPairs, resamples: int, kind: np.dtype) -> None:
        rows = plan.leaves.size
        self.points = np.zeros((rows, resamples), dtype=kind)
        self.products = np.empty_like(self.points)
        self.above = np.empty((rows // 2, resamples), dtype=kind)
        size = max((level.above.size for level in plan.levels), default=0)
        self.totals = np.empty((size, resamples), dtype=kind)


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
        # Tied points keep their order, in which they are not discordant.
        self.leaves = padded.reshape(-1, self._width).argsort(kind="stable").argsort().astype(np.uint8)
        self.levels = [self._merge_level(padded, self._width * 2**level) for level in range(depth)]

    @staticmethod
    def _merge_level(ranks: np.ndarray, half: int) -> _MergeLevel:
        blocks = ranks.reshape(-1, 2, half)
        number = np.arange(len(blocks))[:, None]
        by_score = np.argsort(-blocks[:, 0], axis=1, kind="stable")
        # A key that leads with the block number lets one search serve all blocks.
        keys = number * (ranks.max() + 1) + (ranks.max() - blocks.transpose(1, 0, 2))
        left_keys = np.take_along_axis(keys[0], by_score, axis=1)
        higher = np.searchsorted(left_keys.ravel(), keys[1].ravel(), side="left").reshape(keys[1].shape)
        left = (by_score + 2 * half * number).ravel()
        return _MergeLevel(half, Running(left, higher.ravel()))

    def __call__(self, weights: np.ndarray, outcomes: Outcomes) -> np.ndarray:
        """Return the (R,) discordant pairs of the (n, R) counts; exact below 2^53."""
        counts = outcomes.counts(weights)
        n, resamples = counts.shape
        buffers = outcomes.once(weights, _Buffers, lambda: _Buffers(self, resamples, counts.dtype))
        points, above = buffers.points, buffers.above
        np.take(counts, self._order, axis=0, out=points[:n], mode="clip")
        # Sums over as few rows as a leaf has are exact in single precision too, unless n is large.
        exact = n * outcomes.greatest(weights) * self._width < 2**24
        kind = points.dtype if exact else np.dtype(np.float64)
        leaves = points.reshape(-1, self._width, resamples)
        total = self._within_leaves(leaves, buffers.products.reshape(leaves.shape), kind)
        block_totals = np.einsum("lwr->lr", leaves).astype(np.float64)
        for level in self.levels:
            level.above(points, buffers.totals, above)
            by_leaf = (-1, level.half // self._width, self._width, resamples)
            right = leaves.reshape(-1, 2, *by_leaf[1:])[:, 1]
            products = np.einsum("blwr,blwr->blr", above.reshape(by_leaf), right, dtype=kind)
            total += products.sum(axis=(0, 1), dtype=np.float64)
            # The running totals went on from block to block: take off what came before each left block.
            pairs = block_totals.reshape(-1, 2, resamples)
            before = np.cumsum(pairs[:, 0], axis=0) - pairs[:, 0]
            total -= np.einsum("br,br->r", before, pairs[:, 1])
            block_totals = pairs.sum(axis=1)
        return total

    def _within_leaves(self, points: np.ndarray, products: np.ndarray, kind: np.dtype) -> np.ndarray:
        later = np.tri(self._width, k=-1, dtype=bool)
        total = np.zeros(points.shape[2])
        # A slab of leaves at a time: the indicator matrices of all would be `_BLOCK` times the data.
        slab = 256
        for start in range(0, len(points), slab):
            ranks = self.leaves[start : start + slab]
            weights = points[start : start + slab]
            discordant = (ranks[:, None, :] > ranks[:, :, None]) & later
            pairs = np.matmul(discordant.astype(weights.dtype), weights, out=products[start : start + slab])
            total += np.einsum("lwr,lwr->lr", pairs, weights, dtype=kind).sum(axis=0, dtype=np.float64)
        return total


def weighted_kendall(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes) -> Weighted:
    """Plan tau-b for resamples of (n,) score ranks and (n,) accuracies."""
    n = ranks.size
    by_score, by_both = Ties.of(ranks), Ties.of(accuracies, ranks)
    discordant_pairs = _DiscordantPairs(ranks, accuracies)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        pairs = n * (n - 1) / 2
        # The n copies of the rows pair up into n(n-1)/2; sum t(t-1)/2 = (sum t^2 - n)/2 of these are ties.
        counts, of_rows = outcomes.counts(weights), outcomes.powers(weights, 2)
        squares = by_score.powers(counts, 2, of_rows), outcomes.tied(weights), by_both.powers(counts, 2, of_rows)
        tied_score, tied_accuracy, tied_both = ((square - n) / 2 for square in squares)
        difference = pairs - tied_score - tied_accuracy + tied_both - 2 * discordant_pairs(weights, outcomes)
        tau = ratio(difference, np.sqrt((pairs - tied_score) * (pairs - tied_accuracy)))
        return np.clip(tau, -1.0, 1.0)

    return evaluate
