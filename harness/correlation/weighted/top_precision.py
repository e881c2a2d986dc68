"""Top precision of many resamples."""

from __future__ import annotations

import numpy as np

from harness.correlation.weighted.heads import Ranking
from harness.correlation.weighted.ties import Outcomes, Ties, Weighted


def weighted_top_precision(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes, fraction: float) -> Weighted:
    """Plan the top precision at `fraction` for resamples of (n,) score ranks and (n,) accuracies."""
    places = max(1, round(fraction * accuracies.size))
    by_score = Ranking(ranks, accuracies)
    by_accuracy = Ties.of(-accuracies)
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
