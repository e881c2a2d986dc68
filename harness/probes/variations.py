"""How the gradients of weights vary over a few mini-batches."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch

#: Weights whose gradients a processor works on at once: those of a few mini-batches stay in its cache.
CACHED_WEIGHTS = 2**16


def variations(batches: Sequence[Sequence[torch.Tensor]], wanted: Collection[str]) -> dict[str, list[torch.Tensor]]:
    """By wanted observable of `VARIATIONS` its value for each layer.

    Args:
        batches: of each mini-batch the gradients of the layers' weights.
    """
    import torch

    forms = {name: form for name, form in VARIATIONS.items() if name in wanted}
    found: dict[str, list[torch.Tensor]] = {name: [] for name in forms}
    for layer in zip(*batches, strict=True):
        step = CACHED_WEIGHTS if layer[0].device.type == "cpu" else layer[0].numel()
        sums = []
        for block in zip(*(grad.flatten().split(step) for grad in layer), strict=True):
            stacked = torch.stack(block).double()
            sums.append([form(stacked) for form in forms.values()])
        for name, parts in zip(forms, zip(*sums, strict=True), strict=True):
            found[name].append(torch.stack(parts).sum())
    return found


def _vary(grads: torch.Tensor) -> torch.Tensor:
    """Of gradients (mini-batches, weights) which weights' vary."""
    return (grads != grads[0]).any(dim=0)


def varying(grads: torch.Tensor) -> torch.Tensor:
    """Of gradients (mini-batches, weights) how many weights' vary."""
    return _vary(grads).sum().double()


def mean_over_deviation(grads: torch.Tensor) -> torch.Tensor:
    """Of gradients (mini-batches, weights) the sum over weights of mean(|g|) / std(g); those that do not vary left out.

    Where nothing varies the deviation of equal numbers may still be rounded: it is excluded by comparison.
    """
    import torch

    spread = (grads - grads.mean(dim=0)).square_().mean(dim=0)
    ratio = grads.abs().mean(dim=0) / spread.sqrt_()
    return torch.where(_vary(grads), ratio, 0.0).sum()


def mean_alone(grads: torch.Tensor) -> torch.Tensor:
    """Of gradients (mini-batches, weights) the sum over weights of mean(|g|); those that do not vary left out."""
    import torch

    return torch.where(_vary(grads), grads.abs().mean(dim=0), 0.0).sum()


def deviation_alone(grads: torch.Tensor) -> torch.Tensor:
    """Of gradients (mini-batches, weights) the sum over weights of 1 / std(g); those that do not vary left out."""
    import torch

    inverse = (grads - grads.mean(dim=0)).square_().mean(dim=0).rsqrt_()
    return torch.where(_vary(grads), inverse, 0.0).sum()


def inverse_deviation(grads: torch.Tensor) -> torch.Tensor:
    """`deviation_alone` of |g|."""
    return deviation_alone(grads.abs())


#: Observables of several mini-batches.
VARIATIONS = {
    "varying_weights": varying,
    "zico": mean_over_deviation,
    "gradient_mean": mean_alone,
    "inverse_signed_deviation": deviation_alone,
    "inverse_deviation": inverse_deviation,
}
