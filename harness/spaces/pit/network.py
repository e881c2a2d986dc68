"""ViT-Bench-101's PiT. Dropout and stochastic depth of the training are left out."""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import nn

from harness.spaces.autoformer.cell import PATCH, SIDE
from harness.spaces.autoformer.network import Block, at_grid, learned, maps_of, tokens_of
from harness.spaces.pit.cell import STRIDE, Pyramid, grids

EPS = 1e-6


class Embedding(nn.Module):
    """Images (B, 3, H, W) to the class token and the patches with their positions: maps (B, width, 1 + N, 1)."""

    def __init__(self, width: int):
        super().__init__()
        side = grids(SIDE)[0]
        self.proj = nn.Conv2d(3, width, PATCH, STRIDE)
        self.class_token = learned(1, 1, width)
        self.positions = learned(1, width, side, side)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.proj(images)
        patches = (patches + at_grid(self.positions, *patches.shape[2:])).flatten(2).transpose(1, 2)
        return maps_of(torch.cat([self.class_token.expand(len(patches), -1, -1), patches], dim=1))


class Pooling(nn.Module):
    """Halves the grid of patches and widens it; widens the class token."""

    def __init__(self, width: int, after: int):
        super().__init__()
        self.conv = nn.Conv2d(width, after, 3, 2, padding=1, groups=width)
        self.fc = nn.Linear(width, after)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        x = tokens_of(maps)
        side = round((x.shape[1] - 1) ** 0.5)
        patches = self.conv(x[:, 1:].transpose(1, 2).unflatten(2, (side, side)))
        return maps_of(torch.cat([self.fc(x[:, :1]), patches.flatten(2).transpose(1, 2)], dim=1))


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes)."""

    def __init__(self, architecture: Pyramid, num_classes: int):
        super().__init__()
        widths = architecture.widths
        self.embedding = Embedding(widths[0])
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Block(width, width, heads, architecture.ratio * width, False, EPS) for _ in range(depth)))
            for width, heads, depth in zip(widths, architecture.heads, architecture.depths, strict=True)
        )
        self.poolings = nn.ModuleList(Pooling(*pair) for pair in pairwise(widths))
        self.norm = nn.LayerNorm(widths[-1], eps=EPS)
        self.classifier = nn.Linear(widths[-1], num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the embedding and each block, tokens being positions."""
        return [self.embedding, *(block for stage in self.blocks for block in stage)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        maps = self.embedding(images)
        for stage, pooling in zip(self.blocks, [*self.poolings, None], strict=True):
            maps = stage(maps)
            if pooling is not None:
                maps = pooling(maps)
        return self.classifier(self.norm(tokens_of(maps)[:, 0]))
