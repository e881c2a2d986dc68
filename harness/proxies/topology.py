"""Proxies that read the operations of an architecture and run no network."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.probes.base import Probe
from harness.probes.topology import Operations
from harness.proxies.base import Proxy
from harness.spaces.base import Operation


def convolution_term(operation: Operation) -> float:
    """ln of the window's volume: the entropy of a Gaussian window grows with it (Proposition 4)."""
    return float(np.log(operation.kernel**2 * operation.channels))


def pooling_term(operation: Operation) -> float:
    """Minus the bound of Proposition 3 on the probability that a window of side o loses its entropy, 0 for o <= 2.

    2 (o - 2) (w + h) / (w h) on a map of w x h, at most 1.
    """
    if operation.kernel <= 2:
        return 0.0
    return -min(1.0, 4 * (operation.kernel - 2) / operation.side)


def skip_term(operation: Operation) -> float:
    """1 for a skip that is summed with another branch, whose entropy it restores; 0 for one that stands alone."""
    return 1.0 if operation.summed else 0.0


TERMS = {"convolution": convolution_term, "pooling": pooling_term, "skip": skip_term}


@dataclass(frozen=True)
class Sed(Proxy):
    """SED, a RECONSTRUCTION: suppression of local entropy decrease, from the operations alone.

    The paper's Definitions 1 to 4 are not publicly readable in text form; its propositions are. The terms
    (`convolution_term`, `pooling_term`, `skip_term`) follow from those, with no coefficient fitted to
    accuracies: every operation adds its term, all with weight one. Numbers of this proxy are not the authors'.
    `part` is `all`, or one of convolution, pooling, skip for a block score alone.
    """

    name: ClassVar[str] = "sed"
    summary: ClassVar[str] = "suppression of local entropy decrease (reconstruction)"
    citation: ClassVar[str] = (
        "Wu et al., Zero-Shot NAS via the Suppression of Local Entropy Decrease (arXiv 2411.06236)"
    )
    inputs: ClassVar[str] = "none"
    caveat: ClassVar[str] = "a reconstruction from the paper's propositions, not the authors' numbers"
    random: ClassVar[bool] = False
    reads_head: ClassVar[bool] = False
    choices: ClassVar[Mapping[str, Collection]] = {"part": ("all", *TERMS)}

    part: str = "all"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Operations(): ("operations", "operation_counts")}

    def score(self, seen: Mapping[str, Any]) -> float:
        terms = [
            TERMS[operation.kind](operation) if self.part in ("all", operation.kind) else 0.0
            for operation in seen["operations"]
        ]
        return seen["operation_counts"] @ np.array(terms)
