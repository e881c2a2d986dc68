"""Proxies of Jacobians: Fisher information of the prediction, correlations of input gradients."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.probes.base import Probe, Unscorable, of_several_images
from harness.probes.fisher import FisherSketch, fisher_factor
from harness.probes.gradient import GradientPass
from harness.probes.jacobian import WeightJacobian, jacobian_of
from harness.probes.persample import GradientSigns, TangentKernel
from harness.probes.topology import Topology
from harness.probes.weights import WeightCounts
from harness.proxies.base import Proxy, at_least

VKDNW = "Tybl & Neumann, Training-free NAS through Variance of Knowledge of Deep Network Weights, CVPR 2025"


def information_spectrum(rows: np.ndarray) -> np.ndarray:
    """Eigenvalues (p,), descending, of the empirical Fisher information of p weights.

    Args:
        rows: (B, r, p), R_n J_n of each image, whose information is the mean over images of (R_n J_n)^T (R_n J_n).

    Raises Unscorable where the information is not finite.
    """
    stacked = rows.reshape(-1, rows.shape[2])
    information = stacked.T @ stacked / len(rows)
    if not np.isfinite(information).all():
        raise Unscorable("Fisher information is not finite")
    return np.linalg.eigvalsh(information)[::-1].clip(min=0)


def deciles(eigenvalues: np.ndarray) -> np.ndarray:
    """The nine deciles 0.1 … 0.9 of the spectrum."""
    return np.quantile(eigenvalues, np.arange(1, 10) / 10)


def decile_entropy(eigenvalues: np.ndarray) -> float:
    """Entropy of the normalised deciles, in [0, ln 9] (VKDNW, section 3)."""
    d = deciles(eigenvalues)
    share = d / (d.sum() + 1e-10)
    return float(-(share * np.log(share + 1e-10)).sum())


@dataclass(frozen=True)
class _FisherSpectrum(Proxy):
    """Reads the spectrum of the Fisher information about one weight of each of the first 128 tensors.

    The first one, or `weights` of them, evenly spaced from the first entry to the last.

    Eval mode, Gaussian inputs, no labels. F = mean over images of A^T A with A = L^T J (`variant=paper`, so that
    A^T A = J^T (diag(s) - s s^T) J) or A = L J (`variant=repo`, as the authors' code has it), s the softmax smoothed by
    0.05 towards uniform and L the root of diag(s) - s s^T. `rows=0` is exact; `rows=16` estimates F without bias from
    16 backward passes, where many classes would take more (`FisherSketch`).
    """

    citation: ClassVar[str] = VKDNW
    tolerance: ClassVar[float] = 5e-3
    inputs: ClassVar[str] = "random"
    choices: ClassVar[Mapping[str, Collection]] = {
        "variant": ("paper", "repo"),
        "rows": at_least(0),
        "weights": at_least(1),
    }

    variant: str = "paper"
    init: str = "kaiming_fan_in"
    batch_size: int = 64
    tensors: int = 128
    dtype: str = "float32"
    rows: int = 0
    weights: int = 1

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = (self.init, self.batch_size, self.dtype, self.weights)
        if self.rows:
            return {FisherSketch(*settings, self.tensors, self.rows, self.variant): ("rows",)}
        return {WeightJacobian(*settings): (jacobian_of(self.tensors), "probabilities")}

    def spectrum(self, seen: Mapping[str, Any]) -> np.ndarray:
        """Eigenvalues (p,), descending."""
        if self.rows:
            return information_spectrum(seen["rows"])
        factors = fisher_factor(seen["probabilities"], self.variant)
        return information_spectrum(factors @ seen[jacobian_of(self.tensors)])


@dataclass(frozen=True)
class Vkdnw(_FisherSpectrum):
    """VKDNW: entropy of the deciles of the Fisher information's spectrum."""

    name: ClassVar[str] = "vkdnw"
    summary: ClassVar[str] = "entropy of the deciles of the Fisher information's spectrum"

    def score(self, seen: Mapping[str, Any]) -> float:
        return decile_entropy(self.spectrum(seen))


@dataclass(frozen=True)
class VkdnwSingle(Vkdnw):
    """VKDNW_single: number of trainable layers + VKDNW, so that the entropy orders networks of equal depth."""

    name: ClassVar[str] = "vkdnw_single"
    summary: ClassVar[str] = "trainable layers + VKDNW"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {**super().needs(), Topology(): ("trainable_layers",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["trainable_layers"] + super().score(seen)


@dataclass(frozen=True)
class VkdnwDecile(_FisherSpectrum):
    """The natural logarithm of one decile (`k` = 1 … 9) of the Fisher information's spectrum.

    A feature of VKDNW's learned rankings, and no proxy that the paper ranks by.
    """

    name: ClassVar[str] = "vkdnw_decile"
    summary: ClassVar[str] = "log of the k-th decile of the Fisher information's spectrum (a feature)"
    #: Where fewer weights matter than a decile takes, it is rounding: its logarithm, some -30, moves by one or two.
    tolerance: ClassVar[float] = 0.1
    choices: ClassVar[Mapping[str, Collection]] = {**_FisherSpectrum.choices, "k": range(1, 10)}

    k: int = 5

    def score(self, seen: Mapping[str, Any]) -> float:
        return float(np.log(deciles(self.spectrum(seen))[self.k - 1] + 1e-30))


@dataclass(frozen=True)
class _InputJacobian(Proxy):
    """Reads the correlation of the images' Jacobians d(sum of logits)/dx, BatchNorm on batch statistics."""

    inputs: ClassVar[str] = "images"
    #: A Jacobian jumps where a ReLU's input changes its sign, for which rounding is enough in deep networks.
    tolerance: ClassVar[float] = 0.05

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    #: What it reads besides the correlation.
    also: ClassVar[tuple[str, ...]] = ()

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        observables = ("input_jacobian_correlation", *self.also)
        return {GradientPass(self.init, self.batch_size, dtype=self.dtype): observables}

    @staticmethod
    def correlation(seen: Mapping[str, Any]) -> np.ndarray:
        matrix = of_several_images(seen["input_jacobian_correlation"])
        if not np.isfinite(matrix).all():
            raise Unscorable("an image has a constant Jacobian")
        return matrix


@dataclass(frozen=True)
class Jacov(_InputJacobian):
    """Jacobian covariance: -sum over eigenvalues v of the correlation matrix of ln(v + k) + 1 / (v + k), k = 1e-5."""

    name: ClassVar[str] = "jacov"
    summary: ClassVar[str] = "eigenvalues of the correlation of the images' Jacobians"
    citation: ClassVar[str] = "Mellor et al., 2020 (arXiv 2006.04647v1); Abdelfattah et al., ICLR 2021"

    def score(self, seen: Mapping[str, Any]) -> float:
        shifted = np.linalg.eigvalsh(self.correlation(seen)).clip(min=0) + 1e-5
        return -(np.log(shifted) + 1 / shifted).sum()


@dataclass(frozen=True)
class EpeNas(_InputJacobian):
    """EPE-NAS: correlations of the images' Jacobians inside each class.

    s_c = sum over the class's correlation matrix of ln(|r| + 1e-5). Up to 100 classes: sum of |s_c|. Above:
    s_c divided by the class's number of images, and the mean over classes of the sum of |s_c - s_d|.

    Above 100 classes a class with one image is no term and not counted in the mean, as in the authors' code
    (VascoLopes/EPE-NAS @ 22bd3410, `search.py`): the correlation of one image is a number without the length to
    divide by, and the `except` around the division goes on to the next class. The paper has no such rule. With
    fewer than two classes left there is nothing to compare: a status, where the code gives 0 or divides by 0.
    """

    name: ClassVar[str] = "epe_nas"
    summary: ClassVar[str] = "intra-class correlation of the images' Jacobians"
    citation: ClassVar[str] = "Lopes et al., EPE-NAS, ICANN 2021"
    also: ClassVar[tuple[str, ...]] = ("labels", "classes")

    def score(self, seen: Mapping[str, Any]) -> float:
        matrix, labels = np.log(np.abs(self.correlation(seen)) + 1e-5), seen["labels"]
        groups = [np.flatnonzero(labels == c) for c in np.unique(labels)]
        sums = np.array([matrix[np.ix_(group, group)].sum() for group in groups])
        if seen["classes"] <= 100:
            return np.abs(sums).sum()
        counts = np.array([len(group) for group in groups])
        means = (sums / counts)[counts > 1]
        if len(means) < 2:
            raise Unscorable("fewer than two classes have two images each: use a larger batch size")
        return np.abs(means[:, None] - means[None, :]).sum() / len(means)


@dataclass(frozen=True)
class Ntk(Proxy):
    """Condition number of the neural tangent kernel of the summed logits of a mini-batch; the score is its negative.

    That of each image's own logit is `ntk_cond`. TE-NAS: batch of 16, BatchNorm on batch statistics, kaiming fan_out;
    its code averages three draws where this takes one (set seeds for more). A kernel that is singular to the precision
    of its dtype is a status.
    """

    name: ClassVar[str] = "ntk"
    summary: ClassVar[str] = "minus the condition number of the neural tangent kernel"
    citation: ClassVar[str] = "Chen et al., TE-NAS, ICLR 2021"
    tolerance: ClassVar[float] = 0.1
    version: ClassVar[int] = 2  # 1 summed the kernel in float32
    inputs: ClassVar[str] = "images"
    sign: ClassVar[int] = -1

    init: str = "kaiming_fan_out"
    batch_size: int = 16
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {TangentKernel(self.init, self.batch_size, self.dtype): ("tangent_kernel",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        kernel = of_several_images(seen["tangent_kernel"])
        if not np.isfinite(kernel).all():
            raise Unscorable("tangent kernel is not finite")
        eigenvalues = np.linalg.eigvalsh(kernel)
        if eigenvalues[0] <= eigenvalues[-1] * len(kernel) * np.finfo(self.dtype).eps:
            raise Unscorable("singular tangent kernel")
        return -eigenvalues[-1] / eigenvalues[0]


@dataclass(frozen=True)
class GradSign(Proxy):
    """GradSign: sum over weights of |sum over images of sign(dL_n/dw)|, each image a mini-batch of its own.

    Weights are those of convolutions and linear layers. Settings: `form=sum` (default), as in `naswot-code` of the
    authors' repository (cmu-catalyst/GradSign @ 26412be) and in the paper; `form=mean` over the weights, those that no
    gradient reaches counted in, as in its `zero-cost-nas-code`. They rank against each other: over the 9,445 cells of
    NAS-Bench-201 with no dead operation tau with the accuracy is 0.590 for the sum and about -0.40 for the mean.
    """

    name: ClassVar[str] = "gradsign"
    summary: ClassVar[str] = "agreement of the signs of the images' gradients"
    citation: ClassVar[str] = "Zhang & Jia, GradSign, ICLR 2022"
    tolerance: ClassVar[float] = 0.02
    inputs: ClassVar[str] = "images"
    choices: ClassVar[Mapping[str, Collection]] = {"form": ("sum", "mean")}

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    form: str = "sum"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        wanted: dict[Probe, tuple[str, ...]] = {
            GradientSigns(self.init, self.batch_size, self.dtype): ("sign_agreement",)
        }
        return wanted if self.form == "sum" else {**wanted, WeightCounts(): ("weight_counts",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        total = seen["sign_agreement"].sum()
        return total if self.form == "sum" else total / seen["weight_counts"].sum()
