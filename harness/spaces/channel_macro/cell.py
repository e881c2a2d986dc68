"""The seven positions of Channel-Bench-Macro's two families of networks, and the blocks that read and make them."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.errors import HarnessError

POSITIONS = 7
QUARTERS = (1, 2, 3, 4)

_FORM = re.compile(f"[1-4]{{{POSITIONS}}}")


class Block(NamedTuple):
    """Positions whose widths a block reads, has inside and makes, and its stride."""

    reads: int
    inside: int
    makes: int
    stride: int = 1

    @property
    def shortcut(self) -> bool:
        """Whether its input is added to its output: the widths are those of one position then."""
        return self.stride == 1 and self.reads == self.makes


class Family(NamedTuple):
    """A family of networks: full width of each position, blocks, whether these are inverted residuals.

    `head`: the position of the 1x1 convolution before the classifier, None where there is none.
    """

    full: tuple[int, ...]
    blocks: tuple[Block, ...]
    inverted: bool
    head: int | None

    @property
    def last(self) -> int:
        """The position whose width the classifier reads."""
        return self.blocks[-1].makes if self.head is None else self.head


RESNET = Family(
    full=(256, 256, 256, 512, 512, 512, 512),
    blocks=(Block(0, 1, 0), Block(0, 2, 0), Block(0, 3, 4, stride=2), Block(4, 5, 4), Block(4, 6, 4)),
    inverted=False,
    head=None,
)
MOBILENET = Family(
    full=(128, 768, 768, 768, 256, 1536, 1024),
    blocks=(Block(0, 1, 0), Block(0, 2, 0), Block(0, 3, 4, stride=2), Block(4, 5, 4)),
    inverted=True,
    head=6,
)


class Layer(NamedTuple):
    """A convolution with BatchNorm: positions that it reads (None: the image) and makes, and the sides of its maps.

    `relu`: whether a ReLU follows, be it behind the sum with a shortcut.
    """

    reads: int | None
    makes: int
    kernel: int
    side: int
    side_out: int
    relu: bool = True
    depthwise: bool = False


def blocks_at(family: Family, resolution: int) -> list[tuple[Block, list[Layer]]]:
    """The blocks of a family with their layers, for images of side `resolution`."""
    side, found = halved(resolution), []
    for block in family.blocks:
        side_out = halved(side) if block.stride == 2 else side
        if family.inverted:
            layers = [
                Layer(block.reads, block.inside, 1, side, side),
                Layer(block.inside, block.inside, 3, side, side_out, depthwise=True),
                Layer(block.inside, block.makes, 1, side_out, side_out, relu=False),
            ]
        else:
            layers = [
                Layer(block.reads, block.inside, 3, side, side_out),
                Layer(block.inside, block.makes, 3, side_out, side_out),
            ]
        found.append((block, layers))
        side = side_out
    return found


def halved(side: int) -> int:
    """Side of the maps that a convolution of stride 2 with padding makes."""
    return (side + 1) // 2


def decode(text: str) -> tuple[int, ...]:
    """The seven quarters. Raises HarnessError if malformed."""
    if not _FORM.fullmatch(text):
        shown = repr(text) if len(text) <= 100 else f"{text[:100]!r}…"
        raise HarnessError(
            f"{shown} is not a Channel-Bench-Macro architecture: write it as seven digits from 1 to 4, quarters of the "
            "full width of each position, such as 4432214"
        )
    return tuple(map(int, text))


def widths_of(family: Family, quarters: tuple[int, ...], divisor: int = 1) -> list[int]:
    """Channels at the seven positions, divided by `divisor`."""
    return [quarter * full // (len(QUARTERS) * divisor) for quarter, full in zip(quarters, family.full, strict=True)]
