"""Proxies of a few forward passes: of noise, of single images, of weights that are all one number."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.probes.base import Probe, Unscorable, of_several_images
from harness.probes.constant import ConstantWeights
from harness.probes.curvature import Conditioning, Curvature
from harness.probes.gradient import GradientPass
from harness.probes.noise import FeatureDistances, NoisyCodes
from harness.probes.ranks import StableRanks
from harness.proxies.base import Proxy


@dataclass(frozen=True)
class InTrain(Proxy):
    """InTrain, a RECONSTRUCTION: sum over ReLUs of ln PR, times 1 + o, over ln(L + 1).

    PR = (tr C)^2 / tr(C^2), C the covariance of a ReLU's channels over images and positions, 1e-10 added to its
    diagonal; o the sum over parameter tensors of min(1, std(g) / max|g|), g the gradient of the cross-entropy of random
    labels. A secondary source has the formula; the layers, whether C is centred (here: yes), the kind of deviation
    (the population's) and L (the number of ReLUs) are not in it. There the noise has 64 x 64 pixels, here the side of
    the benchmark's images, so that the gradient pass on noise serves it.

    A bias that a BatchNorm takes out again has no gradient but rounding, and counts by that, with some 0.3 of o, which
    another processor draws anew.

    `part`: the terms of the paper's ablation, g = sum of ln PR / ln(L + 1) in `ratio`, o in `gradient`, g + o in `sum`.
    """

    name: ClassVar[str] = "intrain"
    summary: ClassVar[str] = "spread of the activations' spectra and of the gradients (reconstruction)"
    citation: ClassVar[str] = "Zhou et al., InTrain, CVPR 2026 (arXiv 2606.18676)"
    caveat: ClassVar[str] = "a reconstruction from a secondary source, not the authors' numbers"
    tolerance: ClassVar[float] = 0.02
    inputs: ClassVar[str] = "random"
    choices: ClassVar[Mapping[str, Collection]] = {"part": ("product", "ratio", "gradient", "sum")}

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    part: str = "product"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        left_out = {"ratio": "gradient_spread", "gradient": "participations"}.get(self.part)
        observables = tuple(name for name in ("participations", "gradient_spread") if name != left_out)
        return {GradientPass(self.init, self.batch_size, dtype=self.dtype): observables}

    def score(self, seen: Mapping[str, Any]) -> float:
        if self.part == "gradient":
            return seen["gradient_spread"]
        ratios = seen["participations"]
        scale = np.log(len(ratios) + 1)
        if self.part == "product":
            return ratios.sum() * (1 + seen["gradient_spread"]) / scale
        return ratios.sum() / scale + (seen["gradient_spread"] if self.part == "sum" else 0)


@dataclass(frozen=True)
class Apd(Proxy):
    """APD's proxy for NAS-Bench-201, written by a language model: the product of two sums.

    The stable ranks of the outputs of all BatchNorms, and over convolutions the mean L1 norm of a filter over its mean
    L2 norm (`StableRanks`), averaged over `repeats` initialisations. (Kang et al., Figure 16 of the appendix, the first
    of three; Table 1 names its formula the best on NAS-Bench-201. Not stated: the initialisation, what the repeats draw
    anew, whether the 16 "random samples" are images or noise; here torch's own, the weights, and images.) No code of
    the authors was at hand.
    """

    name: ClassVar[str] = "apd"
    summary: ClassVar[str] = "stable ranks behind BatchNorms times norms of filters, found by a language model"
    citation: ClassVar[str] = "Kang et al., APD, NeurIPS 2025"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "images"

    init: str = "default"
    batch_size: int = 16
    repeats: int = 5
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = StableRanks(self.init, self.batch_size, self.repeats, self.dtype)
        return {probe: ("stable_ranks", "filter_norms")}

    def score(self, seen: Mapping[str, Any]) -> float:
        return (seen["stable_ranks"].sum(axis=1) * seen["filter_norms"].sum(axis=1)).mean()


@dataclass(frozen=True)
class Dextr(Proxy):
    """Dextr: s k / (s + k), s = ln(1 + sum of inverse condition numbers of maps), k = ln(1 + curvature).

    The condition numbers are those of the outputs of all modules for one image, containers too, so that what a cell
    gives counts again; a vector counts 1 (`Conditioning`). The curvature is of ten logits along a circle of images of
    64 x 64 (`Curvature`); where there is none, as where the network does not bend, the score is s. One random circle:
    average seeds. rohanasthana/Dextr @ 55bcd433, `NASBench201/correlation/NAS_Bench_201.py`: on 4 cells of
    NAS-Bench-201, the same weights, image, circle and logits, float64 gives the score of that code, and in float32 the
    largest relative difference is 6e-4. What is a module is part of the score: with modules for skip connections, as in
    the authors' network, the rank correlation with ours over 30 cells is 0.986.
    """

    name: ClassVar[str] = "dextr"
    summary: ClassVar[str] = "conditioning of the maps and curvature of the logits"
    citation: ClassVar[str] = "Asthana et al., Dextr, TMLR 2025 (arXiv 2508.12977)"
    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 0.05

    init: str = "default"
    resolution: int = 64
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {
            Conditioning(self.init, self.dtype): ("condition_ratios",),
            Curvature(self.init, self.resolution, dtype=self.dtype): ("curvature",),
        }

    def score(self, seen: Mapping[str, Any]) -> float:
        return harmonic(float(np.log1p(np.nansum(seen["condition_ratios"]))), seen["curvature"])


def harmonic(conditioning: float, curvature: float) -> float:
    """s k / (s + k) with k = ln(1 + curvature), s alone where that is not finite."""
    bend = np.log1p(curvature)
    with np.errstate(invalid="ignore"):
        value = conditioning * bend / (conditioning + bend)
    return float(value) if np.isfinite(value) else conditioning


#: Below this a difference of float32 features that lie in [0, 1] is rounding.
ROUNDING = 1e-6


@dataclass(frozen=True)
class Epsinas(Proxy):
    """epsinas: mean |p1 - p2| over the mean of both, p_i the features of a network whose weights are all w_i.

    What the classifier reads, all images and channels together, brought to [0, 1]; zeros count as missing. w1 and w2
    are 1e-7 and 1, the authors' for NAS-Bench-201; theirs for NAS-Bench-101 are `first=1e-4:second=10`. They were
    chosen without accuracies. Channels are all alike, and without BatchNorm's epsilon both features would be equal: a
    score is of what that and float32 leave of them, and 0 where it is float32's rounding alone. By design many networks
    have none: their features are all the same number (egracheva/epsinas @ 7e4a9bc0, `epsinas_utils.py`, whose figures
    are of the rest alone). On 10 cells of NAS-Bench-201 the same 5 have none in that code; of the others the largest
    relative difference is 2e-7, and 5e-5 for a score that is itself 5e-5. `flat=True` reads images of one grey each
    instead of the mini-batch's: the "grey-scale input" of the notebook `Ablations.ipynb`.
    """

    name: ClassVar[str] = "epsinas"
    summary: ClassVar[str] = "difference of the outputs with two constant weights"
    citation: ClassVar[str] = "Gracheva, epsinas (arXiv 2302.04406)"
    caveat: ClassVar[str] = (
        "by design without a score for many networks; these rank last, where the paper leaves them out"
    )
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 0.05

    batch_size: int = 256
    first: float = 1e-7
    second: float = 1.0
    flat: bool = False

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {ConstantWeights(self.batch_size, self.first, self.second, self.flat): ("constant_features",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        features = seen["constant_features"]
        if not np.isfinite(features).all():
            raise Unscorable("the features are not finite")
        least, greatest = features.min(axis=1, keepdims=True), features.max(axis=1, keepdims=True)
        if (least == greatest).any():
            raise Unscorable("the features of constant weights are all the same number")
        share = (features - least) / (greatest - least)
        share[share == 0] = np.nan
        if np.isnan(share).any(axis=0).all():
            raise Unscorable("no feature of constant weights differs from the least of both")
        value = np.nanmean(np.abs(share[0] - share[1])) / np.nanmean(share)
        return value if value > ROUNDING else 0.0


@dataclass(frozen=True)
class EPads(Proxy):
    """ePADS: sum over ReLUs of d1 d2, d1 the codes that tell an image from another, d2 those that noise changes.

    Codes [input > 0], the other image a random permutation's (`pairs=all`: the mean over all permutations, which an
    image may keep its place in), noise of deviation 0.01. In eval mode, as the port that was read has it
    (NingW3028/MLFE @ 41b9a162, `proxieslib/epads.py`; the authors' repository was not found). The score grows with the
    square of the number of codes, with width and depth: `normalised` divides by it.

    On 10 cells of NAS-Bench-201, the same weights, images and noise, the largest relative difference from that port is
    5e-7 where it reads ReLUs alone; as it is run, modules whose class is named after ReLU count too, which about
    doubles each score (rank correlation over 20 other cells, with other noise, 0.997).
    """

    name: ClassVar[str] = "epads"
    summary: ClassVar[str] = "codes that tell images apart x codes that noise changes"
    citation: ClassVar[str] = "Huang et al., ePADS, Applied Soft Computing 2025"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 5e-3
    choices: ClassVar[Mapping[str, Collection]] = {"pairs": ("drawn", "all")}

    init: str = "default"
    batch_size: int = 32
    sigma: float = 0.01
    pairs: str = "drawn"
    normalised: bool = False
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = NoisyCodes(self.init, self.batch_size, self.sigma, self.pairs, self.dtype)
        return {probe: ("permuted_changes", "noisy_changes", "codes")}

    def score(self, seen: Mapping[str, Any]) -> float:
        products = seen["permuted_changes"] * seen["noisy_changes"]
        return (products / seen["codes"] ** 2 if self.normalised else products).sum()


def log_determinant_of_kernel(distances: np.ndarray, gamma: float) -> float:
    """ln det of exp(-gamma d^2) (B, B); -inf where two rows are alike.

    Near gamma d^2 = 0 the kernel is one of ones, up to rounding. Its determinant is that of what is left when the first
    row and column are taken from the others, which is made of 1 - exp(-gamma d^2) alone: no digit is lost.
    """
    apart = -np.expm1(-gamma * distances)
    rest = apart[1:, :1] + apart[:1, 1:] - apart[1:, 1:] - apart[1:, :1] * apart[:1, 1:]
    return float(np.linalg.slogdet(rest)[1])


@dataclass(frozen=True)
class RBFleX(Proxy):
    """RBFleX: images times (ln det K + ln det Q), RBF kernels of the ReLUs' outputs and of what the last layer reads.

    Three images, each alone. Each feature is brought to [0, 1] over them. gamma of K and of Q are those of the authors'
    script for NAS-Bench-201 (tomomasayamasaki/RBFleX-NAS @ cd3a57b3, `RBFleX_NAS-Bench-201.py`), found there on ten
    networks. The determinants are computed without the cancellation that float64 leaves of 1 - exp(-1e-12).

    On 6 cells of NAS-Bench-201, the same weights and images, the largest relative difference from that script is 3e-9
    where it reads ReLUs alone; as it is run it reads modules whose class is named after ReLU, too, for scores 1 to 2 %
    higher (rank correlation over 20 other cells 0.998).
    """

    name: ClassVar[str] = "rbflex"
    summary: ClassVar[str] = "log-determinants of RBF kernels of features"
    citation: ClassVar[str] = "Yamasaki et al., RBFleX-NAS, TNNLS 2025"
    tolerance: ClassVar[float] = 5e-3
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "images"

    init: str = "default"
    batch_size: int = 3
    gamma_k: float = 2.68690173088039e-12
    gamma_q: float = 1.02460061284506e-11
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = FeatureDistances(self.init, self.batch_size, self.dtype)
        return {probe: ("relu_distances", "head_distances")}

    def score(self, seen: Mapping[str, Any]) -> float:
        total = log_determinant_of_kernel(of_several_images(seen["relu_distances"]), self.gamma_k)
        return len(seen["relu_distances"]) * (total + log_determinant_of_kernel(seen["head_distances"], self.gamma_q))
