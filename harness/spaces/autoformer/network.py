"""AutoFormer's networks: patches as tokens, blocks of attention and MLP, the mean of the patches.

Dropout and stochastic depth of the training are left out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from harness.spaces.autoformer.cell import HEAD, PATCH, REACH, SIDE, Choice, Transformer, grid


def learned(*shape: int) -> nn.Parameter:
    """Positions and tokens as the papers begin with them, N(0, 0.02) cut at 2; one draw for equal shapes."""
    generator = torch.Generator().manual_seed(0)
    return nn.Parameter(nn.init.trunc_normal_(torch.empty(shape), std=0.02, generator=generator))


class Distances(nn.Module):
    """A learned vector for each two tokens, (N, N, head): of the rows plus of the columns that they are apart.

    Entry 0 of either table is of a pair with the class token, the others of -`REACH` to `REACH`.
    """

    def __init__(self, head: int):
        super().__init__()
        self.rows = learned(2 * REACH + 2, head)
        self.columns = learned(2 * REACH + 2, head)

    def forward(self, tokens: int) -> torch.Tensor:
        side = round((tokens - 1) ** 0.5)
        place = torch.arange(tokens - 1, device=self.rows.device)
        return self.rows[_entries(place // side)] + self.columns[_entries(place % side)]


def _entries(place: torch.Tensor) -> torch.Tensor:
    apart = (place[None, :] - place[:, None]).clamp(-REACH, REACH) + REACH + 1
    return F.pad(apart, (1, 0, 1, 0))


class Attention(nn.Module):
    """Self-attention of tokens (B, N, width); `attention` channels of all heads together."""

    def __init__(self, width: int, attention: int, heads: int, relative: bool):
        super().__init__()
        self.heads, self.scale = heads, (attention // heads) ** -0.5
        self.qkv = nn.Linear(width, 3 * attention)
        self.qkv.parts = 3  # under `init=supernet` each is a slice of its own
        self.of_keys = Distances(attention // heads) if relative else None
        self.of_values = Distances(attention // heads) if relative else None
        self.proj = nn.Linear(attention, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        images, tokens, _ = x.shape
        q, k, v = self.qkv(x).reshape(images, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        products = q @ k.transpose(-2, -1)
        if self.of_keys is not None:
            products = products + torch.einsum("bhnd,nmd->bhnm", q, self.of_keys(tokens))
        weights = (products * self.scale).softmax(dim=-1)
        mixed = weights @ v
        if self.of_values is not None:
            mixed = mixed + torch.einsum("bhnm,nmd->bhnd", weights, self.of_values(tokens))
        return self.proj(mixed.transpose(1, 2).reshape(images, tokens, -1))


class Block(nn.Module):
    """Attention and MLP, each behind a norm and summed with what it reads.

    Tokens come and go as maps (B, width, N, 1), the form in which stages are read.
    """

    def __init__(self, width: int, attention: int, heads: int, hidden: int, relative: bool, eps: float):
        super().__init__()
        self.norm1 = nn.LayerNorm(width, eps=eps)
        self.attn = Attention(width, attention, heads, relative)
        self.norm2 = nn.LayerNorm(width, eps=eps)
        self.fc1 = nn.Linear(width, hidden)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        x = tokens_of(maps)
        x = x + self.attn(self.norm1(x))
        return maps_of(x + self.fc2(self.act(self.fc1(self.norm2(x)))))


def tokens_of(maps: torch.Tensor) -> torch.Tensor:
    """(B, width, N, 1) as tokens (B, N, width)."""
    return maps.flatten(2).transpose(1, 2)


def maps_of(tokens: torch.Tensor) -> torch.Tensor:
    """(B, N, width) as maps (B, width, N, 1)."""
    return tokens.transpose(1, 2).unsqueeze(3)


def at_grid(positions: torch.Tensor, height: int, width: int) -> torch.Tensor:
    """Positions (1, C, side, side), interpolated for images of another side than they are learned for."""
    if positions.shape[2:] == (height, width):
        return positions
    return F.interpolate(positions, (height, width), mode="bilinear", align_corners=False)


class Embedding(nn.Module):
    """Images (B, 3, H, W) to the class token and the patches, with their positions: maps (B, width, 1 + N, 1)."""

    def __init__(self, width: int):
        super().__init__()
        side = grid(SIDE)
        self.proj = nn.Conv2d(3, width, PATCH, PATCH)
        self.class_token = learned(1, 1, width)
        self.positions = learned(1, 1 + side**2, width)
        self.side = side

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        patches = self.proj(images)
        first, others = self.positions[:, :1], self.positions[:, 1:]
        others = others.transpose(1, 2).unflatten(2, (self.side, self.side))
        patches = (patches + at_grid(others, *patches.shape[2:])).flatten(2).transpose(1, 2)
        return maps_of(torch.cat([(self.class_token + first).expand(len(patches), -1, -1), patches], dim=1))


class Patches(nn.Module):
    """The last norm, behind which the class token is left out: maps (B, width, N, 1)."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.norm = nn.LayerNorm(width, eps=eps)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        return maps_of(self.norm(tokens_of(maps))[:, 1:])


class Network(nn.Module):
    """Image batch (B, 3, H, W) to logits (B, num_classes); all widths divided by `divisor`."""

    def __init__(self, architecture: Transformer, choice: Choice, num_classes: int, divisor: int = 1):
        super().__init__()
        width, eps = architecture.width // divisor, 1e-5 if choice.relative else 1e-6
        self.embedding = Embedding(width)
        self.blocks = nn.Sequential(
            *(
                Block(
                    width,
                    heads * HEAD // divisor if choice.relative else width,
                    heads,
                    int(width * ratio),
                    choice.relative,
                    eps,
                )
                for heads, ratio in zip(architecture.heads, architecture.ratios, strict=True)
            )
        )
        self.patches = Patches(width, eps)
        self.classifier = nn.Linear(width, num_classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs are AZ-NAS's features: the embedding and each block, tokens being positions."""
        return [self.embedding, *self.blocks]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.patches(self.blocks(self.embedding(images))).mean(dim=(2, 3)))
