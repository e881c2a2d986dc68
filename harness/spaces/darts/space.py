"""The DARTS space: identity and counts."""

from __future__ import annotations

import itertools
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space
from harness.spaces.costs import Cost, OperationTally, Total, combined, convolution, normalised
from harness.spaces.darts.cell import (
    COMPACT,
    DARTS_OPERATIONS,
    FACTORISED,
    INPUTS,
    KERNELS,
    NODE_COUNTS,
    NODES,
    NONE,
    OPERATIONS,
    POOLS,
    SEPARABLE,
    SKIP,
    STEM_MULTIPLIER,
    STEMS,
    Cell,
    Genotype,
    decode,
    encode,
    reductions,
)

if TYPE_CHECKING:
    from torch import nn

_ZERO = -1  # as a node: one whose value is zero whatever the weights


@lru_cache(maxsize=40_000)
def _cell_key(cell: Cell, concat: tuple[int, ...], reduction: bool, keep_dead: bool) -> str:
    """Text that is equal for cells which differ by the order of a node's inputs and by that of the nodes.

    `none` contributes nothing, nor does a pooling or a copy of a node that is zero; a node that is a copy of
    another, or that pools and copies the same as another, is that other to its readers. Operations with weights
    are never merged, and a convolution of a zero node stays: its BatchNorm still adds a constant. Nodes that do not
    reach the output are left out, unless `keep_dead` and they have weights. The text is the least over all orders
    of the nodes.
    """
    value = {node: node for node in range(INPUTS)}
    content: dict[int, list[tuple[int, int]]] = {}
    known: dict[tuple, int] = {}
    wanted = list(concat)
    for node in range(INPUTS, INPUTS + len(cell) // 2):
        terms = []
        for code, source in cell[2 * (node - INPUTS) :][:2]:
            source = value[source]
            if code != NONE and not (source == _ZERO and code in (SKIP, *POOLS)):
                terms.append((code, source))
        # A skip on an input of a reduction has a stride of 2, and weights.
        copies = [code == SKIP and not (reduction and source < INPUTS) for code, source in terms]
        content[node] = terms
        if not terms:
            value[node] = _ZERO
        elif copies == [True]:
            value[node] = terms[0][1]
        elif all(copy or code in POOLS for (code, _), copy in zip(terms, copies, strict=True)):
            value[node] = known.setdefault(tuple(sorted(terms)), node)
        else:
            value[node] = node
            if keep_dead:
                wanted.append(node)

    kept: set[int] = set()
    while wanted:
        node = wanted.pop()
        if node >= INPUTS and node not in kept:
            kept.add(node)
            wanted += [source for _, source in content[node]]
    candidates = []
    for order in itertools.permutations(sorted(kept)):
        rank = {_ZERO: _ZERO, 0: 0, 1: 1, **{node: INPUTS + place for place, node in enumerate(order)}}
        candidates.append((order, rank))
    names = []
    for place in range(len(kept)):
        texts = [
            (order[place] not in concat, tuple(sorted((code, rank[source]) for code, source in content[order[place]])))
            for order, rank in candidates
        ]
        least = min(texts)
        candidates = [candidate for candidate, text in zip(candidates, texts, strict=True) if text == least]
        inner, terms = least
        name = "+".join(f"{OPERATIONS[code]}({source if source >= 0 else 'zero'})" for code, source in terms)
        names.append(("inner:" if inner else "") + (name or "zero"))
    return ";".join(names)


class _Cells(NamedTuple):
    """Genotypes as arrays: axis 1 is the kind, normal and reduction cell; cells of four nodes end in `none`."""

    codes: np.ndarray  # (n, 2, 10) operation codes
    sources: np.ndarray  # (n, 2, 10) source nodes
    live: np.ndarray  # (n, 2, 10) whether the operation's node reaches the cell's output
    read: np.ndarray  # (n, 2, 2) whether an operation other than `none` whose node reaches it reads input 0, 1
    concat: np.ndarray  # (n, 2) number of nodes that are concatenated
    channels: np.ndarray  # (n,)
    layers: np.ndarray  # (n,)

    def of(self, name: str, reduction: np.ndarray) -> np.ndarray:
        """The array of that name for the kind that (n,) booleans choose."""
        array = getattr(self, name)
        return np.where(reduction.reshape(-1, *[1] * (array.ndim - 2)), array[:, 1], array[:, 0])


def _arrays(genotypes: Sequence[Genotype]) -> _Cells:
    most = max(NODE_COUNTS)
    padded = [[(*cell, *[(NONE, 0)] * (2 * most - len(cell))) for cell, _ in g.cells] for g in genotypes]
    pairs = np.array(padded, dtype=np.int8).reshape(-1, 2, 2 * most, 2)
    codes, sources = pairs[..., 0], pairs[..., 1]
    nodes = range(INPUTS, INPUTS + most)
    concats = [[[node in concat for node in nodes] for _, concat in g.cells] for g in genotypes]
    reaches = np.array(concats, dtype=bool).reshape(-1, 2, most)
    concat = reaches.sum(axis=2)
    for place in reversed(range(2 * most)):
        uses = reaches[..., place // 2] & (codes[..., place] != NONE)
        for earlier in range(place // 2):
            reaches[..., earlier] |= uses & (sources[..., place] == INPUTS + earlier)
    live = np.repeat(reaches, 2, axis=2)
    used = live & (codes != NONE)
    read = np.stack([(used & (sources == node)).any(axis=2) for node in range(INPUTS)], axis=2)
    size = np.array([(g.channels, g.layers) for g in genotypes], dtype=np.int64).reshape(-1, 2)
    return _Cells(codes, sources, live, read, concat, *size.T)


class _Position(NamedTuple):
    """A cell of the stacks: arrays (n,), of channels of its operations and of what its two preprocessings read."""

    present: np.ndarray
    reduction: np.ndarray
    reduction_before: np.ndarray
    channels: np.ndarray
    reads: tuple[np.ndarray, np.ndarray]
    sides: tuple[np.ndarray, np.ndarray]
    side: np.ndarray  # at which operations on the inputs read
    side_out: np.ndarray


def _forms() -> tuple[re.Pattern[str], re.Pattern[str]]:
    """Match DARTS's text as `encode` writes it, with DARTS's operations, and NASLib's compact form; no other text."""
    nodes = range(INPUTS, INPUTS + NODES)
    names, concat = "|".join(DARTS_OPERATIONS), re.escape(str(list(nodes)))
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
        self._decode(text)
        return encode(decode(text))

    def _decode(self, architecture: str) -> Genotype:
        """The genotype with the network's size, its own or else the space's."""
        genotype = decode(architecture)
        if genotype.channels is None:
            return genotype._replace(channels=self.channels, layers=self.layers)
        if self.stem == "imagenet" and genotype.channels % 2:
            raise HarnessError(
                f"{architecture!r}: the imagenet stem needs even channels, not {genotype.channels}: change the number"
            )
        return genotype

    def canonical(self, architecture: str) -> str:
        """As `network_key`, less nodes that cannot reach their cell's output, nor a cell the network's."""
        genotype = self._decode(architecture)
        live = [bool(alive[0]) for alive in _live(_arrays([genotype]))]
        kinds = {kind for kind, alive in zip(reductions(genotype.layers), live, strict=True) if alive}
        return self._key(genotype, kinds, keep_dead=False)

    def network_key(self, architecture: str) -> str:
        return self._key(self._decode(architecture), (False, True), keep_dead=True)

    def _key(self, genotype: Genotype, kinds: Collection[bool], keep_dead: bool) -> str:
        keys = [
            _cell_key(cell, concat, kind, keep_dead) if kind in kinds else "dead"
            for kind, (cell, concat) in zip((False, True), genotype.cells, strict=True)
        ]
        own = (genotype.channels, genotype.layers) != (self.channels, self.layers)
        return "|".join(keys) + (f"@channels={genotype.channels},layers={genotype.layers}" if own else "")

    def _stack(self, cells: _Cells, resolution: int) -> tuple[list[tuple[Any, Any, int]], list[_Position], np.ndarray]:
        """The stem's convolutions as (inputs, outputs, side of the output), the stacked cells, channels at the end."""
        width, n = cells.channels, len(cells.channels)
        if self.stem == "cifar":
            stem = [(3, STEM_MULTIPLIER * width, resolution)]
            channels, sides = [STEM_MULTIPLIER * width] * 2, [resolution] * 2
        else:
            halved = [resolution]
            for _ in range(3):
                halved.append((halved[-1] + 1) // 2)
            stem = [(3, width // 2, halved[1]), (width // 2, width, halved[2]), (width, width, halved[3])]
            channels, sides = [width] * 2, halved[2:]
        sides = [np.full(n, side) for side in sides]
        before = np.full(n, self.stem == "imagenet")
        found = []
        for place in range(int(cells.layers.max(initial=0))):
            present = place < cells.layers
            reduction = present & ((place == cells.layers // 3) | (place == 2 * cells.layers // 3))
            width = np.where(reduction, 2 * width, width)
            side = sides[1]
            side_out = np.where(reduction, (side + 1) // 2, side)
            found.append(_Position(present, reduction, before, width, tuple(channels), tuple(sides), side, side_out))
            outputs = np.where(present, cells.of("concat", reduction) * width, channels[1])
            channels, sides, before = [channels[1], outputs], [side, side_out], reduction
        return stem, found, channels[1]

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        """Counts by formula. `params` are those that a gradient can reach from the logits.

        A preprocessing whose node only `none` reads is computed and counted in the multiply-accumulates, the
        layers and the tensors, but not in `params`; likewise an operation whose node does not reach the cell's
        output, and a cell that later cells do not read.
        """
        cells = _arrays([self._decode(a) for a in architectures])
        live = _live(cells)
        stem, stack, width_out = self._stack(cells, resolution)
        total = Total(len(cells.codes))
        for place, (inputs, outputs, side) in enumerate(stem):
            # Of the ImageNet stem the first two convolutions feed the first cell's node 0, and the third.
            reached = np.zeros(len(cells.codes), dtype=bool)
            for position, alive, node in zip(stack, live, (1, 0), strict=False):
                reached |= alive & cells.of("read", position.reduction)[:, node]
            if place < 2 and stack:
                reached |= live[0] & cells.of("read", stack[0].reduction)[:, 0]
            # BatchNorm 2 an element, ReLU 1; each of the three convolutions but the last feeds a ReLU.
            relu = outputs * side**2 if place < len(stem) - 1 else 0
            total.add(normalised(convolution(inputs, outputs, 9, side), outputs, side, relu), reached=reached)
        number = _numbers(cells, np.ones_like(cells.live))
        number_live = _numbers(cells, cells.live)
        for position, alive in zip(stack, live, strict=True):
            width, reduction = position.channels, position.reduction
            for node, (inputs, side) in enumerate(zip(position.reads, position.sides, strict=True)):
                cost = convolution(inputs, width, 1, position.side)
                reached = alive & cells.of("read", reduction)[:, node]
                total.add(normalised(cost, width, position.side, inputs * side**2), position.present, reached)
                if node == 0:
                    total.add(_TWO_HALVES, position.present & position.reduction_before)
            for stride in (1, 2):
                where = position.present & (reduction | (stride == 1))
                side = position.side if stride == 2 else position.side_out
                chosen = [np.where(reduction, n[True, stride], n[False, stride]) for n in (number, number_live)]
                for code in np.unique(cells.codes):
                    cost = _operation_cost(code, width, stride, side)
                    total.add(cost, chosen[0][code] * where, chosen[1][code] * alive)
        total.add(convolution(width_out, num_classes, 1, 1, bias=True))
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the cells; preprocessings are not searched.

        A depthwise convolution with the pointwise one after it is one convolution of the depthwise's kernel, so
        that a `sep_conv` counts twice and a `dil_conv` once (its taps, not what they span); a row and a column of
        taps are one convolution of the square that they span; a skip of stride 2 is a 1x1 convolution. A skip is
        summed where the node's other operation is not `none`.
        """
        cells = _arrays([self._decode(a) for a in architectures])
        shape = cells.codes.shape
        partner = cells.codes.reshape(*shape[:2], -1, 2)[..., ::-1].reshape(shape)
        number = _numbers(cells, np.ones_like(cells.live))
        number_summed = _numbers(cells, partner != NONE)
        tally = OperationTally(len(cells.codes))
        for position in self._stack(cells, resolution)[1]:
            reduction, width = position.reduction, position.channels
            for stride in (1, 2):
                where = position.present & (reduction | (stride == 1))
                side = position.side if stride == 2 else position.side_out
                chosen, summed = (
                    np.where(reduction, n[True, stride], n[False, stride]) for n in (number, number_summed)
                )
                for code in range(len(OPERATIONS)):
                    if code in POOLS:
                        tally.add("pooling", KERNELS[code], width, side, chosen[code], where)
                    elif code == SKIP and stride == 2:
                        tally.add("convolution", 1, width, side, chosen[code], where)
                    elif code == SKIP:
                        tally.add("skip", 1, width, side, summed[code], where, summed=True)
                        tally.add("skip", 1, width, side, chosen[code] - summed[code], where)
                    elif code != NONE:
                        tally.add("convolution", KERNELS[code], width, side, chosen[code], where)
                        if SEPARABLE.get(code, (1, 1))[0] == 2:
                            tally.add("convolution", KERNELS[code], width, position.side_out, chosen[code], where)
        return tally.result()

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The evaluation network; `thin`: three cells of one channel (two with the ImageNet stem, which halves)."""
        from harness.spaces.darts.network import Network

        genotype = self._decode(architecture)
        if thin:
            return Network(genotype, num_classes, 1 if self.stem == "cifar" else 2, 3, self.stem)
        return Network(genotype, num_classes, genotype.channels, genotype.layers, self.stem)

    def build_cell(self, architecture: str, num_classes: int) -> nn.Module:
        """One reduction cell of six channels without a stem, as in SWAP's `correlation.py` (one layer, C=3)."""
        from harness.spaces.darts.network import Network

        return Network(self._decode(architecture), num_classes, 3, 1, stem=None)

    def build_regions(self, architecture: str, num_classes: int) -> nn.Module:
        """A normal cell of one channel and a reduction of two, as TE-NAS's `model_config_thin` (C = 1, depth = 2)."""
        from harness.spaces.darts.network import FirstCells

        return FirstCells(self._decode(architecture), num_classes)


#: What two convolutions of half the outputs each, on even and on odd pixels, have more than one has.
_TWO_HALVES = {"trainable_layers": 1, "parameter_tensors": 1}


def _numbers(cells: _Cells, chosen: np.ndarray) -> dict[tuple[bool, int], np.ndarray]:
    """By (reduction, stride): (operations, n), how often each operation that (n, 2, 10) `chosen` marks occurs."""
    found = {}
    for reduction in (False, True):
        strided = (cells.sources[:, int(reduction)] < INPUTS) & reduction
        for stride in (1, 2):
            marked = chosen[:, int(reduction)] & (strided == (stride == 2))
            codes = cells.codes[:, int(reduction)]
            counts = [((codes == code) & marked).sum(axis=1) for code in range(len(OPERATIONS))]
            found[reduction, stride] = np.stack(counts)
    return found


def _live(cells: _Cells) -> list[np.ndarray]:
    """For each place of the stacks whether the logits depend on its cell: (n,) booleans."""
    n, deepest = len(cells.layers), int(cells.layers.max(initial=0))
    live = [np.zeros(n, dtype=bool)] * 2  # of the two places after this one
    reads = [np.zeros((n, 2), dtype=bool)] * 2
    for place in reversed(range(deepest)):
        alive = (place == cells.layers - 1) | (live[0] & reads[0][:, 1]) | (live[1] & reads[1][:, 0])
        reduction = (place == cells.layers // 3) | (place == 2 * cells.layers // 3)
        live.insert(0, alive & (place < cells.layers))
        reads.insert(0, cells.of("read", reduction))
    return live[:deepest]


def _operation_cost(code: int, channels: Any, stride: int, side: Any) -> Cost:
    """Cost of an operation that reads maps of `side`."""
    side_out = (side + 1) // 2 if stride == 2 else side
    if code in POOLS:
        return {"elementwise": KERNELS[code] ** 2 * channels * side_out**2}
    if code == NONE or (code == SKIP and stride == 1):
        return {}
    if code in SEPARABLE:
        steps = []
        for step in range(SEPARABLE[code][0]):
            depthwise = convolution(1, channels, KERNELS[code] ** 2, side_out)
            pair = combined(depthwise, convolution(channels, channels, 1, side_out))
            steps.append(normalised(pair, channels, side_out, channels * (side_out if step else side) ** 2))
        return combined(*steps)
    if code == SKIP:
        cost = combined(convolution(channels, channels, 1, side_out), _TWO_HALVES)
    elif code in FACTORISED:
        row = convolution(channels, channels, KERNELS[code], side, side_out)
        cost = combined(row, convolution(channels, channels, KERNELS[code], side_out))
    else:
        cost = convolution(channels, channels, KERNELS[code] ** 2, side_out)
    return normalised(cost, channels, side_out, channels * side**2)
