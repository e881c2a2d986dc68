"""Metrics by name, with their point values and weighted forms."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Literal

from harness.correlation.inputs import checked_pair
from harness.correlation.points import kendall_tau, ndcg, regret, spearman_rho, top_precision
from harness.correlation.weighted.kendall import weighted_kendall
from harness.correlation.weighted.ndcg import weighted_ndcg
from harness.correlation.weighted.regret import weighted_regret
from harness.correlation.weighted.spearman import weighted_spearman
from harness.correlation.weighted.ties import Outcomes, Weighted
from harness.correlation.weighted.top_precision import weighted_top_precision
from harness.errors import InputError, shown


@dataclass(frozen=True)
class Metric:
    """A measure of agreement between scores and accuracies.

    Attributes:
        name: canonical name, parameters included, as `metric` takes it.
        summary: one line for tables and help texts.
        point: (scores, accuracies), both (n,), to the value on the data.
        weighted: (scores, accuracies), both (n,), to a function that maps (n, R) counts, whose columns sum
            to n, to the (R,) values on the replicated data. The first call sorts; the second is repeatable.
        value_range: least and greatest value.
        direction: whether a "higher" or a "lower" value is better.
    """

    name: str
    summary: str
    point: Callable[[Any, Any], float]
    weighted: Callable[..., Weighted]
    value_range: tuple[float, float]
    direction: Literal["higher", "lower"]


def _checked(
    weighted: Callable[..., Weighted],
    scores: Any,
    accuracies: Any,
    outcomes: Outcomes | None = None,
    **parameters: Any,
) -> Weighted:
    """Plan a weighted metric after the input checks of its point value; plans of equal accuracies share `outcomes`."""
    ranks, values = checked_pair(scores, accuracies)
    return weighted(ranks, values, outcomes or Outcomes(values), **parameters)


_DEFAULT_NAMES = ("kendall", "spearman", "ndcg_1000", "top_1%", "regret_10")
_SHORT_NAMES = {"tau": "kendall", "rho": "spearman", "ndcg": "ndcg_1000"}
_NAME_LIST = (
    "kendall, spearman, ndcg_P (as ndcg_1000), top_F% (as top_1%), regret_K (as regret_10); "
    f"{', '.join(_SHORT_NAMES)} are short for {', '.join(_SHORT_NAMES.values())}"
)


@cache
def _parse(name: str) -> Metric:
    """The metric of a canonical name."""
    if name == "kendall":
        return Metric(
            name,
            "Kendall's tau-b",
            kendall_tau,
            partial(_checked, weighted_kendall),
            (-1.0, 1.0),
            "higher",
        )
    if name == "spearman":
        return Metric(
            name,
            "Spearman's rho",
            spearman_rho,
            partial(_checked, weighted_spearman),
            (-1.0, 1.0),
            "higher",
        )
    if found := re.fullmatch(r"ndcg_([1-9][0-9]*)", name):
        p = int(found[1])
        return Metric(
            name,
            f"nDCG of 2^accuracy(%) - 1 over the {p} best-scored",
            partial(ndcg, p=p),
            partial(_checked, weighted_ndcg, p=p),
            (0.0, 1.0),
            "higher",
        )
    if found := re.fullmatch(r"top_((?:0|[1-9][0-9]*)(?:\.[0-9]*[1-9])?)%", name):
        fraction = float(found[1]) / 100.0
        if 0.0 < fraction <= 1.0:
            return Metric(
                name,
                f"share of the best-scored {found[1]}% that are among the most accurate {found[1]}%",
                partial(top_precision, fraction=fraction),
                partial(_checked, weighted_top_precision, fraction=fraction),
                (0.0, 1.0),
                "higher",
            )
        raise InputError(f"metric {name!r}: the percentage must be in (0, 100]")
    if found := re.fullmatch(r"regret_([1-9][0-9]*)", name):
        top = int(found[1])
        return Metric(
            name,
            f"accuracy lost by keeping the best of the {top} best-scored, in its unit",
            partial(regret, top=top),
            partial(_checked, weighted_regret, top=top),
            (0.0, 100.0),
            "lower",
        )
    near = difflib.get_close_matches(name.lower(), (*_DEFAULT_NAMES, *_SHORT_NAMES), n=1, cutoff=0.5)
    hint = f" (did you mean {near[0]!r}?)" if near else ""
    raise InputError(f"unknown metric {name!r}{hint}; valid names: {_NAME_LIST}")


METRICS: Mapping[str, Metric] = MappingProxyType({name: _parse(name) for name in _DEFAULT_NAMES})
"""The metrics at their usual parameters, by canonical name; `metric` makes those at other parameters."""


def metric(name: str) -> Metric:
    """Return the metric of a name.

    Args:
        name: "kendall", "spearman", "ndcg_P", "top_F%" (F in (0, 100]) or "regret_K", for instance
            "ndcg_50", "top_0.5%" or "regret_1"; "tau", "rho" and "ndcg" are short for "kendall", "spearman" and
            "ndcg_1000".

    Returns:
        The metric, under its canonical name; the same object for the same name.

    Raises:
        InputError: no metric has this name; the message lists the names and the closest one.
    """
    if not isinstance(name, str):
        raise InputError(f"a metric is asked for by its name, got {type(name).__name__}; valid names: {_NAME_LIST}")
    if len(name) > 40:
        raise InputError(f"unknown metric {shown(name)}; valid names: {_NAME_LIST}")
    return _parse(_SHORT_NAMES.get(name, name))


def find_metrics(names: Iterable[str] | str) -> list[Metric]:
    """Return the metrics of one name or of several, each once; raise InputError as `metric`."""
    if isinstance(names, str):
        names = (names,)
    if not isinstance(names, Iterable):
        raise InputError(f"metrics must be a name or a list of names, got {type(names).__name__}; valid: {_NAME_LIST}")
    return list({one.name: one for one in map(metric, names)}.values())
