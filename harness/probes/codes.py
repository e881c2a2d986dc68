"""The codes of layers at initialisation in eval mode, where images do not meet, as in T-CET's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, hooked, weight_layers
from harness.probes.gradient import agreement


@dataclass(frozen=True)
class EvalCodes(Probe):
    """Forward of one mini-batch in eval mode: at initialisation BatchNorm is the identity map up to its epsilon.

    Observables over the L convolutions and linear layers, in module order:

    - `eval_kernels` (L', B, B): number of equal bits of the codes [layer output > 0] of two images, for the layers
      that were called; the codes of several calls are joined
    - `eval_places` (L,): which of those kernels belongs to the layer; -1 if none
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network.eval()
        images, _ = subject.images(self.batch_size, self.dtype)
        layers = weight_layers(network)
        collected: dict[str, list] = {}

        def keep(name: str):
            return lambda module, args, output: collected.setdefault(name, []).append(agreement(output))

        with torch.no_grad(), hooked([(module, keep(name)) for name, module in layers.items()]):
            finite_logits(network, images)
        called = [name for name in layers if name in collected]
        if not called:
            raise Unscorable("no layer module was reached")
        place = {name: i for i, name in enumerate(called)}
        return {
            "eval_kernels": torch.stack([sum(collected[name]) for name in called]).cpu().numpy(),
            "eval_places": np.array([place.get(name, -1) for name in layers]),
        }
