"""Derivatives of single images' logits by single weights: VKDNW's Jacobian."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from harness.probes.base import (
    CLASSES,
    NO_EVAL_MODE,
    Probe,
    Start,
    Subject,
    Unscorable,
    finite_logits,
    read_back,
    refuse_batch_statistics,
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


def spread(size: int, count: int) -> list[int]:
    """Places of up to `count` different entries of `size`, evenly spaced from the first to the last; of 1 the first."""
    return sorted({i * (size - 1) // max(count - 1, 1) for i in range(count)})


@dataclass(frozen=True)
class WeightJacobian(Probe):
    """d logits / d theta per image, theta `weights` elements of each of the first parameter tensors (`spread`).

    Those that are frozen count like the others.

    Eval mode: at initialisation BatchNorm is then the identity map up to its epsilon. Observables:
    `jacobian_of(tensors)` (B, K, p) float64, p the elements of so many tensors or of all that there are, each from one
    pass over the most that is asked for; and `probabilities` (B, K), the softmax of the logits.

    The authors differentiate whole networks by vmap(jacrev). The same values come from K backward passes of
    the whole batch with all weights frozen: the gradient of one weight is a closed form of the gradient at
    its layer's output. Where the network ends in a linear layer of C < K features, C passes do, one a feature.
    Parameters that have no closed form here (tokens, LayerNorm, weights that are read by function) take the generic
    way, and so does a network in which images meet.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"
    weights: int = 1

    outputs: ClassVar[frozenset[str]] = CLASSES

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

    From the logits of each one can go back to the probe's elements of the first `tensors` parameter tensors.

    Raises Unscorable where the network has no parameter.
    """
    subject.initialise(probe.init, dtype=probe.dtype)
    network = subject.network
    network.eval()
    images, _ = subject.images(probe.batch_size, probe.dtype)
    first = list(network.named_parameters())[:tensors]
    chosen = {name: spread(parameter.numel(), probe.weights) for name, parameter in first}
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


class _Form(NamedTuple):
    """The derivative by one element of a layer's weight or bias, which the channel `output` of its output reads alone.

    `of` maps the gradient at that output to one value an image (B,).
    """

    output: int
    of: Callable[[Any], Any]


class _Head(NamedTuple):
    """The linear layer whose output is the network's: logits = features @ weight.T + bias.

    `forms` are the closed forms of its own chosen elements by their columns.
    """

    features: Any
    weight: Any
    forms: dict[int, _Form]


class Recording:
    """A forward pass of images (B, …), from whose logits one can go back to chosen weights, once.

    All parameters of the network are to be frozen.

    Args:
        chosen: by their names the parameters that count, and of each the places of the elements, p in all.

    Attributes:
        logits: (B, K).
    """

    def __init__(self, network: Any, images: Any, chosen: Mapping[str, list[int]], layout: Layout):
        import torch

        from harness.probes.operations import LAYERS, NORMALISATION, Watch

        self._network, self._images, self._layout = network, images, layout
        parameters = dict(network.named_parameters())
        columns = itertools.count()
        self._columns = {name: {next(columns): place for place in places} for name, places in chosen.items()}
        self._places = {id(parameters[name]): places for name, places in self._columns.items()}
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
            self._head = self._last and _linear_head(self._last, self.logits, self._watch.uses, self._places)
            self._last = None
        else:
            with Watch(network, {NORMALISATION: refuse_batch_statistics}):
                self.logits = torch.cat([finite_logits(network, image[None].clone()) for image in images])
        several(self.logits)
        # A parameter that is read by another way too has no closed form.
        uses = self._watch.uses if layout.apart else {}
        called = {key for key, times in self._calls.items() if uses[key] <= times}
        self._generic = [name for name in chosen if id(parameters[name]) not in called]

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

    def _forms(self, operation: Operation, form_of: Callable) -> dict[int, _Form]:
        """Closed forms of the chosen elements of the operation's parameters by their columns."""
        import torch

        found: dict[int, _Form] = {}
        if not torch.is_grad_enabled():
            return found
        for role in ("weight", "bias"):
            parameter = operation.get(role)
            places = self._places.get(id(parameter), {})
            forms = {column: form_of(operation, role, place, self._watch.keep) for column, place in places.items()}
            if forms and None not in forms.values():  # it is None for all or for none
                self._calls[id(parameter)] += 1
                found |= forms
        return found

    def _follow(self, forms: dict[int, _Form], output: Any) -> Any:
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
        """(B, K, p) float64 of the logits by the elements of the first `count` chosen parameters, for each count.

        Where a linear head of C < K features ends the network, that of the features comes first, whose product with
        the head's weight it is, but for the head's own parameters. What a count gives does not depend on the others:
        a product of fewer columns may round otherwise.
        """
        import torch

        last = self.logits if self._head is None else self._head.features
        whole = self._back(last, _one_hot(last))
        found = []
        for count in counts:
            names = list(self._columns)[:count]
            p = sum(len(self._columns[name]) for name in names)
            jacobian = whole[:, :, :p].contiguous()
            if self._head is not None:
                jacobian = self._head.weight.detach().double() @ jacobian
                for column, form in self._head.forms.items():
                    if column < p:
                        own = torch.zeros_like(self.logits)
                        own[:, form.output] = 1
                        jacobian[:, form.output, column] += form.of(own)
            self._fill(jacobian, [name for name in self._generic if name in names], None)
            found.append(jacobian)
        return found

    def products(self, cotangents: Any) -> Any:
        """`cotangents` (B, r, K) times the Jacobian: (B, r, p) float64 from r backward passes."""
        products = self._back(self.logits, cotangents.to(self.logits.dtype).transpose(0, 1))
        self._fill(products, self._generic, cotangents.double())
        return products

    def _fill(self, rows: Any, names: list[str], cotangents: Any) -> None:
        """In `rows` (B, r, p) the columns of parameters that have no closed form; of the Jacobian itself without
        cotangents.

        What its forwards draw, in a network that draws in eval mode, is the same however often it is called.
        """
        if names:
            start = Start(self._network, self._images.device)
            places = {name: list(self._columns[name].values()) for name in names}
            found = _generic_jacobian(self._network, places, self._images).double()
            columns = [column for name in names for column in self._columns[name]]
            rows[:, :, columns] = found if cotangents is None else cotangents @ found
            start.again()

    def _back(self, output: Any, cotangents: Any) -> Any:
        """`cotangents` (r, B, m) times the Jacobian of `output` (B, m) by weights with a closed form: (B, r, p)."""
        import torch

        shape = (len(output), len(cotangents), sum(map(len, self._columns.values())))
        rows = self._rows
        rows.found = torch.zeros(shape, dtype=torch.float64, device=output.device)
        if self._leaves and output.requires_grad:
            for row, cotangent in enumerate(cotangents):
                rows.number, more = row, row + 1 < len(cotangents)
                torch.autograd.grad(output, self._leaves, cotangent.contiguous(), retain_graph=more, allow_unused=True)
        return rows.found


class _Rows:
    """What the hooks of a backward pass fill: row `number` of `found` (B, r, p).

    A hook may hold no tensor of its graph, and so no recording, which has the logits: both would then never be freed.
    """

    found: Any = None
    number: int = 0


def _collect(rows: _Rows, forms: dict[int, _Form], grad: Any) -> None:
    for column, form in forms.items():
        rows.found[:, rows.number, column] += form.of(grad)


def _one_hot(output: Any) -> Any:
    """Cotangents (m, B, m) that take one of the m columns of `output` (B, m) each."""
    import torch

    columns = torch.eye(output.shape[1], dtype=output.dtype, device=output.device)
    return columns[:, None].expand(-1, len(output), -1)


def _linear_head(last: tuple, logits: Any, uses: Counter[int], chosen: Mapping[int, Sized]) -> _Head | None:
    """The linear layer below which fewer backward passes do, from what the forward pass saw; else None.

    Its output has to be the network's, untouched since, as its input; its parameters may serve nothing else.

    Args:
        last: of the last layer: operation, closed forms, input and output with their versions then.
        uses: how often each parameter was read, by its id.
        chosen: elements that one goes back to, by the ids of their parameters; the layer's have to have closed forms.
    """
    import torch
    import torch.nn.functional as F

    operation, forms, features, features_version, output, output_version = last
    if operation.name != "linear" or output is not logits or features.ndim != 2:
        return None
    if len(forms) != sum(len(chosen.get(id(operation.get(role)), ())) for role in ("weight", "bias")):
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


def _closed_form(
    operation: Operation, role: str, element: int, keep: Callable, place: Place, count: int
) -> _Form | None:
    """The derivative by an element, by its place in the flattened weight or bias; None for what has no closed form."""
    import numpy as np

    from harness.probes.operations import CONVOLUTION, LINEAR

    x = operation.input.detach()
    output, *source = map(int, np.unravel_index(element, operation.get(role).shape))
    if operation.kind == LINEAR and operation.name == "linear" and place.dimension >= 0 and operation.weight.ndim == 2:

        def rows(values: Any, feature: int) -> Any:  # features come last, whatever lies between them and the images
            return place.split(values[..., feature], count).reshape(count, -1)

        if role == "bias":
            return _Form(output, lambda grad: rows(grad, output).sum(dim=1))
        seen = keep(rows(x, *source))
        return _Form(output, lambda grad: (rows(grad, output) * seen.value).sum(dim=1))
    if operation.kind != CONVOLUTION or x.ndim != 4 or operation.weight.ndim != 4:
        return None
    if place.dimension != 0 or len(x) != count:
        return None
    if role == "bias":
        return _Form(output, lambda grad: _channel(grad, output).sum(dim=1))
    seen = keep(_convolved(operation, x, output, *source))
    return _Form(output, lambda grad: (_channel(grad, output) * seen.value).sum(dim=1))


def _convolved(operation: Operation, x: Any, output: int, channel: int, row: int, column: int) -> Any:
    """What an element of a convolution's weight multiplies: (B, positions of the output)."""
    import torch.nn.functional as F

    from harness.probes.operations import geometry

    (sh, sw), ((top, bottom), (left, right)), (dh, dw), groups = geometry(operation)
    outputs, channels, kh, kw = operation.weight.shape
    padded = F.pad(x[:, output // (outputs // groups) * channels + channel], (left, right, top, bottom))
    height = (padded.shape[1] - (kh - 1) * dh - 1) // sh * sh + 1
    width = (padded.shape[2] - (kw - 1) * dw - 1) // sw * sw + 1
    return padded[:, row * dh : row * dh + height : sh, column * dw : column * dw + width : sw].flatten(1)


def _norm_form(operation: Operation, role: str, element: int, keep: Callable, count: int) -> _Form | None:
    """As `_closed_form`, of a BatchNorm in eval mode."""
    import torch

    x = operation.input.detach()
    if len(x) != count:
        return None
    if role == "bias":
        return _Form(element, lambda grad: _channel(grad, element).sum(dim=1))
    mean, variance = operation.get("running_mean")[element], operation.get("running_var")[element]
    seen = (_channel(x, element) - mean) / torch.sqrt(variance + operation.get("eps", 1e-5))
    return _Form(element, lambda grad: (_channel(grad, element) * seen).sum(dim=1))


def _channel(values: Any, channel: int) -> Any:
    """A channel of (B, C, ...) or feature of (B, C), as (B, positions)."""
    return values[:, channel].reshape(len(values), -1)


def _generic_jacobian(network: Any, places: dict[str, list[int]], images: Any) -> Any:
    """With respect to some elements of parameters alone, by their places in the flattened ones: (B, K, elements).

    All at once by vmap, where the network lets it and the first image agrees with a backward pass a class: a network
    may hold a parameter where `functional_call` does not find it.
    """
    import torch

    first = _by_backward(network, places, images[:1])
    if len(images) == 1:
        return first
    try:
        found = _by_vmap(network, places, images)
    except Exception:  # of the many things that vmap refuses
        found = None
    if found is not None and torch.allclose(found[:1], first, rtol=1e-3, atol=1e-4 * float(first.abs().max())):
        return found
    return torch.cat([first, _by_backward(network, places, images[1:])])


def _by_backward(network: Any, places: dict[str, list[int]], images: Any) -> Any:
    import torch

    parameters = dict(network.named_parameters())
    chosen = [parameters[name].requires_grad_(True) for name in places]
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
                found = zip(grads, places.values(), strict=True)
                parts = [logit.new_zeros(len(at)) if grad is None else grad.flatten()[at] for grad, at in found]
                rows.append(torch.cat(parts))
    finally:
        for parameter in chosen:
            parameter.requires_grad_(False)
    return torch.stack(rows).reshape(len(images), -1, sum(map(len, places.values())))


def _by_vmap(network: Any, places: dict[str, list[int]], images: Any) -> Any:
    import torch
    from torch.func import functional_call, jacrev, vmap

    held = {name: p.detach() for name, p in network.named_parameters()}
    start = torch.cat([held[name].flatten()[at] for name, at in places.items()])

    def logits(scalars, image):
        changed = {}
        parts = scalars.split([len(at) for at in places.values()])
        for (name, at), part in zip(places.items(), parts, strict=True):
            flat = held[name].flatten()
            changed[name] = flat.scatter(0, torch.tensor(at, device=flat.device), part).view_as(held[name])
        return functional_call(network, changed, (image[None].clone(),))[0]  # it may write into its input

    return vmap(jacrev(logits), in_dims=(None, 0))(start, images)
