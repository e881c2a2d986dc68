"""NAS-Bench-Macro: strings, identity and counts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.errors import HarnessError
from harness.spaces.base import Operation, Space
from harness.spaces.macro.cell import BLOCKS, CHANNELS, HEAD, IDENTITY, STAGES, Layer, layers_at

if TYPE_CHECKING:
    from torch import nn

_FORM = re.compile(f"[0-2]{{{sum(STAGES)}}}")


def without_identities(architecture: str) -> str:
    """The string with the identities inside each stage moved to its end, where they change nothing either.

    This is how the benchmark trained each network once: strings of one such form share its figures.
    """
    text, start = "", 0
    for length in STAGES:
        first, *rest = architecture[start : start + length]
        kept = [choice for choice in rest if choice != IDENTITY]
        text += first + "".join(kept) + IDENTITY * (len(rest) - len(kept))
        start += length
    return text


class Macro(Space):
    """The 6,561 strings of NAS-Bench-Macro, which are 3,969 networks."""

    name = "macro"

    def parse(self, text: str) -> str:
        if not _FORM.fullmatch(text.strip()):
            raise HarnessError(
                f"{text!r} is not a NAS-Bench-Macro architecture: write it as eight digits, each 0 (identity), "
                "1 (expansion 3, kernel 3) or 2 (expansion 6, kernel 5), such as 02012100"
            )
        return text.strip()

    def canonical(self, architecture: str) -> str:
        return without_identities(self.parse(architecture))

    def network_key(self, architecture: str) -> str:
        return self.canonical(architecture)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        layers = layers_at(resolution)
        choices = self._choices(architectures)
        width, side = layers[-1].outputs, layers[-1].side_out
        stem, head = CHANNELS * resolution**2, HEAD * side**2
        # Stem and head: each a convolution, BatchNorm (2 an element) and ReLU (1); then the linear layer.
        total = {
            "params": 27 * CHANNELS + 2 * CHANNELS + width * HEAD + 2 * HEAD + (HEAD + 1) * num_classes,
            "flops": 27 * stem + width * head + HEAD * num_classes,
            "elementwise": 3 * stem + 3 * head,
            "trainable_layers": 3,
            "parameter_tensors": 8,
        }
        total = {name: np.full(len(choices), value, dtype=np.float64) for name, value in total.items()}
        for place, layer in enumerate(layers):
            costs = [_cost(str(choice), layer) for choice in range(3)]
            for name, values in total.items():
                values += np.array([cost.get(name, 0) for cost in costs], dtype=np.float64)[choices[:, place]]
        return total

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """Operations of the eight layers.

        A depthwise convolution with the pointwise one after it is one convolution of the depthwise's kernel.
        """
        choices = self._choices(architectures)
        counts: dict[Operation, np.ndarray] = {}

        def add(operation: Operation, number: np.ndarray) -> None:
            counts[operation] = counts.get(operation, 0) + number

        for place, layer in enumerate(layers_at(resolution)):
            identity = choices[:, place] == int(IDENTITY)
            kind = "convolution" if layer.first else "skip"
            add(Operation(kind, 1, layer.inputs, layer.side), identity)
            if not layer.first:
                add(Operation("skip", 1, layer.inputs, layer.side, summed=True), ~identity)
            for choice, (expansion, kernel) in BLOCKS.items():
                chosen = choices[:, place] == int(choice)
                add(Operation("convolution", 1, layer.inputs, layer.side), chosen)
                add(Operation("convolution", kernel, expansion * layer.inputs, layer.side), chosen)
        return tuple(counts), np.stack(list(counts.values()), axis=1).astype(np.float64)

    def _choices(self, architectures: Sequence[str]) -> np.ndarray:
        digits = [list(map(int, self.parse(a))) for a in architectures]
        return np.array(digits, dtype=np.int8).reshape(-1, sum(STAGES))

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's network; `thin`: the same layers behind a stem of one channel, the head as much thinner."""
        from harness.spaces.macro.network import Network

        architecture = self.parse(architecture)
        return Network(architecture, num_classes, 1, HEAD // CHANNELS) if thin else Network(architecture, num_classes)


def _cost(choice: str, layer: Layer) -> dict[str, int]:
    """What a layer adds to each count."""
    _, inputs, outputs, side, side_out = layer
    if choice == IDENTITY:
        if not layer.first:
            return {}
        return {
            "params": inputs * outputs + 2 * outputs,
            "flops": inputs * outputs * side_out**2,
            "elementwise": 2 * outputs * side_out**2,
            "trainable_layers": 1,
            "parameter_tensors": 3,
        }
    expansion, kernel = BLOCKS[choice]
    hidden = expansion * inputs
    return {
        "params": inputs * hidden + kernel**2 * hidden + hidden * outputs + 4 * hidden + 2 * outputs,
        "flops": inputs * hidden * side**2 + (kernel**2 * hidden + hidden * outputs) * side_out**2,
        "elementwise": 3 * hidden * (side**2 + side_out**2) + 2 * outputs * side_out**2,
        "trainable_layers": 3,
        "parameter_tensors": 9,
    }
