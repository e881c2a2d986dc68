"""TransNAS-Bench-101's encoder (affine BatchNorm with running statistics) with a linear head or a decoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from harness.spaces.base import LINEAR
from harness.spaces.darts.network import FactorizedReduce
from harness.spaces.nasbench201.cell import EDGES, NONE, SKIP
from harness.spaces.nasbench201.network import ReLUConvBN
from harness.spaces.transnas101.cell import BASE, BLOCKS_PER_MODULE, KERNELS, STEM_HALVINGS, doubles, halves
from harness.spaces.transnas101.decoders import DECODERS, SLOPE


class Cell(nn.Module):
    """A cell of four nodes; `codes` are its six operations. Every edge is computed, dead ones too."""

    def __init__(self, codes: Sequence[int], inputs: int, outputs: int, stride: int):
        super().__init__()
        self.outputs, self.stride = outputs, stride
        self.edges = nn.ModuleDict()
        self._plan: list[tuple[int, int, str | None]] = []
        for code, (source, target) in zip(codes, EDGES, strict=True):
            if code == NONE:
                continue
            name = f"{source}_{target}"
            reads, step = (inputs, stride) if source == 0 else (outputs, 1)
            if code in KERNELS:
                self.edges[name] = ReLUConvBN(reads, outputs, KERNELS[code], step)
            elif code == SKIP and step != 1:
                self.edges[name] = FactorizedReduce(reads, outputs)
            self._plan.append((source, target, name if name in self.edges else None))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        nodes: list[torch.Tensor | None] = [x, None, None, None]
        for source, target, name in self._plan:
            value = self._zeros(x) if nodes[source] is None else nodes[source]
            if name is not None:
                value = self.edges[name](value)
            nodes[target] = value if nodes[target] is None else nodes[target] + value
        return self._zeros(x) if nodes[3] is None else nodes[3]

    def _zeros(self, x: torch.Tensor) -> torch.Tensor:
        """What a node that nothing arrives at holds."""
        sides = [(side + self.stride - 1) // self.stride for side in x.shape[2:]]
        return x.new_zeros(len(x), self.outputs, *sides)


class BasicBlock(nn.Module):
    """Two pre-activated 3x3 convolutions, summed with the input or, where shapes change, its 1x1 convolution."""

    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv_a = ReLUConvBN(inputs, outputs, 3, stride)
        self.conv_b = ReLUConvBN(outputs, outputs, 3)
        self.shortcut = None
        if stride != 1 or inputs != outputs:
            # The benchmark's code gives `affine` and `track_running_stats` by position, where torch has eps and
            # momentum (yawen-d/TransNASBench @ 6d4231b, `lib/models/net_infer/cell_micro.py`): it trained them so.
            norm = nn.BatchNorm2d(outputs, eps=1.0, momentum=1.0)
            self.shortcut = nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), norm)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        shortcut = x if self.shortcut is None else self.shortcut(x)
        return shortcut + self.conv_b(self.conv_a(x))


class Decoder(nn.Sequential):
    """Maps (B, C, h, w) to (B, outputs, H, W), H and W the sides of the image that the encoder read.

    Args:
        head: of `DECODERS`. Normals and reconstructions end in a tanh.
        doublings: log2(H / h).
    """

    def __init__(self, head: str, channels: int, doublings: int, outputs: int):
        *steps, last = DECODERS[head](channels, doublings, outputs)
        layers: list[nn.Module] = []
        for step in steps:
            if step.doubles:
                layer = nn.ConvTranspose2d(step.inputs, step.outputs, 3, stride=2, padding=1, output_padding=1)
            else:
                layer = nn.Conv2d(step.inputs, step.outputs, 3, padding=1)
            layers += [layer, nn.BatchNorm2d(step.outputs), nn.LeakyReLU(SLOPE)]
        layers.append(nn.Conv2d(last.inputs, last.outputs, 3, padding=1))
        super().__init__(*layers, *([] if head == "segmentation" else [nn.Tanh()]))


class Network(nn.Module):
    """Image batch (B, 3, H, W) to outputs (B, num_classes), with a decoder (B, num_classes, H, W).

    Modules of cells with `codes`, else of basic blocks.
    """

    def __init__(
        self,
        modules: str,
        num_classes: int,
        codes: Sequence[int] | None = None,
        base: int = BASE,
        blocks_per_module: int = BLOCKS_PER_MODULE,
        head: str = LINEAR,
    ):
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, base // 2, 3, 2, padding=1, bias=False),
            nn.BatchNorm2d(base // 2),
            ReLUConvBN(base // 2, base, 3, 2),
        )
        blocks: list[nn.Module] = []
        channels = base
        for module in modules:
            outputs = 2 * channels if doubles(module) else channels
            for place in range(blocks_per_module):
                stride = 2 if halves(module) and place == 0 else 1
                shape = (channels, outputs, stride)
                blocks.append(BasicBlock(*shape) if codes is None else Cell(codes, *shape))
                channels = outputs
        self.blocks = nn.Sequential(*blocks)
        self.gives_images = head in DECODERS
        if self.gives_images:
            doublings = STEM_HALVINGS + sum(map(halves, modules))
            self.decoder = Decoder(head, channels, doublings, num_classes)
        else:
            self.classifier = nn.Linear(channels, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the stem and each block."""
        return [self.stem, *self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.blocks(self.stem(x))
        return self.decoder(maps) if self.gives_images else self.classifier(maps.mean(dim=(2, 3)))
