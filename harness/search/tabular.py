"""A benchmark as a search space: its cells as genes, its members as the architectures that a search may visit."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.benchmarks.benchmark import Benchmark, Dataset
from harness.errors import HarnessError, UnknownNameError
from harness.search.genes import TOPOLOGY, Allowed, Gene, Genotype, SearchSpace
from harness.spaces import darts, macro, nasbench101, nasbench201

#: A population of which fewer random mutations than this share are members is no neighbourhood to walk in.
CONNECTED = 0.25


@dataclass(frozen=True)
class Coding:
    """How the architectures of one space are lists of genes.

    Attributes:
        places: genotypes (n, genes) of architectures.
        text: writes the architecture of a genotype, None where it is none; needed where several genotypes are one
            architecture, so that members cannot be looked up by their genes.
        measures: named scores (n,) of genotypes that need no network.
    """

    genes: tuple[Gene, ...]
    places: Callable[[Sequence[str]], np.ndarray]
    text: Callable[[Genotype], str | None] | None = None
    measures: dict[str, Callable[[np.ndarray], np.ndarray]] | None = None


def _nasbench201(architectures: Sequence[str]) -> Coding:
    names = [f"edge{source}{target}" for source, target in nasbench201.EDGES]

    def skip(places: np.ndarray) -> np.ndarray:
        """FreeREA's third metric: the mean over the skip edges of the nodes that they jump over; 0 without one."""
        apart = np.array([target - source - 1 for source, target in nasbench201.EDGES])
        skips = places == nasbench201.SKIP
        return (skips * apart).sum(axis=1) / np.maximum(skips.sum(axis=1), 1)

    return Coding(
        tuple(Gene(name, TOPOLOGY, nasbench201.OPERATIONS) for name in names),
        lambda found: np.array([nasbench201.decode(a) for a in found]),
        measures={"skip": skip},
    )


def _nasbench101(architectures: Sequence[str]) -> Coding:
    """An edge of the seven vertices is a gene, and so is the operation of each inner vertex.

    The output is vertex 6; vertices that lie on no path from input to output count for nothing, so that several
    genotypes are one cell.
    """
    last = nasbench101.MAX_VERTICES - 1
    edges = [(x, y) for y in range(1, last + 1) for x in range(y)]
    genes = [Gene(f"edge{x}{y}", TOPOLOGY, (0, 1)) for x, y in edges]
    genes += [Gene(f"vertex{v}", TOPOLOGY, nasbench101.OPERATIONS) for v in range(1, last)]

    def places(found: Sequence[str]) -> np.ndarray:
        cells = nasbench101.Cells.of(found)
        matrices = nasbench101.edges_of(cells.vertices, cells.bits)
        chosen = np.stack([matrices[:, x, y] for x, y in edges], axis=1).astype(np.int8)
        return np.concatenate([chosen, np.maximum(cells.codes, 0)], axis=1)

    def text(genotype: Genotype) -> str | None:
        present = [edge for edge, bit in zip(edges, genotype, strict=False) if bit]
        reached, leads = {0}, {last}
        for x, y in present:  # in the order of their targets
            if x in reached:
                reached.add(y)
        for x, y in sorted(present, reverse=True):
            if y in leads:
                leads.add(x)
        kept = sorted(reached & leads)
        number = {vertex: i for i, vertex in enumerate(kept)}
        within = [(number[x], number[y]) for x, y in present if x in number and y in number]
        if last not in reached or len(within) > nasbench101.MAX_EDGES:
            return None
        bits = sum(1 << x + y * (y - 1) // 2 for x, y in within)
        inner = genotype[len(edges) :]
        codes = tuple(inner[vertex - 1] for vertex in kept[1:-1])
        return nasbench101.encode(nasbench101.Graph(len(kept), bits, codes))

    return Coding(tuple(genes), places, text)


def _darts(architectures: Sequence[str]) -> Coding:
    """Operation and source of each of a cell's eight edges; one cell where all architectures have equal cells."""
    genotypes = [darts.decode(a) for a in architectures]
    if not all(map(darts.is_of_darts, genotypes)):
        raise HarnessError(
            "search moves in DARTS's own cells, four nodes that are all concatenated, in networks of one size: take a "
            "benchmark of such, for instance nasbench301"
        )
    both = any(genotype.normal != genotype.reduce for genotype in genotypes)
    genes = []
    for cell in ("normal", "reduce")[: 2 if both else 1]:
        for edge in range(2 * darts.NODES):
            genes.append(Gene(f"{cell}.operation{edge}", TOPOLOGY, darts.DARTS_OPERATIONS))
            genes.append(Gene(f"{cell}.source{edge}", TOPOLOGY, tuple(range(darts.INPUTS + edge // 2))))

    def places(found: Sequence[str]) -> np.ndarray:
        cells = [darts.decode(a)[: 2 if both else 1] for a in found]
        return np.array([[value for cell in pair for edge in cell for value in edge] for pair in cells])

    return Coding(tuple(genes), places)


def _macro(architectures: Sequence[str]) -> Coding:
    genes = tuple(Gene(f"layer{i}", TOPOLOGY, ("0", "1", "2")) for i in range(sum(macro.STAGES)))
    return Coding(genes, lambda found: np.array([[int(digit) for digit in a] for a in found]))


#: The coding of each space, made from the architectures of a population.
CODINGS: dict[str, Callable[[Sequence[str]], Coding]] = {
    "nasbench201": _nasbench201,
    "nasbench101": _nasbench101,
    "darts": _darts,
    "macro": _macro,
}


class TabularSpace(SearchSpace):
    """The members of a benchmark's population.

    A move that leaves the population is redrawn. In a scattered population (a sample of a larger space), where
    nearly all moves leave it, a move ends at the member nearest to where it leads, by the number of equal genes.

    Args:
        population: (n,) indices of the benchmark.
    """

    def __init__(self, benchmark: Benchmark, dataset: Dataset, population: np.ndarray):
        if benchmark.card["space"] not in CODINGS:
            raise UnknownNameError("space with a coding for search", benchmark.card["space"], CODINGS)
        self.name = benchmark.name
        self.benchmark, self.dataset, self.population = benchmark, dataset, population
        everything = benchmark.architectures
        complete = len(population) == len(everything)
        self.architectures = everything if complete else [everything[int(i)] for i in population]
        self.coding = CODINGS[benchmark.card["space"]](self.architectures)
        self.genes = self.coding.genes
        self.places = self.coding.places(self.architectures)
        self._found: dict[Genotype, int | None] = {}

    @cached_property
    def _by_genes(self) -> dict[bytes, int]:
        text, width = np.ascontiguousarray(self.places, dtype=np.int8).tobytes(), len(self.genes)
        return {text[i * width : (i + 1) * width]: i for i in range(len(self.places))}

    @cached_property
    def _by_index(self) -> np.ndarray:
        rows = np.full(len(self.benchmark), -1)
        rows[self.population] = np.arange(len(self.population))
        return rows

    def row(self, genotype: Genotype) -> int | None:
        """The place of a genotype's architecture in the population, None where it is no member."""
        if genotype not in self._found:
            self._found[genotype] = self._find(genotype)
        return self._found[genotype]

    def _find(self, genotype: Genotype) -> int | None:
        if self.coding.text is None:
            return self._by_genes.get(bytes(genotype))
        text = self.coding.text(genotype)
        try:
            row = -1 if text is None else int(self._by_index[self.benchmark.index(text)])
        except HarnessError:  # a cell of the space that the benchmark does not hold
            row = -1
        return None if row < 0 else row

    def genotype(self, row: int) -> Genotype:
        """The genes of the member at a place of the population."""
        return tuple(self.places[row].tolist())

    def repaired(self, genotype: Genotype, place: int | None = None) -> Genotype | None:
        return None if self.row(genotype) is None else genotype

    @cached_property
    def scattered(self) -> bool:
        """Whether fewer than `CONNECTED` of the mutations of members are members, of 400 drawn."""
        rng = np.random.RandomState(0)
        inside = [self.row(self._moved(self.founder(rng), rng)) is not None for _ in range(400)]
        return float(np.mean(inside)) < CONNECTED

    def _moved(self, genotype: Genotype, rng: np.random.RandomState) -> Genotype:
        places = self.movable()
        place = places[rng.randint(len(places))]
        reach = self.genes[place].reach(genotype[place])
        return (*genotype[:place], reach[rng.randint(len(reach))], *genotype[place + 1 :])

    def _nearest(
        self, wanted: Sequence[int], rng: np.random.RandomState, allowed: Allowed, without: int | None = None
    ) -> Genotype | None:
        """The allowed member with most genes equal to `wanted`, ties decided by `rng`; not the one at `without`."""
        apart = (self.places != np.asarray(wanted)).sum(axis=1) + rng.random_sample(len(self.places)) / 2
        if without is not None:
            apart[without] = np.inf
        nearest = self.genotype(int(apart.argmin()))
        if allowed(nearest):
            return nearest
        for row in np.argsort(apart, kind="stable"):
            if row != without and allowed(self.genotype(row)):
                return self.genotype(row)
        return None

    def founder(self, rng: np.random.RandomState) -> Genotype:
        """A member, each with the same chance."""
        return self.genotype(rng.randint(len(self.places)))

    def mutate(
        self, parent: Genotype, rng: np.random.RandomState, allowed: Allowed, kind: str | None = None, steps: int = 1
    ) -> Genotype:
        if not self.scattered:
            return super().mutate(parent, rng, allowed, kind, steps)
        wanted = parent
        for _ in range(steps):
            wanted = self._moved(wanted, rng)
        found = self._nearest(wanted, rng, allowed, without=self.row(parent))
        if found is None:
            raise HarnessError(f"{self.name} has no other member that keeps the ceilings: raise them")
        return found

    def crossover(
        self, first: Genotype, second: Genotype, rng: np.random.RandomState, allowed: Allowed, kind: str | None = None
    ) -> Genotype:
        if not self.scattered:
            return super().crossover(first, second, rng, allowed, kind)
        taken = rng.randint(2, size=len(first)).astype(bool)
        return self._nearest(np.where(taken, second, first), rng, allowed) or first

    def encode(self, genotype: Genotype) -> str:
        return self.architectures[self.row(genotype)]

    def decode(self, text: str) -> Genotype:
        """The genotype of a member, of several that are one architecture any. Raises HarnessError for another text."""
        try:
            genotype = tuple(self.coding.places([text])[0].tolist())
            member = self.row(genotype) is not None
        except (HarnessError, ValueError, LookupError):
            member = False
        if not member:
            raise HarnessError(f"{text!r} is no member of the population of {self.name}")
        return genotype

    @cached_property
    def _counted(self) -> dict[str, np.ndarray]:
        space = self.benchmark.space_of(self.dataset.name)
        return space.topology(self.architectures, self.dataset.classes, self.dataset.resolution)

    def counts(self, genotype: Genotype) -> dict[str, float]:
        row = self.row(genotype)
        return {name: float(self._counted[name][row]) for name in ("params", "flops")}
