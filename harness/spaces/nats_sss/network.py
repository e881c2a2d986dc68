"""The network of NATS-Bench's size space as its benchmark trained it (affine BatchNorm with running statistics)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from harness.spaces.nasbench201.network import Reduction, ReLUConvBN, Stack
from harness.spaces.nats_sss.cell import REDUCTIONS


class Cell(nn.Module):
    """The size space's only cell, from `inputs` to `outputs` channels."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv_0_1 = ReLUConvBN(inputs, outputs, 3)
        self.conv_0_2 = ReLUConvBN(inputs, outputs, 3)
        self.conv_1_2 = ReLUConvBN(outputs, outputs, 3)
        self.skip_0_3: nn.Module = nn.Identity()
        if inputs != outputs:
            self.skip_0_3 = nn.Sequential(nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs))
        self.conv_1_3 = ReLUConvBN(outputs, outputs, 3)
        self.conv_2_3 = ReLUConvBN(outputs, outputs, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        first = self.conv_0_1(x)
        second = self.conv_0_2(x) + self.conv_1_2(first)
        return self.skip_0_3(x) + self.conv_1_3(first) + self.conv_2_3(second)


class Network(Stack):
    """The network of five numbers of channels, with six stages."""

    def __init__(self, channels: Sequence[int], num_classes: int):
        widths = enumerate(zip([channels[0], *channels], channels, strict=False))
        cells = (Reduction(*pair) if place in REDUCTIONS else Cell(*pair) for place, pair in widths)
        super().__init__(channels[0], cells, channels[-1], num_classes)
