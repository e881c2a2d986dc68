"""AutoFormer: texts and counts of its four spaces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from harness.spaces.autoformer.cell import (
    BASE,
    HEAD,
    PATCH,
    REACH,
    SIDE,
    SMALL,
    TINY,
    VIT_BENCH,
    Choice,
    decode,
    grid,
)
from harness.spaces.base import Operation, Space
from harness.spaces.costs import Cost, OperationTally, Total, combined, convolution

if TYPE_CHECKING:
    from torch import nn


def linear(inputs: Any, outputs: Any, tokens: Any) -> Cost:
    """Cost of a linear layer with bias on each of the tokens."""
    return convolution(inputs, outputs, 1, tokens, other_side=1, bias=True)


def norm(width: Any, tokens: Any) -> Cost:
    """Cost of a LayerNorm."""
    return {"params": 2 * width, "elementwise": 2 * width * tokens, "parameter_tensors": 2}


def block_cost(width: Any, attention: Any, hidden: Any, tokens: Any) -> Cost:
    """Cost of a block of `width` whose heads are `attention` wide together and whose MLP is `hidden` wide inside."""
    return combined(
        norm(width, tokens),
        linear(width, 3 * attention, tokens),
        linear(attention, width, tokens),
        norm(width, tokens),
        linear(width, hidden, tokens),
        linear(hidden, width, tokens),
    )


def tally_block(tally: OperationTally, width: Any, attention: Any, hidden: Any, side: Any, present: Any) -> None:
    """A block's operations: its linear layers as 1x1 convolutions of the patches, and its two sums."""
    for channels, number in ((width, 2), (attention, 1), (hidden, 1)):
        tally.add("convolution", 1, channels, side, number, present)
    tally.add("skip", 1, width, side, 2, present, summed=True)


class _AutoFormer(Space):
    """What the four spaces share: all that differs is what they leave open."""

    choice: ClassVar[Choice]
    #: By what the thin network divides widths, so that every number of heads still fits.
    thinner: ClassVar[int] = 8
    distinct = True
    parts = frozenset({"attention"})

    def parse(self, text: str) -> str:
        return str(decode(text, self.choice))

    def canonical(self, architecture: str) -> str:
        return self.parse(architecture)

    def network_key(self, architecture: str) -> str:
        return self.parse(architecture)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        """Counts as `Space.topology`; products of queries with keys and of weights with values are no layers."""
        width, heads, hidden = self._arrays(architectures)
        total = Total(len(width))
        patches, tokens = grid(resolution) ** 2, grid(resolution) ** 2 + 1
        total.add(convolution(3, width, PATCH**2, patches, other_side=1, bias=True))
        total.add({"params": width * (grid(SIDE) ** 2 + 2), "parameter_tensors": 2})  # positions and class token
        for block in range(heads.shape[1]):
            present = heads[:, block] > 0
            attention = heads[:, block] * HEAD if self.choice.relative else width
            total.add(block_cost(width, attention, hidden[:, block], tokens), present)
            if self.choice.relative:  # rows and columns of keys and of values
                total.add({"params": 4 * (2 * REACH + 2) * HEAD, "parameter_tensors": 4}, present)
        total.add(norm(width, tokens))
        total.add(linear(width, num_classes, 1))
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the blocks: linear layers as 1x1 convolutions of the patches, and sums. Attention is none."""
        width, heads, hidden = self._arrays(architectures)
        tally = OperationTally(len(width))
        side = np.full(len(width), grid(resolution))
        for block in range(heads.shape[1]):
            attention = heads[:, block] * HEAD if self.choice.relative else width
            tally_block(tally, width, attention, hidden[:, block], side, heads[:, block] > 0)
        return tally.result()

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network, for any images of 16 pixels and more; `thin` has a fraction of its widths.

        Positions, distances and the class token, which no initialisation draws, are the same draw in all networks.
        """
        from harness.spaces.autoformer.network import Network

        return Network(decode(architecture, self.choice), self.choice, num_classes, self.thinner if thin else 1)

    def _arrays(self, architectures: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Width (n,), heads and inner widths of the MLP (n, blocks), 0 where there is no such block."""
        found = [decode(a, self.choice) for a in architectures]
        width = np.array([one.width for one in found], dtype=np.int64)
        heads = np.zeros((len(found), self.choice.depths[-1]), dtype=np.int64)
        hidden = np.zeros_like(heads)
        for row, one in enumerate(found):
            heads[row, : len(one.heads)] = one.heads
            hidden[row, : len(one.ratios)] = [int(one.width * ratio) for ratio in one.ratios]
        return width, heads, hidden


class AutoFormerTiny(_AutoFormer):
    """AutoFormer's tiny space."""

    name = "autoformer_tiny"
    choice = TINY


class AutoFormerSmall(_AutoFormer):
    """AutoFormer's small space."""

    name = "autoformer_small"
    choice = SMALL


class AutoFormerBase(_AutoFormer):
    """AutoFormer's base space."""

    name = "autoformer_base"
    choice = BASE


class VitBenchAutoFormer(_AutoFormer):
    """ViT-Bench-101's networks of AutoFormer's tiny space."""

    name = "vit_bench_autoformer"
    choice = VIT_BENCH
    thinner = 2
