"""Learned rankings: a random forest on training-free features, for VKDNW's model-driven rows.

Trained on the stored accuracies of a seeded subset of the population and scored on the rest, never on the
architectures that it has seen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness.benchmark import Benchmark
from harness.errors import HarnessError
from harness.seeds import stable_rng

DECILES = tuple(f"vkdnw_decile:k={k}" if k != 5 else "vkdnw_decile" for k in range(1, 10))
ZERO_COST = (
    "flops", "params", "grad_norm", "grasp", "snip", "synflow", "jacov", "naswot", "zen", "zico", "gradsign",
    "ntk", "nregions", "az_expressivity", "az_progressivity", "az_trainability", "epe_nas", "fisher", "l2_norm",
    "plain",
)  # fmt: skip


@dataclass(frozen=True)
class Learned:
    """A learned ranking.

    Attributes:
        members: proxies whose scores are features.
        graf: whether the space's GRAF features join them (Kadlecova et al., ICML 2024).
        train: architectures that the forest is fitted on; VKDNW takes 1,024.
    """

    members: tuple[str, ...]
    graf: bool
    train: int = 1024


LEARNED: Mapping[str, Learned] = {
    "graf_model": Learned((), graf=True),
    "vkdnw_model": Learned((*DECILES, "trainable_layers"), graf=False),
    "vkdnw_zcs_model": Learned((*DECILES, "trainable_layers", *ZERO_COST), graf=False),
    "vkdnw_zcs_graf_model": Learned((*DECILES, "trainable_layers", *ZERO_COST), graf=True),
}


@dataclass(frozen=True)
class Forest:
    """Random forest with scikit-learn's defaults on logit(accuracy / 100)."""

    CLIP: ClassVar[float] = 1e-4

    def rank(self, features: np.ndarray, accuracies: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
        """Predictions (n,), NaN for the `train` architectures (boolean (n,)).

        Args:
            features: (n, f); entries that are not finite become the column's least finite value.
            accuracies: (n,) in percent, read for the `train` architectures alone.

        Raises:
            HarnessError: scikit-learn is not installed.
        """
        try:
            from sklearn.ensemble import RandomForestRegressor
        except ImportError as error:
            raise HarnessError(
                "learned rankings need scikit-learn: pip install 'nas-proxy-harness[learned]'"
            ) from error
        columns = np.array(features, dtype=np.float64)
        for column in columns.T:
            finite = np.isfinite(column)
            column[~finite] = column[finite].min() if finite.any() else 0.0
        # A forest splits on order alone; ranks keep values of 1e60 inside the float32 that scikit-learn uses.
        columns = np.stack([np.unique(column, return_inverse=True)[1] for column in columns.T], axis=1)
        share = np.clip(accuracies[train] / 100, self.CLIP, 1 - self.CLIP)
        forest = RandomForestRegressor(random_state=seed, n_jobs=1)
        forest.fit(columns[train], np.log(share / (1 - share)))
        predictions = np.full(len(columns), np.nan)
        predictions[~train] = forest.predict(columns[~train])
        return predictions


def training_subset(benchmark: Benchmark, population: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Boolean (len(population),): the n architectures to train on."""
    chosen = stable_rng("training subset", benchmark.name, seed).permutation(len(population))[:n]
    mask = np.zeros(len(population), dtype=bool)
    mask[chosen] = True
    return mask
