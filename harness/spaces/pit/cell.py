"""What a PiT architecture says, and how large the grid of patches is in each stage."""

from __future__ import annotations

import re
from typing import NamedTuple

from harness.errors import HarnessError
from harness.spaces.autoformer.cell import grid

STRIDE = 8  # pixels between the beginnings of two patches
BASES = (16, 24, 32, 40)
RATIOS = (2, 4, 6, 8)
HEADS = (2, 4, 8)
DEPTHS = ((1, 2, 3), (4, 6, 8), (2, 4, 6))

_FORM = re.compile(r"([0-9]{2})r([0-9])-([0-9])x([0-9])-([0-9])x([0-9])-([0-9])x([0-9])", re.ASCII)


class Pyramid(NamedTuple):
    """An architecture: width of a head, MLP ratio, heads and blocks of the three stages."""

    base: int
    ratio: int
    heads: tuple[int, ...]
    depths: tuple[int, ...]

    @property
    def widths(self) -> tuple[int, ...]:
        """Width of each stage's tokens."""
        return tuple(self.base * heads for heads in self.heads)

    def __str__(self) -> str:
        stages = (f"{heads}x{depth}" for heads, depth in zip(self.heads, self.depths, strict=True))
        return f"{self.base}r{self.ratio}-{'-'.join(stages)}"


def grids(resolution: int) -> list[int]:
    """Patches along a side in each stage, for images of side `resolution`."""
    sides = [grid(resolution, STRIDE)]
    for _ in DEPTHS[1:]:
        sides.append((sides[-1] + 1) // 2)
    return sides


def decode(text: str) -> Pyramid:
    """The architecture that a text names. Raises HarnessError where it is none."""
    match = _FORM.fullmatch(text.strip()) if len(text) < 100 else None
    if match:
        base, ratio, *stages = map(int, match.groups())
        found = Pyramid(base, ratio, tuple(stages[::2]), tuple(stages[1::2]))
        fits = all(depth in among for depth, among in zip(found.depths, DEPTHS, strict=True))
        # Each stage is a multiple of the one before, whose channels its convolution keeps apart.
        rises = list(found.heads) == sorted(found.heads)
        if base in BASES and ratio in RATIOS and set(found.heads) <= set(HEADS) and fits and rises:
            return found
    shown = repr(text) if len(text) < 100 else f"{text[:100]!r}…"
    raise HarnessError(
        f"{shown} is no PiT architecture of ViT-Bench-101: write it as BASErRATIO-HxD-HxD-HxD, such as "
        f"32r4-2x2-4x6-8x4, with a base of {BASES}, a ratio of {RATIOS}, heads of {HEADS} that never become fewer, and "
        f"depths of {', '.join(map(str, DEPTHS))}"
    )
