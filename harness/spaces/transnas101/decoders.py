"""TransNAS-Bench-101's decoders, which make an image of the encoder's maps.

Each layer is a 3x3 convolution with biases, BatchNorm and LeakyReLU(0.2); one that doubles the side, a transposed
convolution. The last layer is a convolution without normalisation.

Source: yawen-d/TransNASBench, lib/models/task_models/decoder.py.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from harness.spaces.costs import Cost, combined, convolution, normalised

#: Slope of the activation below zero.
SLOPE = 0.2
#: What the encoder's channels are widened to, and the layers by which they are narrowed again where each halves them.
_WIDEST, _NARROWINGS = 1024, 5


class Step(NamedTuple):
    """A layer of a decoder; `doubles` the side of its maps."""

    inputs: Any
    outputs: int
    doubles: bool


def generative(channels: Any, doublings: int, outputs: int) -> list[Step]:
    """The layers of the decoder for normals and reconstruction. `doublings` of the side: three to six."""
    widths = [channels, 1024, 1024, 512, 512, 256, 128, 64, 64, 32, 32, 16, 32, 16, outputs]
    # The places that double the side, the last first: two always, the others as the encoder has halved it.
    doubling = {place for place, least in ((2, 6), (4, 5), (6, 4), (8, 3), (10, 0), (12, 0)) if doublings >= least}
    return [Step(*widths[place : place + 2], place in doubling) for place in range(len(widths) - 1)]


def segmentation(channels: Any, doublings: int, outputs: int) -> list[Step]:
    """The layers of the decoder for segments. `doublings` of the side: three to six."""
    narrow = [_WIDEST >> place for place in range(_NARROWINGS + 1)]
    widths = [channels, *narrow, narrow[-1], outputs]
    kept = _NARROWINGS + 1 - doublings  # narrowings that leave the side as it is
    last = len(widths) - 2
    return [Step(*widths[place : place + 2], kept < place < last) for place in range(len(widths) - 1)]


#: By what a network ends in (`Dataset.head`) the layers of the decoder.
DECODERS = {"segmentation": segmentation, "normals": generative, "reconstruction": generative}


def cost_of_decoder(head: str, channels: Any, doublings: int, outputs: int, side: Any) -> Cost:
    """What a decoder on maps of `side` adds to a network's counts; a transposed convolution's window is its input's."""
    *steps, last = DECODERS[head](channels, doublings, outputs)
    costs = []
    for step in steps:
        layer = convolution(step.inputs, step.outputs, 9, side, bias=True)
        side = 2 * side if step.doubles else side
        costs.append(normalised(layer, step.outputs, side))
    return combined(*costs, convolution(last.inputs, last.outputs, 9, side, bias=True))
