"""Proxies that read which units are active for which image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import HarnessError
from harness.probes.base import Probe, Unscorable
from harness.probes.gradient import GradientPass
from harness.probes.positive import PositivePass
from harness.proxies.base import Proxy
from harness.proxies.saliency import saliency_probe, signal_to_noise

MELLOR = "Mellor et al., Neural Architecture Search without Training, ICML 2021"
XIANG = "Xiang et al., AutoML 2023"


def log_determinants(kernels: np.ndarray) -> np.ndarray:
    """ln|K| of each symmetric positive semi-definite kernel (L, B, B); -inf where it is singular.

    A rank below B leaves eigenvalues that are rounding noise; they count as 0, not as their logarithm.
    """
    eigenvalues = np.linalg.eigvalsh(kernels)
    floor = eigenvalues[..., -1:] * kernels.shape[-1] * np.finfo(np.float64).eps
    with np.errstate(divide="ignore"):
        return np.log(np.where(eigenvalues > floor, eigenvalues, 0.0)).sum(axis=-1)


@dataclass(frozen=True)
class _Codes(Proxy):
    inputs: ClassVar[str] = "images"

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {GradientPass(self.init, self.batch_size, dtype=self.dtype): ("relu_kernels",)}


@dataclass(frozen=True)
class Naswot(_Codes):
    """NASWOT: ln|K|, K_ij the number of ReLUs that treat images i and j alike, over the whole network.

    A code is [input of the ReLU > 0]. BatchNorm is in train mode. Scores of different batch sizes are not
    comparable. Two images of equal code make K singular: a status, no score.
    """

    name: ClassVar[str] = "naswot"
    summary: ClassVar[str] = "log-determinant of the ReLU codes' Hamming kernel"
    citation: ClassVar[str] = MELLOR

    def score(self, seen: Mapping[str, Any]) -> float:
        value = log_determinants(seen["relu_kernels"].sum(axis=0)[None])[0]
        if np.isneginf(value):
            raise Unscorable("singular kernel")
        return value


@dataclass(frozen=True)
class LayerwiseNaswot(_Codes):
    """Layer-wise NASWOT: sum over ReLUs of ln|K^l|, each kernel of one layer's codes.

    A layer whose kernel is singular contributes nothing, as the product of T-CET needs a finite value.
    """

    name: ClassVar[str] = "layerwise_naswot"
    summary: ClassVar[str] = "sum over layers of the log-determinant of the layer's kernel"
    citation: ClassVar[str] = XIANG

    def score(self, seen: Mapping[str, Any]) -> float:
        values = log_determinants(seen["relu_kernels"])
        if not np.isfinite(values).any():
            raise Unscorable("singular kernel in every layer")
        return values[np.isfinite(values)].sum()


@dataclass(frozen=True)
class TCet(_Codes):
    """T-CET: sum over layers of SSNR's term times the layer's ln|K^l|.

    The paper does not say which codes belong to a weight layer. Settings: `codes=output` (default): [output of
    the convolution or linear layer > 0], one kernel a weight layer, as the public implementation does;
    `codes=relu`: the ReLU that feeds the layer, on networks that have one for each. `saliency` as for SSNR.
    A layer whose kernel is singular (a classifier with fewer outputs than images, say) contributes nothing.
    """

    name: ClassVar[str] = "t_cet"
    summary: ClassVar[str] = "sum over layers of SSNR term x log-determinant of the layer's kernel"
    citation: ClassVar[str] = XIANG

    saliency: str = "snip"
    codes: str = "output"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        if self.codes not in ("output", "relu"):
            raise HarnessError(f"proxy 't_cet': codes={self.codes!r} is neither 'output' nor 'relu'")
        wanted = dict(saliency_probe(self.saliency, self.init, self.batch_size, self.dtype))
        gradient = GradientPass(self.init, self.batch_size, dtype=self.dtype)
        kernels = ("layer_kernels", "layer_places") if self.codes == "output" else ("relu_kernels", "relu_places")
        wanted[gradient] = (*wanted.get(gradient, ()), *kernels)
        return wanted

    def score(self, seen: Mapping[str, Any]) -> float:
        kind = "layer" if self.codes == "output" else "relu"
        places = seen[f"{kind}_places"]
        values = np.zeros(len(places))
        paired = places >= 0
        values[paired] = log_determinants(seen[f"{kind}_kernels"])[places[paired]]
        values[~np.isfinite(values)] = 0.0
        terms = signal_to_noise(seen, self.saliency) * values
        if not terms.any():
            raise Unscorable("no layer has both varying saliencies and a regular kernel")
        return terms.sum()


@dataclass(frozen=True)
class EntropicScore(Proxy):
    """Entropic Score: sum over activations of the mean over elements of -a ln(a + eps).

    |weights|, normalisation removed, every activation a ReLU, uniform noise in [-0.5, 0.5]; a is the
    activation over its maximum along the channels at its place. Mean of three initialisations and images.
    The paper leaves open the batch size (1 here), eps (1e-8) and the initialisation; all are settings.
    """

    name: ClassVar[str] = "entropic_score"
    summary: ClassVar[str] = "entropy of the activations of a positive network"
    citation: ClassVar[str] = "Cavagnero et al., Entropic Score, 2023 (arXiv 2310.04179)"
    inputs: ClassVar[str] = "none"

    init: str = "kaiming_fan_in"
    batch_size: int = 1
    repeats: int = 3
    eps: float = 1e-8

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {PositivePass(self.init, self.batch_size, self.repeats, self.eps): ("entropies",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["entropies"].sum(axis=1).mean()
