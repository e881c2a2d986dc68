"""Accel-NASBench's network (affine BatchNorm with running statistics, without dropout and stochastic depth)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from harness.spaces.accel_nasbench.cell import CHANNELS, HEAD, SQUEEZE, STEM, STRIDES, Block
from harness.spaces.macro.network import ConvBN


class SqueezeExcitation(nn.Module):
    """Each channel times a gate in (0, 1) that two 1x1 convolutions make of the channels' means."""

    def __init__(self, channels: int, squeezed: int):
        super().__init__()
        self.gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            nn.Conv2d(channels, squeezed, 1),
            nn.ReLU(),
            nn.Conv2d(squeezed, channels, 1),
            nn.Sigmoid(),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.gate(x)


class Layer(nn.Module):
    """Pointwise expansion, depthwise convolution, gate, pointwise projection; summed with its input if they fit."""

    def __init__(self, block: Block, inputs: int, outputs: int, stride: int):
        super().__init__()
        hidden = block.expansion * inputs
        self.convs = nn.Sequential(
            *([ConvBN(inputs, hidden, relu=True)] if hidden != inputs else []),
            ConvBN(hidden, hidden, block.kernel, stride, groups=hidden, relu=True),
            *([SqueezeExcitation(hidden, max(1, inputs // SQUEEZE))] if block.squeeze else []),
            ConvBN(hidden, outputs),
        )
        self.shortcut = stride == 1 and inputs == outputs

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x) + x if self.shortcut else self.convs(x)


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes); all channels divided by `divisor`."""

    def __init__(self, blocks: Sequence[Block], num_classes: int, divisor: int = 1):
        super().__init__()
        channels = STEM // divisor
        self.stem = ConvBN(3, channels, 3, 2, relu=True)
        layers: list[nn.Module] = []
        for block, width, stride in zip(blocks, CHANNELS, STRIDES, strict=True):
            for place in range(block.layers):
                layers.append(Layer(block, channels, width // divisor, 1 if place else stride))
                channels = width // divisor
        self.layers = nn.Sequential(*layers)
        self.head = ConvBN(channels, HEAD // divisor, relu=True)
        self.classifier = nn.Linear(HEAD // divisor, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each layer."""
        return [self.stem, *self.layers]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.head(self.layers(self.stem(x))).mean(dim=(2, 3)))
