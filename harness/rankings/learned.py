"""Learned rankings: random forests on training-free features, for VKDNW's model-driven rows, and `labelled`'s.

Trained on the stored accuracies of a seeded subset of the population and scored on the rest, never on the
architectures that it has seen.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from harness.benchmarks.benchmark import Benchmark
from harness.engine.store import write_table
from harness.errors import HarnessError
from harness.rankings.labelled import LABELLED, Labelled
from harness.seeds import stable_rng

DECILES = tuple(f"vkdnw_decile:k={k}" if k != 5 else "vkdnw_decile" for k in range(1, 10))
#: The same from 16 random rows in place of one per class, for datasets with many classes.
SKETCHED_DECILES = tuple(f"{decile}:rows=16" for decile in DECILES)
#: The zero-cost scores that VKDNW's forests read (`NB201/tss_analyze.ipynb` of ondratybl/VKDNW @ f2c352d).
ZERO_COST = (
    "flops", "grad_norm", "grasp", "snip", "synflow", "jacov", "naswot", "zen", "zico", "gradsign", "ntk", "nregions",
    "az_expressivity", "az_progressivity", "az_trainability",
)  # fmt: skip
#: GRAF's features that they read: of a file's columns those with `op_` or `node_` in their names, among which
#: `min_path_len` is not. Table 1's file is the one that GRAF's authors released, with `max_op_on_path`; that of all
#: cells was made by their later code, whose column of this name is `max_path_len` here.
GRAF_RELEASED = ("op_count", "max_op_on_path", "node_degree")
GRAF_LATER = ("op_count", "max_path_len", "node_degree")


@dataclass(frozen=True)
class Learned:
    """A ranking by a random forest.

    Attributes:
        members: proxies whose scores are features.
        graf: GRAF's features of the graph (Kadlecova et al., ICML 2024) that join them, by name.
        train: architectures that the forest is fitted on; VKDNW takes 1,024.
    """

    citation: ClassVar[str] = "Tybl & Neumann, VKDNW, CVPR 2025 (arXiv 2502.04975); Kadlecova et al., GRAF, ICML 2024"

    members: tuple[str, ...]
    graf: tuple[str, ...] = ()
    train: int = 1024

    @property
    def summary(self) -> str:
        """What it is, in a line."""
        read = f"the scores of {len(self.members)} proxies" if self.members else ""
        graf = f"GRAF's features ({', '.join(self.graf)})" if self.graf else ""
        return f"random forest on {' and '.join(filter(None, [read, graf]))}, trained on {self.train:,} architectures"


_VKDNW = (*DECILES, "trainable_layers")
_SKETCH = (*SKETCHED_DECILES, "trainable_layers")

#: All rankings that spend accuracies.
LEARNED: Mapping[str, Learned | Labelled] = {
    "graf_model": Learned((), GRAF_RELEASED),
    "graf_later_model": Learned((), GRAF_LATER),
    "vkdnw_model": Learned(_VKDNW),
    "vkdnw_zcs_model": Learned((*_VKDNW, *ZERO_COST)),
    "vkdnw_zcs_graf_model": Learned((*_VKDNW, *ZERO_COST), GRAF_RELEASED),
    "vkdnw_zcs_graf_later_model": Learned((*_VKDNW, *ZERO_COST), GRAF_LATER),
    "vkdnw_sketch_model": Learned(_SKETCH),
    "vkdnw_sketch_zcs_model": Learned((*_SKETCH, *ZERO_COST)),
    "vkdnw_sketch_zcs_graf_model": Learned((*_SKETCH, *ZERO_COST), GRAF_RELEASED),
    "vkdnw_sketch_zcs_graf_later_model": Learned((*_SKETCH, *ZERO_COST), GRAF_LATER),
    **LABELLED,
}


@dataclass(frozen=True)
class Forest:
    """Random forest with scikit-learn's defaults on accuracies in percent.

    A prediction depends on the features of the architecture and of those trained on, never on which others are scored.
    """

    #: Raised whenever predictions change: remembered ones of another version are not used.
    VERSION: ClassVar[int] = 3  # 1 trained on ranks among trained and scored together, 2 on logits of accuracies

    def rank(self, features: np.ndarray, accuracies: np.ndarray, train: np.ndarray, seed: int) -> np.ndarray:
        """Predictions (n,), NaN for the `train` architectures (boolean (n,)).

        Args:
            features: (n, f), read as `within_float32` gives them; entries that are not finite become the least
                finite value that the column has among the trained architectures.
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
        columns = within_float32(features)
        for column in columns.T:
            finite = np.isfinite(column)
            column[~finite] = column[finite & train].min(initial=np.inf)
        columns[:, ~np.isfinite(columns[train]).all(axis=0)] = 0.0  # no trained architecture has a value
        forest = RandomForestRegressor(random_state=seed, n_jobs=1)
        forest.fit(columns[train], accuracies[train])
        predictions = np.full(len(columns), np.nan)
        predictions[~train] = forest.predict(columns[~train])
        return predictions


def within_float32(values: np.ndarray) -> np.ndarray:
    """Each number mapped, by itself and in order, into the range of the float32 that scikit-learn casts to.

    The identity up to 1e12, beyond that 1e12 (|x| / 1e12)^(1/12) with the sign of x: 1e67, where synflow gets to,
    becomes 4e16. The cast makes equal what differs by less than 1 in 10^7, or by 1 in 10^6 beyond 1e12.
    """
    limit = 1e12
    size = np.abs(np.asarray(values, dtype=np.float64))
    return np.sign(values) * np.minimum(size, limit * (size / limit) ** (1 / 12))


def remembered(
    path: Path, made_of: tuple[np.ndarray | int, ...], compute: Callable[[], np.ndarray], others: Sequence[Path] = ()
) -> np.ndarray:
    """`compute()`, or what it gave when it was last asked with the same `made_of`, which `path` or one of others keeps.

    A forest or RoBoT takes seconds, more than everything else in a table together. A file is Parquet, holds the
    digests of what it was made of and of the predictions, and `path` is replaced when one of them does not fit.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    digest = hashlib.blake2b(digest_size=16)
    for part in made_of:
        digest.update(np.ascontiguousarray(part).tobytes())
    made = {b"made_of": digest.hexdigest().encode()}
    for kept in (path, *others):
        with contextlib.suppress(OSError, pa.ArrowException, KeyError):
            table = pq.read_table(kept, partitioning=None)
            held = table.schema.metadata or {}
            found = table.column("prediction").to_numpy()
            # An older file says nothing of its predictions.
            if {**held, **made} == held and held.get(b"holds", _digest_of(found)) == _digest_of(found):
                return found
    predictions = compute()
    # Where the folder cannot be written the next report computes again.
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        schema = pa.schema([("prediction", pa.float64())], metadata={**made, b"holds": _digest_of(predictions)})
        write_table(pa.table({"prediction": predictions}, schema=schema), path)
    return predictions


def _digest_of(predictions: np.ndarray) -> bytes:
    values = np.ascontiguousarray(predictions, dtype=np.float64)
    return hashlib.blake2b(values.tobytes(), digest_size=16).hexdigest().encode()


def training_subset(benchmark: Benchmark, population: np.ndarray, n: int, seed: int) -> np.ndarray:
    """Boolean (len(population),): the n architectures to train on."""
    chosen = stable_rng("training subset", benchmark.name, seed).permutation(len(population))[:n]
    mask = np.zeros(len(population), dtype=bool)
    mask[chosen] = True
    return mask
