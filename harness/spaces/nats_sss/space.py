"""NATS-Bench's size space: members, identity and counts."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from harness.spaces.base import Operation, Space
from harness.spaces.nasbench201.cell import stage_sides
from harness.spaces.nats_sss.cell import CHOICES, FROM_INPUT, INSIDE, POSITIONS, REDUCTIONS, decode

if TYPE_CHECKING:
    from torch import nn


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
        from harness.spaces.nats_sss.network import Network

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
