"""The parts of self-attention, found by what is computed: the layers of queries, keys and values, and what is mixed."""

from __future__ import annotations

import weakref
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, to_host
from harness.probes.modules import attention_modules
from harness.probes.rows import Rows, refuse_weights
from harness.probes.tokens import entropy

if TYPE_CHECKING:
    import torch

    from harness.probes.functions import Function
    from harness.probes.operations import Operation

#: Where a tensor's values come from: a kind and a number, as ("layer", 3).
Origin = tuple[str, int]

#: Functions that move values and compute none, as heads are joined and windows put back.
_MOVING = frozenset({
    *("transpose", "permute", "reshape", "view", "flatten", "unflatten", "contiguous", "movedim", "moveaxis"),
    *("swapaxes", "swapdims", "squeeze", "unsqueeze", "cat", "concat", "concatenate", "stack", "unbind", "chunk"),
    *("split", "tensor_split", "clone", "detach", "to", "type_as", "float", "double", "select", "narrow", "roll"),
    *("reshape_as", "view_as", "t", "slice", "alias", "_unsafe_view", "_to_copy", "__getitem__", "__get__"),
})  # fmt: skip
_SUMS = frozenset({"add", "__add__", "__radd__", "__iadd__"})


@dataclass(frozen=True)
class AttentionLayers(Probe):
    """Forward of a mini-batch; observables over the A self-attentions, each an entropy as `FeedForward` has it.

    - `qkv_entropies` (A,): of the queries, keys and values of a token, all in one: what one linear layer gives, or what
      several give, joined
    - `mixed_entropies` (A,): of the values mixed by the attention's weights, all heads in one, as the last linear layer
      reads them
    - `output_entropies` (A,): of what that layer gives

    An attention is a softmax of products of queries with keys, by which values are mixed. Unscorable where its queries,
    keys and values are not all that linear layers make of the same tokens, or where something else is computed between
    the mixing and one last linear layer.
    """

    init: str = "default"
    batch_size: int = 1
    lowest: int = 1
    distribution: str = "softmax"
    over: str = "tokens"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        images, _ = subject.images(self.batch_size, self.dtype)
        trace = _Trace(subject, images)
        with torch.no_grad(), trace.watch:
            finite_logits(subject.network, images)
        settings = self.lowest, self.distribution, self.over
        parts = trace.attentions()
        names = ("qkv_entropies", "mixed_entropies", "output_entropies")
        return {
            name: to_host([entropy(tokens, *settings) for tokens in values])
            for name, values in zip(names, zip(*parts, strict=True), strict=True)
        }


@dataclass
class _Layer:
    """A linear layer as it was computed: its name, which tensor it read, the tokens that it gave and, mixed, read."""

    owner: str | None
    read: int
    size: int
    tokens: torch.Tensor | None
    mixed: torch.Tensor | None = None


@dataclass
class _Attention:
    """A softmax of products: sizes of queries and keys by their layer, then of values; None: it is none of ours."""

    asked: list[tuple[int, int]] | None
    values: list[tuple[int, int]] = field(default_factory=list)
    outputs: list[int] = field(default_factory=list)


class _Known:
    """Something by tensor, for as long as that is there: an id may be used again after it."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref, Any]] = {}

    def get(self, tensor: torch.Tensor, default: Any) -> Any:
        reference, value = self._known.get(id(tensor), (None, default))
        return value if reference is not None and reference() is tensor else default

    def set(self, tensor: torch.Tensor, value: Any) -> None:
        self._known[id(tensor)] = weakref.ref(tensor), value

    def sharing(self, tensor: torch.Tensor) -> list[torch.Tensor]:
        """The known tensors that lie in the memory of `tensor`."""
        place = tensor.untyped_storage()._cdata
        known = [reference() for reference, _ in self._known.values()]
        return [one for one in known if one is not None and one.untyped_storage()._cdata == place]


class _Trace:
    """Where each tensor of a forward comes from, as far as the last layer, product or softmax before it."""

    def __init__(self, subject: Subject, images: torch.Tensor):
        from harness.probes.operations import CONVOLUTION, LINEAR, PRODUCT, TRANSPOSED, Watch

        self._network, self._rows = subject.network, Rows(subject.layout(), len(images))
        self._origins, self._numbers = _Known(), _Known()
        self._layers: list[_Layer] = []
        self._products: list[list[tuple[frozenset[Origin], int]]] = []
        self._attentions: list[_Attention] = []
        self._count, self._made = 0, None
        self._origins.set(images, self._new("images"))
        handlers = {LINEAR: self._linear, PRODUCT: self._product}
        handlers |= dict.fromkeys((CONVOLUTION, TRANSPOSED), self._convolution)
        self.watch = Watch(subject.network, handlers, trace=self._see)

    def _new(self, kind: str) -> frozenset[Origin]:
        self._count += 1
        return frozenset({(kind, self._count)})

    def _of(self, tensor: torch.Tensor) -> frozenset[Origin]:
        return self._origins.get(tensor, frozenset())

    def _from(self, result: torch.Tensor, origins: frozenset[Origin]) -> torch.Tensor:
        self._origins.set(result, origins)
        self._made = result
        return result

    def _convolution(self, operation: Operation) -> Any:
        result = operation.run()
        return result if operation.fixed else self._from(result, self._new("convolution"))

    def _linear(self, operation: Operation) -> Any:
        result = operation.run()
        if operation.fixed:
            return result
        read = operation.input
        number = self._numbers.get(read, len(self._layers))
        self._numbers.set(read, number)
        layer = _Layer(operation.owner, number, result.numel(), self._tokens(operation, result))
        mixed = self._of(read)
        if mixed and all(kind == "mixed" for kind, _ in mixed):
            layer.mixed = self._tokens(operation, read)
            for _, attention in mixed:
                self._attentions[attention].outputs.append(len(self._layers))
        self._layers.append(layer)
        return self._from(result, frozenset({("layer", len(self._layers) - 1)}))

    def _tokens(self, operation: Operation, values: torch.Tensor) -> torch.Tensor | None:
        """What a linear layer reads or gives as (B, N, D); None where it has no tokens of an image."""
        try:
            tokens = self._rows.of(operation, values)
        except Unscorable:
            return None
        return tokens.flatten(1, -2).clone() if tokens.ndim > 2 else None

    def _product(self, operation: Operation) -> Any:
        result = refuse_weights(operation)
        factors = [(self._of(tensor), tensor.numel()) for tensor in operation.tensors if self._of(tensor)]
        weights = [origins for origins, _ in factors if any(kind == "weights" for kind, _ in origins)]
        if not factors:
            return result
        if not weights:
            self._products.append(factors)
            return self._from(result, frozenset({("product", len(self._products) - 1)}))
        others = [factor for factor in factors if factor[0] not in weights]
        if len(weights) != 1 or len(weights[0]) != 1 or len(others) > 1:
            return self._from(result, self._new("other"))
        ((_, attention),) = weights[0]
        self._attentions[attention].values += [(_layer_of(origins), size) for origins, size in others]
        return self._from(result, frozenset({("mixed", attention)}))

    def _see(self, function: Function, tensors: list[torch.Tensor], result: Any) -> None:
        """Follow what no handler has: from all that is read to all that is given or written."""
        import torch

        made, self._made = self._made, None
        given = result if isinstance(result, (tuple, list)) else (result,)
        given = [one for one in given if isinstance(one, torch.Tensor)]
        if function.writes:
            given += [one for one in tensors[:1] if not any(one is other for other in given)]
        if not given or (made is not None and given[0] is made):
            return
        origins = frozenset().union(*map(self._of, tensors))
        if function.name in ("softmax", "_softmax") and any(kind == "product" for kind, _ in origins):
            self._attentions.append(_Attention(self._asked(origins)))
            origins = frozenset({("weights", len(self._attentions) - 1)})
        elif function.name == "scaled_dot_product_attention":
            read = [(_layer_of(self._of(tensor)), tensor.numel()) for tensor in tensors if self._of(tensor)]
            self._attentions.append(_Attention(read[:2] if len(read) == 3 else None, read[2:]))
            origins = frozenset({("mixed", len(self._attentions) - 1)})
        elif any(kind == "mixed" for kind, _ in origins) and not self._keeps(function, tensors):
            origins = self._new("other")
        for one in given:
            if any(one is other for other in tensors):  # written to, or the same tensor once more
                for sharing in self._origins.sharing(one):
                    self._origins.set(sharing, self._of(sharing) | origins)
            if origins or self._of(one):
                self._origins.set(one, origins)

    def _keeps(self, function: Function, tensors: list[torch.Tensor]) -> bool:
        """Whether mixed values stay what they are: moved, or summed with others of the same attention's weights."""
        moved = function.name in _MOVING or "dropout" in function.name
        return moved or (function.name in _SUMS and len(tensors) > 1 and all(map(self._of, tensors)))

    def _asked(self, origins: frozenset[Origin]) -> list[tuple[int, int]] | None:
        """Layers and sizes of queries and keys of a softmax; None unless it is of one product of both, and of terms
        that one of them alone has a part in, as distances."""
        if any(kind != "product" for kind, _ in origins):
            return None
        products = [self._products[number] for _, number in sorted(origins)]
        pairs = [factors for factors in products if len(factors) == 2]
        if len(pairs) != 1:
            return None
        asked = [(_layer_of(of), size) for of, size in pairs[0]]
        known = {layer for layer, _ in asked}
        alone = {_layer_of(factors[0][0]) for factors in products if len(factors) == 1}
        longer = any(len(factors) > 2 for factors in products)
        return None if longer or not alone <= known else asked

    def attentions(self) -> list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        """Of each attention queries, keys and values joined, what is mixed and the output: (B, N, D) each.

        Raises Unscorable where there is none, or one whose parts cannot be told.
        """
        by_output: dict[int, list[_Attention]] = {}
        for attention in self._attentions:
            if len(attention.outputs) != 1:
                raise Unscorable(
                    "what an attention mixes is read by no linear layer, by several, or after something else is "
                    "computed from it"
                )
            by_output.setdefault(attention.outputs[0], []).append(attention)
        if not by_output:
            raise Unscorable("no attention: no softmax of products of queries with keys")
        owners: list[str] = []
        found = [self._parts(heads, self._layers[output], owners) for output, heads in by_output.items()]
        for name, module in attention_modules(self._network):
            if not any(not name or owner.startswith(f"{name}.") for owner in owners):
                raise Unscorable(
                    f"{name or type(module).__name__} is no softmax attention between linear layers, as others are"
                )
        return found

    def _parts(self, heads: list[_Attention], output: _Layer, owners: list[str]) -> tuple[torch.Tensor, ...]:
        """Of one attention, of one head or more, what `attentions` gives; its layers are added to `owners`."""
        import torch

        read = [part for head in heads for part in (*(head.asked or ()), *head.values)]
        if any(head.asked is None or len(head.values) != 1 for head in heads) or any(layer < 0 for layer, _ in read):
            raise Unscorable("queries, keys or values of an attention are not what a linear layer makes of tokens")
        layers = [self._layers[layer] for layer in sorted({layer for layer, _ in read})]
        made = [*layers, output]
        if any(layer.tokens is None for layer in made) or output.mixed is None:
            raise Unscorable("the tokens of an attention cannot be told apart by image")
        if len({layer.read for layer in layers}) > 1 or len({layer.tokens.shape[1] for layer in made}) > 1:
            raise Unscorable("queries, keys and values of an attention are not made of the same tokens")
        if sum(layer.size for layer in layers) != sum(size for _, size in read):
            raise Unscorable("the layers of queries, keys and values make something else too, or repeat heads")
        owners += [layer.owner for layer in made if layer.owner is not None]
        return torch.cat([layer.tokens for layer in layers], dim=-1), output.mixed, output.tokens


def _layer_of(origins: frozenset[Origin]) -> int:
    """The layer that a tensor comes from; -1 where it is none alone."""
    kinds = {kind for kind, _ in origins}
    return next(iter(origins))[1] if kinds == {"layer"} and len(origins) == 1 else -1
