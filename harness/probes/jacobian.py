"""Derivatives of single images' logits by single weights: VKDNW's Jacobian."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.probes.base import (
    NO_EVAL_MODE,
    Probe,
    Subject,
    Unscorable,
    finite_logits,
    read_back,
    several,
    to_host,
)

if TYPE_CHECKING:
    from harness.probes.layout import Layout, Place
    from harness.probes.operations import Operation


#: What an observable of `WeightJacobian` begins with that ends in a number of tensors.
_JACOBIAN = "jacobian of "


def jacobian_of(tensors: int) -> str:
    """The observable of `WeightJacobian` that takes so many of the parameter tensors."""
    return f"{_JACOBIAN}{tensors}"


@dataclass(frozen=True)
class WeightJacobian(Probe):
    """d logits / d theta per image, theta the first element of each of the first parameter tensors.

    Eval mode: at initialisation BatchNorm is then the identity map up to its epsilon. Observables:
    `jacobian_of(tensors)` (B, K, p) float64, p the number of tensors or of all that there are, each from one pass over
    the most that is asked for; and `probabilities` (B, K), the softmax of the logits.

    The authors differentiate whole networks by vmap(jacrev). The same values come from K backward passes of
    the whole batch with all weights frozen: the gradient of one weight is a closed form of the gradient at
    its layer's output. Where the network ends in a linear layer of C < K features, C passes do, one a feature.
    Parameters that have no closed form here (tokens, LayerNorm, weights that are read by function) take the generic
    way, and so does a network in which images meet.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        counts = sorted(int(name.removeprefix(_JACOBIAN)) for name in wanted if name.startswith(_JACOBIAN))
        with recordings(subject, self, max(counts, default=1)) as recorded:
            parts = [(*part.jacobians(counts), part.logits.detach()) for part in recorded]
        *jacobians, logits = (torch.cat(tensors) for tensors in zip(*parts, strict=True))
        found = dict(zip(map(jacobian_of, counts), jacobians, strict=True))
        return read_back(found | {"probabilities": logits.double().softmax(dim=1)})


@contextmanager
def recordings(subject: Subject, probe: WeightJacobian, tensors: int) -> Iterator[Iterator[Recording]]:
    """The forward passes of a probe's mini-batch, part by part, each made when it is asked for.

    From the logits of each one can go back to the first elements of the first `tensors` parameter tensors.

    Raises Unscorable where the network has no parameter.
    """
    subject.initialise(probe.init, dtype=probe.dtype)
    network = subject.network.eval()
    images, _ = subject.images(probe.batch_size, probe.dtype)
    chosen = [name for name, _ in network.named_parameters()][:tensors]
    if not chosen:
        raise Unscorable("no trainable weight")
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    layout = subject.layout()
    yield (Recording(network, part, chosen, layout) for part in images.split(_images_at_once(images)))


def _images_at_once(images: Any) -> int:
    """How many images make a part: in eval mode they do not meet, and on a CPU a part's maps stay in the cache."""
    if images.device.type == "cuda":
        return len(images)
    return 32 * max(1, 3 * 32 * 32 // images[0].numel())


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

    def __init__(self, network: Any, images: Any, chosen: list[str], layout: Layout):
        import torch

        from harness.probes.operations import LAYERS, NORMALISATION, Watch

        self._network, self._images, self._layout = network, images, layout
        parameters = dict(network.named_parameters())
        self._place = {id(parameters[name]): i for i, name in enumerate(chosen)}
        self._leaves: list[Any] = []
        self._calls: Counter[int] = Counter()  # of parameters, by operations that have a closed form
        self._scales: dict[tuple[int, ...], float | None] = {}  # of BatchNorms, by the ids of their tensors
        self._last: tuple | None = None
        self._rows = _Rows()
        self._head = None
        self._know_scales()
        if layout.apart:
            self._watch = Watch(network, {**dict.fromkeys(LAYERS, self._layer), NORMALISATION: self._norm})
            with self._watch:
                self.logits = finite_logits(network, images.clone())
            self._head = self._last and _linear_head(self._last, self.logits, self._watch.uses, self._place)
            self._last = None
        else:
            self.logits = torch.cat([finite_logits(network, image[None].clone()) for image in images])
        several(self.logits)
        # A parameter that is read by another way too has no closed form.
        uses = self._watch.uses if layout.apart else {}
        called = {key for key, count in self._calls.items() if uses[key] <= count}
        self._generic = {name: i for i, name in enumerate(chosen) if id(parameters[name]) not in called}

    def _layer(self, operation: Operation) -> Any:
        result = operation.run()
        place = self._layout.place(operation.index)
        forms = self._forms(operation, partial(_closed_form, place=place, count=len(self._images)))
        output = self._follow(forms, result)
        x = operation.input
        self._last = operation, forms, x, x._version, output, output._version
        return output

    def _norm(self, operation: Operation) -> Any:
        if operation.name != "batch_norm" or operation.fixed:
            return operation.run()
        if operation.get("training"):
            raise Unscorable(NO_EVAL_MODE)
        scale = self._scale(operation)
        result = operation.run() if scale is None else operation.input * scale
        return self._follow(self._forms(operation, partial(_norm_form, count=len(self._images))), result)

    def _scale(self, operation: Operation) -> float | None:
        """The number by which a BatchNorm multiplies all channels, as at initialisation, where it does just that.

        Its own backward reads the input once more, which is a fifth of the cost of a row of the Jacobian.
        """
        names = ("weight", "bias", "running_mean", "running_var")
        if operation.input.ndim != 4:
            return None
        return self._scales.get(tuple(id(operation.get(name)) for name in names))

    def _know_scales(self) -> None:
        """By its tensors the number that each BatchNorm of the network multiplies by, where it is one."""
        from torch import nn

        norms = [m for m in self._network.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        norms = [m for m in norms if m.weight is not None and m.bias is not None and m.running_var is not None]
        known = []
        for norm in norms:
            scale = norm.weight / (norm.running_var + norm.eps).sqrt()
            shift = norm.bias - norm.running_mean * scale
            known += [(scale == scale[0]).all() & ~shift.any(), scale[0]]
        host = to_host(known).reshape(-1, 2) if known else ()
        for norm, (uniform, scale) in zip(norms, host, strict=True):
            tensors = norm.weight, norm.bias, norm.running_mean, norm.running_var
            self._scales[tuple(map(id, tensors))] = float(scale) if uniform else None

    def _forms(self, operation: Operation, form_of: Callable) -> dict[int, Callable[[Any], Any]]:
        """Closed forms of the operation's chosen parameters by their columns."""
        import torch

        found: dict[int, Callable[[Any], Any]] = {}
        if not torch.is_grad_enabled():
            return found
        for role in ("weight", "bias"):
            parameter = operation.get(role)
            column = self._place.get(id(parameter))
            form = None if column is None else form_of(operation, role, self._watch.keep)
            if form is not None:
                self._calls[id(parameter)] += 1
                found[column] = form
        return found

    def _follow(self, forms: dict[int, Callable[[Any], Any]], output: Any) -> Any:
        """The output of an operation whose gradient the forms read."""
        if forms and output.requires_grad:
            output.register_hook(partial(_collect, self._rows, forms))
        elif forms:
            leaf = output.detach().requires_grad_(True)
            leaf.register_hook(partial(_collect, self._rows, forms))
            self._leaves.append(leaf)
            return leaf + 0  # what follows may write in place, which a leaf forbids
        return output

    @property
    def fewest_rows(self) -> int:
        """How many backward passes the whole Jacobian takes."""
        return self.logits.shape[1] if self._head is None else self._head.features.shape[1]

    def jacobians(self, counts: Iterable[int]) -> list[Any]:
        """(B, K, p) float64 of the logits by the first elements of the first `count` chosen parameters, for each count.

        Where a linear head of C < K features ends the network, that of the features comes first, whose product with
        the head's weight it is, but for the head's own parameters. What a count gives does not depend on the others:
        a product of fewer columns may round otherwise.
        """
        import torch

        last = self.logits if self._head is None else self._head.features
        whole = self._back(last, _one_hot(last))
        found = []
        for count in counts:
            jacobian = whole[:, :, :count].contiguous()
            if self._head is not None:
                jacobian = self._head.weight.detach().double() @ jacobian
                first = torch.zeros_like(self.logits)
                first[:, 0] = 1  # no other logit reads the first elements
                for column, form in self._head.forms.items():
                    if column < count:
                        jacobian[:, 0, column] += form(first)
            generic = {name: column for name, column in self._generic.items() if column < count}
            if generic:
                jacobian[:, :, list(generic.values())] = self._generic_jacobian(generic)
            found.append(jacobian)
        return found

    def products(self, cotangents: Any) -> Any:
        """`cotangents` (B, r, K) times the Jacobian: (B, r, p) float64 from r backward passes."""
        products = self._back(self.logits, cotangents.to(self.logits.dtype).transpose(0, 1))
        if self._generic:
            products[:, :, list(self._generic.values())] = cotangents.double() @ self._generic_jacobian(self._generic)
        return products

    def _back(self, output: Any, cotangents: Any) -> Any:
        """`cotangents` (r, B, m) times the Jacobian of `output` (B, m) by weights with a closed form: (B, r, p)."""
        import torch

        shape = (len(output), len(cotangents), len(self._place))
        rows = self._rows
        rows.found = torch.zeros(shape, dtype=torch.float64, device=output.device)
        if self._leaves and output.requires_grad:
            for row, cotangent in enumerate(cotangents):
                rows.number, more = row, row + 1 < len(cotangents)
                torch.autograd.grad(output, self._leaves, cotangent.contiguous(), retain_graph=more, allow_unused=True)
        return rows.found

    def _generic_jacobian(self, names: Iterable[str]) -> Any:
        return _generic_jacobian(self._network, list(names), self._images).double()


class _Rows:
    """What the hooks of a backward pass fill: row `number` of `found` (B, r, p).

    A hook may hold no tensor of its graph, and so no recording, which has the logits: both would then never be freed.
    """

    found: Any = None
    number: int = 0


def _collect(rows: _Rows, forms: dict[int, Callable[[Any], Any]], grad: Any) -> None:
    for column, form in forms.items():
        rows.found[:, rows.number, column] += form(grad)


def _one_hot(output: Any) -> Any:
    """Cotangents (m, B, m) that take one of the m columns of `output` (B, m) each."""
    import torch

    columns = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    return columns[:, None].expand(-1, len(output), -1)


def _linear_head(last: tuple, logits: Any, uses: Counter[int], chosen: Collection[int]) -> _Head | None:
    """The linear layer below which fewer backward passes do, from what the forward pass saw; else None.

    Its output has to be the network's, untouched since, as its input; its parameters may serve nothing else.

    Args:
        last: of the last layer: operation, closed forms, input and output with their versions then.
        uses: how often each parameter was read, by its id.
        chosen: ids of the parameters that one goes back to; those of the layer have to have closed forms.
    """
    import torch
    import torch.nn.functional as F

    operation, forms, features, features_version, output, output_version = last
    if operation.name != "linear" or output is not logits or features.ndim != 2:
        return None
    if len(forms) != sum(id(operation.get(role)) in chosen for role in ("weight", "bias")):
        return None
    if features.shape[1] >= logits.shape[1]:
        return None
    if (features._version, output._version) != (features_version, output_version):
        return None
    if any(uses[id(operation.get(role))] > 1 for role in ("weight", "bias") if operation.get(role) is not None):
        return None
    if not torch.equal(F.linear(features, operation.weight, operation.get("bias")), logits):
        return None
    return _Head(features, operation.weight, forms)


def _closed_form(operation: Operation, role: str, keep: Callable, place: Place, count: int) -> Callable | None:
    """Maps the gradient at a layer's output to d/d(first element of its weight or bias), one value an image (B,)."""
    from harness.probes.operations import CONVOLUTION, LINEAR

    x = operation.input.detach()
    if operation.kind == LINEAR and operation.name == "linear" and place.dimension >= 0:

        def rows(values: Any) -> Any:  # features come last, whatever lies between them and the images
            return place.split(values[..., 0], count).reshape(count, -1)

        if role == "bias":
            return lambda grad: rows(grad).sum(dim=1)
        seen = keep(rows(x))
        return lambda grad: (rows(grad) * seen.value).sum(dim=1)
    if operation.kind != CONVOLUTION or x.ndim != 4 or operation.weight.ndim != 4:
        return None
    if place.dimension != 0 or len(x) != count:
        return None
    if role == "bias":
        return lambda grad: _first(grad).sum(dim=1)
    seen = keep(_convolved(operation, x))
    return lambda grad: (_first(grad) * seen.value).sum(dim=1)


def _convolved(operation: Operation, x: Any) -> Any:
    """What the first element of a convolution's weight multiplies: (B, positions of the output)."""
    import torch.nn.functional as F

    from harness.probes.operations import geometry

    (sh, sw), ((top, bottom), (left, right)), dilation, _ = geometry(operation)
    kh, kw = ((k - 1) * d + 1 for k, d in zip(operation.weight.shape[2:], dilation, strict=True))
    padded = F.pad(x[:, 0], (left, right, top, bottom))
    height = (padded.shape[1] - kh) // sh + 1
    width = (padded.shape[2] - kw) // sw + 1
    return padded[:, : (height - 1) * sh + 1 : sh, : (width - 1) * sw + 1 : sw].flatten(1)


def _norm_form(operation: Operation, role: str, keep: Callable, count: int) -> Callable | None:
    """As `_closed_form`, of a BatchNorm in eval mode."""
    import torch

    x = operation.input.detach()
    if len(x) != count:
        return None
    if role == "bias":
        return lambda grad: _first(grad).sum(dim=1)
    mean, variance = operation.get("running_mean")[0], operation.get("running_var")[0]
    seen = (_first(x) - mean) / torch.sqrt(variance + operation.get("eps", 1e-5))
    return lambda grad: (_first(grad) * seen).sum(dim=1)


def _first(values: Any) -> Any:
    """Channel 0 of (B, C, ...) or feature 0 of (B, C), as (B, positions)."""
    return values[:, 0].reshape(len(values), -1)


def _generic_jacobian(network: Any, names: list[str], images: Any) -> Any:
    """With respect to the first elements alone: (B, K, len(names)).

    All at once by vmap, where the network lets it and the first image agrees with a backward pass a class: a network
    may hold a parameter where `functional_call` does not find it.
    """
    import torch

    first = _by_backward(network, names, images[:1])
    if len(images) == 1:
        return first
    try:
        found = _by_vmap(network, names, images)
    except Exception:  # of the many things that vmap refuses
        found = None
    if found is not None and torch.allclose(found[:1], first, rtol=1e-3, atol=1e-4 * float(first.abs().max())):
        return found
    return torch.cat([first, _by_backward(network, names, images[1:])])


def _by_backward(network: Any, names: list[str], images: Any) -> Any:
    import torch

    parameters = dict(network.named_parameters())
    chosen = [parameters[name].requires_grad_(True) for name in names]
    rows = []
    try:
        for image in images:
            logits = finite_logits(network, image[None].clone())[0]
            for place, logit in enumerate(logits):
                more = place + 1 < len(logits)
                grads = (
                    torch.autograd.grad(logit, chosen, retain_graph=more, allow_unused=True)
                    if logit.requires_grad
                    else [None] * len(chosen)
                )
                rows.append(torch.stack([logit.new_zeros(()) if g is None else g.flatten()[0] for g in grads]))
    finally:
        for parameter in chosen:
            parameter.requires_grad_(False)
    return torch.stack(rows).reshape(len(images), -1, len(names))


def _by_vmap(network: Any, names: list[str], images: Any) -> Any:
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
