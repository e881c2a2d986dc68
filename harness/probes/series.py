"""Gradients of a network's first parameters over many mini-batches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from harness.probes.base import Probe, Subject, Unscorable, check_finite, gradients, loss, outputs


@dataclass(frozen=True)
class GradientSeries(Probe):
    """Forward and backward of the mean cross-entropy of many mini-batches, BatchNorm on batch statistics, no update.

    Observable `gradient_series` (T, minibatches, entries) float64: the first `entries` of the gradient of each of the
    first `tensors` parameter tensors that have as many and that a gradient reaches. Raises Unscorable where none has.
    """

    init: str = "default"
    batch_size: int = 64
    minibatches: int = 50
    tensors: int = 11
    entries: int = 50
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        chosen = [p for p in network.parameters() if p.requires_grad and p.numel() >= self.entries]
        if not chosen:
            raise Unscorable(f"no trainable parameter has {self.entries} entries")
        rows, finite = [], []
        for number in range(self.minibatches):
            images, labels = subject.images(self.batch_size, self.dtype, number, self.minibatches)
            logits = outputs(network, images)
            finite.append(torch.isfinite(logits).all())
            found = gradients(loss(logits, labels), chosen)
            reached = [grad.detach().flatten()[: self.entries] for grad in found if grad is not None]
            if not reached:
                raise Unscorable(f"no gradient reaches a parameter of {self.entries} entries")
            rows.append(torch.stack(reached[: self.tensors]))
        check_finite(finite)
        return {"gradient_series": torch.stack(rows).double().cpu().numpy().swapaxes(0, 1)}
