"""Regret of many resamples."""

from __future__ import annotations

import math

import numpy as np

from harness.correlation.weighted.heads import Ranking
from harness.correlation.weighted.ties import Outcomes, Weighted


def weighted_regret(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes, top: int) -> Weighted:
    """Plan the regret of the `top` best-scored for resamples of (n,) score ranks and (n,) accuracies."""
    top = min(top, accuracies.size)
    by_score, by_accuracy = Ranking(ranks, accuracies), Ranking(accuracies, accuracies)

    def none_drawn(ahead: np.ndarray, size: np.ndarray, drawn: np.ndarray) -> np.ndarray:
        # Hypergeometric: the chance that `drawn` of `size` miss the first `ahead`,
        # C(size - ahead, drawn) / C(size, drawn), as a product because factorials would lose digits.
        chance = np.ones(ahead.shape)
        for i in range(int(drawn.max(initial=0.0))):
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
        last = (before < top) & (top <= after) & (head.weights > 0)
        whole = last & (head.weights == after - before)  # all copies are this row's
        gained = np.where(whole, np.maximum(settled, values), 0.0)
        part = last & ~whole
        if part.any():
            size = (after - before)[part]
            drawn = (top - before)[part]
            ahead = (head.cumulative - before)[part]
            chance = none_drawn(ahead, size, drawn) - none_drawn(ahead + head.weights[part], size, drawn)
            gained[part] = chance * np.maximum(settled, values)[part]
        expected = gained.sum(axis=0)
        return np.maximum(best - expected, 0.0)

    return evaluate
