"""Spearman's rho of many resamples: average ranks within groups of ties."""

from __future__ import annotations

import numpy as np

from harness.correlation.weighted.ties import Outcomes, Ties, Weighted, ratio


def weighted_spearman(ranks: np.ndarray, accuracies: np.ndarray, outcomes: Outcomes) -> Weighted:
    """Plan rho for resamples of (n,) score ranks and (n,) accuracies."""
    by_score = Ties.of(ranks)

    def evaluate(weights: np.ndarray) -> np.ndarray:
        accuracy_variance, weighted_ranks = outcomes.centred(weights)
        sizes, centred = by_score.centred_ranks(weights)
        covariance = np.einsum("gr,gr->r", centred, by_score.sums(weighted_ranks))
        sizes *= centred
        rho = ratio(covariance, np.sqrt(np.einsum("gr,gr->r", sizes, centred) * accuracy_variance))
        return np.clip(rho, -1.0, 1.0)

    return evaluate
