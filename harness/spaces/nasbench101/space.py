"""NAS-Bench-101: the official names of cells, all of them, and their counts."""

from __future__ import annotations

import hashlib
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property, lru_cache
from typing import TYPE_CHECKING, NamedTuple, overload

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space
from harness.spaces.nasbench101.cell import (
    CELLS_PER_STACK,
    CHANNELS,
    CONV1,
    CONV3,
    INNER,
    MAX_EDGES,
    MAX_VERTICES,
    OPERATIONS,
    POOL,
    Graph,
    decode,
    edge_bit,
    edges_of,
    encode,
    parse,
    rows_of,
    vertex_channels,
)

if TYPE_CHECKING:
    from torch import nn


@lru_cache(maxsize=10_000)
def _neighbours(vertices: int, bits: int) -> tuple[tuple[tuple[int, ...], tuple[int, ...]], ...]:
    """For each vertex its sources and its targets."""
    sources = [tuple(x for x in range(v) if bits >> edge_bit(x, v) & 1) for v in range(vertices)]
    targets = [tuple(y for y in range(v + 1, vertices) if bits >> edge_bit(v, y) & 1) for v in range(vertices)]
    return tuple(zip(sources, targets, strict=True))


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


#: Colours that the refinement starts from, by (out-degree, in-degree, label): some dozens in all.
_first_colour = lru_cache(maxsize=1_000)(lambda *described: _md5(str(described)))


def module_hash(graph: Graph) -> str:
    """The official name of a cell, 32 hexadecimal digits, equal for isomorphic cells and for these alone.

    Colour refinement with MD5: a vertex starts from its out-degree, in-degree and label (the operation's code,
    -1 for the input, -2 for the output), and takes, once for each vertex, the colours of its sources, its
    targets and itself. The sorted colours of all vertices are the name. That no two cells of the space share
    one was checked exhaustively by the benchmark's authors.
    """
    neighbours = _neighbours(graph.vertices, graph.bits)
    labels = (-1, *graph.operations, -2)
    colours = [
        _first_colour(len(targets), len(sources), label)
        for (sources, targets), label in zip(neighbours, labels, strict=True)
    ]
    for _ in range(graph.vertices):
        colours = [
            _md5(
                f"{''.join(sorted([colours[v] for v in sources]))}|"
                f"{''.join(sorted([colours[v] for v in targets]))}|{own}"
            )
            for (sources, targets), own in zip(neighbours, colours, strict=True)
        ]
    return _md5(str(sorted(colours)))


class Cells(Sequence[str]):
    """Cells kept as three arrays; a text is made when it is asked for.

    Args:
        vertices: (n,) int8, numbers of vertices.
        bits: (n,) int32, edges as in `Graph`.
        codes: (n, 5) int8, codes of the inner vertices, -1 where a cell has fewer.
    """

    def __init__(self, vertices: np.ndarray, bits: np.ndarray, codes: np.ndarray):
        self.vertices, self.bits, self.codes = vertices, bits, codes

    @classmethod
    def of(cls, architectures: Sequence[str]) -> Cells:
        """The arrays of any sequence of texts. Raises HarnessError as `decode`."""
        if isinstance(architectures, cls):
            return architectures
        graphs = [decode(text) for text in architectures]
        padded = [(*graph.operations, *[-1] * (MAX_VERTICES - graph.vertices)) for graph in graphs]
        return cls(
            np.array([graph.vertices for graph in graphs], dtype=np.int8),
            np.array([graph.bits for graph in graphs], dtype=np.int32),
            np.array(padded, dtype=np.int8).reshape(-1, INNER),
        )

    def graph(self, index: int) -> Graph:
        """The cell at `index`."""
        vertices = int(self.vertices[index])
        return Graph(vertices, int(self.bits[index]), tuple(self.codes[index, : vertices - 2].tolist()))

    def __len__(self) -> int:
        return len(self.bits)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Cells: ...
    def __getitem__(self, index):
        if isinstance(index, slice):
            return Cells(self.vertices[index], self.bits[index], self.codes[index])
        vertices, bits, codes = self.graph(operator.index(index))
        return f"{_head(vertices, bits)}|{_names(codes)}"

    def __iter__(self) -> Iterator[str]:
        for vertices, bits, codes in zip(self.vertices.tolist(), self.bits.tolist(), self.codes.tolist(), strict=True):
            yield f"{_head(vertices, bits)}|{_names(tuple(codes[: vertices - 2]))}"

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The cells' numbers (`_key`), sorted, and where each stands."""
        keys = _key(self.bits, self.codes)
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def index(self, value: str) -> int:
        """Index of the cell that is written `value`, or else of one that is isomorphic to it.

        Raises:
            HarnessError: `value` is no cell. ValueError: none is isomorphic to it.
        """
        written = Cells.of([value])
        wanted = np.concatenate([_key(written.bits, written.codes), _key(*_relabelled(decode(value)))])
        keys, order = self._keys
        left, right = np.searchsorted(keys, wanted, "left"), np.searchsorted(keys, wanted, "right")
        found = order[left[left < right]]
        if not len(found):
            raise ValueError(f"no cell here is isomorphic to {value}")
        return int(found[0])

    def __contains__(self, value: object) -> bool:
        try:
            self.index(value)
        except (HarnessError, ValueError, AttributeError):
            return False
        return True


_head = lru_cache(maxsize=10_000)(rows_of)
_names = lru_cache(maxsize=1_000)(lambda codes: ",".join(OPERATIONS[code] for code in codes))


def _key(bits: np.ndarray, codes: np.ndarray) -> np.ndarray:
    """One int64 a cell, for edges (n,) and codes (n, 5): the edges of a cell tell its number of vertices too."""
    return bits.astype(np.int64) * 4**INNER + (codes + 1) @ 4 ** np.arange(INNER)


class _Permutations(NamedTuple):
    """All orders of the inner vertices.

    Attributes:
        moves: (p, n) int: where each vertex goes.
        weights: (p, edges) int64: the bit that each bit of the edges becomes, as a number; `_BACKWARD` where
            the edge would point backwards.
    """

    moves: np.ndarray
    weights: np.ndarray


_BACKWARD = 1 << 40


@cache
def _permutations(vertices: int) -> _Permutations:
    inner = itertools.permutations(range(1, vertices - 1))
    moves = np.array([(0, *order, vertices - 1) for order in inner])
    edges = [(x, y) for y in range(vertices) for x in range(y)]
    weights = [[1 << edge_bit(m[x], m[y]) if m[x] < m[y] else _BACKWARD for x, y in edges] for m in moves.tolist()]
    return _Permutations(moves, np.array(weights, dtype=np.int64).reshape(len(moves), -1))


def _present(vertices: int, bits: np.ndarray) -> np.ndarray:
    """(n, edges) int64, 1 where the bit is set."""
    return bits[:, None].astype(np.int64) >> np.arange(vertices * (vertices - 1) // 2) & 1


def _relabelled(graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Edges (p,) and codes (p, 5) of the cell under all orders of its inner vertices that keep edges forward."""
    moves, weights = _permutations(graph.vertices)
    bits = _present(graph.vertices, np.array([graph.bits]))[0] @ weights.T
    codes = np.full((len(moves), INNER), -1)
    np.put_along_axis(codes, moves[:, 1:-1] - 1, np.array([graph.operations], dtype=np.int64), axis=1)
    forward = bits < _BACKWARD
    return bits[forward], codes[forward]


def enumerate_cells(max_vertices: int = MAX_VERTICES) -> Cells:
    """All cells of up to `max_vertices` vertices and 9 edges, one of each isomorphism class, made from nothing.

    Of each class the cell that the official generator meets first: the smallest `bits`, then the operations
    that come first in lexicographic order. In the order of that generator: vertices, bits, operations.
    """
    parts = []
    for vertices in range(2, max_vertices + 1):
        bits = _least_graphs(vertices)
        moves, weights = _permutations(vertices)
        labels = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=vertices - 2)), dtype=np.int64)
        labels = labels.reshape(len(OPERATIONS) ** (vertices - 2), vertices - 2)
        places = len(OPERATIONS) ** np.arange(vertices - 3, -1, -1)
        rank = np.arange(len(labels))
        first = np.ones((len(bits), len(labels)), dtype=bool)
        present = _present(vertices, bits)
        for move, weight in zip(moves, weights, strict=True):
            automorphic = present @ weight == bits
            # The operation of vertex v goes to vertex move[v]: an earlier labelling of the same cell rules this out.
            earlier = labels @ places[move[1:-1] - 1] < rank
            first &= ~(automorphic[:, None] & earlier)
        graph, label = np.nonzero(first)
        codes = np.full((len(graph), INNER), -1, dtype=np.int8)
        codes[:, : vertices - 2] = labels[label]
        parts.append((np.full(len(graph), vertices, dtype=np.int8), bits[graph].astype(np.int32), codes))
    return Cells(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))


def _least_graphs(vertices: int) -> np.ndarray:
    """Edges (n,), ascending, of the graphs without operations: the smallest bits of each isomorphism class."""
    bits = np.arange(1 << vertices * (vertices - 1) // 2, dtype=np.int64)
    bits = bits[np.bitwise_count(bits) <= MAX_EDGES]
    for v in range(vertices):
        entering = sum(1 << edge_bit(x, v) for x in range(v))
        leaving = sum(1 << edge_bit(v, y) for y in range(v + 1, vertices))
        # No vertex without a source, but for the input, and none without a target, but for the output.
        for mask in (entering, leaving):
            if mask:
                bits = bits[bits & mask != 0]
    least = bits.copy()
    present = _present(vertices, bits)
    for weight in _permutations(vertices).weights:
        np.minimum(least, present @ weight, out=least)
    return bits[least == bits]


class NasBench101(Space):
    """The cells of NAS-Bench-101. The benchmark stores one of each isomorphism class, so all of them differ."""

    name = "nasbench101"
    distinct = True

    def encodings(self, columns: Mapping[str, np.ndarray]) -> Cells:
        """The cells from `num_vertices`, `adjacency_bits` and `ops` (a digit an inner vertex), made text on demand."""
        digits = np.asarray(columns["ops"]).astype(f"S{INNER}").view(np.uint8).reshape(-1, INNER)
        codes = np.where(digits == 0, -1, digits.astype(np.int8) - ord("0")).astype(np.int8)
        return Cells(columns["num_vertices"], columns["adjacency_bits"], codes)

    def parse(self, text: str) -> str:
        return encode(parse(text))

    def canonical(self, architecture: str) -> str:
        """The official hash: equal for isomorphic cells."""
        return module_hash(decode(architecture))

    def network_key(self, architecture: str) -> str:
        """The official hash.

        It tells all cells of the benchmark apart. Isomorphic cells that list their vertices in another order than
        the benchmark does have the same key, though an uneven split may give a channel more to another vertex.
        """
        return module_hash(decode(architecture))

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        cells = Cells.of(architectures)
        bits, first, which = np.unique(cells.bits, return_index=True, return_inverse=True)
        edges = edges_of(cells.vertices[first], bits)
        entering, across = edges[:, 0, 1:-1], edges[:, 0, -1]
        # What is the same for all operations of a graph, and what an operation adds at a vertex.
        params = 27 * CHANNELS[0] + 2 * CHANNELS[0] + (CHANNELS[-1] + 1) * num_classes + np.zeros(len(bits))
        flops = 27 * CHANNELS[0] * resolution**2 + CHANNELS[-1] * num_classes + np.zeros(len(bits))
        elementwise = 3 * CHANNELS[0] * resolution**2 + np.zeros(len(bits))
        at_vertex = {
            name: {code: np.zeros((len(bits), INNER)) for code in (CONV3, CONV1, POOL)}
            for name in ("params", "flops", "elementwise")
        }
        before = CHANNELS[0]
        for stack, (width, side) in enumerate(zip(CHANNELS, _stack_sides(resolution), strict=True)):
            area = side**2
            widths = vertex_channels(edges, width).astype(np.float64)
            projected = (entering * widths).sum(axis=1) + across * width
            weights = projected * (before + (CELLS_PER_STACK - 1) * width)
            params += weights + CELLS_PER_STACK * 2 * projected
            flops += weights * area
            # BatchNorm 2 an element, ReLU 1, pooling its window.
            elementwise += CELLS_PER_STACK * 3 * projected * area + (4 * before * area if stack else 0)
            for code, window in ((CONV3, 9), (CONV1, 1)):
                weights = CELLS_PER_STACK * window * widths**2
                at_vertex["params"][code] += weights + CELLS_PER_STACK * 2 * widths
                at_vertex["flops"][code] += weights * area
                at_vertex["elementwise"][code] += CELLS_PER_STACK * 3 * widths * area
            at_vertex["elementwise"][POOL] += CELLS_PER_STACK * 9 * widths * area
            before = width
        counts = {}
        for name, fixed in (("params", params), ("flops", flops), ("elementwise", elementwise)):
            counts[name] = fixed[which]
            for code, added in at_vertex[name].items():
                counts[name] += np.where(cells.codes == code, added[which], 0).sum(axis=1)
        convolutions = ((cells.codes == CONV3) | (cells.codes == CONV1)).sum(axis=1)
        projections = edges[:, 0].sum(axis=1)[which]
        layers = len(CHANNELS) * CELLS_PER_STACK * (convolutions + projections).astype(np.float64)
        return {**counts, "trainable_layers": 2 + layers, "parameter_tensors": 5 + 3 * layers}

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """The operations of the inner vertices, by stack.

        `channels` are the output channels of the stack's cells, of which a vertex may have but a share. The
        projections of a cell's input, which no cell chooses, are left out, and there are no skips.
        """
        codes = Cells.of(architectures).codes
        kinds, columns = [], []
        for channels, side in zip(CHANNELS, _stack_sides(resolution), strict=True):
            for code, kind, kernel in ((CONV1, "convolution", 1), (CONV3, "convolution", 3), (POOL, "pooling", 3)):
                kinds.append(Operation(kind, kernel, channels, side))
                columns.append(CELLS_PER_STACK * (codes == code).sum(axis=1))
        return tuple(kinds), np.stack(columns, axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network; `thin` has one cell a stack and 4, 8 and 16 channels.

        Up to four vertices share a cell's output channels, so one channel would not do.
        """
        from harness.spaces.nasbench101.network import Network

        graph = decode(architecture)
        return Network(graph, num_classes, (4, 8, 16), 1) if thin else Network(graph, num_classes)


def _stack_sides(resolution: int) -> list[int]:
    """Side of the feature maps in each stack: a stride of 2 rounds up, the pooling being padded."""
    sides = [resolution]
    for _ in CHANNELS[1:]:
        sides.append((sides[-1] + 1) // 2)
    return sides
