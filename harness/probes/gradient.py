"""The gradient pass: one forward and backward of a labelled mini-batch, read by most proxies at once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

from harness.probes.base import (
    OncePerTensor,
    Probe,
    Subject,
    Unscorable,
    activations,
    by_image,
    finite_logits,
    gradients,
    hooked,
    to_host,
    weight_layers,
)
from harness.probes.hessian import hessian_gradient, twice_differentiable

#: Units whose codes a processor works on at once: those of 64 images stay in its cache.
CACHED_UNITS = 2048


@dataclass(frozen=True)
class GradientPass(Probe):
    """Forward and backward of the mean cross-entropy of one mini-batch, BatchNorm on batch statistics.

    Observables. L layers (convolutions and linear layers in module order), R ReLU modules, B images; g the
    gradient of a layer's weights w, a its output.

    - `gradient_norm`, `gradient_sum_abs` (L,): L2 norm of g, sum of |g|
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
        import torch
        import torch.nn.functional as F

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        layers = weight_layers(network)
        weights = [module.weight for module in layers.values()]
        parameters = [p for p in network.parameters() if p.requires_grad]
        images, labels = subject.images(self.batch_size, self.dtype)
        if "input_jacobian_correlation" in wanted:
            images = images.clone().requires_grad_(True)
        watch = _Watch(network, layers, wanted)
        found: dict[str, Any] = {}

        with hooked(watch.hooks), twice_differentiable(network) if "grasp" in wanted else nullcontext():
            logits = finite_logits(network, images)
        found.update(watch.kernels())
        loss = F.cross_entropy(logits, labels)
        if "input_jacobian_correlation" in wanted:
            rows = _input_jacobian(logits, images)
            found["input_jacobian_correlation"] = _correlation(rows.flatten(1)).cpu().numpy()
            found["labels"], found["classes"] = labels.cpu().numpy(), logits.shape[1]
        targets = parameters if "all_gradient_norm" in wanted else weights
        with watch.backward():
            raw = gradients(loss, targets, create_graph="grasp" in wanted)
        by_id = {id(target): grad for target, grad in zip(targets, raw, strict=True)}
        graph_grads = [by_id.get(id(weight)) for weight in weights]
        if "grasp" in wanted:
            products = hessian_gradient(weights, graph_grads)
            found["grasp"] = to_host(
                [
                    torch.zeros(()) if h is None else -(w.detach() * h).sum(dtype=torch.float64)
                    for w, h in zip(weights, products, strict=True)
                ]
            )
        if "all_gradient_norm" in wanted:
            present = [grad.detach().flatten() for grad in raw if grad is not None]
            found["all_gradient_norm"] = float(torch.cat(present).double().norm())
        held = [weight.detach() for weight in weights]
        grads = [torch.zeros_like(w) if g is None else g.detach() for w, g in zip(held, graph_grads, strict=True)]
        del loss, logits, raw, by_id, graph_grads  # the graph holds every activation

        per_layer = {
            "gradient_norm": lambda: [g.norm() for g in grads],
            "gradient_sum_abs": lambda: [g.abs().sum() for g in grads],
            "gradient_std": lambda: [g.abs().std(correction=0) for g in grads],
            "saliency_sum": lambda: [s.sum(dtype=torch.float64) for s in saliencies],
            "saliency_sum_abs": lambda: [s.abs().sum() for s in saliencies],
            "saliency_std": lambda: [s.abs().std(correction=0) for s in saliencies],
            "fisher": watch.fisher_sums,
            "zico": lambda: self._zico(subject, weights, grads, len(labels)),
        }
        saliencies = [w * g for w, g in zip(held, grads, strict=True)]
        found.update({name: to_host(compute()) for name, compute in per_layer.items() if name in wanted})
        return found

    def _zico(self, subject: Subject, weights: list, first: list, read: int) -> list:
        """`first`: the gradients of the weights over the pass's own mini-batch of `read` images."""
        import torch
        import torch.nn.functional as F

        batches = []
        for number in range(self.minibatches):
            images, labels = subject.images(self.batch_size, self.dtype, number, self.minibatches)
            if number == 0 and len(labels) == read:
                batches.append(first)
                continue
            loss = F.cross_entropy(subject.network(images), labels)
            grads = gradients(loss, weights)
            batches.append([torch.zeros_like(w) if g is None else g for w, g in zip(weights, grads, strict=True)])
        sums = []
        for layer in zip(*batches, strict=True):
            stacked = torch.stack([grad.flatten() for grad in layer]).double()
            spread = (stacked - stacked.mean(dim=0)).square_().mean(dim=0)
            varies = (stacked != stacked[0]).any(dim=0)
            # Where nothing varies the mean of equal numbers may still be rounded: excluded by `varies` alone.
            ratio = stacked.abs_().mean(dim=0) / spread.sqrt_()
            sums.append(torch.where(varies, ratio, torch.zeros_like(ratio)).sum())
        return sums


class _Watch:
    """What hooks collect on one forward and backward: ReLU and layer codes, Fisher information of the outputs."""

    def __init__(self, network: Any, layers: dict[str, Any], wanted: frozenset[str]):
        self._layers = layers
        self._relus = activations(network) if "relu_kernels" in wanted else {}
        self._kernels: dict[str, dict[str, list]] = {
            kind: {} for kind in ("relu", "layer") if f"{kind}_kernels" in wanted
        }
        self._source: dict[str, str] = {}  # weight layer -> the ReLU that feeds it
        self._kernel = OncePerTensor(agreement)
        self._written: dict[int, str] = {}  # address of a ReLU's output, which the graph keeps alive -> ReLU
        self._fisher: dict[str, list] = {name: [] for name in layers}
        self._watching = False
        self.hooks = [(module, self._codes("relu", name)) for name, module in self._relus.items()]
        if "relu_places" in wanted:
            self.hooks += [(module, self._feeder(name)) for name, module in layers.items()]
        if "layer_kernels" in wanted:
            self.hooks += [(module, self._codes("layer", name)) for name, module in layers.items()]
        if "fisher" in wanted:
            self.hooks += [(module, self._information(name)) for name, module in layers.items()]

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The backward pass of the loss: those of the Jacobian and of the Hessian run the same tensor hooks."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _codes(self, kind: str, name: str) -> Callable:
        def hook(module, args, output):
            self._kernels[kind].setdefault(name, []).append(self._kernel(args[0] if kind == "relu" else output))
            if kind == "relu":
                self._written[output.data_ptr()] = name

        return hook

    def _feeder(self, name: str) -> Callable:
        def hook(module, args, output):
            self._source[name] = self._written.get(args[0].data_ptr(), "")

        return hook

    def _information(self, name: str) -> Callable:
        def hook(module, args, output):
            if output.requires_grad:
                held = output.detach()

                def collect(grad):
                    if self._watching:
                        self._fisher[name].append(_fisher(held, grad.detach()))

                output.register_hook(collect)

        return hook

    def fisher_sums(self) -> list:
        """Per layer the sum over channels, each counted once for each of its weights; 0 where no gradient came."""
        import torch

        return [
            (sum(self._fisher[name]) * module.weight[0].numel()).sum() if self._fisher[name] else torch.zeros(())
            for name, module in self._layers.items()
        ]

    def kernels(self) -> dict[str, Any]:
        """`relu_kernels`, `layer_kernels` and the places of the layers among them, where they were asked for.

        Raises Unscorable when no module that was to give them was called: a network may call a function instead.
        """
        import numpy as np
        import torch

        found = {}
        for kind, collected in self._kernels.items():
            if not collected:
                raise Unscorable(f"no {'ReLU' if kind == 'relu' else kind} module was reached")
            modules = self._relus if kind == "relu" else self._layers
            called = [name for name in modules if name in collected]
            found[f"{kind}_kernels"] = torch.stack([sum(collected[name]) for name in called]).cpu().numpy()
            place = {name: i for i, name in enumerate(called)}
            feeding = self._source if kind == "relu" else {name: name for name in self._layers}
            found[f"{kind}_places"] = np.array([place.get(feeding.get(name, ""), -1) for name in self._layers])
        return found


def agreement(values: Any) -> Any:
    """Equal bits of the codes [value > 0] of each two images: (B, B) float64.

    Two codes of n units with a and b active ones, c of them in common, agree in n - a - b + 2 c: one product of
    0/1 matrices. Its float32 sums are exact below 2^24 units.
    """
    import torch

    units = by_image(values.detach())
    count = units.shape[1]
    step = min(count, CACHED_UNITS) if units.device.type == "cpu" else count
    held = torch.empty(len(units), step, device=units.device)
    common = torch.zeros(len(units), len(units), device=units.device)
    for part in units.split(step, dim=1):
        codes = torch.gt(part, 0, out=held[:, : part.shape[1]])
        common.addmm_(codes, codes.T)
    common = common.double()
    active = common.diagonal()
    return (count - active[:, None]) - active[None, :] + 2 * common


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
