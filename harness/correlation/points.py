"""Values of the metrics on the data itself: SciPy's tau-b and rho, and the weighted forms at weights of one."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from harness.correlation.inputs import canonical_pair, checked_pair, proportion, whole
from harness.correlation.weighted.ndcg import rankings, weighted_ndcg
from harness.correlation.weighted.regret import weighted_regret
from harness.correlation.weighted.ties import Outcomes, Weighted
from harness.correlation.weighted.top_precision import weighted_top_precision


def kendall_tau(scores: Any, accuracies: Any) -> float:
    """Kendall's tau-b.

    tau_b = (C - D) / sqrt((n0 - n1)(n0 - n2)) with C and D the concordant and discordant pairs,
    n0 = n(n-1)/2, and n1, n2 the pairs tied in score and in accuracy (Kendall 1945, as in
    `scipy.stats.kendalltau`).

    Args:
        scores: (n,) scores, n >= 2; non-finite and masked ones are ranked last.
        accuracies: (n,) finite accuracies, any unit.

    Returns:
        tau-b in [-1, 1]; NaN if the scores or the accuracies are constant.

    Raises:
        InputError: lengths or indices differ, fewer than 2 rows, not one-dimensional, not real numbers of 64 bits,
            or an accuracy is missing, masked or not finite.
    """
    ranks, values = canonical_pair(scores, accuracies)
    if _constant(ranks) or _constant(values):
        return math.nan
    return float(stats.kendalltau(ranks, values, variant="b").statistic)


def spearman_rho(scores: Any, accuracies: Any) -> float:
    """Spearman's rho: Pearson's correlation of the average ranks (as in `scipy.stats.spearmanr`).

    Args:
        scores: (n,) scores, n >= 2; non-finite and masked ones are ranked last.
        accuracies: (n,) finite accuracies, any unit.

    Returns:
        rho in [-1, 1]; NaN if the scores or the accuracies are constant.

    Raises:
        InputError: as `kendall_tau`.
    """
    ranks, values = canonical_pair(scores, accuracies)
    if _constant(ranks) or _constant(values):
        return math.nan
    return float(stats.spearmanr(ranks, values).statistic)


def ndcg(scores: Any, accuracies: Any, p: int = 1000) -> float:
    """Normalised discounted cumulative gain at P, in expectation over the orders of tied scores.

    nDCG_P = DCG_P / ideal DCG_P with DCG_P = sum over rank i = 1..P of (2^acc_i - 1) / log2(1 + i), where
    acc_i is the accuracy in percent of the architecture that the score ranks i-th, and the ideal DCG_P
    ranks the same population by accuracy (VKDNW, arXiv 2502.04975). Each member of a group of tied scores
    has the mean gain of the group at each place, also in the group that straddles P.

    Args:
        scores: (n,) scores, n >= 2; non-finite and masked ones are ranked last.
        accuracies: (n,) accuracies in percent, in [0, 100]. Different ones of at most 1 are taken for fractions.
        p: places that count, at least 1; cut to n.

    Returns:
        nDCG_P in [0, 1], also for constant scores; NaN if every accuracy is 0.

    Raises:
        InputError: as `kendall_tau`; `p` is not a whole number of at least 1; an accuracy is outside
            [0, 100]; or the accuracies are fractions.
    """
    return _at_unit_weights(partial(weighted_ndcg, p=whole(p, "p", 1)), scores, accuracies)


def ndcg_at(scores: Any, accuracies: Any, cutoffs: Iterable[int]) -> list[float]:
    """`ndcg` at each of several P, the same numbers, with the rows sorted once."""
    ranks, values = checked_pair(scores, accuracies)
    outcomes, ordered, once = Outcomes(values), rankings(ranks, values), np.ones((values.size, 1))
    return [float(weighted_ndcg(ranks, values, outcomes, whole(p, "p", 1), ordered)(once)[0]) for p in cutoffs]


def top_precision(scores: Any, accuracies: Any, fraction: float = 0.01) -> float:
    """Share of the best-scored rows that are among the most accurate ones, in expectation over ties.

    With k = max(1, round(fraction * n)): the expected number of the k best-scored rows that are among the k
    most accurate, divided by k. Scores tied at place k are taken in random order; rows tied in accuracy at
    place k share the places that are left among them evenly, so that with such ties even a perfect score
    stays below 1.

    Args:
        scores: (n,) scores, n >= 2; non-finite and masked ones are ranked last.
        accuracies: (n,) finite accuracies, any unit.
        fraction: share of the population, in (0, 1].

    Returns:
        Precision in [0, 1]; its expectation for random scores is k / n.

    Raises:
        InputError: as `kendall_tau`, or `fraction` is outside (0, 1].
    """
    share = proportion(fraction, "fraction", one=True)
    return _at_unit_weights(partial(weighted_top_precision, fraction=share), scores, accuracies)


def regret(scores: Any, accuracies: Any, top: int = 10) -> float:
    """Accuracy lost by training only the best-scored rows and keeping the best of them.

    The best accuracy of the population minus the best among the `top` best-scored rows. If a group of tied
    scores straddles the last place, the value is the exact expectation over the random order of that group.

    Args:
        scores: (n,) scores, n >= 2; non-finite and masked ones are ranked last.
        accuracies: (n,) finite accuracies.
        top: number of rows trained, at least 1; cut to n. The cost grows with it.

    Returns:
        Regret >= 0 in the unit of the accuracies (percentage points for accuracies in percent).

    Raises:
        InputError: as `kendall_tau`, or `top` is not a whole number of at least 1.
    """
    return _at_unit_weights(partial(weighted_regret, top=whole(top, "top", 1)), scores, accuracies)


def _constant(values: np.ndarray) -> bool:
    return bool((values == values[0]).all())


def _at_unit_weights(weighted: Callable[..., Weighted], scores: Any, accuracies: Any) -> float:
    """Evaluate a weighted metric on the data itself: one resample that holds every row once."""
    ranks, values = checked_pair(scores, accuracies)
    return float(weighted(ranks, values, Outcomes(values))(np.ones((values.size, 1)))[0])
