"""Which of many ranked at once differ significantly, and the letters that say so."""

from __future__ import annotations

import numpy as np


def indistinguishable(values: np.ndarray, resampled: np.ndarray) -> np.ndarray:
    """Which of k proxies no significant difference sets apart: boolean (k, k).

    Args:
        values: (k,) a metric on the data.
        resampled: (k, R) the metric on paired resamples; those in which one is NaN are left out.
    """
    resampled = resampled[:, ~np.isnan(resampled).any(axis=0)]
    first, second = np.triu_indices(len(values), k=1)
    same = np.ones((len(values), len(values)), dtype=bool)
    if not first.size or resampled.shape[1] < 2:
        return same
    margin = margins(values[first] - values[second], resampled[first] - resampled[second])
    apart = np.abs(values[first] - values[second]) > margin
    same[first, second] = same[second, first] = ~apart
    return same


def margins(differences: np.ndarray, resampled: np.ndarray, confidence: float = 0.95) -> np.ndarray:
    """By how much each of m differences may be off, so that all are within theirs with the given confidence: (m,).

    The single-step max-|t| procedure (Romano & Wolf, 2005): the quantile of the largest deviation over all m, each in
    units of its own bootstrap standard deviation, times that deviation.

    Args:
        differences: (m,) on the data.
        resampled: (m, R) on paired resamples, R at least 2.
    """
    spread = resampled.std(axis=1, ddof=1)
    varies = spread > 1e-12
    margin = np.full(len(differences), 1e-12)
    if varies.any():
        shift = np.abs(resampled[varies] - differences[varies, None])
        critical = np.quantile((shift / spread[varies, None]).max(axis=0), confidence)
        margin[varies] = critical * spread[varies]
    return margin


def group_letters(best_first: np.ndarray, same: np.ndarray) -> list[str]:
    """For each proxy the letters of its groups: longest runs of the ranking (k,) in which all pairs are `same`."""
    k, reached = len(best_first), 0
    letters = [""] * k
    number = 0
    for start in range(k):
        end = start + 1
        while end < k and same[np.ix_(best_first[start : end + 1], best_first[start : end + 1])].all():
            end += 1
        if end > reached:
            name = chr(ord("a") + number % 26) * (number // 26 + 1)
            for place in best_first[start:end]:
                letters[place] = f"{letters[place]} {name}".strip()
            number, reached = number + 1, end
    return letters
