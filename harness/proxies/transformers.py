"""Proxies of Transformers: what their feed-forward blocks and their attention make of tokens."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.probes.base import Probe
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

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        probe = FeedForward(self.init, self.batch_size, self.energy, dtype=self.dtype)
        return {probe: ("principal_counts",), Topology(): ("params",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["principal_counts"].sum() * seen["params"]


@dataclass(frozen=True)
class TokenEntropy(Proxy):
    """Token entropy: sum over feed-forward layers of the number of tokens times the least entropy of a token.

    Of the first and of the second linear layer's output of each block, of one image. How the paper makes a distribution
    of a token's values is not stated: their softmax, or `distribution=absolute`, |values| over their sum. `lowest` is
    its u, the tokens of least entropy that count.
    """

    name: ClassVar[str] = "token_entropy"
    summary: ClassVar[str] = "least entropy of a token over the feed-forward layers"
    citation: ClassVar[str] = "Nguyen & Cheung, representation structure in vision Transformers"
    caveat: ClassVar[str] = "the paper does not say how a token's values become a distribution: here by their softmax"
    requires: ClassVar[str] = "attention"
    inputs: ClassVar[str] = "images"
    choices: ClassVar[Mapping[str, Collection]] = {"distribution": ("softmax", "absolute"), "lowest": at_least(1)}

    init: str = "default"
    batch_size: int = 1
    lowest: int = 1
    distribution: str = "softmax"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        settings = {"lowest": self.lowest, "distribution": self.distribution, "dtype": self.dtype}
        return {FeedForward(self.init, self.batch_size, **settings): ("first_entropies", "second_entropies")}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["first_entropies"].sum() + seen["second_entropies"].sum()


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
