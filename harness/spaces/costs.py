"""What a layer adds to a network's counts, for the spaces that count by formula.

A cost maps the names of `Space.topology` to numbers, or to arrays with one entry an architecture: all arithmetic
here is elementwise. Names that a layer adds nothing to may be left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from harness.spaces.base import Operation

NAMES = ("params", "flops", "elementwise", "trainable_layers", "parameter_tensors")

Cost = dict[str, Any]


def convolution(inputs: Any, outputs: Any, window: int, side: Any, other_side: Any = None, bias: bool = False) -> Cost:
    """Cost of a convolution; of a linear layer, with `window` and `side` 1.

    Args:
        inputs: channels that each output reads (1 for a depthwise convolution).
        window: taps of its kernel.
        side: of the maps that it writes; `other_side` where these are no square.
    """
    weights = inputs * outputs * window
    biases = outputs if bias else 0
    return {
        "params": weights + biases,
        "flops": weights * side * (side if other_side is None else other_side),
        "elementwise": 0,
        "trainable_layers": 1,
        "parameter_tensors": 2 if bias else 1,
    }


def normalised(cost: Cost, channels: Any, side: Any, relu: Any = 0) -> Cost:
    """The cost with that of a BatchNorm on its output (2 an element), and of a ReLU on `relu` elements."""
    norm = {"params": 2 * channels, "elementwise": 2 * channels * side**2 + relu, "parameter_tensors": 2}
    return combined(cost, norm)


def combined(*costs: Mapping[str, Any]) -> Cost:
    """The sum of costs."""
    return {name: sum(cost.get(name, 0) for cost in costs) for name in NAMES}


class Total:
    """Counts of n architectures, to which costs are added."""

    def __init__(self, n: int):
        self.counts = {name: np.zeros(n) for name in (*NAMES, "all_params")}

    def add(self, cost: Mapping[str, Any], times: Any = 1, reached: Any = None) -> None:
        """Add a cost `times` over; its parameters `reached` times, where a gradient does not reach all of them."""
        for name, value in cost.items():
            self.counts[name] += value * np.asarray(reached if name == "params" and reached is not None else times)
        self.counts["all_params"] += cost.get("params", 0) * np.asarray(times)


class OperationTally:
    """How often n architectures have each kind of operation, where its channels and side differ among them."""

    def __init__(self, n: int):
        self._columns: dict[Operation, np.ndarray] = {}
        self._n = n

    def add(
        self,
        kind: str,
        kernel: int,
        channels: np.ndarray,
        side: np.ndarray,
        number: np.ndarray,
        present: np.ndarray,
        summed: bool = False,
    ) -> None:
        """Add `number` operations; all arrays are (n,). A kind has a column if it is `present` anywhere."""
        for shape in np.unique(np.column_stack([channels, side])[present], axis=0):
            column = self._columns.setdefault(Operation(kind, kernel, *map(int, shape), summed), np.zeros(self._n))
            column += number * (present & (channels == shape[0]) & (side == shape[1]))

    def result(self) -> tuple[tuple[Operation, ...], np.ndarray]:
        """What `Space.operations` returns."""
        return tuple(self._columns), np.stack(list(self._columns.values()), axis=1)
