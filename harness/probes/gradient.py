"""The gradient pass: one forward and backward of a labelled mini-batch, read by most proxies at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

from harness.probes.base import (
    IMAGES,
    OncePerTensor,
    Probe,
    Subject,
    Unscorable,
    finite_logits,
    gradients,
    hooked,
    loss,
    outputs,
    read_back,
    together,
    weight_layers,
)
from harness.probes.correlations import ReluCorrelations, agreement, correlation
from harness.probes.hessian import hessian_gradient, twice_differentiable
from harness.probes.rows import Rows, participation
from harness.probes.variations import VARIATIONS, variations

if TYPE_CHECKING:
    import torch

    from harness.probes.layout import Place
    from harness.probes.operations import Grouped, Operation


@dataclass(frozen=True)
class GradientPass(Probe):
    """Forward and backward of the mean `loss` of one mini-batch, BatchNorm on batch statistics: cross-entropy mostly.

    Observables. L layers (convolutions and linear layers in module order, then parameters that are used as such a
    layer's weights), R ReLUs in the order in which they are computed, B images; g the gradient of a layer's weights w,
    a its output.

    - `gradient_norm`, `gradient_sum_abs` (L,): L2 norm of g, sum of |g|
    - `saliency_sum`, `saliency_sum_abs` (L,): sums of w*g and of |w*g|
    - `saliency_std`, `gradient_std` (L,): population standard deviation of |w*g| and of |g| over a layer
    - `all_gradient_norm`: L2 norm of the gradient of all parameters, biases and normalisations too
    - `fisher` (L,): sum over channels of (weights of the channel) * mean over images of
      (sum over positions of a * dL/da)^2 / 2
    - `relu_kernels` (R, B, B): number of equal bits of the codes [input of the ReLU > 0] of two images;
      `activation_kernels`: the same of all activations that work on each number by itself, GELU and SiLU among them
    - `relu_places` (L,): which of those kernels belongs to the ReLU whose output the layer reads; -1 if none
    - `layer_kernels` (L', B, B), `layer_places` (L,): the same for the codes [layer output > 0]
    - `zico` (L,): sum over weights of mean(|g|) / std(g) over `minibatches` mini-batches (population
      deviation; weights of zero deviation left out); its parts `gradient_mean` (L,), sum of mean(|g|), and
      `inverse_signed_deviation` (L,), of 1 / std(g), over the same weights, of which there are `varying_weights` (L,);
      `inverse_deviation` (L,): of 1 / std(|g|)
    - `map_sizes` (L,): sum over a layer's calls of ln(positions of its output / sqrt(its channels)), 0 if there is none
    - `activation_correlations` (R, B, B): Pearson correlation of the inputs of a ReLU for two images, NaN where one's
      is constant; `gradient_correlations` (R, B, B): of the gradients with respect to that input, NaN too where none
      arrives; `relu_stages` (R,): how many of the network's stages had ended before the ReLU
    - `participations` (R,): ln((tr C)^2 / tr(C^2)), C the covariance of the channels of a ReLU's output
    - `gradient_spread`: sum over parameter tensors of min(1, std(g) / (max |g| + 1e-8)), population deviation
    - `input_jacobian_correlation` (B, B): Pearson correlation of the gradients of the summed logits with
      respect to each image; `labels` (B,); `classes`, the number of logits
    - `grasp` (L,): sum of -w * (H g), H the Hessian of the loss

    `biases`: of the space's network with biases in the convolutions of its cells. Raises Unscorable where it has none.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    minibatches: int = 2
    dtype: str = "float32"
    biases: bool = False

    outputs: ClassVar[frozenset[str]] = IMAGES
    of_classes: ClassVar[frozenset[str]] = frozenset({"labels", "classes"})

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        from harness.probes.operations import Grouped

        if self.biases:
            subject = subject.biased() if subject.biased else None
            if subject is None:
                raise Unscorable("there is no network with biases in its cells here: leave out biases=True")
        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        images, labels = subject.images(self.batch_size, self.dtype)
        seen = Seen(subject, wanted, len(images))
        read = images
        if "input_jacobian_correlation" in wanted or seen.needs_images:
            read = images.requires_grad_(True).clone()  # the network may write into its input, but no leaf
        found: dict[str, Any] = {}
        stages = [(stage, seen.correlations.finish) for stage in subject.stages] if seen.correlations else []
        with _recorded(network, wanted), seen.watch, hooked(stages):
            logits = finite_logits(network, read)
        found.update(seen.kernels())
        if "input_jacobian_correlation" in wanted:
            rows = _input_jacobian(logits, images)
            found["input_jacobian_correlation"] = correlation(rows.flatten(1))
            found["labels"], found["classes"] = _classes(labels), logits.shape[1]
        if not wanted & OF_THE_LOSS:
            return read_back(found)
        weights = Grouped(seen.weights.tensors())
        parameters = [p for p in network.parameters() if p.requires_grad] if wanted & OF_ALL_PARAMETERS else []
        targets = _distinct([*parameters, *weights.tensors, *([images] if seen.needs_images else [])])
        with seen.backward():
            value = loss(logits, labels)
            raw = gradients(value, targets, create_graph="grasp" in wanted)
        by_id = {id(target): grad for target, grad in zip(targets, raw, strict=True)}
        if wanted & OF_THE_WEIGHTS and not any(tensor.requires_grad for tensor in weights.tensors):
            raise Unscorable("no trainable weight")
        graph_grads = weights.sums([by_id[id(tensor)] for tensor in weights.tensors])
        if "grasp" in wanted:
            found["grasp"] = _grasp(weights, graph_grads)
        if "all_gradient_norm" in wanted:
            present = [by_id[id(p)].detach().flatten() for p in parameters if by_id[id(p)] is not None]
            found["all_gradient_norm"] = torch.cat(present).double().norm() if present else 0.0
        if "gradient_spread" in wanted:
            found["gradient_spread"] = _spreads([by_id[id(p)] for p in parameters])
        if "gradient_correlations" in wanted:
            found["gradient_correlations"] = seen.correlations.gradients()
        held = [weight.detach() for weight in weights.firsts]
        grads = [torch.zeros_like(w) if g is None else g.detach() for w, g in zip(held, graph_grads, strict=True)]
        del logits, value, raw, by_id, graph_grads  # the graph holds every activation

        per_layer = {
            "gradient_norm": lambda: [g.norm() for g in grads],
            "gradient_sum_abs": lambda: [g.abs().sum() for g in grads],
            "gradient_std": lambda: [g.abs().std(correction=0) for g in grads],
            "saliency_sum": lambda: [s.sum(dtype=torch.float64) for s in saliencies],
            "saliency_sum_abs": lambda: [s.abs().sum() for s in saliencies],
            "saliency_std": lambda: [s.abs().std(correction=0) for s in saliencies],
            "fisher": seen.fisher_sums,
        }
        saliencies = [w * g for w, g in zip(held, grads, strict=True)]
        found.update({name: together(compute()) for name, compute in per_layer.items() if name in wanted})
        if wanted & OF_MINIBATCHES:
            varied = self._variations(subject, grads, len(labels), OF_MINIBATCHES & wanted)
            found.update({name: together(values) for name, values in varied.items()})
        found = read_back(found)
        if "gradient_spread" in wanted:
            found["gradient_spread"] = float(np.sum(found["gradient_spread"]))
        return found

    def _variations(self, subject: Subject, first: list, read: int, wanted: frozenset[str]) -> dict[str, list]:
        """By wanted observable what the layers' gradients over mini-batches give.

        Args:
            first: the gradients of the weights over the pass's own mini-batch of `read` images.
        """
        batches = []
        for number in range(self.minibatches):
            images, labels = subject.images(self.batch_size, self.dtype, number, self.minibatches)
            if number == 0 and len(labels) == read:
                batches.append(first)
            else:
                batches.append(list(layer_gradients(subject, images, labels).values()))
        return variations(batches, wanted)


#: What follows the name of a layer in that of its biases.
BIAS = " bias"

#: Observables that need the gradient of the loss, and those of them that need a trainable weight.
OF_THE_WEIGHTS = frozenset(
    {
        *("gradient_norm", "gradient_sum_abs", "gradient_std", "saliency_sum", "saliency_sum_abs", "saliency_std"),
        *("all_gradient_norm", "gradient_spread", "grasp", *VARIATIONS),
    }
)
OF_THE_LOSS = OF_THE_WEIGHTS | {"fisher", "gradient_correlations"}
OF_MINIBATCHES = frozenset(VARIATIONS)
OF_ALL_PARAMETERS = frozenset({"all_gradient_norm", "gradient_spread"})
#: Observables of the ReLUs, and of all activations.
CORRELATIONS = frozenset({"activation_correlations", "gradient_correlations", "relu_stages"})
OF_RELUS = CORRELATIONS | {"relu_kernels", "participations"}
OF_ACTIVATIONS = OF_RELUS | {"activation_kernels"}


def _recorded(network: Any, wanted: frozenset[str]) -> AbstractContextManager:
    """How the forward is recorded: twice differentiable, once, or, for what reads no gradient, not at all."""
    import torch

    if "grasp" in wanted:
        return twice_differentiable(network)
    return nullcontext() if wanted & (OF_THE_LOSS | {"input_jacobian_correlation"}) else torch.no_grad()


def _spreads(grads: list) -> Any:
    """Per parameter tensor that has a gradient min(1, std(g) / (max |g| + 1e-8)); 0 where none has."""
    present = [grad.detach().double() for grad in grads if grad is not None]
    parts = [(grad.std(correction=0) / (grad.abs().max() + 1e-8)).clamp(max=1) for grad in present]
    return together(parts) if parts else 0.0


def _distinct(tensors: list) -> list:
    return list({id(tensor): tensor for tensor in tensors}.values())


def _grasp(weights: Grouped, grads: list) -> Any:
    import torch

    products = weights.sums(hessian_gradient(weights.tensors, grads))
    return together(
        [
            torch.zeros(()) if h is None else -(w.detach() * h).sum(dtype=torch.float64)
            for w, h in zip(weights.firsts, products, strict=True)
        ]
    )


def layer_gradients(
    subject: Subject,
    images: torch.Tensor,
    labels: torch.Tensor,
    objective: Callable | None = None,
    biases: Mapping[str, torch.Tensor] = MappingProxyType({}),
) -> dict[str, torch.Tensor]:
    """By layer the gradient of its weights, 0 where none arrives, of the mean `loss` of a mini-batch.

    Args:
        objective: of logits and labels, what is differentiated instead.
        biases: of layers by their names, whose gradients follow, by these and `BIAS`.
    """
    import torch

    from harness.probes.operations import Grouped

    seen = Seen(subject, frozenset(), len(images))
    with seen.watch:
        logits = outputs(subject.network, images)
    groups = seen.weights.tensors() | {name + BIAS: seen.biases_of(name, held) for name, held in biases.items()}
    weights = Grouped(groups)
    value = loss(logits, labels) if objective is None else objective(logits, labels)
    grads = weights.sums(gradients(value, weights.tensors))
    grads = [torch.zeros_like(w) if g is None else g for w, g in zip(weights.firsts, grads, strict=True)]
    return dict(zip(groups, grads, strict=True))


class Seen:
    """What one forward and backward show: weights, codes of ReLUs and layers, Fisher information of the outputs."""

    def __init__(self, subject: Subject, wanted: frozenset[str], count: int):
        from harness.probes.operations import ACTIVATION, LAYERS, NORMALISATION, PRODUCT, Watch, Weights

        self._layers = weight_layers(subject.network)
        self._wanted, self._count = wanted, count
        reads_images = wanted & (OF_ACTIVATIONS | {"fisher", "layer_kernels"})
        self._layout = subject.layout() if reads_images else None
        self.correlations = None
        if wanted & CORRELATIONS:
            self.correlations = ReluCorrelations(self._layout, count, lambda: self._watching)
        self._rows = Rows(self._layout, count) if "participations" in wanted else None
        self._participations: list[torch.Tensor] = []
        self._participation: dict[float | None, OncePerTensor] = {}  # by the greatest value of a ReLU
        self._map_sizes: dict[str, float] = {}
        self._kernel = OncePerTensor(agreement)
        self._relu_kernels: list[torch.Tensor] = []
        self._activation_kernels: list[torch.Tensor] = []
        self._layer_kernels: dict[str, torch.Tensor] = {}
        self._sources: dict[str, set[int]] = {}  # layer -> the ReLUs that feed it
        self._written: dict[int, tuple[torch.Tensor, int, int]] = {}  # address of a ReLU's output -> it, version, ReLU
        self._fisher: dict[str, list[torch.Tensor]] = {}
        self._watching = False
        self._biases: dict[str, dict[int, torch.Tensor]] = {}  # layer -> those that are no parameters, as applied
        self.weights = Weights(subject.network, self._layers)
        # A gradient has to come by each layer's output, whoever else asks for gradients.
        self.needs_images = "gradient_correlations" in wanted or (
            "fisher" in wanted
            and not all(source.requires_grad for layer in self._layers.values() for source in layer.sources)
        )
        handlers = {**dict.fromkeys(LAYERS, self._layer), PRODUCT: self._product}
        if wanted & OF_ACTIVATIONS:
            handlers[ACTIVATION] = self._activation
        if self._rows is not None:
            handlers[NORMALISATION] = self._norm
        self.watch = Watch(subject.network, handlers)

    @contextmanager
    def backward(self) -> Iterator[None]:
        """The backward pass of the loss: those of the Jacobian and of the Hessian run the same tensor hooks."""
        self._watching = True
        try:
            yield
        finally:
            self._watching = False

    def _activation(self, operation: Operation) -> Any:
        from harness.probes.operations import RELUS

        if operation.fixed:  # of parameters, which are no features
            return operation.run()
        if "activation_kernels" in self._wanted:
            self._activation_kernels.append(self._agreement(operation.input, operation.index))
        if operation.name not in RELUS:
            return self._noted(operation)
        if "relu_kernels" in self._wanted:
            self._relu_kernels.append(self._agreement(operation.input, operation.index))
        if self.correlations is not None:
            self.correlations.read(operation)
        if self._rows is not None:
            self._participations.append(self._participation_of(operation))
        result = self._noted(operation)
        if "gradient_correlations" in self._wanted:
            self.correlations.follow(operation, result)
        # Held: its address is given anew once it is gone, as before a frozen layer, where no graph keeps it.
        self._written[result.data_ptr()] = result.detach(), result._version, len(self._relu_kernels) - 1
        return result

    def _norm(self, operation: Operation) -> Any:
        return self._noted(operation)

    def _noted(self, operation: Operation) -> Any:
        """The operation's result, the place of whose channels is remembered where it counts."""
        result = operation.run()
        if self._rows is not None:
            self._rows.note(operation, result)
        return result

    def _participation_of(self, operation: Operation) -> torch.Tensor:
        """Of the output of a ReLU, computed once for all that read the same tensor."""

        def compute(values: torch.Tensor) -> torch.Tensor:
            samples = self._rows.of(operation, values.detach().clamp(0, operation.ceiling))
            return participation(samples.flatten(0, -2))

        return self._participation.setdefault(operation.ceiling, OncePerTensor(compute))(operation.input)

    def _agreement(self, values: torch.Tensor, index: int) -> torch.Tensor:
        from harness.probes.layout import FIRST

        place = self._layout.place(index)
        if place == FIRST and len(values) == self._count:
            return self._kernel(values)
        return agreement(place.split(values.detach(), self._count))

    def _layer(self, operation: Operation) -> Any:
        self.weights.see(operation)
        if operation.owner is None and not operation.fixed:
            self._refuse_merged(operation)
        elif "relu_places" in self._wanted and not operation.fixed:
            self._read(operation.owner, operation.input)
        bias = operation.get("bias")
        if bias is not None and not bias.is_leaf and operation.owner is not None:
            self._biases.setdefault(operation.owner, {})[id(bias)] = bias
        result = operation.run()
        if "layer_kernels" in self._wanted and not operation.fixed:
            kernel = self._agreement(result, operation.index)
            held = self._layer_kernels.get(operation.owner)
            self._layer_kernels[operation.owner] = kernel if held is None else held + kernel
        if "fisher" in self._wanted and not operation.fixed:
            self._information(operation, result)
        if "map_sizes" in self._wanted and operation.owner is not None and not operation.fixed:
            channels = result.shape[operation.channels]
            size = math.log(result.numel() / self._count / channels**1.5)
            self._map_sizes[operation.owner] = self._map_sizes.get(operation.owner, 0.0) + size
        if self._rows is not None:
            self._rows.note(operation, result)
        return result

    def _refuse_merged(self, operation: Operation) -> None:
        """Raises Unscorable where a layer's output counts and is that of several layers, whose kernels are summed."""
        merged = len(self.watch.owners(operation.weight)) > 1
        if "layer_kernels" in self._wanted or (merged and self._wanted & {"map_sizes", "relu_places"}):
            raise Unscorable(f"the weights of a {operation.kind} belong to no layer")

    def _read(self, layer: str, values: torch.Tensor) -> None:
        """Note the ReLU whose output, the whole of it and as it was, a layer reads."""
        output, version, relu = self._written.get(values.data_ptr(), (None, 0, 0))
        if output is not None and output.numel() == values.numel() and values._version == version:
            self._sources.setdefault(layer, set()).add(relu)

    def _product(self, operation: Operation) -> Any:
        self.weights.see(operation)
        if operation.owner and self._wanted & {"fisher", "layer_kernels", "map_sizes", "relu_places"}:
            raise Unscorable(f"layer {operation.owner} is used by {operation.name}, whose output is no layer's")
        return operation.run()

    def _information(self, operation: Operation, result: torch.Tensor) -> None:
        if not result.requires_grad:
            raise Unscorable(
                f"no gradient is recorded at the output of layer {operation.owner} (torch.no_grad, detach or an "
                "autograd.Function in the network's forward)"
            )
        place = self._layout.place(operation.index)
        share = operation.weight.numel() // result.shape[operation.channels]
        held, channels = self.watch.keep(result.detach()), operation.channels
        collected = self._fisher.setdefault(operation.owner or f"operation {operation.index}", [])

        def collect(grad):
            if self._watching:
                collected.append((_fisher(held.value, grad.detach(), channels, place, self._count) * share).sum())

        result.register_hook(collect)

    def fisher_sums(self) -> list:
        """Per layer the sum over channels, each counted once for each of its weights; 0 where no gradient came."""
        import torch

        names = dict.fromkeys((*self._layers, *self._fisher))
        calls = [self._fisher.get(name) for name in names]
        return [sum(found[1:], found[0]) if found else torch.zeros(()) for found in calls]

    def biases_of(self, layer: str, held: torch.Tensor) -> list[torch.Tensor]:
        """The parameter that holds a layer's biases, or what was computed in its place and applied.

        Raises Unscorable where that was applied in parts, as attention has the biases of its projections in one.
        """
        found = [held] if held.is_leaf else list(self._biases.get(layer, {id(held): held}).values())
        if any(bias.shape != held.shape for bias in found):
            raise Unscorable(f"the parametrised biases of layer {layer} are applied in parts")
        return found

    def kernels(self) -> dict[str, Any]:
        """What the forward alone has shown of ReLUs and layers, where it was asked for, still on its device.

        Raises Unscorable when nothing that was to give them was computed.
        """
        import numpy as np
        import torch

        found: dict[str, Any] = {}
        names = list(self.weights.tensors())
        if "relu_kernels" in self._wanted:
            if not self._relu_kernels:
                raise Unscorable("the network computes no ReLU")
            found["relu_kernels"] = torch.stack(self._relu_kernels)
        if "activation_kernels" in self._wanted:
            if not self._activation_kernels:
                raise Unscorable("the network computes no activation")
            found["activation_kernels"] = torch.stack(self._activation_kernels)
        if self.correlations is not None:
            found["activation_correlations"] = self.correlations.inputs()
            found["relu_stages"] = self.correlations.stages()
        if "participations" in self._wanted:
            if not self._participations:
                raise Unscorable("the network computes no ReLU")
            found["participations"] = together(self._participations)
        if "map_sizes" in self._wanted:
            found["map_sizes"] = np.array([self._map_sizes.get(name, 0.0) for name in names])
        if "relu_places" in self._wanted:
            if any(len(sources) > 1 for sources in self._sources.values()):
                raise Unscorable("a layer that is used several times reads several ReLUs")
            found["relu_places"] = np.array([next(iter(self._sources.get(name, ())), -1) for name in names])
        if "layer_kernels" in self._wanted:
            if not self._layer_kernels:
                raise Unscorable("the network computes no layer")
            called = [name for name in names if name in self._layer_kernels]
            place = {name: i for i, name in enumerate(called)}
            found["layer_kernels"] = torch.stack([self._layer_kernels[name] for name in called])
            found["layer_places"] = np.array([place.get(name, -1) for name in names])
        return found


def _fisher(output: torch.Tensor, grad: torch.Tensor, channels: int, place: Place, count: int) -> torch.Tensor:
    """Per channel (dimension `channels`, from the end): mean over images of (sum over positions of a * dL/da)^2 / 2."""
    product = output * grad
    channels %= product.ndim
    if place.dimension == channels:
        raise Unscorable("a layer holds images among its channels")
    if place.dimension != 0 or len(product) != count:
        product = product.movedim(channels, -1)
        moved = dataclasses.replace(place, dimension=place.dimension - (place.dimension > channels))
        product = moved.split(product, count)
        channels = product.ndim - 1
    positions = [dim for dim in range(1, product.ndim) if dim != channels]
    if positions:
        product = product.sum(dim=positions)
    return product.square().mean(dim=0) / 2


def _classes(labels: Any) -> Any:
    """Labels (B,); of numbers (B, K) the place of the largest, as NAS-Bench-Suite-Zero takes them for classes."""
    return labels.argmax(dim=1) if labels.ndim == 2 else labels


def _input_jacobian(logits: Any, images: Any) -> Any:
    import torch

    if not logits.requires_grad:
        return torch.zeros_like(images)
    (rows,) = torch.autograd.grad(logits.sum(), images, retain_graph=True, allow_unused=True)
    return torch.zeros_like(images) if rows is None else rows
