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
    difference = np.abs(values[first] - values[second])
    resampled_difference = resampled[first] - resampled[second]
    spread = resampled_difference.std(axis=1, ddof=1)
    varies = spread > 1e-12
    if varies.any():
        shift = np.abs(resampled_difference[varies] - (values[first] - values[second])[varies, None])
        critical = np.quantile((shift / spread[varies, None]).max(axis=0), 0.95)
        apart = np.where(varies, difference > critical * spread, difference > 1e-12)
    else:
        apart = difference > 1e-12
    same[first, second] = same[second, first] = ~apart
    return same


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
