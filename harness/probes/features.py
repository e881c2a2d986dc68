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
    hooked,
    read_back,
    reading,
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
        found: dict[str, Any] = {}
        finite = {"a stage's output": torch.stack([torch.isfinite(output).all() for output, _ in maps]).all()}
        if "stage_gains" in wanted:
            found["stage_gains"], finite["a gradient between stages"] = _gains(maps, subject.generator("stage signs"))
        if "stage_entropies" in wanted:
            entropies, known = _spectral_entropies([output.detach() for output, _ in maps])
            found["stage_entropies"], finite["the covariance of a stage's channels"] = entropies, known
        found = read_back({**finite, **found})
        for what in finite:
            if not found.pop(what):
                raise Unscorable(f"{what} is not finite")
        return found


def _signs(maps: list, generator: Any) -> Iterator[Any]:
    """Random signs of the shape and layout of each map; drawn on the CPU, so that every device sees the same."""
    import torch

    drawn = [torch.empty(like.shape, dtype=torch.int8).random_(0, 2, generator=generator) for like in maps]
    flat = torch.cat([bits.flatten() for bits in drawn]).to(maps[0].device)
    for like, bits in zip(maps, flat.split([bits.numel() for bits in drawn]), strict=True):
        yield torch.empty_like(like, requires_grad=False).copy_(bits.view(like.shape)).mul_(2).sub_(1)


def _spectral_entropies(maps: list) -> tuple[Any, Any]:
    """Per stage, and whether all covariances are finite."""
    import torch

    entropies, finite = [], []
    for features in maps:
        samples = by_channel(features)
        samples = samples - samples.mean(dim=0)
        covariance = (samples.T @ samples).double() / len(samples)
        finite.append(torch.isfinite(covariance).all())
        eigenvalues = torch.linalg.eigvalsh(torch.where(finite[-1], covariance, 0.0)).clamp_min(0)
        share = eigenvalues / eigenvalues.sum()  # NaN where all are 0
        entropies.append(-(share * (share + 1e-8).log()).sum())
    return torch.stack(entropies), torch.stack(finite).all()


def _gains(maps: list, generator: Any) -> tuple[Any, Any]:
    """Per pair of stages, of which `maps` holds the output and the leaf that the next one starts from.

    NaN where the gradient that arrives is the one that left, 0 where none arrives. And whether all are finite.
    """
    import torch

    nothing = torch.zeros((), dtype=torch.float64, device=maps[0][0].device)
    gains, finite = [], [nothing == 0]
    signs = _signs([after for after, _ in maps[1:]], generator)
    for ((_, before), (after, _)), sign in zip(pairwise(maps), signs, strict=True):
        (grad,) = torch.autograd.grad(after, before, sign, allow_unused=True) if after.requires_grad else (None,)
        if grad is None:
            gains.append(nothing)
            continue
        left, right = by_channel(_as_wide(grad, sign)), by_channel(sign)
        product = (left.T @ right).double() / len(left)
        finite.append(torch.isfinite(product).all())
        gain = torch.linalg.matrix_norm(torch.where(finite[-1], product, 0.0), ord=2)
        if grad.shape == sign.shape:
            gain = torch.where((grad == sign).all(), float("nan"), gain)
        gains.append(gain)
    return torch.stack(gains), torch.stack(finite).all()


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
    every module, containers too, and those operations that are no module's. BatchNorm on the statistics of that one
    image.

    `channels`: of so many channels alone, drawn for each map, the eigenvalue times their inverse share; 0: of all. A
    map that has fewer is left out, or read whole where `narrow` is `all`.
    """

    init: str = "kaiming_fan_in"
    resolution: int = 64
    modules: str = "leaf"
    dtype: str = "float32"
    channels: int = 0
    narrow: str = "skip"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import ACTIVATION, CONVOLUTION, LINEAR, NORMALISATION, RELUS, Watch
        from harness.probes.rows import Channels

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        found: list[torch.Tensor] = []
        channels = Channels()
        counted: dict[int, Any] = {}  # outputs of modules, in `modules=all`: held, so that none takes another's id
        single: list = []
        draws = subject.generator("channels")

        def least(maps):
            total = len(maps)
            if not self.channels or (total < self.channels and self.narrow == "all"):
                return [_least_eigenvalue(maps)]
            if total < self.channels:
                return []
            drawn = torch.randperm(total, generator=draws)[: self.channels].to(maps.device)
            return [_least_eigenvalue(maps[drawn]) * (total / self.channels)]

        def operate(operation):
            result = operation.run()
            maps = result.movedim(channels.of(operation, result), 1) if result.ndim > 1 else result
            if maps.ndim != 4 or operation.fixed or (operation.kind == ACTIVATION and operation.name not in RELUS):
                return result
            if operation.kind == LINEAR:
                return result
            if self.modules == "leaf":
                found.extend(least(maps[0]))
            else:
                single.append((result, least(maps[0])))
            return result

        def leave(module, args, output):
            if isinstance(output, torch.Tensor) and output.ndim == 4 and not watch.is_fixed(output):
                counted[id(output)] = output
                found.extend(least(output[0]))

        size = (1, subject.shape[0], self.resolution, self.resolution)
        image = torch.randn(size, generator=subject.generator("image")).to(subject.device, getattr(torch, self.dtype))
        modules = list(network.modules()) if self.modules == "all" else []
        handlers = dict.fromkeys((CONVOLUTION, LINEAR, NORMALISATION, ACTIVATION), operate)
        watch = Watch(network, handlers)
        with torch.no_grad(), hooked([(module, leave) for module in modules]), watch:
            reading(network, image, subject.shape)
        # An operation that is no module's output is one of the network's own, and counts like a module of its kind.
        found += [value for result, values in single if id(result) not in counted for value in values]
        if not found:
            raise Unscorable(
                f"no feature map of {self.channels} channels or more" if self.channels else "no feature map"
            )
        return {"least_eigenvalues": to_host(found)}


def _least_eigenvalue(features: Any) -> Any:
    """Of the Pearson correlation of the channels of a map (C, H, W), entries that are not defined being 0."""
    import torch

    rows = features.flatten(1).double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariance = rows @ rows.T
    deviation = covariance.diagonal().sqrt()
    matrix = (covariance / deviation[:, None] / deviation[None, :]).nan_to_num(0.0, 0.0, 0.0)
    return torch.linalg.eigvalsh(matrix)[0]
