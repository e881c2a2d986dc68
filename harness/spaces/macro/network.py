"""The NAS-Bench-Macro network as its benchmark trained it (affine BatchNorm with running statistics)."""

from __future__ import annotations

import torch
from torch import nn

from harness.spaces.macro.cell import BLOCKS, CHANNELS, HEAD, IDENTITY, layers_at


class ConvBN(nn.Sequential):
    """Convolution without bias, BatchNorm, and ReLU where asked for."""

    def __init__(
        self, inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, relu: bool = False
    ):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outputs),
            *([nn.ReLU()] if relu else []),
        )


class InvertedResidual(nn.Module):
    """Pointwise expansion, depthwise convolution, pointwise projection; summed with its input where they fit."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int, kernel: int):
        super().__init__()
        hidden = expansion * inputs
        self.convs = nn.Sequential(
            ConvBN(inputs, hidden, relu=True),
            ConvBN(hidden, hidden, kernel, stride, groups=hidden, relu=True),
            ConvBN(hidden, outputs),
        )
        self.shortcut = inputs == outputs and stride == 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.convs(x) + x if self.shortcut else self.convs(x)


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes)."""

    def __init__(self, architecture: str, num_classes: int, channels: int = CHANNELS, head: int = HEAD):
        super().__init__()
        self.stem = ConvBN(3, channels, 3, relu=True)
        layers: list[nn.Module] = []
        for choice, (first, inputs, outputs, _, _) in zip(architecture, layers_at(1, channels), strict=True):
            stride = 2 if first else 1
            if choice != IDENTITY:
                layers.append(InvertedResidual(inputs, outputs, stride, *BLOCKS[choice]))
            elif first:
                layers.append(ConvBN(inputs, outputs, stride=stride))
        self.layers = nn.Sequential(*layers)
        self.head = ConvBN(outputs, head, relu=True)
        self.classifier = nn.Linear(head, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each layer that is not an identity."""
        return [self.stem, *self.layers]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.head(self.layers(self.stem(x)))
        return self.classifier(x.mean(dim=(2, 3)))
