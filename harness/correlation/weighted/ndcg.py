"""nDCG of many resamples."""

from __future__ import annotations

import numpy as np

from harness.correlation.weighted.heads import Ranking
from harness.correlation.weighted.ties import Outcomes, Weighted, ratio
from harness.errors import InputError


def _check_percent(accuracies: np.ndarray) -> None:
    """Raise InputError unless (n,) accuracies can be percentages.

    Fractions would pass for accuracies of at most 1%, whose gains 2^accuracy - 1 hardly differ: every ranking would
    seem nearly ideal. Equal ones may be either, as the accuracies of networks that learned nothing are: the value
    is the same.
    """
    outside = int(np.count_nonzero((accuracies < 0.0) | (accuracies > 100.0)))
    remedy = 'leave nDCG out, as with metrics=["kendall", "spearman"], which take any unit'
    if outside:
        raise InputError(
            f"nDCG needs accuracies in percent: {outside} are outside [0, 100]. Where they are another figure, such as "
            f"a loss, {remedy}"
        )
    least, greatest = accuracies.min(), accuracies.max()
    if least < greatest <= 1.0:
        raise InputError(
            f"nDCG needs accuracies in percent: all {accuracies.size} are in [{least:.3g}, {greatest:.3g}], as "
            f"fractions are. Multiply them by 100; where they are percentages, none above 1%, {remedy}"
        )


def rankings(ranks: np.ndarray, accuracies: np.ndarray) -> tuple[Ranking, Ranking]:
    """(n,) score ranks and (n,) accuracies in order, for any number of cut-offs."""
    return Ranking(ranks, accuracies), Ranking(accuracies, accuracies)


def weighted_ndcg(
    ranks: np.ndarray,
    accuracies: np.ndarray,
    outcomes: Outcomes,
    p: int,
    ordered: tuple[Ranking, Ranking] | None = None,
) -> Weighted:
    """Plan nDCG at `p` for resamples of (n,) score ranks and (n,) accuracies in percent.

    Args:
        ordered: their `rankings`, where these are known already.
    """
    _check_percent(accuracies)
    places = min(p, accuracies.size)
    gains = np.exp2(accuracies) - 1.0
    # total_discount[c] is the sum of 1 / log2(1 + rank) over the first c ranks, which start at 1.
    total_discount = np.concatenate(([0.0], np.cumsum(1.0 / np.log2(1.0 + np.arange(1, places + 1)))))
    by_score, by_accuracy = ordered or rankings(ranks, accuracies)

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
