"""Entropies of small patches of the last feature maps, for an image of ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, hooked, to_host

if TYPE_CHECKING:
    import torch

SIDE = 3
GRID = 4


def patch_entropies(features: torch.Tensor, exact: bool = True) -> torch.Tensor:
    """(patches,): of 3 x 3 patches of a map (C, H, W), on a grid of four by four inside its border if it has one.

    A patch's entropy of its N values over N bins of equal width, times that of the softmax of their absolute values,
    both in bits. In float64, or where it is not to be `exact` in the map's own type, and 0 where a softmax underflows.
    """
    import torch

    rows, columns = (_starts(size) for size in features.shape[1:])
    patches = [features[:, i : i + SIDE, j : j + SIDE].flatten() for i in rows for j in columns]
    values = torch.stack(patches)
    values = values.double() if exact else values
    total = values.shape[1]
    least, spread = (
        values.amin(dim=1, keepdim=True),
        values.amax(dim=1, keepdim=True) - values.amin(dim=1, keepdim=True),
    )
    bins = ((values - least) / spread.clamp(min=1e-10) * (total - 1)).long().clamp(0, total - 1)
    counts = torch.zeros_like(values).scatter_add_(1, bins, torch.ones_like(values))
    discrete = torch.special.entr(counts / total).sum(dim=1) / torch.log(torch.tensor(2.0))
    discrete[spread[:, 0] < 1e-10] = 0.0
    shares = values.abs().softmax(dim=1)
    continuous = torch.special.entr(shares).sum(dim=1) / torch.log(torch.tensor(2.0))
    if not exact:
        continuous[(shares == 0).any(dim=1)] = 0.0
    return discrete * continuous


def _starts(size: int) -> list[int]:
    """Where patches begin along a side: inside the border if one fits there, four of them at most."""
    inside = list(range(1, size - SIDE))
    found = inside or list(range(size - SIDE + 1))
    if len(found) < 2:
        return found
    return [found[int(place * (len(found) - 1) / (GRID - 1))] for place in range(GRID)]


@dataclass(frozen=True)
class PatchEntropies(Probe):
    """Forward of an image of ones, BatchNorm on its statistics; observable `patch_sums` (M,).

    Per module of the network's last three stages, containers too, that gives a map of 3 x 3 or more: the sum over its
    patches (`patch_entropies`). What is not finite counts as 0.
    """

    init: str = "default"
    stages: int = 3
    dtype: str = "float32"
    exact: bool = True

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        if not subject.stages:
            raise Unscorable("the network names no stages")
        inside = {id(m): m for stage in subject.stages[-self.stages :] for m in stage.modules()}
        sums: list = []

        def leave(module: Any, args: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor) and output.ndim == 4 and min(output.shape[2:]) >= SIDE:
                sums.append(patch_entropies(output[0].nan_to_num(0.0, 0.0, 0.0), self.exact).sum())

        ones = torch.ones(1, *subject.shape, dtype=getattr(torch, self.dtype), device=subject.device)
        with torch.no_grad(), hooked([(module, leave) for module in inside.values()]):
            finite_logits(subject.network, ones)
        if not sums:
            raise Unscorable(f"no feature map of {SIDE} x {SIDE} or more in the last stages")
        return {"patch_sums": to_host(sums)}
