"""What needs no weights: counts of parameters, multiply-accumulates, layers and operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.probes.base import EncodingProbe, Subject, Unscorable, hooked, normalisations, weight_layers

if TYPE_CHECKING:
    from harness.spaces.base import Space


@dataclass(frozen=True)
class Topology(EncodingProbe):
    """Observables `params`, `flops`, `elementwise`, `trainable_layers`, `parameter_tensors` (`Space.topology`).

    Benchmarks answer from the encodings of all architectures at once; for any other network they are counted
    here. `flops` are multiply-accumulates of convolutions and linear layers for one image. `params` are the
    trainable parameters that a gradient can reach from the logits.
    """

    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        return space.topology(architectures, num_classes, resolution)

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise("kaiming_fan_in")  # whatever pass came before: all parameters trainable, float32
        network = subject.network
        layers = weight_layers(network)
        macs = elementwise = 0
        norms = set(normalisations(network))
        pools = (
            torch.nn.AvgPool2d,
            torch.nn.MaxPool2d,
            torch.nn.AdaptiveAvgPool2d,
            torch.nn.AdaptiveMaxPool2d,
        )
        counted = [m for m in network.modules() if m in norms or isinstance(m, (torch.nn.ReLU, *pools))]

        def count(module, args, output):
            nonlocal macs
            if isinstance(module, torch.nn.Linear):
                macs += output.numel() * module.in_features
            else:
                macs += output.numel() * module.weight[0].numel()

        def count_elements(module, args, output):
            nonlocal elementwise
            if module in norms:
                elementwise += 2 * output.numel()
            elif isinstance(module, (torch.nn.AvgPool2d, torch.nn.MaxPool2d)):
                kernel = module.kernel_size
                elementwise += output.numel() * (kernel**2 if isinstance(kernel, int) else kernel[0] * kernel[1])
            else:  # ReLUs and adaptive poolings read each element once
                elementwise += args[0].numel()

        training = network.training
        network.eval()  # one image has no batch statistics where a map is 1x1
        try:
            hooks = [(m, count) for m in layers.values()] + [(m, count_elements) for m in counted]
            with hooked(hooks):
                logits = network(torch.zeros(1, *subject.shape, device=subject.device))
        finally:
            network.train(training)
        named = [p for p in network.parameters() if p.requires_grad]
        reached = torch.autograd.grad(logits.sum(), named, allow_unused=True)
        return {
            "params": float(sum(p.numel() for p, g in zip(named, reached, strict=True) if g is not None)),
            "flops": float(macs),
            "elementwise": float(elementwise),
            "trainable_layers": float(len(layers)),
            "parameter_tensors": float(len(named)),
        }


@dataclass(frozen=True)
class Operations(EncodingProbe):
    """Observables `operations`, a tuple of m `Operation`, and `operation_counts` (n, m): how often each occurs."""

    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        kinds, counts = space.operations(architectures, resolution)
        return {"operations": kinds, "operation_counts": counts}

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        raise Unscorable("operations are read from a space's encoding, which this network has none of")
