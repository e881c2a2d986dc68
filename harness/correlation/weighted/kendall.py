"""Kendall's tau-b of many resamples: discordant pairs by merging."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from harness.correlation.weighted.ties import Outcomes, Ties, Weighted, ratio, running_totals

# A dense sign matrix and a product in BLAS beat a merge level up to blocks of about this many points.
_BLOCK = 64


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
            running_totals(points, level.left, out=totals)
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


def weighted_kendall(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes) -> Weighted:
    """Plan tau-b for resamples of (n,) score ranks and (n,) accuracies."""
    n = ranks.size
    by_score, by_both = Ties.of(ranks), Ties.of(accuracies, ranks)
    discordant_pairs = _DiscordantPairs(ranks, accuracies)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        pairs = n * (n - 1) / 2
        # The n copies of the rows pair up into n(n-1)/2; sum t(t-1)/2 = (sum t^2 - n)/2 of these are ties.
        squares = by_score.squares(weights), outcomes.tied(weights), by_both.squares(weights)
        tied_score, tied_accuracy, tied_both = ((square - n) / 2 for square in squares)
        difference = pairs - tied_score - tied_accuracy + tied_both - 2 * discordant_pairs(weights)
        tau = ratio(difference, np.sqrt((pairs - tied_score) * (pairs - tied_accuracy)))
        return np.clip(tau, -1.0, 1.0)

    return evaluate
