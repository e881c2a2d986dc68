"""Counts: the baselines that every proxy has to beat."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.probes.base import Probe
from harness.probes.topology import Skips, Topology
from harness.proxies.base import Proxy


@dataclass(frozen=True)
class _Count(Proxy):
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False
    observable: ClassVar[str]

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Topology(): (self.observable,)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen[self.observable]


@dataclass(frozen=True)
class Params(_Count):
    """Number of trainable parameters that a gradient can reach: those that are frozen count nothing.

    `count=all` adds those of operations that no later one reads, as NASLib's counter does: the two differ on the micro
    cells of TransNAS-Bench-101.
    """

    name: ClassVar[str] = "params"
    summary: ClassVar[str] = "trainable parameters"
    citation: ClassVar[str] = "baseline"
    choices: ClassVar[Mapping[str, Collection]] = {"count": ("reached", "all")}

    count: str = "reached"

    @property
    def observable(self) -> str:
        return "params" if self.count == "reached" else "all_params"


@dataclass(frozen=True)
class Flops(_Count):
    """Multiply-accumulates of convolutions and linear layers for one image, as the benchmarks count FLOPs.

    `count=all` adds what NASLib's counter does: 2 an element for BatchNorm, 1 for ReLU, the window for pooling.
    The two rank NAS-Bench-201 differently (Kendall tau with accuracy 0.623 and 0.574 on CIFAR-10).
    """

    name: ClassVar[str] = "flops"
    summary: ClassVar[str] = "multiply-accumulates of convolutions and linear layers"
    citation: ClassVar[str] = "baseline"
    observable: ClassVar[str] = "flops"
    choices: ClassVar[Mapping[str, Collection]] = {"count": ("macs", "all")}

    count: str = "macs"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Topology(): ("flops", "elementwise")}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["flops"] + (seen["elementwise"] if self.count == "all" else 0.0)


@dataclass(frozen=True)
class TrainableLayers(_Count):
    """Number of convolutions and linear layers (VKDNW's aleph), those whose weights are frozen too.

    The authors' code counts named parameter tensors instead, an increasing function of this count on
    NAS-Bench-201 (`21 + 45 c` against `8 + 15 c` for c convolutions in the cell), so the ranks are equal.
    """

    name: ClassVar[str] = "trainable_layers"
    summary: ClassVar[str] = "convolutions + linear layers (VKDNW's aleph)"
    citation: ClassVar[str] = "Tybl & Neumann, VKDNW, CVPR 2025 (arXiv 2502.04975)"
    reads_head: ClassVar[bool] = False
    observable: ClassVar[str] = "trainable_layers"


@dataclass(frozen=True)
class Skip(_Count):
    """Mean over a cell's skip connections of the nodes that one jumps; 0 without any. A term of FreeREA's score.

    A skip from node i to node j jumps j - i - 1. Read from the encoding of cells with skips to choose, on the edges of
    NAS-Bench-201's cell, where all 15,625 values are those of the authors' code (NiccoloCavagnero/FreeREA @ 9c2a726c,
    `nas_spaces/nats.py`); its version for NAS-Bench-101 reads a variable that it has not set, and has no definition to
    follow.
    """

    name: ClassVar[str] = "skip"
    summary: ClassVar[str] = "nodes that a cell's skip connections jump"
    citation: ClassVar[str] = "Cavagnero et al., FreeREA, WACV 2023"
    reads_head: ClassVar[bool] = False
    requires: ClassVar[str] = "skip connections to choose"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Skips(): ("skip_span",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["skip_span"]
