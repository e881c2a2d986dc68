"""Proxies of Transformers: what their feed-forward blocks and their attention make of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.errors import HarnessError
from harness.probes.attention import AttentionLayers
from harness.probes.base import Probe, Unscorable
from harness.probes.tokens import FeedForward, HeadOutputs
from harness.probes.topology import Topology
from harness.proxies.base import Proxy, at_least


@dataclass(frozen=True)
class WPca(Proxy):
    """W-PCA: parameters times the sum over feed-forward blocks of the principal components that hold 99% of variance.

    Of the first linear layer's output, before the activation, tokens of all images being the samples; 0.9 (`energy`) in
    one of the authors' two places (ra225/W-PCA @ 571d469a, `pca_torch.py` and `mobile_bert.py`). Batches of 16 images,
    where the paper scores models of text.
    """

    name: ClassVar[str] = "w_pca"
    summary: ClassVar[str] = "parameters x principal components of the feed-forward blocks"
    citation: ClassVar[str] = "W-PCA, ICLR 2025 (arXiv 2504.15983)"
    requires: ClassVar[str] = "attention"
    inputs: ClassVar[str] = "images"

    init: str = "default"
    batch_size: int = 16
    energy: float = 0.99
    dtype: str = "float32"

    def __post_init__(self) -> None:
        """Raises HarnessError for a share of the variance that no number of components holds, or all do."""
        super().__post_init__()
        if not 0 < self.energy < 1:
            raise HarnessError(f"proxy {self.name!r}: energy={self.energy!r} must lie between 0 and 1")

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = FeedForward(self.init, self.batch_size, self.energy, dtype=self.dtype)
        return {probe: ("principal_counts",), Topology(): ("params",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["principal_counts"].sum() * seen["params"]


_FIRST, _SECOND, _OUTPUT, _QKV = "first_entropies", "second_entropies", "output_entropies", "qkv_entropies"
#: The sets of layers that token entropy may sum over, by the observables of each.
LAYERS: Mapping[str, tuple[str, ...]] = {
    "feed_forward": (_FIRST, _SECOND),
    "first": (_FIRST,),
    "second": (_SECOND,),
    "qkv": (_QKV,),
    "mixed": ("mixed_entropies",),
    "output": (_OUTPUT,),
    "output+feed_forward": (_OUTPUT, _FIRST, _SECOND),
    "qkv+output+feed_forward": (_QKV, _OUTPUT, _FIRST, _SECOND),
}


@dataclass(frozen=True)
class TokenEntropy(Proxy):
    """Token entropy: sum over feed-forward layers of the number of tokens times the least entropy of a token.

    Of the first and of the second linear layer's output of each block, of one image. How the paper makes a distribution
    of a token's values is not stated: their softmax, or `distribution=absolute`, |values| over their sum. `lowest` is
    its u, the tokens of least entropy that count.

    `layers` are those of the paper's tables: `first` and `second` alone (M1, M2), the layer of queries, keys and values
    (`qkv`), the `mixed` values that attention's last layer reads (V'), its `output` (MHSAout), and sums of them.
    `over=channels` takes the entropy of a channel over tokens in place of that of a token (the paper's embedding
    entropy): the number of channels times the least.
    """

    name: ClassVar[str] = "token_entropy"
    summary: ClassVar[str] = "least entropy of a token over the feed-forward layers"
    citation: ClassVar[str] = "Nguyen & Cheung, representation structure in vision Transformers"
    caveat: ClassVar[str] = "the paper does not say how a token's values become a distribution: here by their softmax"
    requires: ClassVar[str] = "attention"
    inputs: ClassVar[str] = "images"
    choices: ClassVar[Mapping[str, Collection]] = {
        "layers": tuple(LAYERS),
        "over": ("tokens", "channels"),
        "distribution": ("softmax", "absolute"),
        "lowest": at_least(1),
    }

    init: str = "default"
    batch_size: int = 1
    layers: str = "feed_forward"
    over: str = "tokens"
    lowest: int = 1
    distribution: str = "softmax"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = {"lowest": self.lowest, "distribution": self.distribution, "over": self.over, "dtype": self.dtype}
        wanted = LAYERS[self.layers]
        own = tuple(name for name in wanted if name in (_FIRST, _SECOND))
        of_attention = tuple(name for name in wanted if name not in own)
        probes = {FeedForward: own, AttentionLayers: of_attention}
        return {probe(self.init, self.batch_size, **settings): names for probe, names in probes.items() if names}

    def score(self, seen: Mapping[str, Any]) -> float:
        if not all(len(seen[name]) for name in LAYERS[self.layers]):
            raise Unscorable("no linear layer on tokens reads an activation")
        first, *others = (seen[name].sum() for name in LAYERS[self.layers])
        return sum(others, first)


@dataclass(frozen=True)
class MinEigenvalue(TokenEntropy):
    """Minimum eigenvalue: sum over feed-forward layers of N / u times the least eigenvalue of u tokens' correlations.

    Of a layer's N tokens the `lowest` u whose absolute Pearson correlations with all others sum up to least. The paper
    has u = 1 throughout, and the matrix of one token's correlation is 1: then the proxy counts tokens times layers, as
    do its printed figures (0.797 in rho on AutoFormer, that of the depth 0.799). Layers and `over` are as in
    `token_entropy`: over channels it counts widths.
    """

    name: ClassVar[str] = "min_eigenvalue"
    summary: ClassVar[str] = "least eigenvalue of the tokens' correlations: for one token, tokens x layers"
    caveat: ClassVar[str] = "with the paper's own setting of one token it counts tokens times layers"
    choices: ClassVar[Mapping[str, Collection]] = {**TokenEntropy.choices, "distribution": ("correlation",)}

    distribution: str = "correlation"


@dataclass(frozen=True)
class HeadConfidence(Proxy):
    """Head confidence: sum over queries, keys and values of the mean of the maximum over tokens.

    The authors' notebook (aaronserianni/training-free-nas @ 2d76e01b, `BERT_metrics.ipynb`) takes the maximum over the
    tokens of the output of each projection, and the mean over texts and channels. Which is not what its name says, the
    confidence of a head's softmax; that one, with a lower figure there, has no proxy here.
    """

    name: ClassVar[str] = "head_confidence"
    summary: ClassVar[str] = "maxima over tokens of queries, keys and values"
    citation: ClassVar[str] = "Serianni & Kalita, Training-free NAS for RNNs and Transformers, ACL 2023"
    requires: ClassVar[str] = "attention"
    reads_head: ClassVar[bool] = True
    inputs: ClassVar[str] = "images"

    init: str = "default"
    batch_size: int = 16
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {HeadOutputs(self.init, self.batch_size, self.dtype): ("projection_maxima",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["projection_maxima"].sum()
