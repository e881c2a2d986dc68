"""How maps are conditioned module by module, and how a network bends a circle of images: Dextr's two readings."""

from __future__ import annotations

import math
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from harness.probes.base import (
    Probe,
    Subject,
    Unscorable,
    finite_logits,
    hooked,
    of_single_value,
    reading,
    to_host,
)


@dataclass(frozen=True)
class Conditioning(Probe):
    """Forward of one image, BatchNorm on its statistics; observable `condition_ratios` (M,).

    Per module, containers too, least over greatest singular value of its output, a matrix of channels by positions: 1
    where there is one position. NaN where the output is 0 or not finite.
    """

    init: str = "default"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import Watch

        subject.initialise(self.init, dtype=self.dtype)
        image, _ = subject.images(1, self.dtype)
        ratios: list = []
        watch = None if subject.plain else Watch(subject.network, {})

        def leave(module: Any, args: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim < 2:
                return
            matrix = _matrix(output, watch is None or watch.is_fixed(output))
            finite = torch.isfinite(matrix).all()  # not asked for here: the host would wait at each module
            values = torch.linalg.svdvals(torch.where(finite, matrix, 0.0).double())  # of zeros the ratio is NaN
            ratios.append(values[-1] / values[0])

        hooks = [(module, leave) for module in subject.network.modules()]
        with torch.no_grad(), hooked(hooks), watch or nullcontext():
            finite_logits(subject.network, image)
        return {"condition_ratios": to_host(ratios)}


def _matrix(output: Any, fixed: bool) -> Any:
    """What a module gives for one image, as channels by positions or the other way round.

    The image is the one entry of a dimension: of the first, or of a later one, as behind tokens. Where it shares the
    first with windows or tokens, those are positions like others. A table that no image has a part in (`fixed`) has
    no such dimension: of it the first entry counts.
    """
    place = next((dimension for dimension, size in enumerate(output.shape) if size == 1), 0 if fixed else None)
    if place is not None:
        values = output.select(place, 0)
        return values.flatten(1) if values.ndim > 1 else values[:, None]
    return output.movedim(1, 0).flatten(1) if output.ndim > 3 else output.flatten(0, -2)


@dataclass(frozen=True)
class Curvature(Probe):
    """Forward of a point of a circle of images and derivatives along it; observable `curvature`.

    NaN where the logits do not depend on the point, or a BatchNorm sees a single value there. Raises Unscorable for a
    network that cannot read images of that size, or that torch cannot differentiate twice.

    x(t) = U (cos t, sin t) at t = 0, U the left singular vectors of a Gaussian matrix of two columns. With velocity v
    and acceleration a of ten logits, drawn with replacement: sqrt(|v|^2 |a|^2 - (v.a)^2) / |v|^3. BatchNorm is on the
    statistics of the one image.
    """

    init: str = "default"
    resolution: int = 64
    coordinates: int = 10
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        generator = subject.generator("curve")
        shape = (1, subject.shape[0], self.resolution, self.resolution)
        plane = torch.randn(math.prod(shape), 2, generator=generator)
        plane, _, _ = torch.linalg.svd(plane.double(), full_matrices=False)
        first, second = (column.reshape(shape).to(subject.device, getattr(torch, self.dtype)) for column in plane.T)
        t = torch.zeros((), dtype=first.dtype, device=first.device, requires_grad=True)
        try:
            logits = reading(subject.network, first * t.cos() + second * t.sin(), subject.shape)[0]
        except ValueError as error:
            if not of_single_value(error):
                raise
            return {"curvature": float("nan")}
        chosen = torch.randint(len(logits), (self.coordinates,), generator=generator)
        # On the host, which would wait for a GPU to tell how many there are.
        drawn, place = (one.to(logits.device) for one in chosen.unique(return_inverse=True))
        found = [_derivatives(logit, t, subject.plain) for logit in logits[drawn]]
        if None in found:
            return {"curvature": float("nan")}
        velocity, acceleration = torch.stack([torch.stack(pair) for pair in found])[place].double().T
        speed, bend = velocity.norm(), acceleration.norm()
        area = (speed.square() * bend.square() - (velocity @ acceleration).square()).clamp(min=0).sqrt()
        return {"curvature": float(area / speed**3)}


def _derivatives(value: Any, t: Any, whole: bool) -> tuple[Any, Any] | None:
    """First and second derivative of a number by t, None where it does not depend on t.

    whole: it is known that all of the first derivative can be differentiated again.

    One number at a time: torch differentiates BatchNorm twice, and gives wrong third derivatives, which getting all
    numbers at once would take.
    """
    import torch

    options = {"retain_graph": True, "allow_unused": True}
    (first,) = torch.autograd.grad(value, t, create_graph=True, **options) if value.requires_grad else (None,)
    if first is None:
        return None
    if not whole and _is_cut(first):
        raise Unscorable(
            "torch cannot differentiate the network twice: it calls a function that is once_differentiable"
        )
    try:
        (second,) = torch.autograd.grad(first, t, **options) if first.requires_grad else (None,)
    except RuntimeError as error:
        if "is not implemented" not in str(error):
            raise
        raise Unscorable(f"torch cannot differentiate the network twice: {str(error).splitlines()[0]}") from error
    return first.detach(), torch.zeros_like(first) if second is None else second


def _is_cut(first: Any) -> bool:
    """Whether a part of a derivative cannot be differentiated again, which torch leaves out without a word.

    What a function that is `once_differentiable` gives leads back to an error, and not on to what it has read: a
    derivative by that goes round it.
    """
    left, seen = [first.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if node.name() == "torch::autograd::Error":
            return True
        left += [following for following, _ in node.next_functions]
    return False
