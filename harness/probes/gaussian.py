"""Passes over a network with N(0, 1) weights: Zen-NAS's and SWAP's."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.probes.base import (
    IMAGES,
    OncePerTensor,
    Probe,
    Start,
    Subject,
    Unscorable,
    by_image,
    check_finite,
    of_side,
    outputs,
    reading,
    to_host,
)

if TYPE_CHECKING:
    import torch

    from harness.probes.operations import Kept, Operation


@dataclass(frozen=True)
class PerturbationPass(Probe):
    """Forwards of Gaussian images x and of x + gamma * x', weights N(0, 1), BatchNorm on batch statistics.

    Observables: `feature_distance`, the mean over images of the summed absolute difference of the last feature
    maps; `log_norm_scale`, the sum over BatchNorms of ln sqrt(mean running variance) after both forwards. The last
    feature map is what the final pooling or the classifier reads. Both forwards begin alike (`Start`): dropout drops
    the same. Running statistics are fresh, or those that `warm` forwards of one batch of Gaussian images left, with
    weights that are kaiming normal. `resolution` is the images' side, 0 that of the mini-batches.
    """

    batch_size: int = 64
    gamma: float = 0.01
    dtype: str = "float32"
    warm: int = 0
    resolution: int = 0

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        network = subject.network
        left = self._warmed(subject) if self.warm else {}
        subject.initialise("gaussian", dtype=self.dtype)
        for norm, variance in left.items():
            norm.running_var.copy_(variance)
        features = _LastMaps(network)
        generator = subject.generator("perturbation")
        size = (self.batch_size, *subject.image_shape(self.resolution))
        images, noise = (torch.randn(size, generator=generator).to(subject.device) for _ in range(2))
        start = Start(network, subject.device)
        maps = []
        for batch in (images, images + self.gamma * noise):
            start.again()  # the images alone differ
            with of_side(batch, subject.shape):
                maps.append(features.of(_like(subject, batch.to(getattr(torch, self.dtype)))))
        if maps[0].shape != maps[1].shape:
            raise Unscorable("the shape of the last feature map depends on the images")
        distance = (maps[0] - maps[1]).abs().sum(dim=(1, 2, 3)).double().mean()
        if not torch.isfinite(distance):
            raise Unscorable("the last feature map is not finite")
        zero = torch.zeros((), dtype=torch.float64)
        scale = sum((variance.double().mean().sqrt().log() for variance in features.variances()), zero)
        return {"feature_distance": float(distance), "log_norm_scale": float(scale)}

    def _warmed(self, subject: Subject) -> dict[Any, torch.Tensor]:
        """The running variance of each BatchNorm after `warm` forwards, from the variance that one of them meets."""
        import torch

        subject.initialise("kaiming_fan_in", dtype=self.dtype)
        norms = _batch_norms(subject.network)
        momenta = [norm.momentum for norm in norms]
        size = (self.batch_size, *subject.image_shape(self.resolution))
        images = torch.randn(size, generator=subject.generator("warm"))
        for norm in norms:
            norm.momentum = 1.0
        try:
            with torch.no_grad(), of_side(images, subject.shape):
                outputs(subject.network, _like(subject, images.to(subject.device, getattr(torch, self.dtype))))
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.momentum = momentum
        left = {}
        for norm, momentum in zip(norms, momenta, strict=True):
            fresh = 0.0 if momentum is None else (1 - momentum) ** self.warm  # the share of the 1 that it begins with
            left[norm] = fresh + (1 - fresh) * norm.running_var
        return left


class _LastMaps:
    """The last feature maps of a forward, and the running variances of the BatchNorms that it meets.

    The last maps are what the last operation reads that leaves one position of them, or a vector: a pooling, a mean, a
    flattening. Poolings before that one and views of maps do not count: the map is what they read.
    """

    def __init__(self, network: Any):
        from harness.probes.operations import NORMALISATION, Watch

        self._network = network
        self._last: Kept | None = None
        self._tokens = False
        self._sources: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of a pooled or flattened map
        self._variances = {id(norm.running_var): norm.running_var for norm in _batch_norms(network)}
        self._watch = Watch(network, {NORMALISATION: self._norm}, self._see)

    def of(self, images: torch.Tensor) -> torch.Tensor:
        """The last maps (B, C, H, W) of more than one position. Raises Unscorable where there are none."""
        import torch

        self._last, self._tokens = None, False
        self._sources.clear()
        with torch.no_grad(), self._watch:
            self._network(images)
        if self._tokens:
            raise Unscorable("what the classifier reads are tokens, no feature map")
        if self._last is None:
            raise Unscorable("no feature map before the pooling")
        return self._last.value

    def variances(self) -> list[torch.Tensor]:
        return list(self._variances.values())

    def _norm(self, operation: Operation) -> Any:
        result = operation.run()
        if operation.name == "batch_norm" and operation.input.ndim == 4 and not operation.fixed:
            variance = operation.get("running_var")
            if variance is None:
                raise Unscorable("BatchNorm without running statistics has no scale")
            self._variances.setdefault(id(variance), variance)
        return result

    def _see(self, read: Any, result: Any, kind: str | None) -> None:
        import torch

        if self._watch.is_fixed(read):  # weights may have the shape of maps
            return
        result = result[0] if isinstance(result, tuple) and result else result
        if (
            not isinstance(read, torch.Tensor)
            or not isinstance(result, torch.Tensor)
            or read.ndim < 3
            or read is result
        ):
            return
        _, read = self._sources.get(id(read), (None, read))
        if result.ndim == 2 or (result.ndim == 4 and result[0, 0].numel() == 1):
            if read.ndim == 4 and read[0, 0].numel() > 1:
                self._last, self._tokens = self._watch.keep(read), False
            elif read.ndim == 3 and result.ndim == 2:
                self._tokens = True
        elif read.ndim == 4 and read[0, 0].numel() > 1:
            flattened = result.ndim == 3 and kind is None and result.shape == (*read.shape[:2], read[0, 0].numel())
            if kind == "pooling" or flattened:
                self._sources[id(result)] = (result, read)


def _batch_norms(network: Any) -> list:
    from torch import nn

    return [m for m in network.modules() if isinstance(m, nn.BatchNorm2d) and m.running_var is not None]


def _like(subject: Subject, images: Any) -> Any:
    """Images in the memory layout of the mini-batches of a space: a layout changes the rounding.

    Those of users' networks stay as they are: their views may need them so.
    """
    import torch

    return images.contiguous(memory_format=torch.channels_last) if subject.plain else images


@dataclass(frozen=True)
class UnitPatterns(Probe):
    """Forwards of a mini-batch with N(0, 1) weights; observable `distinct_patterns` (repeats,).

    A unit's pattern is the sign of its ReLU output over the images; counted are the distinct patterns of all
    units of four-dimensional ReLU outputs. A new initialisation a repeat, the same mini-batch. `cell` takes the
    space's network of one cell. Raises Unscorable where all patterns that so many images allow occur. `depth`: the
    share of those ReLUs, in the order in which they are computed, that count.
    """

    batch_size: int = 16
    repeats: int = 4
    cell: bool = False
    dtype: str = "float32"
    depth: float = 1.0

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.layout import FIRST
        from harness.probes.operations import ACTIVATION, RELUS, Watch

        if self.batch_size > 24:
            raise Unscorable("a pattern over more than 24 images has no exact float32 code: lower the batch size")
        if self.cell:
            subject = subject.cell() if subject.cell else None
            if subject is None:
                raise Unscorable("there is no network of one cell here: leave out cell=True")
        network = subject.network
        images, _ = subject.images(self.batch_size, self.dtype)
        met = torch.zeros(2 ** len(images), dtype=torch.bool, device=subject.device)
        count = len(images)
        layout, once, counts, finite = None, None, [], []

        def mark(values):
            active = (by_image(values) > 0).float()
            place = 2.0 ** torch.arange(len(active), device=active.device)
            met[(place @ active).long()] = True  # sums of powers of two below 2^24 are exact

        met_relus, counted = 0, None  # None: all

        def rectify(operation):
            nonlocal met_relus
            if operation.name in RELUS and operation.input.ndim == 4 and not operation.fixed:
                met_relus += 1
                if counted is not None and met_relus > counted:
                    return operation.run()
                place = layout.place(operation.index)
                if place == FIRST and len(operation.input) == count:
                    once(operation.input)
                else:
                    mark(place.split(operation.input, count))
            return operation.run()

        def forward(repeat):
            nonlocal layout, once, met_relus
            subject.initialise("gaussian", repeat, self.dtype)
            layout = subject.layout()
            met.zero_()
            met_relus, once = 0, OncePerTensor(mark)  # what an earlier forward has marked is gone
            with torch.no_grad(), Watch(network, {ACTIVATION: rectify}):
                finite.append(torch.isfinite(outputs(network, images.clone())).all())  # it may write into its input

        for repeat in range(self.repeats):
            if self.depth < 1 and counted is None:
                forward(repeat)
                counted = math.ceil(self.depth * met_relus)
            forward(repeat)
            counts.append(met.sum())
        check_finite(finite)
        found = to_host(counts)
        if not found.all():
            raise Unscorable("no four-dimensional ReLU output")
        if (found == len(met)).any():
            raise Unscorable(f"all {len(met)} patterns of {len(images)} images occur: give more images")
        return {"distinct_patterns": found}


@dataclass(frozen=True)
class LinearRegions(Probe):
    """Forwards of Gaussian images; observable `regions`: how many differ in the code of some ReLU.

    BatchNorm on batch statistics. `network`: `cell` is that of TE-NAS where the space has it, else `thin`: the space's
    thin network where it has one, else `full`. `resolution` is the images' side, 0 that of the mini-batches.
    """

    samples: int = 3000
    chunk: int = 1000
    resolution: int = 3
    network: str = "cell"
    init: str = "kaiming_fan_in"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        from harness.probes.operations import ACTIVATION, RELUS, Watch

        subject = self._counted(subject)
        subject.initialise(self.init, dtype=self.dtype)
        layout = subject.layout()
        codes: list = []

        def rectify(operation):
            result = operation.run()
            if operation.name in RELUS and not operation.fixed:
                codes.append((layout.place(operation.index).split(result, count) > 0).flatten(1))
            return result

        generator = subject.generator("linear regions")
        rows = []
        with torch.no_grad():
            for start in range(0, self.samples, self.chunk):
                count = min(self.chunk, self.samples - start)
                images = torch.randn((count, *subject.image_shape(self.resolution)), generator=generator)
                images = images.to(subject.device, getattr(torch, self.dtype))
                codes.clear()
                with Watch(subject.network, {ACTIVATION: rectify}):
                    reading(subject.network, images, subject.shape)
                if not codes:
                    raise Unscorable("the network computes no ReLU")
                rows.append(np.packbits(torch.cat(codes, dim=1).cpu().numpy(), axis=1))
        return {"regions": float(len(np.unique(np.concatenate(rows), axis=0)))}

    def _counted(self, subject: Subject) -> Subject:
        """The subject of the network that regions are counted in."""
        own = subject.regions() if self.network == "cell" and subject.regions is not None else None
        if own is not None:
            return own
        return subject if self.network == "full" or subject.thin is None else subject.thin()
