"""The feature maps of stages and layers, and how gradients travel between stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from harness.probes.base import (
    Probe,
    Subject,
    Unscorable,
    by_channel,
    finite_logits,
    hooked,
    normalisations,
    side_of_its_own,
    to_host,
)


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
        import torch

        if len(subject.stages) < 2:
            raise Unscorable("the network names no stages")
        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        images, _ = subject.images(self.batch_size, self.dtype)
        for parameter in network.parameters():
            parameter.requires_grad_(False)
        maps: list = []

        def keep(module, args, output):
            # Each stage starts a graph of its own, whose one product needs no other stage's activations.
            start = output.detach().requires_grad_(True)
            maps.append((output, start))
            return start

        with hooked([(stage, keep) for stage in subject.stages]):
            network(images)
        if len(maps) != len(subject.stages) or any(output.ndim != 4 for output, _ in maps):
            raise Unscorable("a stage's output is no feature map")
        if not to_host([torch.isfinite(output).all() for output, _ in maps]).all():
            raise Unscorable("a stage's output is not finite")
        found = {}
        if "stage_gains" in wanted:
            found["stage_gains"] = _gains(maps, subject.generator("stage signs"))
        if "stage_entropies" in wanted:
            found["stage_entropies"] = _spectral_entropies([output.detach() for output, _ in maps])
        return found


def _signs(maps: list, generator: Any) -> Iterator[Any]:
    """Random signs of the shape and layout of each map; drawn on the CPU, so that every device sees the same."""
    import torch

    drawn = [torch.empty(like.shape, dtype=torch.int8).random_(0, 2, generator=generator) for like in maps]
    flat = torch.cat([bits.flatten() for bits in drawn]).to(maps[0].device)
    for like, bits in zip(maps, flat.split([bits.numel() for bits in drawn]), strict=True):
        yield torch.empty_like(like, requires_grad=False).copy_(bits.view(like.shape)).mul_(2).sub_(1)


def _spectral_entropies(maps: list) -> Any:
    import torch

    covariances = []
    for features in maps:
        samples = by_channel(features)
        samples = samples - samples.mean(dim=0)
        covariances.append((samples.T @ samples).double() / len(samples))
    if not to_host([torch.isfinite(covariance).all() for covariance in covariances]).all():
        raise Unscorable("the covariance of a stage's channels is not finite")
    entropies = []
    for covariance in covariances:
        eigenvalues = torch.linalg.eigvalsh(covariance).clamp_min(0)
        share = eigenvalues / eigenvalues.sum()  # NaN where all are 0
        entropies.append(-(share * (share + 1e-8).log()).sum())
    return to_host(entropies)


def _gains(maps: list, generator: Any) -> Any:
    """Per pair of stages, of which `maps` holds the output and the leaf that the next one starts from.

    NaN where the gradient that arrives is the one that left, 0 where none arrives.
    """
    import numpy as np
    import torch

    gains = np.zeros(len(maps) - 1)
    places, products, unchanged = [], [], []
    signs = _signs([after for after, _ in maps[1:]], generator)
    for place, (((_, before), (after, _)), sign) in enumerate(zip(pairwise(maps), signs, strict=True)):
        (grad,) = torch.autograd.grad(after, before, sign, allow_unused=True) if after.requires_grad else (None,)
        if grad is None:
            continue
        places.append(place)
        unchanged.append((grad == sign).all() if grad.shape == sign.shape else torch.zeros(()))
        left, right = by_channel(_as_wide(grad, sign)), by_channel(sign)
        products.append((left.T @ right).double() / len(left))
    if not places:
        return gains
    if not to_host([torch.isfinite(product).all() for product in products]).all():
        raise Unscorable("a gradient between stages is not finite")
    norms = [torch.linalg.matrix_norm(product, ord=2) for product in products]
    found = to_host(norms + unchanged).reshape(2, -1)
    gains[places] = np.where(found[1], np.nan, found[0])
    return gains


def _as_wide(grad: Any, like: Any) -> Any:
    """A gradient at the maps of the stage before, its positions that fall on one of `like` as channels."""
    import torch.nn.functional as F

    (height, width), (below, beside) = grad.shape[2:], like.shape[2:]
    if (height, width) == (below, beside):
        return grad
    if height % below or width % beside or height // below != width // beside:
        raise Unscorable("a stage's maps are no whole multiple of the next one's")
    return F.pixel_unshuffle(grad, height // below)


@dataclass(frozen=True)
class ChannelCorrelation(Probe):
    """Forward of one image, read layer by layer; observable `least_eigenvalues` (layers,).

    Per feature map (C, H * W) the least eigenvalue of the Pearson correlation of its channels, entries that
    are not defined counting as 0. `modules=leaf` reads convolutions, normalisations and ReLUs; `modules=all`
    every module, containers too. BatchNorm on the statistics of that one image.
    """

    init: str = "kaiming_fan_in"
    resolution: int = 64
    modules: str = "leaf"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        found: list[torch.Tensor] = []

        def keep(module, args, output):
            if not (isinstance(output, torch.Tensor) and output.ndim == 4):
                return
            rows = output[0].flatten(1).double()
            rows = rows - rows.mean(dim=1, keepdim=True)
            covariance = rows @ rows.T
            deviation = covariance.diagonal().sqrt()
            matrix = (covariance / deviation[:, None] / deviation[None, :]).nan_to_num(0.0, 0.0, 0.0)
            found.append(torch.linalg.eigvalsh(matrix)[0])

        kinds = (torch.nn.Conv2d, torch.nn.ReLU, torch.nn.ReLU6)
        norms = set(normalisations(network))
        read = [m for m in network.modules() if self.modules == "all" or isinstance(m, kinds) or m in norms]
        size = (1, subject.shape[0], self.resolution, self.resolution)
        image = torch.randn(size, generator=subject.generator("image")).to(subject.device, getattr(torch, self.dtype))
        with torch.no_grad(), hooked([(module, keep) for module in read]), side_of_its_own(subject, self.resolution):
            finite_logits(network, image)
        if not found:
            raise Unscorable("no feature map")
        return {"least_eigenvalues": to_host(found)}
