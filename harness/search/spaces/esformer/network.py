"""Networks of the ESFormer space, from plain data; this file imports torch alone and can be copied as it is."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional


def conv_norm(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, active: bool = False
) -> nn.Sequential:
    """Convolution without bias, BatchNorm, and GELU where asked for."""
    conv = nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs), *([nn.GELU()] if active else []))


def padded_sum(x: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """x + change, the channels that x lacks taken as zeros."""
    return functional.pad(x, (0, 0, 0, 0, 0, change.shape[1] - x.shape[1])) + change


class FeedForward(nn.Module):
    """A residual block of convolutions whose output may have more channels than its input.

    `ibn`: expansion, depthwise convolution, projection. `convnext`: depthwise convolution, expansion, projection.
    `bottleneck`: reduction, dense convolution, projection.
    """

    def __init__(self, block: str, inputs: int, outputs: int, kernel: int, hidden: int):
        super().__init__()
        if block == "ibn":
            layers = [
                conv_norm(inputs, hidden, active=True),
                conv_norm(hidden, hidden, kernel, groups=hidden, active=True),
            ]
        elif block == "convnext":
            layers = [conv_norm(inputs, inputs, kernel, groups=inputs), conv_norm(inputs, hidden, active=True)]
        elif block == "bottleneck":
            layers = [conv_norm(inputs, hidden, active=True), conv_norm(hidden, hidden, kernel, active=True)]
        else:
            raise ValueError(f"{block!r} is no feed-forward block")
        self.layers = nn.Sequential(*layers, conv_norm(hidden, outputs))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return padded_sum(x, self.layers(x))


class RelativeBias(nn.Module):
    """A learned number a head for each distance between a query's and a key's place, added to (B, heads, q, k)."""

    def __init__(self, heads: int, side: int, stride: int = 1):
        super().__init__()
        self.values = nn.Parameter(torch.zeros(heads, side * side))
        keys = torch.arange(side)
        apart = (keys[::stride, None] - keys).abs()  # (queries a side, keys a side)
        apart = apart[:, None, :, None] * side + apart[None, :, None, :]
        queries = len(keys[::stride]) ** 2
        self.register_buffer("places", apart.reshape(queries, side * side), persistent=False)

    def forward(self, logits: torch.Tensor) -> torch.Tensor:
        return logits + self.values[:, self.places]


class Attention(nn.Module):
    """Multi-head self-attention on maps, with a local branch, talking heads and a residual link.

    With `stride` 2 queries, keys and values are made from maps of half the side, and the result is interpolated.
    """

    ratio = 4  # channels of a head's values over those of its keys

    def __init__(self, width: int, heads: int, key_dim: int, side: int, stride: int = 1):
        super().__init__()
        self.heads, self.key_dim, self.side = heads, key_dim, side
        self.reduce = conv_norm(width, width, 3, 2, groups=width) if stride == 2 else nn.Identity()
        within = (side + 1) // 2 if stride == 2 else side
        values = self.ratio * key_dim * heads
        self.query, self.key = conv_norm(width, key_dim * heads), conv_norm(width, key_dim * heads)
        self.value = conv_norm(width, values)
        self.local = conv_norm(values, values, 3, groups=values)
        self.bias = RelativeBias(heads, within)
        self.talk_before, self.talk_after = nn.Conv2d(heads, heads, 1), nn.Conv2d(heads, heads, 1)
        self.act = nn.GELU()
        self.project = conv_norm(values, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        small = self.reduce(x)
        batch, _, height, width = small.shape
        query = self.query(small).reshape(batch, self.heads, self.key_dim, -1).transpose(2, 3)
        key = self.key(small).reshape(batch, self.heads, self.key_dim, -1)
        maps = self.value(small)
        value = maps.reshape(batch, self.heads, self.ratio * self.key_dim, -1).transpose(2, 3)
        logits = self.talk_before(self.bias(query @ key * self.key_dim**-0.5))
        weights = self.talk_after(logits.softmax(dim=-1))
        out = (weights @ value).transpose(2, 3).reshape(batch, -1, height, width) + self.local(maps)
        if (height, width) != x.shape[2:]:
            out = functional.interpolate(out, size=x.shape[2:], mode="bilinear", align_corners=False)
        return x + self.project(self.act(out))


class AttentionEmbedding(nn.Module):
    """Halves the side: attention whose queries are a quarter of the places, summed with a 3x3 convolution."""

    ratio = 4

    def __init__(self, inputs: int, outputs: int, heads: int, key_dim: int, side: int):
        super().__init__()
        self.heads, self.key_dim = heads, key_dim
        values = self.ratio * key_dim * heads
        self.sample = nn.Conv2d(inputs, inputs, 3, 2, padding=1, groups=inputs, bias=False)
        self.query, self.key = conv_norm(inputs, key_dim * heads), conv_norm(inputs, key_dim * heads)
        self.value = conv_norm(inputs, values)
        self.local = conv_norm(values, values, 3, 2, groups=values)
        self.bias = RelativeBias(heads, side, 2)
        self.act = nn.GELU()
        self.project = conv_norm(values, outputs)
        self.conv = conv_norm(inputs, outputs, 3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        batch = len(x)
        chosen = self.sample(x) + x[:, :, ::2, ::2]
        height, width = chosen.shape[2:]
        query = self.query(chosen).reshape(batch, self.heads, self.key_dim, -1).transpose(2, 3)
        key = self.key(x).reshape(batch, self.heads, self.key_dim, -1)
        maps = self.value(x)
        value = maps.reshape(batch, self.heads, self.ratio * self.key_dim, -1).transpose(2, 3)
        weights = self.bias(query @ key * self.key_dim**-0.5).softmax(dim=-1)
        out = (weights @ value).transpose(2, 3).reshape(batch, -1, height, width) + self.local(maps)
        return self.project(self.act(out)) + self.conv(x)


class Embedding(nn.Sequential):
    """A 3x3 convolution of stride 2 between stages."""

    def __init__(self, inputs: int, outputs: int):
        super().__init__(*conv_norm(inputs, outputs, 3, 2))


KINDS = {
    "embedding": Embedding,
    "attention_embedding": AttentionEmbedding,
    "attention": Attention,
    "feed_forward": FeedForward,
}


class Network(nn.Module):
    """Image batch (B, 3, side, side) to logits (B, classes), for the one side that it was planned for.

    Args:
        stem: channels of the stem's output.
        blocks: for each block its `kind` (a key of `KINDS`) and the arguments of that class.
        width: channels of the last block's output.
    """

    def __init__(self, stem: int, blocks: list[dict], width: int, classes: int):
        super().__init__()
        self.stem = nn.Sequential(
            conv_norm(3, stem // 2, 3, 2, active=True), conv_norm(stem // 2, stem, 3, 2, active=True)
        )
        self.blocks = nn.Sequential(
            *(KINDS[block["kind"]](**{k: v for k, v in block.items() if k != "kind"}) for block in blocks)
        )
        self.norm = nn.BatchNorm2d(width)
        self.head = nn.Linear(width, classes)

    @property
    def stages(self) -> list[nn.Module]:
        """The modules whose outputs AZ-NAS reads, in order."""
        return [self.stem, *self.blocks]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.norm(self.blocks(self.stem(x))).mean(dim=(2, 3)))
