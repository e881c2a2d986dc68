"""Checks of what the metrics are given, and the ranks of scores."""

from __future__ import annotations

import math
import operator
from typing import Any

import numpy as np

from harness.errors import InputError


def _numbers(values: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `values` as an (n,) numeric array, and which (n,) of them a mask hides; missing objects become NaN."""
    array = np.asarray(values)
    if array.dtype.kind == "O":
        if hasattr(values, "to_numpy"):
            array = values.to_numpy(dtype=np.float64, na_value=math.nan)
        else:
            array = array.astype(np.float64)
    if array.ndim != 1:
        raise InputError(f"{label} must be one-dimensional, got shape {array.shape}")
    if array.size and array.dtype.kind not in "biuf":
        raise InputError(f"{label} must be real numbers, got dtype {array.dtype}")
    # np.asarray hands out what lies below the mask.
    masked = isinstance(values, np.ma.MaskedArray)
    return array, np.ma.getmaskarray(values) if masked else np.zeros(array.size, dtype=bool)


def _score_array(scores: Any, label: str) -> np.ndarray:
    """Return scores as an (n,) numeric array in which all failed ones are NaN or infinite."""
    array, missing = _numbers(scores, label)
    if not missing.any():
        return array
    found = np.full(array.size, math.nan, dtype=np.result_type(array, np.float64))
    kept = array[~missing]
    # Floats run large integers together; their ranks have the same order and stay apart.
    found[~missing] = np.unique(kept, return_inverse=True)[1] if array.dtype.kind in "iu" else kept
    return found


def _aligned(scores: Any, accuracies: Any, label: str) -> Any:
    """Return `scores` in the index order of `accuracies` if both carry an index, else as given."""
    if not all(hasattr(values, "index") and hasattr(values, "reindex") for values in (scores, accuracies)):
        return scores
    for values, name in ((scores, label), (accuracies, "accuracies")):
        if not values.index.is_unique:
            raise InputError(f"{name}: {int(values.index.duplicated().sum())} duplicate index entries")
    unscored = len(accuracies.index.difference(scores.index))
    unknown = len(scores.index.difference(accuracies.index))
    if unscored or unknown:
        raise InputError(
            f"{label} and accuracies have different indices: "
            f"{unscored} missing from {label}, {unknown} missing from accuracies"
        )
    return scores.reindex(accuracies.index)


def check_accuracies(accuracies: Any) -> np.ndarray:
    """Return accuracies as (n,) float64, n >= 2, all there and finite; raise InputError otherwise."""
    array, missing = _numbers(accuracies, "accuracies")
    array = array.astype(np.float64)
    if array.size < 2:
        raise InputError(f"at least 2 rows are needed, got {array.size}")
    for bad, what in ((missing, "masked"), (~np.isfinite(array), "not finite")):
        if bad.any():
            share = f"{np.count_nonzero(bad)} of {array.size}"
            raise InputError(f"{share} accuracies are {what}: leave out these rows, of the scores too")
    return array


def check_scores(scores: Any, accuracies: Any, label: str = "scores") -> np.ndarray:
    """Return scores as an (n,) array in the row order of `accuracies`; raise InputError on a mismatch."""
    array = _score_array(_aligned(scores, accuracies, label), label)
    if array.size != len(accuracies):
        raise InputError(f"{label} has {array.size} rows, accuracies has {len(accuracies)}")
    return array


def checked_pair(scores: Any, accuracies: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) dense score ranks and (n,) float64 accuracies after all input checks."""
    accuracy_array = check_accuracies(accuracies)
    return rank_scores(check_scores(scores, accuracies)), accuracy_array


def canonical_pair(scores: Any, accuracies: Any) -> tuple[np.ndarray, np.ndarray]:
    """Like `checked_pair`, rows sorted by (accuracy, score) so that rounding does not depend on the row order."""
    ranks, accuracy_array = checked_pair(scores, accuracies)
    order = np.lexsort((ranks, accuracy_array))
    return ranks[order], accuracy_array[order]


def positive(value: Any, label: str) -> int:
    """Return `value` as an int of at least 1."""
    try:
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{label} must be a whole number, got {value!r}") from None
    if number < 1:
        raise InputError(f"{label} must be at least 1, got {number}")
    return number


def check_fraction(value: float) -> float:
    """Return `value` if it lies in (0, 1]."""
    if not 0.0 < value <= 1.0:
        raise InputError(f"fraction must be in (0, 1], got {value!r}")
    return float(value)


def rank_scores(scores: Any) -> np.ndarray:
    """Rank scores densely, failed ones below all others.

    Args:
        scores: (n,) real numbers, higher is better; NaN, infinities and masked entries are failed rows.

    Returns:
        (n,) int64 dense ranks: 0 is the worst, equal scores share a rank, no rank is skipped. If any row
        failed, the failed rows are exactly those of rank 0.

    Raises:
        InputError: `scores` is not one-dimensional or not made of real numbers.
    """
    values = _score_array(scores, "scores")
    finite = np.isfinite(values)
    ranks = np.zeros(values.size, dtype=np.int64)
    _, inverse = np.unique(values[finite], return_inverse=True)
    ranks[finite] = inverse + (not finite.all())
    return ranks
