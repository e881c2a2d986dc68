"""The codes of layers at initialisation in eval mode, where images do not meet, as in T-CET's code."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from harness.probes.base import IMAGES, Probe, Subject, finite_logits, read_back, refuse_batch_statistics
from harness.probes.gradient import Seen


@dataclass(frozen=True)
class EvalCodes(Probe):
    """Forward of one mini-batch in eval mode: at initialisation BatchNorm is the identity map up to its epsilon.

    Observables over the L convolutions and linear layers, in module order:

    - `eval_kernels` (L', B, B): number of equal bits of the codes [layer output > 0] of two images, for the layers
      that were called; the codes of several calls are joined
    - `eval_places` (L,): which of those kernels belongs to the layer; -1 if none

    Raises Unscorable for a BatchNorm without running statistics.
    """

    init: str = "kaiming_fan_in"
    batch_size: int = 64
    dtype: str = "float32"

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import NORMALISATION, Watch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        network.eval()
        images, _ = subject.images(self.batch_size, self.dtype)
        seen = Seen(subject, frozenset({"layer_kernels"}), len(images))
        with torch.no_grad(), Watch(network, {NORMALISATION: refuse_batch_statistics}), seen.watch:
            finite_logits(network, images)
        found = read_back(seen.kernels())
        return {"eval_kernels": found["layer_kernels"], "eval_places": found["layer_places"]}
