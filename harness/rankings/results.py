"""Stored scores as vectors over a population: the one way from the store to a correlation."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from functools import cache, cached_property
from pathlib import Path
from typing import NamedTuple
from urllib.parse import quote

import numpy as np

from harness.benchmarks.benchmark import Benchmark
from harness.config import choices
from harness.engine import applicable
from harness.engine.alike import alike, reason
from harness.engine.inputs import STAND_INS
from harness.engine.store import ScoreKey, ScoreStore, check_range
from harness.paths import user_scores
from harness.probes.base import Probe
from harness.proxies import get_proxy
from harness.proxies.base import Proxy
from harness.rankings.aggregates import Aggregate, find_aggregate
from harness.rankings.labelled import Accuracies, Labelled
from harness.rankings.learned import LEARNED, Forest, remembered, training_subset
from harness.seeds import stable_rng

#: Where the store keeps what learned rankings predict; readers of Hive folders skip names with this first letter.
LEARNED_FOLDER = "_learned"

#: Which mini-batches a table's row takes a proxy's scores from when it does not name them.
PAPER_INPUTS = "paper"


class Scores(NamedTuple):
    """Scores (n,) over a population, NaN where an architecture has none.

    `missing`: how many networks of which partition are not in the store. `seconds`: median time of the passes
    read, with all that was asked of them in the run that stored the score: an upper bound of what it takes alone.
    `members`: boolean (n,) of the architectures that a correlation may use: a learned ranking leaves out
    those that it was trained on. `alike`: proxies of which scores are another dataset's, with what is said of these.
    """

    values: np.ndarray
    missing: Mapping[ScoreKey, int]
    seconds: float
    members: np.ndarray
    alike: tuple[tuple[str, str], ...] = ()

    def notes(self, spec: str) -> list[str]:
        """What a row of `spec` has to say of scores that are another dataset's."""
        proxies: dict[str, list[str]] = {}
        for label, what in self.alike:
            proxies.setdefault(what, []).append(label)
        return [what if found == [spec] else f"{', '.join(found)} ({what})" for what, found in proxies.items()]


def inputs_of(proxy: Proxy, inputs: str, dataset: str) -> str:
    """The store's `inputs` for a proxy: `none` if it reads no mini-batch, its paper's kind for `paper`.

    Where images of the dataset have no source (`conf/inputs`), noise stands in for them.
    """
    if proxy.inputs == "none":
        return "none"
    if inputs == PAPER_INPUTS:
        return dataset if proxy.inputs == "images" and dataset in _sources() else "random"
    return inputs


@cache
def _sources() -> frozenset[str]:
    """Names of the sources of mini-batches."""
    return frozenset(choices("inputs"))


def proxies_of(spec: str | Proxy) -> tuple[Proxy, ...]:
    """The proxies whose scores a proxy, an aggregate or a learned ranking is made of. Raises UnknownNameError."""
    aggregate = None if isinstance(spec, Proxy) else LEARNED.get(spec) or find_aggregate(spec)
    if aggregate is None:
        return (get_proxy(spec),)
    return tuple(proxy for member in aggregate.members for proxy in proxies_of(member))


def inapplicable(spec: str | Proxy, benchmark: Benchmark, dataset: str | None = None) -> str:
    """Why a proxy, an aggregate or a learned ranking has no value there, by its first member that has none; or "".

    A ranking that chooses among its members does without one.
    """
    model = None if isinstance(spec, Proxy) else LEARNED.get(spec)
    if isinstance(model, Labelled) and model.chooses:
        return ""
    return next(filter(None, (applicable.inapplicable(proxy, benchmark, dataset) for proxy in proxies_of(spec))), "")


@cache
def _passes(spec: str) -> frozenset[Probe]:
    """The passes that a proxy, an aggregate or a learned ranking reads."""
    return frozenset(probe for proxy in proxies_of(spec) for probe in proxy.needs())


def _seconds_of(members: Mapping[str, Scores]) -> float:
    """What distinct passes of several proxies took: a member that reads none but those of the others adds nothing."""
    total, counted = 0.0, frozenset()
    for name, found in sorted(members.items(), key=lambda one: (len(_passes(one[0])), one[1].seconds), reverse=True):
        if not _passes(name) <= counted:
            total += found.seconds
            counted |= _passes(name)
    return total


def _alike_of(members: Mapping[str, Scores]) -> tuple[tuple[str, str], ...]:
    return tuple(dict.fromkeys(one for found in members.values() for one in found.alike))


class _Column(NamedTuple):
    """Scores and their times (n,) of a benchmark's architectures, and for which of them there is a row."""

    values: np.ndarray
    seconds: np.ndarray
    stored: np.ndarray


class Reader:
    """Reads the scores of one benchmark from a store, each partition once.

    An architecture takes the score of the representative of its network where it has none of its own, and a dataset
    takes those of another where the proxy cannot tell the two apart (`alike`).
    """

    def __init__(self, store: ScoreStore, benchmark: Benchmark):
        self.store, self.benchmark = store, benchmark
        self._columns: dict[ScoreKey, _Column] = {}
        self._digests: dict[ScoreKey, str | None] = {}
        self._counted: dict[int, tuple[np.ndarray, int]] = {}

    def scores(
        self,
        spec: str | Proxy,
        dataset: str,
        population: np.ndarray,
        inputs: str = PAPER_INPUTS,
        seed: int = 0,
        target: str | None = None,
    ) -> Scores:
        """Scores of the proxy, aggregate or learned ranking `spec` over `population` (n,) of indices.

        An aggregate is computed over exactly this population, on whose members its value depends.

        Args:
            target: the stored figure that a learned ranking is fitted on, which the population's members have; the
                benchmark's default one if None.
        """
        if isinstance(spec, Proxy):
            return self._proxy(spec, dataset, population, inputs, seed)
        if spec in LEARNED:
            return self._learned(spec, dataset, population, inputs, seed, target)
        aggregate = find_aggregate(spec)
        if aggregate is None:
            return self._proxy(get_proxy(spec), dataset, population, inputs, seed)
        return self._aggregate(aggregate, dataset, population, inputs, seed, target)

    def keys(self, spec: str | Proxy, dataset: str, inputs: str = PAPER_INPUTS, seed: int = 0) -> tuple[ScoreKey, ...]:
        """The partitions that the scores of the proxy, aggregate or learned ranking `spec` are read from."""
        return tuple(self._key(proxy, dataset, inputs, seed) for proxy in proxies_of(spec))

    def stand_in(self, spec: str | Proxy, dataset: str, inputs: str = PAPER_INPUTS, seed: int = 0) -> str:
        """What has to be said of the images behind the scores of `spec`; "" where they are the dataset's own, or none.

        Images that nobody described (`harness.engine.inputs.STAND_INS`) count as the dataset's own.
        """
        images = (key for key in self.keys(spec, dataset, inputs, seed) if key.inputs not in ("none", "random"))
        return next(filter(None, (STAND_INS.get(self._images(key) or "", "") for key in images)), "")

    def statuses(
        self, proxy: Proxy, dataset: str, indices: np.ndarray, inputs: str = PAPER_INPUTS, seed: int = 0
    ) -> dict[int, str]:
        """Why a proxy has no score for each of the architectures `indices` (n,) for which the store holds none."""
        key = self._key(proxy, dataset, inputs, seed)
        found: dict[int, str] = {}
        for one in (key, *alike(self.benchmark, proxy, key)):
            frame = self.store.read(one, proxy.version_on(self.benchmark.space))
            frame = frame[~frame["status"].str.startswith("error")]
            found = {**dict(zip(frame["index"], frame["status"], strict=True)), **found}
        owners = self.benchmark.representatives
        return {int(i): found.get(i) or found.get(owners[i], "not computed") for i in indices}

    def _images(self, key: ScoreKey) -> str | None:
        """Digest of the images that a partition was computed from."""
        if key not in self._digests:
            self._digests[key] = self.store.images(key)
        return self._digests[key]

    def _key(self, proxy: Proxy, dataset: str, inputs: str, seed: int) -> ScoreKey:
        source = inputs_of(proxy, inputs, dataset)
        return ScoreKey(self.benchmark.scores_of, dataset, source, proxy.label, seed if proxy.random else 0)

    def _aggregate(
        self, aggregate: Aggregate, dataset: str, population: np.ndarray, inputs: str, seed: int, target: str | None
    ) -> Scores:
        read = dataset, population, inputs, seed, target
        members = {name: self.scores(name, *read) for name in aggregate.members}
        missing = {key: count for member in members.values() for key, count in member.missing.items()}
        values = np.full(len(population), np.nan)
        if not missing:
            values = aggregate.combine(np.stack([members[name].values for name in aggregate.members]))
        return Scores(values, missing, _seconds_of(members), np.ones(len(values), bool), _alike_of(members))

    def _learned(
        self, spec: str, dataset: str, population: np.ndarray, inputs: str, seed: int, target: str | None
    ) -> Scores:
        model = LEARNED[spec]
        parts = {
            name: Scores(np.full(len(population), np.nan), {}, 0.0, np.ones(len(population), bool))
            if inapplicable(name, self.benchmark, dataset)
            else self.scores(name, dataset, population, inputs, seed)
            for name in model.members
        }
        missing = {key: count for part in parts.values() for key, count in part.missing.items()}
        values = np.full(len(population), np.nan)
        if len(population) <= model.train:
            return Scores(values, {}, 0.0, np.zeros(len(values), bool))
        known = self.benchmark.accuracies(dataset, target).to_numpy()[population]
        what = spec, dataset, population, seed, target
        if isinstance(model, Labelled):
            ranked = np.ones(len(values), bool)
            if not missing:
                columns = np.stack([parts[name].values for name in model.members])
                values = self._remembered(
                    what,
                    (model.VERSION, columns, known, model.train, seed),
                    lambda: self._spending(spec, columns, known, seed),
                )
                ranked = ~np.isnan(values)
            return Scores(values, missing, _seconds_of(parts), ranked, _alike_of(parts))
        train = training_subset(self.benchmark, population, model.train, seed)
        if not missing:
            columns = [parts[name].values[:, None] for name in model.members]
            if model.graf:
                architectures = [self.benchmark.architectures[i] for i in population]
                features = self.benchmark.space.graph_features(architectures)
                columns += [features[name] for name in model.graf]
            features = np.concatenate(columns, axis=1)
            values = self._remembered(
                what,
                (Forest.VERSION, features, known, train, seed),
                lambda: Forest().rank(features, known, train, seed),
            )
        return Scores(values, missing, _seconds_of(parts), ~train, _alike_of(parts))

    def _spending(self, spec: str, columns: np.ndarray, known: np.ndarray, seed: int) -> np.ndarray:
        """What a combination that spends accuracies makes of scores (m, n): (n,), NaN where it asked for one."""
        model = LEARNED[spec]
        accuracies = Accuracies(known, model.train)
        values = model.rank(columns, accuracies, stable_rng("accuracies spent", spec, self.benchmark.name, seed))
        return np.where(accuracies.asked, np.nan, values)

    def _remembered(self, what: tuple, made_of: tuple, compute: Callable[[], np.ndarray]) -> np.ndarray:
        """`remembered` in the store, under the name of a ranking, a dataset, a population, a seed and a target."""
        spec, dataset, population, seed, target = what
        parts = [self.benchmark.name, dataset, spec, str(len(population)), f"seed{seed}"]
        if not self.benchmark.is_default(target):
            parts.append(quote(target, safe=""))
        name = Path(LEARNED_FOLDER, f"{'-'.join(parts)}.parquet")
        layers = [layer / name for layer in self.store.layers]
        return remembered(self.store.root / name, made_of, compute, layers)

    def _proxy(self, proxy: Proxy, dataset: str, population: np.ndarray, inputs: str, seed: int) -> Scores:
        key = self._key(proxy, dataset, inputs, seed)
        version = proxy.version_on(self.benchmark.space)
        values, seconds, stored = column = self._column(key, version)
        said = []
        for other in alike(self.benchmark, proxy, key):
            theirs = self._column(other, version)
            if theirs is self._nothing:
                continue
            given = theirs.stored & ~stored
            if given.any():
                column = _Column(*(np.where(given, new, old) for new, old in zip(theirs, column, strict=True)))
                values, seconds, stored = column
                said.append((given, reason(self.benchmark, dataset, other.dataset)))
        if column is self._nothing:
            values = np.full(len(population), np.nan)
            missing = {key: self._networks(population)} if len(population) else {}
            return Scores(values, missing, float("nan"), np.ones(len(population), bool))
        own = stored[population]
        source = np.where(own, population, self.benchmark.representatives[population])
        lacking = np.zeros(len(stored), dtype=bool)
        lacking[source[~stored[source]]] = True
        missing = int(np.count_nonzero(lacking))
        return Scores(
            np.where(stored[source], values[source], np.nan),
            {key: missing} if missing else {},
            float(np.nanmedian(seconds[source])) if stored[source].any() else float("nan"),
            np.ones(len(population), bool),
            tuple((proxy.label, what) for given, what in said if given[source].any()),
        )

    def _networks(self, population: np.ndarray) -> int:
        """How many networks that are not alike a population (n,) has."""
        held, count = self._counted.get(id(population), (None, 0))
        if held is not population:
            count = int(np.count_nonzero(np.bincount(self.benchmark.representatives[population])))
            self._counted[id(population)] = population, count
        return count

    @cached_property
    def _nothing(self) -> _Column:
        """The column of a partition without rows: one for all of them, of which a large space has many."""
        size = len(self.benchmark)
        return _Column(np.full(size, np.nan), np.full(size, np.nan), np.zeros(size, dtype=bool))

    def _column(self, key: ScoreKey, version: int) -> _Column:
        if key not in self._columns:
            frame = self.store.read(key, version)
            # What an exception kept from its score may yet get one: it is missing, not failed.
            if (frame["status"] != "ok").any():
                frame = frame[~frame["status"].str.startswith("error")]
            size = len(self.benchmark)
            if frame.empty:
                self._columns[key] = self._nothing
                return self._nothing
            values, seconds = np.full(size, np.nan), np.full(size, np.nan)
            stored = np.zeros(size, dtype=bool)
            index = frame["index"].to_numpy()
            check_range(index, size, self.store.place(key))
            values[index], seconds[index] = (
                frame["score"].to_numpy(dtype=np.float64),
                frame["seconds"].to_numpy(),
            )
            stored[index] = True
            self._columns[key] = _Column(values, seconds, stored)
        return self._columns[key]


def scoring_commands(
    missing: Iterable[tuple[str, ScoreKey]],
    store: ScoreStore | None = None,
    named: Mapping[str, str] | None = None,
) -> dict[tuple[str, ScoreKey], str]:
    """For each missing pair of population and partition the command that computes it, to be pasted into a shell.

    Proxies of equal population, inputs and seed share one. A proxy that reads no mini-batch joins those that read
    noise. A `store` that is not the user's own by default is named.

    Args:
        named: how a command names the proxy of a label, where that is not the label itself.
    """
    named = named or {}
    place = "" if store is None or store.root == user_scores() else " " + shlex.quote(f"store={store.root}")
    groups: dict[tuple, list[tuple[str, ScoreKey]]] = {}
    for population, key in sorted(set(missing)):
        inputs = "random" if key.inputs == "none" else key.inputs
        groups.setdefault((population, key.space, key.dataset, inputs, key.seed), []).append((population, key))
    commands = {}
    for (population, space, dataset, inputs, seed), pairs in groups.items():
        source = "" if inputs == "random" else f" inputs={inputs} inputs.path=DATA"
        names = ",".join(named.get(key.proxy, key.proxy) for _, key in pairs)
        command = (
            f'harness score benchmark={space} dataset={dataset}{source} "proxies=[{names}]" '
            f'seed={seed} "population={population}"{place}'
        )
        commands.update(dict.fromkeys(pairs, command))
    return commands
