"""What a network computes, operation by operation: the one mechanism by which passes watch and replace.

A module is no measure of that: `F.relu(x)`, `x.relu_()`, `nn.ReLU()(x)`, a subclass with a forward of its own, a layer
that is parametrised, shared or used by function compute one and the same thing. `Watch` is a `TorchFunctionMode`: it
sees each call of torch that the network makes, from wherever it comes.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from harness.errors import Unscorable
from harness.probes.functions import (
    ACTIVATION,
    CONVOLUTION,
    LAYERS,
    LINEAR,
    NORMALISATION,
    POOLING,
    PRODUCT,
    RANDOM,
    RELUS,
    TRANSPOSED,
    Function,
)
from harness.probes.layers import Grouped, Layer, Weights, known, known_layers, layers_of
from harness.probes.modules import buffers_of

__all__ = ["ACTIVATION", "CONVOLUTION", "LAYERS", "LINEAR", "NORMALISATION", "POOLING", "PRODUCT", "RANDOM", "RELUS"]
__all__ += ["Grouped", "Layer", "Weights", "known_layers", "layers_of"]

_KNOWN: dict[Callable, Function] = {}
#: Functions whose kind or name depends on their arguments, products aside.
DEPENDING = frozenset({"convolution", "_convolution", "hardtanh", "threshold", "_threshold"})


class Operation:
    """One call of an operation, with its arguments by name whichever way they were given.

    Attributes:
        index: how many layers and activations the network computed before, in this forward; -1 for other kinds.
        owner: name of the layer, or else of the parameter, whose weights a layer or product applies: None where they
            are no parameter's alone, or come from the images.
        fixed: whether the input is computed from parameters and buffers alone.
    """

    __slots__ = ("_arguments", "_call", "_watch", "index", "kind", "name", "writes")

    def __init__(self, watch: Watch, kind: Function, func: Callable, args: tuple, kwargs: dict[str, Any], writes: bool):
        self.kind, self.name, self.writes, self.index = kind.kind, kind.name, writes, -1
        self._watch, self._call = watch, (kind, func, args, kwargs)
        self._arguments: dict[str, Any] | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        if self._arguments is None:
            kind, _, args, kwargs = self._call
            self._arguments = dict(zip(kind.arguments, args, strict=False))  # the last ones are of no interest
            self._arguments.update(kwargs)
        return self._arguments

    @property
    def owner(self) -> str | None:
        if self.kind == PRODUCT:
            return self._watch.owner_of_product(self)
        return self._watch.owner(self.weight)

    @property
    def fixed(self) -> bool:
        return self._watch.is_fixed(self.get("input"))

    @property
    def applied(self) -> torch.Tensor:
        """The weights as the call has them: a product has those of `weight` the other way round."""
        kind, _, args, kwargs = self._call
        return {**dict(zip(kind.arguments, args, strict=False)), **kwargs}["weight"]

    def owned(self, name: str) -> list[torch.Tensor]:
        """What it is called with that is computed from the weights of a layer."""
        return [tensor for tensor in self.tensors if name in self._watch.owners(tensor)]

    @property
    def tensors(self) -> list[torch.Tensor]:
        """All that it is called with."""
        _, _, args, kwargs = self._call
        return list(_tensors((*args, *kwargs.values())))

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
    def ceiling(self) -> float | None:
        """The greatest value that a ReLU gives, None where there is none."""
        if self.name != "relu6":
            return None
        function = self._call[0].name
        return 6.0 if function == "relu6" else self.get("max_val", 1.0)

    @property
    def channels(self) -> int:
        """The dimension of the output that holds the channels."""
        return -1 if self.kind == LINEAR else -(self.weight.ndim - 1)


class Kept:
    """A tensor as it is now: the network may write into its memory later (`Watch.keep`)."""

    __slots__ = ("__weakref__", "value")

    def __init__(self, value: torch.Tensor):
        self.value = value


Handler = Callable[[Operation], Any]


class Watch(TorchFunctionMode):
    """Shows `handlers` the operations of a network while it is entered, and lets them put others in their place.

    Args:
        network: whose parameters and buffers count as fixed: computed from no image.
        handlers: by kind of operation a function that returns its result, as `Operation.run` gives it or another.
        every: is shown the first argument, the result and the kind of each call of torch that gives a tensor.
        trace: is shown the function, the tensors read and the result of each call of torch, be they what they may.

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
        trace: Callable[[Function, list[torch.Tensor], Any], None] | None = None,
    ):
        super().__init__()
        self._handlers, self._every, self._trace = handlers, every, trace
        self._count = 0
        self.uses: Counter[int] = Counter()
        self._kept: dict[int, list[weakref.ref]] = {}
        self.layers, owners, held = known(network)
        buffers = buffers_of(network)
        self._held: list[torch.Tensor] = [*held, *buffers]
        self._fixed: dict[int, frozenset[str]] = dict.fromkeys(map(id, buffers), frozenset()) | owners

    def __enter__(self) -> Watch:
        return super().__enter__()

    def keep(self, tensor: torch.Tensor) -> Kept:
        """A view of `tensor`'s memory as it is now."""
        kept = Kept(tensor)
        self._kept.setdefault(tensor.untyped_storage()._cdata, []).append(weakref.ref(kept))
        return kept

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        kind = _KNOWN.get(func)
        if kind is None:
            kind = _KNOWN[func] = Function(func)
        if kind.expanded is not None:
            with self:
                return kind.expanded(*args, **kwargs)
        writes = kind.writes
        if kind.inplace >= 0 and not writes:
            writes = bool(args[kind.inplace] if len(args) > kind.inplace else kwargs.get("inplace"))
        if writes or "out" in kwargs:
            self._copy_before_write(kwargs["out"] if "out" in kwargs else args[:1] or kwargs.values())
        if kind.unreadable in self._handlers:
            raise Unscorable(
                f"the network calls {kind.name}, whose arguments are of another form than those of its kind: call the "
                f"{kind.unreadable} of torch.nn.functional"
            )
        result = func(*args, **kwargs) if kind.kind is None else self._operate(func, kind, args, kwargs, writes)
        if isinstance(result, (torch.Tensor, tuple, list)) and type(result) is not torch.Size:
            meeting = self._follow(result, args[:1] if kind.alike else args, kwargs)
            if meeting and kind.kind is None and PRODUCT in self._handlers:
                self._meet(kind, result, args, kwargs)
            if self._every is not None:
                self._every(args[0] if args else kwargs.get("input"), result, kind.kind)
        if self._trace is not None:
            self._trace(kind, list(_tensors((*args, *kwargs.values()))), result)
        return result

    def _operate(self, func: Callable, kind: Function, args: tuple, kwargs: dict, writes: bool) -> Any:
        operation = None
        name = kind.kind
        if name == PRODUCT or kind.name in DEPENDING:
            operation = Operation(self, kind, func, args, kwargs, writes)
            self._classify(operation)
            name = operation.kind
        index = -1
        if name in LAYERS or name == ACTIVATION:
            index = self._count
            self._count += 1
        handler = self._handlers.get(name)
        if handler is None:
            return func(*args, **kwargs)
        operation = operation or Operation(self, kind, func, args, kwargs, writes)
        operation.index = index
        return handler(operation)

    def _classify(self, operation: Operation) -> None:
        if operation.kind == ACTIVATION:
            if operation.get("min_val") == 0:  # as nn.ReLU6 computes it
                operation.name = "relu6"
            elif operation.get("threshold") == 0 and operation.get("value") == 0:
                operation.name = "relu"
        elif operation.kind == CONVOLUTION:
            if operation.get("transposed"):
                operation.kind = TRANSPOSED
        else:  # a product of features with fixed weights (n, m) is a linear layer
            weight = operation.get("weight")
            owners = self._fixed.get(id(weight)) if isinstance(weight, torch.Tensor) and weight.ndim == 2 else None
            if owners and id(operation.get("input")) not in self._fixed:
                operation.kind = LINEAR
                operation.arguments["weight"] = transposed = weight.T
                self._fixed[id(transposed)] = owners
                self._held.append(transposed)

    def owners(self, tensor: torch.Tensor) -> frozenset[str]:
        """The layers and parameters that a fixed tensor is computed from."""
        return self._fixed.get(id(tensor), frozenset())

    def owner(self, weight: torch.Tensor) -> str | None:
        """The layer or parameter that a layer's weights are computed from, if it is one."""
        names = self.owners(weight)
        chosen = [name for name in names if name in self.layers] or list(names)
        return chosen[0] if len(chosen) == 1 else None

    def owner_of_product(self, operation: Operation) -> str | None:
        """The layer, or where its form tells nothing the parameter, whose weights a product applies to features."""
        tensors = operation.tensors
        if all(id(tensor) in self._fixed for tensor in tensors):  # of weights alone, as a parametrisation has them
            return None
        owners = sorted({name for tensor in tensors for name in self._fixed.get(id(tensor), ())})
        known = [name for name in owners if name in self.layers]
        return next(iter(known if operation.arguments else known or owners), None)

    def is_fixed(self, tensor: Any) -> bool:
        """Whether a tensor is computed from parameters and buffers alone."""
        return id(tensor) in self._fixed

    def _meet(self, kind: Function, result: Any, args: tuple, kwargs: dict) -> None:
        """Where a function of no kind takes all weights of a layer and features, it is a product: `x * weight`."""
        for tensor in _tensors((*args, *kwargs.values())):
            for name in self._fixed.get(id(tensor), ()):
                layer = self.layers.get(name)
                if layer is not None and any(tensor.numel() == source.numel() for source in layer.sources):
                    operation = Operation(self, kind, lambda *_, **__: result, args, kwargs, False)
                    operation.kind = PRODUCT
                    self._handlers[PRODUCT](operation)
                    return

    def _follow(self, result: Any, args: tuple, kwargs: dict) -> bool:
        """What is computed from fixed tensors alone is fixed, and belongs to their owners.

        Whether fixed tensors meet others.
        """
        fixed, uses = self._fixed, self.uses
        alone, met = True, False
        for value in (*args, *kwargs.values()) if kwargs else args:
            if isinstance(value, torch.Tensor):
                key = id(value)
                if key in fixed:
                    uses[key] = uses.get(key, 0) + 1
                    met = True
                else:
                    alone = False
            elif isinstance(value, (tuple, list)):
                for tensor in _tensors(value):
                    if id(tensor) in fixed:
                        uses[id(tensor)] = uses.get(id(tensor), 0) + 1
                        met = True
                    else:
                        alone = False
        if not met or not alone:
            return met
        owners = frozenset().union(*(fixed.get(id(tensor), ()) for tensor in _tensors((*args, *kwargs.values()))))
        for tensor in _tensors((result,)):
            if id(tensor) not in fixed:
                fixed[id(tensor)] = owners
                self._held.append(tensor)
        return False

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
