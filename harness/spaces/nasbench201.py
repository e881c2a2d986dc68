"""NAS-Bench-201 (Dong & Yang, ICLR 2020), which is also NATS-Bench's topology space.

A cell is a complete DAG of four nodes; each of its six edges carries one of five operations. The network is a
3x3 stem, three stages of five cells at 16, 32 and 64 channels, a residual block of stride 2 between stages,
and BatchNorm-ReLU-pooling-linear at the end.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV1, CONV3, POOL = range(5)
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # places in EDGES of each way from input to output
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (from, to), in the order of the cell's string
CHANNELS = (16, 32, 64)
CELLS_PER_STAGE = 5

# NASLib writes a cell as six numbers: its own order of operations, on its own order of edges.
NASLIB_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
NASLIB_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

_NASLIB = re.compile(r"[\[(]\s*" + r"\s*,\s*".join(["([0-4])"] * len(NASLIB_EDGES)) + r"\s*,?\s*[\])]", re.ASCII)


def encode(operations: Sequence[int]) -> str:
    """The cell's string `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` from its six operation codes in `EDGES` order."""
    terms = [f"{OPERATIONS[code]}~{source}" for code, (source, _) in zip(operations, EDGES, strict=True)]
    return "+".join("|" + "|".join(part) + "|" for part in (terms[:1], terms[1:3], terms[3:]))


def _columns(target: int) -> dict[str, int]:
    """The part of a cell's string that lists what enters node `target`, and its number: a digit an edge, base 5."""
    sources = range(target)
    parts = itertools.product(OPERATIONS, repeat=target)
    return {"|" + "".join(f"{op}~{s}|" for op, s in zip(ops, sources, strict=True)): i for i, ops in enumerate(parts)}


_FIRST, _SECOND, _THIRD = map(_columns, (1, 2, 3))
_CODES = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))), dtype=np.int8)


def _numbers(architectures: Iterable[str]) -> np.ndarray:
    """(n,) int64: the rows of `_CODES` that cells' strings stand for. Raises HarnessError for one that is malformed."""
    second, third = len(OPERATIONS) ** 5, len(OPERATIONS) ** 3

    def number(architecture: str) -> int:
        first, *rest = architecture.split("+")
        try:
            one, two = rest
            return _FIRST[first] * second + _SECOND[one] * third + _THIRD[two]
        except (KeyError, ValueError):
            raise HarnessError(
                f"{architecture!r} is not a NAS-Bench-201 cell: write it as |op~0|+|op~0|op~1|+|op~0|op~1|op~2| "
                f"with operations {', '.join(OPERATIONS)}"
            ) from None

    return np.fromiter(map(number, architectures), dtype=np.int64)


def decode(architecture: str) -> tuple[int, ...]:
    """Six operation codes (indices into `OPERATIONS`, in `EDGES` order). Raises HarnessError if malformed."""
    return tuple(_CODES[_numbers([architecture])[0]].tolist())


class Cells(list[str]):
    """A benchmark's cells, which never change: their codes are read off the strings once."""

    @cached_property
    def codes(self) -> np.ndarray:
        """(n, 6) int8 operation codes."""
        return _CODES[_numbers(self)]


def enumerate_cells() -> list[str]:
    """All 15,625 cells, in the order of their operation codes (not the benchmark's own numbering)."""
    return list(map(encode, _CODES))


def _codes(architectures: Sequence[str]) -> np.ndarray:
    return architectures.codes if isinstance(architectures, Cells) else _CODES[_numbers(architectures)]


def has_no_dead_operation(codes: np.ndarray) -> np.ndarray:
    """For codes (n, 6): whether every operation that is not `none` lies on a path from input to output.

    This is the population of VKDNW's Table 1 and of GRAF: 9,445 of the 15,625 cells. The cell of six `none`
    has no operation that could be dead, and is counted in.
    """
    present = codes != NONE
    reached = np.zeros((len(codes), 4), dtype=bool)
    reached[:, 0] = True
    for edge, (source, target) in enumerate(EDGES):
        reached[:, target] |= present[:, edge] & reached[:, source]
    leads = np.zeros_like(reached)
    leads[:, 3] = True
    for edge in (5, 4, 2, 3, 1, 0):  # targets before sources
        source, target = EDGES[edge]
        leads[:, source] |= present[:, edge] & leads[:, target]
    alive = np.stack([reached[:, s] & leads[:, t] for s, t in EDGES], axis=1)
    return (alive | ~present).all(axis=1)


@lru_cache(maxsize=40_000)  # two keys for each cell
def cell_key(codes: tuple[int, ...], keep_dead: bool, strided: bool = False) -> str:
    """Canonical text of the cell as a DAG of its parametric operations and poolings.

    With `strided` it is a cell of stride 2, in which a skip of the cell's input has weights.

    Skips dissolve into the sums that they feed, `none` contributes nothing, and two poolings of the same sum
    are one term; two convolutions of the same sum stay two, having weights of their own. A convolution whose
    input is empty is kept: its BatchNorm still adds a constant. Isomorphic DAGs get one text: instances are
    put in an order that the structure decides, trying all orders where it does not.
    """
    operations: list[int] = []
    inputs: list[tuple[int, ...]] = []  # per instance the sorted multiset of its terms; -1 is the cell's input
    terms: list[list[int]] = [[-1], [], [], []]
    known_pools: dict[tuple[int, ...], int] = {}
    for code, (source, target) in zip(codes, EDGES, strict=True):
        feed = tuple(sorted(terms[source]))
        if code == NONE or (code == POOL and not feed):
            continue
        if code == SKIP and not (strided and source == 0):
            terms[target].extend(terms[source])
            continue
        if code == POOL and feed in known_pools:
            terms[target].append(known_pools[feed])
            continue
        if code == POOL:
            known_pools[feed] = len(operations)
        terms[target].append(len(operations))
        operations.append(code)
        inputs.append(feed)
    output = tuple(sorted(terms[3]))

    live: set[int] = set()
    stack = [i for i in output if i >= 0]
    if keep_dead:
        stack += [i for i, code in enumerate(operations) if code != POOL]
    while stack:
        instance = stack.pop()
        if instance not in live:
            live.add(instance)
            stack.extend(i for i in inputs[instance] if i >= 0)

    # Depth-first labels say how an instance is made, and appearances how it is used; equal ones are permuted.
    def made(instance: int) -> tuple:
        if instance < 0:
            return (-1,)
        return (operations[instance], *sorted(made(i) for i in inputs[instance]))

    kept = sorted(live)
    depth = {-1: 0}
    for instance in kept:
        depth[instance] = 1 + max((depth[i] for i in inputs[instance]), default=0)
    profile = {
        i: (
            depth[i],
            made(i),
            output.count(i),
            tuple(sorted(made(j) for j in kept for k in inputs[j] if k == i)),
        )
        for i in kept
    }
    groups = [
        list(members) for _, members in itertools.groupby(sorted(kept, key=profile.__getitem__), profile.__getitem__)
    ]
    best = None
    for order in itertools.product(*(itertools.permutations(group) for group in groups)):
        flat = list(itertools.chain(*order))
        rank = {-1: -1, **{instance: place for place, instance in enumerate(flat)}}
        text = (
            tuple((operations[i], tuple(sorted(rank[j] for j in inputs[i]))) for i in flat),
            tuple(sorted(rank[j] for j in output)),
        )
        if best is None or text < best:
            best = text
    body = ";".join(f"{OPERATIONS[op]}({','.join(map(str, feed))})" for op, feed in best[0])
    return f"{body}>{','.join(map(str, best[1]))}"


def unique_string(codes: Sequence[int]) -> str:
    """Dong & Yang's name of a cell up to isomorphism, of which there are 6,466 (`get_unique_str` of NATS-Bench's API).

    Each node is written as the sorted sum of what enters it: `#` for a `none` and for whatever reads a node that is
    written `#`, the node's own text for a skip, and `(text)@operation` for the rest; the last node's is the cell's.
    As a text it does not say whether two equal terms are one operation or two, and it keeps count of the zeros:
    docs/canonical_forms.md compares it with `NasBench201.canonical`.
    """
    texts, terms = ["0"], [[], [], [], []]
    for code, (source, target) in zip(codes, EDGES, strict=True):
        if len(texts) <= source:
            texts.append("+".join(sorted(terms[source])))
        text = texts[source]
        if code == NONE or text == "#":
            terms[target].append("#")
        else:
            terms[target].append(text if code == SKIP else f"({text})@{OPERATIONS[code]}")
    return "+".join(sorted(terms[-1]))


class NasBench201(Space):
    """The 15,625 cells of NAS-Bench-201.

    `no_dead_ops` names the 9,445 that VKDNW and GRAF rank, `unique_strings` the first cell of each of the 6,466
    classes that the literature counts (`unique_string`); `unique` has one of each canonical form.
    """

    name = "nasbench201"
    populations = ("all", "unique", "no_dead_ops", "unique_strings")

    def encodings(self, columns: Mapping[str, np.ndarray]) -> Cells:
        (column,) = columns.values()
        return Cells(column.tolist())

    def parse(self, text: str) -> str:
        """The cell's string, from itself or from NASLib's tuple of six numbers (`nasbench201/conversions.py`)."""
        naslib = _NASLIB.fullmatch(text.strip())
        if naslib:
            named = {e: NASLIB_OPERATIONS[int(number)] for e, number in zip(NASLIB_EDGES, naslib.groups(), strict=True)}
            return encode([OPERATIONS.index(named[edge]) for edge in EDGES])
        decode(text.strip())
        return text.strip()

    def canonical(self, architecture: str) -> str:
        return cell_key(decode(architecture), keep_dead=False)

    def network_key(self, architecture: str) -> str:
        return cell_key(decode(architecture), keep_dead=True)

    def in_population(self, population: str, architectures: Sequence[str]) -> np.ndarray:
        if population == "no_dead_ops":
            return has_no_dead_operation(_codes(architectures))
        if population == "unique_strings":
            strings = [unique_string(codes) for codes in _codes(architectures).tolist()]
            return np.isin(np.arange(len(strings)), np.unique(strings, return_index=True)[1])
        return super().in_population(population, architectures)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        codes = _codes(architectures)
        ones = (codes == CONV1).sum(axis=1).astype(np.float64)
        threes = (codes == CONV3).sum(axis=1).astype(np.float64)
        sides = stage_sides(resolution)
        params = 27 * CHANNELS[0] + 2 * CHANNELS[0] + 2 * CHANNELS[-1] + (CHANNELS[-1] + 1) * num_classes
        flops = 27 * CHANNELS[0] * sides[0] ** 2 + CHANNELS[-1] * num_classes
        for before, after, side in zip(CHANNELS, CHANNELS[1:], sides[1:], strict=False):
            weights = 9 * before * after + 9 * after * after + before * after
            params += weights + 4 * after
            flops += weights * side**2
        params = params + np.zeros_like(ones)
        flops = flops + np.zeros_like(ones)
        pools = (codes == POOL).sum(axis=1)
        maps = [width * side**2 for width, side in zip(CHANNELS, sides, strict=True)]
        # BatchNorm 2 an element, ReLU 1, pooling its window: stem, reductions, and the end of the network.
        elementwise = 2 * maps[0] + 3 * maps[-1] + np.zeros_like(ones)
        for width, before, after in zip(CHANNELS, maps, maps[1:], strict=False):
            elementwise += before + 2 * after + after + 2 * after + 4 * width * after // (2 * width)
        for width, side in zip(CHANNELS, sides, strict=True):
            weights = CELLS_PER_STAGE * width * width * (ones + 9 * threes)
            params += weights + CELLS_PER_STAGE * 2 * width * (ones + threes)
            flops += weights * side**2
            elementwise += CELLS_PER_STAGE * width * side**2 * (3 * (ones + threes) + 9 * pools)
        cells = CELLS_PER_STAGE * len(CHANNELS)
        return {
            "params": params,
            "flops": flops,
            "elementwise": elementwise,
            "trainable_layers": 2 + 3 * (len(CHANNELS) - 1) + cells * (ones + threes),
            "parameter_tensors": 7 + 7 * (len(CHANNELS) - 1) + 3 * cells * (ones + threes),
        }

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        codes = _codes(architectures)
        targets = np.array([target for _, target in EDGES])
        arriving = np.stack([((codes != NONE) & (targets == t)).sum(axis=1) for t in targets], axis=1)
        summed = arriving > 1
        counts = {
            ("convolution", 1): (codes == CONV1).sum(axis=1),
            ("convolution", 3): (codes == CONV3).sum(axis=1),
            ("pooling", 3): (codes == POOL).sum(axis=1),
            ("skip", 1): ((codes == SKIP) & summed).sum(axis=1),
            ("skip", 0): ((codes == SKIP) & ~summed).sum(axis=1),
        }
        kinds, columns = [], []
        for channels, side in zip(CHANNELS, stage_sides(resolution), strict=True):
            for (kind, detail), count in counts.items():
                kinds.append(Operation(kind, max(detail, 1), channels, side, kind == "skip" and detail == 1))
                columns.append(CELLS_PER_STAGE * count)
        return tuple(kinds), np.stack(columns, axis=1).astype(np.float64)

    def graph_features(self, architectures: Sequence[str]) -> np.ndarray:
        """GRAF's features (Kadlecova et al., ICML 2024), (n, 191).

        Counts of each operation; and for each set of operations the shortest path from input to output that
        uses only these (4 where there is none), the most edges of the set on a path without `none`, the
        degrees that the set gives to input and output, and the mean in- and out-degree of the inner nodes.
        """
        codes = _codes(architectures)
        columns = [(codes == code).sum(axis=1) for code in range(len(OPERATIONS))]
        open_paths = np.stack([(codes[:, path] != NONE).all(axis=1) for path in PATHS], axis=1)
        for size in range(1, len(OPERATIONS) + 1):
            for chosen in itertools.combinations(range(len(OPERATIONS)), size):
                inside = np.isin(codes, chosen)
                lengths = [np.where(inside[:, path].all(axis=1), len(path), 4) for path in PATHS]
                columns.append(np.min(lengths, axis=0))
                onpath = [inside[:, path].sum(axis=1) * open_paths[:, i] for i, path in enumerate(PATHS)]
                columns.append(np.max(onpath, axis=0))
                columns.append(inside[:, (0, 1, 3)].sum(axis=1))
                columns.append(inside[:, (3, 4, 5)].sum(axis=1))
                columns.append(inside[:, (0, 1, 2)].sum(axis=1) / 2)
                columns.append(inside[:, (2, 4, 5)].sum(axis=1) / 2)
        return np.stack(columns, axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        from harness.spaces.nasbench201_network import Network

        codes = decode(architecture)
        return Network(codes, num_classes, (1, 2, 4), 1) if thin else Network(codes, num_classes)

    def build_regions(self, architecture: str, num_classes: int) -> nn.Module:
        """One cell of one channel, as TE-NAS's `model_config_thin` (C = 1, depth = 1, no stem)."""
        from harness.spaces.nasbench201_network import OneCell

        return OneCell(decode(architecture), num_classes)


def stage_sides(resolution: int) -> list[int]:
    """Side of the feature maps in each stage: a stride of 2 rounds up in the 3x3 convolutions."""
    sides = [resolution]
    for _ in CHANNELS[1:]:
        sides.append((sides[-1] + 1) // 2)
    return sides
