"""What a search moves in: genes, each declared topology or size, and spaces of fixed lists of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from harness.errors import HarnessError

TOPOLOGY, SIZE = "topology", "size"

#: An architecture as the places of its genes' values in their options.
Genotype = tuple[int, ...]
Allowed = Callable[[Genotype], bool]

#: Draws after which a search gives up finding a member that keeps the ceilings.
TRIES = 2000


@dataclass(frozen=True)
class Gene:
    """One choice.

    Attributes:
        kind: `topology` or `size`: which of the two searches of a decoupled search changes it.
        options: its values, in order.
        factors, steps: where given, a mutation reaches only the options nearest to these multiples of the value,
            and those at most so many places away; else every other option.
    """

    name: str
    kind: str
    options: tuple[Any, ...]
    factors: tuple[float, ...] = ()
    steps: int | None = None
    _reach: dict[int, tuple[int, ...]] = field(default_factory=dict, compare=False, repr=False)

    def reach(self, place: int) -> tuple[int, ...]:
        """The places that one mutation may move to from `place`; never `place` itself."""
        if place not in self._reach:
            everywhere = range(len(self.options))
            places = set(everywhere) if not self.factors and self.steps is None else set()
            if self.factors:
                wanted = [self.options[place] * factor for factor in self.factors]
                places |= {min(everywhere, key=lambda p: (abs(self.options[p] - w), p)) for w in wanted}
            if self.steps is not None:
                places |= {p for p in everywhere if abs(p - place) <= self.steps}
            self._reach[place] = tuple(sorted(p for p in places if p != place))
        return self._reach[place]


class SearchSpace(ABC):
    """Architectures as genotypes, with the moves of a search. Every move returns a member that is `allowed`."""

    name: str
    genes: tuple[Gene, ...]

    def repaired(self, genotype: Genotype, place: int | None = None) -> Genotype | None:
        """The member that a list of places stands for, None where there is none.

        Args:
            place: the gene that was moved last and is to keep its value where it can.
        """
        return genotype

    @abstractmethod
    def encode(self, genotype: Genotype) -> str:
        """The architecture as text."""

    @abstractmethod
    def decode(self, text: str) -> Genotype:
        """The genotype that `encode` wrote. Raises HarnessError where the text is no member."""

    @abstractmethod
    def counts(self, genotype: Genotype) -> dict[str, float]:
        """`params` and `flops` (multiply-accumulates of convolutions and linear layers, one image), by formula."""

    def founder(self, rng: np.random.RandomState) -> Genotype | None:
        """One draw of a random member, None where the draw is no member."""
        return self.repaired(tuple(rng.randint(len(gene.options)) for gene in self.genes))

    @cached_property
    def _movable(self) -> dict[str | None, tuple[int, ...]]:
        several = [i for i, gene in enumerate(self.genes) if len(gene.options) > 1]
        found = {kind: tuple(i for i in several if self.genes[i].kind == kind) for kind in (TOPOLOGY, SIZE)}
        return {None: tuple(several), **found}

    def movable(self, kind: str | None = None) -> tuple[int, ...]:
        """The genes of a kind (None: of both) that have a choice."""
        return self._movable[kind]

    def random(self, rng: np.random.RandomState, allowed: Allowed) -> Genotype:
        """A random allowed member. Raises HarnessError where none was found."""
        for _ in range(TRIES):
            found = self.founder(rng)
            if found is not None and allowed(found):
                return found
        raise HarnessError(
            f"none of {TRIES} random members of {self.name} keeps the ceilings: raise max_params or max_flops"
        )

    def mutate(
        self, parent: Genotype, rng: np.random.RandomState, allowed: Allowed, kind: str | None = None, steps: int = 1
    ) -> Genotype:
        """An allowed member `steps` moves away, each of one gene of `kind`. Raises HarnessError: none was found."""
        places = self.movable(kind)
        for _ in range(TRIES):
            child: Genotype | None = parent
            for _ in range(steps):
                place = places[rng.randint(len(places))]
                reach = self.genes[place].reach(child[place])
                moved = (*child[:place], reach[rng.randint(len(reach))], *child[place + 1 :])
                child = self.repaired(moved, place)
                if child is None:
                    break
            if child is not None and child != parent and allowed(child):
                return child
        raise HarnessError(
            f"none of {TRIES} mutations of {self.encode(parent)} keeps the ceilings: raise max_params or max_flops"
        )

    def crossover(
        self, first: Genotype, second: Genotype, rng: np.random.RandomState, allowed: Allowed, kind: str | None = None
    ) -> Genotype:
        """Each gene of `kind` from either parent with equal chance, the others from the first.

        The first parent where no child of the two is an allowed member.
        """
        places = self.movable(kind)
        for _ in range(50):
            taken = rng.randint(2, size=len(places))
            child = list(first)
            for place, other in zip(places, taken, strict=True):
                if other:
                    child[place] = second[place]
            found = self.repaired(tuple(child))
            if found is not None and allowed(found):
                return found
        return first

    def values(self, genotype: Genotype) -> dict[str, Any]:
        """The genes' values by name."""
        return {gene.name: gene.options[place] for gene, place in zip(self.genes, genotype, strict=True)}


class OpenSpace(SearchSpace):
    """A space without stored accuracies: its networks are built and scored as they are found.

    An architecture is written as its values, those of a block divided by `.` and blocks by `/`. A gene's name is
    `BLOCK.VALUE`.
    """

    summary: str
    classes: int
    resolution: int
    #: The papers' limits, which hold where a search names none: most parameters and most multiply-accumulates.
    ceilings: tuple[float | None, float | None] = (None, None)

    @abstractmethod
    def plan(self, genotype: Genotype) -> dict[str, Any]:
        """The network as plain data: the arguments of `Network` in the space's network module."""

    @abstractmethod
    def network_module(self) -> Any:
        """The module that defines `Network`, which imports torch alone."""

    def build(self, genotype: Genotype) -> Any:
        """The network in train mode on the CPU, weights as torch makes them by default."""
        return self.network_module().Network(**self.plan(genotype))

    def encode(self, genotype: Genotype) -> str:
        blocks: dict[str, list[str]] = {}
        for name, value in self.values(genotype).items():
            blocks.setdefault(name.rpartition(".")[0], []).append(str(value))
        return "/".join(".".join(values) for values in blocks.values())

    def decode(self, text: str) -> Genotype:
        values = text.strip().replace("/", ".").split(".")
        places = []
        if len(values) == len(self.genes):
            for gene, value in zip(self.genes, values, strict=True):
                named = [str(option) for option in gene.options]
                places.append(named.index(value) if value in named else -1)
        genotype = tuple(places)
        if not places or -1 in places or self.repaired(genotype) != genotype:
            raise HarnessError(f"{text!r} is no member of {self.name}: give {len(self.genes)} values as a search does")
        return genotype


class Tally:
    """Parameters and multiply-accumulates of layers, added up by formula."""

    def __init__(self) -> None:
        self.params = 0
        self.flops = 0

    def conv(
        self, inputs: int, outputs: int, kernel: int, side: int, groups: int = 1, bias: bool = False, norm: bool = True
    ) -> None:
        """A convolution with output maps of `side`, followed by a BatchNorm unless `norm` is False."""
        weights = inputs // groups * outputs * kernel**2
        self.params += weights + outputs * bias + 2 * outputs * norm
        self.flops += weights * side**2

    def linear(self, inputs: int, outputs: int) -> None:
        """A linear layer with bias on one vector."""
        self.params += (inputs + 1) * outputs
        self.flops += inputs * outputs

    @property
    def counts(self) -> dict[str, float]:
        return {"params": float(self.params), "flops": float(self.flops)}


def halved(side: int) -> int:
    """Side of a map after a stride of 2, which rounds up."""
    return (side + 1) // 2


def grid(least: float, most: float, step: int = 8) -> tuple[int, ...]:
    """Multiples of `step` from `least` to `most`, both rounded to one."""
    return tuple(range(max(step, round(least / step) * step), round(most / step) * step + 1, step))
