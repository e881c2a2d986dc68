"""Outputs of a network whose weights are all the same number: what is left is its topology and its rounding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.probes.base import Probe, Start, Subject, Unscorable, outputs, weight_layers
from harness.probes.initialise import fill, kinds
from harness.probes.rows import refuse_weights

if TYPE_CHECKING:
    from harness.probes.operations import Operation


@dataclass(frozen=True)
class ConstantWeights(Probe):
    """Two forwards of a mini-batch, BatchNorm on batch statistics; observable `constant_features` (2, B * C) float64.

    What the last layer reads where the weights of all layers and normalisations are `first`, then `second`, and all
    biases 0. Always float32: which values underflow is part of the definition. `flat`: in place of the mini-batch's,
    images of one grey each, from 0 up in steps of 1 / batch size. Both forwards begin alike (`Start`).
    """

    batch_size: int = 256
    first: float = 1e-7
    second: float = 1.0
    flat: bool = False

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        if subject.keep_weights:
            raise Unscorable("all weights are set to one number: leave out keep_weights")
        found = []
        start = Start(subject.network, subject.device)
        for value in (self.first, self.second):
            subject.initialise("kaiming_fan_in")
            _fill(subject.network, value)
            images, _ = subject.images(self.batch_size)
            if self.flat:
                greys = torch.arange(len(images), device=images.device) / len(images)
                images = torch.empty_like(images).copy_(greys.view(-1, *[1] * (images.ndim - 1)).expand_as(images))
            start.again()  # the weights alone differ
            with torch.no_grad():
                found.append(_read_last(subject.network, images).flatten().double().cpu().numpy())
        return {"constant_features": np.stack(found)}


def _fill(network: Any, value: float) -> None:
    """Raises Unscorable for a layer whose weights cannot be set."""
    import torch

    _, normalisations = kinds()
    with torch.no_grad():
        for layer in weight_layers(network).values():
            if layer.parametrised:
                raise Unscorable(f"parametrised layer {layer.name} cannot be given weights that are all one number")
            layer.weight.fill_(value)
            fill(layer.name, layer.module, "bias" if layer.attribute == "weight" else "in_proj_bias", 0.0)
        for name, module in network.named_modules():
            if isinstance(module, normalisations):
                fill(name, module, "weight", value)
                fill(name, module, "bias", 0.0)


def _read_last(network: Any, images: Any) -> Any:
    """What the last layer reads."""
    from harness.probes.operations import LAYERS, PRODUCT, Watch

    last: list = []

    def layer(operation: Operation) -> Any:
        if not operation.fixed:
            last[:] = [watch.keep(operation.input)]
        return operation.run()

    watch = Watch(network, {**dict.fromkeys(LAYERS, layer), PRODUCT: refuse_weights})
    with watch:
        outputs(network, images)
    if not last:
        raise Unscorable("no convolution or linear layer")
    return last[0].value
