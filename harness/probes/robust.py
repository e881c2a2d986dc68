"""How alike a network is to a copy of itself that is made worse, on images that are changed: CRoZe's reading."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.probes.base import (
    Probe,
    Start,
    Subject,
    Unscorable,
    check_finite,
    gradients,
    hooked,
    loss,
    outputs,
    several,
    to_host,
    weight_layers,
)
from harness.probes.positive import _make_positive, _without_normalisation
from harness.probes.rows import refuse_weights

if TYPE_CHECKING:
    import torch

    from harness.probes.operations import Operation

#: From one stage that halves the resolution to the next, in NAS-Bench-201's network, and which ones do.
APART = 6
REDUCTIONS = (APART, 2 * APART)


@dataclass(frozen=True)
class Consistency(Probe):
    """|weights|, no normalisation, float64; observable `consistency` (L,) over the layers that a gradient reaches.

    A copy has each layer's weights w moved by 2 |w| along the gradient of the cross-entropy, and reads the images moved
    by `epsilon` against the sign of its gradient there, cut to [0, 1]. All forwards begin alike (`Start`). A layer has
    sum(1 + cos(w', w)) * sum|cos(g', g)| * sum(1 + cos(f', f)), g the gradients of the cross-entropy, f the output of
    the stage that owns the layer, or what the layer itself reads behind all stages; cosines are along the first
    dimension. `variant=repo` is what the authors' code computes on NAS-Bench-201: f is of the stem, of either reduction
    or of the last cell behind the ReLU that follows, by the number of the cell over five; the reductions keep their
    normalisations; g' has the gradients of the loss that moved the images, too, which are never set to zero.
    """

    init: str = "default"
    batch_size: int = 8
    epsilon: float = 0.01
    variant: str = "paper"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        repo = self.variant == "repo"
        _make_positive(subject, self.init, 0)
        if not subject.stages:
            raise Unscorable("the network names no stages")
        if repo and len(subject.stages) != 18:
            raise Unscorable("variant=repo reads the 18 stages of NAS-Bench-201's network")
        layers = weight_layers(subject.network)
        if any(layer.parametrised for layer in layers.values()):
            raise Unscorable("a parametrised layer's weights cannot be moved")
        weights = {name: layer.weight for name, layer in layers.items() if layer.weight.requires_grad}
        images, labels = subject.images(self.batch_size, "float64")
        start = Start(subject.network, subject.device)
        clean = _Pass(subject, start, images, repo)
        first = _gradients(loss(clean.logits, labels), weights)
        before = {name: weight.detach().clone() for name, weight in weights.items()}
        with torch.no_grad():
            for name, weight in weights.items():
                if first[name] is not None:
                    weight += 2 * weight.norm() / (first[name].norm() + 1e-30) * first[name]
        probe = images.clone().requires_grad_(True)
        attacked = _Pass(subject, start, probe, repo)
        value = loss(attacked.logits, labels)
        attack = _gradients(value, {**weights, "": probe} if repo else {"": probe}) if value.requires_grad else {}
        slope = attack.pop("", None)
        moved = images if slope is None else images - self.epsilon * slope.sign()
        worse = _Pass(subject, start, moved.clamp(0, 1), repo)
        second = _gradients(loss(worse.logits, labels), weights)
        for name, earlier in attack.items():
            if earlier is not None and second[name] is not None:
                second[name] = second[name] + earlier
        terms = []
        alike: dict[Any, torch.Tensor] = {}  # of the features, which the layers of a stage share
        for name, weight in weights.items():
            place = clean.owners.get(name)
            if first[name] is None or second[name] is None or place is None:
                continue
            feature = self._feature(place, len(subject.stages))
            key = feature if feature < len(subject.stages) else name
            if key not in alike:
                alike[key] = (1 + _cosines(clean.of(feature, name), worse.of(feature, name))).sum()
            of_weights = (1 + _cosines(weight.detach(), before[name])).sum()
            terms.append((of_weights * _cosines(second[name], first[name]).abs().sum() * alike[key]).abs())
        check_finite([clean.finite, attacked.finite, worse.finite])
        if not terms:
            raise Unscorable("no trainable weight")
        return {"consistency": to_host(terms)}

    def _feature(self, place: int, stages: int) -> int:
        """The stage whose output belongs to a layer of stage `place`; `stages` for what the layer itself reads."""
        if self.variant == "paper" or place == stages:
            return place
        return min(APART * ((place + 1) // APART), stages - 1)


def _gradients(loss: torch.Tensor, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor | None]:
    return dict(zip(weights, gradients(loss, list(weights.values())), strict=True))


def _cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    import torch.nn.functional as F

    return F.cosine_similarity(a, b, dim=0)


class _Pass:
    """One forward: logits, outputs of the stages, what layers behind them read, and the stages of the layers."""

    def __init__(self, subject: Subject, start: Start, images: torch.Tensor, repo: bool):
        import torch

        from harness.probes.operations import LAYERS, PRODUCT

        self.owners: dict[str, int] = {}
        self._stages: list[torch.Tensor] = []
        self._read: dict[str, torch.Tensor] = {}
        self._last, self._repo = len(subject.stages), repo
        handlers = {**dict.fromkeys(LAYERS, self._layer), PRODUCT: refuse_weights}
        stages = [(stage, self._finish) for stage in subject.stages]
        start.again()
        with _without_normalisation(subject.network, handlers, spared=self._is_spared), hooked(stages):
            self.logits = several(outputs(subject.network, images.clone()))
        self.finite = torch.isfinite(self.logits).all()
        if len(self._stages) != self._last:
            raise Unscorable("a stage is not computed, or more than once")

    def of(self, feature: int, name: str) -> torch.Tensor:
        return self._read[name] if feature == self._last else self._stages[feature]

    def _finish(self, module: Any, args: Any, output: Any) -> None:
        import torch

        if not isinstance(output, torch.Tensor):
            raise Unscorable("a stage's output is no feature map (B, C, H, W): name modules that return one")
        behind_relu = self._repo and len(self._stages) == self._last - 1
        self._stages.append(output.detach().relu() if behind_relu else output.detach().clone())

    def _is_spared(self) -> bool:
        """Whether a normalisation stays: one of a reduction, where the authors' network has it all the same."""
        return self._repo and len(self._stages) in REDUCTIONS

    def _layer(self, operation: Operation) -> Any:
        if operation.owner is not None and operation.owner not in self.owners:
            self.owners[operation.owner] = len(self._stages)
            if len(self._stages) == self._last:
                self._read[operation.owner] = operation.input.detach().clone()
        return operation.run()
