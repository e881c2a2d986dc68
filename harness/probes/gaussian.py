"""Passes over a network with N(0, 1) weights: Zen-NAS's and SWAP's."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import (
    OncePerTensor,
    Probe,
    Subject,
    Unscorable,
    activations,
    by_image,
    finite_logits,
    hooked,
    side_of_its_own,
)


@dataclass(frozen=True)
class PerturbationPass(Probe):
    """Forwards of Gaussian images x and of x + gamma * x', weights N(0, 1), BatchNorm on batch statistics.

    Observables: `feature_distance`, the mean over images of the summed absolute difference of the last feature
    maps; `log_norm_scale`, the sum over BatchNorms of ln sqrt(mean running variance) after both forwards. The last
    feature map is what the final pooling or the classifier reads: the last four-dimensional output with more than
    one position, of a module that is no pooling. Cells and other containers count, as a sum or a concatenation of
    branches is no module's output but theirs.
    """

    batch_size: int = 64
    gamma: float = 0.01
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise("gaussian", dtype=self.dtype)
        network = subject.network
        last: list = [None]
        poolings = (torch.nn.AvgPool2d, torch.nn.MaxPool2d, torch.nn.AdaptiveAvgPool2d, torch.nn.AdaptiveMaxPool2d)

        def keep(module, args, output):
            if isinstance(output, torch.Tensor) and output.ndim == 4 and output[0, 0].numel() > 1:
                last[0] = output

        generator = subject.generator("perturbation")
        size = (self.batch_size, *subject.shape)
        images, noise = (torch.randn(size, generator=generator).to(subject.device) for _ in range(2))
        maps = []
        read = [module for module in network.modules() if not isinstance(module, poolings)]
        with torch.no_grad(), hooked([(module, keep) for module in read]):
            for batch in (images, images + self.gamma * noise):
                network(_like(subject, batch.to(getattr(torch, self.dtype))))
                if last[0] is None:
                    raise Unscorable("no feature map before the pooling")
                maps.append(last[0])
        distance = (maps[0] - maps[1]).abs().sum(dim=(1, 2, 3)).double().mean()
        if not torch.isfinite(distance):
            raise Unscorable("the last feature map is not finite")
        norms = [m for m in network.modules() if isinstance(m, torch.nn.BatchNorm2d) and m.running_var is not None]
        scale = sum((m.running_var.double().mean().sqrt().log() for m in norms), torch.zeros((), dtype=torch.float64))
        return {"feature_distance": float(distance), "log_norm_scale": float(scale)}


def _like(subject: Subject, images: Any) -> Any:
    """Images in the memory layout of the network's mini-batches: a layout changes the rounding."""
    import torch

    return images.contiguous(memory_format=torch.channels_last) if images.ndim == 4 else images


@dataclass(frozen=True)
class UnitPatterns(Probe):
    """Forwards of a mini-batch with N(0, 1) weights; observable `distinct_patterns` (repeats,).

    A unit's pattern is the sign of its ReLU output over the images; counted are the distinct patterns of all
    units of four-dimensional ReLU outputs. A new initialisation a repeat, the same mini-batch. `cell` takes the
    space's network of one cell. Raises Unscorable where all patterns that so many images allow occur.
    """

    batch_size: int = 16
    repeats: int = 4
    cell: bool = False
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        if self.batch_size > 24:
            raise Unscorable("a pattern over more than 24 images has no exact float32 code: lower the batch size")
        if self.cell:
            subject = subject.cell() if subject.cell else None
            if subject is None:
                raise Unscorable("there is no network of one cell here: leave out cell=True")
        network = subject.network
        images, _ = subject.images(self.batch_size, self.dtype)
        met = torch.zeros(2 ** len(images), dtype=torch.bool, device=subject.device)

        def mark(values):
            active = (by_image(values) > 0).float()
            place = 2.0 ** torch.arange(len(active), device=active.device)
            met[(place @ active).long()] = True  # sums of powers of two below 2^24 are exact

        once = OncePerTensor(mark)

        def keep(module, args, output):
            if output.ndim == 4:
                once(args[0])

        counts = []
        hooks = [(module, keep) for module in activations(network).values()]
        for repeat in range(self.repeats):
            subject.initialise("gaussian", repeat, self.dtype)
            met.zero_()
            with torch.no_grad(), hooked(hooks):
                finite_logits(network, images)
            if not met.any():
                raise Unscorable("no four-dimensional ReLU output")
            if met.all():
                raise Unscorable(f"all {len(met)} patterns of {len(images)} images occur: give more images")
            counts.append(int(met.sum()))
        return {"distinct_patterns": np.array(counts, dtype=np.float64)}


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

        subject = self._counted(subject)
        subject.initialise(self.init, dtype=self.dtype)
        codes: list = []

        def keep(module, args, output):
            codes.append((output > 0).flatten(1))

        hooks = [(module, keep) for module in activations(subject.network).values()]
        generator = subject.generator("linear regions")
        sides = (self.resolution, self.resolution) if self.resolution else subject.shape[1:]
        rows = []
        with torch.no_grad(), hooked(hooks):
            for start in range(0, self.samples, self.chunk):
                size = (min(self.chunk, self.samples - start), subject.shape[0], *sides)
                images = torch.randn(size, generator=generator).to(subject.device, getattr(torch, self.dtype))
                codes.clear()
                with side_of_its_own(subject, self.resolution):
                    finite_logits(subject.network, images)
                if not codes:
                    raise Unscorable("no ReLU module was reached")
                rows.append(np.packbits(torch.cat(codes, dim=1).cpu().numpy(), axis=1))
        return {"regions": float(len(np.unique(np.concatenate(rows), axis=0)))}

    def _counted(self, subject: Subject) -> Subject:
        """The subject of the network that regions are counted in."""
        own = subject.regions() if self.network == "cell" and subject.regions is not None else None
        if own is not None:
            return own
        return subject if self.network == "full" or subject.thin is None else subject.thin()
