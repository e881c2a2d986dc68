"""What a network makes of a few images: codes that noise changes, and how far apart features lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, to_host
from harness.probes.gradient import agreement
from harness.probes.rows import refuse_weights

if TYPE_CHECKING:
    from harness.probes.operations import Operation


@dataclass(frozen=True)
class NoisyCodes(Probe):
    """Forward of a mini-batch beside itself plus noise N(0, sigma^2), in eval mode, where images do not meet.

    Observables over the R ReLUs, a code being [input > 0]: `permuted_changes` (R,), codes that differ from those of
    another image, the images permuted at random, or the mean over all permutations (`pairs` is `all`); `noisy_changes`
    (R,), codes that differ with the noise; `codes` (R,), how many there are.
    """

    init: str = "default"
    batch_size: int = 32
    sigma: float = 0.01
    pairs: str = "drawn"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import numpy as np
        import torch

        from harness.probes.operations import ACTIVATION, RELUS, Watch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network.eval()
        images, _ = subject.images(self.batch_size, self.dtype)
        layout, count = subject.layout(), len(images)
        noise = torch.randn(images.shape, generator=subject.generator("noise")).to(images)
        draws = subject.generator("permutations")
        changes: list[tuple] = []

        def rectify(operation: Operation) -> Any:
            if operation.name in RELUS and not operation.fixed:
                values = layout.place(operation.index).split(operation.input, 2 * count)
                own, noisy = (part.flatten(1) > 0 for part in values.split(count))
                if self.pairs == "all":
                    permuted = (own.shape[1] - agreement(values[:count])).sum() / count
                else:
                    permuted = (own ^ own[torch.randperm(count, generator=draws).to(own.device)]).sum()
                changes.append((permuted, (own ^ noisy).sum(), own.numel()))
            return operation.run()

        with torch.no_grad(), Watch(network, {ACTIVATION: rectify}):
            finite_logits(network, torch.cat([images, images + self.sigma * noise]))
        if not changes:
            raise Unscorable("the network computes no ReLU")
        permuted, noisy, codes = zip(*changes, strict=True)
        return {
            "permuted_changes": to_host(permuted),
            "noisy_changes": to_host(noisy),
            "codes": np.array(codes, dtype=np.float64),
        }


@dataclass(frozen=True)
class FeatureDistances(Probe):
    """Forwards of a few images, each alone, BatchNorm on the statistics of that one image.

    Observables (B, B) float64, squared distances of the images' features, each of which is brought to [0, 1] by its
    least and greatest value over the images, one that is the same for all adding nothing: `relu_distances`, of the
    outputs of all ReLUs together; `head_distances`, of what the last layer reads.
    """

    init: str = "default"
    batch_size: int = 3
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        images, _ = subject.images(self.batch_size, self.dtype)
        rows: list[list[torch.Tensor]] = []
        heads: list[torch.Tensor] = []
        with torch.no_grad():
            for image in images:
                relus, head = _features(subject.network, image[None].clone())
                rows.append(relus)
                heads.append(head)
        if not rows[0]:
            raise Unscorable("the network computes no ReLU")
        if len({tuple(map(len, relus)) for relus in rows}) > 1 or len(set(map(len, heads))) > 1:
            raise Unscorable("which operations are computed depends on the images")
        distances = sum(_distances(torch.stack(parts)) for parts in zip(*rows, strict=True))
        return {
            "relu_distances": distances.cpu().numpy(),
            "head_distances": _distances(torch.stack(heads)).cpu().numpy(),
        }


def _features(network: Any, image: Any) -> tuple[list, Any]:
    """Of one image the outputs of the ReLUs, each flat, and what the last layer reads."""
    from harness.probes.operations import ACTIVATION, LAYERS, PRODUCT, RELUS, Watch

    relus: list = []
    last: list = []

    def rectify(operation: Operation) -> Any:
        result = operation.run()
        if operation.name in RELUS and not operation.fixed:
            relus.append(result.flatten().clone())
        return result

    def layer(operation: Operation) -> Any:
        if not operation.fixed:
            last[:] = [watch.keep(operation.input)]
        return operation.run()

    watch = Watch(network, {ACTIVATION: rectify, **dict.fromkeys(LAYERS, layer), PRODUCT: refuse_weights})
    with watch:
        finite_logits(network, image)
    if not last:
        raise Unscorable("no convolution or linear layer")
    return relus, last[0].value.flatten()


def _distances(rows: Any) -> Any:
    """Squared distances (B, B) of rows (B, features), each feature over its range in them."""
    rows = rows.double()
    least = rows.amin(dim=0)
    spread = rows.amax(dim=0) - least
    spread[spread == 0] = 1
    rows = (rows - least) / spread
    return (rows[:, None] - rows[None]).square().sum(dim=2)
