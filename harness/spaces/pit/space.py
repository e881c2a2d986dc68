"""ViT-Bench-101's PiT: texts and counts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.spaces.autoformer.cell import PATCH, SIDE
from harness.spaces.autoformer.space import block_cost, linear, norm, tally_block
from harness.spaces.base import Operation, Space
from harness.spaces.costs import OperationTally, Total, convolution
from harness.spaces.pit.cell import DEPTHS, Pyramid, decode, grids

if TYPE_CHECKING:
    from torch import nn

#: By what the thin network divides the width of a head.
THINNER = 8


class VitBenchPit(Space):
    """The PiT networks of ViT-Bench-101."""

    name = "vit_bench_pit"
    distinct = True
    parts = frozenset({"attention"})

    def parse(self, text: str) -> str:
        return str(decode(text))

    def canonical(self, architecture: str) -> str:
        return self.parse(architecture)

    def network_key(self, architecture: str) -> str:
        return self.parse(architecture)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        """Counts as `Space.topology`; products of queries with keys and of weights with values are no layers."""
        widths, depths, ratio = self._arrays(architectures)
        total = Total(len(widths))
        sides = grids(resolution)
        total.add(convolution(3, widths[:, 0], PATCH**2, sides[0], bias=True))
        total.add({"params": widths[:, 0] * (grids(SIDE)[0] ** 2 + 1), "parameter_tensors": 2})
        for stage, side in enumerate(sides):
            width = widths[:, stage]
            total.add(block_cost(width, width, ratio * width, side**2 + 1), depths[:, stage])
            if stage + 1 < len(sides):
                after = widths[:, stage + 1]
                total.add(convolution(1, after, 9, sides[stage + 1], bias=True))
                total.add(linear(width, after, 1))
        total.add(norm(widths[:, -1], 1))
        total.add(linear(widths[:, -1], num_classes, 1))
        return total.counts

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of blocks and convolutions between stages: linear layers as 1x1 convolutions, and sums."""
        widths, depths, ratio = self._arrays(architectures)
        tally = OperationTally(len(widths))
        sides = grids(resolution)
        for stage, side in enumerate(sides):
            width, grid_side = widths[:, stage], np.full(len(widths), side)
            for block in range(DEPTHS[stage][-1]):
                tally_block(tally, width, width, ratio * width, grid_side, depths[:, stage] > block)
            if stage + 1 < len(sides):
                tally.add("convolution", 3, width, grid_side, 1, np.ones(len(widths), dtype=bool))
        return tally.result()

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network, for any images of 16 pixels and more; `thin` has heads an eighth as wide.

        Positions and the class token, which no initialisation draws, are the same draw in all networks.
        """
        from harness.spaces.pit.network import Network

        found = decode(architecture)
        return Network(found._replace(base=found.base // THINNER) if thin else found, num_classes)

    @staticmethod
    def _arrays(architectures: Sequence[str]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Widths and depths of the stages (n, 3), and MLP ratios (n,)."""
        found: list[Pyramid] = [decode(a) for a in architectures]
        widths = np.array([one.widths for one in found], dtype=np.int64).reshape(-1, len(DEPTHS))
        depths = np.array([one.depths for one in found], dtype=np.int64).reshape(-1, len(DEPTHS))
        return widths, depths, np.array([one.ratio for one in found], dtype=np.int64)
