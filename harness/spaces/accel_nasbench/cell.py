"""The blocks of an Accel-NASBench architecture: their text, and the channels and strides around them."""

from __future__ import annotations

import ast
import re
from functools import lru_cache
from typing import NamedTuple

from harness.errors import HarnessError

CHANNELS = (16, 24, 40, 80, 112, 192, 320)
STRIDES = (1, 2, 2, 2, 1, 2, 1)
STEM, HEAD = 32, 1280
EXPANSIONS, KERNELS = (1, 4, 6), (3, 5)
LAYERS = (3, 3, 3, 3, 3, 4, 3)  # at most, of each block
SQUEEZE = 4  # input channels of a layer for each of its squeezed ones

_BLOCK = re.compile(r"e([0-9])k([0-9])l([0-9])(se)?")
_LONGEST = 1_000  # characters: what is longer is no architecture, and need not be parsed to know


class Block(NamedTuple):
    """What is chosen of a block."""

    expansion: int
    kernel: int
    layers: int
    squeeze: bool

    def __str__(self) -> str:
        return f"e{self.expansion}k{self.kernel}l{self.layers}{'se' if self.squeeze else ''}"


@lru_cache(maxsize=20_000)
def decode(text: str) -> tuple[Block, ...]:
    """The seven blocks of an architecture, in either form. Raises HarnessError if malformed."""
    try:
        blocks = _lists(text) if text.lstrip().startswith("[") else _text(text.strip())
        if len(blocks) != len(CHANNELS):
            raise ValueError(f"it has {len(blocks)} blocks")
        for place, (block, most) in enumerate(zip(blocks, LAYERS, strict=True), start=1):
            if block.expansion not in EXPANSIONS or block.kernel not in KERNELS or not 1 <= block.layers <= most:
                raise ValueError(f"its block {place} is {block}")
        return blocks
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError) as error:
        reason = str(error).splitlines()[0] if isinstance(error, ValueError) and str(error) else "it cannot be parsed"
        shown = repr(text) if len(text) <= 300 else f"{text[:200]!r}…"
        raise HarnessError(
            f"{shown} is not an Accel-NASBench architecture ({reason}): write it as seven blocks eEkKlL or eEkKlLse "
            f"joined by '-', such as e6k3l1-e4k5l2se-…, with E of {EXPANSIONS}, K of {KERNELS}, L from 1 to 3 (to 4 "
            "in the sixth block) and `se` for squeeze-excite"
        ) from None


def _text(text: str) -> tuple[Block, ...]:
    matches = [_BLOCK.fullmatch(part) for part in text.split("-")] if len(text) <= _LONGEST else [None]
    if None in matches:
        raise ValueError("it is not of blocks")
    return tuple(Block(int(m[1]), int(m[2]), int(m[3]), m[4] is not None) for m in matches)


def _lists(text: str) -> tuple[Block, ...]:
    if len(text) > _LONGEST:
        raise ValueError("it is too long")
    lists = ast.literal_eval(text.strip())
    if len(lists) != 4 or not all(isinstance(one, (list, tuple)) and len(one) == len(CHANNELS) for one in lists):
        raise ValueError("it is not of four lists of seven")
    blocks = tuple(Block(*chosen) for chosen in zip(*lists, strict=True))
    if not all([type(value) for value in block] == [int, int, int, bool] for block in blocks):
        raise ValueError("its lists are not of numbers, numbers, numbers and booleans")
    return blocks
