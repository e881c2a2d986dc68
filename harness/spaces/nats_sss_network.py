"""The network of NATS-Bench's size space as its benchmark trained it (affine BatchNorm with running statistics)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from harness.spaces.nasbench201_network import Reduction, ReLUConvBN
from harness.spaces.nats_sss import REDUCTIONS


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


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes)."""

    def __init__(self, channels: Sequence[int], num_classes: int):
        super().__init__()
        before = channels[0]
        self.stem = nn.Sequential(nn.Conv2d(3, before, 3, padding=1, bias=False), nn.BatchNorm2d(before))
        cells: list[nn.Module] = []
        for place, width in enumerate(channels):
            cells.append(Reduction(before, width) if place in REDUCTIONS else Cell(before, width))
            before = width
        self.cells = nn.Sequential(*cells)
        self.last = nn.Sequential(nn.BatchNorm2d(before), nn.ReLU())
        self.classifier = nn.Linear(before, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each of the five blocks."""
        return [self.stem, *self.cells]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.cells(self.stem(x)))
        return self.classifier(x.mean(dim=(2, 3)))
