"""What leads a search: scores of the members that it visits, and the fitness that several proxies make."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from harness.errors import HarnessError, UnknownNameError
from harness.probes.neutral import neutral
from harness.proxies import get_proxy
from harness.rankings.aggregates import OPERATIONS, find_aggregate
from harness.rankings.results import Reader, scoring_commands
from harness.search.genes import Genotype, OpenSpace
from harness.search.tabular import TabularSpace


class Scored(NamedTuple):
    """Scores, NaN where a network has none, by place of the proxy; and the time that they took or stand for."""

    values: tuple[float, ...]
    seconds: float


def normalised_sum(scores: np.ndarray) -> np.ndarray:
    """FreeREA's ranking: sum over rows of scores (m, n) of each over its greatest magnitude: (n,)."""
    finite = np.isfinite(scores)
    top = np.abs(np.where(finite, scores, 0)).max(axis=1, keepdims=True, initial=0)
    return np.where(finite, scores / np.where(top > 0, top, 1), -np.inf).sum(axis=0)


COMBINATIONS = {**OPERATIONS, "normalised_sum": normalised_sum}


def fitness(scores: np.ndarray, combine: str) -> np.ndarray:
    """Fitness (n,) of scores (n, m) over just these n members; a member without a score ranks last."""
    combined = scores[:, 0] if scores.shape[1] == 1 else COMBINATIONS[combine](scores.T)
    return np.where(np.isfinite(combined), combined, -np.inf)


def best_so_far(scores: np.ndarray, combine: str) -> np.ndarray:
    """(n,): the place of the fittest of the first i + 1 members, the earlier of equals, from scores (n, m)."""
    if scores.shape[1] == 1:
        values = fitness(scores, combine)
        leads = np.r_[True, values[1:] > np.maximum.accumulate(values)[:-1]]
        return np.maximum.accumulate(np.where(leads, np.arange(len(values)), 0))
    found = np.zeros(len(scores), dtype=int)
    if combine == "normalised_sum":
        tops = np.maximum.accumulate(np.abs(np.where(np.isfinite(scores), scores, 0)), axis=0)
        for i in range(len(scores)):
            # While the greatest magnitudes stay, so do the fitnesses: only the new member can take the lead.
            changed = i == 0 or (tops[i] != tops[i - 1]).any()
            rivals = np.arange(i + 1) if changed else np.array([found[i - 1], i])
            shares = scores[rivals] / np.where(tops[i] > 0, tops[i], 1)
            found[i] = rivals[np.where(np.isfinite(shares).all(axis=1), shares.sum(axis=1), -np.inf).argmax()]
        return found
    # Over other members, another fitness; of very long runs every so many evaluations, and after the last.
    at = np.unique(np.r_[np.arange(0, len(scores), max(1, len(scores) // 2000)), len(scores) - 1])
    best = np.array([fitness(scores[: i + 1], combine).argmax() for i in at])
    return best[np.searchsorted(at, np.arange(len(scores)), side="right") - 1]


def check_combination(name: str) -> str:
    """The name. Raises UnknownNameError where there is no such combination."""
    if name not in COMBINATIONS:
        raise UnknownNameError("combination of proxies", name, COMBINATIONS)
    return name


class Objective(ABC):
    """Scores members by the proxies named in `labels`."""

    labels: tuple[str, ...]
    #: Definitions of the proxies that the scores belong to.
    versions: tuple[int, ...]
    #: Digests of what else the scores belong to, by what it is: `images` at hand, or a benchmark's `stored_scores`.
    sources: Mapping[str, str] = MappingProxyType({})

    @abstractmethod
    def score(self, genotype: Genotype, columns: Sequence[int]) -> Scored:
        """Scores of the proxies at `columns` of `labels`."""


class MissingScores(HarnessError):
    """Scores of members are not in the store; `commands` compute them."""

    def __init__(self, what: str, commands: Sequence[str]):
        super().__init__(f"{what}: run\n  " + "\n  ".join(commands))
        self.commands = list(commands)


class StoredScores(Objective):
    """Scores of a benchmark's members from a store; seconds are the median time of each proxy's passes.

    Raises:
        MissingScores: scores of members are not in the store.
    """

    def __init__(
        self, space: TabularSpace, reader: Reader, proxies: Sequence[str], population: str, inputs: str, seed: int
    ):
        self.labels = tuple(proxies)
        columns, versions, missing = [], [], set()
        measures = space.coding.measures or {}
        self._seconds = []
        for name in proxies:
            if name in measures:
                columns.append(measures[name](space.places))
                versions.append(1)
                self._seconds.append(0.0)
                continue
            found = reader.scores(name, space.dataset.name, space.population, inputs, seed)
            missing |= set(found.missing)
            columns.append(np.where(found.members, found.values, np.nan))
            versions.append(get_proxy(name).version_on(reader.benchmark.space) if find_aggregate(name) is None else 1)
            self._seconds.append(0.0 if np.isnan(found.seconds) else found.seconds)
        if missing:
            commands = dict.fromkeys(scoring_commands(((population, key) for key in missing), reader.store).values())
            raise MissingScores(f"{reader.store} lacks scores of population {population}", list(commands))
        self.versions = tuple(versions)
        self._values = np.stack(columns, axis=1).astype(np.float64)
        alike = np.where(np.isnan(self._values), np.nan, self._values).astype("<f8")
        self.sources = {"stored_scores": hashlib.sha256(alike.tobytes()).hexdigest()[:16]}
        self._row = space.row

    def score(self, genotype: Genotype, columns: Sequence[int]) -> Scored:
        row = self._values[self._row(genotype)]
        return Scored(tuple(float(row[c]) for c in columns), sum(self._seconds[c] for c in columns))


class NetworkScores(Objective):
    """Scores of an open space's networks, built and scored when asked for.

    Their only parameters that no initialisation draws are the attention's distances, which begin at zero.

    A score depends on (space, architecture, seed) and the mini-batches, as in a benchmark's runs.

    Args:
        inputs: where mini-batches come from, as `harness score` takes them.
        seed: of initialisation and mini-batches.
    """

    def __init__(
        self, space: OpenSpace, proxies: Sequence[str], inputs: str, inputs_path: str | None, seed: int, device: str
    ):
        from harness.engine.inputs import load_inputs
        from harness.engine.scorer import resolve_device

        for name in proxies:
            if find_aggregate(name) is not None:
                raise HarnessError(
                    f"{name} is an aggregate: name its members as proxies, with combine=log_rank_sum or rank_sum"
                )
        self._proxies = [get_proxy(name) for name in proxies]
        self.labels = tuple(proxy.label for proxy in self._proxies)
        self.versions = tuple(proxy.version for proxy in self._proxies)
        self._space, self._seed = space, seed
        self._shape = (3, space.resolution, space.resolution)
        self._inputs = load_inputs(inputs, inputs_path, space.classes, self._shape)
        self._inputs.check_enough(self._proxies)
        if self._inputs.digest is not None and any(proxy.inputs != "none" for proxy in self._proxies):
            self.sources = {"images": self._inputs.digest}
        self._device = resolve_device(device)
        self._batches: dict[tuple[int, int], Any] = {}

    def _batch(self, number: int, size: int) -> Any:
        import torch

        if (number, size) not in self._batches:
            images, labels = self._inputs.batch(self._seed, number, size)
            with neutral(self._device):
                self._batches[number, size] = (
                    torch.from_numpy(images).to(self._device),
                    torch.from_numpy(labels).to(self._device),
                )
        return self._batches[number, size]

    def score(self, genotype: Genotype, columns: Sequence[int]) -> Scored:
        import time

        from harness.engine.scorer import score_subject
        from harness.probes.base import Subject
        from harness.seeds import stable_seed

        started = time.perf_counter()
        proxies = [self._proxies[c] for c in columns]
        with neutral(self._device):
            network = self._space.build(genotype).to(self._device)
            subject = Subject(
                network,
                self._batch,
                stable_seed(self._space.name, self._space.encode(genotype), self._seed),
                self._shape,
                self._space.classes,
                self._device,
                stages=network.stages,
                plain=True,
                family=stable_seed(self._space.name, self._seed),
                images_at_hand=self._inputs.count,
            )
            found = score_subject(subject, proxies)
        for result in found.values():
            if result.status.startswith("error"):
                raise HarnessError(f"{self._space.encode(genotype)} cannot be scored: {result.status}")
        values = tuple(np.nan if found[p.label].score is None else found[p.label].score for p in proxies)
        return Scored(values, time.perf_counter() - started)
