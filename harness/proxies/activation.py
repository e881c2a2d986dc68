"""Proxies that read which units are active for which image."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.errors import HarnessError
from harness.probes.base import Probe, Unscorable, of_several_images
from harness.probes.codes import EvalCodes
from harness.probes.features import ChannelCorrelation, StagePass
from harness.probes.gaussian import LinearRegions, PerturbationPass, UnitPatterns
from harness.probes.gradient import GradientPass
from harness.probes.positive import PositivePass
from harness.probes.ranks import EffectiveRanks
from harness.probes.topology import Sizes, Topology
from harness.proxies.base import Proxy, at_least
from harness.proxies.saliency import SALIENCIES, VARIANTS, saliency_probes, signal_to_noise

MELLOR = "Mellor et al., Neural Architecture Search without Training, ICML 2021"
XIANG = "Xiang et al., AutoML 2023"


def log_determinants(kernels: np.ndarray) -> np.ndarray:
    """ln|K| of each symmetric positive semi-definite kernel (L, B, B); -inf where it is singular.

    A rank below B leaves eigenvalues that are rounding noise; they count as 0, not as their logarithm. Raises
    Unscorable for one image, whose kernel is the number of units.
    """
    eigenvalues = np.linalg.eigvalsh(of_several_images(kernels))
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

    Every ReLU counts, as the paper's words have it. The authors' script (BayesWatch/nas-without-training,
    `score_networks.py`) leaves out those that its backward pass has not reached, which are those of dead operations: on
    40 cells of NAS-Bench-201 rho between the two is 0.926, and 1.000 on those of them without dead operations.
    `activations=all` takes the codes of all activations that work on each number by itself, as TF-TAS's code
    (decemberzhou/TF_TAS @ 42616bcf, `NASWOT.py`) takes those of a vision Transformer's GELUs.
    """

    name: ClassVar[str] = "naswot"
    summary: ClassVar[str] = "log-determinant of the ReLU codes' Hamming kernel"
    citation: ClassVar[str] = MELLOR
    reads_head: ClassVar[bool] = False
    choices: ClassVar[Mapping[str, Collection]] = {"activations": ("relu", "all")}

    activations: str = "relu"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {GradientPass(self.init, self.batch_size, dtype=self.dtype): (self._kernels,)}

    @property
    def _kernels(self) -> str:
        return "relu_kernels" if self.activations == "relu" else "activation_kernels"

    def score(self, seen: Mapping[str, Any]) -> float:
        value = log_determinants(seen[self._kernels].sum(axis=0)[None])[0]
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
    reads_head: ClassVar[bool] = False

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

    `variant=repo` is the authors' code (lichuanx/T-CET @ 3af885ae, `compute_orthogornal_score.py`): codes of the
    outputs in eval mode, where the paper says nothing of modes and `variant=paper` takes the statistics of the
    mini-batch; the logarithm of each quotient of SSNR, with the unbiased deviation, where the paper has the quotient.
    Its default saliency is synflow, ours stays the paper's snip. On 12 cells of NAS-Bench-201, the same weights and
    images, the largest relative difference from that code is 2e-4 in float32, and on 5 of them 9e-9 in float64.
    """

    name: ClassVar[str] = "t_cet"
    summary: ClassVar[str] = "sum over layers of SSNR term x log-determinant of the layer's kernel"
    citation: ClassVar[str] = XIANG

    choices: ClassVar[Mapping[str, Collection]] = {
        "saliency": SALIENCIES,
        "codes": ("output", "relu"),
        "variant": VARIANTS,
    }

    saliency: str = "snip"
    codes: str = "output"
    variant: str = "paper"

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.codes, self.variant) == ("relu", "repo"):
            raise HarnessError("proxy 't_cet': variant=repo reads the layers' outputs: leave out codes=relu")

    @property
    def _kind(self) -> str:
        """Which kernels it reads, as the observables' names begin."""
        return "eval" if self.variant == "repo" else "layer" if self.codes == "output" else "relu"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        wanted = dict(saliency_probes(self.saliency, self.variant, self.init, self.batch_size, self.dtype))
        settings = {"init": self.init, "batch_size": self.batch_size, "dtype": self.dtype}
        probe = EvalCodes(**settings) if self.variant == "repo" else GradientPass(**settings)
        wanted[probe] = (*wanted.get(probe, ()), f"{self._kind}_kernels", f"{self._kind}_places")
        return wanted

    def score(self, seen: Mapping[str, Any]) -> float:
        places = seen[f"{self._kind}_places"]
        values = np.zeros(len(places))
        paired = places >= 0
        values[paired] = log_determinants(seen[f"{self._kind}_kernels"])[places[paired]]
        values[~np.isfinite(values)] = 0.0
        terms = signal_to_noise(seen, self.saliency, self.variant) * values
        if not terms.any():
            raise Unscorable("no layer has both varying saliencies and a regular kernel")
        return terms.sum()


@dataclass(frozen=True)
class EntropicScore(Proxy):
    """Entropic Score: sum over activations of the mean over elements of -a ln(a + eps).

    |weights|, normalisation removed, every activation a ReLU, uniform noise in [-0.5, 0.5]; a is the
    activation over its maximum along the channels at its place. Mean of three initialisations and images.
    The paper leaves open the batch size (1 here), eps (1e-8) and the initialisation; all are settings. So are two
    other readings of it: `over=positions` (the maximum of each channel's map), `over=layer`, and `signed` weights.
    """

    name: ClassVar[str] = "entropic_score"
    summary: ClassVar[str] = "entropy of the activations of a positive network"
    citation: ClassVar[str] = "Cavagnero et al., Entropic Score, 2023 (arXiv 2310.04179)"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "none"
    choices: ClassVar[Mapping[str, Collection]] = {"over": ("channels", "positions", "layer")}

    init: str = "kaiming_fan_in"
    batch_size: int = 1
    repeats: int = 3
    eps: float = 1e-8
    over: str = "channels"
    signed: bool = False

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = PositivePass(self.init, self.batch_size, self.repeats, self.eps, self.over, self.signed)
        return {probe: ("entropies",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["entropies"].sum(axis=1).mean()


@dataclass(frozen=True)
class Zen(Proxy):
    """Zen-score: ln of the change of the last feature maps under a small perturbation + ln scales of BatchNorm.

    N(0, 1) weights; the scales are square roots of the mean running variances after two forwards. Residual
    links stay (as in the ports to cell spaces; Zen-NAS's own search removes them).

    `warm` forwards with other weights may have passed the network before, whose running statistics stay: those of
    layers that read zeros fall by a tenth each time, and the score with them. VKDNW's code (ondratybl/VKDNW @ 19cad2f,
    `NB201/tss_general_.py`) scores a cell by all proxies on one network, of which 68 come before zen: `warm=68`. Here
    these are 68 of one batch of Gaussian images with one draw of kaiming normal weights.

    `resolution` is the side of the Gaussian images in pixels, 0 that of the dataset's images.
    """

    name: ClassVar[str] = "zen"
    summary: ClassVar[str] = "Gaussian complexity of the features before pooling"
    citation: ClassVar[str] = "Lin et al., Zen-NAS, ICCV 2021"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "none"

    choices: ClassVar[Mapping[str, Collection]] = {"warm": at_least(0), "resolution": at_least(0)}

    batch_size: int = 64
    gamma: float = 0.01
    warm: int = 0
    resolution: int = 0
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = PerturbationPass(self.batch_size, self.gamma, self.dtype, self.warm, self.resolution)
        return {probe: ("feature_distance", "log_norm_scale")}

    def score(self, seen: Mapping[str, Any]) -> float:
        if not seen["feature_distance"] > 0:
            raise Unscorable("the features do not change with the images")
        return np.log(seen["feature_distance"]) + seen["log_norm_scale"]


@dataclass(frozen=True)
class NRegions(Proxy):
    """Number of linear regions that tiny Gaussian images (3 x 3) fall into, of 3,000 (TE-NAS).

    `network=cell` (default): TE-NAS's own (VITA-Group/TENAS @ 9df78ffd, `model_config_thin`), which reads images of one
    channel without a stem: one cell of one channel on NAS-Bench-201, a normal cell and a reduction on DARTS. Its images
    are 3 x 3 crops of one channel of the dataset's where these are noise: over 200 cells of NAS-Bench-201 rho is 0.93
    between the two with the same weights, and 0.87 to 0.90 between two draws of either. With the same weights and
    images the counts are those of its code (40 cells of NAS-Bench-201, DARTS genotypes of NAS-Bench-301).
    Spaces that TE-NAS does not search take `network=thin`: the whole network with a stem, at one channel or a few and
    one cell a stage. `network=full`, and any network that belongs to no space, tells nearly all images apart. The port
    that AZ-NAS and VKDNW rank with is `network=full:samples=64:resolution=0`, 0 being the side of the dataset's images.
    """

    name: ClassVar[str] = "nregions"
    summary: ClassVar[str] = "number of linear regions"
    citation: ClassVar[str] = "Chen et al., TE-NAS, ICLR 2021"
    reads_head: ClassVar[bool] = False
    version: ClassVar[int] = 2  # 1 counted in the thin network of every space
    inputs: ClassVar[str] = "none"
    choices: ClassVar[Mapping[str, Collection]] = {"network": ("cell", "thin", "full"), "resolution": at_least(0)}

    samples: int = 3000
    resolution: int = 3
    network: str = "cell"
    init: str = "kaiming_fan_in"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = LinearRegions(self.samples, 1000, self.resolution, self.network, self.init, self.dtype)
        return {probe: ("regions",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["regions"]


@dataclass(frozen=True)
class Swap(Proxy):
    """SWAP: number of distinct patterns that units show over a mini-batch (cardinality over units, not images).

    N(0, 1) weights, one mini-batch of 16 images for all repeats. The authors' script averages 32 repeats, this one 4
    (`repeats`). A count at its ceiling, 2 to the number of images, says nothing of the network: a status. Their
    script for DARTS counts in one cell that reads the images (`cell`; pym1024/SWAP @ f6049f7c, `correlation.py`): in
    a whole network nearly all 2^16 patterns occur. On 8 cells of NAS-Bench-201, the same weights and images, the
    counts are those of its code, and of pym1024/SWAP_Universal @ 13b65704.
    """

    name: ClassVar[str] = "swap"
    summary: ClassVar[str] = "distinct sample-wise activation patterns"
    citation: ClassVar[str] = "Peng et al., SWAP-NAS, ICLR 2024"
    reads_head: ClassVar[bool] = False
    version: ClassVar[int] = 2  # 1 took another mini-batch each repeat
    inputs: ClassVar[str] = "images"

    batch_size: int = 16
    repeats: int = 4
    cell: bool = False
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {UnitPatterns(self.batch_size, self.repeats, self.cell, self.dtype): ("distinct_patterns",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["distinct_patterns"].mean()


@dataclass(frozen=True)
class SwapReg(Swap):
    """Regularised SWAP: SWAP times exp(-(P - mu)^2 / sigma), P the parameters in thousands.

    The authors set mu and sigma by space and search, and publish none for NAS-Bench-201; from accuracies they would be
    a leak. Without them (`mu=0`, `sigma=0`) they are fixed a priori: the median of P over all members of the space, and
    its variance, where the space is listed in full; elsewhere there is no score. Parameters are those that `params`
    counts; the authors leave out auxiliary heads, which no network here has. The factor favours sizes near mu, whatever
    the patterns: set mu to see by how much. For mu and sigma given the score is that of the authors' code (see `Swap`)
    on 7 cells of NAS-Bench-201; on an eighth, with a dead convolution, that counts weights that no gradient reaches.
    """

    name: ClassVar[str] = "swap_reg"
    summary: ClassVar[str] = "SWAP, favouring networks of a middling size"
    reads_head: ClassVar[bool] = True
    version: ClassVar[int] = 1

    mu: float = 0.0
    sigma: float = 0.0

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        wanted = {**super().needs(), Topology(): ("params",)}
        return wanted if self.mu and self.sigma else {**wanted, Sizes(): ("size_median", "size_variance")}

    def score(self, seen: Mapping[str, Any]) -> float:
        mu = self.mu or seen["size_median"]
        sigma = self.sigma or seen["size_variance"]
        return super().score(seen) * np.exp(-((seen["params"] / 1000 - mu) ** 2) / sigma)


@dataclass(frozen=True)
class Meco(Proxy):
    """MeCo: sum over layers of the least eigenvalue of the Pearson correlation of a feature map's channels.

    One Gaussian image of 64 x 64. Read are convolutions, normalisations and ReLUs (`modules=leaf`): our default, not
    the authors', whose hooks (HamsterMimi/MeCo) read every module, so that containers count their last layer again:
    `modules=all`. The paper speaks of layers. On NAS-Bench-201 the two rank alike (rho 0.986).
    """

    name: ClassVar[str] = "meco"
    summary: ClassVar[str] = "least eigenvalues of the channels' correlation"
    citation: ClassVar[str] = "Jiang et al., MeCo, NeurIPS 2023"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "none"
    choices: ClassVar[Mapping[str, Collection]] = {"modules": ("leaf", "all")}

    init: str = "kaiming_fan_in"
    resolution: int = 64
    modules: str = "leaf"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = ChannelCorrelation(self.init, self.resolution, self.modules, self.dtype)
        return {probe: ("least_eigenvalues",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["least_eigenvalues"].sum()


@dataclass(frozen=True)
class MecoOpt(Meco):
    """MeCo on 8 channels of each map, drawn at random, each eigenvalue times C / 8.

    As the authors' script (HamsterMimi/MeCo @ 0d830dd2, `correlation/NAS_Bench_201.py`), which fails on a map of fewer
    channels: here it is left out, or read whole (`narrow=all`). What is random is also which channels: average seeds.
    On 10 cells of NAS-Bench-201 the largest relative difference of `modules=all` from that script is 2e-7, the same
    weights, image and channels (`meco`: 4e-6). That reads an image of the dataset, its `measures/meco.py` noise.
    """

    name: ClassVar[str] = "meco_opt"
    summary: ClassVar[str] = "least eigenvalues of the correlation of a few channels"
    choices: ClassVar[Mapping[str, Collection]] = {
        **Meco.choices,
        "channels": at_least(2),
        "narrow": ("skip", "all"),
    }

    channels: int = 8
    narrow: str = "skip"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = (self.init, self.resolution, self.modules, self.dtype, self.channels, self.narrow)
        return {ChannelCorrelation(*settings): ("least_eigenvalues",)}


@dataclass(frozen=True)
class Near(Proxy):
    """NEAR: sum over layers and activations of the effective rank of C samples of the C channels that they give.

    exp of the entropy of the singular values over their sum. `variant=paper` (default): of each layer before and behind
    its activation. `variant=repo`: the authors' code (ReiherGroup/NEAR @ 4d5d7f1b), which hooks whatever has a `weight`
    and so counts the outputs of BatchNorm too. The samples are C neighbouring positions of one image or two, from a
    random column on (`EffectiveRanks`): a score depends on the side of the images and on the batch size. As in the
    code, samples that would run over the end are cut off, unless `whole`.

    Mean of two initialisations (`repeats`), where the authors take 32 on the NAS benchmarks; mini-batches of 16. On 10
    cells of NAS-Bench-201, the same weights, images and draws, the largest relative difference of `variant=repo` from
    that code is 4e-7.
    """

    name: ClassVar[str] = "near"
    summary: ClassVar[str] = "effective rank of layers' and activations' outputs"
    citation: ClassVar[str] = "Husistein et al., NEAR, ICLR 2025 (arXiv 2408.08776)"
    inputs: ClassVar[str] = "images"
    choices: ClassVar[Mapping[str, Collection]] = {"variant": VARIANTS}

    init: str = "default"
    batch_size: int = 16
    repeats: int = 2
    variant: str = "paper"
    whole: bool = False
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = (self.init, self.batch_size, self.repeats, self.variant, self.whole, self.dtype)
        return {EffectiveRanks(*settings): ("effective_ranks",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["effective_ranks"].sum(axis=1).mean()


@dataclass(frozen=True)
class _Stages(Proxy):
    """AZ-NAS's readings of the outputs of the stem and of each cell."""

    citation: ClassVar[str] = "Lee & Ham, AZ-NAS, CVPR 2024"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "random"
    observable: ClassVar[str]

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {StagePass(self.init, self.batch_size, self.dtype): (self.observable,)}

    def finite(self, seen: Mapping[str, Any], reason: str) -> np.ndarray:
        values = seen[self.observable]
        if np.isnan(values).any():
            raise Unscorable(reason)
        return values


@dataclass(frozen=True)
class AzExpressivity(_Stages):
    """Sum over stages of the entropy of the spectrum of the channels' covariance."""

    name: ClassVar[str] = "az_expressivity"
    summary: ClassVar[str] = "AZ-NAS: entropy of the features' spectra"
    observable: ClassVar[str] = "stage_entropies"

    def score(self, seen: Mapping[str, Any]) -> float:
        return self.finite(seen, "a stage's output is constant").sum()


@dataclass(frozen=True)
class AzProgressivity(_Stages):
    """Least growth of the entropy from a stage to the next."""

    name: ClassVar[str] = "az_progressivity"
    summary: ClassVar[str] = "AZ-NAS: least growth of the entropy over stages"
    observable: ClassVar[str] = "stage_entropies"

    def score(self, seen: Mapping[str, Any]) -> float:
        return np.diff(self.finite(seen, "a stage's output is constant")).min()


@dataclass(frozen=True)
class AzTrainability(_Stages):
    """Mean over stages of 2 - s - 1 / (s + 1e-6), s the spectral norm of the gradients' transport: best at s = 1."""

    name: ClassVar[str] = "az_trainability"
    summary: ClassVar[str] = "AZ-NAS: closeness of the gradients' gain to 1"
    observable: ClassVar[str] = "stage_gains"

    def score(self, seen: Mapping[str, Any]) -> float:
        gains = self.finite(seen, "a stage is the identity")
        return (2 - gains - 1 / (gains + 1e-6)).mean()
