"""The values of operations as samples by channels, wherever a network keeps its images and channels."""

from __future__ import annotations

import dataclasses
import weakref
from typing import TYPE_CHECKING, Any

from harness.probes.base import Unscorable

if TYPE_CHECKING:
    import torch

    from harness.probes.layout import Layout, Place
    from harness.probes.operations import Operation


class Channels:
    """Which dimension of a tensor holds its channels, by the operations that it comes from.

    That of a convolution and of a BatchNorm is the one behind the images, that of a linear layer and of a LayerNorm the
    last; an activation keeps that of its input. Where nothing is known it is the second of a map, else the last.
    """

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref, int]] = {}

    def of(self, operation: Operation, result: torch.Tensor) -> int:
        """The dimension, from 0, of the channels of an operation's result; it is remembered."""
        found = self._dimension(operation, result) % result.ndim
        self._known[id(result)] = weakref.ref(result), found
        return found

    def _dimension(self, operation: Operation, result: torch.Tensor) -> int:
        from harness.probes.operations import LAYERS, NORMALISATION

        if operation.kind in LAYERS:
            return operation.channels
        if operation.kind == NORMALISATION and operation.name not in ("layer_norm", "rms_norm"):
            return 1
        if operation.kind == NORMALISATION and len(operation.get("normalized_shape")) == 1:
            return -1
        reference, dimension = self._known.get(id(operation.input), (None, 0))
        if reference is not None and reference() is operation.input and result.ndim == operation.input.ndim:
            return dimension
        return 1 if result.ndim == 4 else -1


def images_first(values: torch.Tensor, channels: int, place: Place, count: int) -> torch.Tensor:
    """A view (count, …, channels) of values whose channels are in the dimension `channels`, from 0.

    Raises Unscorable where images and channels share a dimension.
    """
    if place.dimension == channels:
        raise Unscorable("a layer holds images among its channels")
    moved = values.movedim(channels, -1)
    if place.dimension > channels:
        place = dataclasses.replace(place, dimension=place.dimension - 1)
    return place.split(moved, count)


def refuse_weights(operation: Operation) -> Any:
    """The result of a product that applies no layer's weights. Raises Unscorable: such an output is no layer's."""
    if operation.owner:
        raise Unscorable(f"layer {operation.owner} is used by {operation.name}, whose output is no layer's")
    return operation.run()


class Rows:
    """Results of operations as (images, positions …, channels), in one forward of `count` images."""

    def __init__(self, layout: Layout, count: int):
        self._layout, self._count = layout, count
        self._channels = Channels()

    def of(self, operation: Operation, result: torch.Tensor) -> torch.Tensor:
        """Raises Unscorable where the images cannot be told apart."""
        from harness.probes.layout import FIRST

        channels = self._channels.of(operation, result)
        if operation.index >= 0:
            place = self._layout.place(operation.index)
        elif self._layout.first:
            place = FIRST
        else:
            raise Unscorable("the values of a normalisation cannot be told apart by image")
        return images_first(result, channels, place, self._count)

    def is_map(self, operation: Operation, result: torch.Tensor) -> bool:
        """Whether a result is maps (images, channels, height, width) or volumes, and no tokens."""
        return result.ndim >= 4 and self._channels.of(operation, result) == 1

    def note(self, operation: Operation, result: torch.Tensor) -> None:
        """Remember where the channels of a result are that is not read itself."""
        self._channels.of(operation, result)


def participation(samples: Any) -> Any:
    """ln((tr C)^2 / tr(C^2)) of the covariance C of samples (n, channels), 1e-10 added to its diagonal: float64."""
    import torch

    centred = samples - samples.mean(dim=0)
    covariance = (centred.T @ centred).double() / len(centred)
    covariance = covariance + 1e-10 * torch.eye(len(covariance), dtype=torch.float64, device=covariance.device)
    return 2 * covariance.trace().log() - covariance.square().sum().log()
