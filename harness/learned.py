"""Learned rankings: a random forest on training-free features, for VKDNW's model-driven rows.

Trained on the stored accuracies of a seeded subset of the population and scored on the rest, never on the
architectures that it has seen.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.benchmark import Benchmark
from harness.errors import HarnessError
from harness.seeds import stable_rng
from harness.store import write_table

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


def remembered(path: Path, made_of: tuple[np.ndarray | int, ...], compute: Callable[[], np.ndarray]) -> np.ndarray:
    """`compute()`, or what it gave when it was last asked with the same `made_of`, which `path` keeps.

    A forest takes seconds to fit, more than everything else in a table together. The file is Parquet, holds the
    digest of what it was made of, and is replaced when that changes.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = hashlib.blake2b(digest_size=16)
    for part in made_of:
        digest.update(np.ascontiguousarray(part).tobytes())
    made = {b"made_of": digest.hexdigest().encode()}
    with contextlib.suppress(OSError, pa.ArrowException, KeyError):
        table = pq.read_table(path, partitioning=None)
        if {**(table.schema.metadata or {}), **made} == table.schema.metadata:
            return table.column("prediction").to_numpy()
    predictions = compute()
    # Where the folder cannot be written the next report fits again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([("prediction", pa.float64())], metadata=made)
        write_table(pa.table({"prediction": predictions}, schema=schema), path)
    return predictions


def training_subset(benchmark: Benchmark, population: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Boolean (len(population),): the n architectures to train on."""
    chosen = stable_rng("training subset", benchmark.name, seed).permutation(len(population))[:n]
    mask = np.zeros(len(population), dtype=bool)
    mask[chosen] = True
    return mask
