"""Channel-Bench-Macro: strings and counts of its two spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from harness.spaces.base import Operation, Space
from harness.spaces.channel_macro.cell import (
    MOBILENET,
    POSITIONS,
    QUARTERS,
    RESNET,
    Family,
    Layer,
    blocks_at,
    decode,
    halved,
    widths_of,
)
from harness.spaces.costs import Total, convolution, normalised

if TYPE_CHECKING:
    from torch import nn


class _ChannelMacro(Space):
    """What both spaces share: all that differs is the family of networks."""

    family: ClassVar[Family]
    #: By what the thin network divides widths: the least of them, a quarter of position 0.
    thinner: ClassVar[int]
    distinct = True

    def parse(self, text: str) -> str:
        return "".join(map(str, decode(text.strip())))

    def canonical(self, architecture: str) -> str:
        return self.parse(architecture)

    def network_key(self, architecture: str) -> str:
        return self.parse(architecture)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        quarters = self._quarters(architectures)
        widths = quarters * np.array(self.family.full, dtype=np.float64) / len(QUARTERS)
        total = Total(len(quarters))
        for layer in self._layers(resolution):
            made = widths[:, layer.makes]
            read = 3 if layer.reads is None else 1 if layer.depthwise else widths[:, layer.reads]
            cost = convolution(read, made, layer.kernel**2, layer.side_out)
            total.add(normalised(cost, made, layer.side_out, relu=made * layer.side_out**2 * layer.relu))
        total.add(convolution(widths[:, self.family.last], num_classes, 1, 1, bias=True))
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations behind the stem.

        A depthwise convolution with the pointwise one after it is one convolution of the depthwise's kernel.
        """
        quarters = self._quarters(architectures)
        counts: dict[Operation, np.ndarray] = {}

        def add(kind: str, kernel: int, position: int, side: int, summed: bool = False) -> None:
            for quarter in QUARTERS:
                width = quarter * self.family.full[position] // len(QUARTERS)
                operation = Operation(kind, kernel, width, side, summed)
                counts[operation] = counts.get(operation, 0) + (quarters[:, position] == quarter)

        for block, layers in blocks_at(self.family, resolution):
            for layer in layers[:2]:  # of an inverted residual's three the last belongs to the one before it
                add("convolution", layer.kernel, layer.reads, layer.side)
            if block.shortcut:
                add("skip", 1, block.reads, layers[0].side, summed=True)
        if self.family.head is not None:
            add("convolution", 1, self.family.blocks[-1].makes, layers[-1].side_out)
        return tuple(counts), np.stack(list(counts.values()), axis=1).astype(np.float64)

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network; `thin` has the least width of the stem as one channel, all others in proportion.

        One channel throughout would be one network for all.
        """
        from harness.spaces.channel_macro.network import Network

        widths = widths_of(self.family, decode(architecture.strip()), self.thinner if thin else 1)
        return Network(self.family, widths, num_classes)

    def _layers(self, resolution: int) -> list[Layer]:
        blocks = blocks_at(self.family, resolution)
        layers = [Layer(None, 0, 3, resolution, halved(resolution))]
        layers += [layer for _, found in blocks for layer in found]
        if self.family.head is not None:
            side = layers[-1].side_out
            layers.append(Layer(self.family.blocks[-1].makes, self.family.head, 1, side, side))
        return layers

    @staticmethod
    def _quarters(architectures: Sequence[str]) -> np.ndarray:
        return np.array([decode(a.strip()) for a in architectures], dtype=np.int8).reshape(-1, POSITIONS)


class ChannelMacroResNet(_ChannelMacro):
    """The 16,384 ResNets of Channel-Bench-Macro."""

    name = "channel_macro_resnet"
    family = RESNET
    thinner = 64


class ChannelMacroMobileNet(_ChannelMacro):
    """The 16,384 MobileNets of Channel-Bench-Macro."""

    name = "channel_macro_mobilenet"
    family = MOBILENET
    thinner = 32
