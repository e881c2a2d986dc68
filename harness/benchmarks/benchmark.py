"""Benchmarks: a space, its numbering, and the stored accuracies, as Parquet with a card, embedded or imported."""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd

from harness.benchmarks.card import are_in, kind_of, read_card
from harness.benchmarks.target import ACCURACIES, Dataset, Target, fault_of
from harness.errors import HarnessError, UnknownNameError, cause, shown
from harness.paths import data_dir, imported_dir
from harness.seeds import stable_rng
from harness.spaces import get_space
from harness.spaces.base import Space

_SAMPLE = re.compile(
    r"(?:(?P<base>\w+)\s*[./:]\s*)?sample\(\s*(?P<n>\d{1,18})\s*(?:,\s*(?:seed\s*=\s*)?(?P<seed>\d{1,18})\s*)?\)"
)


class Benchmark:
    """Stored accuracies of a space's architectures. `len()` is the number of architectures.

    Architectures are named by their `index` (0-based, the benchmark's own numbering). Accuracies are read
    only when `accuracies()` is called; nothing on the way from architecture to score calls it.

    A card may say `same_as: NAME`, and takes from that benchmark all that it does not state itself, table and
    scores included; `scores_of: NAME`, whose architectures have the same indices, so that scores are shared; and
    leave out `encoding` and `sha256`, where the space lists its members and no accuracies are at hand.

    A card may name populations of its own under `populations`, each with a boolean `column` and a sentence `text`; or
    with a `column` of numbers, of which those from `least` to `most` are in it.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.name = folder.name
        card = read_card(folder / "card.yaml")
        twin = _other(folder, card["same_as"]) if "same_as" in card else None
        self.card: dict = {**twin.card, **card} if twin else card
        #: Where the files lie: those of a benchmark under another name where the card says so.
        self.files: Path = twin.files if twin else folder
        #: The benchmark under whose name scores are stored: its architectures have the same indices.
        self.scores_of: str = self.card.get("scores_of", twin.scores_of if twin else self.name)
        self._spaces: dict[str, Space] = {}
        self.datasets = {name: Dataset(name, **spec) for name, spec in self.card["datasets"].items()}

    def __len__(self) -> int:
        return int(self.card["rows"])

    def __repr__(self) -> str:
        return f"<benchmark {self.name}: {len(self):,} architectures, datasets {', '.join(self.datasets)}>"

    @property
    def has_accuracies(self) -> bool:
        """Whether there is a table; without one, architectures can be scored and listed all the same."""
        return "sha256" in self.card

    @cached_property
    def space(self) -> Space:
        return get_space(self.card["space"]).configure(self.card.get("network", {}))

    def space_of(self, dataset: str) -> Space:
        """The space with the networks of a dataset, which end in what its card says."""
        if dataset not in self._spaces:
            self._spaces[dataset] = self.space.ending_in(self.dataset(dataset).head)
        return self._spaces[dataset]

    def check(self) -> None:
        """Raises HarnessError unless files and space are what the card says: for one that comes from elsewhere.

        Where it shares the scores of another benchmark, both number the same networks alike.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        if not self.has_accuracies and (self._encoding or self.card.get("targets")):
            raise self._mistaken(f"sha256 is missing, that of {ACCURACIES}")
        for file, kinds in self._kinds().items():
            path = self._path(file)
            try:
                names = pq.read_schema(path).names
                table = pq.read_table(path, columns=sorted({name for name, _ in kinds} & set(names)), partitioning=None)
            except (OSError, pa.ArrowException) as error:
                raise HarnessError(f"{path} is no Parquet file ({cause(error)[:100]}): restore it") from error
            if len(table) != len(self):
                raise self._mistaken(f"rows is {len(self):,}, but {path} has {len(table):,} rows")
            for name, kind in sorted(kinds):
                fault = fault_of(table.column(name), kind) if name in names else "is not there"
                if fault:
                    raise self._mistaken(f"it names the column {shown(name)}, which in {path} {fault}")
        try:
            for dataset in self.datasets:
                self.space_of(dataset)
            members = len(self) if self._encoding else len(self.space.members())
            if self._encoding:
                for place in (0, -1):
                    self.space.parse(self.architectures[place])
        except (AttributeError, HarnessError, LookupError, TypeError, ValueError) as error:
            raise self._mistaken(cause(error)[:300]) from error
        if members != len(self):
            raise self._mistaken(f"rows is {len(self):,}, but space {self.space.name} lists {members:,} architectures")
        names = {self.card.get("same_as", self.name), self.scores_of} - {self.name}
        for other in (embedded_benchmark(self.name), *(_other(self.folder, name) for name in sorted(names))):
            if other is None:
                continue
            if other.files != self.files or self._networks != other._networks:
                self._check_alike(other)

    def _kinds(self) -> dict[str, set[tuple[str, str]]]:
        """The columns that each file is to have, with their kinds (`fault_of`)."""
        found: dict[str, set[tuple[str, str]]] = {file: set() for file in self.card.get("tables", {})}
        if self.has_accuracies:
            kind = "text" if len(self._encoding) == 1 else "key"
            members = {(spec["column"], kind_of(spec)) for spec in self.card.get("populations", {}).values()}
            found[ACCURACIES] = members | {(name, kind) for name in self._encoding}
        for dataset in self.datasets:
            for target in self.targets(dataset).values():
                found[target.file].add((target.column, "percentage" if target.is_percentage else "number"))
        return found

    def _mistaken(self, what: str) -> HarnessError:
        return HarnessError(f"{self.folder / 'card.yaml'}: {what}: mend the card")

    @property
    def _networks(self) -> tuple:
        """What the card says of the networks, for each dataset."""
        return self.card["space"], self.card.get("network", {}), len(self), self._encoding, self.datasets

    def _check_alike(self, other: Benchmark) -> None:
        """Raises HarnessError unless an index means the same network here and there, on each dataset that both have."""
        differ = [
            "spaces or their networks" * (self._networks[:2] != other._networks[:2]),
            "numbers of architectures" * (len(self) != len(other)),
            *(f"networks on {name}" for name, own in self.datasets.items() if other.datasets.get(name, own) != own),
        ]
        if not any(differ) and self._digest_of_encodings != other._digest_of_encodings:
            differ = ["encodings, or the order of them"]
        if any(differ):
            raise HarnessError(
                f"{self.folder / 'card.yaml'}: {self.name} cannot share the scores of {other.name}, which has other "
                f"{next(filter(None, differ))}: leave out `scores_of`, under a name of its own, or number both alike"
            )

    @cached_property
    def _digest_of_encodings(self) -> str:
        found = hashlib.sha256()
        for architecture in self.architectures:
            found.update(str(architecture).encode() + b"\n")
        return found.hexdigest()

    @property
    def _encoding(self) -> tuple[str, ...]:
        """The columns that the card names under `encoding`."""
        names = self.card.get("encoding", [])
        return (names,) if isinstance(names, str) else tuple(names)

    @cached_property
    def _verified(self) -> dict[str, Path]:
        """The files whose bytes were found to be those that the card describes."""
        return {}

    def _path(self, file: str) -> Path:
        if file not in self._verified:
            path = self.files / file
            if not path.is_file():
                raise HarnessError(f"{path} is missing: reinstall the package or restore the file")
            expected = (self.card if file == ACCURACIES else self.card["tables"][file])["sha256"]
            with open(path, "rb") as opened:
                found = hashlib.file_digest(opened, "sha256").hexdigest()
            if found != expected:
                raise HarnessError(
                    f"{path} is damaged: its sha256 is {found[:12]}…, the card says {expected[:12]}…; restore the file"
                )
            self._verified[file] = path
        return self._verified[file]

    def column(self, name: str, file: str = ACCURACIES) -> np.ndarray:
        """A column (len,) as it is stored, in index order: numbers with NaN where none is stored, text, or bytes.

        Raises:
            UnknownNameError: the file has no such column. HarnessError: it is missing or damaged.
        """
        import pyarrow as pa
        import pyarrow.parquet as pq

        path = self._path(file)
        names = pq.read_schema(path).names
        if name not in names:
            raise UnknownNameError(f"column of {path}", name, names)
        # Of texts that repeat, each is made once, and those that are equal are one object.
        table = pq.ParquetFile(path, read_dictionary=[name])
        # One column gives threads nothing to do, and starting them takes longer than reading it.
        column = table.read(columns=[name], use_threads=False).column(0).combine_chunks()
        if pa.types.is_dictionary(column.type):
            return column.dictionary.to_numpy(zero_copy_only=False)[column.indices.to_numpy()]
        return column.to_numpy(zero_copy_only=False)

    @cached_property
    def architectures(self) -> Sequence[str]:
        """Encodings in index order: those of the table, or all that the space lists."""
        columns = self.encoding_columns()
        return self.space.encodings(columns) if columns else self.space.members()

    def encoding_columns(self) -> dict[str, np.ndarray]:
        """The stored columns that the card names under `encoding`, in index order; none where it names none."""
        return {name: self.column(name) for name in self._encoding}

    def dataset(self, name: str) -> Dataset:
        """Raises UnknownNameError with the nearest dataset of this benchmark."""
        if name not in self.datasets:
            raise UnknownNameError(f"dataset of {self.name}", name, self.datasets)
        return self.datasets[name]

    def targets(self, dataset: str) -> dict[str, Target]:
        """The figures stored for a dataset, by name: accuracies, and what the card's other tables hold.

        A card lists them as `name: column` under `targets`, accuracies in percent unless it gives the dataset another
        unit under `units`, and the columns of further tables by kind under `tables`, where a column's name is the
        target's.

        Raises:
            UnknownNameError: no such dataset.
        """
        self.dataset(dataset)
        unit = self.card.get("units", {}).get(dataset, "%")
        found = {
            name: Target(name, column, kind="accuracy" if unit == "%" else name, unit=unit)
            for name, column in self.card.get("targets", {}).get(dataset, {}).items()
        }
        for file, table in self.card.get("tables", {}).items():
            for group in table["figures"] if table["dataset"] == dataset else ():
                better = {"higher": True, "lower": False}[group["better"]]
                for name in group["columns"]:
                    found[name] = Target(name, name, file, group["kind"], group["unit"], better)
        return found

    def is_default(self, target: str | None) -> bool:
        """Whether a target of this name is what is ranked where none is named."""
        return target in (None, self.card.get("default_target"))

    def target(self, dataset: str, name: str | None = None) -> Target:
        """What is stored as `name`, by default the card's `default_target`.

        Raises:
            UnknownNameError: no such dataset or target; the message has the nearest name.
        """
        targets = self.targets(dataset)
        if not targets:
            raise HarnessError(
                f"{self.name} comes without accuracies on {dataset}: bring them with `harness import {self.name} PATH` "
                "from the official archive"
            )
        name = self.card["default_target"] if name is None else name
        if name not in targets:
            raise UnknownNameError(f"target of {self.name}/{dataset}", name, targets)
        return targets[name]

    def accuracies(self, dataset: str, target: str | None = None) -> pd.Series:
        """A stored figure in its unit, indexed by architecture; NaN where the benchmark stores none.

        Args:
            target: which one, e.g. `test_200ep`, `valid_12ep`, `edgegpu_latency`, `pgd@Linf_eps-1.0`
                (`harness list targets`); the card names the default, an accuracy in percent.

        Raises:
            UnknownNameError: no such dataset or target.
            HarnessError: a benchmark without accuracies.
        """
        if not self.has_accuracies:
            raise HarnessError(
                f"{self.name} comes without accuracies: bring them with `harness import {self.name} PATH` from the "
                "official archive"
            )
        found = self.target(dataset, target)
        return pd.Series(self.column(found.column, found.file), name=f"{dataset} {found.name}")

    def with_figures(self, population: str, figures: np.ndarray) -> np.ndarray:
        """The members of a population of which a figure is stored: sorted indices.

        Args:
            figures: (len,) as `accuracies` gives them.

        Raises:
            UnknownNameError, HarnessError: as `population`.
        """
        members = self.population(population)
        return members[np.isfinite(figures[members])]

    @property
    def populations_of_card(self) -> dict[str, str]:
        """The populations that the card names, each with a sentence on what it is."""
        return {name: " ".join(spec["text"].split()) for name, spec in self.card.get("populations", {}).items()}

    def index(self, architecture: str) -> int:
        """Index of an encoding. Raises HarnessError where it is no member, or no text."""
        if not isinstance(architecture, str):
            raise HarnessError(
                f"index() takes the text of an architecture, not {architecture!r}: architectures[INDEX] is the text of "
                "an index"
            )
        parsed = self.space.parse(architecture)
        try:
            return self._place(parsed)
        except (KeyError, ValueError):
            raise HarnessError(f"{parsed} is none of the {len(self):,} architectures of {self.name}") from None

    @cached_property
    def _place(self) -> Callable[[str], int]:
        """Finds an encoding. A sequence that makes its strings on demand is asked, so as not to make them all."""
        if isinstance(self.architectures, list):
            first: dict[str, int] = {}
            for i, architecture in enumerate(self.architectures):
                first.setdefault(architecture, i)  # a benchmark may hold an architecture that was trained twice
            return first.__getitem__
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
                as `no_dead_ops`, or of the card; `sample(n, seed=s)` of all, or `NAME.sample(n, seed=s)` of another
                one: n architectures without replacement, the same on every machine.

        Raises:
            UnknownNameError, HarnessError: no such population, or a sample of none or of more than it has.
        """
        text = str(text).strip()
        match = _SAMPLE.fullmatch(text)
        if match:
            members = self.population(match["base"] or "all")
            n, seed = int(match["n"]), int(match["seed"] or 0)
            if n < 1:
                raise HarnessError(f"population {shown(text)} asks for no architecture: give n of at least 1")
            if n > len(members):
                raise HarnessError(f"population {shown(text)} asks for {n} of {len(members)} architectures: lower n")
            rng = stable_rng("sample", self.space.name, match["base"] or "all", seed)
            return np.sort(rng.permutation(members)[:n])
        if text in self.card.get("populations", {}):
            population = self.card["populations"][text]
            return np.flatnonzero(are_in(population, self.column(population["column"])))
        if text not in self.space.populations:
            named = [*self.space.populations, *self.populations_of_card]
            raise UnknownNameError("population", text, [*named, "sample(n, seed=0)"])
        if text == "unique" and not self.space.distinct:
            first: dict[str, int] = {}
            for i, architecture in enumerate(self.architectures):
                first.setdefault(self.space.canonical(architecture), i)
            return np.array(sorted(first.values()))
        if text in ("all", "unique"):
            return np.arange(len(self))
        return np.flatnonzero(self.space.in_population(text, self.architectures))


def _embedded() -> dict[str, Path]:
    return {card.parent.name: card.parent for card in data_dir("benchmarks").glob("*/card.yaml")}


def _imported() -> dict[str, Path]:
    return {card.parent.name: card.parent for card in imported_dir().glob("[!.]*/card.yaml")}


def _chosen(name: str, embedded: dict[str, Path], imported: dict[str, Path]) -> Path:
    """Folder of a benchmark. An imported table never stands in for an embedded one, on whose rows scores depend."""
    return embedded.get(name) or imported[name]


def _reason(folder: Path) -> HarnessError | None:
    """Why a user's benchmark cannot be used; None where it can."""
    try:
        _at(folder)
    except HarnessError as error:
        return error
    return None


def broken_benchmarks() -> dict[str, HarnessError]:
    """Names of the user's benchmarks that cannot be used, each with the reason."""
    reasons = {name: _reason(folder) for name, folder in sorted(_imported().items())}
    return {name: reason for name, reason in reasons.items() if reason is not None}


def list_benchmarks() -> dict[str, str]:
    """Names of the embedded and of the imported benchmarks with their titles.

    One of the user's that cannot be used is left out, with a warning on standard error.
    """
    embedded, imported, broken = _embedded(), _imported(), broken_benchmarks()
    for reason in map(str, broken.values()):
        if reason not in _warned:
            _warned.add(reason)
            print(f"harness: warning: a benchmark is left out: {reason}", file=sys.stderr)
    names = embedded.keys() | (imported.keys() - broken.keys())
    return {name: _at(_chosen(name, embedded, imported)).card["title"] for name in sorted(names)}


def list_targets() -> dict[str, str]:
    """What is stored for which dataset of which benchmark, `benchmark/dataset target`, with its kind and unit."""
    return {
        f"{name}/{dataset} {target}": str(figure)
        for name in list_benchmarks()
        for dataset in load_benchmark(name).datasets
        for target, figure in load_benchmark(name).targets(dataset).items()
    }


def load_benchmark(name: str) -> Benchmark:
    """The embedded or imported benchmark `name`.

    Raises UnknownNameError with the nearest name; HarnessError for one of the user's that cannot be used.
    """
    embedded, imported = _embedded(), _imported()
    if name not in embedded and name not in imported:
        raise UnknownNameError("benchmark", name, embedded.keys() | imported.keys())
    return _at(_chosen(name, embedded, imported))


def embedded_benchmark(name: str) -> Benchmark | None:
    """The benchmark `name` as it is embedded, whatever was imported; None where it is not."""
    folder = data_dir("benchmarks") / name
    return _at(folder) if (folder / "card.yaml").is_file() else None


_loaded: dict[Path, Benchmark] = {}
#: The user's that cannot be used, with the time of the card's last change.
_refused: dict[Path, tuple[float, HarnessError]] = {}
_loading: list[Path] = []
_warned: set[str] = set()


def _at(folder: Path) -> Benchmark:
    if folder in _loaded:
        return _loaded[folder]
    changed = os.stat(folder / "card.yaml", follow_symlinks=False).st_mtime
    if folder in _refused and _refused[folder][0] == changed:
        raise _refused[folder][1]
    try:
        benchmark = Benchmark(folder)
        if folder.parent != data_dir("benchmarks"):
            benchmark.check()
    except HarnessError as error:
        if not _loading:  # else it is one of a circle, and another is at fault
            _refused[folder] = changed, error
        raise
    _loaded[folder] = benchmark
    return benchmark


def _other(folder: Path, name: str) -> Benchmark:
    """The benchmark that the card in `folder` refers to. Raises HarnessError where there is none, or in a circle."""
    if folder in _loading:
        raise HarnessError(f"{folder / 'card.yaml'}: it refers to {name}, which leads back to it: leave that out")
    _loading.append(folder)
    try:
        of_package = folder.parent == data_dir("benchmarks")
        return (embedded_benchmark(name) if of_package else None) or load_benchmark(name)
    except UnknownNameError as error:
        raise HarnessError(f"{folder / 'card.yaml'}: {error}") from error
    finally:
        _loading.remove(folder)


def forget_benchmark(folder: Path) -> None:
    """Read the card and table of `folder` again at the next `load_benchmark`: after an import."""
    _loaded.pop(folder, None)
    _refused.pop(folder, None)
