"""The feature maps of stages and layers, and how gradients travel between stages."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harness.probes.base import Probe, Subject, Unscorable, by_channel, hooked, reading


@dataclass(frozen=True)
class StagePass(Probe):
    """One forward of a mini-batch and one vector-Jacobian product from each stage to the one before.

    BatchNorm on batch statistics. Observables over the S stages of the network:

    - `stage_entropies` (S,): entropy of the normalised spectrum of the channels' covariance, images and
      positions being the samples; NaN where a stage's output is constant
    - `stage_gains` (S - 1,): spectral norm of the mean outer product of the gradient at the stage before and
      a gradient of random signs at the stage; NaN where the stage is the identity

    Features, covariances and gradients that are not finite are no constant and no identity: Unscorable says so.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        from harness.probes.operations import Watch

        if len(subject.stages) < 2:
            raise Unscorable("the network names no stages")
        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        images, _ = subject.images(self.batch_size, self.dtype)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        held: list = []
        watch = Watch(network, {})

        def cut(module, args, output):
            if not isinstance(output, torch.Tensor) or output.ndim != 4:
                raise Unscorable("a stage's output is no feature map (B, C, H, W): name modules that return one")
            # Each stage starts a graph of its own, whose one product needs no other stage's activations.
            start = output.detach().requires_grad_(True)
            held.append((watch.keep(output), start))
            return start.clone()  # the network may write into it, but into no leaf

        with watch, hooked([(stage, cut) for stage in subject.stages]):
            network(images)
        if len(held) != len(subject.stages):
            raise Unscorable("a stage is not computed, or more than once")
        maps = [(kept.value, start) for kept, start in held]
        if not all(torch.isfinite(output).all() for output, _ in maps):
            raise Unscorable("a stage's output is not finite")
        found = {}
        if "stage_gains" in wanted:
            generator = subject.generator("stage signs")
            gains = []
            for (_, before), (after, _) in pairwise(maps):
                signs = _signs(after, generator)
                (arriving,) = (
                    torch.autograd.grad(after, before, signs, allow_unused=True) if after.requires_grad else (None,)
                )
                gains.append(_gain(arriving, signs))
            found["stage_gains"] = np.array(gains)
        if "stage_entropies" in wanted:
            found["stage_entropies"] = np.array([_spectral_entropy(output.detach()) for output, _ in maps])
        return found


def _signs(like: Any, generator: Any) -> Any:
    import torch

    bits = torch.empty(like.shape, dtype=torch.int8).random_(0, 2, generator=generator)
    return torch.empty_like(like, requires_grad=False).copy_(bits.mul_(2).sub_(1))


def _spectral_entropy(features: Any) -> float:
    import torch

    samples = by_channel(features)
    samples = samples - samples.mean(dim=0)
    covariance = (samples.T @ samples).double() / len(samples)
    if not torch.isfinite(covariance).all():
        raise Unscorable("the covariance of a stage's channels is not finite")
    eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0)
    total = eigenvalues.sum()
    if not total > 0:
        return float("nan")
    share = eigenvalues / total
    return float(-(share * (share + 1e-8).log()).sum())


def _gain(arriving: Any, signs: Any) -> float:
    import torch
    import torch.nn.functional as F

    if arriving is None:
        return 0.0
    if arriving.shape == signs.shape and torch.equal(arriving, signs):
        return float("nan")
    if arriving.shape[2:] != signs.shape[2:]:
        (height, width), (below, beside) = arriving.shape[2:], signs.shape[2:]
        if height % below or width % beside or height // below != width // beside:
            raise Unscorable("a stage's maps are no whole multiple of the next one's")
        arriving = F.pixel_unshuffle(arriving, arriving.shape[2] // signs.shape[2])
    left, right = by_channel(arriving), by_channel(signs)
    product = (left.T @ right).double() / len(left)
    if not torch.isfinite(product).all():
        raise Unscorable("a gradient between stages is not finite")
    return float(torch.linalg.matrix_norm(product, ord=2))


@dataclass(frozen=True)
class ChannelCorrelation(Probe):
    """Forward of one image, read layer by layer; observable `least_eigenvalues` (layers,).

    Per feature map (C, H * W) the least eigenvalue of the Pearson correlation of its channels, entries that
    are not defined counting as 0. `modules=leaf` reads convolutions, normalisations and ReLUs; `modules=all`
    every module, containers too, and those operations that are no module's. BatchNorm on the statistics of that one
    image.
    """

    init: str = "kaiming_fan_in"
    resolution: int = 64
    modules: str = "leaf"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        from harness.probes.operations import ACTIVATION, CONVOLUTION, LINEAR, NORMALISATION, RELUS, ChannelsLast, Watch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        found: list[float] = []
        orientation = ChannelsLast()
        counted: set[int] = set()  # outputs of modules, in `modules=all`
        single: list = []

        def operate(operation):
            result = operation.run()
            maps = orientation.first(operation, result)
            if maps.ndim != 4 or operation.fixed or (operation.kind == ACTIVATION and operation.name not in RELUS):
                return result
            if operation.kind == LINEAR:
                return result
            if self.modules == "leaf":
                found.append(_least_eigenvalue(maps[0]))
            else:
                single.append((result, _least_eigenvalue(maps[0])))
            return result

        def leave(module, args, output):
            if isinstance(output, torch.Tensor) and output.ndim == 4:
                counted.add(id(output))
                found.append(_least_eigenvalue(output[0]))

        size = (1, subject.shape[0], self.resolution, self.resolution)
        image = torch.randn(size, generator=subject.generator("image")).to(subject.device, getattr(torch, self.dtype))
        modules = list(network.modules()) if self.modules == "all" else []
        handlers = dict.fromkeys((CONVOLUTION, LINEAR, NORMALISATION, ACTIVATION), operate)
        with torch.no_grad(), hooked([(module, leave) for module in modules]), Watch(network, handlers):
            reading(network, image, subject.shape)
        # An operation that is no module's output is one of the network's own, and counts like a module of its kind.
        found += [value for result, value in single if id(result) not in counted]
        if not found:
            raise Unscorable("no feature map")
        return {"least_eigenvalues": np.array(found)}


def _least_eigenvalue(features: Any) -> float:
    """Of the Pearson correlation of the channels of a map (C, H, W), entries that are not defined being 0."""
    import torch

    rows = features.flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariance = rows @ rows.T
    deviation = covariance.diagonal().sqrt()
    matrix = (covariance / deviation[:, None] / deviation[None, :]).nan_to_num(0.0, 0.0, 0.0)
    return float(torch.linalg.eigvalsh(matrix)[0])
