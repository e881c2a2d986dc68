"""The NAS-Bench-201 network as its benchmark trained it (affine BatchNorm with running statistics)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import nn

from harness.spaces.nasbench201.cell import CELLS_PER_STAGE, CHANNELS, CONV1, CONV3, EDGES, NONE, POOL


class ReLUConvBN(nn.Sequential):
    """ReLU, convolution without bias, BatchNorm: the order of the benchmark's operations."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, bias: bool = False):
        super().__init__(
            nn.ReLU(),
            nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=bias),
            nn.BatchNorm2d(outputs),
        )


class Cell(nn.Module):
    """One cell of four nodes; `codes` are its six operations. Every edge is computed, dead ones too.

    `biases`: its convolutions have them, as those of the benchmark have not.
    """

    def __init__(self, codes: Sequence[int], channels: int, biases: bool = False):
        super().__init__()
        self.edges = nn.ModuleDict()
        self._plan: list[tuple[int, int, str | None]] = []
        for code, (source, target) in zip(codes, EDGES, strict=True):
            if code == NONE:
                continue
            name = f"{source}_{target}"
            if code in (CONV1, CONV3):
                self.edges[name] = ReLUConvBN(channels, channels, 1 if code == CONV1 else 3, bias=biases)
            elif code == POOL:
                self.edges[name] = nn.AvgPool2d(3, stride=1, padding=1, count_include_pad=False)
            self._plan.append((source, target, name if name in self.edges else None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor | None] = [x, None, None, None]
        for source, target, name in self._plan:
            value = nodes[source]
            if value is None:
                value = nodes[source] = torch.zeros_like(x)
            if name is not None:
                value = self.edges[name](value)
            nodes[target] = value if nodes[target] is None else nodes[target] + value
        return torch.zeros_like(x) if nodes[3] is None else nodes[3]


class Reduction(nn.Module):
    """The residual block of stride 2 between stages: two 3x3 convolutions, 2x2 pooling + 1x1 on the shortcut."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__()
        self.conv_a = ReLUConvBN(inputs, outputs, 3, stride=2)
        self.conv_b = ReLUConvBN(outputs, outputs, 3)
        self.shortcut = nn.Sequential(
            nn.AvgPool2d(2, stride=2, ceil_mode=True, count_include_pad=False),
            nn.Conv2d(inputs, outputs, 1, bias=False),
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.shortcut(x) + self.conv_b(self.conv_a(x))


class Stack(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes): a stem, cells, and the end of the network.

    Args:
        first, last: channels of the stem (None: the cells read the images) and of the last cell.
        cells: made as they are asked for, after the stem.
    """

    def __init__(self, first: int | None, cells: Iterable[nn.Module], last: int, num_classes: int):
        super().__init__()
        self.stem: nn.Module = nn.Identity()
        if first is not None:
            self.stem = nn.Sequential(nn.Conv2d(3, first, 3, padding=1, bias=False), nn.BatchNorm2d(first))
        self.cells = nn.Sequential(*cells)
        self.last = nn.Sequential(nn.BatchNorm2d(last), nn.ReLU())
        self.classifier = nn.Linear(last, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each cell."""
        return [self.stem, *self.cells]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.last(self.cells(self.stem(x)))
        return self.classifier(x.mean(dim=(2, 3)))


class Network(Stack):
    """The network of a cell, with 18 stages."""

    def __init__(
        self,
        codes: Sequence[int],
        num_classes: int,
        channels: Sequence[int] = CHANNELS,
        cells_per_stage: int = CELLS_PER_STAGE,
        biases: bool = False,
    ):
        def cells() -> Iterator[nn.Module]:
            for stage, width in enumerate(channels):
                if stage:
                    yield Reduction(channels[stage - 1], width)
                for _ in range(cells_per_stage):
                    yield Cell(codes, width, biases)

        super().__init__(channels[0], cells(), channels[-1], num_classes)


class OneCell(Stack):
    """A cell of one channel that reads images (B, 1, H, W), and the end of the network."""

    def __init__(self, codes: Sequence[int], num_classes: int):
        super().__init__(None, [Cell(codes, 1)], 1, num_classes)
