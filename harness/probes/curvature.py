"""How maps are conditioned module by module, and how a network bends a circle of images: Dextr's two readings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, hooked, outputs, to_host


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

        subject.initialise(self.init, dtype=self.dtype)
        image, _ = subject.images(1, self.dtype)
        ratios: list = []

        def leave(module: Any, args: Any, output: Any) -> None:
            if not isinstance(output, torch.Tensor) or output.ndim < 2:
                return
            matrix = output[0].flatten(1) if output.ndim > 2 else output[0][:, None]
            finite = torch.isfinite(matrix).all()  # not asked for here: the host would wait at each module
            values = torch.linalg.svdvals(torch.where(finite, matrix, 0.0).double())  # of zeros the ratio is NaN
            ratios.append(values[-1] / values[0])

        with torch.no_grad(), hooked([(module, leave) for module in subject.network.modules()]):
            finite_logits(subject.network, image)
        return {"condition_ratios": to_host(ratios)}


@dataclass(frozen=True)
class Curvature(Probe):
    """Forward of a point of a circle of images and derivatives along it; observable `curvature`, NaN if there is none.

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
            logits = outputs(subject.network, first * t.cos() + second * t.sin())[0]
            chosen = torch.randint(len(logits), (self.coordinates,), generator=generator).to(logits.device)
            drawn, place = chosen.unique(return_inverse=True)
            derivatives = torch.stack([torch.stack(_derivatives(logit, t)) for logit in logits[drawn]])
        except (RuntimeError, ValueError, Unscorable):  # as BatchNorm over one value, or no derivative at all
            return {"curvature": float("nan")}
        velocity, acceleration = derivatives[place].double().T
        speed, bend = velocity.norm(), acceleration.norm()
        area = (speed.square() * bend.square() - (velocity @ acceleration).square()).clamp(min=0).sqrt()
        return {"curvature": float(area / speed**3)}


def _derivatives(value: Any, t: Any) -> tuple[Any, Any]:
    """First and second derivative of a number by t.

    One number at a time: torch differentiates BatchNorm twice, and gives wrong third derivatives, which getting all
    numbers at once would take.
    """
    import torch

    (first,) = torch.autograd.grad(value, t, retain_graph=True, create_graph=True)
    (second,) = torch.autograd.grad(first, t, retain_graph=True, allow_unused=True)
    return first.detach(), torch.zeros_like(first) if second is None else second
