"""Accel-NASBench: identity and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.spaces.accel_nasbench.cell import (
    CHANNELS,
    EXPANSIONS,
    HEAD,
    KERNELS,
    LAYERS,
    SQUEEZE,
    STEM,
    STRIDES,
    decode,
)
from harness.spaces.base import Operation, Space
from harness.spaces.costs import Cost, Total, combined, convolution, normalised

if TYPE_CHECKING:
    from torch import nn


class Place(NamedTuple):
    """Where a layer stands: channels that it reads and makes, its stride, and the sides of its maps."""

    inputs: int
    outputs: int
    stride: int
    side: int
    side_out: int


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
        from harness.spaces.accel_nasbench.network import Network

        return Network(decode(architecture), num_classes, 8 if thin else 1)


def _arrays(architectures: Sequence[str]) -> np.ndarray:
    """(n, 7, 4): expansion, kernel, layers and squeeze-excite of each block."""
    return np.array([decode(a) for a in architectures], dtype=np.int8).reshape(-1, len(CHANNELS), 4)
