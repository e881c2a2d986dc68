"""Per-image Jacobian of the logits with respect to single weights: VKDNW's Fisher information."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial
from operator import mul
from typing import Any

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, hooked, pads_with_zeros, replaced_forward

#: Images of one part of a mini-batch on a CPU.
CPU_IMAGES = 32


@dataclass(frozen=True)
class WeightJacobian(Probe):
    """d logits / d theta per image, theta the first element of each of the first `tensors` parameter tensors.

    Eval mode: at initialisation BatchNorm is then the identity map up to its epsilon. Observables: `jacobian`
    (B, K, p) float64 and `probabilities` (B, K), the softmax of the logits.

    The authors differentiate whole networks by vmap(jacrev). The same values come from K backward passes of
    the whole batch with all weights frozen: the gradient of one weight is a closed form of the gradient at
    its layer's output. Parameters of layers that have no closed form here (attention, tokens, LayerNorm) take
    the generic way.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    tensors: int = 128
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network.eval()
        images, _ = subject.images(self.batch_size, self.dtype)
        chosen = [name for name, _ in network.named_parameters()][: self.tensors]
        if not chosen:
            raise Unscorable("no trainable weight")
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        # In eval mode images do not meet. On a CPU the maps of a part of them stay in the cache between passes.
        size = len(images) if images.device.type == "cuda" else CPU_IMAGES
        with _scaling_norms(network):
            parts = [_jacobian(network, part, chosen) for part in images.split(size)]
        jacobian, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return {
            "jacobian": jacobian.cpu().numpy(),
            "probabilities": logits.double().softmax(dim=1).cpu().numpy(),
        }


def _jacobian(network: Any, images: Any, chosen: list[str]) -> tuple[Any, Any]:
    """(B, K, p) float64 of the logits by the first element of each parameter in `chosen`, and the logits (B, K)."""
    import torch

    place = {name: i for i, name in enumerate(chosen)}
    jacobian: torch.Tensor | None = None
    row = 0
    leaves: list = []
    closed: set[str] = set()

    def watch(names: dict[str, str]):
        def hook(module, args, output):
            closed.update(names.values())  # a layer used by another way than its call has no closed form
            forms = {place[full]: _closed_form(module, own, args[0]) for own, full in names.items()}

            def collect(grad):
                for column, form in forms.items():
                    jacobian[:, row, column] += form(grad)

            if output.requires_grad:
                output.register_hook(collect)
                return None
            leaf = output.detach().requires_grad_(True)
            leaf.register_hook(collect)
            leaves.append(leaf)
            return leaf + 0  # what follows may write in place, which a leaf forbids

        return hook

    hooks = []
    for prefix, module in network.named_modules():
        own = {n: f"{prefix}.{n}" if prefix else n for n, _ in module.named_parameters(recurse=False)}
        own = {n: full for n, full in own.items() if full in place}
        if own and _has_closed_form(module):
            hooks.append((module, watch(own)))
    with hooked(hooks):
        logits = finite_logits(network, images)
    count, classes = logits.shape
    jacobian = torch.zeros(count, classes, len(chosen), dtype=torch.float64, device=logits.device)
    if leaves and logits.requires_grad:
        for row in range(classes):
            torch.autograd.grad(logits[:, row].sum(), leaves, retain_graph=row + 1 < classes, allow_unused=True)
    generic = [name for name in chosen if name not in closed]
    if generic:
        columns = [place[name] for name in generic]
        jacobian[:, :, columns] = _generic_jacobian(network, generic, images).double()
    return jacobian, logits.detach()


@contextmanager
def _scaling_norms(network: Any) -> Iterator[None]:
    """BatchNorms in eval mode that multiply all channels by one number, as at initialisation, do just that.

    Their own backward reads the input once more, which is a fifth of the cost of a row of the Jacobian.
    """
    from torch import nn

    with ExitStack() as stack:
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d) and module.affine and module.running_mean is not None:
                scale = module.weight / (module.running_var + module.eps).sqrt()
                shift = module.bias - module.running_mean * scale
                if bool((scale == scale[0]).all()) and not bool(shift.any()):
                    stack.enter_context(replaced_forward([module], partial(mul, scale[0].item())))
        yield


def _has_closed_form(module: Any) -> bool:
    from torch import nn

    if isinstance(module, nn.Conv2d):
        return pads_with_zeros(module)
    return isinstance(module, (nn.BatchNorm2d, nn.BatchNorm1d, nn.Linear))


def _closed_form(module: Any, parameter: str, x: Any) -> Callable[[Any], Any]:
    """Maps the gradient at the layer's output to d/d(first element of `parameter`), one value an image (B,)."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    x = x.detach()
    if isinstance(module, nn.Linear):  # features come last, whatever lies between them and the images
        if parameter == "bias":
            return lambda grad: grad[..., 0].reshape(len(grad), -1).sum(dim=1)
        seen = x[..., 0].reshape(len(x), -1)
        return lambda grad: (grad[..., 0].reshape(len(grad), -1) * seen).sum(dim=1)
    if parameter == "bias":
        return lambda grad: _first(grad).sum(dim=1)
    if isinstance(module, nn.Conv2d):
        (ph, pw), (sh, sw) = module.padding, module.stride
        kh, kw = ((k - 1) * d + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True))
        padded = F.pad(x[:, 0], (pw, pw, ph, ph))
        height = (padded.shape[1] - kh) // sh + 1
        width = (padded.shape[2] - kw) // sw + 1
        seen = padded[:, : (height - 1) * sh + 1 : sh, : (width - 1) * sw + 1 : sw].flatten(1)
        return lambda grad: (_first(grad) * seen).sum(dim=1)
    if module.running_mean is None:
        raise Unscorable("BatchNorm without running statistics has no eval mode")
    mean, variance = module.running_mean[0], module.running_var[0]
    seen = (_first(x) - mean) / torch.sqrt(variance + module.eps)
    return lambda grad: (_first(grad) * seen).sum(dim=1)


def _first(values: Any) -> Any:
    """Channel 0 of (B, C, ...) or feature 0 of (B, C), as (B, positions)."""
    return values[:, 0].reshape(len(values), -1)


def _generic_jacobian(network: Any, names: list[str], images: Any) -> Any:
    """vmap(jacrev) with respect to the first elements alone: (B, K, len(names))."""
    import torch
    from torch.func import functional_call, jacrev, vmap

    held = {name: p.detach() for name, p in network.named_parameters()}
    start = torch.stack([held[name].flatten()[0] for name in names])

    def logits(scalars, image):
        changed = {}
        for i, name in enumerate(names):
            flat = held[name].flatten()
            changed[name] = torch.cat([scalars[i : i + 1], flat[1:]]).view_as(held[name])
        return functional_call(network, changed, (image[None],))[0]

    return vmap(jacrev(logits), in_dims=(None, 0))(start, images)
