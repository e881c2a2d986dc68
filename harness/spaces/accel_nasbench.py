"""Accel-NASBench (Ahmad et al., DAC 2024): MnasNet's space of seven blocks in EfficientNet-B0's frame.

A block is one to three layers (the sixth up to four) of inverted residuals that share an expansion (1, 4 or 6), a
kernel (3 or 5) and whether they squeeze and excite. An architecture is written as its seven blocks, such as
`e6k3l1-e4k5l2se-e6k3l3-e6k5l3-e6k5l2se-e1k3l2-e1k3l2`; the four lists of the benchmark's own interface,
`[[6, 4, ...], [3, 5, ...], [1, 2, ...], [False, True, ...]]` (expansions, kernels, layers, squeeze-excite), are read
as well.

Channels, strides, stem and head are those of the release's training code: stem of 32 channels and stride 2, blocks of
16, 24, 40, 80, 112, 192 and 320, head of 1,280. The layers of expansion 1 have no expanding convolution; a
squeeze-excite layer squeezes to a quarter of the layer's input channels, not of the expanded ones. Of every row the
parameters and the multiply-accumulates that the benchmark stores follow from this (the latter with what its counter
adds for normalisation and pooling: see the card).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space
from harness.spaces.costs import Cost, Total, combined, convolution, normalised

if TYPE_CHECKING:
    from torch import nn

CHANNELS = (16, 24, 40, 80, 112, 192, 320)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
STEM, HEAD = 32, 1280
EXPANSIONS, KERNELS = (1, 4, 6), (3, 5)
LAYERS = (3, 3, 3, 3, 3, 4, 3)  # at most, of each block
SQUEEZE = 4  # input channels of a layer for each of its squeezed ones

_BLOCK = re.compile(r"e([0-9])k([0-9])l([0-9])(se)?")
_LONGEST = 1_000  # characters: what is longer is no architecture, and need not be parsed to know


class Block(NamedTuple):
    """What is chosen of a block."""

    expansion: int
    kernel: int
    layers: int
    squeeze: bool

    def __str__(self) -> str:
        return f"e{self.expansion}k{self.kernel}l{self.layers}{'se' if self.squeeze else ''}"


class Place(NamedTuple):
    """Where a layer stands: channels that it reads and makes, its stride, and the sides of its maps."""

    inputs: int
    outputs: int
    stride: int
    side: int
    side_out: int


@lru_cache(maxsize=20_000)
def decode(text: str) -> tuple[Block, ...]:
    """The seven blocks of an architecture, in either form. Raises HarnessError if malformed."""
    try:
        blocks = _lists(text) if text.lstrip().startswith("[") else _text(text.strip())
        if len(blocks) != len(CHANNELS):
            raise ValueError(f"it has {len(blocks)} blocks")
        for place, (block, most) in enumerate(zip(blocks, LAYERS, strict=True), start=1):
            if block.expansion not in EXPANSIONS or block.kernel not in KERNELS or not 1 <= block.layers <= most:
                raise ValueError(f"its block {place} is {block}")
        return blocks
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else "it cannot be parsed"
        shown = repr(text) if len(text) <= 300 else f"{text[:200]!r}…"
        raise HarnessError(
            f"{shown} is not an Accel-NASBench architecture ({reason}): write it as seven blocks eEkKlL or eEkKlLse "
            f"joined by '-', such as e6k3l1-e4k5l2se-…, with E of {EXPANSIONS}, K of {KERNELS}, L from 1 to 3 (to 4 "
            "in the sixth block) and `se` for squeeze-excite"
        ) from None


def _text(text: str) -> tuple[Block, ...]:
    matches = [_BLOCK.fullmatch(part) for part in text.split("-")] if len(text) <= _LONGEST else [None]
    if None in matches:
        raise ValueError("it is not of blocks")
    return tuple(Block(int(m[1]), int(m[2]), int(m[3]), m[4] is not None) for m in matches)


def _lists(text: str) -> tuple[Block, ...]:
    if len(text) > _LONGEST:
        raise ValueError("it is too long")
    lists = ast.literal_eval(text.strip())
    if len(lists) != 4 or not all(isinstance(one, (list, tuple)) and len(one) == len(CHANNELS) for one in lists):
        raise ValueError("it is not of four lists of seven")
    blocks = tuple(Block(*chosen) for chosen in zip(*lists, strict=True))
    if not all([type(value) for value in block] == [int, int, int, bool] for block in blocks):
        raise ValueError("its lists are not of numbers, numbers, numbers and booleans")
    return blocks


def places(block: int, resolution: int) -> list[Place]:
    """Where the layers of a block may stand, as many as it may have, for images of side `resolution`."""
    side, inputs = (resolution + 1) // 2, STEM
    for before in range(block):
        side, inputs = (side + STRIDES[before] - 1) // STRIDES[before], CHANNELS[before]
    stride, outputs = STRIDES[block], CHANNELS[block]
    side_out = (side + stride - 1) // stride
    first = Place(inputs, outputs, stride, side, side_out)
    return [first] + [Place(outputs, outputs, 1, side_out, side_out)] * (LAYERS[block] - 1)


def _cost(expansion: int, kernel: int, squeeze: bool, place: Place) -> Cost:
    """What a layer adds to each count."""
    hidden = expansion * place.inputs
    side, side_out = place.side, place.side_out
    parts = []
    if hidden != place.inputs:
        parts.append(normalised(convolution(place.inputs, hidden, 1, side), hidden, side, relu=hidden * side**2))
    depthwise = convolution(1, hidden, kernel**2, side_out)
    parts.append(normalised(depthwise, hidden, side_out, relu=hidden * side_out**2))
    if squeeze:
        squeezed = place.inputs // SQUEEZE
        parts += [convolution(hidden, squeezed, 1, 1, bias=True), convolution(squeezed, hidden, 1, 1, bias=True)]
        parts.append({"elementwise": hidden * side_out**2 + squeezed})  # the mean over positions, and the ReLU
    parts.append(normalised(convolution(hidden, place.outputs, 1, side_out), place.outputs, side_out))
    return combined(*parts)


class AccelNasBench(Space):
    """The 36^6 * 48 architectures of Accel-NASBench."""

    name = "accel_nasbench"

    def parse(self, text: str) -> str:
        return "-".join(map(str, decode(text)))

    def canonical(self, architecture: str) -> str:
        return self.parse(architecture)

    def network_key(self, architecture: str) -> str:
        return self.parse(architecture)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        blocks = _arrays(architectures)
        total = Total(len(blocks))
        side = (resolution + 1) // 2
        total.add(normalised(convolution(3, STEM, 9, side), STEM, side, relu=STEM * side**2))
        for block in range(len(CHANNELS)):
            expansions, kernels, layers, squeezes = blocks[:, block].T
            for layer, place in enumerate(places(block, resolution)):
                for expansion in EXPANSIONS:
                    for kernel in KERNELS:
                        for squeeze in (False, True):
                            chosen = (expansions == expansion) & (kernels == kernel) & (squeezes == squeeze)
                            total.add(_cost(expansion, kernel, squeeze, place), chosen & (layers > layer))
        width, side = CHANNELS[-1], places(len(CHANNELS) - 1, resolution)[-1].side_out
        total.add(normalised(convolution(width, HEAD, 1, side), HEAD, side, relu=HEAD * side**2))
        total.add(convolution(HEAD, num_classes, 1, 1, bias=True))
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the seven blocks.

        A depthwise convolution with the pointwise one after it is one convolution of the depthwise's kernel; a
        squeeze-excite layer gates what is there and counts as none.
        """
        blocks = _arrays(architectures)
        counts: dict[Operation, np.ndarray] = {}

        def add(operation: Operation, chosen: np.ndarray) -> None:
            counts[operation] = counts.get(operation, 0) + chosen

        for block in range(len(CHANNELS)):
            expansions, kernels, layers, _ = blocks[:, block].T
            for layer, place in enumerate(places(block, resolution)):
                present = layers > layer
                for expansion in EXPANSIONS:
                    chosen = present & (expansions == expansion)
                    if expansion > 1:
                        add(Operation("convolution", 1, place.inputs, place.side), chosen)
                    for kernel in KERNELS:
                        operation = Operation("convolution", kernel, expansion * place.inputs, place.side)
                        add(operation, chosen & (kernels == kernel))
                if place.stride == 1 and place.inputs == place.outputs:
                    add(Operation("skip", 1, place.inputs, place.side, summed=True), present)
        return tuple(counts), np.stack(list(counts.values()), axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network; `thin`: the same layers with an eighth of the channels."""
        from harness.spaces.accel_nasbench_network import Network

        return Network(decode(architecture), num_classes, 8 if thin else 1)


def _arrays(architectures: Sequence[str]) -> np.ndarray:
    """(n, 7, 4): expansion, kernel, layers and squeeze-excite of each block."""
    return np.array([decode(a) for a in architectures], dtype=np.int8).reshape(-1, len(CHANNELS), 4)
