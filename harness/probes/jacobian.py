"""Derivatives of single images' logits by single weights: VKDNW's Jacobian."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from operator import mul
from typing import Any, NamedTuple

from harness.probes.base import (
    Probe,
    Subject,
    Unscorable,
    finite_logits,
    hooked,
    pads_with_zeros,
    replaced_forward,
    to_host,
)

#: Images of one part of a mini-batch on a CPU.
CPU_IMAGES = 32


@dataclass(frozen=True)
class WeightJacobian(Probe):
    """d logits / d theta per image, theta the first element of each of the first `tensors` parameter tensors.

    Eval mode: at initialisation BatchNorm is then the identity map up to its epsilon. Observables: `jacobian`
    (B, K, p) float64 and `probabilities` (B, K), the softmax of the logits.

    The authors differentiate whole networks by vmap(jacrev). The same values come from K backward passes of
    the whole batch with all weights frozen: the gradient of one weight is a closed form of the gradient at
    its layer's output. Where the network ends in a linear layer of C < K features, C passes do, one a feature.
    Parameters of layers that have no closed form here (attention, tokens, LayerNorm) take the generic way.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    tensors: int = 128
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        with recordings(subject, self) as recorded:
            parts = [(part.jacobian(), part.logits.detach()) for part in recorded]
        jacobian, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        return {
            "jacobian": jacobian.cpu().numpy(),
            "probabilities": logits.double().softmax(dim=1).cpu().numpy(),
        }


@contextmanager
def recordings(subject: Subject, probe: WeightJacobian) -> Iterator[Iterator[Recording]]:
    """The forward passes of a probe's mini-batch, part by part, each made when it is asked for.

    Raises Unscorable where the network has no parameter.
    """
    subject.initialise(probe.init, dtype=probe.dtype)
    network = subject.network.eval()
    images, _ = subject.images(probe.batch_size, probe.dtype)
    chosen = [name for name, _ in network.named_parameters()][: probe.tensors]
    if not chosen:
        raise Unscorable("no trainable weight")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    # In eval mode images do not meet. On a CPU the maps of a part of them stay in the cache between passes.
    size = len(images) if images.device.type == "cuda" else CPU_IMAGES
    with _scaling_norms(network):
        yield (Recording(network, part, chosen) for part in images.split(size))


class _Head(NamedTuple):
    """The linear layer whose output is the network's: logits = features @ weight.T + bias.

    `forms` are the closed forms of its own chosen parameters by their columns.
    """

    features: Any
    weight: Any
    forms: dict[int, Callable[[Any], Any]]


class Recording:
    """A forward pass of images (B, …), from whose logits one can go back to chosen weights, once.

    All parameters of the network are to be frozen.

    Args:
        chosen: names of p parameters, whose first elements count.

    Attributes:
        logits: (B, K).
    """

    def __init__(self, network: Any, images: Any, chosen: list[str]):
        self._network, self._images = network, images
        parameters = dict(network.named_parameters())
        self._place = {id(parameters[name]): i for i, name in enumerate(chosen)}
        self._leaves: list[Any] = []
        calls: Counter[int] = Counter()  # of the layers that hold a parameter
        last: list[tuple] = []

        def watch(module, args, output):
            if not args:  # called by keyword
                return output
            calls.update(id(parameter) for parameter in _own(module).values())
            columns = {name: self._place[id(p)] for name, p in _own(module).items() if id(p) in self._place}
            forms = {column: _closed_form(module, name, args[0]) for name, column in columns.items()}
            if forms and output.requires_grad:
                output.register_hook(partial(self._collect, forms))
            elif forms:
                leaf = output.detach().requires_grad_(True)
                leaf.register_hook(partial(self._collect, forms))
                self._leaves.append(leaf)
                output = leaf + 0  # what follows may write in place, which a leaf forbids
            last[:] = [(module, forms, args[0], args[0]._version, output, output._version)]
            return output

        layers = [module for module in network.modules() if _has_closed_form(module) and _own(module)]
        uses = _parameter_uses()(parameters.values())
        with hooked([(layer, watch) for layer in layers]), uses:
            self.logits = finite_logits(network, images)
        # A parameter that is read by another way than a call of its layer has no closed form.
        called = {key for key in calls if uses.counts[key] <= calls[key]}
        self._generic = {name: i for i, name in enumerate(chosen) if id(parameters[name]) not in called}
        self._head = _linear_head(last[0], self.logits, uses.counts) if last else None

    @property
    def fewest_rows(self) -> int:
        """How many backward passes the whole Jacobian takes."""
        return self.logits.shape[1] if self._head is None else self._head.features.shape[1]

    def jacobian(self) -> Any:
        """(B, K, p) float64 of the logits by the first element of each chosen parameter.

        Where a linear head of C < K features ends the network, that of the features comes first, whose product with
        the head's weight it is, but for the head's own parameters.
        """
        import torch

        if self._head is None:
            jacobian = self._back(self.logits, _one_hot(self.logits))
        else:
            by_feature = self._back(self._head.features, _one_hot(self._head.features))
            jacobian = self._head.weight.detach().double() @ by_feature
            first = torch.zeros_like(self.logits)
            first[:, 0] = 1  # no other logit reads the first elements
            for column, form in self._head.forms.items():
                jacobian[:, 0, column] += form(first)
        if self._generic:
            jacobian[:, :, list(self._generic.values())] = self._generic_jacobian()
        return jacobian

    def products(self, cotangents: Any) -> Any:
        """`cotangents` (B, r, K) times the Jacobian: (B, r, p) float64 from r backward passes."""
        products = self._back(self.logits, cotangents.to(self.logits.dtype).transpose(0, 1))
        if self._generic:
            products[:, :, list(self._generic.values())] = cotangents.double() @ self._generic_jacobian()
        return products

    def _back(self, output: Any, cotangents: Any) -> Any:
        """`cotangents` (r, B, m) times the Jacobian of `output` (B, m) by weights with a closed form: (B, r, p)."""
        import torch

        shape = (len(output), len(cotangents), len(self._place))
        self._found = torch.zeros(shape, dtype=torch.float64, device=output.device)
        if self._leaves and output.requires_grad:
            for row, cotangent in enumerate(cotangents):
                self._row, more = row, row + 1 < len(cotangents)
                torch.autograd.grad(output, self._leaves, cotangent.contiguous(), retain_graph=more, allow_unused=True)
        return self._found

    def _collect(self, forms: dict[int, Callable[[Any], Any]], grad: Any) -> None:
        for column, form in forms.items():
            self._found[:, self._row, column] += form(grad)

    def _generic_jacobian(self) -> Any:
        return _generic_jacobian(self._network, list(self._generic), self._images).double()


def _own(module: Any) -> dict[str, Any]:
    """The parameters that a module itself holds, by name."""
    return dict(module.named_parameters(recurse=False))


def _one_hot(output: Any) -> Any:
    """Cotangents (m, B, m) that take one of the m columns of `output` (B, m) each."""
    import torch

    columns = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    return columns[:, None].expand(-1, len(output), -1)


def _linear_head(last: tuple, logits: Any, uses: Mapping[int, int]) -> _Head | None:
    """The linear layer below which fewer backward passes do, from what the forward pass saw; else None.

    Its output has to be the network's, untouched since, as its input; its parameters may serve nothing else.

    Args:
        last: of the last call of a layer: module, closed forms, input and output with their versions then.
        uses: how often each parameter was read, by its id.
    """
    import torch
    import torch.nn.functional as F
    from torch import nn

    module, forms, features, features_version, output, output_version = last
    if type(module) is not nn.Linear or output is not logits or features.ndim != 2:
        return None
    if features.shape[1] >= logits.shape[1]:
        return None
    if (features._version, output._version) != (features_version, output_version):
        return None
    if any(uses[id(parameter)] != 1 for parameter in _own(module).values()):
        return None
    if not torch.equal(F.linear(features, module.weight, module.bias), logits):  # a forward of its own, say
        return None
    return _Head(features, module.weight, forms)


@cache
def _parameter_uses() -> type:
    import torch
    from torch.overrides import TorchFunctionMode

    class ParameterUses(TorchFunctionMode):
        """Counts by id how often a function of torch reads each parameter to make tensors of it."""

        def __init__(self, parameters: Iterable[Any]):
            super().__init__()
            self.counts: Counter[int] = Counter()
            self._ids = {id(parameter) for parameter in parameters}

        def __torch_function__(self, function, types, args=(), kwargs=None):
            kwargs = kwargs or {}
            result = function(*args, **kwargs)
            if isinstance(result, (torch.Tensor, tuple, list)) and not isinstance(result, torch.Size):
                given = [*args, *kwargs.values()]
                for value in given:
                    given.extend(value if isinstance(value, (list, tuple)) else ())
                self.counts.update(self._ids.intersection(map(id, given)))
            return result

    return ParameterUses


@contextmanager
def _scaling_norms(network: Any) -> Iterator[None]:
    """BatchNorms in eval mode that multiply all channels by one number, as at initialisation, do just that.

    Their own backward reads the input once more, which is a fifth of the cost of a row of the Jacobian.
    """
    from torch import nn

    norms = [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.affine and m.running_mean is not None]
    known = []
    for module in norms:
        scale = module.weight / (module.running_var + module.eps).sqrt()
        shift = module.bias - module.running_mean * scale
        known += [(scale == scale[0]).all() & ~shift.any(), scale[0]]
    host = to_host(known).reshape(-1, 2) if known else ()
    with ExitStack() as stack:
        for module, (uniform, scale) in zip(norms, host, strict=True):
            if uniform:
                stack.enter_context(replaced_forward([module], partial(mul, float(scale))))
        yield


def _has_closed_form(module: Any) -> bool:
    """Whether the layer does what torch's own of its kind does: no subclass's forward and no hook of the user's."""
    from torch import nn

    kinds = (nn.Conv2d, nn.BatchNorm2d, nn.BatchNorm1d, nn.Linear)
    kind = next((kind for kind in kinds if isinstance(module, kind)), None)
    if kind is None or type(module).forward is not kind.forward or module._forward_hooks or module._forward_pre_hooks:
        return False
    return pads_with_zeros(module) if kind is nn.Conv2d else True


def _closed_form(module: Any, parameter: str, x: Any) -> Callable[[Any], Any]:
    """Maps the gradient at the layer's output to d/d(first element of `parameter`), one value an image (B,)."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    x = x.detach()
    if isinstance(module, nn.Linear):  # features come last, whatever lies between them and the images
        if parameter == "bias":
            return lambda grad: grad[..., 0].reshape(len(grad), -1).sum(dim=1)
        seen = x[..., 0].reshape(len(x), -1).clone()  # the network may go on in place
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
