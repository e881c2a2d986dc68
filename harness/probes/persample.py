"""Gradients of single images: their signs, and the kernel of their inner products."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

from harness.probes.base import (
    Probe,
    Subject,
    Unscorable,
    finite_logits,
    gradients,
    hooked,
    pads_with_zeros,
    replaced_forward,
    to_host,
    weight_layers,
)


@dataclass(frozen=True)
class GradientSigns(Probe):
    """Gradient of each image's cross-entropy, every image a mini-batch of its own.

    Observable `sign_agreement` (L,): per convolution or linear layer the sum over its weights of
    |sum over images of sign(gradient)|.

    A BatchNorm that sees one image normalises it over its positions, which is instance normalisation: so one
    pass of the whole mini-batch serves all images, and each layer's single gradients come from its input and
    the gradient at its output.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch
        import torch.nn.functional as F
        from torch import nn

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        images, labels = subject.images(self.batch_size, self.dtype)
        layers = weight_layers(network)
        totals: dict[str, list] = {name: [] for name in layers}
        called: set[str] = set()
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        images = images.clone().requires_grad_(True)

        def watch(name: str):
            def hook(module, args, output):
                called.add(name)
                held = args[0].detach()

                def collect(grad):
                    totals[name].append(_per_image_gradients(module, held, grad))

                if output.requires_grad:
                    output.register_hook(collect)

            return hook

        norms = [m for m in network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        with _instance_norms(norms):
            with hooked([(module, watch(name)) for name, module in layers.items()]):
                logits = finite_logits(network, images)
            loss = F.cross_entropy(logits, labels, reduction="sum")
            if loss.requires_grad:  # else nothing leads from the images to the logits
                torch.autograd.grad(loss, images, allow_unused=True)
            for name in layers.keys() - called:  # used by another way than its call, if at all: one image at a time
                totals[name] = _one_by_one(network, layers[name].weight, images, labels)
        layer_of, sums = [], []
        for place, collected in enumerate(totals.values()):
            for calls in zip(*collected, strict=True):  # a layer may be called several times
                part = sum(calls)
                found = part.sign().sum(dim=0).abs().sum(dtype=torch.float64)
                # sign(NaN) is 0. A sum is NaN where a term is, and takes a twentieth of the time of asking each.
                sums.append(torch.where(part.sum().isnan(), float("nan"), found))
                layer_of.append(place)
        agreement = np.zeros(len(totals))  # 0 where no gradient reaches the layer
        if sums:
            np.add.at(agreement, layer_of, to_host(sums))
        return {"sign_agreement": agreement}


def _one_by_one(network: Any, weight: Any, images: Any, labels: Any) -> list:
    import torch
    import torch.nn.functional as F

    weight.requires_grad_(True)
    grads = []
    for image, label in zip(images, labels, strict=True):
        loss = F.cross_entropy(network(image[None]), label[None])
        grad = torch.autograd.grad(loss, weight, allow_unused=True)[0] if loss.requires_grad else None
        if grad is None:  # a layer that is not used
            weight.requires_grad_(False)
            return []
        grads.append(grad)
    weight.requires_grad_(False)
    return [[torch.stack(grads)]]


def _instance_norms(norms: list) -> Any:
    """Each BatchNorm normalises every image by itself. One that sees no positions cannot: Unscorable."""
    from contextlib import ExitStack

    function = _image_norm()
    affine = [norm for norm in norms if norm.weight is not None]
    # As at initialisation: weights 1, biases 0.
    identity = to_host([(norm.weight == 1).all() & ~norm.bias.any() for norm in affine]) if affine else ()
    plain = {id(norm) for norm in norms if norm.weight is None}
    plain |= {id(norm) for norm, is_identity in zip(affine, identity, strict=True) if is_identity}

    def forward_of(norm: Any) -> Any:
        def forward(x: Any) -> Any:
            if x.ndim != 4 or x[0, 0].numel() < 2:
                raise Unscorable("BatchNorm over a single value: the network needs several images or positions")
            return function.apply(x, norm.weight, norm.bias, norm.eps, id(norm) in plain)

        return forward

    stack = ExitStack()
    for norm in norms:
        stack.enter_context(replaced_forward([norm], forward_of(norm)))
    return stack


@cache
def _image_norm() -> Any:
    """Normalisation of each image over its positions, in the memory layout of its input.

    torch's own instance normalisation copies channels_last maps to another layout and back.
    """
    import torch

    class ImageNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, eps, plain):
            normal = x - x.mean(dim=(2, 3), keepdim=True)
            inverse = (normal.square().mean(dim=(2, 3), keepdim=True) + eps).rsqrt()
            normal.mul_(inverse)
            ctx.save_for_backward(normal, inverse if plain else inverse * weight[:, None, None])
            # A copy: the network may go on in place (`x += shortcut`), and the backward reads what is kept.
            return normal.clone() if plain else torch.addcmul(bias[:, None, None], normal, weight[:, None, None])

        @staticmethod
        def backward(ctx, grad):
            normal, scale = ctx.saved_tensors
            along = (grad * normal).mean(dim=(2, 3), keepdim=True)
            offset = grad.mean(dim=(2, 3), keepdim=True) * -scale
            inward = torch.addcmul(offset, normal, along * -scale, out=torch.empty_like(normal))  # in its layout
            return inward.addcmul_(grad, scale), None, None, None, None

    return ImageNorm


def _per_image_gradients(module: Any, x: Any, grad: Any) -> list:
    """Gradients of the layer's weights, one an image: tensors (B, …) that together hold each weight once."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    count = len(x)
    if isinstance(module, nn.Linear):
        rows, seen = grad.reshape(count, -1, grad.shape[-1]), x.reshape(count, -1, x.shape[-1])
        return [torch.bmm(rows.transpose(1, 2), seen)]
    if not isinstance(module, nn.Conv2d) or not pads_with_zeros(module):
        raise Unscorable(f"no single-image gradient for a {type(module).__name__} of this kind")
    (kh, kw), (ph, pw), (dh, dw) = module.kernel_size, module.padding, module.dilation
    if module.groups == 1 and module.stride == (1, 1):
        # On the padded grid, flattened row by row, a kernel position is a shift: all are slices of one copy.
        padded = F.pad(x, (pw, pw, ph, ph)).permute(0, 2, 3, 1)
        height, width = padded.shape[1:3]
        spread = F.pad(grad, (0, width - grad.shape[3], 0, height - grad.shape[2])).permute(0, 2, 3, 1)
        seen, rows = (t.reshape(count, height * width, -1) for t in (padded, spread))
        last = (grad.shape[2] - 1) * width + grad.shape[3]
        rows = rows[:, :last].transpose(1, 2)
        shifts = [i * dh * width + j * dw for i in range(kh) for j in range(kw)]
        return [torch.bmm(rows, seen[:, s : s + last]) for s in shifts]
    patches = F.unfold(x, module.kernel_size, module.dilation, module.padding, module.stride)
    groups = module.groups
    patches = patches.reshape(count * groups, -1, patches.shape[-1])
    rows = grad.reshape(count * groups, grad.shape[1] // groups, -1)
    return [torch.bmm(rows, patches.transpose(1, 2)).reshape(count, -1)]


@dataclass(frozen=True)
class TangentKernel(Probe):
    """Gram matrix of the gradients of each image's summed logits; observable `tangent_kernel` (B, B) float64.

    Gradients of all parameters named `weight` (normalisations too), BatchNorm on the statistics of the
    mini-batch, so that an image's logits depend on the others, as in TE-NAS: one backward an image.
    """

    init: str = "kaiming_fan_out"
    batch_size: int = 16
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        images, _ = subject.images(self.batch_size, self.dtype)
        weights = []
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "weight" in name)
            if parameter.requires_grad:
                weights.append(parameter)
        logits = finite_logits(network, images)
        rows = []
        for i in range(len(images)):
            rows.append(gradients(logits[i].sum(), weights, retain_graph=i + 1 < len(images)))
        kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=subject.device)
        for grads in zip(*rows, strict=True):  # of one weight tensor: in the cache, where all of them would not be
            if grads[0] is not None:
                stacked = torch.stack([grad.flatten() for grad in grads]).double()
                kernel.addmm_(stacked, stacked.T)
        return {"tangent_kernel": kernel.cpu().numpy()}
