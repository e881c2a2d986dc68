"""The architectures of TransNAS-Bench-101: their texts, and what a module's digit says."""

from __future__ import annotations

import re

from harness.errors import HarnessError
from harness.spaces.nasbench201.cell import CONV1, CONV3

BASE = 64
MICRO_MODULES = "41414"
MACRO_LENGTHS = (4, 5, 6)
MACRO_DOUBLINGS = (1, 2, 3)
MACRO_HALVINGS = (1, 2, 3, 4)
BLOCKS_PER_MODULE = 2
#: How often the stem halves the side of the image.
STEM_HALVINGS = 2
BASIC = "basic"
KERNELS = {CONV1: 1, CONV3: 3}

_MICRO = re.compile(f"{BASE}-{MICRO_MODULES}-([0-3])_([0-3]{{2}})_([0-3]{{3}})")
_MACRO = re.compile(f"{BASE}-([1-4]+)-{BASIC}")


def doubles(module: str) -> bool:
    """Whether a module doubles the channels."""
    return module in "24"


def halves(module: str) -> bool:
    """Whether a module halves the side of its maps."""
    return module in "34"


def decode_cell(architecture: str) -> tuple[int, ...]:
    """Six operation codes of a micro architecture, in the order of NAS-Bench-201's `EDGES`."""
    match = _MICRO.fullmatch(architecture)
    if not match:
        raise HarnessError(
            f"{architecture!r} is not a TransNAS-Bench-101 micro architecture: write it as {BASE}-{MICRO_MODULES}-"
            "A_BC_DEF with an operation for each letter: 0 (none), 1 (skip), 2 (1x1) or 3 (3x3 convolution)"
        )
    return tuple(int(digit) for digit in "".join(match.groups()))


def decode_modules(architecture: str) -> str:
    """The module digits of a macro architecture."""
    match = _MACRO.fullmatch(architecture)
    modules = match[1] if match else ""
    if (
        len(modules) not in MACRO_LENGTHS
        or sum(map(doubles, modules)) not in MACRO_DOUBLINGS
        or sum(map(halves, modules)) not in MACRO_HALVINGS
    ):
        raise HarnessError(
            f"{architecture!r} is not a TransNAS-Bench-101 macro architecture: write it as {BASE}-MODULES-{BASIC} with "
            "4 to 6 modules, each 1 (plain), 2 (doubles the channels), 3 (halves the side) or 4 (both), 1 to 3 of them "
            "doubling and 1 to 4 halving"
        )
    return modules
