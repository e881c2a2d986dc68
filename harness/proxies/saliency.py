"""Saliencies of the weights: sums over all convolutions and linear layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import HarnessError
from harness.probes.base import Probe, Unscorable
from harness.probes.gaussian import UnitPatterns
from harness.probes.gradient import GradientPass
from harness.probes.positive import AttentionPass, LinearisedPass
from harness.probes.series import GradientSeries
from harness.probes.weights import WeightCounts, WeightNorms
from harness.proxies.base import Proxy, at_least

ABDELFATTAH = "Abdelfattah et al., Zero-Cost Proxies for Lightweight NAS, ICLR 2021"


@dataclass(frozen=True)
class _Gradient(Proxy):
    """One labelled mini-batch, BatchNorm on batch statistics."""

    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 0.05
    observables: ClassVar[tuple[str, ...]]

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {GradientPass(self.init, self.batch_size, dtype=self.dtype): self.observables}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen[self.observables[0]].sum()


@dataclass(frozen=True)
class GradNorm(_Gradient):
    """Gradient norm.

    Settings: `norm=layers` (default) sums the L2 norms of each layer's weight gradient (Abdelfattah et al.,
    ICLR 2021); `norm=all` is one L2 norm over the gradients of all parameters, biases and BatchNorm too
    (ZenNAS's code, which AZ-NAS and VKDNW use, with random inputs).
    """

    name: ClassVar[str] = "grad_norm"
    summary: ClassVar[str] = "sum of the L2 norms of the layers' gradients"
    citation: ClassVar[str] = ABDELFATTAH

    choices: ClassVar[Mapping[str, Collection]] = {"norm": ("layers", "all")}

    norm: str = "layers"

    @property
    def observables(self) -> tuple[str, ...]:
        return ("gradient_norm",) if self.norm == "layers" else ("all_gradient_norm",)

    def score(self, seen: Mapping[str, Any]) -> float:
        return np.sum(seen[self.observables[0]])


@dataclass(frozen=True)
class Snip(_Gradient):
    """SNIP: sum over weights of |w g|."""

    name: ClassVar[str] = "snip"
    summary: ClassVar[str] = "sum of |weight x gradient|"
    citation: ClassVar[str] = f"Lee et al., SNIP, ICLR 2019; {ABDELFATTAH}"
    observables: ClassVar[tuple[str, ...]] = ("saliency_sum_abs",)


@dataclass(frozen=True)
class Plain(_Gradient):
    """Sum over weights of w g, signed. Its correlation is negative on several benchmarks; none is negated here."""

    name: ClassVar[str] = "plain"
    summary: ClassVar[str] = "sum of weight x gradient, signed"
    citation: ClassVar[str] = ABDELFATTAH
    tolerance: ClassVar[float] = 0.2
    cancels: ClassVar[bool] = True
    observables: ClassVar[tuple[str, ...]] = ("saliency_sum",)


@dataclass(frozen=True)
class L2Norm(Proxy):
    """Sum over layers of the L2 norm of the weights: reads no data, depends on the initialisation only."""

    name: ClassVar[str] = "l2_norm"
    summary: ClassVar[str] = "sum of the L2 norms of the layers' weights"
    citation: ClassVar[str] = ABDELFATTAH
    inputs: ClassVar[str] = "none"

    init: str = "kaiming_fan_in"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {WeightNorms(self.init): ("weight_norm",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["weight_norm"].sum()


@dataclass(frozen=True)
class Fisher(_Gradient):
    """Fisher pruning: per channel of each layer's output, mean over images of (sum of a dL/da)^2 / 2.

    A channel counts once for each of its weights, as in the code of Abdelfattah et al., which spreads the
    channel's value over them before it sums. Their NAS-Bench-201 has biases in the cells' convolutions, which
    BatchNorm takes out of the function but not out of these activations; the benchmark's network, ours, has none.
    `biases=True` scores it with them, as torch draws them, which takes `init=default` (their code's, too).
    """

    name: ClassVar[str] = "fisher"
    summary: ClassVar[str] = "channel-wise Fisher information of the activations"
    citation: ClassVar[str] = f"Turner et al., BlockSwap, ICLR 2020; {ABDELFATTAH}"
    observables: ClassVar[tuple[str, ...]] = ("fisher",)

    biases: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.biases and self.init != "default":
            raise HarnessError(f"proxy 'fisher': biases=True are 0 with init={self.init}: set init=default")

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = {"dtype": self.dtype, "biases": self.biases}
        return {GradientPass(self.init, self.batch_size, **settings): self.observables}


@dataclass(frozen=True)
class Grasp(_Gradient):
    """GraSP: sum over weights of -w (H g), H the Hessian of the loss.

    The sign is that of Abdelfattah et al.; `keep=large` negates it (the end that the pruning paper keeps).
    """

    name: ClassVar[str] = "grasp"
    summary: ClassVar[str] = "sum of -weight x (Hessian x gradient)"
    citation: ClassVar[str] = f"Wang et al., GraSP, ICLR 2020; {ABDELFATTAH}"
    tolerance: ClassVar[float] = 0.5
    cancels: ClassVar[bool] = True
    observables: ClassVar[tuple[str, ...]] = ("grasp",)
    choices: ClassVar[Mapping[str, Collection]] = {"keep": ("small", "large")}

    keep: str = "small"

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["grasp"].sum() * (1 if self.keep == "small" else -1)


@dataclass(frozen=True)
class Zico(_Gradient):
    """ZiCo: sum over layers of ln sum over weights of mean(|g|) / std(g) over mini-batches.

    The population standard deviation is of the signed gradient, weights whose gradient does not vary are left
    out, and a layer without any other contributes nothing, as in the authors' code (SLDGroup/ZiCo @ b0fec655,
    `compute_zico.py`), which fails where no gradient reaches a layer. On 5 cells of NAS-Bench-201, the same weights and
    images, the largest relative difference from it is 3e-6. `part` is what is summed: the `ratio`, or for the paper's
    ablation (Table 7) one of its parts alone, the `mean` of |g| or the inverse `deviation`. `average` takes the mean
    over a layer's weights in place of their sum, which that code computes too and does not return.
    """

    name: ClassVar[str] = "zico"
    summary: ClassVar[str] = "log of the gradients' inverse coefficient of variation over mini-batches"
    citation: ClassVar[str] = "Li et al., ZiCo, ICLR 2023"
    version: ClassVar[int] = 2  # 1 lost digits of the deviation of nearly equal gradients
    parts: ClassVar[Mapping[str, str]] = {
        "ratio": "zico",
        "mean": "gradient_mean",
        "deviation": "inverse_signed_deviation",
    }
    choices: ClassVar[Mapping[str, Collection]] = {"minibatches": at_least(2), "part": tuple(parts)}

    minibatches: int = 2
    part: str = "ratio"
    average: bool = False

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        names = (self.parts[self.part], *(("varying_weights",) if self.average else ()))
        return {GradientPass(self.init, self.batch_size, self.minibatches, self.dtype): names}

    def score(self, seen: Mapping[str, Any]) -> float:
        sums = seen[self.parts[self.part]]
        read = sums != 0
        if not read.any():
            raise Unscorable("no gradient varies over the mini-batches")
        return np.log(sums[read] / seen["varying_weights"][read] if self.average else sums[read]).sum()


@dataclass(frozen=True)
class ZicoBc(Zico):
    """ZiCo-BC: ZiCo minus `beta` times the sum over its layers of ln(H W / sqrt(C)), of the layer's output map.

    beta is 1 for classification and detection, 2 for segmentation, where the authors look at the depth and width of
    what a search finds, not at accuracies. They claim it for spaces of depths and widths, not for topologies. A linear
    layer's map has as many positions as it reads rows of an image, mostly one; layers that ZiCo leaves out, as their
    gradient does not vary, are left out here too, and one that is called several times has several maps. From the
    paper: there is no code.
    """

    name: ClassVar[str] = "zico_bc"
    summary: ClassVar[str] = "ZiCo less the log of the maps' sizes over the root of their channels"
    citation: ClassVar[str] = "Bhardwaj et al., ZiCo-BC, ICCV Workshops 2023 (arXiv 2309.14666)"
    version: ClassVar[int] = 1

    beta: float = 1.0

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        ((probe, names),) = super().needs().items()
        return {probe: (*names, "map_sizes")}

    def score(self, seen: Mapping[str, Any]) -> float:
        return super().score(seen) - self.beta * seen["map_sizes"][seen[self.parts[self.part]] != 0].sum()


@dataclass(frozen=True)
class LSwag(_Gradient):
    """L-SWAG: sum over layers of ln sum over weights of 1 / std(|g|) over mini-batches, times SWAP's patterns.

    ZiCo with numerator 1, the population deviation of |g|; weights that do not vary are left out, as there. The number
    of patterns is that of `swap`, whose pass serves it (16 images and 4 repeats, where the paper has 64 images).
    `first` and `last` are the shares of the depth between which layers count, up to the latter those whose patterns do
    (layers in the order of the modules, ReLUs in that of the computation). The paper chooses them by benchmark around
    the spikes of the gradients' deviation, which a plot there tunes by the correlation: here all layers count unless
    they are set. From the paper: there is no code.
    """

    name: ClassVar[str] = "lswag"
    summary: ClassVar[str] = "log of the gradients' inverse deviations x distinct activation patterns"
    citation: ClassVar[str] = "Casarin et al., L-SWAG, CVPR 2025 (arXiv 2505.07300)"
    choices: ClassVar[Mapping[str, Collection]] = {"minibatches": at_least(2), "patterns": at_least(2)}

    minibatches: int = 2
    patterns: int = 16
    repeats: int = 4
    first: float = 0.0
    last: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.first < self.last <= 1:
            raise HarnessError(f"proxy 'lswag': first={self.first} and last={self.last} must be 0 <= first < last <= 1")

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {
            GradientPass(self.init, self.batch_size, self.minibatches, self.dtype): ("inverse_deviation",),
            UnitPatterns(self.patterns, self.repeats, False, self.dtype, self.last): ("distinct_patterns",),
        }

    def score(self, seen: Mapping[str, Any]) -> float:
        sums = seen["inverse_deviation"]
        layers = len(sums)
        sums = sums[round(self.first * layers) : round(self.last * layers)]
        if not len(sums):
            raise Unscorable(f"of {layers} layers none lies between first={self.first} and last={self.last}")
        if not sums.any():
            raise Unscorable("no gradient varies over the mini-batches")
        return np.log(sums[sums != 0]).sum() * seen["distinct_patterns"].mean()


@dataclass(frozen=True)
class Knas(Proxy):
    """KNAS: how the gradients of some first weights covary between two halves of the mini-batches.

    Of the first 11 parameter tensors with 50 entries or more, and the first 50 entries of each: the gradients over the
    first half of 50 mini-batches, less their mean, times those over the second half, less theirs, over 2,500; the sum.
    A forward and backward a mini-batch, and mostly noise (Jingjing-NLP/KNAS @ 5fbb0fe0, `functions.py`). On two cells
    of NAS-Bench-201, the same weights and images, the relative difference from that code is 5e-7 where each mini-batch
    has a gradient of its own. Where they are set to zero in place, as torch does before 2.0, what that code keeps of
    fifty mini-batches is the last one fifty times, and its score rounding alone (6e-14).
    """

    name: ClassVar[str] = "knas"
    summary: ClassVar[str] = "covariance of gradients between two halves of fifty mini-batches"
    citation: ClassVar[str] = "Xu et al., KNAS, ICML 2021"
    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 0.5
    cancels: ClassVar[bool] = True
    choices: ClassVar[Mapping[str, Collection]] = {"minibatches": at_least(4), "entries": at_least(1)}

    init: str = "default"
    batch_size: int = 64
    minibatches: int = 50
    tensors: int = 11
    entries: int = 50
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = (self.init, self.batch_size, self.minibatches, self.tensors, self.entries, self.dtype)
        return {GradientSeries(*settings): ("gradient_series",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        half = self.minibatches // 2
        first, second = (
            part - part.mean(axis=1, keepdims=True)
            for part in (seen["gradient_series"][:, :half], seen["gradient_series"][:, half : 2 * half])
        )
        return (first * second).sum() / self.minibatches**2


@dataclass(frozen=True)
class Synflow(Proxy):
    """Synflow: |weights|, BatchNorm off, an image of ones; sum over weights of |w dR/dw|, R the sum of the logits.

    float64: values reach 1e60. On deeper networks infinities become a status.

    `normalisation=True` leaves BatchNorm on, on the statistics of that one image, as ZiCo's authors do, in whose code
    for other proxies the setting that turns it off is not passed on (SLDGroup/survey-zero-shot-nas @ b666902,
    `measures/synflow.py`). `resolution` is the image's side in pixels, 0 that of the dataset's images.
    """

    name: ClassVar[str] = "synflow"
    summary: ClassVar[str] = "synaptic flow of the linearised network"
    citation: ClassVar[str] = f"Tanaka et al., SynFlow, NeurIPS 2020; {ABDELFATTAH}"
    inputs: ClassVar[str] = "none"

    init: str = "kaiming_fan_in"
    repeats: int = 1
    normalisation: bool = False
    resolution: int = 0

    choices: ClassVar[Mapping[str, Collection]] = {"resolution": at_least(0)}

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {LinearisedPass(self.init, self.repeats, self.normalisation, self.resolution): ("synflow",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["synflow"].sum(axis=1).mean()


@dataclass(frozen=True)
class LogSynflow(Proxy):
    """LogSynflow: as synflow, sum over weights of |w| ln(1 + dR/dw); mean of three initialisations (fan_out).

    On 4 cells of NAS-Bench-201, the same weights, the values are those of the authors' code (NiccoloCavagnero/FreeREA @
    9c2a726c, `metrics/synflow.py`) to float64's rounding.
    """

    name: ClassVar[str] = "logsynflow"
    summary: ClassVar[str] = "synaptic flow with logarithmic gradients"
    citation: ClassVar[str] = "Cavagnero et al., FreeREA, WACV 2023"
    inputs: ClassVar[str] = "none"

    init: str = "kaiming_fan_out"
    repeats: int = 3

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {LinearisedPass(self.init, self.repeats): ("logsynflow",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["logsynflow"].sum(axis=1).mean()


#: Of a definition: the paper's words, or what its authors' code computes.
VARIANTS = ("paper", "repo")

SALIENCIES = {
    "snip": ("saliency_sum_abs", "saliency_std"),
    "grad": ("gradient_sum_abs", "gradient_std"),
    "synflow": ("synflow", "synflow_std"),
}


def saliency_probes(
    saliency: str, variant: str, init: str, batch_size: int, dtype: str
) -> dict[Probe, tuple[str, ...]]:
    """The passes that give sum and deviation of a saliency per layer, and what else a variant of SSNR reads."""
    probe = LinearisedPass(init) if saliency == "synflow" else GradientPass(init, batch_size, dtype=dtype)
    found: dict[Probe, tuple[str, ...]] = {probe: SALIENCIES[saliency]}
    return found if variant == "paper" else {**found, WeightCounts(): ("weight_counts",)}


def signal_to_noise(seen: Mapping[str, Any], saliency: str, variant: str) -> np.ndarray:
    """(L,): sum of a layer's saliencies over their standard deviation.

    `paper`: the population deviation; 0 where that is 0. `repo`: the unbiased deviation, the sum alone where that is 0
    or the layer has one weight, and of the quotient its logarithm, unless it is 0.
    """
    total, deviation = (np.atleast_2d(seen[name])[0] for name in SALIENCIES[saliency])
    if variant == "paper":
        return np.divide(total, deviation, out=np.zeros_like(total), where=deviation != 0)
    counts = seen["weight_counts"]
    deviation = deviation * np.sqrt(counts / np.maximum(counts - 1, 1))
    ratio = np.divide(total, deviation, out=total.copy(), where=deviation != 0)
    return np.log(ratio, out=np.zeros_like(ratio), where=ratio != 0)


@dataclass(frozen=True)
class Ssnr(_Gradient):
    """SSNR: sum over layers of (sum of saliencies) / (their population standard deviation in the layer).

    Settings: `saliency` snip (the paper's tables), grad (|g|) or synflow. A layer of one weight or without
    deviation contributes nothing. `variant=repo` sums what the authors' code of T-CET multiplies (see `TCet`): the
    logarithms of these quotients with the unbiased deviation, and of the sum alone where nothing deviates. The paper
    has no logarithm; the authors' toolkit (iViolinSolo/zero-cost-proxies @ 8054a997) has none by default either.
    """

    name: ClassVar[str] = "ssnr"
    summary: ClassVar[str] = "sum over layers of saliency sum over saliency deviation"
    citation: ClassVar[str] = "Xiang et al., Zero-Cost Operation Scoring / T-CET, AutoML 2023"
    tolerance: ClassVar[float] = 5e-3

    choices: ClassVar[Mapping[str, Collection]] = {"saliency": SALIENCIES, "variant": VARIANTS}

    saliency: str = "snip"
    variant: str = "paper"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return saliency_probes(self.saliency, self.variant, self.init, self.batch_size, self.dtype)

    def score(self, seen: Mapping[str, Any]) -> float:
        terms = signal_to_noise(seen, self.saliency, self.variant)
        if not terms.any():
            raise Unscorable("no layer's saliencies vary")
        return terms.sum()


@dataclass(frozen=True)
class Dss(Proxy):
    """DSS of TF-TAS, for networks with attention: diversity of the attention weights + saliency of the others.

    |weights|, an image of ones, R the sum of the logits. Sum over the projections of attention modules (any
    module whose class name holds `Attention`) of |dR/dW|_nuc |W|_nuc, plus sum over the other linear layers,
    the classifier left out, of |W dR/dW|. LayerNorm stays. A network without attention has no score.

    `variant=repo` adds the classifier's |W dR/dW|, which the paper's sum over the MLPs does not have, and adds it twice
    where it has 1,000 outputs, as the authors' code does (decemberzhou/TF_TAS @ 42616bc, `p_utils.py` lists such a
    layer twice). That code takes for projections what is named `qkv` or is square, as ours are.

    `variant=supernet` is what that code computes on slices of AutoFormer's supernet, whose figures Nguyen & Cheung
    print: the absolute values never reach the slices, which the layers apply, and of a slice of `qkv` and of the
    classifier there is no gradient. So weights keep their signs, and the last projection of each attention and the
    layers that are in none count. Give it that network's weights, `init=supernet`.
    """

    name: ClassVar[str] = "dss"
    summary: ClassVar[str] = "synaptic diversity of attention + synaptic saliency of the MLPs"
    citation: ClassVar[str] = "Zhou et al., Training-free Transformer Architecture Search, CVPR 2022"
    requires: ClassVar[str] = "attention"
    inputs: ClassVar[str] = "none"
    choices: ClassVar[Mapping[str, Collection]] = {"variant": (*VARIANTS, "supernet")}

    init: str = "xavier"
    variant: str = "paper"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        names = ("diversity", "saliency", "head_saliency", "head_outputs")
        return {AttentionPass(self.init, self.variant == "supernet"): names}

    def score(self, seen: Mapping[str, Any]) -> float:
        total = seen["diversity"].sum() + seen["saliency"].sum()
        if self.variant == "repo":
            total += seen["head_saliency"].sum() * (2 if seen["head_outputs"] == 1000 else 1)
        return total


@dataclass(frozen=True)
class AutoProxA(Proxy):
    """Auto-Prox-A, as it is compared on AutoFormer: |gradients| of attention + sigmoids of those of the other layers.

    An image of ones, R the sum of the logits, weights with their signs: sum over attention modules of |dR/dW|_1, W
    their last projection, plus the sum over the linear layers outside them, the classifier left out, of the mean of
    sigmoid(dR/dW), which is 0.5 to four digits. So it is computed by the code whose figures Nguyen & Cheung print
    (vovantuanuit/Meco_explore @ 5ae07964, `indicators/dss.py`), on slices of AutoFormer's supernet (see `dss`,
    `variant=supernet`): `init=supernet` has these, the default networks of their own. The authors' interpreter of their
    formulas is not released, and the second author's formula of that name is another (pprp/PicoNAS @ 4d3bab48,
    `auto_prox.py`).
    """

    name: ClassVar[str] = "auto_prox_a"
    summary: ClassVar[str] = "gradients of attention's last layers + sigmoids of those of the MLPs"
    citation: ClassVar[str] = "Wei et al., Auto-Prox, AAAI 2024 (arXiv 2312.09059)"
    caveat: ClassVar[str] = "the formula of a later comparison: the authors' own code is not released"
    requires: ClassVar[str] = "attention"
    inputs: ClassVar[str] = "none"

    init: str = "truncated_normal"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {AttentionPass(self.init, signed=True): ("gradient_sum", "sigmoid_gradient")}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["gradient_sum"].sum() + seen["sigmoid_gradient"].sum()
