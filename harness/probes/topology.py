"""Counts that need no weights: parameters, multiply-accumulates, layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import Probe, Subject, hooked, weight_layers


@dataclass(frozen=True)
class Topology(Probe):
    """Observables `params`, `flops`, `trainable_layers`, `parameter_tensors` (see `Space.topology`).

    Benchmarks answer from the encodings of all architectures at once; for any other network they are counted
    here. `flops` are multiply-accumulates of convolutions and linear layers for one image. `params` are the
    trainable parameters that a gradient can reach from the logits.
    """

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        network = subject.network
        layers = weight_layers(network)
        macs = 0

        def count(module, args, output):
            nonlocal macs
            if isinstance(module, torch.nn.Linear):
                macs += output.numel() * module.in_features
            else:
                macs += output.numel() * module.weight[0].numel()

        training = network.training
        network.eval()  # one image has no batch statistics where a map is 1x1
        try:
            with hooked([(module, count) for module in layers.values()]):
                logits = network(torch.zeros(1, *subject.shape, device=subject.device))
        finally:
            network.train(training)
        named = [p for p in network.parameters() if p.requires_grad]
        reached = torch.autograd.grad(logits.sum(), named, allow_unused=True)
        return {
            "params": float(sum(p.numel() for p, g in zip(named, reached, strict=True) if g is not None)),
            "flops": float(macs),
            "trainable_layers": float(len(layers)),
            "parameter_tensors": float(len(named)),
        }
