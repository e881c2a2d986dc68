"""Where the images of a mini-batch are in what a network computes: not always in the first dimension.

Tokens may come first, windows of an image may be folded into the batch. `Layout` finds it by what the network does:
of two images at once and of each alone, the same operations have to give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from harness.errors import Unscorable
from harness.probes.operations import ACTIVATION, CONVOLUTION, LINEAR, NORMALISATION, RANDOM, TRANSPOSED, Watch
from harness.probes.state import State

if TYPE_CHECKING:
    from torch import nn

#: How far two computations of the same number may lie apart, relative to the largest of its tensor.
CLOSE = {torch.float64: 1e-7, torch.float32: 1e-4}


@dataclass(frozen=True)
class Place:
    """The dimension of a tensor that holds the images (-1: none does, the tensor is the same for all images).

    `fast`: where the images share the dimension with something else, its neighbouring entries are different images.
    """

    dimension: int = 0
    fast: bool = False

    def split(self, values: torch.Tensor, count: int) -> torch.Tensor:
        """A view of `values` whose first dimension is the `count` images. Raises Unscorable where it is none."""
        if self.dimension < 0:
            return values.expand(count, *values.shape)
        share, rest = divmod(values.shape[self.dimension], count)
        if rest:
            raise Unscorable("an operation's values do not divide into those of the images")
        if share == 1:
            return values.movedim(self.dimension, 0)
        sizes = (share, count) if self.fast else (count, share)
        return values.unflatten(self.dimension, sizes).movedim(self.dimension + self.fast, 0)


FIRST = Place()


class Layout:
    """The places of images in the inputs of activations and the outputs of layers, by `Operation.index`.

    Attributes:
        apart: whether what is computed of an image depends on it alone, BatchNorm aside.
        first: whether each of those tensors has one image at each place of its first dimension.
    """

    def __init__(self, places: list[Place | None] | None, first: bool, apart: bool):
        self._places, self.first, self.apart = places, first, apart

    def place(self, index: int) -> Place:
        """Raises Unscorable where operation number `index` has no place for each image."""
        if self._places is None:
            return FIRST
        found = self._places[index] if index < len(self._places) else None
        if found is None:
            raise Unscorable(
                "the values of an activation or layer cannot be told apart by image: images meet in it, or which "
                "operations are computed depends on the images"
            )
        return found


#: Of networks that are known to keep images apart in the first dimension, as those of all spaces do.
PLAIN = Layout(None, True, True)


def find_layout(network: nn.Module, shape: tuple[int, ...], device: Any, generator: torch.Generator) -> Layout:
    """The layout of the network in its present mode, from three forwards of one or two images.

    In float64; in float32 where the network cannot compute in that, as one that takes its images to float32.
    """
    dtype = next((p.dtype for p in network.parameters() if p.is_floating_point()), torch.float32)
    pair = torch.randn(2, *shape, generator=generator, dtype=torch.float64).to(device)
    state, found = State(network.modules()), None
    with torch.no_grad(), torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        for wanted in CLOSE:
            try:
                network.to(wanted)
                found = []
                for images in (pair, pair[:1], pair[1:]):
                    state.restore(wanted)  # each forward begins where the first does
                    found.append(_values(network, images.to(wanted)))
                break
            except Exception:
                found = None
            finally:
                network.to(dtype)
                state.restore(dtype)  # what these forwards have written counts for nothing
        if found is None:
            network(pair.to(dtype))  # what fails here fails in any pass
            state.restore(dtype)
            return Layout([], False, False)  # it reads no single image
    both, *alone = found
    if not len(both) == len(alone[0]) == len(alone[1]):
        return Layout([], False, False)
    *places, last = (_place(*values) for values in zip(*([value for value, _ in part] for part in found), strict=True))
    # What is computed from parameters alone is of no image.
    of_images = [place for place, (_, fixed) in zip(places, both, strict=False) if not fixed]
    apart = all(place is not None for place in places) and last == FIRST
    single = all(len(values) == 2 for values, fixed in both if not fixed)
    return Layout(places, apart and single and all(place == FIRST for place in of_images), apart)


def _values(network: nn.Module, images: torch.Tensor) -> list[tuple[torch.Tensor, bool]]:
    """Inputs of activations, outputs of layers and the logits, in order, and whether they are of parameters alone."""
    found: list[tuple[torch.Tensor, bool]] = []

    def before(operation):
        found.append((operation.input.detach().clone(), operation.fixed))
        return operation.run()

    def after(operation):
        result = operation.run()
        found.append((result.detach().clone(), operation.fixed))
        return result

    handlers = {ACTIVATION: before, NORMALISATION: _row_norm, RANDOM: _certain}
    with Watch(network, {**handlers, **dict.fromkeys((CONVOLUTION, TRANSPOSED, LINEAR), after)}):
        logits = network(images.clone())
    found.append((logits if isinstance(logits, torch.Tensor) else next(v for v in logits if v is not None), False))
    return found


def _row_norm(operation):
    """BatchNorm lets images meet. Its place is taken by a norm of each row, so that values keep their size."""
    if operation.name != "batch_norm" or operation.fixed or not operation.get("training"):
        return operation.run()
    rows = operation.input.flatten(1)
    rows = (rows - rows.mean(dim=1, keepdim=True)) / (rows.var(dim=1, keepdim=True, correction=0) + 1e-5).sqrt()
    return rows.reshape(operation.input.shape)


def _certain(operation):
    """Dropout drops nothing, and what is drawn is the same for all images."""
    if "dropout" in operation.name:
        return operation.input.clone()
    result = operation.run()
    value = {"bernoulli": 1.0, "rand": 0.999, "rand_like": 0.999, "uniform": 0.999}.get(operation.name, 0.0)
    return result.fill_(value)


def _place(both: torch.Tensor, one: torch.Tensor, two: torch.Tensor) -> Place | None:
    if both.ndim != one.ndim or one.shape != two.shape:
        return None
    if both.shape == one.shape:
        return Place(-1) if _near(both, one) and _near(both, two) else None
    differ = [d for d in range(both.ndim) if both.shape[d] != one.shape[d]]
    if len(differ) != 1 or both.shape[differ[0]] != 2 * one.shape[differ[0]]:
        return None
    for place in (Place(differ[0]), Place(differ[0], fast=True)):
        first, second = (
            (part.reshape(one.shape) for part in place.split(both, 2))
            if one.shape[differ[0]] > 1
            else (both.select(differ[0], i).reshape(one.shape) for i in range(2))
        )
        if _near(first, one) and _near(second, two):
            return place
    return None


def _near(a: torch.Tensor, b: torch.Tensor) -> bool:
    """NaN is near NaN, and infinity itself: a network whose values mean nothing has its images somewhere too."""
    same = (a == b) | (a.isnan() & b.isnan())
    apart = (a - b).abs().masked_fill(same, 0.0)
    size = b.abs().nan_to_num(0.0, 0.0, 0.0)
    close = CLOSE.get(a.dtype, max(CLOSE.values()))
    return bool(apart.max() <= close * size.max()) if a.numel() else True
