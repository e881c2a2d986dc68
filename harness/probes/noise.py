"""What a network makes of a few images: codes that noise changes, and how far apart features lie."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.probes.base import (
    ONE_IMAGE,
    OncePerTensor,
    Probe,
    Start,
    Subject,
    Unscorable,
    by_image,
    check_finite,
    finite_logits,
    outputs,
    refuse_batch_statistics,
)
from harness.probes.correlations import agreement
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

        from harness.probes.layout import FIRST
        from harness.probes.operations import ACTIVATION, NORMALISATION, RELUS, Watch

        subject.initialise(self.init, dtype=self.dtype)
        network = subject.network
        network.eval()
        images, _ = subject.images(self.batch_size, self.dtype)
        layout, count = subject.layout(), len(images)
        if count < 2:
            raise Unscorable(ONE_IMAGE)
        noise = torch.randn(images.shape, generator=subject.generator("noise")).to(images)
        draws = subject.generator("permutations")
        differing: list[torch.Tensor] = []
        noisy_changes: list[torch.Tensor] = []
        codes: list[int] = []

        def compared(values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, int]:
            own, noisy = (by_image(values) > 0).split(count)
            return own.shape[1] - agreement(own), (own ^ noisy).sum(), own.numel()

        once = OncePerTensor(compared)

        def rectify(operation: Operation) -> Any:
            if operation.name in RELUS and not operation.fixed:
                place = layout.place(operation.index)
                first = place == FIRST and len(operation.input) == 2 * count
                found = once(operation.input) if first else compared(place.split(operation.input, 2 * count))
                for kept, value in zip((differing, noisy_changes, codes), found, strict=True):
                    kept.append(value)
            return operation.run()

        handlers = {ACTIVATION: rectify, NORMALISATION: refuse_batch_statistics}
        with torch.no_grad(), Watch(network, handlers):
            finite_logits(network, torch.cat([images, images + self.sigma * noise]))
        if not codes:
            raise Unscorable("the network computes no ReLU")
        changes = torch.stack(differing).flatten(1), torch.stack(noisy_changes)[:, None].double()
        host = torch.cat(changes, dim=1).cpu().numpy()
        between, noisy = host[:, :-1].reshape(-1, count, count), host[:, -1]
        if self.pairs == "all":
            permuted = between.sum(axis=(1, 2)) / count
        else:
            partners = np.stack([torch.randperm(count, generator=draws).numpy() for _ in codes])
            permuted = between[np.arange(len(codes))[:, None], np.arange(count), partners].sum(axis=1)
        return {"permuted_changes": permuted, "noisy_changes": noisy, "codes": np.array(codes, dtype=np.float64)}


@dataclass(frozen=True)
class FeatureDistances(Probe):
    """Forwards of a few images, each alone, BatchNorm on the statistics of that one image. All begin alike (`Start`).

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
        finite: list[torch.Tensor] = []
        start = Start(subject.network, subject.device)
        with torch.no_grad():
            for image in images:
                start.again()  # the images alone differ
                relus, head, logits = _features(subject.network, image[None].clone())
                rows.append(relus)
                heads.append(head)
                finite.append(torch.isfinite(logits).all())
        check_finite(finite)
        if not rows[0]:
            raise Unscorable("the network computes no ReLU")
        if len({tuple(map(len, relus)) for relus in rows}) > 1 or len(set(map(len, heads))) > 1:
            raise Unscorable("which operations are computed depends on the images")
        of_relus = sum(_distances(torch.stack(parts)) for parts in zip(*rows, strict=True))
        of_relus, of_head = torch.stack([of_relus, _distances(torch.stack(heads))]).cpu().numpy()
        return {"relu_distances": of_relus, "head_distances": of_head}


def _features(network: Any, image: Any) -> tuple[list, Any, Any]:
    """Of one image the outputs of the ReLUs, each flat, what the last layer reads, and the logits."""
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
        logits = outputs(network, image)
    if not last:
        raise Unscorable("no convolution or linear layer")
    return relus, last[0].value.flatten(), logits


def _distances(rows: Any) -> Any:
    """Squared distances (B, B) of rows (B, features), each feature over its range in them."""
    rows = rows.double()
    least = rows.amin(dim=0)
    spread = rows.amax(dim=0) - least
    rows = (rows - least) / spread.masked_fill(spread == 0, 1.0)
    return (rows[:, None] - rows[None]).square().sum(dim=2)
