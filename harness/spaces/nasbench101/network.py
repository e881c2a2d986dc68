"""The NAS-Bench-101 network as its benchmark trained it.

As in google-research/nasbench (TensorFlow): convolutions without bias, BatchNorm with epsilon 1e-5, padding that
keeps the side. The momentum of BatchNorm is torch's default, which no value at initialisation depends on.
Every parameter is reached by a gradient: what the cell does not use is not built.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from operator import add

import numpy as np
import torch
from torch import nn

from harness.spaces.nasbench101.cell import (
    CELLS_PER_STACK,
    CHANNELS,
    CONV1,
    CONV3,
    INNER,
    POOL,
    Graph,
    edges_of,
    vertex_channels,
)


class ConvBNReLU(nn.Sequential):
    """Convolution without bias, BatchNorm, ReLU: the order of the benchmark's operations."""

    def __init__(self, inputs: int, outputs: int, kernel: int):
        super().__init__(
            nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False),
            nn.BatchNorm2d(outputs, eps=1e-5),
            nn.ReLU(),
        )


def _operation(code: int, channels: int) -> nn.Module:
    if code == POOL:
        return nn.MaxPool2d(3, stride=1, padding=1)
    return ConvBNReLU(channels, channels, {CONV1: 1, CONV3: 3}[code])


class Cell(nn.Module):
    """A cell from (B, inputs, H, W) to (B, outputs, H, W).

    An inner vertex applies its operation to the sum of what it is fed: outputs of inner vertices, cut to its own
    number of channels where they have one more, and a 1x1 projection (ConvBNReLU) of the cell's input. The
    output concatenates the inner vertices that feed it, and adds a projection of the input if that does too.
    """

    def __init__(self, graph: Graph, inputs: int, outputs: int):
        super().__init__()
        edges = edges_of(np.array([graph.vertices]), np.array([graph.bits]))
        widths = vertex_channels(edges, outputs)[0].tolist()
        output = INNER + 1  # in `edges`, however many vertices there are
        self._plan: list[tuple[int, int, list[int]]] = []  # vertex, its channels, the inner vertices that feed it
        self.projections, self.operations = nn.ModuleDict(), nn.ModuleDict()
        for vertex, code in enumerate(graph.operations, start=1):
            width = widths[vertex - 1]
            self._plan.append((vertex, width, [v for v in range(1, vertex) if edges[0, v, vertex]]))
            if edges[0, 0, vertex]:
                self.projections[str(vertex)] = ConvBNReLU(inputs, width, 1)
            self.operations[str(vertex)] = _operation(code, width)
        self._concatenated = [v for v in range(1, output) if edges[0, v, output]]
        if edges[0, 0, output]:
            self.projections["output"] = ConvBNReLU(inputs, outputs, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        values: dict[int, torch.Tensor] = {}
        for vertex, width, sources in self._plan:
            fed = [values[v] if values[v].shape[1] == width else values[v][:, :width] for v in sources]
            if str(vertex) in self.projections:
                fed.append(self.projections[str(vertex)](x))
            values[vertex] = self.operations[str(vertex)](reduce(add, fed))
        parts = [values[v] for v in self._concatenated]
        outputs = [parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)] if parts else []
        if "output" in self.projections:
            outputs.append(self.projections["output"](x))
        return reduce(add, outputs)


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes)."""

    def __init__(
        self,
        graph: Graph,
        num_classes: int,
        channels: Sequence[int] = CHANNELS,
        cells_per_stack: int = CELLS_PER_STACK,
    ):
        super().__init__()
        self.stem = ConvBNReLU(3, channels[0], 3)
        layers: list[nn.Module] = []
        before = channels[0]
        for stack, width in enumerate(channels):
            if stack:
                layers.append(nn.MaxPool2d(2, stride=2, ceil_mode=True))
            for _ in range(cells_per_stack):
                layers.append(Cell(graph, before, width))
                before = width
        self.layers = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels[-1], num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each cell (10 of them)."""
        return [self.stem, *(layer for layer in self.layers if isinstance(layer, Cell))]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.layers(self.stem(x)).mean(dim=(2, 3)))
