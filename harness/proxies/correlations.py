"""Proxies that ask how alike images are to a network: in what its ReLUs read, and in the gradients there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.probes.base import Probe, Unscorable, of_several_images
from harness.probes.gradient import GradientPass
from harness.proxies.base import Proxy


@dataclass(frozen=True)
class _Correlations(Proxy):
    """ln|det K| of K, the sum over ReLUs of |correlation of the images|; a matrix with an undefined entry is left out.

    Two images that are the same to the network make K singular: a status, no score.
    """

    citation: ClassVar[str] = "Jing et al., WRCor, Neurocomputing 2025 (arXiv 2507.08841)"
    inputs: ClassVar[str] = "images"
    observables: ClassVar[tuple[str, ...]] = ("activation_correlations", "gradient_correlations")

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {GradientPass(self.init, self.batch_size, dtype=self.dtype): self.observables}

    def weights(self, seen: Mapping[str, Any]) -> np.ndarray | float:
        """Of the R ReLUs."""
        return 1.0

    def score(self, seen: Mapping[str, Any]) -> float:
        weights, kernel, defined = self.weights(seen), 0.0, False
        for name in self.observables:
            if name == "relu_stages":
                continue
            matrices = np.abs(of_several_images(seen[name]))
            kept = np.isfinite(matrices).all(axis=(1, 2))
            defined |= bool((kept & (np.broadcast_to(weights, kept.shape) > 0)).any())
            factors = np.broadcast_to(weights, kept.shape)[kept]
            kernel = kernel + np.einsum("r,rij->ij", factors, matrices[kept])
        if not defined:
            raise Unscorable("no ReLU's correlations are defined")
        sizes = np.abs(np.linalg.eigvalsh(kernel))
        if sizes.min() <= sizes.max() * len(kernel) * np.finfo(np.float64).eps:
            raise Unscorable("singular correlations")
        return np.log(sizes).sum()


@dataclass(frozen=True)
class WRCor(_Correlations):
    """WRCor: ln|det K|, K the sum over ReLUs of 2^i (|correlations of the inputs| + |those of the gradients there|).

    i is the number of the cell (reductions included) that the ReLU is in, from 0; the last one, behind the cells, has
    2^cells, and the stem has none: i counts the network's `stages` that have ended before, less one. The gradient is of
    the cross-entropy, by way of that ReLU alone. A gradient that no image's logit depends on is constant, and left out.
    Weights are those of the other readers of the gradient pass, where the authors take torch's own.
    kunjing96/ZSNAS-WRCor @ 270ce7ae, `act_grad_cor_weighted.py`; what that does with split batches is no definition.

    On 10 cells of NAS-Bench-201, the same weights and images, the largest relative difference from that code is 1e-8,
    for `rcor`, `acor` and `gcor` too (2e-8), where it reads ReLUs alone. As it is run it takes every module for one
    whose class is named after it, so that units of ReLU, convolution and BatchNorm count once more, and reads the last
    ReLU when that has written into its input: up to 5 % more for `wrcor`, up to 26 % for `rcor`. Over 20 other cells
    the rank correlation with what it then gives is 1.000 for `wrcor`, 0.997 or more for the others.
    """

    name: ClassVar[str] = "wrcor"
    summary: ClassVar[str] = "log-determinant of the images' correlations over ReLUs, weighted by depth"
    observables: ClassVar[tuple[str, ...]] = ("activation_correlations", "gradient_correlations", "relu_stages")

    def weights(self, seen: Mapping[str, Any]) -> np.ndarray:
        stages = seen["relu_stages"]
        if (stages < 0).any():
            raise Unscorable("a stage is not computed, or more than once")
        if not stages.any():
            raise Unscorable("the network names no stages")
        return np.where(stages > 0, 2.0 ** (stages - 1), 0.0)


@dataclass(frozen=True)
class RCor(_Correlations):
    """RCor: as WRCor, every ReLU with weight 1, the stem's too."""

    name: ClassVar[str] = "rcor"
    summary: ClassVar[str] = "log-determinant of the images' correlations over ReLUs"


@dataclass(frozen=True)
class ACor(_Correlations):
    """ACor: RCor of the inputs of the ReLUs alone."""

    name: ClassVar[str] = "acor"
    summary: ClassVar[str] = "log-determinant of the images' correlations in ReLU inputs"
    reads_head: ClassVar[bool] = False
    observables: ClassVar[tuple[str, ...]] = ("activation_correlations",)


@dataclass(frozen=True)
class GCor(_Correlations):
    """GCor: RCor of the gradients alone."""

    name: ClassVar[str] = "gcor"
    summary: ClassVar[str] = "log-determinant of the images' correlations in ReLU gradients"
    observables: ClassVar[tuple[str, ...]] = ("gradient_correlations",)
