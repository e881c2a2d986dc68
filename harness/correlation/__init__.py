"""Rank correlation between proxy scores and accuracies, with paired bootstrap intervals.

A training-free proxy is judged by how well the order of its scores agrees with the order of the trained
accuracies. Point values of Kendall's tau-b and Spearman's rho are SciPy's; nDCG, top-fraction precision and
regret are expectations over every order of tied scores, so no value depends on the order of the rows.

A bootstrap resample of n rows is a vector of n counts that sum to n. Every metric here has a weighted form
that takes an (n, R) matrix of such counts and returns the R values that the metric has on the R replicated
data sets, so that no replicated data set is ever built. One matrix serves all proxies: differences between
proxies are paired.

Conventions shared by the whole package:

* a higher score predicts a higher accuracy;
* a NaN, infinite, missing or masked score is a *failed* one: its row stays in the population, ranked below every finite
  score and tied with the other failed rows;
* accuracies are finite, none is missing; nDCG needs them in percent, in [0, 100] and not all
  in [0, 1], as fractions are;
* a correlation with a constant vector is undefined, and reported as NaN;
* what cannot be measured is refused with an InputError, a ValueError that names cause and remedy.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.correlation.bootstrap import (
    Estimate,
    bootstrap_weights,
    check_confidence,
    check_resamples,
    check_seed,
    estimate,
    resampled_values,
)
from harness.correlation.inputs import check_accuracies, check_scores, rank_scores
from harness.correlation.metrics import METRICS, Metric, find_metrics, metric
from harness.correlation.points import kendall_tau, ndcg, regret, spearman_rho, top_precision
from harness.correlation.weighted.ties import Weighted
from harness.errors import InputError

__all__ = [
    "METRICS",
    "Correlation",
    "Estimate",
    "Metric",
    "Sample",
    "Weighted",
    "bootstrap_weights",
    "correlate",
    "correlate_many",
    "estimate",
    "kendall_tau",
    "metric",
    "ndcg",
    "paired_difference",
    "rank_scores",
    "regret",
    "sample_many",
    "spearman_rho",
    "top_precision",
]


@dataclass(frozen=True, repr=False)
class Correlation:
    """The agreement of one proxy with the accuracies.

    Attributes:
        n: rows, failed ones included.
        n_failed: rows whose score is masked or not finite.
        estimates: estimate by canonical metric name.
        confidence: coverage that the intervals aim at, in (0, 1).
        resamples: number of bootstrap resamples.
        seed: seed of the resamples.
    """

    n: int
    n_failed: int
    estimates: dict[str, Estimate]
    confidence: float
    resamples: int
    seed: int

    def __getitem__(self, metric: str) -> Estimate:
        """Return the estimate of a metric, by any of its names; KeyError names those there are."""
        try:
            return self.estimates[find_metrics([metric])[0].name]
        except (InputError, KeyError):
            raise KeyError(f"{metric!r} was not computed; there are {', '.join(self.estimates)}") from None

    def _rows(self) -> list[tuple[str, str, str]]:
        return [(name, f"{e.value:.4f}", f"[{e.low:.4f}, {e.high:.4f}]") for name, e in self.estimates.items()]

    def _protocol(self) -> str:
        failed = f", {self.n_failed} without a score and ranked last" if self.n_failed else ""
        return f"n = {self.n:,}{failed}; {self.confidence:.0%} intervals of {self.resamples:,} resamples"

    def __repr__(self) -> str:
        width = max(map(len, self.estimates), default=0)
        rows = "".join(f"\n  {name:<{width}}  {value} {interval}" for name, value, interval in self._rows())
        return f"Correlation, {self._protocol()}{rows}"

    def _repr_html_(self) -> str:
        rows = "".join(
            f"<tr><th>{name}</th><td>{value}</td><td>{interval}</td></tr>" for name, value, interval in self._rows()
        )
        return f"<table><caption>{self._protocol()}</caption>{rows}</table>"


@dataclass(frozen=True)
class Sample:
    """The agreement of one proxy with the accuracies, on the data and on its resamples.

    Attributes:
        n: rows, failed ones included.
        n_failed: rows whose score is masked or not finite.
        values: value on the data by canonical metric name; NaN where undefined.
        resampled: (R,) values on the resamples by canonical metric name; NaN where undefined.
    """

    n: int
    n_failed: int
    values: dict[str, float]
    resampled: dict[str, np.ndarray]


def correlate(
    scores: Any,
    accuracies: Any,
    metrics: Iterable[str] | str = ("kendall", "spearman", "ndcg_1000"),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Correlation:
    """Measure how well the scores of one proxy rank the accuracies.

    The interval is the percentile bootstrap (Efron & Tibshirani 1993, section 13.3) over the rows, linear
    interpolation between order statistics. Values do not depend on the row order; intervals do within their
    sampling error. The r-th resample of n rows is of the same rows whatever their accuracies are: those of the same
    architectures on two datasets belong together.

    nDCG, top precision and regret hang on the few most accurate rows, each of which more than a third of the
    resamples lack: their intervals are wide, need not be centred on the value, and may miss their coverage.

    Args:
        scores: (n,) scores, n >= 2, higher is better; non-finite and masked ones are failed and
            ranked last.
        accuracies: (n,) finite accuracies, none of them masked; in percent, in [0, 100], for nDCG. If both this
            and `scores` are pandas Series they are aligned by index; otherwise rows correspond by position.
        metrics: one name that `metric` takes, or several.
        resamples: bootstrap resamples, at most 10^6; 0 for no intervals.
        confidence: coverage of the intervals, in (0, 1).
        seed: seed of the resamples, a whole number in [0, 2^32).

    Returns:
        Values and intervals. Resamples in which a metric is undefined are left out of its interval.

    Raises:
        InputError: lengths or indices differ, fewer than 2 rows, not one-dimensional, not real numbers of 64 bits
            (integers beyond, complex numbers, text, other objects), an accuracy is missing, masked or not finite
            (or for nDCG not in percent), a metric is unknown, or an option is out of range. An InputError is a
            ValueError; its message names cause and remedy.
    """
    return correlate_many({"scores": scores}, accuracies, metrics, resamples, confidence, seed)["scores"]


def correlate_many(
    scores: Mapping[str, Any],
    accuracies: Any,
    metrics: Iterable[str] | str = ("kendall", "spearman", "ndcg_1000"),
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> dict[str, Correlation]:
    """Measure several proxies on the same rows and the same resamples.

    A proxy has the values and intervals that `correlate` gives it alone.

    Args:
        scores: (n,) scores by proxy name, each as in `correlate`.
        accuracies: (n,) accuracies, as in `correlate`.
        metrics: one name that `metric` takes, or several.
        resamples: bootstrap resamples, at most 10^6; 0 for no intervals.
        confidence: coverage of the intervals, in (0, 1).
        seed: seed of the resamples, a whole number in [0, 2^32).

    Returns:
        The correlation of each proxy, in the order of `scores`.

    Raises:
        InputError: as `correlate`; the message names the proxy at fault.
    """
    resamples, confidence, seed = check_resamples(resamples), check_confidence(confidence), check_seed(seed)
    return {
        name: Correlation(
            n=sample.n,
            n_failed=sample.n_failed,
            estimates={key: estimate(value, sample.resampled[key], confidence) for key, value in sample.values.items()},
            confidence=confidence,
            resamples=resamples,
            seed=seed,
        )
        for name, sample in sample_many(scores, accuracies, metrics, resamples, seed).items()
    }


def sample_many(
    scores: Mapping[str, Any],
    accuracies: Any,
    metrics: Iterable[str] | str = ("kendall", "spearman", "ndcg_1000"),
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Sample]:
    """Measure several proxies on the same rows and the same resamples, and keep the resampled values.

    Args:
        scores, accuracies, metrics, resamples, seed: as in `correlate_many`.

    Returns:
        Values on the data and on each resample, by proxy, in the order of `scores`. Entry r of every array
        belongs to the same resample, so that any function of several proxies' values has its own distribution, of
        other accuracies of the same rows too.

    Raises:
        InputError: as `correlate`; the message names the proxy at fault.
    """
    resamples, seed = check_resamples(resamples), check_seed(seed)
    chosen = find_metrics(metrics)
    if not hasattr(scores, "keys"):
        raise InputError(f"scores must map names to scores, got {type(scores).__name__}: for one proxy, call correlate")
    accuracy_array = check_accuracies(accuracies)
    arrays = {name: check_scores(scores[name], accuracies, name) for name in scores}
    ranks = {name: rank_scores(array) for name, array in arrays.items()}
    drawn = resampled_values(list(ranks.values()), accuracy_array, chosen, resamples, seed)
    resampled = dict(zip(ranks, drawn, strict=True))
    return {
        name: Sample(
            n=accuracy_array.size,
            n_failed=int(np.count_nonzero(~np.isfinite(arrays[name]))),
            values={one.name: one.point(ranks[name], accuracy_array) for one in chosen},
            resampled={one.name: values for one, values in zip(chosen, resampled[name], strict=True)},
        )
        for name in scores
    }


def paired_difference(
    scores_a: Any,
    scores_b: Any,
    accuracies: Any,
    metric: str = "kendall",
    resamples: int = 1000,
    confidence: float = 0.95,
    seed: int = 0,
) -> Estimate:
    """Estimate by how much a metric of one proxy exceeds that of another on the same rows.

    Both proxies are evaluated on the same resamples, so the interval is that of the difference and not of
    two independent values.

    Args:
        scores_a: (n,) scores of the first proxy, as in `correlate`.
        scores_b: (n,) scores of the second proxy.
        accuracies: (n,) accuracies, as in `correlate`.
        metric: a name that the function `metric` takes.
        resamples: bootstrap resamples, at most 10^6; 0 for no interval.
        confidence: coverage of the interval, in (0, 1).
        seed: seed of the resamples, a whole number in [0, 2^32).

    Returns:
        The metric of a minus the metric of b. Resamples in which either is undefined are left out.

    Raises:
        InputError: as `correlate`.
    """
    resamples, confidence, seed = check_resamples(resamples), check_confidence(confidence), check_seed(seed)
    (chosen,) = find_metrics([metric])
    accuracy_array = check_accuracies(accuracies)
    ranks = [
        rank_scores(check_scores(scores, accuracies, label))
        for scores, label in ((scores_a, "scores_a"), (scores_b, "scores_b"))
    ]
    value_a, value_b = (chosen.point(rank, accuracy_array) for rank in ranks)
    resampled_a, resampled_b = resampled_values(ranks, accuracy_array, [chosen], resamples, seed)[:, 0]
    return estimate(value_a - value_b, resampled_a - resampled_b, confidence)
