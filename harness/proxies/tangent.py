"""Proxies of the tangent kernel of single images, each with the logit of its own class."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.probes.base import Probe, Unscorable, of_several_images
from harness.probes.persample import SampleKernel
from harness.proxies.base import Proxy
from harness.proxies.saliency import VARIANTS


@dataclass(frozen=True)
class _SampleKernel(Proxy):
    """Reads Theta = G G^T (B, B), G the gradients of each image's logit of its own class.

    By the weights and biases of convolutions and linear layers. `variant=paper` (default): every image is a mini-batch
    of its own to BatchNorm, as the theory has no other images in a gradient. `variant=repo`: the authors' tool for
    single gradients (shuyao95/HNAS @ 970789c2, `tools/autograd_hacks.py`), which runs BatchNorm on the mini-batch and
    leaves out what one image does to another by way of it. 16 images, as `ntk`; that search takes 64. On 8 cells of
    NAS-Bench-201, the same weights and images, the largest relative difference from the trace and condition number of
    that code is 2e-14 in float64, 7e-6 in float32.
    """

    citation: ClassVar[str] = "Shu et al., HNAS, NeurIPS 2022; Shu et al., NASI, ICLR 2022"
    inputs: ClassVar[str] = "images"
    choices: ClassVar[Mapping[str, Collection]] = {"variant": VARIANTS}

    init: str = "default"
    batch_size: int = 16
    variant: str = "paper"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {SampleKernel(self.init, self.batch_size, self.variant, self.dtype): ("sample_kernel",)}

    def kernel(self, seen: Mapping[str, Any]) -> np.ndarray:
        kernel = seen["sample_kernel"]
        if not np.isfinite(kernel).all():
            raise Unscorable("tangent kernel is not finite")
        return kernel

    def extremes(self, seen: Mapping[str, Any]) -> tuple[float, float]:
        """Least and greatest eigenvalue. Raises Unscorable for a kernel that is singular to the precision."""
        eigenvalues = np.linalg.eigvalsh(of_several_images(self.kernel(seen)))
        if eigenvalues[0] <= eigenvalues[-1] * len(eigenvalues) * np.finfo(self.dtype).eps:
            raise Unscorable("singular tangent kernel")
        return float(eigenvalues[0]), float(eigenvalues[-1])


@dataclass(frozen=True)
class NtkTrace(_SampleKernel):
    """Root of the trace of the tangent kernel over the number of images, ||Theta||_tr / B in NASI's words."""

    name: ClassVar[str] = "ntk_trace"
    summary: ClassVar[str] = "root of the mean squared gradient of an image's own logit"

    def score(self, seen: Mapping[str, Any]) -> float:
        kernel = self.kernel(seen)
        return np.sqrt(np.trace(kernel) / len(kernel))


@dataclass(frozen=True)
class NtkCond(_SampleKernel):
    """Condition number of the tangent kernel of single images; the score is its negative.

    `ntk` is another one: TE-NAS's, of the summed logits, BatchNorm on the mini-batch, a backward pass an image.
    A kernel that is singular to the precision is a status, where the authors' code has 100,000.
    """

    name: ClassVar[str] = "ntk_cond"
    summary: ClassVar[str] = "minus the condition number of the images' own tangent kernel"
    sign: ClassVar[int] = -1
    tolerance: ClassVar[float] = 0.1

    def score(self, seen: Mapping[str, Any]) -> float:
        least, greatest = self.extremes(seen)
        return -greatest / least


@dataclass(frozen=True)
class NtkMin(_SampleKernel):
    """Least eigenvalue of the tangent kernel of single images."""

    name: ClassVar[str] = "ntk_min"
    summary: ClassVar[str] = "least eigenvalue of the images' own tangent kernel"
    tolerance: ClassVar[float] = 0.1

    def score(self, seen: Mapping[str, Any]) -> float:
        return self.extremes(seen)[0]
