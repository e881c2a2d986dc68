"""NATS-Bench's size space (Dong et al., TPAMI 2021): how many channels each of five blocks has.

An architecture is written `C0:C1:C2:C3:C4`, each of 8, 16, ..., 64 channels; 32,768 in all, numbered as NATS-Bench
does, the last position changing fastest. Blocks 0, 2 and 4 are the same NAS-Bench-201 cell, `CELL`; blocks 1 and
3 are its residual blocks of stride 2; stem and end are those of NAS-Bench-201, at C0 and C4 channels. A cell
that changes the number of channels does so in its edges from node 0, whose skip is then a 1x1 convolution with
BatchNorm (and no ReLU). Source: D-X-Y/AutoDL-Projects, `shape_infers/InferTinyCellNet.py` (MIT).
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space
from harness.spaces.nasbench201 import stage_sides

if TYPE_CHECKING:
    from torch import nn

CHOICES = tuple(range(8, 65, 8))
POSITIONS = 5
REDUCTIONS = (1, 3)
#: The cell of every network, as each record of the official archive names it under `genotype`.
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
FROM_INPUT, INSIDE = 2, 3  # its 3x3 convolutions of node 0, and of its other nodes

_FORM = re.compile(":".join([r"([1-9][0-9]?)"] * POSITIONS), re.ASCII)


class Block(NamedTuple):
    """One of the five positions: whether it halves the maps, and the sides of its maps, before and after."""

    reduction: bool
    side: int
    side_out: int


def blocks_at(resolution: int) -> list[Block]:
    """The five positions for images of `resolution`."""
    sides = stage_sides(resolution)
    stages = [sum(place <= position for place in REDUCTIONS) for position in range(POSITIONS)]
    return [
        Block(position in REDUCTIONS, sides[stage - (position in REDUCTIONS)], sides[stage])
        for position, stage in enumerate(stages)
    ]


def decode(architecture: str) -> tuple[int, ...]:
    """The five numbers of channels. Raises HarnessError if malformed."""
    match = _FORM.fullmatch(architecture)
    channels = tuple(map(int, match.groups())) if match else ()
    if not channels or not set(channels) <= set(CHOICES):
        raise HarnessError(
            f"{architecture!r} is not an architecture of NATS-Bench's size space: write it as five numbers of "
            f"channels such as 8:16:24:32:40, each one of {', '.join(map(str, CHOICES))}"
        )
    return channels


class NatsSss(Space):
    """The 32,768 channel configurations of NATS-Bench's size space, no two of which compute the same function."""

    name = "nats_sss"
    distinct = True

    def members(self) -> list[str]:
        return [":".join(map(str, channels)) for channels in itertools.product(CHOICES, repeat=POSITIONS)]

    def parse(self, text: str) -> str:
        decode(text.strip())
        return text.strip()

    def canonical(self, architecture: str) -> str:
        return self.parse(architecture)

    def network_key(self, architecture: str) -> str:
        return self.parse(architecture)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        channels = self._channels(architectures)
        first, last = channels[:, 0], channels[:, -1]
        blocks = blocks_at(resolution)
        stem, end = first * resolution**2, last * blocks[-1].side_out ** 2
        params = 27 * first + 2 * first + 2 * last + (last + 1) * num_classes
        flops = 27 * stem + last * num_classes
        elementwise = 2 * stem + 3 * end  # BatchNorm 2 an element, ReLU 1
        layers, tensors = np.full_like(first, 2), np.full_like(first, 7)
        for block, before, after in self._widths(channels, blocks):
            area, area_out = block.side**2, block.side_out**2
            if block.reduction:
                weights = before * after * (9 + 1) + 9 * after**2
                params += weights + 4 * after
                # Two ReLUs, two BatchNorms, 2x2 pooling.
                elementwise += before * area + (after + 4 * after + 4 * before) * area_out
                layers += 3
                tensors += 7
            else:
                projected = before != after
                weights = 9 * after * (FROM_INPUT * before + INSIDE * after) + projected * before * after
                params += weights + 2 * after * (FROM_INPUT + INSIDE + projected)
                relus = FROM_INPUT * before + INSIDE * after
                elementwise += (relus + 2 * after * (FROM_INPUT + INSIDE + projected)) * area
                layers += FROM_INPUT + INSIDE + projected
                tensors += 3 * (FROM_INPUT + INSIDE + projected)
            flops += weights * area_out
        return {
            "params": params,
            "flops": flops,
            "elementwise": elementwise,
            "trainable_layers": layers,
            "parameter_tensors": tensors,
        }

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the five blocks, the residual ones among them: their channels are searched too.

        A residual block is two 3x3 convolutions and, on its shortcut, 2x2 pooling and a 1x1 convolution.
        """
        channels = self._channels(architectures)
        counts: dict[Operation, np.ndarray] = {}

        def add(operation: Operation, number: np.ndarray) -> None:
            counts[operation] = counts.get(operation, 0) + number

        for block, before, after in self._widths(channels, blocks_at(resolution)):
            for width in CHOICES:
                reads, has = before == width, after == width
                if block.reduction:
                    add(Operation("convolution", 3, width, block.side), reads)
                    add(Operation("convolution", 3, width, block.side_out), has)
                    add(Operation("pooling", 2, width, block.side), reads)
                    add(Operation("convolution", 1, width, block.side_out), reads)
                else:
                    add(Operation("convolution", 3, width, block.side), FROM_INPUT * reads + INSIDE * has)
                    add(Operation("convolution", 1, width, block.side), reads & ~has)
                    add(Operation("skip", 1, width, block.side, summed=True), reads & has)
        return tuple(counts), np.stack(list(counts.values()), axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network; `thin` has an eighth of the channels, 1 to 8.

        One channel throughout would be one network for all. But for 8:8:8:8:8, these tell nearly all of TE-NAS's
        3,000 images apart, so that its linear regions rank little in this space.
        """
        from harness.spaces.nats_sss_network import Network

        channels = decode(architecture)
        return Network([width // CHOICES[0] for width in channels] if thin else channels, num_classes)

    @staticmethod
    def _channels(architectures: Sequence[str]) -> np.ndarray:
        return np.array([decode(a) for a in architectures], dtype=np.float64).reshape(-1, POSITIONS)

    @staticmethod
    def _widths(channels: np.ndarray, blocks: Sequence[Block]) -> Iterator[tuple[Block, np.ndarray, np.ndarray]]:
        """Each block with the channels that it reads and has, (n,); the first reads the stem's, which are its own."""
        before = channels[:, 0]
        for block, after in zip(blocks, channels.T, strict=True):
            yield block, before, after
            before = after
