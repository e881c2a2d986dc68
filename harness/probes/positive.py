"""Passes over the network with |weights| and no normalisation: synflow's and the Entropic Score's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import (
    Probe,
    Subject,
    Unscorable,
    activations,
    finite_logits,
    gradients,
    hooked,
    normalisations,
    replaced_forward,
    to_host,
    weight_layers,
)


def _identity(x, *_, **__):
    return x


def _make_positive(subject: Subject, init: str, repeat: int) -> None:
    """A fresh initialisation in float64, every parameter replaced by its absolute value.

    Without normalisation a value grows by an order of magnitude a layer: float32 overflows.
    """
    import torch

    subject.initialise(init, repeat, "float64")
    with torch.no_grad():
        for parameter in subject.network.parameters():
            parameter.abs_()


@dataclass(frozen=True)
class LinearisedPass(Probe):
    """Forward of an image of ones and backward of the sum of the logits; |weights|, no normalisation, float64.

    Observables, each (repeats, L) over the convolutions and linear layers, w the absolute weights and g the
    gradient: `synflow` sum of w*g, `synflow_std` population deviation of w*g over the layer, `logsynflow` sum
    of w*ln(1 + g).
    """

    init: str = "kaiming_fan_in"
    repeats: int = 1

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        network = subject.network
        layers = weight_layers(network)
        weights = [module.weight for module in layers.values()]
        rows: dict[str, list] = {"synflow": [], "synflow_std": [], "logsynflow": []}
        ones = torch.ones(1, *subject.shape, dtype=torch.float64, device=subject.device)
        for repeat in range(self.repeats):
            _make_positive(subject, self.init, repeat)
            with replaced_forward(normalisations(network), _identity):
                grads = gradients(network(ones).sum(), weights)
            values = torch.zeros(3, len(weights), dtype=torch.float64, device=subject.device)
            for place, (weight, grad) in enumerate(zip(weights, grads, strict=True)):
                if grad is None:
                    continue
                flow = (weight.detach() * grad).abs()
                values[0, place] = flow.sum()
                values[1, place] = flow.std(correction=0)
                values[2, place] = (weight.detach() * (grad + 1).log()).abs().sum()
            for name, row in zip(rows, values.cpu().numpy(), strict=True):
                rows[name].append(row)
        return {name: np.stack(row) for name, row in rows.items() if name in wanted}


@dataclass(frozen=True)
class PositivePass(Probe):
    """Forward of uniform noise in [-0.5, 0.5] with |weights|, no normalisation, every activation a ReLU.

    Observable `entropies` (repeats, N): per activation layer the mean over its elements of -a ln(a + eps),
    a the activation divided by its maximum (0 where that is 0): over the channels at its place, over the positions
    of its channel or over an image's whole layer (`over`). `signed`: the weights as they are drawn. float64; a new
    initialisation and a new image a repeat.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 1
    repeats: int = 3
    eps: float = 1e-8
    over: str = "channels"
    signed: bool = False

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        network = subject.network
        modules = activations(network, every_kind=True)
        collected: list = []

        def hook(module, args, output):
            channels = 1 if output.ndim in (2, 4) else output.ndim - 1
            positions = [dim for dim in range(1, output.ndim) if dim != channels]
            dims = {"channels": [channels], "positions": positions, "layer": [channels, *positions]}[self.over]
            top = output.amax(dim=dims, keepdim=True) if dims else output
            share = torch.where(top > 0, output / top, torch.zeros_like(output))
            collected.append(-(share * (share + self.eps).log()).mean())

        rows = []
        hooks = [(module, hook) for module in modules.values()]
        for repeat in range(self.repeats):
            if self.signed:
                subject.initialise(self.init, repeat, "float64")
            else:
                _make_positive(subject, self.init, repeat)
            noise = torch.empty(self.batch_size, *subject.shape, dtype=torch.float64)
            noise.uniform_(-0.5, 0.5, generator=subject.generator("uniform noise", repeat))
            collected.clear()
            with (
                torch.no_grad(),
                replaced_forward(normalisations(network), _identity),
                replaced_forward(list(modules.values()), torch.relu),
                hooked(hooks),
            ):
                finite_logits(network, noise.to(subject.device))
            if not collected:
                raise Unscorable("no activation module was reached")
            rows.append(torch.stack(collected).cpu().numpy())
        return {"entropies": np.stack(rows)}


@dataclass(frozen=True)
class AttentionPass(Probe):
    """Forward of an image of ones and backward of the sum of the logits, |weights|, BatchNorm off, float64.

    Observables, w the absolute weights and g their gradient: `diversity` (A,), per projection of an attention
    module |g|_nuc * |w|_nuc (nuclear norms; a fused projection of queries, keys and values counts as one);
    `saliency` (M,), per other linear layer but the last the sum of |w * g|; `head_saliency` (1,), the same for the
    last, and `head_outputs`, its number of outputs.
    """

    init: str = "xavier"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch
        from torch import nn

        _make_positive(subject, self.init, 0)
        network = subject.network
        inside = {
            id(linear)
            for module in network.modules()
            if "attention" in type(module).__name__.lower()
            for linear in module.modules()
        }
        linear = [module for module in network.modules() if isinstance(module, nn.Linear)]
        projections = [module.weight for module in linear if id(module) in inside]
        for module in network.modules():
            if isinstance(module, nn.MultiheadAttention):
                fused = [
                    module.in_proj_weight,
                    module.q_proj_weight,
                    module.k_proj_weight,
                    module.v_proj_weight,
                ]
                projections += [weight for weight in fused if weight is not None]
        others = [module.weight for module in linear if id(module) not in inside]
        heads = 1 if linear and id(linear[-1]) not in inside else 0
        if not projections:
            raise Unscorable("no attention module with linear projections")
        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        ones = torch.ones(1, *subject.shape, dtype=torch.float64, device=subject.device)
        with replaced_forward(norms, _identity):
            grads = gradients(network(ones).sum(), projections + others)
        finite = to_host([torch.ones(()) if grad is None else torch.isfinite(grad).all() for grad in grads])
        forms = [_diversity] * len(projections) + [_saliency] * len(others)
        values = [
            torch.zeros(()) if grad is None else form(weight.detach(), grad, known)
            for weight, grad, form, known in zip(projections + others, grads, forms, finite, strict=True)
        ]
        diversity, saliency = np.split(to_host(values), [len(projections)])
        saliency, head = np.split(saliency, [len(saliency) - heads])
        outputs = linear[-1].out_features if linear else 0
        return {"diversity": diversity, "saliency": saliency, "head_saliency": head, "head_outputs": outputs}


def _diversity(weight: Any, grad: Any, finite: bool) -> Any:
    import torch

    if not finite:
        return torch.tensor(float("nan"))
    return torch.linalg.matrix_norm(grad, ord="nuc") * torch.linalg.matrix_norm(weight, ord="nuc")


def _saliency(weight: Any, grad: Any, finite: bool) -> Any:
    return (weight * grad).abs().sum()
