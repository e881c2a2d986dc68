"""Checks of what the metrics are given, and the ranks of scores."""

from __future__ import annotations

import math
import numbers
import operator
import reprlib
from decimal import Decimal
from typing import Any

import numpy as np

from harness.errors import InputError

_KINDS = {"U": "text", "T": "text", "S": "bytes", "c": "complex numbers", "M": "dates", "m": "durations"}


def _numbers(values: Any, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return `values` as an (n,) array of real numbers, and which (n,) are missing: masked, None or pandas' NA."""
    try:
        array = np.asarray(values)
    except (TypeError, ValueError, RuntimeError) as error:  # lists of lists; tensors on a GPU or with gradients
        raise InputError(f"{label} cannot be read ({error}): give a list or an array of n numbers") from error
    if array.ndim != 1:
        raise InputError(f"{label} must be one-dimensional, got shape {array.shape}: give a list or array of n numbers")
    # np.asarray hands out what lies below the mask.
    masked = isinstance(values, np.ma.MaskedArray)
    missing = np.ma.getmaskarray(values) if masked else np.zeros(array.size, dtype=bool)
    if _floats_of_integers(values, array):
        array = np.array(values, dtype=object)
    if array.dtype.kind == "O":
        return _from_objects(array, missing, label)
    if array.size and array.dtype.kind not in "biuf":
        what = _KINDS.get(array.dtype.kind, "another type")
        raise InputError(f"{label} must be real numbers, got {what} ({array.dtype}): convert them, as with float()")
    return array, missing


def _floats_of_integers(values: Any, array: np.ndarray) -> bool:
    """Whether NumPy made floats, which run large integers together, of integers beside NaN, NA or ones from 2^63 on."""
    if array.dtype.kind != "f":
        return False
    if not isinstance(values, list | tuple):
        return getattr(getattr(values, "dtype", None), "kind", "") in ("i", "u")
    large = np.isfinite(array) & (np.abs(array) >= 2.0**53)
    return bool(large.any()) and any(isinstance(value, int) for value in values)


def _from_objects(array: np.ndarray, missing: np.ndarray, label: str) -> tuple[np.ndarray, np.ndarray]:
    """Return (n,) Python objects as integers if all are, otherwise as floats, and which (n,) are missing in the end."""
    import pandas as pd  # takes a second, and few need it

    missing = missing | pd.isna(array)
    kept = array[~missing]
    for place, value in zip(np.flatnonzero(~missing), kept, strict=True):
        if not isinstance(value, numbers.Real | Decimal | np.bool_):
            raise InputError(
                f"{label} must be real numbers, got {type(value).__name__} at position {place}: convert them, as with "
                "float(), and give None or NaN for missing ones"
            )
        if isinstance(value, numbers.Integral) and not -(2**63) <= value < 2**64:
            raise InputError(
                f"{label} must be real numbers of 64 bits, got a longer integer at position {place}: divide them, or "
                "take their logarithms, which have the same order"
            )
    kind: type = np.float64
    if kept.size and all(isinstance(value, numbers.Integral) for value in kept):
        kind = np.int64 if kept.max() < 2**63 else np.uint64
    found = np.zeros(array.size, dtype=kind)
    try:
        found[~missing] = kept.astype(kind)
    except (ValueError, OverflowError) as error:
        raise InputError(f"{label} must be real numbers of 64 bits ({error}): convert them, as with float()") from error
    return found, missing


def _score_array(scores: Any, label: str) -> np.ndarray:
    """Return scores as an (n,) numeric array in which the failed ones, and no others, are NaN or infinite."""
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
    """Return accuracies as (n,) float64, n >= 2, none missing, all finite; raise InputError otherwise."""
    array, missing = _numbers(accuracies, "accuracies")
    array = array.astype(np.float64)
    if array.size < 2:
        raise InputError(f"at least 2 rows are needed, got {array.size}: give more architectures")
    bad = int(np.count_nonzero(missing | ~np.isfinite(array)))
    if bad:
        what = "masked, missing or not finite" if missing.any() else "not finite"
        raise InputError(f"{bad} of {array.size} accuracies are {what}: leave out these rows, of the scores too")
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


def whole(value: Any, label: str, least: int = 0, most: int | None = None) -> int:
    """Return `value`, of any type of integer but bool, as an int in [least, most]."""
    try:
        if isinstance(value, bool):
            raise TypeError
        number = operator.index(value)
    except TypeError:
        raise InputError(f"{label} must be a whole number, got {reprlib.repr(value)}") from None
    if number < least or (most is not None and number > most):
        bounds = f"at least {least:,}" if most is None else f"in [{least:,}, {most:,}]"
        raise InputError(f"{label} must be {bounds}, got {number if abs(number) < 2**64 else 'one beyond 64 bits'}")
    return number


def proportion(value: Any, label: str, one: bool = False) -> float:
    """Return `value` as a float in (0, 1), or in (0, 1] where `one` is allowed."""
    if not isinstance(value, numbers.Real) or not (0.0 < value < 1.0 or (one and value == 1.0)):
        raise InputError(f"{label} must be in (0, 1{']' if one else ')'}, got {reprlib.repr(value)}")
    return float(value)


def rank_scores(scores: Any) -> np.ndarray:
    """Rank scores densely, failed ones below all others.

    Args:
        scores: (n,) real numbers, higher is better; NaN, infinities, None and masked entries are failed rows.

    Returns:
        (n,) int64 dense ranks: 0 is the worst, equal scores share a rank, no rank is skipped. If any row
        failed, the failed rows are exactly those of rank 0.

    Raises:
        InputError: `scores` is not one-dimensional, or not made of real numbers of 64 bits (integers beyond,
            complex numbers, text, other objects).
    """
    values = _score_array(scores, "scores")
    finite = np.isfinite(values)
    ranks = np.zeros(values.size, dtype=np.int64)
    _, inverse = np.unique(values[finite], return_inverse=True)
    ranks[finite] = inverse + (not finite.all())
    return ranks
