"""Proxies of how steady a network is, and of programs that a search has found."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.probes.base import Probe, Unscorable
from harness.probes.patches import PatchEntropies
from harness.probes.robust import Consistency
from harness.probes.units import UnitSigns
from harness.proxies.base import Proxy
from harness.proxies.saliency import VARIANTS


@dataclass(frozen=True)
class EznasA(Proxy):
    """EZNAS-A: mean over units of ReLU, convolution and BatchNorm of ||sigmoid(ln det sign(X))||.

    The determinants are over the last two dimensions, the norm over the others, so that it grows with the root of the
    number of matrices: of 1x1 kernels it is half of it, a count of widths. `variant=paper` (default): X is the gradient
    of the convolution's weights of noise. `variant=repo`: the gradient with respect to the input of the ReLU on the
    mini-batch, which is what the authors' code runs (IntelLabs/Hardware-Aware-Automated-Machine-Learning @ fc29bc78,
    `EZNAS/evol_utilities.py`: its table of arguments is shifted by one). The gradient is of the sum of the network's
    first output there, the features that the classifier reads. Whatever units are in a network count, not a list of
    them by space; one whose matrices are not square is left out, one that no gradient reaches counts 0.

    On 11 cells of NAS-Bench-201, the same weights and images, `variant=repo` is 0.2 to 0.8 % below that code, in the
    same order: there float32 gives matrices of determinant 0 small ones, of which a negative one counts a half. With
    exact determinants the difference is 1e-8 (2 cells). A cell without convolutions has another list of units there.
    """

    name: ClassVar[str] = "eznas_a"
    summary: ClassVar[str] = "determinants of the signs of gradients, a program found by evolution"
    citation: ClassVar[str] = "Akhauri et al., EZNAS, NeurIPS 2022 (arXiv 2209.07413)"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 0.05
    choices: ClassVar[Mapping[str, Collection]] = {"variant": VARIANTS}

    init: str = "kaiming_fan_out"
    batch_size: int = 16
    variant: str = "paper"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {UnitSigns(self.init, self.batch_size, self.variant, self.dtype): ("unit_norms",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["unit_norms"].mean()


@dataclass(frozen=True)
class Croze(Proxy):
    """CRoZe: how alike layers, gradients and features are in a network and in a copy that is made worse.

    |weights|, BatchNorm off, in float64 (`Consistency`). Meant for accuracies under attack and corruption, by which it
    is to be judged. The images are cut to [0, 1] once they are moved, though they are normalised: as in the authors'
    code (HyeonjeongHa/CRoZe @ 3e89e3d1, `croze.py`), whose batch of 8 this takes. The features are those of the stage
    that a layer is in, as that code takes them on DARTS; `variant=repo` is what it computes on NAS-Bench-201, where it
    reads other features, adds gradients of the attack and keeps BatchNorm in the reductions: on 8 cells, the same
    weights and images, the largest relative difference is 4e-16.
    """

    name: ClassVar[str] = "croze"
    summary: ClassVar[str] = "consistency with a copy of moved weights on moved images"
    citation: ClassVar[str] = "Ha et al., CRoZe, NeurIPS 2023"
    inputs: ClassVar[str] = "images"
    tolerance: ClassVar[float] = 0.05
    choices: ClassVar[Mapping[str, Collection]] = {"variant": VARIANTS}

    init: str = "default"
    batch_size: int = 8
    epsilon: float = 0.01
    variant: str = "paper"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {Consistency(self.init, self.batch_size, self.epsilon, self.variant): ("consistency",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        return seen["consistency"].sum()


@dataclass(frozen=True)
class Mlfe(Proxy):
    """MLFE: entropies of patches of the last stages' maps, their sum times the logarithm of their greatest gap.

    Of each module of the last three stages, containers too, the sum over 3 x 3 patches (`PatchEntropies`) for an image
    of ones; the gap is between the greatest and the least of the sums that are not 0. `variant=repo`: the gap itself,
    as a later state of the code has it (NingW3028/MLFE @ 41b9a162, `proxieslib/MLFE.py`), and the entropies in float32,
    0 where the softmax of large values underflows; the manuscript and the state before have the gap's logarithm.
    Networks of tokens have no maps to read here.

    On 9 cells of NAS-Bench-201, the same weights and the authors' own modules, the largest relative difference of
    `variant=repo` from that code is 3e-7; a cell of skip connections alone has 0 there, and no score here. What is a
    module is part of the score: with ours the rank correlation over 30 cells is 0.98.
    """

    name: ClassVar[str] = "mlfe"
    summary: ClassVar[str] = "entropies of patches of the last feature maps"
    citation: ClassVar[str] = "MLFE, 2026 (NingW3028/MLFE)"
    reads_head: ClassVar[bool] = False
    inputs: ClassVar[str] = "none"
    tolerance: ClassVar[float] = 0.05
    choices: ClassVar[Mapping[str, Collection]] = {"variant": VARIANTS}

    init: str = "default"
    variant: str = "paper"
    dtype: str = "float32"

    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        return {PatchEntropies(self.init, dtype=self.dtype, exact=self.variant == "paper"): ("patch_sums",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        sums = seen["patch_sums"]
        present = sums[sums != 0]
        if not len(present) or present.max() == present.min():
            raise Unscorable("the patches of all modules have the same entropy")
        gap = present.max() - present.min()
        return (gap if self.variant == "repo" else np.log(gap)) * sums.sum()
