"""nDCG of many resamples."""

from __future__ import annotations

import numpy as np

from harness.correlation.weighted.heads import Ranking
from harness.correlation.weighted.ties import Outcomes, Weighted, ratio
from harness.errors import InputError


def weighted_ndcg(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes, p: int) -> Weighted:
    """Plan nDCG at `p` for resamples of (n,) score ranks and (n,) accuracies in percent."""
    outside = int(np.count_nonzero((accuracies < 0.0) | (accuracies > 100.0)))
    if outside:
        raise InputError(f"nDCG needs accuracies in percent: {outside} are outside [0, 100]")
    places = min(p, accuracies.size)
    gains = np.exp2(accuracies) - 1.0
    # total_discount[c] is the sum of 1 / log2(1 + rank) over the first c ranks, which start at 1.
    total_discount = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, places + 1)))))
    by_score, by_accuracy = Ranking(ranks, accuracies), Ranking(accuracies, accuracies)

    def dcg(ranking: Ranking, weights: np.ndarray) -> np.ndarray:
        head = ranking.head(weights, places)
        filled = total_discount.take(np.minimum(head.before, places).astype(np.intp))
        means = head.group_means(gains[head.rows, None])
        return (means * np.diff(filled, axis=0)).sum(axis=0)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        # Rounding can put a perfect ranking an ulp above its ideal.
        ideal = outcomes.once(weights, ("ideal", p), lambda: dcg(by_accuracy, weights))
        return np.minimum(ratio(dcg(by_score, weights), ideal), 1.0)

    return evaluate
