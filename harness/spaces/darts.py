"""The DARTS space (Liu, Simonyan & Yang, ICLR 2019), which is also that of NAS-Bench-301.

An architecture is a genotype: a normal and a reduction cell. A cell has two input nodes (0 and 1, the outputs of
the two cells before) and four intermediate nodes (2 to 5); each of these sums two operations on earlier nodes, and
the cell's output concatenates the four. Cells are stacked, those at 1/3 and 2/3 of the depth being reductions.

Besides DARTS's own text, `Genotype(normal=[('sep_conv_3x3', 0), ...], normal_concat=[2, 3, 4, 5], reduce=[...],
reduce_concat=[2, 3, 4, 5])`, NASLib's compact form `[[(node, op), ... 8], [(node, op), ... 8]]` is read: normal
cell first, node numbers as above, two pairs an intermediate node, `op` a place in max_pool_3x3, avg_pool_3x3,
skip_connect, sep_conv_3x3, sep_conv_5x5, dil_conv_3x3, dil_conv_5x5. That is the order in which NASLib's
`search_spaces/nasbench301/conversions.py` writes and reads them; `search_spaces/darts/conversions.py` writes the
same numbers, and an old version of it reads them shifted by one. The order without a shift is the right one: with
it, the parameters that NASLib published with the genotypes (`data/zc_nasbench301.json`) are those of the networks.
"""

from __future__ import annotations

import ast
import itertools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space

if TYPE_CHECKING:
    from torch import nn

OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)
NONE, MAX_POOL, AVG_POOL, SKIP, SEP3, SEP5, DIL3, DIL5 = range(8)
KERNELS = {MAX_POOL: 3, AVG_POOL: 3, SEP3: 3, SEP5: 5, DIL3: 3, DIL5: 5}
COMPACT = OPERATIONS[1:]  # NASLib's numbers
INPUTS = 2
NODES = 4
CONCAT = tuple(range(INPUTS, INPUTS + NODES))
STEMS = ("cifar", "imagenet")
STEM_MULTIPLIER = 3  # of the CIFAR stem's channels

_LONGEST = 10_000  # characters: what is longer is no genotype, and need not be parsed to know
_ZERO = -1  # as a node: one whose value is zero whatever the weights

Cell = tuple[tuple[int, int], ...]  # eight (operation code, source node), two an intermediate node


class Genotype(NamedTuple):
    """A normal and a reduction cell."""

    normal: Cell
    reduce: Cell


def encode(genotype: Genotype) -> str:
    """DARTS's text of a genotype, as its code prints it."""
    normal, reduce = ([(OPERATIONS[code], source) for code, source in cell] for cell in genotype)
    concat = list(CONCAT)
    return f"Genotype(normal={normal}, normal_concat={concat}, reduce={reduce}, reduce_concat={concat})"


@lru_cache(maxsize=20_000)
def decode(text: str) -> Genotype:
    """The genotype that DARTS's text or NASLib's compact form stands for. Raises HarnessError if malformed."""
    try:
        if len(text) > _LONGEST:
            raise ValueError("it is too long")
        tree = ast.parse(text.strip(), mode="eval").body
        cells = _named(tree) if isinstance(tree, ast.Call) else _compact(tree)
        return Genotype(*map(_checked, cells))
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else "it cannot be parsed"
        shown = repr(text) if len(text) <= 600 else f"{text[:300]!r}…"
        raise HarnessError(
            f"{shown} is not a genotype of the DARTS space ({reason}): write it as Genotype(normal=[(op, node), "
            "... 8], normal_concat=[2, 3, 4, 5], reduce=[(op, node), ... 8], reduce_concat=[2, 3, 4, 5]) or as "
            f"[[(node, number), ... 8], [(node, number), ... 8]], with operations {', '.join(OPERATIONS)}"
        ) from None


def _named(call: ast.Call) -> list[list[tuple[int, int]]]:
    """Both cells of a call `Genotype(...)`, which is read and never run."""
    if not (isinstance(call.func, ast.Name) and call.func.id == "Genotype") or call.args:
        raise ValueError("it names something else than Genotype and its four fields")
    fields = {keyword.arg: keyword.value for keyword in call.keywords}
    if len(call.keywords) != 4 or set(fields) != {"normal", "normal_concat", "reduce", "reduce_concat"}:
        raise ValueError("its fields are not normal, normal_concat, reduce and reduce_concat")
    for name in ("normal_concat", "reduce_concat"):
        if _nodes(fields[name]) != CONCAT:
            raise ValueError(f"its {name} is not {list(CONCAT)}")
    cells = []
    for name in ("normal", "reduce"):
        pairs = _pairs(ast.literal_eval(fields[name]))
        unknown = [op for op, _ in pairs if not isinstance(op, str) or op not in OPERATIONS]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no operation")
        cells.append([(OPERATIONS.index(op), source) for op, source in pairs])
    return cells


def _nodes(tree: ast.expr) -> tuple:
    """The numbers of a list, a tuple or `range(a, b)`."""
    if not isinstance(tree, ast.Call):
        found = ast.literal_eval(tree)
        return tuple(found) if isinstance(found, (list, tuple)) else ()
    if not (isinstance(tree.func, ast.Name) and tree.func.id == "range") or tree.keywords or len(tree.args) != 2:
        raise ValueError("it calls something else than range(2, 6)")
    bounds = [ast.literal_eval(argument) for argument in tree.args]
    return CONCAT if bounds == [CONCAT[0], CONCAT[-1] + 1] else ()


def _compact(tree: ast.expr) -> list[list[tuple[int, int]]]:
    cells = ast.literal_eval(tree)
    if not isinstance(cells, (list, tuple)) or len(cells) != 2:
        raise ValueError("it is not of two cells")
    found = []
    for cell in cells:
        pairs = _pairs(cell)
        unknown = [number for _, number in pairs if type(number) is not int or not 0 <= number < len(COMPACT)]
        if unknown:
            raise ValueError(f"{unknown[0]!r} is no operation's number, which go from 0 to {len(COMPACT) - 1}")
        found.append([(OPERATIONS.index(COMPACT[number]), source) for source, number in pairs])
    return found


def _pairs(cell: Any) -> list[tuple[Any, Any]]:
    pairs = list(cell) if isinstance(cell, (list, tuple)) else []
    if len(pairs) != 2 * NODES or not all(isinstance(p, (list, tuple)) and len(p) == 2 for p in pairs):
        raise ValueError(f"a cell is not of {2 * NODES} pairs")
    return [tuple(pair) for pair in pairs]


def _checked(cell: list[tuple[int, Any]]) -> Cell:
    for place, (_, source) in enumerate(cell):
        node = INPUTS + place // 2
        if type(source) is not int or not 0 <= source < node:
            raise ValueError(f"node {node} reads {source!r}, which is none of the nodes before it")
    return tuple(cell)


def reads(cell: Cell, node: int) -> bool:
    """Whether an operation other than `none` reads `node`."""
    return any(code != NONE and source == node for code, source in cell)


def reductions(layers: int) -> tuple[bool, ...]:
    """Which of the stacked cells are reductions: those at 1/3 and 2/3 of the depth."""
    return tuple(place in (layers // 3, 2 * layers // 3) for place in range(layers))


@lru_cache(maxsize=20_000)
def _cell_key(cell: Cell, reduction: bool) -> str:
    """Text that is equal for cells which differ by the order of a node's inputs and by that of the nodes.

    `none` contributes nothing, nor does a pooling or a copy of a node that is zero; a node that is a copy of
    another, or that pools and copies the same as another, is that other to its readers. Operations with weights
    are never merged, and a convolution of a zero node stays: its BatchNorm still adds a constant. The text is
    the least over all orders of the four nodes.
    """
    value = {node: node for node in range(INPUTS)}
    content: dict[int, list[tuple[int, int]]] = {}
    known: dict[tuple, int] = {}
    for node in CONCAT:
        terms = []
        for code, source in cell[2 * (node - INPUTS) :][:2]:
            source = value[source]
            if code != NONE and not (source == _ZERO and code in (SKIP, MAX_POOL, AVG_POOL)):
                terms.append((code, source))
        # A skip on an input of a reduction has a stride of 2, and weights.
        copies = [code == SKIP and not (reduction and source < INPUTS) for code, source in terms]
        content[node] = terms
        if not terms:
            value[node] = _ZERO
        elif copies == [True]:
            value[node] = terms[0][1]
        elif all(copy or code in (MAX_POOL, AVG_POOL) for (code, _), copy in zip(terms, copies, strict=True)):
            value[node] = known.setdefault(tuple(sorted(terms)), node)
        else:
            value[node] = node

    best = None
    for order in itertools.permutations(CONCAT):
        rank = {_ZERO: _ZERO, 0: 0, 1: 1, **{node: INPUTS + place for place, node in enumerate(order)}}
        text = tuple(tuple(sorted((code, rank[source]) for code, source in content[node])) for node in order)
        if best is None or text < best:
            best = text
    names = ["+".join(f"{OPERATIONS[code]}({source if source >= 0 else 'zero'})" for code, source in t) for t in best]
    return ";".join(name or "zero" for name in names)


class _Position(NamedTuple):
    """A cell of the stack: channels of its operations, channels and sides that its two preprocessings read."""

    reduction: bool
    reduction_before: bool
    channels: int
    reads: tuple[int, int]
    sides: tuple[int, int]
    side: int  # at which operations on the inputs read
    side_out: int


def _forms() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Match DARTS's text as `encode` writes it, with DARTS's operations, and NASLib's compact form; no other text."""
    nodes = range(INPUTS, INPUTS + NODES)
    names, concat = "|".join(("none", *COMPACT)), re.escape(str(list(nodes)))
    named = ", ".join(rf"\('(?:{names})', [0-{node - 1}]\)" for node in nodes for _ in range(2))
    numbers = ", ".join(rf"\([0-{node - 1}], [0-{len(COMPACT) - 1}]\)" for node in nodes for _ in range(2))
    own = rf"Genotype\(normal=\[{named}\], normal_concat={concat}, reduce=\[{named}\], reduce_concat={concat}\)"
    return re.compile(own), re.compile(rf"\[\[{numbers}\], \[{numbers}\]\]")


_OWN_FORM, _COMPACT_FORM = _forms()


def _quickly(text: str) -> str | None:
    """What `parse` makes of the two forms that tables hold, in a tenth of its time; None for any other text."""
    if _OWN_FORM.fullmatch(text):
        return text
    if not _COMPACT_FORM.fullmatch(text):
        return None
    numbers = list(map(int, re.findall("[0-9]", text)))
    pairs = [(OPERATIONS.index(COMPACT[op]), source) for source, op in zip(numbers[::2], numbers[1::2], strict=True)]
    return encode(Genotype(tuple(pairs[: 2 * NODES]), tuple(pairs[2 * NODES :])))


@dataclass(frozen=True)
class Darts(Space):
    """Genotypes of DARTS, in its evaluation network without auxiliary head and drop-path.

    Attributes:
        channels: of the operations in the first cells; the CIFAR stem has three times as many.
        layers: number of cells.
        stem: `cifar` (one 3x3 convolution) or `imagenet` (three of stride 2).
    """

    name = "darts"

    channels: int = 16
    layers: int = 8
    stem: str = "cifar"

    def configure(self, network: Mapping[str, Any]) -> Darts:
        """The space with `channels`, `layers` and `stem` as a card gives them under `network`."""
        unknown = set(network) - {"channels", "layers", "stem"}
        if unknown:
            raise HarnessError(f"space darts has no setting {sorted(unknown)[0]!r}: give channels, layers, stem")
        changed = replace(self, **network)
        for name in ("channels", "layers"):
            number = getattr(changed, name)
            if type(number) is not int or number < 1:
                raise HarnessError(f"space darts: {name}={number!r} is no positive number")
        if changed.stem not in STEMS:
            raise HarnessError(f"space darts: stem={changed.stem!r} is none of {', '.join(STEMS)}")
        if changed.stem == "imagenet" and changed.channels % 2:
            raise HarnessError(f"space darts: the imagenet stem needs even channels, not {changed.channels}")
        return changed

    def encodings(self, columns: Mapping[str, np.ndarray]) -> Sequence[str]:
        (column,) = columns.values()
        return [_quickly(text) or self.parse(text) for text in column.tolist()]

    def parse(self, text: str) -> str:
        return encode(decode(text))

    def canonical(self, architecture: str) -> str:
        """As `network_key`, less a kind of cell of which none in the stack can reach the output."""
        genotype = decode(architecture)
        live = _live(self.layers, *([np.array([reads(cell, node)]) for cell in genotype] for node in range(INPUTS)))
        kinds = {kind for kind, alive in zip(reductions(self.layers), live, strict=True) if alive[0]}
        cells = zip(genotype, (False, True), strict=True)
        return "|".join(_cell_key(cell, kind) if kind in kinds else "dead" for cell, kind in cells)

    def network_key(self, architecture: str) -> str:
        return "|".join(map(_cell_key, decode(architecture), (False, True)))

    def _positions(self, resolution: int) -> tuple[list[tuple[int, int, int]], list[_Position]]:
        """The stem's convolutions as (inputs, outputs, side of the output), and the stacked cells."""
        width = self.channels
        if self.stem == "cifar":
            stem = [(3, STEM_MULTIPLIER * width, resolution)]
            channels, sides = [STEM_MULTIPLIER * width] * 2, [resolution] * 2
        else:
            halved = [resolution]
            for _ in range(3):
                halved.append((halved[-1] + 1) // 2)
            stem = [(3, width // 2, halved[1]), (width // 2, width, halved[2]), (width, width, halved[3])]
            channels, sides = [width] * 2, halved[2:]
        cells = []
        before = self.stem == "imagenet"
        for reduction in reductions(self.layers):
            width *= 2 if reduction else 1
            side = sides[1]
            side_out = (side + 1) // 2 if reduction else side
            cells.append(_Position(reduction, before, width, tuple(channels), tuple(sides), side, side_out))
            channels, sides, before = [channels[1], NODES * width], [side, side_out], reduction
        return stem, cells

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        """Counts by formula. `params` are those that a gradient can reach from the logits.

        A preprocessing whose node only `none` reads is computed and counted in the multiply-accumulates, the
        layers and the tensors, but not in `params`; likewise a cell that later cells do not read.
        """
        codes, sources = _arrays(architectures)
        read = [[((codes[:, k] != NONE) & (sources[:, k] == node)).any(axis=1) for k in (0, 1)] for node in (0, 1)]
        live = _live(self.layers, *read)
        stem, cells = self._positions(resolution)
        total = {
            name: np.zeros(len(codes)) for name in ("params", "flops", "elementwise", "trainable_layers", "tensors")
        }

        def add(cost: Mapping[str, Any], reached: np.ndarray | bool = True) -> None:
            for name, value in cost.items():
                total[name] += value * np.asarray(reached) if name == "params" else value

        for place, (inputs, outputs, side) in enumerate(stem):
            # Of the ImageNet stem the first two convolutions feed the first cell's node 0, and the third.
            reached = live[0] & read[1][cells[0].reduction]
            if self.layers > 1:
                reached = reached | (live[1] & read[0][cells[1].reduction])
            if place < 2:
                reached = reached | (live[0] & read[0][cells[0].reduction])
            # BatchNorm 2 an element, ReLU 1; each of the three convolutions but the last feeds a ReLU.
            relu = outputs * side**2 if place < len(stem) - 1 else 0
            add(_norm_of(_convolution(inputs, outputs, 9, side), outputs, side, relu), reached)
        for position, alive in zip(cells, live, strict=True):
            kind, width = int(position.reduction), position.channels
            for node, (inputs, side) in enumerate(zip(position.reads, position.sides, strict=True)):
                halves = node == 0 and position.reduction_before
                cost = _convolution(inputs, width, 1, position.side)
                if halves:
                    cost["trainable_layers"], cost["tensors"] = 2, 2
                add(_norm_of(cost, width, position.side, inputs * side**2), alive & read[node][kind])
            for stride in (1, 2):
                side = position.side if stride == 2 else position.side_out
                table = [_operation_cost(code, width, stride, side) for code in range(len(OPERATIONS))]
                strided = (sources[:, kind] < INPUTS) & position.reduction
                counts = _occurrences(codes[:, kind], strided == (stride == 2))
                for code, cost in enumerate(table):
                    add({name: value * counts[:, code] for name, value in cost.items()}, alive)
        outputs = NODES * cells[-1].channels
        add(
            {"flops": outputs * num_classes, "params": (outputs + 1) * num_classes, "trainable_layers": 1, "tensors": 2}
        )
        total["parameter_tensors"] = total.pop("tensors")
        return total

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the cells; preprocessings are not searched.

        A depthwise convolution with the pointwise one after it is one convolution of the depthwise's kernel, so
        that a `sep_conv` counts twice and a `dil_conv` once (its taps, not what they span); a skip of stride 2 is
        a 1x1 convolution. A skip is summed where the node's other operation is not `none`.
        """
        codes, sources = _arrays(architectures)
        partner = codes.reshape(*codes.shape[:2], NODES, 2)[..., ::-1].reshape(codes.shape)
        counts: dict[Operation, np.ndarray] = {}

        def add(operation: Operation, number: np.ndarray) -> None:
            counts[operation] = counts.get(operation, 0) + number

        for position in self._positions(resolution)[1]:
            kind, width = int(position.reduction), position.channels
            for stride in (1, 2) if position.reduction else (1,):
                side = position.side if stride == 2 else position.side_out
                chosen = ((sources[:, kind] < INPUTS) & position.reduction) == (stride == 2)
                number = _occurrences(codes[:, kind], chosen)
                for code in (SEP3, SEP5, DIL3, DIL5):
                    add(Operation("convolution", KERNELS[code], width, side), number[:, code])
                    if code in (SEP3, SEP5):
                        add(Operation("convolution", KERNELS[code], width, position.side_out), number[:, code])
                add(Operation("pooling", 3, width, side), number[:, MAX_POOL] + number[:, AVG_POOL])
                if stride == 2:
                    add(Operation("convolution", 1, width, side), number[:, SKIP])
                else:
                    summed = _occurrences(codes[:, kind], chosen & (partner[:, kind] != NONE))[:, SKIP]
                    add(Operation("skip", 1, width, side, summed=True), summed)
                    add(Operation("skip", 1, width, side), number[:, SKIP] - summed)
        return tuple(counts), np.stack(list(counts.values()), axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The evaluation network; `thin`: three cells of one channel (two with the ImageNet stem, which halves)."""
        from harness.spaces.darts_network import Network

        genotype = decode(architecture)
        if thin:
            return Network(genotype, num_classes, 1 if self.stem == "cifar" else 2, 3, self.stem)
        return Network(genotype, num_classes, self.channels, self.layers, self.stem)


def _arrays(architectures: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Operation codes and source nodes, each (n, 2, 8): normal and reduction cell."""
    pairs = np.array([decode(a) for a in architectures], dtype=np.int8).reshape(-1, 2, 2 * NODES, 2)
    return pairs[..., 0], pairs[..., 1]


def _occurrences(codes: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """(n, operations): how often each code occurs in (n, 8) where `chosen`."""
    return np.stack([((codes == code) & chosen).sum(axis=1) for code in range(len(OPERATIONS))], axis=1)


def _live(layers: int, read0: Sequence[np.ndarray], read1: Sequence[np.ndarray]) -> list[np.ndarray]:
    """For each stacked cell whether the logits depend on it: (n,) booleans.

    Args:
        read0: for normal and reduction cells, (n,) whether they read their node 0, the cell before the last.
        read1: likewise node 1, the last cell.
    """
    kinds = [int(reduction) for reduction in reductions(layers)]
    live = [np.ones_like(read0[0])]
    for place in reversed(range(layers - 1)):
        alive = live[0] & read1[kinds[place + 1]]
        if place + 2 < layers:
            alive = alive | (live[1] & read0[kinds[place + 2]])
        live.insert(0, alive)
    return live


def _convolution(inputs: int, outputs: int, window: int, side: int) -> dict[str, int]:
    """Cost of a convolution without bias with output maps of `side`; `inputs` those that each output reads."""
    weights = inputs * outputs * window
    return {"params": weights, "flops": weights * side**2, "elementwise": 0, "trainable_layers": 1, "tensors": 1}


def _norm_of(cost: dict[str, int], channels: int, side: int, relu: int) -> dict[str, int]:
    """The cost with that of a BatchNorm on its output, and of a ReLU on `relu` elements."""
    cost["params"] += 2 * channels
    cost["tensors"] += 2
    cost["elementwise"] += 2 * channels * side**2 + relu
    return cost


@lru_cache(maxsize=1000)
def _operation_cost(code: int, channels: int, stride: int, side: int) -> dict[str, int]:
    """Cost of an operation that reads maps of `side`."""
    side_out = (side + 1) // 2 if stride == 2 else side
    if code in (MAX_POOL, AVG_POOL):
        return {"elementwise": 9 * channels * side_out**2}
    if code == NONE or (code == SKIP and stride == 1):
        return {}
    if code == SKIP:
        cost = _convolution(channels, channels, 1, side_out)
        cost["trainable_layers"], cost["tensors"] = 2, 2
        return _norm_of(cost, channels, side_out, channels * side**2)
    total: dict[str, int] = {}
    for step in range(2 if code in (SEP3, SEP5) else 1):
        depthwise = _convolution(1, channels, KERNELS[code] ** 2, side_out)
        pointwise = _convolution(channels, channels, 1, side_out)
        pair = {name: depthwise[name] + pointwise[name] for name in depthwise}
        pair = _norm_of(pair, channels, side_out, channels * (side_out if step else side) ** 2)
        total = {name: total.get(name, 0) + value for name, value in pair.items()}
    return total
