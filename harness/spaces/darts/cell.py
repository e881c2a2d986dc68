"""Genotypes of the DARTS space: their operations, their text, and which of the stacked cells are reductions."""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

from harness.errors import HarnessError

OPERATIONS = (
    # DARTS
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
    # NASNet, AmoebaNet and PNAS
    "sep_conv_7x7",
    "max_pool_5x5",
    "max_pool_7x7",
    "conv_1x1",
    "conv_3x3",
    "conv_3x1_1x3",
    "conv_7x1_1x7",
    "dil_sep_conv_3x3",
)
NONE, MAX_POOL, AVG_POOL, SKIP, SEP3, SEP5, DIL3, DIL5 = range(8)
SEP7, MAX_POOL5, MAX_POOL7, CONV1, CONV3, CONV31, CONV71, DIL_SEP3 = range(8, len(OPERATIONS))
KERNELS = {code: int(name[-1]) for code, name in enumerate(OPERATIONS) if name[-1].isdigit()}
MAX_POOLS = (MAX_POOL, MAX_POOL5, MAX_POOL7)
POOLS = (AVG_POOL, *MAX_POOLS)
#: How often a depthwise and a pointwise convolution follow each other, and the dilation of the depthwise ones.
SEPARABLE = {SEP3: (2, 1), SEP5: (2, 1), SEP7: (2, 1), DIL3: (1, 2), DIL5: (1, 2), DIL_SEP3: (2, 2)}
#: A convolution of one row of taps, and then one of a column.
FACTORISED = (CONV31, CONV71)
DARTS_OPERATIONS = OPERATIONS[: DIL5 + 1]
COMPACT = DARTS_OPERATIONS[1:]  # NASLib's numbers
INPUTS = 2
NODES = 4  # of DARTS
NODE_COUNTS = (4, 5)
CONCAT = tuple(range(INPUTS, INPUTS + NODES))
STEMS = ("cifar", "imagenet")
STEM_MULTIPLIER = 3  # of the CIFAR stem's channels

_LONGEST = 10_000  # characters: what is longer is no genotype, and need not be parsed to know
_SIZE = re.compile(r"channels=([0-9]{1,4}),\s*layers=([0-9]{1,3})")

Cell = tuple[tuple[int, int], ...]  # (operation code, source node), two an intermediate node


class Genotype(NamedTuple):
    """A normal and a reduction cell, the nodes that each concatenates, and the network's size where it is given."""

    normal: Cell
    reduce: Cell
    normal_concat: tuple[int, ...] = CONCAT
    reduce_concat: tuple[int, ...] = CONCAT
    channels: int | None = None
    layers: int | None = None

    @property
    def cells(self) -> tuple[tuple[Cell, tuple[int, ...]], ...]:
        """Normal and reduction cell, each with its concat."""
        return (self.normal, self.normal_concat), (self.reduce, self.reduce_concat)


def is_of_darts(genotype: Genotype) -> bool:
    """Whether DARTS could have found it: its operations and nodes, all concatenated, and no size of its own."""
    cells = all(len(cell) == 2 * NODES and concat == CONCAT for cell, concat in genotype.cells)
    codes = {code for cell, _ in genotype.cells for code, _ in cell}
    return cells and codes <= set(range(len(DARTS_OPERATIONS))) and genotype.channels is None


def encode(genotype: Genotype) -> str:
    """DARTS's text of a genotype, as its code prints it, with the network's size behind it where it is given."""
    fields = []
    for name, (cell, concat) in zip(("normal", "reduce"), genotype.cells, strict=True):
        pairs = [(OPERATIONS[code], source) for code, source in cell]
        fields.append(f"{name}={pairs}, {name}_concat={list(concat)}")
    size = "" if genotype.channels is None else f"@channels={genotype.channels},layers={genotype.layers}"
    return f"Genotype({', '.join(fields)}){size}"


@lru_cache(maxsize=20_000)
def decode(text: str) -> Genotype:
    """The genotype that DARTS's text or NASLib's compact form stands for. Raises HarnessError if malformed."""
    try:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        cells, at, size = text.partition("@")
        tree = _expression(cells.strip())
        genotype = _named(tree) if isinstance(tree, ast.Call) else _compact(tree)
        return genotype._replace(**_sized(size)) if at else genotype
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else "it cannot be parsed"
        shown = repr(text) if len(text) <= 600 else f"{text[:300]!r}…"
        raise HarnessError(
            f"{shown} is not a genotype of the DARTS space ({reason}): write it as Genotype(normal=[(op, node), "
            "... 8 or 10], normal_concat=[2, 3, 4, 5], reduce=[(op, node), ... 8 or 10], reduce_concat=[2, 3, 4, 5]) "
            "or as [[(node, number), ... 8], [(node, number), ... 8]], with @channels=C,layers=N behind it if it has a "
            f"size of its own, and operations {', '.join(OPERATIONS)}"
        ) from None


def _expression(text: str) -> ast.expr:
    """The genotype of a line as it stands in a module of genotypes: itself, or what a name is bound to."""
    match ast.parse(text).body:
        case [ast.Expr(value=value) | ast.Assign(targets=[ast.Name()], value=value)]:
            return value
    raise ValueError("it is not one genotype, nor NAME = one")


def _sized(text: str) -> dict[str, int]:
    match = _SIZE.fullmatch(text.strip())
    size = [int(number) for number in match.groups()] if match else [0]
    if 0 in size:
        raise ValueError("what follows @ is not channels=C,layers=N with two positive numbers")
    return dict(zip(("channels", "layers"), size, strict=True))


def _named(call: ast.Call) -> Genotype:
    """The genotype of a call `Genotype(...)`, which is read and never run."""
    function = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if function != "Genotype" or call.args:
        raise ValueError("it names something else than Genotype and its four fields")
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    if len(call.keywords) != 4 or set(fields) != {"normal", "normal_concat", "reduce", "reduce_concat"}:
        raise ValueError("its fields are not normal, normal_concat, reduce and reduce_concat")
    found: dict[str, tuple] = {}
    for name in ("normal", "reduce"):
        pairs = _pairs(ast.literal_eval(fields[name]), NODE_COUNTS)
        unknown = [op for op, _ in pairs if not isinstance(op, str) or op not in OPERATIONS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no operation")
        found[name] = _checked([(OPERATIONS.index(op), source) for op, source in pairs])
        concat = _nodes(fields[f"{name}_concat"])
        nodes = range(INPUTS, INPUTS + len(pairs) // 2)
        if not concat or len(set(concat)) < len(concat) or not all(type(n) is int and n in nodes for n in concat):
            raise ValueError(f"its {name}_concat is not of intermediate nodes, {nodes[0]} to {nodes[-1]}, each once")
        found[f"{name}_concat"] = tuple(sorted(concat))
    return Genotype(**found)


def _nodes(tree: ast.expr) -> tuple:
    """The numbers of a list, a tuple or `range(a, b)`."""
    if not isinstance(tree, ast.Call):
        found = ast.literal_eval(tree)
        return tuple(found) if isinstance(found, (list, tuple)) else ()
    if not (isinstance(tree.func, ast.Name) and tree.func.id == "range") or tree.keywords or len(tree.args) != 2:
        raise ValueError("it calls something else than range(2, 6)")
    first, end = (ast.literal_eval(argument) for argument in tree.args)
    return tuple(n for n in range(INPUTS + max(NODE_COUNTS) + 1) if first <= n < end)


def _compact(tree: ast.expr) -> Genotype:
    cells = ast.literal_eval(tree)
    if not isinstance(cells, (list, tuple)) or len(cells) != 2:
        raise ValueError("it is not of two cells")
    found = []
    for cell in cells:
        pairs = _pairs(cell, (NODES,))
        unknown = [number for _, number in pairs if type(number) is not int or not 0 <= number < len(COMPACT)]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no operation's number, which go from 0 to {len(COMPACT) - 1}")
        found.append(_checked([(OPERATIONS.index(COMPACT[number]), source) for source, number in pairs]))
    return Genotype(*found)


def _pairs(cell: Any, nodes: Sequence[int]) -> list[tuple[Any, Any]]:
    """The pairs of a cell, of which some codes make a list for each node."""
    pairs = list(cell) if isinstance(cell, (list, tuple)) else []
    if len(pairs) in nodes and all(_is_pair(node) and all(map(_is_pair, node)) for node in pairs):
        pairs = [pair for node in pairs for pair in node]
    if len(pairs) not in [2 * n for n in nodes] or not all(map(_is_pair, pairs)):
        raise ValueError(f"a cell is not of {' or '.join(str(2 * n) for n in nodes)} pairs")
    return [tuple(pair) for pair in pairs]


def _is_pair(value: Any) -> bool:
    return isinstance(value, (list, tuple)) and len(value) == 2


def _checked(cell: list[tuple[int, Any]]) -> Cell:
    for place, (_, source) in enumerate(cell):
        node = INPUTS + place // 2
        if type(source) is not int or not 0 <= source < node:
            raise ValueError(f"node {node} reads {source!r}, which is none of the nodes before it")
    return tuple(cell)


def reductions(layers: int) -> tuple[bool, ...]:
    """Which of the stacked cells are reductions: those at 1/3 and 2/3 of the depth."""
    return tuple(place in (layers // 3, 2 * layers // 3) for place in range(layers))
