"""What an AutoFormer architecture says, and how many patches an image has."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from harness.errors import HarnessError

PATCH = 16
SIDE = 224  # of the images that positions are learned for
HEAD = 64  # width of a head where it does not depend on that of the tokens
REACH = 14  # patches beyond which distances count as this one

_LONGEST = 400  # characters: what is longer is no architecture, and need not be parsed to know
_BLOCK = re.compile(r"([1-9][0-9]?)x([1-9](?:\.5)?)", re.ASCII)


@dataclass(frozen=True)
class Choice:
    """What a space leaves open: widths of the tokens, numbers of blocks, heads and MLP ratios."""

    widths: tuple[int, ...]
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    ratios: tuple[float, ...]
    #: Whether heads are `HEAD` wide and attention knows distances; else heads share the width of the tokens.
    relative: bool = True


TINY = Choice((192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4.0))
SMALL = Choice((320, 384, 448), (12, 13, 14), (5, 6, 7), (3.0, 3.5, 4.0))
BASE = Choice((528, 576, 624), (14, 15, 16), (9, 10), (3.0, 3.5, 4.0))
VIT_BENCH = Choice((192, 216, 240), (12, 13, 14), (3, 4), (3.5, 4.0), relative=False)


class Transformer(NamedTuple):
    """An architecture: width of the tokens, and of each block its heads and MLP ratio."""

    width: int
    heads: tuple[int, ...]
    ratios: tuple[float, ...]

    def __str__(self) -> str:
        return "-".join([str(self.width), *(f"{h}x{r:g}" for h, r in zip(self.heads, self.ratios, strict=True))])


def grid(resolution: int, stride: int = PATCH) -> int:
    """Patches along a side of an image."""
    return (resolution - PATCH) // stride + 1


@lru_cache(maxsize=20_000)
def decode(text: str, choice: Choice) -> Transformer:
    """The architecture that a text names. Raises HarnessError where it is none of the space."""
    width, *blocks = text.strip().split("-") if len(text) <= _LONGEST else [""]
    matches = [_BLOCK.fullmatch(block) for block in blocks]
    if width in map(str, choice.widths) and len(blocks) in choice.depths and None not in matches:
        found = Transformer(int(width), tuple(int(m[1]) for m in matches), tuple(float(m[2]) for m in matches))
        if set(found.heads) <= set(choice.heads) and set(found.ratios) <= set(choice.ratios):
            return found
    shown = repr(text) if len(text) <= 200 else f"{text[:200]!r}…"
    raise HarnessError(
        f"{shown} is no architecture of this AutoFormer space: write the width of the tokens (one of {choice.widths}) "
        f"and {choice.depths[0]} to {choice.depths[-1]} blocks HEADSxRATIO joined by '-', such as "
        f"{choice.widths[0]}-{choice.heads[0]}x{choice.ratios[0]:g}-…, heads one of {choice.heads}, ratios of "
        f"{choice.ratios}"
    )
