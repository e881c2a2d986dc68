"""The weights themselves, which no image meets: how many there are, and what an initialisation makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.probes.base import IMAGES, Probe, Subject, weight_layers


@dataclass(frozen=True)
class WeightNorms(Probe):
    """One initialisation; observable `weight_norm` (L,): L2 norm of the weights of each convolution or linear layer."""

    init: str = "kaiming_fan_in"

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init)
        norms = [layer.weight.detach().norm() for layer in weight_layers(subject.network).values()]
        return {"weight_norm": torch.stack(norms).double().cpu().numpy()}


@dataclass(frozen=True)
class WeightCounts(Probe):
    """Observable `weight_counts` (L,): number of weights of each convolution or linear layer, in module order."""

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np

        return {"weight_counts": np.array([layer.weight.numel() for layer in weight_layers(subject.network).values()])}
