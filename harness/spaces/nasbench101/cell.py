"""The cells of NAS-Bench-101: their text, their edges, and the channels of their vertices."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from harness.errors import HarnessError

OPERATIONS = ("conv3x3-bn-relu", "conv1x1-bn-relu", "maxpool3x3")
CONV3, CONV1, POOL = range(3)
INPUT, OUTPUT = "input", "output"
MAX_VERTICES, MAX_EDGES = 7, 9
INNER = MAX_VERTICES - 2
CHANNELS = (128, 256, 512)
CELLS_PER_STACK = 3

_OWN_FORM = re.compile(r"([0-9]{1,3})\|([01/]*)\|([^|]*)")
_OFFICIAL_FORM = re.compile(r"\[(\s*\[[^\[\]]*\](?:\s*,\s*\[[^\[\]]*\])*\s*)\]\s*[;,]?\s*\[([^\[\]]*)\]")
_HOW = (
    "write it as 3|11/1|conv3x3-bn-relu or as [[0,1,1],[0,0,1],[0,0,0]];[input,conv3x3-bn-relu,output], "
    f"with operations {', '.join(OPERATIONS)}"
)


class Graph(NamedTuple):
    """A cell.

    Attributes:
        vertices: number of vertices, input and output among them.
        bits: the edges: x -> y, x < y, is bit x + y (y - 1) / 2, as in the official generator.
        operations: codes (indices into `OPERATIONS`) of the inner vertices.
    """

    vertices: int
    bits: int
    operations: tuple[int, ...]


def edge_bit(source: int, target: int) -> int:
    """The bit of the edge from `source` to `target` in `Graph.bits`."""
    return source + target * (target - 1) // 2


def rows_of(vertices: int, bits: int) -> str:
    """The first two parts of a cell's text, `N|ROWS`."""
    rows = ("".join(str(bits >> edge_bit(x, y) & 1) for y in range(x + 1, vertices)) for x in range(vertices - 1))
    return f"{vertices}|{'/'.join(rows)}"


def encode(graph: Graph) -> str:
    """The cell's text `N|ROWS|OPERATIONS`."""
    return f"{rows_of(graph.vertices, graph.bits)}|{','.join(OPERATIONS[code] for code in graph.operations)}"


def decode(architecture: str) -> Graph:
    """The cell of a text as `encode` writes it. Raises HarnessError for any other, extraneous vertices included."""
    head, _, names = architecture.rpartition("|")
    try:
        vertices, bits = _structure(head)
        codes = _codes(names)
    except (KeyError, ValueError):
        codes = None
    if codes is None or len(codes) != vertices - 2:
        normal = parse(architecture)  # explains what is wrong, unless it is only the form
        raise HarnessError(f"{architecture!r} is NAS-Bench-101's cell {encode(normal)!r}: write it so")
    return Graph(vertices, bits, codes)


@lru_cache(maxsize=1_000)
def _codes(names: str) -> tuple[int, ...]:
    """Codes of operations as a cell's text lists them. Raises KeyError for an unknown one."""
    known = {name: code for code, name in enumerate(OPERATIONS)}
    return tuple(known[name] for name in names.split(",")) if names else ()


@lru_cache(maxsize=10_000)
def _structure(head: str) -> tuple[int, int]:
    """(vertices, bits) of `N|ROWS` as `encode` writes it. Raises ValueError for another form or an invalid graph."""
    match = _OWN_FORM.fullmatch(f"{head}|")
    matrix = _matrix_of_rows(match[2].split("/")) if match else None
    if matrix is None:
        raise ValueError(head)
    kept = _kept(matrix)
    bits = sum(1 << edge_bit(x, y) for x, row in enumerate(matrix) for y, edge in enumerate(row) if edge)
    normal = len(kept) == len(matrix) <= MAX_VERTICES and bits.bit_count() <= MAX_EDGES
    if not normal or rows_of(len(matrix), bits) != head:
        raise ValueError(head)
    return len(matrix), bits


def parse(text: str) -> Graph:
    """The cell of a text in this module's form, or of the official matrix and operations, without extraneous vertices.

    As in the official API, vertices that do not lie on a path from input to output are dropped first, and the
    limits of 7 vertices and 9 edges hold for what remains. Text is parsed, never evaluated.

    Raises:
        HarnessError: malformed text, a matrix that is not upper triangular, an unknown operation, input and
            output that are not connected, too many vertices or edges.
    """

    def refuse(reason: str) -> HarnessError:
        return HarnessError(f"{text!r} is not a NAS-Bench-101 cell: {reason}; {_HOW}")

    stripped = text.strip()
    own, official = _OWN_FORM.fullmatch(stripped), _OFFICIAL_FORM.fullmatch(stripped)
    if own:
        matrix = _matrix_of_rows(own[2].split("/"))
        if matrix is None or len(matrix) != int(own[1]):
            raise refuse(f"its rows are not those of {own[1]} vertices")
        names = [name.strip() for name in own[3].split(",")] if own[3].strip() else []
        if len(names) != len(matrix) - 2:
            raise refuse(f"{len(names)} operations for {len(matrix) - 2} inner vertices")
    elif official:
        rows = re.findall(r"\[([^\[\]]*)\]", official[1])
        cells = [[entry.strip() for entry in row.split(",")] for row in rows]
        labels = [name.strip().strip("'\"") for name in official[2].split(",")]
        if len(cells) < 2 or any(len(row) != len(cells) for row in cells):
            raise refuse("its matrix is not square, with one row per vertex")
        if any(entry not in ("0", "1") for row in cells for entry in row):
            raise refuse("its matrix has entries other than 0 and 1")
        if any(entry == "1" for x, row in enumerate(cells) for entry in row[: x + 1]):
            raise refuse("its matrix is not upper triangular")
        if len(labels) != len(cells):
            raise refuse(f"{len(labels)} operations, input and output among them, for {len(cells)} vertices")
        if (labels[0], labels[-1]) != (INPUT, OUTPUT):
            raise refuse("its operations do not begin with input and end with output")
        matrix = [[entry == "1" for entry in row] for row in cells]
        names = labels[1:-1]
    else:
        raise refuse("its form is unknown")
    unknown = [name for name in names if name not in OPERATIONS]
    if unknown:
        raise refuse(f"unknown operation {unknown[0]!r}")
    kept = _kept(matrix)
    if len(kept) < 2:
        raise refuse("its output is not connected to its input")
    edges = [(i, j) for (i, x), (j, y) in itertools.combinations(enumerate(kept), 2) if matrix[x][y]]
    if len(kept) > MAX_VERTICES:
        raise refuse(f"{len(kept)} vertices lie between input and output, these included; at most {MAX_VERTICES} may")
    if len(edges) > MAX_EDGES:
        raise refuse(f"{len(edges)} edges lead from input to output; at most {MAX_EDGES} may")
    codes = tuple(OPERATIONS.index(names[vertex - 1]) for vertex in kept[1:-1])
    return Graph(len(kept), sum(1 << edge_bit(x, y) for x, y in edges), codes)


def _matrix_of_rows(rows: Sequence[str]) -> list[list[bool]] | None:
    """The square matrix whose parts right of the diagonal are `rows`, or None where their lengths do not fit."""
    vertices = len(rows) + 1
    if [len(row) for row in rows] != list(range(vertices - 1, 0, -1)):
        return None
    return [[False] * (vertices - len(row)) + [digit == "1" for digit in row] for row in (*rows, "")]


def _kept(matrix: Sequence[Sequence[bool]]) -> list[int]:
    """Vertices on a path from the first to the last one, in order: what the official pruning keeps."""
    last = len(matrix) - 1
    reached, leads = {0}, {last}
    for y in range(1, last + 1):
        if any(matrix[x][y] for x in reached):
            reached.add(y)
    for x in range(last - 1, -1, -1):
        if any(matrix[x][y] for y in leads):
            leads.add(x)
    return sorted(reached & leads)


def edges_of(vertices: np.ndarray, bits: np.ndarray) -> np.ndarray:
    """Adjacency matrices (n, 7, 7) bool of cells; the output is always vertex 6, and missing vertices have no edge."""
    edges = np.zeros((len(bits), MAX_VERTICES, MAX_VERTICES), dtype=bool)
    for target in range(1, MAX_VERTICES):
        last = vertices == target + 1
        for source in range(target):
            present = (bits >> edge_bit(source, target) & 1).astype(bool)
            edges[:, source, target] |= present & ~last
            edges[:, source, -1] |= present & last
    return edges


def vertex_channels(edges: np.ndarray, channels: int) -> np.ndarray:
    """Channels (n, 5) of the inner vertices in cells of `channels` output channels; 0 for missing vertices.

    The inner vertices that feed the output share its channels, which are concatenated, equally; what an uneven
    split leaves over goes to the first of them, one each. Any other vertex has as many channels as the widest
    of those that it feeds.

    Args:
        edges: (n, 7, 7) as of `edges_of`.
    """
    feeds = edges[:, 1:-1, -1]
    sources = np.maximum(feeds.sum(axis=1, keepdims=True), 1)
    share = channels // sources + (np.cumsum(feeds, axis=1) <= channels % sources)
    widths = np.where(feeds, share, 0)
    for vertex in range(INNER - 2, -1, -1):
        widest = (edges[:, 1 + vertex, 1:-1] * widths).max(axis=1)
        widths[:, vertex] = np.where(feeds[:, vertex], widths[:, vertex], widest)
    return widths
