"""Channel-Bench-Macro's networks as their benchmark trained them (affine BatchNorm with running statistics)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from harness.spaces.channel_macro.cell import Family
from harness.spaces.macro.network import ConvBN


class Residual(nn.Module):
    """Two 3x3 convolutions; a ReLU behind the sum with the input, or behind the last where there is no shortcut."""

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int, shortcut: bool):
        super().__init__()
        self.convs = nn.Sequential(ConvBN(inputs, inside, 3, stride, relu=True), ConvBN(inside, outputs, 3))
        self.relu = nn.ReLU()
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.relu(self.convs(x) + x if self.shortcut else self.convs(x))


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise convolution, pointwise projection; summed with its input at a shortcut."""

    def __init__(self, inputs: int, inside: int, outputs: int, stride: int, shortcut: bool):
        super().__init__()
        self.convs = nn.Sequential(
            ConvBN(inputs, inside, relu=True),
            ConvBN(inside, inside, 3, stride, groups=inside, relu=True),
            ConvBN(inside, outputs),
        )
        self.shortcut = shortcut

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x) + x if self.shortcut else self.convs(x)


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes); `widths` at the family's seven positions."""

    def __init__(self, family: Family, widths: Sequence[int], num_classes: int):
        super().__init__()
        made = InvertedResidual if family.inverted else Residual
        self.stem = ConvBN(3, widths[0], 3, 2, relu=True)
        self.blocks = nn.Sequential(
            *(
                made(widths[block.reads], widths[block.inside], widths[block.makes], block.stride, block.shortcut)
                for block in family.blocks
            )
        )
        self.head = nn.Identity()
        if family.head is not None:
            self.head = ConvBN(widths[family.blocks[-1].makes], widths[family.head], relu=True)
        self.classifier = nn.Linear(widths[family.last], num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each block."""
        return [self.stem, *self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))
