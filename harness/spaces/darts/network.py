"""DARTS's evaluation network (affine BatchNorm with running statistics, no auxiliary head, no drop-path)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from harness.spaces.darts.cell import (
    AVG_POOL,
    CONCAT,
    FACTORISED,
    INPUTS,
    KERNELS,
    MAX_POOLS,
    NONE,
    SEPARABLE,
    SKIP,
    STEM_MULTIPLIER,
    Genotype,
    reductions,
)
from harness.spaces.darts.cell import Cell as Choice
from harness.spaces.nasbench201.network import ReLUConvBN


class FactorizedReduce(nn.Module):
    """ReLU, two 1x1 convolutions of stride 2 on the even and on the odd pixels, BatchNorm.

    Maps of an odd side, which the original refuses, get a last row and column of zeros.
    """

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.relu = nn.ReLU()
        self.conv_1 = nn.Conv2d(inputs, outputs // 2, 1, stride=2, bias=False)
        self.conv_2 = nn.Conv2d(inputs, outputs - outputs // 2, 1, stride=2, bias=False)
        self.norm = nn.BatchNorm2d(outputs)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(x)
        shifted = F.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))[:, :, 1:, 1:]
        return self.norm(torch.cat([self.conv_1(x), self.conv_2(shifted)], dim=1))


class SeparableConv(nn.Sequential):
    """ReLU, depthwise and pointwise convolution, BatchNorm, `steps` times."""

    def __init__(self, channels: int, kernel: int, stride: int, steps: int, dilation: int):
        layers: list[nn.Module] = []
        for step in range(steps):
            layers += [
                nn.ReLU(),
                nn.Conv2d(
                    channels,
                    channels,
                    kernel,
                    1 if step else stride,
                    padding=dilation * (kernel // 2),
                    dilation=dilation,
                    groups=channels,
                    bias=False,
                ),
                nn.Conv2d(channels, channels, 1, bias=False),
                nn.BatchNorm2d(channels),
            ]
        super().__init__(*layers)


class FactorisedConv(nn.Sequential):
    """ReLU, a convolution of a row of taps and one of a column, each with the stride along its taps, BatchNorm."""

    def __init__(self, channels: int, kernel: int, stride: int):
        half = kernel // 2
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(channels, channels, (1, kernel), stride=(1, stride), padding=(0, half), bias=False),
            nn.Conv2d(channels, channels, (kernel, 1), stride=(stride, 1), padding=(half, 0), bias=False),
            nn.BatchNorm2d(channels),
        )


def operation(code: int, channels: int, stride: int) -> nn.Module | None:
    """The module of an operation; None for `none` and for a skip of stride 1, which compute nothing."""
    if code == NONE or (code == SKIP and stride == 1):
        return None
    if code == SKIP:
        return FactorizedReduce(channels, channels)
    kernel = KERNELS[code]
    if code in MAX_POOLS:
        return nn.MaxPool2d(kernel, stride=stride, padding=kernel // 2)
    if code == AVG_POOL:
        return nn.AvgPool2d(kernel, stride=stride, padding=kernel // 2, count_include_pad=False)
    if code in SEPARABLE:
        return SeparableConv(channels, kernel, stride, *SEPARABLE[code])
    if code in FACTORISED:
        return FactorisedConv(channels, kernel, stride)
    return ReLUConvBN(channels, channels, kernel, stride)


class Cell(nn.Module):
    """A cell on the outputs of the two cells before it; every operation and preprocessing is computed."""

    def __init__(
        self,
        cell: Choice,
        reads: tuple[int, int],
        channels: int,
        reduction: bool,
        reduction_before: bool,
        concat: Sequence[int] = CONCAT,
    ):
        super().__init__()
        self.reduction, self.concat, self._nodes = reduction, concat, len(cell) // 2
        halves = FactorizedReduce(reads[0], channels) if reduction_before else None
        self.preprocess0 = halves or ReLUConvBN(reads[0], channels, 1)
        self.preprocess1 = ReLUConvBN(reads[1], channels, 1)
        self.operations = nn.ModuleDict()
        self._plan: list[tuple[int, int, str | None]] = []
        for place, (code, source) in enumerate(cell):
            if code == NONE:
                continue
            module = operation(code, channels, 2 if reduction and source < INPUTS else 1)
            name = str(place) if module is not None else None
            if module is not None:
                self.operations[name] = module
            self._plan.append((source, INPUTS + place // 2, name))
        self._some_empty = len({target for _, target, _ in self._plan}) < self._nodes

    def forward(self, before_last: torch.Tensor, last: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor | None] = [self.preprocess0(before_last), self.preprocess1(last)]
        nodes += [None] * self._nodes
        step = 2 if self.reduction else 1
        empty = torch.zeros_like(nodes[1][:, :, ::step, ::step]) if self._some_empty else None
        for source, target, name in self._plan:
            value = empty if nodes[source] is None else nodes[source]
            if name is not None:
                value = self.operations[name](value)
            nodes[target] = value if nodes[target] is None else nodes[target] + value
        return torch.cat([empty if nodes[n] is None else nodes[n] for n in self.concat], dim=1)


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes); without a stem the cells read the images."""

    def __init__(
        self,
        genotype: Genotype,
        num_classes: int,
        channels: int = 16,
        layers: int = 8,
        stem: str | None = "cifar",
    ):
        super().__init__()
        self.stem1 = None
        if stem is None:
            width = 3
            self.stem = nn.Identity()
        elif stem == "cifar":
            width = STEM_MULTIPLIER * channels
            self.stem = nn.Sequential(nn.Conv2d(3, width, 3, padding=1, bias=False), nn.BatchNorm2d(width))
        else:
            width = channels
            self.stem = nn.Sequential(
                nn.Conv2d(3, width // 2, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(width // 2),
                nn.ReLU(),
                nn.Conv2d(width // 2, width, 3, 2, padding=1, bias=False),
                nn.BatchNorm2d(width),
            )
            self.stem1 = nn.Sequential(
                nn.ReLU(), nn.Conv2d(width, width, 3, 2, padding=1, bias=False), nn.BatchNorm2d(width)
            )
        self.cells = nn.ModuleList()
        reads, before = (width, width), self.stem1 is not None
        for reduction in reductions(layers):
            channels *= 2 if reduction else 1
            cell, concat = genotype.cells[reduction]
            self.cells.append(Cell(cell, reads, channels, reduction, before, concat))
            reads, before = (reads[1], len(concat) * channels), reduction
        self.classifier = nn.Linear(reads[1], num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each cell."""
        return [self.stem if self.stem1 is None else self.stem1, *self.cells]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        before_last = self.stem(x)
        last = before_last if self.stem1 is None else self.stem1(before_last)
        for cell in self.cells:
            before_last, last = last, cell(before_last, last)
        return self.classifier(last.mean(dim=(2, 3)))


class FirstCells(nn.Module):
    """A normal cell and a reduction that read images (B, 1, H, W), BatchNorm and ReLU, logits (B, num_classes)."""

    def __init__(self, genotype: Genotype, num_classes: int):
        super().__init__()
        normal, normal_concat = genotype.cells[False]
        reduction, reduction_concat = genotype.cells[True]
        between, width = len(normal_concat), 2 * len(reduction_concat)
        self.cells = nn.ModuleList(
            [
                Cell(normal, (1, 1), 1, False, False, normal_concat),
                Cell(reduction, (1, between), 2, True, False, reduction_concat),
            ]
        )
        self.last = nn.Sequential(nn.BatchNorm2d(width), nn.ReLU())
        self.classifier = nn.Linear(width, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The cells."""
        return [*self.cells]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        normal, reduction = self.cells
        x = self.last(reduction(x, normal(x, x)))
        return self.classifier(x.mean(dim=(2, 3)))
