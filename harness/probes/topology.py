"""What needs no weights: counts of parameters, multiply-accumulates, layers and operations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.probes.base import EncodingProbe, Subject, Unscorable, outputs, weight_layers

if TYPE_CHECKING:
    from harness.probes.operations import Operation
    from harness.spaces.base import Space


@dataclass(frozen=True)
class Topology(EncodingProbe):
    """Observables `params`, `all_params`, `flops`, `elementwise`, `trainable_layers`, `parameter_tensors`.

    Benchmarks answer from the encodings of all architectures at once; for any other network they are counted
    here (`Space.topology`). `flops` are multiply-accumulates of convolutions and linear layers for one image. `params`
    are the trainable parameters that a gradient can reach from the logits, `all_params` those of the whole network,
    `parameter_tensors` the tensors that hold these. Of a network with frozen ones only the others count there;
    `trainable_layers` are all convolutions and linear layers, those with frozen weights too.
    """

    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        counts = space.topology(architectures, num_classes, resolution)
        return {"all_params": counts["params"], **counts}

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import ACTIVATION, LAYERS, NORMALISATION, POOLING, PRODUCT, Watch, Weights

        subject.initialise("kaiming_fan_in")  # whatever pass came before: float32, and frozen what was given so
        network = subject.network
        weights = Weights(network, weight_layers(network))
        macs = elementwise = 0

        def layer(operation):
            nonlocal macs
            weights.see(operation)
            result = operation.run()
            macs += _multiplications(operation, result)
            return result

        def product(operation):
            weights.see(operation)
            if operation.owner and wanted & {"flops", "elementwise"}:
                raise Unscorable(f"layer {operation.owner} is used by {operation.name}, whose products are not counted")
            return operation.run()

        def element(operation):
            nonlocal elementwise
            result = operation.run()
            elementwise += _element_operations(operation, result)
            return result

        handlers = {**dict.fromkeys(LAYERS, layer), **dict.fromkeys((ACTIVATION, NORMALISATION, POOLING), element)}
        training = network.training
        network.eval()  # one image has no batch statistics where a map is 1x1
        try:
            with Watch(network, {**handlers, PRODUCT: product}):
                logits = outputs(network, torch.zeros(1, *subject.shape, device=subject.device))
        finally:
            network.train(training)
        named = [p for p in network.parameters() if p.requires_grad]
        reached: Sequence = [None] * len(named)
        if named and logits.requires_grad:
            reached = torch.autograd.grad(logits.sum(), named, allow_unused=True)
        whole = {"all_params": float(sum(p.numel() for p in named))} if "all_params" in wanted else {}
        return whole | {
            "params": float(sum(p.numel() for p, g in zip(named, reached, strict=True) if g is not None)),
            "flops": float(macs),
            "elementwise": float(elementwise),
            "trainable_layers": float(len(weights.tensors())),
            "parameter_tensors": float(len(named)),
        }


def _multiplications(operation: Operation, result: Any) -> int:
    """Multiply-accumulates of a layer."""
    if operation.kind == "linear":
        return result.numel() * operation.weight.shape[1]
    applied = operation.input if operation.kind == "transposed convolution" else result
    return applied.numel() * operation.weight[0].numel()


def _element_operations(operation: Operation, result: Any) -> int:
    """Of the operations that `flops:count=all` counts, as NASLib's counter does; 0 for others."""
    if operation.kind == "normalisation":
        return 0 if operation.fixed else 2 * result.numel()
    if operation.kind == "activation":
        return operation.input.numel() if operation.name == "relu" else 0
    if operation.name.startswith(("avg_pool", "max_pool")):
        maps = result[0] if isinstance(result, tuple) else result
        dimensions = int(operation.name[-2])
        kernel = operation.get("kernel_size")
        return maps.numel() * (kernel**dimensions if isinstance(kernel, int) else prod(kernel))
    return operation.input.numel() if operation.name.startswith("adaptive") else 0  # reads each element once


@dataclass(frozen=True)
class Operations(EncodingProbe):
    """Observables `operations`, a tuple of m `Operation`, and `operation_counts` (n, m): how often each occurs."""

    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        kinds, counts = space.operations(architectures, resolution)
        return {"operations": kinds, "operation_counts": counts}

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        raise Unscorable("operations are read from a space's encoding, which this network has none of")


@dataclass(frozen=True)
class Skips(EncodingProbe):
    """Observable `skip_span` (n,): mean over a cell's skip connections of the nodes that one jumps (`Space`)."""

    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        return {"skip_span": space.skip_spans(architectures)}

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        raise Unscorable("skips are read from a space's encoding, which this network has none of")


@dataclass(frozen=True)
class Sizes(EncodingProbe):
    """Observables `size_median` and `size_variance` of a space: of the parameters, in thousands, of all its members."""

    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        median, variance = _sizes(space, num_classes, resolution)
        return {"size_median": median, "size_variance": variance}

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        raise Unscorable("a network of no space has no other sizes to compare with: set mu and sigma")


@cache
def _sizes(space: Space, num_classes: int, resolution: int) -> tuple[float, float]:
    """Median and variance of the parameters of a space's members, in thousands."""
    import numpy as np

    try:
        members = space.members()
    except HarnessError as error:
        raise Unscorable(f"space {space.name} is not listed in full: set mu and sigma") from error
    thousands = space.topology(members, num_classes, resolution)["params"] / 1000
    return float(np.median(thousands)), float(thousands.var())
