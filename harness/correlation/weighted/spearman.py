"""Spearman's rho of many resamples: average ranks within groups of ties."""

from __future__ import annotations

import numpy as np

from harness.correlation.weighted.ties import Outcomes, Ties, Weighted, ratio


def weighted_spearman(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes) -> Weighted:
    """Plan rho for resamples of (n,) score ranks and (n,) accuracies."""
    by_score = Ties.of(ranks)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        # Deviations sum to 0, so that the mean of the other ranks need not be taken off.
        ranks_of_rows = by_score.doubled_ranks(outcomes.counts(weights)).take(by_score.codes, axis=0)
        covariance = np.einsum("gr,gr->r", ranks_of_rows, outcomes.deviations(weights), dtype=np.float64) / 4
        variances = outcomes.variance_of(by_score, weights) * outcomes.variance(weights)
        return np.clip(ratio(covariance, np.sqrt(variances)), -1.0, 1.0)

    return evaluate
