"""Search algorithms. Each is phases that a run goes through, and what one step of a phase does to its population."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import numpy as np

from harness.errors import HarnessError
from harness.search.genes import SIZE, TOPOLOGY, Genotype, SearchSpace
from harness.specs import configured


class Population(Protocol):
    """What an algorithm may do with a run (`harness.search.engine.Run`); members are places in its history."""

    rng: np.random.RandomState

    @property
    def population(self) -> list[int]:
        """Places of the current members; algorithms change it."""

    def random(self) -> Genotype:
        """A random member that keeps the ceilings."""

    def mutated(self, parent: int, steps: int = 1) -> Genotype:
        """A mutation of the phase's genes."""

    def crossed(self, first: int, second: int) -> Genotype:
        """A crossing in the phase's genes."""

    def evaluate(self, genotype: Genotype) -> int:
        """Scores a member by the phase's proxies and gives its place in the history."""

    def ranked(self, members: Sequence[int]) -> list[int]:
        """Members from the best down, the earlier of equals first."""

    def survivors(self, size: int) -> None:
        """Cut the population to its best; it stays in the order of age."""

    def left(self) -> bool:
        """Whether the phase has budget left."""


@dataclass(frozen=True)
class Phase:
    """A part of a run.

    Attributes:
        share: of the run's budget.
        columns: the proxies that lead it, as places in the run's list.
        kind: of the genes that it changes; None for all.
        size: of its population. tournament: members drawn for a tournament.
        founders: how its population begins: `random` members; `merged`, the best of all populations so far;
            `seeded`, the best member of the phase before and its crossings with random members in the phase's genes.
    """

    name: str
    share: float
    columns: tuple[int, ...]
    kind: str | None = None
    size: int = 0
    tournament: int = 0
    founders: str = "random"


@dataclass(frozen=True)
class Algorithm(ABC):
    """Settings of an algorithm; `phases` and `evolve` are what it does with them."""

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]

    @abstractmethod
    def phases(self, space: SearchSpace, proxies: int) -> list[Phase]:
        """The phases for a space and a number of proxies; shares sum to 1. Raises HarnessError: they do not fit."""

    @abstractmethod
    def evolve(self, run: Population, phase: Phase) -> None:
        """One step with a full population. Evaluates at least one member unless the budget is spent."""


def drawn(run: Population, size: int) -> list[int]:
    """A tournament: `size` different members of the population, or all where it has fewer."""
    population = run.population
    return [population[i] for i in run.rng.permutation(len(population))[:size]]


@dataclass(frozen=True)
class RandomSearch(Algorithm):
    """Random members, the best of which counts."""

    name: ClassVar[str] = "random_search"
    summary: ClassVar[str] = "random members"
    citation: ClassVar[str] = "Li & Talwalkar, UAI 2019"

    def phases(self, space: SearchSpace, proxies: int) -> list[Phase]:
        return [Phase("random", 1.0, tuple(range(proxies)), size=1)]

    def evolve(self, run: Population, phase: Phase) -> None:
        run.population.append(run.evaluate(run.random()))
        run.survivors(1)


@dataclass(frozen=True)
class _Evolution(Algorithm):
    """One phase in which all proxies lead and all genes change."""

    population: int = 100
    tournament: int = 25

    def phases(self, space: SearchSpace, proxies: int) -> list[Phase]:
        return [Phase("evolution", 1.0, tuple(range(proxies)), size=self.population, tournament=self.tournament)]


@dataclass(frozen=True)
class RegularisedEvolution(_Evolution):
    """The best of a random sample is mutated; its child enters and the oldest member leaves."""

    name: ClassVar[str] = "regularised_evolution"
    summary: ClassVar[str] = "tournament, one mutation, the oldest dies"
    citation: ClassVar[str] = "Real et al., Regularized Evolution, AAAI 2019"

    def evolve(self, run: Population, phase: Phase) -> None:
        parent = run.ranked(drawn(run, phase.tournament))[0]
        run.population.append(run.evaluate(run.mutated(parent)))
        run.population.pop(0)


def breed(run: Population, phase: Phase, mutants: int, steps: int) -> None:
    """A step of FreeREA: mutants of a tournament's two best and their crossing; the oldest dies, the best stay."""
    parents = run.ranked(drawn(run, phase.tournament))[:2]
    children = [(run.mutated, (parent, steps)) for parent in parents for _ in range(mutants)]
    if len(parents) == 2:
        children.append((run.crossed, tuple(parents)))
    before = len(run.population)
    for make, arguments in children:
        if run.left():
            run.population.append(run.evaluate(make(*arguments)))
    if len(run.population) > before:
        run.population.remove(min(run.population))
    run.survivors(phase.size)


@dataclass(frozen=True)
class FreeRea(_Evolution):
    """FreeREA: two parents by tournament, `mutants` children of each by `steps` mutations, and their crossing.

    The oldest member dies, then the best of parents and children stay. Members are ranked by the proxies' sum, each
    over its greatest magnitude among the members compared (`combine=normalised_sum`).
    """

    name: ClassVar[str] = "freerea"
    summary: ClassVar[str] = "tournament, mutants and crossing of two parents, oldest and worst die"
    citation: ClassVar[str] = "Cavagnero et al., FreeREA, WACV 2023"

    mutants: int = 1
    steps: int = 1

    def evolve(self, run: Population, phase: Phase) -> None:
        breed(run, phase, self.mutants, self.steps)


@dataclass(frozen=True)
class Decoupled(Algorithm):
    """The decoupled cyclic search: topology by the first proxy, size by the second, in turns.

    `starts` small populations are led by the first proxy alone, for a third of the budget; the best of them found
    the main population, which searches topology, then size, `cycles` times over. In a phase only the genes of its
    kind change; the best member of each phase seeds the next. Steps are FreeREA's. In a space without genes of a
    kind the phases of that kind are left out.

    The paper's times: 5 x 3 minutes, then phases of 5 minutes, 45 in all. Not said there: which genes the starts
    change (`start_genes`: all), and how a seed becomes a population (its crossings with random members).
    """

    name: ClassVar[str] = "decoupled"
    summary: ClassVar[str] = "topology by the first proxy and size by the second, in turns, from several starts"
    citation: ClassVar[str] = "Cavagnero et al., Entropic Score, 2023 (arXiv 2310.04179)"

    starts: int = 5
    start_population: int = 25
    start_tournament: int = 5
    start_genes: str = "all"
    start_share: float = 1 / 3
    population: int = 50
    tournament: int = 10
    cycles: int = 3

    def phases(self, space: SearchSpace, proxies: int) -> list[Phase]:
        kinds = [kind for kind in (TOPOLOGY, SIZE) if space.movable(kind)]
        if proxies != 2:
            raise HarnessError(
                "algorithm=decoupled takes two proxies, that of the topology first: proxies=[entropic_score,logsynflow]"
            )
        if self.start_genes not in ("all", TOPOLOGY):
            raise HarnessError(f"start_genes={self.start_genes!r} is neither 'all' nor 'topology'")
        if not 0 < self.start_share < 1:
            raise HarnessError(
                f"start_share={self.start_share} is no part of the budget: give a number between 0 and 1"
            )
        column = {TOPOLOGY: (0,), SIZE: (1,)}
        changed = None if self.start_genes == "all" else TOPOLOGY
        found = [
            Phase(
                f"start {number + 1}",
                self.start_share / self.starts,
                (0,),
                changed,
                self.start_population,
                self.start_tournament,
            )
            for number in range(self.starts)
        ]
        share = (1 - self.start_share) / (len(kinds) * self.cycles)
        for cycle in range(self.cycles):
            for kind in kinds:
                founders = "merged" if cycle == 0 and kind == kinds[0] and column[kind] == (0,) else "seeded"
                found.append(
                    Phase(f"{kind} {cycle + 1}", share, column[kind], kind, self.population, self.tournament, founders)
                )
        return found

    def evolve(self, run: Population, phase: Phase) -> None:
        breed(run, phase, 1, 1)


ALGORITHMS: dict[str, type[Algorithm]] = {
    cls.name: cls for cls in (RandomSearch, RegularisedEvolution, FreeRea, Decoupled)
}


def get_algorithm(spec: str) -> Algorithm:
    """The algorithm that a text such as `freerea:population=25:tournament=5` names.

    Raises UnknownNameError, HarnessError.
    """
    found = configured(spec, "search algorithm", ALGORITHMS)
    for name in ("population", "tournament", "mutants", "steps", "starts", "start_population", "cycles"):
        if getattr(found, name, 1) < 1:
            raise HarnessError(f"search algorithm {spec!r}: {name} must be 1 at least")
    return found


def order(fitness: np.ndarray) -> np.ndarray:
    """Places from the best down, the earlier of equals first."""
    return np.argsort(-fitness, kind="stable")
