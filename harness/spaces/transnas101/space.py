"""TransNAS-Bench-101's two spaces: identity and counts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.spaces.base import Operation, Space
from harness.spaces.costs import Cost, OperationTally, Total, combined, convolution, normalised
from harness.spaces.nasbench201.cell import CONV1, CONV3, EDGES, NONE, PATHS, SKIP, cell_key, skip_spans
from harness.spaces.transnas101.cell import (
    BASE,
    BASIC,
    BLOCKS_PER_MODULE,
    KERNELS,
    MACRO_DOUBLINGS,
    MACRO_HALVINGS,
    MACRO_LENGTHS,
    MICRO_MODULES,
    STEM_HALVINGS,
    decode_cell,
    decode_modules,
    doubles,
    halves,
)
from harness.spaces.transnas101.decoders import DECODERS, cost_of_decoder

if TYPE_CHECKING:
    from torch import nn

SOURCES = np.array([source for source, _ in EDGES])
TARGETS = np.array([target for _, target in EDGES])


class Block(NamedTuple):
    """Where a block stands: channels, whether it has a stride of 2, and sides of its maps. Numbers, or arrays (n,)."""

    inputs: Any
    outputs: Any
    strided: Any
    side: Any
    side_out: Any

    @property
    def changes(self) -> Any:
        """Whether what it reads and what it makes differ in shape."""
        return self.strided | (self.inputs != self.outputs)

    @property
    def inside(self) -> Block:
        """The same of what reads maps that the block made itself."""
        return Block(self.outputs, self.outputs, self.strided & False, self.side_out, self.side_out)


def _half(side: Any) -> Any:
    return (side + 1) // 2


def _stem(resolution: int) -> tuple[Cost, int]:
    """Cost of the stem's two convolutions of stride 2, a ReLU between them; the side of its maps."""
    middle, side = _half(resolution), _half(_half(resolution))
    first = normalised(convolution(3, BASE // 2, 9, middle), BASE // 2, middle, relu=BASE // 2 * middle**2)
    return combined(first, normalised(convolution(BASE // 2, BASE, 9, side), BASE, side)), side


def _relu_conv_norm(kernel: int, block: Block) -> Cost:
    """Cost of ReLU, convolution and BatchNorm on what a block reads."""
    cost = convolution(block.inputs, block.outputs, kernel**2, block.side_out)
    return normalised(cost, block.outputs, block.side_out, relu=block.inputs * block.side**2)


def _cost(code: int, block: Block) -> Cost:
    """Cost of an operation of a cell on what a block reads."""
    if code in KERNELS:
        return _relu_conv_norm(KERNELS[code], block)
    if not block.strided:
        return {}
    # One convolution on the even pixels and one on the odd ones.
    return combined(_relu_conv_norm(1, block), {"trainable_layers": 1, "parameter_tensors": 1})


def _head(head: str, channels: Any, doublings: int, outputs: int, side: Any) -> Cost:
    """Cost of what follows the encoder, whose maps have `side`: of a decoder, that doubles it so often."""
    if head in DECODERS:
        return cost_of_decoder(head, channels, doublings, outputs, side)
    return convolution(channels, outputs, 1, 1, bias=True)


class TransNas101Micro(Space):
    """The 4,096 cells of TransNAS-Bench-101's cell space."""

    name = "transnas101_micro"
    heads = Space.heads | DECODERS.keys()
    parts = frozenset({"skip connections to choose"})

    def parse(self, text: str) -> str:
        decode_cell(text.strip())
        return text.strip()

    def canonical(self, architecture: str) -> str:
        # Of a cell of stride 2, whose skips from the input have weights: cells that are alike there are elsewhere.
        return cell_key(decode_cell(architecture), keep_dead=False, strided=True)

    def network_key(self, architecture: str) -> str:
        return cell_key(decode_cell(architecture), keep_dead=True, strided=True)

    def members(self) -> list[str]:
        digits = ("".join(codes) for codes in itertools.product("0123", repeat=len(EDGES)))
        return [f"{BASE}-{MICRO_MODULES}-{six[0]}_{six[1:3]}_{six[3:]}" for six in digits]

    def skip_spans(self, architectures: Sequence[str]) -> np.ndarray:
        return skip_spans(_codes(architectures))

    def _blocks(self, resolution: int) -> list[Block]:
        """The ten cells on maps that the stem leaves of images of side `resolution`."""
        found, channels, side = [], BASE, _stem(resolution)[1]
        for module in MICRO_MODULES:
            outputs = 2 * channels if doubles(module) else channels
            side_out = _half(side) if halves(module) else side
            block = Block(channels, outputs, halves(module), side, side_out)
            found.extend([block, *[block.inside] * (BLOCKS_PER_MODULE - 1)])
            channels, side = outputs, side_out
        return found

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        """Counts by formula. `params` are those that a gradient can reach from the logits.

        An operation that no later one reads is computed and counted in all but `params`; likewise all that comes
        before a cell whose output does not depend on its input.
        """
        codes = _codes(architectures)
        passes = np.any([(codes[:, path] != NONE).all(axis=1) for path in PATHS], axis=0)
        onward = codes[:, [EDGES.index((node, 3)) for node in (1, 2)]] != NONE
        onward[:, 0] |= (codes[:, EDGES.index((1, 2))] != NONE) & onward[:, 1]
        leads = np.column_stack([onward, np.ones(len(codes), dtype=bool)])[:, TARGETS - 1]  # edge -> output
        total = Total(len(codes))
        total.add(_stem(resolution)[0], reached=passes)
        blocks = self._blocks(resolution)
        for place, block in enumerate(blocks):
            alive = passes | (place == len(blocks) - 1)
            for first in (True, False):
                edges = (first == (SOURCES == 0))[None]
                for code in (SKIP, CONV1, CONV3):
                    chosen = (codes == code) & edges
                    reached = (chosen & leads).sum(axis=1) * alive
                    total.add(_cost(code, block if first else block.inside), chosen.sum(axis=1), reached)
        last, doublings = blocks[-1], STEM_HALVINGS + sum(map(halves, MICRO_MODULES))
        total.add(_head(self.head, last.outputs, doublings, num_classes, last.side_out))
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the ten cells; a skip of stride 2 is a 1x1 convolution."""
        codes = _codes(architectures)
        arriving = np.stack([((codes != NONE) & (target == TARGETS)).sum(axis=1) for target in TARGETS], axis=1)
        counts: dict[Operation, np.ndarray] = {}

        def add(operation: Operation, chosen: np.ndarray) -> None:
            counts[operation] = counts.get(operation, 0) + chosen.sum(axis=1)

        for block in self._blocks(resolution):
            for first in (True, False):
                edges = (first == (SOURCES == 0))[None]
                channels, _, strided, side, _ = block if first else block.inside
                for code, kernel in KERNELS.items():
                    add(Operation("convolution", kernel, channels, side), (codes == code) & edges)
                skips = (codes == SKIP) & edges
                if strided:
                    add(Operation("convolution", 1, channels, side), skips)
                else:
                    add(Operation("skip", 1, channels, side, summed=True), skips & (arriving > 1))
                    add(Operation("skip", 1, channels, side), skips & (arriving == 1))
        return tuple(counts), np.stack(list(counts.values()), axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The encoder with its head; `thin`: two channels behind the stem, one cell a module."""
        from harness.spaces.transnas101.network import Network

        return Network(MICRO_MODULES, num_classes, decode_cell(architecture), head=self.head, **_THIN if thin else {})


class TransNas101Macro(Space):
    """The 3,256 module stacks of TransNAS-Bench-101's macro space."""

    name = "transnas101_macro"
    version = 2
    heads = Space.heads | DECODERS.keys()
    distinct = True

    @staticmethod
    def enumerate_stacks() -> list[str]:
        """All 3,256 architectures, sorted."""
        found = []
        for length in MACRO_LENGTHS:
            for modules in itertools.product("1234", repeat=length):
                counts = sum(map(doubles, modules)), sum(map(halves, modules))
                if counts[0] in MACRO_DOUBLINGS and counts[1] in MACRO_HALVINGS:
                    found.append(f"{BASE}-{''.join(modules)}-{BASIC}")
        return sorted(found)

    def parse(self, text: str) -> str:
        decode_modules(text.strip())
        return text.strip()

    def canonical(self, architecture: str) -> str:
        return self.parse(architecture)

    def network_key(self, architecture: str) -> str:
        return self.parse(architecture)

    def _blocks(self, architectures: Sequence[str], resolution: int) -> list[tuple[np.ndarray, Block]]:
        """For each of the blocks that the longest stack has: which architectures have it (n,), and their `Block`."""
        modules = [decode_modules(a).ljust(max(MACRO_LENGTHS), " ") for a in architectures]
        digits = np.array([list(text) for text in modules], dtype="U1").reshape(-1, max(MACRO_LENGTHS))
        channels, side = np.full(len(digits), BASE), np.full(len(digits), _stem(resolution)[1])
        found = []
        for digit in digits.T:
            outputs = np.where(np.isin(digit, ["2", "4"]), 2 * channels, channels)
            strided = np.isin(digit, ["3", "4"])
            side_out = np.where(strided, _half(side), side)
            block = Block(channels, outputs, strided, side, side_out)
            found.extend([(digit != " ", one) for one in (block, *[block.inside] * (BLOCKS_PER_MODULE - 1))])
            channels, side = outputs, side_out
        return found

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        total = Total(len(architectures))
        total.add(_stem(resolution)[0])
        blocks = self._blocks(architectures, resolution)
        for present, block in blocks:
            total.add(_relu_conv_norm(3, block), present)
            total.add(_relu_conv_norm(3, block.inside), present)
            shortcut = convolution(block.inputs, block.outputs, 1, block.side_out)
            total.add(normalised(shortcut, block.outputs, block.side_out), present & block.changes)
        last = blocks[-1][1]
        halvings = STEM_HALVINGS + sum(present & block.strided for present, block in blocks)
        for number in np.unique(halvings):
            total.add(_head(self.head, last.outputs, number, num_classes, last.side_out), halvings == number)
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the residual blocks, whose shortcut is a skip, or a 1x1 convolution where shapes change."""
        tally, one = OperationTally(len(architectures)), np.ones(len(architectures))
        for present, block in self._blocks(architectures, resolution):
            plain = present & ~block.changes
            tally.add("convolution", 3, block.inputs, block.side, one, present)
            tally.add("convolution", 3, block.outputs, block.side_out, one, present)
            tally.add("convolution", 1, block.inputs, block.side, one, present & block.changes)
            tally.add("skip", 1, block.inputs, block.side, one, plain, summed=True)
        return tally.result()

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The encoder with its head; `thin`: two channels behind the stem, one block a module."""
        from harness.spaces.transnas101.network import Network

        return Network(decode_modules(architecture), num_classes, head=self.head, **_THIN if thin else {})


#: The stem's first convolution has half the channels: one.
_THIN = {"base": 2, "blocks_per_module": 1}


def _codes(architectures: Sequence[str]) -> np.ndarray:
    return np.array([decode_cell(a) for a in architectures], dtype=np.int8).reshape(-1, len(EDGES))
