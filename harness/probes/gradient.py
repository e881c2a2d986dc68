"""The gradient pass: one forward and backward of a labelled mini-batch, read by most proxies at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import Probe, Subject, Unscorable, activations, hooked, not_in_place, weight_layers


@dataclass(frozen=True)
class GradientPass(Probe):
    """Forward and backward of the mean cross-entropy of one mini-batch, BatchNorm on batch statistics.

    Observables. L layers (convolutions and linear layers in module order), R ReLU modules, B images; g the
    gradient of a layer's weights w, a its output.

    - `weight_norm`, `gradient_norm`, `gradient_sum_abs` (L,): L2 norm of w, of g, and the sum of |g|
    - `saliency_sum`, `saliency_sum_abs` (L,): sums of w*g and of |w*g|
    - `saliency_std`, `gradient_std` (L,): population standard deviation of |w*g| and of |g| over a layer
    - `all_gradient_norm`: L2 norm of the gradient of all parameters, biases and normalisations too
    - `fisher` (L,): sum over channels of (weights of the channel) * mean over images of
      (sum over positions of a * dL/da)^2 / 2
    - `relu_kernels` (R, B, B): number of equal bits of the codes [input of the ReLU > 0] of two images
    - `relu_places` (L,): which of those kernels belongs to the ReLU whose output the layer reads; -1 if none
    - `layer_kernels` (L', B, B), `layer_places` (L,): the same for the codes [layer output > 0]
    - `zico` (L,): sum over weights of mean(|g|) / std(g) over `minibatches` mini-batches (population
      deviation; weights of zero deviation left out)
    - `input_jacobian_correlation` (B, B): Pearson correlation of the gradients of the summed logits with
      respect to each image; `labels` (B,); `classes`, the number of logits
    - `grasp` (L,): sum of -w * (H g), H the Hessian of the loss
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    minibatches: int = 2
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch
        import torch.nn.functional as F

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        layers = weight_layers(network)
        parameters = [p for p in network.parameters() if p.requires_grad]
        weights = [module.weight for module in layers.values()]
        images, labels = subject.images(self.batch_size, self.dtype)
        found: dict[str, Any] = {}
        hooks: list = []
        relus: dict = {}
        kernels: dict[str, dict] = {"relu": {}, "layer": {}}
        source: dict[str, str] = {}  # weight layer -> the ReLU that feeds it
        written: dict[int, str] = {}  # address of a ReLU's output, which the graph keeps alive -> ReLU
        fisher: dict[str, list] = {name: [] for name in layers}
        watching = False  # fisher's hooks would also see the backward passes of the Jacobian and of the Hessian

        def keep_kernel(kind: str, name: str):
            def hook(module, args, output):
                values = args[0] if kind == "relu" else output
                kernels[kind].setdefault(name, []).append(_agreement(values.detach()))
                if kind == "relu":
                    written[output.data_ptr()] = name

            return hook

        def keep_source(name: str):
            def hook(module, args, output):
                source[name] = written.get(args[0].data_ptr(), "")

            return hook

        def keep_fisher(name: str):
            def hook(module, args, output):
                if output.requires_grad:
                    held = output.detach()

                    def collect(grad):
                        if watching:
                            fisher[name].append(_fisher(held, grad.detach()))

                    output.register_hook(collect)

            return hook

        if "relu_kernels" in wanted:
            relus = activations(network)
            hooks += [(module, keep_kernel("relu", name)) for name, module in relus.items()]
        if "relu_places" in wanted:
            hooks += [(module, keep_source(name)) for name, module in layers.items()]
        if "layer_kernels" in wanted:
            hooks += [(module, keep_kernel("layer", name)) for name, module in layers.items()]
        if "fisher" in wanted:
            hooks += [(module, keep_fisher(name)) for name, module in layers.items()]
        second_order = "grasp" in wanted
        if "input_jacobian_correlation" in wanted:
            images = images.clone().requires_grad_(True)

        with not_in_place(list(network.modules())):
            with hooked(hooks):
                logits = network(images)
            if logits.ndim != 2:
                raise Unscorable(f"network output has shape {tuple(logits.shape)}, a classifier gives (B, classes)")
            loss = F.cross_entropy(logits, labels)
            if "input_jacobian_correlation" in wanted:
                rows = _input_jacobian(logits, images)
                found["input_jacobian_correlation"] = _correlation(rows.flatten(1)).cpu().numpy()
                found["labels"], found["classes"] = labels.cpu().numpy(), logits.shape[1]
            targets = parameters if "all_gradient_norm" in wanted else weights
            watching = True
            raw = torch.autograd.grad(loss, targets, allow_unused=True, create_graph=second_order)
            watching = False
            by_id = {id(p): g for p, g in zip(targets, raw, strict=True)}
            graph_grads = [by_id[id(w)] for w in weights]
            grads = [torch.zeros_like(w) if g is None else g.detach() for w, g in zip(weights, graph_grads, strict=True)]
            if second_order:
                found["grasp"] = _grasp(weights, graph_grads)
            del loss, logits

        held = [w.detach() for w in weights]
        saliencies = [w * g for w, g in zip(held, grads, strict=True)]
        per_layer = {
            "weight_norm": lambda: [w.norm() for w in held],
            "gradient_norm": lambda: [g.norm() for g in grads],
            "gradient_sum_abs": lambda: [g.abs().sum() for g in grads],
            "gradient_std": lambda: [g.abs().std(correction=0) for g in grads],
            "saliency_sum": lambda: [s.sum(dtype=torch.float64) for s in saliencies],
            "saliency_sum_abs": lambda: [s.abs().sum() for s in saliencies],
            "saliency_std": lambda: [s.abs().std(correction=0) for s in saliencies],
            "fisher": lambda: [
                (sum(fisher[name]) * module.weight[0].numel()).sum() if fisher[name] else torch.zeros(())
                for name, module in layers.items()
            ],
            "zico": lambda: self._zico(subject, weights, grads),
        }
        for name, compute in per_layer.items():
            if name in wanted:
                found[name] = _to_host(compute())
        if "all_gradient_norm" in wanted:
            present = [g.detach().flatten() for g in raw if g is not None]
            found["all_gradient_norm"] = float(torch.cat(present).double().norm())
        for kind, modules in (("relu", relus), ("layer", layers)):
            if f"{kind}_kernels" in wanted:
                called = [name for name in modules if name in kernels[kind]]
                found[f"{kind}_kernels"] = torch.stack([sum(kernels[kind][name]) for name in called]).cpu().numpy()
                place = {name: i for i, name in enumerate(called)}
                feeding = source if kind == "relu" else {name: name for name in layers}
                found[f"{kind}_places"] = np.array([place.get(feeding.get(name, ""), -1) for name in layers])
        return found

    def _zico(self, subject: Subject, weights: list, first: list) -> list:
        import torch
        import torch.nn.functional as F

        total_abs = [g.abs() for g in first]
        total = [g.clone() for g in first]
        squares = [g.double().square() for g in first]
        for number in range(1, self.minibatches):
            images, labels = subject.images(self.batch_size, self.dtype, number)
            loss = F.cross_entropy(subject.network(images), labels)
            grads = torch.autograd.grad(loss, weights, allow_unused=True)
            for place, grad in enumerate(grads):
                if grad is not None:
                    total_abs[place] += grad.abs()
                    total[place] += grad
                    squares[place] += grad.double().square()
        sums = []
        for absolute, plain, square in zip(total_abs, total, squares, strict=True):
            k = self.minibatches
            variance = (square / k - (plain.double() / k).square()).clamp_min(0)
            mask = variance > 0
            sums.append(((absolute.double() / k)[mask] / variance[mask].sqrt()).sum())
        return sums


def _to_host(values: list) -> Any:
    """One transfer for all layers' scalars: (L,) float64."""
    import torch

    device = next((v.device for v in values if v.device.type != "cpu"), torch.device("cpu"))
    return torch.stack([v.to(device=device, dtype=torch.float64) for v in values]).cpu().numpy()


def _agreement(values: Any) -> Any:
    """Equal bits of the codes [value > 0] of each two images: (B, B) float64.

    With codes written as +-1 the equal bits are (units + s s^T) / 2: one product instead of two. Sums of
    float32 signs are exact below 2^24 units.
    """
    import torch

    flat = values.flatten(1)
    signs = (flat > 0).to(torch.float32).mul_(2).sub_(1)
    return (signs @ signs.T).double().add_(flat.shape[1]).div_(2)


def _fisher(output: Any, grad: Any) -> Any:
    """Per channel: mean over images of (sum over positions of a * dL/da)^2 / 2."""
    product = output * grad
    if product.ndim == 4:
        product = product.sum(dim=(2, 3))
    elif product.ndim > 2:
        product = product.sum(dim=tuple(range(1, product.ndim - 1)))
    return product.square().mean(dim=0) / 2


def _input_jacobian(logits: Any, images: Any) -> Any:
    import torch

    (rows,) = torch.autograd.grad(logits.sum(), images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if rows is None else rows


def _correlation(rows: Any) -> Any:
    """Pearson correlation of the rows (B, D) in float64; a constant row gives NaN, as numpy's does."""
    rows = rows.double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariance = rows @ rows.T
    deviation = covariance.diagonal().sqrt()
    return (covariance / deviation[:, None] / deviation[None, :]).clamp(-1, 1)


def _grasp(weights: list, grads: list) -> Any:
    """Per layer the sum of -w * (H g), by a backward through the inner product of g with itself held fixed."""
    import torch

    product = sum((g.detach() * g).sum() for g in grads if g is not None)
    hessian_gradient = torch.autograd.grad(product, weights, allow_unused=True)
    return _to_host(
        [
            torch.zeros(()) if h is None else -(w.detach() * h).sum(dtype=torch.float64)
            for w, h in zip(weights, hessian_gradient, strict=True)
        ]
    )
