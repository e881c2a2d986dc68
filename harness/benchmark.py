"""Benchmarks: a space, its numbering, and the stored accuracies, embedded as Parquet with a card."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path

import numpy as np
import pandas as pd

from harness.errors import HarnessError, UnknownNameError
from harness.paths import data_dir
from harness.seeds import stable_rng
from harness.spaces import get_space
from harness.spaces.base import Space

_SAMPLE = re.compile(
    r"(?:(?P<base>\w+)\s*[./:]\s*)?sample\(\s*(?P<n>\d+)\s*(?:,\s*(?:seed\s*=\s*)?(?P<seed>\d+)\s*)?\)"
)


@dataclass(frozen=True)
class Dataset:
    """What a benchmark's networks were trained on: number of classes, image side in pixels."""

    name: str
    classes: int
    resolution: int


class Benchmark:
    """Stored accuracies of a space's architectures. `len()` is the number of architectures.

    Architectures are named by their `index` (0-based, the benchmark's own numbering). Accuracies are read
    only when `accuracies()` is called; nothing on the way from architecture to score calls it.
    """

    def __init__(self, folder: Path):
        import yaml

        self.folder = folder
        self.name = folder.name
        self.card: dict = yaml.safe_load((folder / "card.yaml").read_text(encoding="utf-8"))
        self.datasets = {name: Dataset(name, **spec) for name, spec in self.card["datasets"].items()}

    def __len__(self) -> int:
        return int(self.card["rows"])

    def __repr__(self) -> str:
        return f"<benchmark {self.name}: {len(self):,} architectures, datasets {', '.join(self.datasets)}>"

    @cached_property
    def space(self) -> Space:
        return get_space(self.card["space"]).configure(self.card.get("network", {}))

    @cached_property
    def _file(self) -> Path:
        path = self.folder / "accuracies.parquet"
        if not path.is_file():
            raise HarnessError(f"{path} is missing: reinstall the package or restore the file")
        found = hashlib.sha256(path.read_bytes()).hexdigest()
        if found != self.card["sha256"]:
            raise HarnessError(
                f"{path} is damaged: its sha256 is {found[:12]}…, the card says {self.card['sha256'][:12]}…; "
                "restore the file"
            )
        return path

    def _read(self, column: str) -> pd.Series:
        import pyarrow.parquet as pq

        return pq.read_table(self._file, columns=[column]).column(0).to_pandas()

    @cached_property
    def architectures(self) -> Sequence[str]:
        """Encodings in index order."""
        return self.space.encodings(self.encoding_columns())

    def encoding_columns(self) -> dict[str, np.ndarray]:
        """The stored columns that the card names under `encoding`, in index order."""
        names = self.card["encoding"]
        names = [names] if isinstance(names, str) else names
        return {name: self._read(name).to_numpy() for name in names}

    def dataset(self, name: str) -> Dataset:
        """Raises UnknownNameError with the nearest dataset of this benchmark."""
        if name not in self.datasets:
            raise UnknownNameError(f"dataset of {self.name}", name, self.datasets)
        return self.datasets[name]

    def accuracies(self, dataset: str, target: str | None = None) -> pd.Series:
        """Accuracies in percent, indexed by architecture; NaN where the benchmark stores none.

        Args:
            target: which stored figure, e.g. `test_200ep`, `valid_200ep`, `test_12ep`; the card names the default.

        Raises:
            UnknownNameError: no such dataset or target.
        """
        self.dataset(dataset)
        columns: dict[str, str] = self.card["targets"][dataset]
        target = target or self.card["default_target"]
        if target not in columns:
            raise UnknownNameError(f"target of {self.name}/{dataset}", target, columns)
        return self._read(columns[target]).rename(f"{dataset} {target}")

    def index(self, architecture: str) -> int:
        """Index of an encoding. Raises HarnessError where it is no member."""
        parsed = self.space.parse(architecture)
        try:
            return self._place(parsed)
        except (KeyError, ValueError):
            raise HarnessError(f"{parsed} is none of the {len(self):,} architectures of {self.name}") from None

    @cached_property
    def _place(self) -> Callable[[str], int]:
        """Finds an encoding. A sequence that makes its strings on demand is asked, so as not to make them all."""
        if isinstance(self.architectures, list):
            return {architecture: i for i, architecture in enumerate(self.architectures)}.__getitem__
        return self.architectures.index

    @cached_property
    def representatives(self) -> np.ndarray:
        """(len,) int: for each architecture the smallest index whose network is alike to every proxy."""
        if self.space.distinct:
            return np.arange(len(self))
        first: dict[str, int] = {}
        return np.array([first.setdefault(self.space.network_key(a), i) for i, a in enumerate(self.architectures)])

    def population(self, text: str = "all") -> np.ndarray:
        """Sorted indices of a population.

        Args:
            text: `all`; `unique` (the smallest index of each canonical form); a population of the space such
                as `no_dead_ops`; `sample(n, seed=s)` of all, or `NAME.sample(n, seed=s)` of another one:
                n architectures without replacement, the same on every machine.

        Raises:
            UnknownNameError, HarnessError: no such population, or a sample larger than it.
        """
        text = str(text).strip()
        match = _SAMPLE.fullmatch(text)
        if match:
            members = self.population(match["base"] or "all")
            n, seed = int(match["n"]), int(match["seed"] or 0)
            if n > len(members):
                raise HarnessError(f"population {text!r} asks for {n} of {len(members)} architectures: lower n")
            rng = stable_rng("sample", self.space.name, match["base"] or "all", seed)
            return np.sort(rng.permutation(members)[:n])
        if text not in self.space.populations:
            raise UnknownNameError("population", text, [*self.space.populations, "sample(n, seed=0)"])
        if text == "unique" and not self.space.distinct:
            first: dict[str, int] = {}
            for i, architecture in enumerate(self.architectures):
                first.setdefault(self.space.canonical(architecture), i)
            return np.array(sorted(first.values()))
        if text in ("all", "unique"):
            return np.arange(len(self))
        return np.flatnonzero(self.space.in_population(text, self.architectures))


def list_benchmarks() -> dict[str, str]:
    """Names of the embedded benchmarks with their titles."""
    import yaml

    cards = sorted(data_dir("benchmarks").glob("*/card.yaml"))
    return {c.parent.name: yaml.safe_load(c.read_text(encoding="utf-8"))["title"] for c in cards}


@lru_cache(maxsize=8)
def load_benchmark(name: str) -> Benchmark:
    """The embedded benchmark `name`. Raises UnknownNameError with the nearest name."""
    folder = data_dir("benchmarks") / name
    if not (folder / "card.yaml").is_file():
        raise UnknownNameError("benchmark", name, list_benchmarks())
    return Benchmark(folder)
