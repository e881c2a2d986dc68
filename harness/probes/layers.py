"""The layers of a network: where their weights are kept, and which tensors hold them in a forward."""

from __future__ import annotations

import weakref
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import nn

from harness.errors import Unscorable
from harness.probes.functions import PRODUCT
from harness.probes.modules import computed


class Applied(Protocol):
    """What is read here of an operation (`harness.probes.operations.Operation`)."""

    kind: str
    name: str
    owner: str | None
    applied: torch.Tensor
    tensors: list[torch.Tensor]

    def owned(self, name: str) -> list[torch.Tensor]: ...


class Layer:
    """A convolution or linear layer: where its weights are kept.

    `weight` is what the operation applies; that of a parametrised layer is computed anew by each reading.
    """

    __slots__ = ("attribute", "module", "name")

    def __init__(self, name: str, module: nn.Module, attribute: str):
        self.name, self.module, self.attribute = name, module, attribute

    @property
    def weight(self) -> torch.Tensor:
        return computed(self.module, self.attribute)

    @property
    def parametrised(self) -> bool:
        """Whether its weights are no parameter but computed from some, by a parametrisation or a hook of torch."""
        return nn.utils.parametrize.is_parametrized(self.module, self.attribute) or bool(self._hooked)

    @property
    def sources(self) -> list[torch.Tensor]:
        """The parameters that hold the weights: one, or those that these are computed from."""
        if nn.utils.parametrize.is_parametrized(self.module, self.attribute):
            return list(self.module.parametrizations[self.attribute].parameters())
        return list(self._hooked.values()) or [getattr(self.module, self.attribute)]

    @property
    def buffers(self) -> list[torch.Tensor]:
        """What else the weights of a parametrised layer are computed from, as the vectors of a spectral norm."""
        if nn.utils.parametrize.is_parametrized(self.module, self.attribute):
            return list(self.module.parametrizations[self.attribute].buffers())
        return list(self._named(self.module._buffers).values()) if self._hooked else []

    @property
    def _hooked(self) -> dict[str, torch.Tensor]:
        """The parameters that a hook makes the weights of, as those of weight_norm, spectral_norm and prune do."""
        if self.attribute in self.module._parameters or self.attribute in self.module._buffers:
            return {}
        return self._named(self.module._parameters)

    def _named(self, held: dict) -> dict[str, torch.Tensor]:
        """Those that are named as torch's hooks name them: `weight_orig`, `weight_mask`, `weight_u`."""
        start = f"{self.attribute}_"
        return {name: one for name, one in held.items() if name.startswith(start) and one is not None}

    def is_left_over(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is what an earlier forward made of a hooked layer's weights."""
        return bool(self._hooked) and vars(self.module).get(self.attribute) is tensor


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


#: Of networks that have been watched: a pass makes a `Watch` for each forward.
_NETWORKS: weakref.WeakKeyDictionary[nn.Module, tuple] = weakref.WeakKeyDictionary()


def known(network: nn.Module) -> tuple[dict[str, Layer], dict[int, frozenset[str]], list[torch.Tensor]]:
    """The layers of a network by name, by id of each parameter what it belongs to (a layer, or itself), and those.

    They are held: an id may be used again once its tensor is gone, as a weight that a hook makes anew each time.
    """
    if network not in _NETWORKS:
        layers = {layer.name: layer for layer in layers_of(network)}
        named = list(network.named_parameters())
        named += [(name, source) for name, layer in layers.items() for source in layer.sources]
        owners = {id(tensor): frozenset({name}) for name, tensor in named}
        _NETWORKS[network] = layers, owners, [tensor for _, tensor in named]
    return _NETWORKS[network]


def known_layers(network: nn.Module) -> dict[str, Layer]:
    """`layers_of` by name, found once for a network."""
    return known(network)[0]


class Weights:
    """The tensors that hold each layer's weights in a forward: a handler of layers and products adds to them.

    Those of a layer are its Parameter; of one that is parametrised what its operations applied; and a Parameter of the
    network that is applied as a layer's weights without being one's is a layer of its own, after the others.
    """

    def __init__(self, network: nn.Module, layers: dict[str, Layer]):
        self._layers = layers
        self._parametrised = {name: layer for name, layer in layers.items() if layer.parametrised}
        self._network = network
        self._used: dict[str, list[torch.Tensor]] = {}

    def see(self, operation: Applied, weight: torch.Tensor | None = None) -> None:
        """Raises Unscorable where a Parameter is a weight in a way that has no layer's form.

        weight: what is applied in place of the operation's own, if it is.
        """
        owner = operation.owner
        if owner is None and self._parametrised:
            self._refuse_left_overs(operation)
        if owner is None or (owner in self._layers and owner not in self._parametrised):
            return
        if owner in self._parametrised:
            used = self._used.setdefault(owner, [])
            # The tensors of the call, as a gradient comes to no other that is made of them.
            applied = operation.owned(owner) if operation.kind == PRODUCT else [operation.applied]
            for one in applied if weight is None else [weight]:
                if not any(tensor is one for tensor in used):
                    used.append(one)
        elif operation.kind == PRODUCT:
            raise Unscorable(
                f"parameter {owner} is used by {operation.name}, whose weights are no layer's: use F.linear"
            )
        elif owner not in self._used:
            self._used[owner] = [self._network.get_parameter(owner)]

    def _refuse_left_overs(self, operation: Applied) -> None:
        for name, layer in self._parametrised.items():
            if any(layer.is_left_over(tensor) for tensor in operation.tensors):
                raise Unscorable(
                    f"{operation.name} reads weights of layer {name} that an earlier forward made: call the layer, "
                    "so that its hook makes them anew"
                )

    def tensors(self) -> dict[str, list[torch.Tensor]]:
        """By layer, in module order; what no operation has applied is there too."""
        found = {name: self._used.get(name) or [layer.weight] for name, layer in self._layers.items()}
        return {**found, **self._used}


class Grouped:
    """Tensors by layer, as `Weights.tensors` gives them: mostly one each.

    Raises Unscorable where those of one layer do not lie the same way, so that their gradients have no sum.
    """

    def __init__(self, groups: dict[str, list[torch.Tensor]]):
        for name, (first, *others) in groups.items():
            if not all(_lies_as(first, other) for other in others):
                raise Unscorable(f"parametrised layer {name} is applied in two ways, one of them transposed or a part")
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


def _lies_as(first: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors that one layer's weights were computed as have each weight at the same place.

    Of a square matrix its values tell: a spectral norm makes slightly others at each call.
    """
    if first.shape != other.shape:
        return False
    if first.ndim != 2 or first.shape[0] != first.shape[1]:
        return True
    with torch.no_grad():
        return bool((first - other).norm() <= (first - other.T).norm())
