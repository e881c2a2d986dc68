"""Gradients of single images: their signs, and the kernel of their inner products."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING, Any, ClassVar

from harness.probes.base import (
    CLASSES,
    IMAGES,
    SINGLE_VALUE,
    Probe,
    Subject,
    Unscorable,
    finite_logits,
    gradients,
    loss,
    to_host,
    weight_layers,
)
from harness.probes.gradient import BIAS
from harness.probes.modules import computed

if TYPE_CHECKING:
    from harness.probes.layout import Place
    from harness.probes.operations import Operation


@dataclass(frozen=True)
class GradientSigns(Probe):
    """Gradient of each image's `loss`, every image a mini-batch of its own.

    Observable `sign_agreement` (L,): per convolution or linear layer the sum over its weights of
    |sum over images of sign(gradient)|.

    A BatchNorm that sees one image normalises it over its positions, which is instance normalisation: so one
    pass of the whole mini-batch serves all images, and each layer's single gradients come from its input and
    the gradient at its output. Layers for which that does not hold take a forward and backward an image.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        subject.initialise(self.init, dtype=self.dtype)
        images, labels = subject.images(self.batch_size, self.dtype)
        layers = weight_layers(subject.network)
        if not any(source.requires_grad for layer in layers.values() for source in layer.sources):
            raise Unscorable("no trainable weight")
        found: dict[str, list] = {}
        missing: set[str] | None = None  # layers whose gradients have no closed form; None: all
        if subject.layout().apart:
            found, missing = _at_once(subject, layers, images, labels, _loss, reduce=_agreement)
        if missing is None or missing:
            alone = _one_by_one(subject, images, labels, _loss)
            found.update({name: parts for name, parts in alone.items() if missing is None or name in missing})
        return {"sign_agreement": _agreements(list(found.values()))}


@dataclass(frozen=True)
class SampleKernel(Probe):
    """Gram matrix of the gradients of each image's logit of its own class; observable `sample_kernel` (B, B) float64.

    Gradients of the weights and biases of convolutions and linear layers; normalisations stay out. `variant=paper`:
    every image is a mini-batch of its own (`GradientSigns`). `repo`: BatchNorm is on the statistics of the mini-batch,
    and an image's gradient of a layer is what its own input and its own part of the gradient at the layer's output
    give, as tools for single gradients have it, which know nothing of images that meet.
    """

    init: str = "default"
    batch_size: int = 16
    variant: str = "paper"
    dtype: str = "float32"

    outputs: ClassVar[frozenset[str]] = CLASSES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        images, labels = subject.images(self.batch_size, self.dtype)
        layers = weight_layers(subject.network)
        if not any(source.requires_grad for layer in layers.values() for source in layer.sources):
            raise Unscorable("no trainable weight")
        alone = self.variant == "paper"
        found: dict[str, list] = {}
        missing: set[str] | None = None
        if subject.layout().apart:
            found, missing = _at_once(subject, layers, images, labels, _own_logits, alone, biases=True)
        if missing is None or missing:
            if not alone:
                raise Unscorable("single gradients do not follow from a layer's input and output alone here")
            single = _one_by_one(subject, images, labels, _own_logits, biases=True)
            chosen = {name for name in single if missing is None or name.removesuffix(BIAS) in missing}
            found.update({name: parts for name, parts in single.items() if name in chosen})
        kernel = torch.zeros(len(images), len(images), dtype=torch.float64, device=subject.device)
        for part in (part for parts in found.values() for part in parts):
            rows = part.flatten(1)
            kernel += rows @ rows.T  # of one layer in the pass's own type, over all layers in float64
        return {"sample_kernel": kernel.cpu().numpy()}


#: Sum over images of their losses.
_loss = partial(loss, reduction="sum")


def _own_logits(logits: Any, labels: Any) -> Any:
    """Sum over images of the logit of the image's class."""
    return logits.gather(1, labels[:, None]).sum()


def _agreement(part: Any) -> Any:
    """Of gradients (B, …) the sum over weights of |sum over images of the sign|."""
    import torch

    found = part.sign().sum(dim=0).abs().sum(dtype=torch.float64)
    # sign(NaN) is 0. A sum is NaN where a term is, and takes a twentieth of the time of asking each.
    return torch.where(part.sum().isnan(), float("nan"), found)


def _agreements(layers: list[list]) -> Any:
    """Per layer the sum over weights of |sum over images of the sign|; 0 where no gradient reaches it.

    Args:
        layers: of each the tensors (B, …) that together hold each of its weights once, or what `_agreement` found.
    """
    import numpy as np

    layer_of, sums = [], []
    for place, parts in enumerate(layers):
        for part in parts:
            sums.append(_agreement(part) if part.ndim else part)
            layer_of.append(place)
    agreement = np.zeros(len(layers))
    if sums:
        np.add.at(agreement, layer_of, to_host(sums))
    return agreement


def _is_identity(weight: Any, bias: Any) -> Any:
    """Whether a normalisation's parameters leave what it normalises as it is, as at initialisation."""
    same = (weight == 1).all()
    return same if bias is None else same & ~bias.any()


def _identities(network: Any) -> dict[int, bool]:
    """Of each BatchNorm, by the id of its weight, whether its parameters leave what it normalises as it is.

    Weights that are computed anew by each reading have no identity.
    """
    import torch

    norms = [m for m in network.modules() if isinstance(m, torch.nn.modules.batchnorm._BatchNorm) and m.affine]
    norms = [m for m in norms if isinstance(m.weight, torch.nn.Parameter)]
    known = to_host([_is_identity(m.weight, m.bias) for m in norms]) if norms else ()
    return {id(None): True, **{id(m.weight): bool(same) for m, same in zip(norms, known, strict=True)}}


def _at_once(
    subject: Subject,
    layers: dict,
    images: Any,
    labels: Any,
    objective: Callable,
    alone: bool = True,
    biases: bool = False,
    reduce: Callable | None = None,
) -> tuple[dict[str, list], set[str] | None]:
    """Single gradients by layer from one pass of all images, and the layers for which that gives none.

    None in place of the latter: for all of them, as a BatchNorm meets rows that are no images.

    Args:
        objective: of logits and labels, a sum over images of what is differentiated.
        alone: every image is a mini-batch of its own to BatchNorm.
        biases: gradients of the layers' biases too, under their names followed by `BIAS`.
        reduce: what is kept of the gradients of a layer that is used once: all of them take some GB in a large network.
    """
    import torch

    from harness.probes.operations import LAYERS, NORMALISATION, Watch

    network, layout, count = subject.network, subject.layout(), len(images)
    trained = {name for name, layer in layers.items() if all(source.requires_grad for source in layer.sources)}
    missing = {name for name in trained if layers[name].parametrised}
    calls: dict[str, list] = {name: [] for name in layers}
    applied: Counter[str] = Counter()
    with_bias = _biases(layers) if biases else {}
    of_biases = _Applied(with_bias)
    images = images.requires_grad_(True)

    def keep(name, parts):
        calls[name].append(parts if reduce is None or applied[name] > 1 else [reduce(part) for part in parts])

    def layer(operation):
        result = operation.run()
        name = operation.owner
        if name not in layers:
            raise _NoClosedForm
        if name not in trained or name in missing:
            return result
        form = _closed_form(operation, layout.place(operation.index), count)
        if form is None or operation.weight is not layers[name].weight or not torch.is_grad_enabled():
            missing.add(name)
            return result
        applied[name] += 1
        if result.requires_grad:
            seen = watch.keep(operation.input.detach())
            result.register_hook(lambda grad: keep(name, form(seen.value, grad)))
            if name in with_bias:
                of_biases.add(name, operation.get("bias"))
                place = layout.place(operation.index)
                of_bias = partial(_of_bias, channels=operation.channels, place=place, count=count)
                result.register_hook(lambda grad: calls.setdefault(name + BIAS, []).append([of_bias(grad)]))
        elif name in with_bias or operation.input.any():  # the images do not reach it, but its weights have a gradient
            missing.add(name)
        return result

    handlers = dict.fromkeys(LAYERS, layer)
    if alone:
        handlers[NORMALISATION] = partial(_norm_alone, count=count, plain=_identities(network))
    watch = Watch(network, handlers)
    try:
        with _frozen(network):
            with watch:
                logits = finite_logits(network, images.clone())
            value = objective(logits, labels)
            if value.requires_grad:  # else nothing leads from the images to the logits
                torch.autograd.grad(value, images, allow_unused=True)
    except _NoClosedForm:
        return {}, None
    others = trained - missing  # a weight that is read by another way than by its layer's operation has no closed form
    missing |= {name for name in others if watch.uses[id(layers[name].weight)] > applied[name]}
    missing |= of_biases.read_otherwise(watch.uses)
    return _joined(calls, missing), missing


@contextmanager
def _frozen(network: Any) -> Iterator[None]:
    """No parameter has a gradient for the time of the block."""
    trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)


def _norm_alone(operation: Operation, count: int, plain: dict[int, bool]) -> Any:
    """A BatchNorm to which every image is a mini-batch of its own.

    Args:
        plain: `_identities`.

    Raises _NoClosedForm where its rows are no images.
    """
    if operation.name != "batch_norm" or operation.fixed or not operation.get("training"):
        return operation.run()
    x = operation.input
    if x.ndim < 3 or x[0, 0].numel() < 2:
        raise Unscorable(SINGLE_VALUE)
    if len(x) != count:
        raise _NoClosedForm
    weight, bias = operation.get("weight"), operation.get("bias")
    same = plain[id(weight)] if id(weight) in plain else bool(_is_identity(weight, bias))
    return _image_norm().apply(x, weight, bias, operation.get("eps", 1e-5), same)


def _joined(calls: dict[str, list], missing: set[str]) -> dict[str, list]:
    """By layer the sum over its calls of what each gave; to `missing` is added what is used in two ways."""
    found = {}
    for name, collected in calls.items():
        shapes = {tuple(part.shape for part in parts) for parts in collected}
        if len(shapes) > 1:
            missing.add(name)
        found[name] = [sum(parts[1:], parts[0]) for parts in zip(*collected, strict=True)] if len(shapes) == 1 else []
    return found


class _NoClosedForm(Exception):
    """The network computes something that gives single gradients one image at a time alone."""


def _of_bias(grad: Any, channels: int, place: Place, count: int) -> Any:
    """Gradients (B, channels) of a layer's bias from that at its output, whose channels are in `channels`, negative."""
    from harness.probes.rows import images_first

    return images_first(grad, channels % grad.ndim, place, count).reshape(count, -1, grad.shape[channels]).sum(dim=1)


def _one_by_one(
    subject: Subject, images: Any, labels: Any, objective: Callable, biases: bool = False
) -> dict[str, list]:
    """Single gradients by layer as they are defined: every image is a mini-batch of its own. See `_at_once`."""
    import torch

    from harness.probes.gradient import layer_gradients

    held = _biases(weight_layers(subject.network)) if biases else {}
    rows: dict[str, list] = {}
    for image, label in zip(images.detach(), labels, strict=True):
        for name, grad in layer_gradients(subject, image[None].clone(), label[None], objective, held).items():
            rows.setdefault(name, []).append(grad)
    return {name: [torch.stack(grads)] for name, grads in rows.items()}


def _biases(layers: dict) -> dict[str, Any]:
    """The trainable biases of layers whose weights are, too, by the layers' names; one that is shared once."""
    found = {}
    for name, layer in layers.items():
        if not all(source.requires_grad for source in layer.sources):
            continue
        attribute = "bias" if layer.attribute == "weight" else "in_proj_bias"
        bias = None if getattr(layer.module, attribute, None) is None else computed(layer.module, attribute)
        if bias is not None and bias.requires_grad and not any(bias is other for other in found.values()):
            found[name] = bias
    return found


class _Applied:
    """How often the biases of layers were applied by these, and whether they were read in other ways too.

    Args:
        biases: `_biases`.
    """

    def __init__(self, biases: dict[str, Any]):
        self._biases, self._counts, self._others = biases, Counter(), set()

    def add(self, layer: str, bias: Any) -> None:
        held = self._biases[layer]
        self._counts[layer] += 1
        # What is computed anew by each reading is another tensor each time: it is the layer's own by its size.
        if bias is None or (bias is not held if held.is_leaf else bias.shape != held.shape):
            self._others.add(layer)

    def read_otherwise(self, uses: Counter) -> set[str]:
        """The layers whose biases have no closed form: one that several layers share, or apply a part of."""
        leaves = {name: bias for name, bias in self._biases.items() if bias.is_leaf}
        return self._others | {name for name, bias in leaves.items() if uses[id(bias)] > self._counts[name]}


@cache
def _image_norm() -> Any:
    """Normalisation of maps (B, C, …), each image over its positions, in the memory layout of its input.

    torch's own instance normalisation copies channels_last maps to another layout and back.
    """
    import torch

    class ImageNorm(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, weight, bias, eps, plain):
            positions = tuple(range(2, x.ndim))
            normal = x - x.mean(dim=positions, keepdim=True)
            inverse = (normal.square().mean(dim=positions, keepdim=True) + eps).rsqrt()
            normal.mul_(inverse)
            by_channel = (-1, *(1 for _ in positions))
            weight = None if weight is None else weight.reshape(by_channel)
            ctx.save_for_backward(normal, inverse if plain else inverse * weight)
            # A copy: the network may go on in place (`x += shortcut`), and the backward reads what is kept.
            if plain:
                return normal.clone()
            return normal * weight if bias is None else torch.addcmul(bias.reshape(by_channel), normal, weight)

        @staticmethod
        def backward(ctx, grad):
            normal, scale = ctx.saved_tensors
            positions = tuple(range(2, normal.ndim))
            along = (grad * normal).mean(dim=positions, keepdim=True)
            offset = grad.mean(dim=positions, keepdim=True) * -scale
            inward = torch.addcmul(offset, normal, along * -scale, out=torch.empty_like(normal))  # in its layout
            return inward.addcmul_(grad, scale), None, None, None, None

    return ImageNorm


def _closed_form(operation: Operation, place: Place, count: int) -> Callable[[Any, Any], list] | None:
    """A function of the input and of the gradient at the output that gives the gradients of the weights, one an image.

    They are tensors (B, …) that together hold each weight once. None where there is no such function here.
    """
    from harness.probes.layout import FIRST
    from harness.probes.operations import CONVOLUTION, LINEAR, geometry

    if operation.kind == LINEAR and operation.name == "linear":
        if place.dimension < 0:
            return None
        return partial(_of_linear, place=place, count=count)
    x = operation.input
    if operation.kind == CONVOLUTION and place == FIRST and x.ndim == operation.weight.ndim == 4 and len(x) == count:
        return partial(_of_convolution, kernel=tuple(operation.weight.shape[2:]), shape=geometry(operation))
    return None


def _of_linear(x: Any, grad: Any, place: Place, count: int) -> list:
    import torch

    if place.dimension == 0 and not place.fast:
        rows, seen = grad.reshape(count, -1, grad.shape[-1]), x.reshape(count, -1, x.shape[-1])
    else:
        rows, seen = (place.split(t, count).reshape(count, -1, t.shape[-1]) for t in (grad, x))
    return [torch.bmm(rows.transpose(1, 2), seen)]


def _of_convolution(x: Any, grad: Any, kernel: tuple, shape: tuple) -> list:
    import torch
    import torch.nn.functional as F

    count, (kh, kw) = len(x), kernel
    stride, ((top, bottom), (left, right)), (dh, dw), groups = shape
    if groups == 1 and stride == (1, 1):
        # On the padded grid, flattened row by row, a kernel position is a shift: all are slices of one copy.
        padded = F.pad(x, (left, right, top, bottom)).permute(0, 2, 3, 1)
        height, width = padded.shape[1:3]
        spread = F.pad(grad, (0, width - grad.shape[3], 0, height - grad.shape[2])).permute(0, 2, 3, 1)
        seen, rows = (t.reshape(count, height * width, -1) for t in (padded, spread))
        last = (grad.shape[2] - 1) * width + grad.shape[3]
        rows = rows[:, :last].transpose(1, 2)
        shifts = [i * dh * width + j * dw for i in range(kh) for j in range(kw)]
        return [torch.bmm(rows, seen[:, s : s + last]) for s in shifts]
    if (top, left) != (bottom, right):
        x, top, left = F.pad(x, (left, right, top, bottom)), 0, 0
    patches = F.unfold(x, kernel, (dh, dw), (top, left), stride)
    patches = patches.reshape(count * groups, -1, patches.shape[-1])
    rows = grad.reshape(count * groups, grad.shape[1] // groups, -1)
    return [torch.bmm(rows, patches.transpose(1, 2)).reshape(count, -1)]


def _own_name(name: str) -> str:
    """The last part of a parameter's name; of one that a parametrisation holds the name of what is parametrised."""
    *holders, own = name.split(".")
    return holders[-1] if holders[-2:-1] == ["parametrizations"] else own


@dataclass(frozen=True)
class TangentKernel(Probe):
    """Gram matrix of the gradients of each image's summed logits; observable `tangent_kernel` (B, B) float64.

    Gradients of all parameters named `weight` (normalisations too; of a parametrised one those that it is computed
    from), whatever the modules that hold them are called, BatchNorm on the statistics of the
    mini-batch, so that an image's logits depend on the others, as in TE-NAS: one backward an image.
    """

    init: str = "kaiming_fan_out"
    batch_size: int = 16
    dtype: str = "float32"

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        images, _ = subject.images(self.batch_size, self.dtype)
        weights = []
        for name, parameter in network.named_parameters():
            parameter.requires_grad_(parameter.requires_grad and "weight" in _own_name(name))
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
