"""The weights of an initialisation, which no image meets."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import Probe, Subject, weight_layers


@dataclass(frozen=True)
class WeightNorms(Probe):
    """One initialisation; observable `weight_norm` (L,): L2 norm of the weights of each convolution or linear layer."""

    init: str = "kaiming_fan_in"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init)
        norms = [layer.weight.detach().norm() for layer in weight_layers(subject.network).values()]
        return {"weight_norm": torch.stack(norms).double().cpu().numpy()}
