"""Aggregates: recipes over stored scores. Their value depends on the population that they rank."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.errors import HarnessError


def ranks(values: np.ndarray) -> np.ndarray:
    """Average ranks (n,), 1 the lowest score; failed scores (not finite) share the lowest place."""
    from scipy.stats import rankdata  # takes a second, which those who want names alone need not wait

    return rankdata(np.where(np.isfinite(values), values, -np.inf))


def rank_sum(scores: np.ndarray) -> np.ndarray:
    """Sum over the rows of scores (m, n) of their ranks: (n,)."""
    return np.sum([ranks(row) for row in scores], axis=0)


def log_rank_sum(scores: np.ndarray) -> np.ndarray:
    """Sum over the rows of scores (m, n) of ln(rank / n): (n,)."""
    return np.sum([np.log(ranks(row) / row.size) for row in scores], axis=0)


def geo_mean(scores: np.ndarray) -> np.ndarray:
    """Geometric mean over the rows of scores (m, n) of their ranks: (n,). It orders as `log_rank_sum` does."""
    return np.exp(np.mean([np.log(ranks(row)) for row in scores], axis=0))


def vote(scores: np.ndarray) -> np.ndarray:
    """Copeland count over the rows of scores (m, n): (n,) of pairwise wins less losses.

    One of two wins where more rows rank it higher than lower; a row in which they tie has no say.
    """
    ranked = np.array([ranks(row) for row in scores])
    return np.array([np.sign(np.sign(one[:, None] - ranked).sum(axis=0)).sum() for one in ranked.T])


def max_sum(scores: np.ndarray) -> np.ndarray:
    """Sum over the rows of scores (m, n) of each over its greatest absolute value + 1e-9: (n,), NaN if one is NaN."""
    finite = np.where(np.isfinite(scores), np.abs(scores), 0.0)
    return (scores / (finite.max(axis=1, keepdims=True) + 1e-9)).sum(axis=0)


@dataclass(frozen=True)
class Aggregate(ABC):
    """A recipe: `members` are proxies or other aggregates; `combine` maps their scores (m, n) to (n,)."""

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]
    members: ClassVar[tuple[str, ...]]

    @abstractmethod
    def combine(self, scores: np.ndarray) -> np.ndarray:
        """Higher is better. Members' failed scores are NaN."""


@dataclass(frozen=True)
class _LogRankSum(Aggregate):
    """AZ-NAS's form: sum over members of ln(rank / n), rank n the best (Lee & Ham, CVPR 2024, eq. 11)."""

    def combine(self, scores: np.ndarray) -> np.ndarray:
        return log_rank_sum(scores)


@dataclass(frozen=True)
class AzNas(_LogRankSum):
    """AZ-NAS: non-linear rank aggregation of expressivity, progressivity, trainability and complexity."""

    name: ClassVar[str] = "az_nas"
    summary: ClassVar[str] = "log-rank sum of expressivity, progressivity, trainability, complexity"
    citation: ClassVar[str] = "Lee & Ham, AZ-NAS, CVPR 2024"
    members: ClassVar[tuple[str, ...]] = ("az_expressivity", "az_progressivity", "az_trainability", "flops")


@dataclass(frozen=True)
class VkdnwAgg(_LogRankSum):
    """VKDNW_agg: VKDNW_single with AZ-NAS's expressivity and trainability, jacov and FLOPs (Table 1's members)."""

    name: ClassVar[str] = "vkdnw_agg"
    summary: ClassVar[str] = "log-rank sum of vkdnw_single, expressivity, trainability, jacov, flops"
    citation: ClassVar[str] = "Tybl & Neumann, VKDNW, CVPR 2025 (arXiv 2502.04975)"
    members: ClassVar[tuple[str, ...]] = (
        "vkdnw_single",
        "az_expressivity",
        "az_trainability",
        "jacov",
        "flops",
    )


@dataclass(frozen=True)
class TeNas(Aggregate):
    """TE-NAS: rank of the NTK's (negated) condition number + rank of the number of linear regions."""

    name: ClassVar[str] = "te_nas"
    summary: ClassVar[str] = "rank sum of ntk and nregions"
    citation: ClassVar[str] = "Chen et al., TE-NAS, ICLR 2021"
    members: ClassVar[tuple[str, ...]] = ("ntk", "nregions")

    def combine(self, scores: np.ndarray) -> np.ndarray:
        return rank_sum(scores)


@dataclass(frozen=True)
class FreeRea(Aggregate):
    """FreeREA's score: sum of NASWOT, LogSynflow and skip, each over its greatest absolute value in the population.

    NASWOT at the initialisation that FreeREA takes (kaiming fan_out), one draw where that has three. An architecture
    that lacks a member's score has none.
    """

    name: ClassVar[str] = "freerea"
    summary: ClassVar[str] = "sum of naswot, logsynflow and skip, each over its maximum"
    citation: ClassVar[str] = "Cavagnero et al., FreeREA, WACV 2023"
    members: ClassVar[tuple[str, ...]] = ("naswot:init=kaiming_fan_out", "logsynflow", "skip")

    def combine(self, scores: np.ndarray) -> np.ndarray:
        return max_sum(scores)


@dataclass(frozen=True)
class _Vote(Aggregate):
    """Majority vote of three proxies on each pair of architectures; as a rank the Copeland count."""

    citation: ClassVar[str] = "Jing et al., WRCor, Neurocomputing 2025 (arXiv 2507.08841)"

    def combine(self, scores: np.ndarray) -> np.ndarray:
        return vote(scores)


@dataclass(frozen=True)
class Sjw(_Vote):
    """SJW: majority vote of synflow, jacov and WRCor."""

    name: ClassVar[str] = "sjw"
    summary: ClassVar[str] = "pairwise majority of synflow, jacov and wrcor"
    members: ClassVar[tuple[str, ...]] = ("synflow", "jacov", "wrcor")


@dataclass(frozen=True)
class Combination(Aggregate):
    """A named operation on any listed members, written `OPERATION(member, member, …)`.

    `sum`, `product`: of the scores themselves; `rank_sum`: of their ranks; `log_rank_sum`: of ln(rank / n), AZ-NAS's
    non-linear sum; `geo_mean`: of the ranks, in the same order; `vote`: pairwise majority, as a Copeland count;
    `max_sum`: of the scores over their greatest absolute value, FreeREA's. An architecture that lacks a member's score
    lacks those that are of scores, and ranks last in that member in those that are of ranks.
    """

    operation: str
    parts: tuple[str, ...]

    @property
    def name(self) -> str:  # type: ignore[override]
        return f"{self.operation}({', '.join(self.parts)})"

    @property
    def members(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.parts

    def combine(self, scores: np.ndarray) -> np.ndarray:
        return OPERATIONS[self.operation](scores)


OPERATIONS = {
    "sum": lambda scores: scores.sum(axis=0),
    "product": lambda scores: scores.prod(axis=0),
    "rank_sum": rank_sum,
    "log_rank_sum": log_rank_sum,
    "geo_mean": geo_mean,
    "vote": vote,
    "max_sum": max_sum,
}

AGGREGATES = {cls.name: cls for cls in (AzNas, FreeRea, Sjw, TeNas, VkdnwAgg)}


def _members(text: str, spec: str) -> tuple[str, ...]:
    """What the commas of `text` separate that are in no brackets. Raises HarnessError: brackets that do not match."""
    parts, depth = [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if depth < 0:
            break
        if character == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += character
    if depth != 0:
        raise HarnessError(f"the brackets of {spec!r} do not match: write OPERATION(a, OPERATION(b, c))")
    return tuple(part.strip() for part in parts)


def find_aggregate(spec: str) -> Aggregate | None:
    """The aggregate that a text names, or None. Raises HarnessError for a combination of nothing, or half a one."""
    operation, bracket, rest = spec.partition("(")
    if bracket and rest.endswith(")") and operation in OPERATIONS:
        parts = _members(rest[:-1], spec)
        if len(list(filter(None, parts))) < 2:
            raise HarnessError(f"{spec!r} combines fewer than two proxies: write {operation}(a, b)")
        if "" in parts:
            raise HarnessError(f"{spec!r} has a comma beside which no proxy stands: write {operation}(a, b)")
        return Combination(operation, parts)
    return AGGREGATES[spec]() if spec in AGGREGATES else None
