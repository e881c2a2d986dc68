"""What a network computes, operation by operation: the one mechanism by which passes watch and replace.

A module is no measure of that: `F.relu(x)`, `x.relu_()`, `nn.ReLU()(x)`, a subclass with a forward of its own, a layer
that is parametrised, shared or used by function compute one and the same thing. `Watch` is a `TorchFunctionMode`: it
sees each call of torch that the network makes, from wherever it comes.
"""

from __future__ import annotations

import inspect
import types
import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode

from harness.probes.base import Unscorable

CONVOLUTION, TRANSPOSED, LINEAR, PRODUCT = "convolution", "transposed convolution", "linear", "product"
NORMALISATION, ACTIVATION, POOLING, RANDOM = "normalisation", "activation", "pooling", "random"
#: Operations that apply a layer's weights.
LAYERS = (CONVOLUTION, TRANSPOSED, LINEAR)

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ATEN = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ATEN_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_POOL = ("input", "kernel_size", "stride", "padding")

_NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"conv{d}d": (CONVOLUTION, _CONVOLUTION) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": (TRANSPOSED, _TRANSPOSED) for d in (1, 2, 3)},
    "convolution": (CONVOLUTION, _ATEN),
    "linear": (LINEAR, ("input", "weight", "bias")),
    "addmm": (PRODUCT, ("bias", "input", "weight")),
    **dict.fromkeys(("matmul", "__matmul__", "mm"), (PRODUCT, ("input", "weight"))),
    **dict.fromkeys(("bmm", "baddbmm", "addbmm", "einsum", "tensordot", "inner"), (PRODUCT, ())),
    "batch_norm": (NORMALISATION, _NORM),
    "instance_norm": (NORMALISATION, _NORM),
    "group_norm": (NORMALISATION, ("input", "num_groups", "weight", "bias", "eps")),
    "layer_norm": (NORMALISATION, ("input", "normalized_shape", "weight", "bias", "eps")),
    "rms_norm": (NORMALISATION, ("input", "normalized_shape", "weight", "eps")),
    "local_response_norm": (NORMALISATION, ("input", "size")),
    **{f"{kind}_pool{d}d": (POOLING, _POOL) for kind in ("avg", "max") for d in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{d}d": (POOLING, ("input", "output_size")) for kind in ("avg", "max") for d in (1, 2, 3)},
    **{f"lp_pool{d}d": (POOLING, ("input", "norm_type", "kernel_size")) for d in (1, 2, 3)},
    **{f"fractional_max_pool{d}d": (POOLING, ("input",)) for d in (2, 3)},
    **dict.fromkeys(
        ("rand", "rand_like", "randn", "randn_like", "uniform", "normal", "bernoulli"), (RANDOM, ("input",))
    ),
    **{name: (RANDOM, ("input",)) for name in dir(F) if "dropout" in name},
}
#: Activations by the name of their function; `softmax` and `glu` are no units that are on or off.
RELUS = frozenset({"relu", "relu6"})
ACTIVATIONS = RELUS | {
    *("leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "sigmoid", "tanh"),
    *("softplus", "hardsigmoid", "hardtanh", "special_expit"),
}
_NAMED.update(dict.fromkeys(ACTIVATIONS, (ACTIVATION, ("input",))))
_NAMED["hardtanh"] = (ACTIVATION, ("input", "min_val", "max_val"))

_WRITING = frozenset({"__setitem__"} | {f"__i{name}__" for name in (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor"),
)})  # fmt: skip


class _Kind:
    """What is known of a function of torch: an operation's kind, its arguments' names, and whether it writes."""

    __slots__ = ("arguments", "expanded", "inplace", "kind", "name", "writes")

    def __init__(self, function: Callable):
        name = getattr(function, "__name__", "")
        own = name.startswith("__") or name == "_"
        self.writes = name in _WRITING or (name.endswith("_") and not own)
        self.name = name if own else name.rstrip("_")
        self.kind, self.arguments = _NAMED.get(self.name, (None, ()))
        if function in (torch.batch_norm, torch.instance_norm):
            self.arguments = _ATEN_NORM
        self.inplace = -1
        self.expanded = None
        if isinstance(function, types.FunctionType):
            parameters = list(inspect.signature(function).parameters)
            self.inplace = parameters.index("inplace") if "inplace" in parameters else -1
            if function is F.multi_head_attention_forward:  # its own operations are what counts
                self.expanded = _expanded(function)


_KINDS: dict[Callable, _Kind] = {}


def _expanded(function: types.FunctionType) -> Callable:
    """The body of a function of torch that is written in Python: it asks no mode, so that its operations are seen."""
    asks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    world = {**function.__globals__, **dict.fromkeys(asks, lambda *_: False)}
    copy = types.FunctionType(function.__code__, world, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


class Operation:
    """One call of an operation, with its arguments by name whichever way they were given.

    Attributes:
        index: how many layers and activations the network computed before, in this forward; -1 for other kinds.
        owner: name of the layer, or else of the parameter, whose weights a layer or product applies: None where they
            are no parameter's alone, or come from the images.
        fixed: whether the input is computed from parameters and buffers alone.
    """

    __slots__ = ("_call", "arguments", "fixed", "index", "kind", "name", "owner", "writes")

    def __init__(self, kind: _Kind, func: Callable, args: tuple, kwargs: dict[str, Any], writes: bool):
        self.kind, self.name, self.writes = kind.kind, kind.name, writes
        self._call = kind, func, args, kwargs
        self.arguments = dict(zip(kind.arguments, args, strict=False))  # the last ones are of no interest
        self.arguments.update(kwargs)
        self.index, self.owner, self.fixed = -1, None, False

    def run(self) -> Any:
        """The result that the network asked for."""
        _, func, args, kwargs = self._call
        return func(*args, **kwargs)

    def run_with(self, **changed: Any) -> Any:
        """The result with other arguments."""
        kind, func, args, kwargs = self._call
        changed = {name: value for name, value in changed.items() if name in self.arguments}
        args = (
            tuple(changed.pop(name, arg) for name, arg in zip(kind.arguments, args, strict=False))
            + args[len(kind.arguments) :]
        )
        return func(*args, **{**kwargs, **changed})

    @property
    def input(self) -> torch.Tensor:
        return self.arguments["input"]

    @property
    def weight(self) -> torch.Tensor:
        return self.arguments["weight"]

    def get(self, name: str, default: Any = None) -> Any:
        return self.arguments.get(name, default)

    @property
    def channels(self) -> int:
        """The dimension of the output that holds the channels."""
        return -1 if self.kind == LINEAR else -(self.weight.ndim - 1)


class Kept:
    """A tensor as it is now: the network may write into its memory later (`Watch.keep`)."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: torch.Tensor):
        self.value = value


class Layer:
    """A convolution or linear layer: where its weights are kept.

    `weight` is what the operation applies; that of a parametrised layer is computed anew by each reading.
    """

    __slots__ = ("attribute", "module", "name")

    def __init__(self, name: str, module: nn.Module, attribute: str):
        self.name, self.module, self.attribute = name, module, attribute

    @property
    def weight(self) -> torch.Tensor:
        return getattr(self.module, self.attribute)

    @property
    def parametrised(self) -> bool:
        return nn.utils.parametrize.is_parametrized(self.module, self.attribute)

    @property
    def sources(self) -> list[torch.Tensor]:
        """The parameters that hold the weights: one, or those of the parametrisation."""
        if self.parametrised:
            return list(self.module.parametrizations[self.attribute].parameters())
        return [self.weight]


_PROJECTIONS = ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight")


def layers_of(network: nn.Module) -> Iterator[Layer]:
    """Convolutions and linear layers in module order, the projections of torch's attention among the latter.

    Layers that share one Parameter are one layer, as one that is called several times is.
    """
    kinds = (nn.modules.conv._ConvNd, nn.Linear)
    seen: set[int] = set()
    for name, module in network.named_modules():
        if isinstance(module, kinds):
            found = [Layer(name, module, "weight")]
        elif isinstance(module, nn.MultiheadAttention):
            held = [attribute for attribute in _PROJECTIONS if getattr(module, attribute) is not None]
            found = [Layer(f"{name}.{attribute}" if name else attribute, module, attribute) for attribute in held]
        else:
            continue
        for layer in found:
            # A list: what is computed anew by each reading has no identity.
            identities = {id(source) for source in layer.sources}
            if not identities & seen:
                yield layer
            seen |= identities


class Weights:
    """The tensors that hold each layer's weights in a forward: a handler of layers and products adds to them.

    Those of a layer are its Parameter; of one that is parametrised what its operations applied; and a Parameter of the
    network that is applied as a layer's weights without being one's is a layer of its own, after the others.
    """

    def __init__(self, network: nn.Module, layers: dict[str, Layer]):
        self._layers = layers
        self._parametrised = {name for name, layer in layers.items() if layer.parametrised}
        self._parameters = dict(network.named_parameters())
        self._used: dict[str, list[torch.Tensor]] = {}

    def see(self, operation: Operation) -> None:
        """Raises Unscorable where a Parameter is a weight in a way that has no layer's form."""
        owner = operation.owner
        if owner is None or (owner in self._layers and owner not in self._parametrised):
            return
        if owner in self._parametrised:
            used = self._used.setdefault(owner, [])
            if operation.kind != PRODUCT and not any(tensor is operation.weight for tensor in used):
                used.append(operation.weight)
        elif operation.kind == PRODUCT:
            raise Unscorable(
                f"parameter {owner} is used by {operation.name}, whose weights are no layer's: use F.linear"
            )
        elif owner in self._parameters:
            self._used[owner] = [self._parameters[owner]]

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """By layer, in module order; what no operation has applied is there too."""
        found = {name: self._used.get(name) or [layer.weight] for name, layer in self._layers.items()}
        return {**found, **self._used}


class Grouped:
    """Tensors by layer, as `Weights.tensors` gives them: mostly one each."""

    def __init__(self, groups: dict[str, list[torch.Tensor]]):
        self._sizes = [len(group) for group in groups.values()]
        self.tensors = [tensor for group in groups.values() for tensor in group]
        self.firsts = [group[0] for group in groups.values()]

    def sums(self, values: list[torch.Tensor | None]) -> list[torch.Tensor | None]:
        """Per layer the sum of the values of its tensors, None where there is none."""
        found, start = [], 0
        for size in self._sizes:
            present = [value for value in values[start : start + size] if value is not None]
            found.append(sum(present[1:], present[0]) if present else None)
            start += size
        return found


class ChannelsLast:
    """Which maps have their channels in the last dimension: what a linear layer or a LayerNorm over channels gives."""

    def __init__(self) -> None:
        self._known: dict[int, torch.Tensor] = {}

    def note(self, operation: Operation, result: torch.Tensor) -> None:
        over_channels = operation.name in ("layer_norm", "rms_norm") and len(operation.get("normalized_shape")) == 1
        if result.ndim == 4 and (operation.kind == LINEAR or over_channels):
            self._known[id(result)] = result

    def first(self, operation: Operation, result: torch.Tensor) -> torch.Tensor:
        """`result`, its channels in the second dimension."""
        self.note(operation, result)
        if id(operation.get("input")) in self._known:
            self._known[id(result)] = result
        return result.movedim(-1, 1) if id(result) in self._known else result


Handler = Callable[[Operation], Any]


class Watch(TorchFunctionMode):
    """Shows `handlers` the operations of a network while it is entered, and lets them put others in their place.

    Args:
        network: whose parameters and buffers count as fixed: computed from no image.
        handlers: by kind of operation a function that returns its result, as `Operation.run` gives it or another.
        every: is shown the first argument, the result and the kind of each call of torch that gives a tensor.

    Attributes:
        layers: by name, as `layers_of` gives them.
        uses: how often, by its id, each fixed tensor was read to make another.

    A network may write into any tensor. `keep` holds one as it is: it is copied as soon as, and only if, the network is
    about to write into its memory.
    """

    def __init__(
        self,
        network: nn.Module,
        handlers: dict[str, Handler],
        every: Callable[[Any, Any, str | None], None] | None = None,
    ):
        super().__init__()
        self._handlers, self._every = handlers, every
        self._count = 0
        self.uses: Counter[int] = Counter()
        self._held: list[torch.Tensor] = []  # an id may be used again after its tensor is gone
        self._kept: dict[int, list[weakref.ref]] = {}
        self._fixed: dict[int, frozenset[str]] = {id(buffer): frozenset() for buffer in network.buffers()}
        self.layers = {layer.name: layer for layer in layers_of(network)}
        for name, parameter in network.named_parameters():
            self._fixed[id(parameter)] = frozenset({name})
        for name, layer in self.layers.items():
            for source in layer.sources:
                self._fixed[id(source)] = frozenset({name})

    def __enter__(self) -> Watch:
        return super().__enter__()

    def restart(self) -> None:
        """Count the operations from 0 again: another forward begins."""
        self._count = 0

    def keep(self, tensor: torch.Tensor) -> Kept:
        """A view of `tensor`'s memory as it is now."""
        kept = Kept(tensor)
        self._kept.setdefault(tensor.untyped_storage()._cdata, []).append(weakref.ref(kept))
        return kept

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        kind = _KINDS.get(func)
        if kind is None:
            kind = _KINDS[func] = _Kind(func)
        if kind.expanded is not None:
            with self:
                return kind.expanded(*args, **kwargs)
        writes = kind.writes
        if kind.inplace >= 0 and not writes:
            writes = bool(args[kind.inplace] if len(args) > kind.inplace else kwargs.get("inplace"))
        if writes or "out" in kwargs:
            self._copy_before_write(kwargs["out"] if "out" in kwargs else args[:1] or kwargs.values())
        if kind.kind is None:
            result = func(*args, **kwargs)
        else:
            result = self._operate(func, kind, args, kwargs, writes)
        if isinstance(result, (torch.Tensor, tuple, list)):
            self._follow(result, args, kwargs)
            if self._every is not None:
                self._every(args[0] if args else kwargs.get("input"), result, kind.kind)
        return result

    def _operate(self, func: Callable, kind: _Kind, args: tuple, kwargs: dict, writes: bool) -> Any:
        operation = Operation(kind, func, args, kwargs, writes)
        if operation.kind == PRODUCT:
            self._classify(operation, args)
        elif operation.get("transposed"):
            operation.kind = TRANSPOSED
        elif operation.name == "hardtanh" and operation.get("min_val") == 0:  # as nn.ReLU6 computes it
            operation.name = "relu6"
        if operation.kind in LAYERS:
            operation.owner = self._owner(operation.weight)
        if operation.kind in LAYERS or operation.kind == ACTIVATION:
            operation.index = self._count
            self._count += 1
        handler = self._handlers.get(operation.kind)
        if handler is None:
            return func(*args, **kwargs)
        operation.fixed = id(operation.get("input")) in self._fixed
        return handler(operation)

    def _classify(self, operation: Operation, args: tuple) -> None:
        """A product of features with fixed weights (n, m) is a linear layer; any other with weights has an owner."""
        weight = operation.get("weight")
        matrix = isinstance(weight, torch.Tensor) and weight.ndim == 2 and self._fixed.get(id(weight))
        if matrix and id(operation.get("input")) not in self._fixed:
            operation.kind = LINEAR
            operation.arguments["weight"] = weight.T
            self._fixed[id(operation.weight)] = matrix
            self._held.append(operation.weight)
            return
        tensors = list(_tensors(args))
        if all(id(tensor) in self._fixed for tensor in tensors):  # of weights alone, as a parametrisation has them
            return
        owners = sorted({name for tensor in tensors for name in self._fixed.get(id(tensor), ())})
        known = [name for name in owners if name in self.layers]
        operation.owner = next(iter(known if operation.arguments else known or owners), None)

    def _owner(self, weight: torch.Tensor) -> str | None:
        names = self._fixed.get(id(weight), frozenset())
        chosen = [name for name in names if name in self.layers] or list(names)
        return chosen[0] if len(chosen) == 1 else None

    def is_fixed(self, tensor: Any) -> bool:
        """Whether a tensor is computed from parameters and buffers alone."""
        return id(tensor) in self._fixed

    def _follow(self, result: Any, args: tuple, kwargs: dict) -> None:
        """What is computed from fixed tensors alone is fixed, and belongs to their owners."""
        fixed = self._fixed
        if not any(id(a) in fixed for a in args) and not any(type(a) in (tuple, list) for a in args) and not kwargs:
            return
        seen = list(_tensors((*args, *kwargs.values())))
        self.uses.update(id(tensor) for tensor in seen if id(tensor) in fixed)
        if seen and all(id(tensor) in fixed for tensor in seen):
            owners = frozenset().union(*(fixed[id(tensor)] for tensor in seen))
            for tensor in _tensors((result,)):
                if id(tensor) not in fixed:
                    fixed[id(tensor)] = owners
                    self._held.append(tensor)

    def _copy_before_write(self, targets: Any) -> None:
        for tensor in _tensors(
            targets if isinstance(targets, Iterable) and not isinstance(targets, torch.Tensor) else (targets,)
        ):
            for reference in self._kept.pop(tensor.untyped_storage()._cdata, ()):
                kept = reference()
                if kept is not None:
                    kept.value = kept.value.clone()


def _tensors(values: Iterable) -> Iterator[torch.Tensor]:
    """The tensors among `values` and in the tuples and lists among them."""
    for value in values:
        if isinstance(value, torch.Tensor):
            yield value
        elif isinstance(value, (tuple, list)):
            yield from _tensors(value)


@cache
def _pair(value: int | tuple[int, ...], count: int) -> tuple[int, ...]:
    return (value,) * count if isinstance(value, int) else tuple(value) * (count if len(value) == 1 else 1)


def geometry(operation: Operation) -> tuple[tuple, tuple, tuple, int]:
    """Stride, padding at the (first, last) side, dilation of each spatial dimension, and groups of a convolution."""
    kernel = operation.weight.shape[2:]
    count = len(kernel)
    stride, dilation = (
        _pair(value if isinstance(value, int) else tuple(value), count)
        for value in (operation.get("stride", 1), operation.get("dilation", 1))
    )
    padding = operation.get("padding", 0)
    if padding == "valid":
        padding = 0
    if padding == "same":
        totals = [d * (k - 1) for d, k in zip(dilation, kernel, strict=True)]
        sides = tuple((total // 2, total - total // 2) for total in totals)
    else:
        sides = tuple((p, p) for p in _pair(padding if isinstance(padding, int) else tuple(padding), count))
    return stride, sides, dilation, operation.get("groups", 1)
