"""Networks of super-blocks (ZenNAS and MobileNetV2 spaces), from plain data; this file imports torch alone."""

from __future__ import annotations

import torch
from torch import nn

EPSILON = 1e-3  # of BatchNorm


def conv_norm(
    inputs: int,
    outputs: int,
    kernel: int = 1,
    stride: int = 1,
    groups: int = 1,
    active: bool = True,
    bias: bool = False,
) -> nn.Sequential:
    """Convolution, BatchNorm, and ReLU where asked for."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=bias)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs, eps=EPSILON), *([nn.ReLU()] if active else []))


class Residual(nn.Module):
    """Layers and a link around them, then ReLU; the link is a 1x1 convolution where the shapes differ or `projected`.

    Without `links` the layers and the ReLU alone.
    """

    def __init__(self, layers: list[nn.Module], inputs: int, outputs: int, stride: int, projected: bool, links: bool):
        super().__init__()
        self.layers = nn.Sequential(*layers)
        self.link: nn.Module | None = None
        if links:
            differs = projected or stride > 1 or inputs != outputs
            self.link = conv_norm(inputs, outputs, 1, stride, active=False, bias=True) if differs else nn.Identity()
        self.relu = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.layers(x)
        return self.relu(out if self.link is None else out + self.link(x))


def inverted(
    inputs: int, outputs: int, stride: int, bottleneck: int, kernel: int, expansion: int, first: bool, links: bool
) -> list[nn.Module]:
    """Two inverted residual blocks: to `bottleneck` channels, then to `outputs`."""
    found = []
    for before, after, base, step, projected in (
        (inputs, bottleneck, bottleneck, stride, first),
        (bottleneck, outputs, outputs, 1, False),
    ):
        wide = base * expansion
        layers = [
            conv_norm(before, wide),
            conv_norm(wide, wide, kernel, step, groups=wide),
            conv_norm(wide, after, active=False),
        ]
        found.append(Residual(layers, before, after, step, projected, links))
    return found


def dense(
    inputs: int, outputs: int, stride: int, bottleneck: int, kernel: int, expansion: int, first: bool, links: bool
) -> list[nn.Module]:
    """One residual block of two dense convolutions."""
    layers = [
        conv_norm(inputs, bottleneck, kernel, stride),
        conv_norm(bottleneck, outputs, kernel, active=False),
    ]
    return [Residual(layers, inputs, outputs, stride, first, links)]


def reduced(
    inputs: int, outputs: int, stride: int, bottleneck: int, kernel: int, expansion: int, first: bool, links: bool
) -> list[nn.Module]:
    """Two residual bottlenecks."""
    found = []
    for before, step, projected in ((inputs, stride, first), (outputs, 1, False)):
        layers = [
            conv_norm(before, bottleneck),
            conv_norm(bottleneck, bottleneck, kernel, step),
            conv_norm(bottleneck, outputs, active=False),
        ]
        found.append(Residual(layers, before, outputs, step, projected, links))
    return found


KINDS = {"inverted": inverted, "dense": dense, "bottleneck": reduced}


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, classes).

    Args:
        stem: outputs and stride of the first 3x3 convolution.
        blocks: super-blocks: `kind` (a key of `KINDS`), `outputs`, `stride`, `bottleneck`, `layers`, `kernel`,
            `expansion`.
        head: channels of the last 1x1 convolution.
        links: whether there are residual links.
    """

    def __init__(self, stem: list[int], blocks: list[dict], head: int, classes: int, links: bool = True):
        super().__init__()
        before, stride = stem
        self.stem = conv_norm(3, before, 3, stride)
        layers: list[nn.Module] = []
        for block in blocks:
            stride = block["stride"]
            for layer in range(block["layers"]):
                layers += KINDS[block["kind"]](
                    before,
                    block["outputs"],
                    stride,
                    block["bottleneck"],
                    block["kernel"],
                    block["expansion"],
                    layer == 0,
                    links,
                )
                before, stride = block["outputs"], 1
        self.blocks = nn.Sequential(*layers)
        self.head = conv_norm(before, head)
        self.classifier = nn.Linear(head, classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs AZ-NAS reads, in order."""
        return [self.stem, *self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.head(self.blocks(self.stem(x))).mean(dim=(2, 3)))
