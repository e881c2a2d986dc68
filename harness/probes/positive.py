"""Passes over the network with |weights| and no normalisation: synflow's and the Entropic Score's."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import cause
from harness.probes.base import (
    IMAGES,
    Probe,
    Subject,
    Unscorable,
    check_finite,
    gradients,
    of_side,
    outputs,
    to_host,
    weight_layers,
)
from harness.probes.modules import attention_modules, computed, hooked, modules_of, parameters_of

if TYPE_CHECKING:
    import torch
    from torch import nn

    from harness.probes.operations import Handler, Layer, Operation


def _make_positive(subject: Subject, init: str, repeat: int) -> None:
    """A fresh initialisation in float64, all numbers of the network's state replaced by their absolute values.

    Its state is its parameters and, as a state_dict has them, its buffers. Without normalisation a value grows by an
    order of magnitude a layer: float32 overflows. Weights of a parametrised layer are made absolute where they are
    applied (`_Positive`), not what they are computed from.

    Raises Unscorable where another parametrised tensor does not become its absolute value by that.
    """
    import torch

    subject.initialise(init, repeat, "float64")
    layers = [layer for layer in weight_layers(subject.network).values() if layer.parametrised]
    hidden = {id(one) for layer in layers for one in (*layer.sources, *layer.buffers)}
    with torch.no_grad():
        applied = {
            (name, attribute): (module, computed(module, attribute).abs())
            for name, module in modules_of(subject.network)
            for attribute, sources in _parametrised(module).items()
            if not any(id(source) in hidden for source in sources)
        }
        for tensor in (*parameters_of(subject.network), *_stored_buffers(subject.network)):
            if id(tensor) not in hidden:
                tensor.abs_()
        for (name, attribute), (module, absolute) in applied.items():
            if not torch.equal(computed(module, attribute), absolute):
                raise Unscorable(f"the parametrised {attribute} of {name or 'the network'} cannot be made absolute")


def _stored_buffers(network: nn.Module) -> list[torch.Tensor]:
    """The buffers of real numbers that a state_dict holds."""
    return [
        buffer
        for _, module in modules_of(network)
        for name, buffer in module._buffers.items()
        if buffer is not None and name not in module._non_persistent_buffers_set and buffer.is_floating_point()
    ]


def _parametrised(module: nn.Module) -> dict[str, list[torch.Tensor]]:
    """By name the tensors of a module that a parametrisation or a hook of torch computes, with their parameters."""
    found: dict[str, list[torch.Tensor]] = {}
    if "parametrizations" in module._modules:
        found = {attribute: list(held.parameters()) for attribute, held in module.parametrizations.items()}
    for attribute in hooked(module):
        names = [name for name in module._parameters if name.startswith(f"{attribute}_")]
        found[attribute] = [module._parameters[name] for name in names]
    return found


def _in_float64(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """`outputs`. Raises Unscorable for a network that computes in float32 whatever its weights and images are."""
    try:
        return outputs(network, images)
    except RuntimeError as error:
        if {"float", "double"} <= set(re.findall(r"float|double", str(error).lower())):
            raise Unscorable(
                f"the network cannot compute in float64, as this pass does ({cause(error)}): let its forward keep the "
                "type of its images, and hold constants as buffers"
            ) from error
        raise


class _Positive:
    """Handlers that make the weights of parametrised layers absolute; `weights` tells what holds each layer's."""

    def __init__(self, network: nn.Module):
        from harness.probes.layers import Weights
        from harness.probes.operations import LAYERS, PRODUCT

        self._layers = weight_layers(network)
        self.weights = Weights(network, self._layers)
        self._absolute: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}
        self.handlers: dict[str, Handler] = {**dict.fromkeys(LAYERS, self._layer), PRODUCT: self._product}

    def _layer(self, operation: Operation) -> Any:
        layer = self._layers.get(operation.owner)
        if layer is None or not layer.parametrised:
            self.weights.see(operation)
            return operation.run()
        weight = operation.applied  # as the call has it: it is put in its place
        if id(weight) not in self._absolute:
            self._absolute[id(weight)] = weight, weight.detach().abs().requires_grad_(weight.requires_grad)
        _, absolute = self._absolute[id(weight)]
        self.weights.see(operation, absolute)
        return operation.run_with(weight=absolute)

    def _product(self, operation: Operation) -> Any:
        self.weights.see(operation)
        layer = self._layers.get(operation.owner)
        if layer is not None and layer.parametrised:
            raise Unscorable(f"parametrised layer {layer.name} is used by {operation.name}")
        return operation.run()


@contextmanager
def _without_normalisation(
    network: nn.Module,
    handlers: dict[str, Handler],
    only: str = "",
    spared: Callable[[], bool] = lambda: False,
    passed: Callable[[Operation, torch.Tensor], object] = lambda operation, result: None,
) -> Iterator[None]:
    """Normalisations (those of kind `only`, if given) pass their input on; `handlers` see the other operations.

    `spared`, asked at each, keeps one as it is. `passed` is shown what the others pass on.

    Raises Unscorable for a module that is one by its class or name and computes it by arithmetic, which would stay.
    """
    from harness.probes.operations import NORMALISATION, Watch

    met = [0]

    def off(operation):
        met[0] += 1
        if operation.fixed or only not in operation.name or spared():  # weights that are standardised are no features
            return operation.run()
        result = operation.input.clone()  # what follows may write into it
        passed(operation, result)
        return result

    def check(module: nn.Module) -> list[tuple]:
        before: list[int] = []

        def enter(*_):
            before.append(met[0])

        def leave(*_):
            if before.pop() == met[0]:
                raise Unscorable(
                    f"{type(module).__name__} normalises by arithmetic, which cannot be told from the network's own: "
                    "let it call torch.nn.functional's normalisations"
                )

        return [module.register_forward_pre_hook(enter), module.register_forward_hook(leave)]

    handles = [handle for module in _own_normalisations(network, only) for handle in check(module)]
    try:
        with Watch(network, {**handlers, NORMALISATION: off}):
            yield
    finally:
        for handle in handles:
            handle.remove()


def _own_normalisations(network: nn.Module, only: str) -> list[nn.Module]:
    """Modules that normalise, by their class or name, with a forward that is not torch's."""
    from torch import nn

    kinds: tuple = (nn.modules.batchnorm._BatchNorm,)
    if not only:
        kinds += (nn.modules.instancenorm._InstanceNorm, nn.GroupNorm, nn.LayerNorm, nn.LocalResponseNorm, nn.RMSNorm)
    named = re.compile(r"BatchNorm" if only else r"Norm(?!al)")
    return [
        module
        for _, module in modules_of(network)
        if not type(module).__module__.startswith("torch.nn")
        and (isinstance(module, kinds) or (named.search(type(module).__name__) and not list(module.children())))
    ]


@dataclass(frozen=True)
class LinearisedPass(Probe):
    """Forward of an image of ones and backward of the sum of the logits; |weights|, no normalisation, float64.

    Observables, each (repeats, L) over the layers (`GradientPass`), w the absolute weights and g the
    gradient: `synflow` sum of w*g, `synflow_std` population deviation of w*g over the layer, `logsynflow` sum
    of w*ln(1 + g). With `normalisation` it stays, in train mode: BatchNorm on the statistics of that image, whose side
    is `resolution`, 0 being that of the mini-batches.
    """

    init: str = "kaiming_fan_in"
    repeats: int = 1
    normalisation: bool = False
    resolution: int = 0

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import Grouped, Watch

        network = subject.network
        without = Watch if self.normalisation else _without_normalisation
        rows: list[torch.Tensor] = []
        shape = subject.image_shape(self.resolution)
        ones = torch.ones(1, *shape, dtype=torch.float64, device=subject.device)
        for repeat in range(self.repeats):
            _make_positive(subject, self.init, repeat)
            positive = _Positive(network)
            with of_side(ones, subject.shape), without(network, positive.handlers):
                total = _in_float64(network, ones.clone()).sum()
            weights = Grouped(positive.weights.tensors())
            grads = weights.sums(gradients(total, weights.tensors))
            values = torch.zeros(3, len(grads), dtype=torch.float64, device=subject.device)
            for place, (weight, grad) in enumerate(zip(weights.firsts, grads, strict=True)):
                if grad is None:
                    continue
                flow = (weight.detach() * grad).abs()
                values[0, place] = flow.sum()
                values[1, place] = flow.std(correction=0)
                values[2, place] = (weight.detach() * (grad + 1).log()).abs().sum()
            rows.append(values)
        host = torch.stack(rows, dim=1).cpu().numpy()
        named = zip(("synflow", "synflow_std", "logsynflow"), host, strict=True)
        return {name: values for name, values in named if name in wanted}


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
        import torch

        from harness.probes.operations import ACTIVATION, LAYERS
        from harness.probes.rows import Channels, images_first

        network = subject.network
        layout: Any = None
        collected: list = []

        def rectify(operation):
            if operation.fixed:  # of parameters, which are no features
                return operation.run()
            output = torch.relu_(operation.input) if operation.writes else torch.relu(operation.input)
            place = layout.place(operation.index)
            measured(images_first(output, channels.of(operation, output), place, self.batch_size).movedim(-1, 1))
            return output

        def layer(operation):
            result = positive.handlers[operation.kind](operation)
            channels.of(operation, result)
            return result

        def measured(output):
            positions = list(range(2, output.ndim))
            dims = {"channels": [1], "positions": positions, "layer": [1, *positions]}[self.over]
            top = output.amax(dim=dims, keepdim=True) if dims else output
            share = torch.where(top > 0, output / top, torch.zeros_like(output))
            collected.append(-(share * (share + self.eps).log()).mean())

        rows, finite = [], []
        for repeat in range(self.repeats):
            if self.signed:
                subject.initialise(self.init, repeat, "float64")
            else:
                _make_positive(subject, self.init, repeat)
            noise = torch.empty(self.batch_size, *subject.shape, dtype=torch.float64)
            noise.uniform_(-0.5, 0.5, generator=subject.generator("uniform noise", repeat))
            collected.clear()
            layout = layout or subject.layout()
            positive, channels = _Positive(network), Channels()
            handlers = {**positive.handlers, **dict.fromkeys(LAYERS, layer), ACTIVATION: rectify}
            with torch.no_grad(), _without_normalisation(network, handlers, passed=channels.of):
                finite.append(torch.isfinite(_in_float64(network, noise.to(subject.device))).all())
            if not collected:
                raise Unscorable("the network computes no activation")
            rows.append(torch.stack(collected))
        check_finite(finite)
        return {"entropies": torch.stack(rows).cpu().numpy()}


@dataclass(frozen=True)
class AttentionPass(Probe):
    """Forward of an image of ones and backward of the sum of the logits, |weights|, BatchNorm off, float64.

    Observables, w the absolute weights and g their gradient: `diversity` (A,), per projection of an attention
    module |g|_nuc * |w|_nuc (nuclear norms; a fused projection of queries, keys and values counts as one), and
    `gradient_sum` (A,), the sum of |g|; `saliency` (M,), per other linear layer but the classifier the sum of |w * g|,
    and `sigmoid_gradient` (M,), the mean of the sigmoid of g; `head_saliency` (1,), the saliency of the classifier, and
    `head_outputs`, its number of outputs. The classifier is the last layer that is computed, if it is a linear one.

    `signed`: the weights keep their signs, but parameters of the network itself, as a class token, and of the
    projections the one of each attention alone is read that is computed last.
    """

    init: str = "xavier"
    signed: bool = False

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch
        from torch import nn

        network = subject.network
        if self.signed:
            subject.initialise(self.init, 0, "float64")
            with torch.no_grad():
                for parameter in network.parameters(recurse=False):
                    parameter.abs_()
        else:
            _make_positive(subject, self.init, 0)
        inner = [{id(part) for part in module.modules()} for _, module in attention_modules(network)]
        inside = set().union(*inner)
        layers = list(weight_layers(network).values())
        linear = [layer for layer in layers if isinstance(layer.module, nn.Linear)]
        fused = [layer for layer in layers if isinstance(layer.module, nn.MultiheadAttention)]
        chosen = [layer for layer in linear if id(layer.module) in inside] + fused
        if not chosen:
            raise Unscorable("no attention module with linear projections")
        for layer in linear + fused:
            if layer.parametrised:
                raise Unscorable(f"the weights of the parametrised layer {layer.name} are no parameters")
        ones = torch.ones(1, *subject.shape, dtype=torch.float64, device=subject.device)
        order = _Order()
        with _without_normalisation(network, order.handlers, "batch_norm"):
            total = _in_float64(network, ones).sum()
        if self.signed:
            lasts = [order.last(layer for layer in linear if id(layer.module) in parts) for parts in inner]
            chosen = list({layer.name: layer for layer in lasts if layer is not None}.values())
        others = [layer for layer in linear if id(layer.module) not in inside]
        classifier = [layer for layer in others if layer.name == order.classifier]
        others = [layer for layer in others if layer not in classifier] + classifier
        weights = [layer.weight for layer in chosen + others]
        grads = gradients(total, weights)
        finite = to_host([torch.ones(()) if grad is None else torch.isfinite(grad).all() for grad in grads])
        read = list(zip(weights, grads, finite, strict=True))
        own, head = len(chosen), len(read) - len(classifier)
        forms: dict[str, tuple[Callable, list, float]] = {
            "diversity": (_diversity, read[:own] if "diversity" in wanted else [], 0.0),  # takes longer than all else
            "gradient_sum": (lambda weight, grad, known: grad.abs().sum(), read[:own], 0.0),
            "saliency": (_saliency, read[own:head], 0.0),
            "sigmoid_gradient": (lambda weight, grad, known: grad.sigmoid().mean(), read[own:head], 0.5),
            "head_saliency": (_saliency, read[head:], 0.0),
        }
        values = [
            torch.tensor(absent) if grad is None else form(weight.detach(), grad, known)
            for form, rows, absent in forms.values()
            for weight, grad, known in rows
        ]
        ends = np.cumsum([len(rows) for _, rows, _ in forms.values()])[:-1]
        found: dict[str, Any] = dict(zip(forms, np.split(to_host(values), ends), strict=True))
        return found | {"head_outputs": classifier[0].module.out_features if classifier else 0}


class _Order:
    """The order in which a forward computes its layers, by their names; `classifier` is the last of all."""

    def __init__(self) -> None:
        from harness.probes.operations import LAYERS, PRODUCT

        self._places: dict[str, int] = {}
        self.classifier: str | None = None
        self.handlers: dict[str, Handler] = {**dict.fromkeys(LAYERS, self._layer), PRODUCT: self._product}

    def _product(self, operation: Operation) -> Any:
        return self._layer(operation) if operation.owner else operation.run()

    def _layer(self, operation: Operation) -> Any:
        if not operation.fixed:
            self.classifier = operation.owner
            if operation.owner is not None:
                self._places.setdefault(operation.owner, len(self._places))
        return operation.run()

    def last(self, layers: Iterable[Layer]) -> Layer | None:
        """Of some layers the one that is computed last; of those that are not computed the last."""
        ordered = sorted(layers, key=lambda layer: self._places.get(layer.name, -1))
        return ordered[-1] if ordered else None


def _diversity(weight: Any, grad: Any, finite: bool) -> Any:
    import torch

    if not finite:
        return torch.tensor(float("nan"))
    return torch.linalg.matrix_norm(grad, ord="nuc") * torch.linalg.matrix_norm(weight, ord="nuc")


def _saliency(weight: Any, grad: Any, finite: bool) -> Any:
    return (weight * grad).abs().sum()
