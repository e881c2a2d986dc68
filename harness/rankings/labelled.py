"""Combinations that spend a few accuracies: RoBoT and LIBRA. They are no training-free rankings.

Each asks for the accuracies of a stated number of architectures and ranks the others by stored scores alone.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.errors import HarnessError
from harness.rankings.aggregates import rank_sum, ranks


class Accuracies:
    """Accuracies (n,) of a population in percent, `budget` of which may be asked for.

    Attributes:
        asked: boolean (n,), those that were.
    """

    def __init__(self, values: np.ndarray, budget: int):
        self._values, self.budget = values, budget
        self.asked = np.zeros(len(values), dtype=bool)

    @property
    def left(self) -> int:
        """How many more may be asked for."""
        return self.budget - int(self.asked.sum())

    def ask(self, places: Sequence[int] | int) -> np.ndarray:
        """Those of architectures by their places; asking again is free. Raises HarnessError beyond the budget."""
        asked = self.asked.copy()
        asked[places] = True
        if asked.sum() > self.budget:
            raise HarnessError(f"more than {self.budget} accuracies were asked for")
        self.asked = asked
        return self._values[places]


@dataclass(frozen=True)
class Labelled(ABC):
    """A combination of scores that is fitted to the accuracies of `train` architectures.

    Attributes:
        train: accuracies that it spends.
    """

    #: Of the definition: rankings are remembered by it.
    VERSION: ClassVar[int] = 1

    citation: ClassVar[str]
    members: ClassVar[tuple[str, ...]]
    #: Whether it chooses among its members, so that one which has no value on a benchmark may be left out.
    chooses: ClassVar[bool] = False
    graf: ClassVar[bool] = False

    train: int

    @property
    @abstractmethod
    def summary(self) -> str:
        """What it is, in a line."""

    @abstractmethod
    def rank(self, scores: np.ndarray, accuracies: Accuracies, rng: np.random.RandomState) -> np.ndarray:
        """Higher is better: (n,) from the members' scores (m, n), NaN where one failed. NaN where there is none."""


@dataclass(frozen=True)
class Robot(Labelled):
    """RoBoT: weights of six proxies found by Bayesian optimisation of the accuracy of the architecture on top.

    Scores are brought to [0, 1] over the population and summed with weights from [-1, 1]; a failed score adds nothing.
    As many weights are tried as accuracies may be spent: the first are drawn at random, the next maximise an upper
    confidence bound, and each costs the accuracy of its best architecture unless that is known. The ranking is that of
    the weights whose best architecture did best, the last of equals; what is left of the budget is spent from its top
    down. (He et al., ICLR 2024; hzf1174/RoBoT @ ead6c2f4, `search_nb201.py`.)

    The authors' accuracies are those of validation after 12 epochs; here they are the benchmark's. Their optimiser is
    the package bayes_opt; here a Gaussian process of the same kernel (`upper_bound`), maximised over 2,000 draws.
    """

    citation: ClassVar[str] = "He et al., RoBoT, ICLR 2024"
    members: ClassVar[tuple[str, ...]] = ("grad_norm", "snip", "grasp", "fisher", "synflow", "jacov")
    DRAWS: ClassVar[int] = 2_000

    train: int = 20

    @property
    def summary(self) -> str:
        return f"weighted sum of six proxies, the weights found with {self.train} accuracies"

    def rank(self, scores: np.ndarray, accuracies: Accuracies, rng: np.random.RandomState) -> np.ndarray:
        shares = within_unit(scores)
        tried = rng.uniform(-1, 1, (1, len(shares)))
        reached = [self._reach(tried[0] @ shares, accuracies)]
        while len(reached) < accuracies.budget:
            draws = rng.uniform(-1, 1, (self.DRAWS, len(shares)))
            following = draws[np.argmax(upper_bound(tried, np.array(reached), draws))]
            reached.append(self._reach(following @ shares, accuracies))
            tried = np.vstack([tried, following])
        last_best = len(reached) - 1 - int(np.argmax(reached[::-1]))
        values = tried[last_best] @ shares
        down = np.argsort(-values, kind="stable")
        accuracies.ask(down[~accuracies.asked[down]][: accuracies.left])
        return values

    def _reach(self, values: np.ndarray, accuracies: Accuracies) -> float:
        return float(accuracies.ask(int(np.argmax(values))))


def within_unit(scores: np.ndarray) -> np.ndarray:
    """Scores (m, n), each row from 0, its least, to 1, its greatest; 0 where one failed or all are equal."""
    shares = np.zeros_like(scores, dtype=np.float64)
    for share, row in zip(shares, scores, strict=True):
        finite = np.isfinite(row)
        if finite.any() and (spread := np.ptp(row[finite])) > 0:
            share[finite] = (row[finite] - row[finite].min()) / spread
    return shares


#: Of standard deviations above the mean: bayes_opt's.
KAPPA = 2.576
#: Length scales among which the likelihood chooses; the weights' box has the side 2.
LENGTHS = np.geomspace(0.05, 20, 40)
#: Added to the diagonal of the covariance of observations of unit variance.
NOISE = 1e-6


def upper_bound(points: np.ndarray, values: np.ndarray, candidates: np.ndarray) -> np.ndarray:
    """Mean + 2.576 standard deviations (c,) of a Gaussian process given values (n,) at points (n, d), at candidates.

    Matern kernel of smoothness 5/2 and of unit variance, values standardised; the length scale is the likeliest.
    """
    from scipy.linalg import solve_triangular  # as in `harness.rankings.aggregates`, names need not wait for it

    spread = values.std() or 1.0
    observed = (values - values.mean()) / spread
    covariances = _matern(_distances(points, points) / LENGTHS[:, None, None]) + NOISE * np.eye(len(points))
    roots = np.linalg.cholesky(covariances)
    halfway = np.linalg.solve(roots, observed[None, :, None])
    # Log likelihoods up to a constant.
    likelihoods = -np.square(halfway[..., 0]).sum(axis=1) / 2 - np.log(np.diagonal(roots, axis1=1, axis2=2)).sum(axis=1)
    best = int(np.argmax(likelihoods))
    root = roots[best]
    weights = solve_triangular(root.T, halfway[best, :, 0])
    kernel = _matern(_distances(candidates, points) / LENGTHS[best])
    deviation = np.sqrt(np.clip(1 - np.square(solve_triangular(root, kernel.T, lower=True)).sum(axis=0), 0, None))
    return values.mean() + spread * (kernel @ weights + KAPPA * deviation)


def _matern(apart: np.ndarray) -> np.ndarray:
    scaled = np.sqrt(5) * apart
    return (1 + scaled + scaled**2 / 3) * np.exp(-scaled)


def _distances(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    squares = np.square(a).sum(axis=1)[:, None] + np.square(b).sum(axis=1) - 2 * a @ b.T
    return np.sqrt(np.clip(squares, 0, None))


@dataclass(frozen=True)
class Libra(Labelled):
    """LIBRA: three proxies chosen by accuracies, for low information gain and for the accuracy's bias; sum of ranks.

    The first has the greatest Spearman correlation with the accuracies; the second, of those less than 0.1 below it,
    the least information gain beside it (`information_gain`), or is the next best where none is as close; the third is
    the one whose bias, its Pearson correlation with the number of parameters, is nearest to that of the accuracies.
    Chosen among NAS-Bench-Suite-Zero's proxies and L-SWAG, those that have scores, on architectures drawn at random;
    failed scores rank last. Where fewer than three have any, there is no ranking.
    (Casarin et al., L-SWAG, CVPR 2025. The paper's text alone: how many accuracies, how values become classes, and
    how the three are joined were not found in it, and are settled here: 100, Sturges' number of equal shares, ranks.)
    """

    citation: ClassVar[str] = "Casarin et al., L-SWAG, CVPR 2025 (arXiv 2505.07300)"
    members: ClassVar[tuple[str, ...]] = (
        "epe_nas", "fisher", "flops", "grad_norm", "grasp", "jacov", "l2_norm", "lswag", "naswot", "params", "plain",
        "snip", "synflow", "zen",
    )  # fmt: skip
    chooses: ClassVar[bool] = True
    WITHIN: ClassVar[float] = 0.1

    train: int = 100

    @property
    def summary(self) -> str:
        return f"rank sum of three proxies that {self.train} accuracies choose"

    def rank(self, scores: np.ndarray, accuracies: Accuracies, rng: np.random.RandomState) -> np.ndarray:
        drawn = np.sort(rng.permutation(scores.shape[1])[: accuracies.budget])
        chosen = self.choose(scores[:, drawn], accuracies.ask(drawn), self.members.index("params"))
        return np.full(scores.shape[1], np.nan) if chosen is None else rank_sum(scores[list(chosen)])

    def choose(self, scores: np.ndarray, accuracies: np.ndarray, params: int) -> tuple[int, int, int] | None:
        """Which rows of scores (m, n) are joined, None where fewer than three hold any.

        `params` is the row of the number of parameters.
        """
        ranked = np.array([ranks(row) for row in scores])
        rho = np.array([_pearson(row, ranks(accuracies)) for row in ranked])
        known = np.isfinite(scores).any(axis=1)
        if known.sum() < 3:
            return None
        first, *others = (row for row in np.argsort(-rho, kind="stable").tolist() if known[row])
        close = [one for one in others if rho[one] > rho[first] - self.WITHIN] or others[:1]
        second = min(close, key=lambda one: information_gain(accuracies, scores[first], scores[one]))
        bias = _pearson(accuracies, scores[params])
        rest = [one for one in others if one != second]
        third = min(rest, key=lambda one: abs(_pearson(scores[one], scores[params]) - bias))
        return first, second, third


def information_gain(accuracies: np.ndarray, known: np.ndarray, added: np.ndarray) -> float:
    """H(accuracy | known) - H(accuracy | known, added) in bits, of values (n,) in classes of equal shares."""
    y, z, a = (_classes(values) for values in (accuracies, known, added))
    return _entropy(y, z) - _entropy(z) - _entropy(y, z, a) + _entropy(z, a)


def _classes(values: np.ndarray) -> np.ndarray:
    """Values (n,) as classes of equal shares of the ranks, as many as Sturges' rule has."""
    count = int(np.ceil(np.log2(len(values)))) + 1
    return np.ceil(ranks(values) / len(values) * count).astype(int)


def _entropy(*columns: np.ndarray) -> float:
    """Of classes jointly, in bits."""
    _, counts = np.unique(np.stack(columns), axis=1, return_counts=True)
    share = counts / counts.sum()
    return float(-(share * np.log2(share)).sum())


def _pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Over the places where both are finite; 0 where it is not defined."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    if len(a) < 2 or np.ptp(a) == 0 or np.ptp(b) == 0:
        return 0.0
    return float(np.corrcoef(a / np.abs(a).max(), b / np.abs(b).max())[0, 1])


LABELLED = {"libra": Libra(), "robot": Robot(), "robot_100": Robot(100)}
