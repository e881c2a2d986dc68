"""The channels of NATS-Bench's size space: their text, and the cell that has them."""

from __future__ import annotations

import re

from harness.errors import HarnessError

CHOICES = tuple(range(8, 65, 8))
POSITIONS = 5
REDUCTIONS = (1, 3)
#: The cell of every network, as each record of the official archive names it under `genotype`.
CELL = "|nor_conv_3x3~0|+|nor_conv_3x3~0|nor_conv_3x3~1|+|skip_connect~0|nor_conv_3x3~1|nor_conv_3x3~2|"
FROM_INPUT, INSIDE = 2, 3  # its 3x3 convolutions of node 0, and of its other nodes

_FORM = re.compile(":".join([r"([1-9][0-9]?)"] * POSITIONS), re.ASCII)


def decode(architecture: str) -> tuple[int, ...]:
    """The five numbers of channels. Raises HarnessError if malformed."""
    match = _FORM.fullmatch(architecture)
    channels = tuple(map(int, match.groups())) if match else ()
    if not channels or not set(channels) <= set(CHOICES):
        raise HarnessError(
            f"{architecture!r} is not an architecture of NATS-Bench's size space: write it as five numbers of "
            f"channels such as 8:16:24:32:40, each one of {', '.join(map(str, CHOICES))}"
        )
    return channels
