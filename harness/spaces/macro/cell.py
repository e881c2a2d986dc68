"""The blocks that a NAS-Bench-Macro architecture chooses from, and the layers that they are chosen for."""

from __future__ import annotations

from typing import NamedTuple

STAGES = (2, 3, 3)
CHANNELS = 32  # of the stem
HEAD = 1280
#: Expansion and kernel of the inverted residual blocks.
BLOCKS = {"1": (3, 3), "2": (6, 5)}
IDENTITY = "0"


class Layer(NamedTuple):
    """Where one of the eight layers stands: its channels and the sides of its maps, before and after."""

    first: bool  # of its stage
    inputs: int
    outputs: int
    side: int
    side_out: int


def layers_at(resolution: int, channels: int = CHANNELS) -> list[Layer]:
    """The eight layers behind a stem of `channels` at `resolution`."""
    found, side = [], resolution
    for length in STAGES:
        halved = (side + 1) // 2
        found.append(Layer(True, channels, 2 * channels, side, halved))
        channels, side = 2 * channels, halved
        found.extend([Layer(False, channels, channels, side, side)] * (length - 1))
    return found
