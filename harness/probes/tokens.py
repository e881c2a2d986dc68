"""What the blocks of a Transformer make of tokens: its feed-forward layers, and the projections of its attention."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from harness.probes.base import Probe, Subject, Unscorable, finite_logits, to_host
from harness.probes.modules import attention_modules
from harness.probes.rows import Rows, refuse_weights

if TYPE_CHECKING:
    import torch

    from harness.probes.operations import Operation


@dataclass(frozen=True)
class FeedForward(Probe):
    """Forward of a mini-batch; observables over the F feed-forward blocks.

    A block is a linear layer on tokens whose output an activation reads, with the linear layer that reads that one's.

    - `principal_counts` (F,): how many principal components of the first layer's output, before the activation, hold
      a share `energy` of its variance, the tokens of all images being the samples
    - `first_entropies`, `second_entropies` (F,), where there is a second layer: `entropy` of the first layer's output
      and of the second's
    """

    init: str = "default"
    batch_size: int = 16
    energy: float = 0.99
    lowest: int = 1
    distribution: str = "softmax"
    over: str = "tokens"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        images, _ = subject.images(self.batch_size, self.dtype)
        blocks = _Blocks(subject, len(images))
        with torch.no_grad(), blocks.watch:
            finite_logits(subject.network, images)
        if not blocks.firsts:
            raise Unscorable("no feed-forward layers on tokens")
        found: dict[str, Any] = {}
        if "principal_counts" in wanted:  # their eigenvalues take longer than all else
            found["principal_counts"] = to_host([self._components(tokens) for tokens in blocks.firsts])
        settings = self.lowest, self.distribution, self.over
        for name, values in (("first_entropies", blocks.firsts), ("second_entropies", blocks.seconds)):
            found[name] = to_host([entropy(tokens, *settings) for tokens in values]) if values else np.zeros(0)
        return found

    def _components(self, tokens: torch.Tensor) -> torch.Tensor:
        """Of tokens (B, N, D)."""
        import torch

        samples = tokens.flatten(0, -2).double()
        samples = samples - samples.mean(dim=0)
        values = torch.linalg.eigvalsh(samples.T @ samples).flip(0).clamp(min=0)
        share = values.cumsum(0) / values.sum()
        return (share < self.energy).sum() + 1


def entropy(tokens: torch.Tensor, lowest: int, distribution: str, over: str) -> torch.Tensor:
    """Tokens / `lowest` times the sum of the `lowest` least entropies of a token's values, mean over images.

    Args:
        tokens: (B, N, D).
        distribution: values become one by their `softmax`, or as `absolute` values over their sum; `correlation`: it is
            no entropy, but `least_eigenvalue`.
        over: `tokens`; or `channels`, each with its N values, in their place.
    """
    import torch

    rows = tokens.flatten(1, -2).double()
    rows = rows if over == "tokens" else rows.transpose(1, 2)
    if distribution == "correlation":
        return least_eigenvalue(rows, lowest)
    share = rows.softmax(dim=-1) if distribution == "softmax" else rows.abs() / rows.abs().sum(-1, True)
    entropies = torch.special.entr(share).sum(dim=-1)
    least = entropies.topk(min(lowest, entropies.shape[1]), dim=1, largest=False).values.sum(dim=1)
    return (least * entropies.shape[1] / lowest).mean()


def least_eigenvalue(rows: torch.Tensor, lowest: int) -> torch.Tensor:
    """N / `lowest` times the least eigenvalue of the correlations of the `lowest` rows least correlated with all.

    Of rows (B, N, D), Pearson's correlations, of a constant row 0 with any other; mean over images.
    """
    import torch

    centred = rows - rows.mean(dim=-1, keepdim=True)
    norms = centred.norm(dim=-1, keepdim=True)
    unit = torch.where(norms == 0, 0.0, centred / norms)  # what is NaN stays so
    correlations = unit @ unit.mT
    correlations.diagonal(dim1=1, dim2=2).fill_(1)
    least = correlations.abs().sum(dim=2).topk(min(lowest, rows.shape[1]), dim=1, largest=False).indices
    chosen = correlations.gather(1, least[:, :, None].expand(-1, -1, rows.shape[1]))
    chosen = chosen.gather(2, least[:, None].expand(-1, least.shape[1], -1))
    return (torch.linalg.eigvalsh(chosen)[:, 0] * rows.shape[1] / lowest).mean()


class _Blocks:
    """The outputs of the first and second layers of the feed-forward blocks of a forward."""

    def __init__(self, subject: Subject, count: int):
        from harness.probes.operations import ACTIVATION, LINEAR, PRODUCT, RANDOM, Watch

        self.firsts: list[torch.Tensor] = []
        self.seconds: list[torch.Tensor] = []
        self._rows = Rows(subject.layout(), count)
        self._linear: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # of a linear layer: output, output by image
        self._active: dict[int, torch.Tensor] = {}
        handlers = {LINEAR: self._layer, PRODUCT: refuse_weights}
        self.watch = Watch(subject.network, {**handlers, ACTIVATION: self._activation, RANDOM: self._drop})

    def _layer(self, operation: Operation) -> Any:
        result = operation.run()
        if operation.fixed or result.ndim < 3:
            return result
        tokens = self._rows.of(operation, result)
        self._linear[id(result)] = result, tokens
        if self._active.get(id(operation.input)) is operation.input:
            self.seconds.append(tokens.clone())
        return result

    def _activation(self, operation: Operation) -> Any:
        found = self._linear.get(id(operation.input))
        known = found is not None and found[0] is operation.input
        if known:
            self.firsts.append(found[1].clone())
        result = operation.run()
        if known:
            self._active[id(result)] = result
        return result

    def _drop(self, operation: Operation) -> Any:
        result = operation.run()
        if self._active.get(id(operation.get("input"))) is operation.get("input") and "dropout" in operation.name:
            self._active[id(result)] = result
        return result


@dataclass(frozen=True)
class HeadOutputs(Probe):
    """Forward of a mini-batch; observable `projection_maxima` (P,) over the queries, keys and values of all attention.

    Mean over images and channels of the maximum over tokens. The projections are the linear layers of attention modules
    (any module whose class name holds `Attention`) but the one of each that is computed last, which reads what is
    mixed. One that makes several of the three counts as several: as often as it gives the width of what the last reads.
    Unscorable where that is no whole number.
    """

    init: str = "default"
    batch_size: int = 16
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import LINEAR, Watch, known_layers

        subject.initialise(self.init, dtype=self.dtype)
        images, _ = subject.images(self.batch_size, self.dtype)
        prefixes = [prefix for prefix, _ in attention_modules(subject.network)]
        inside = {name for name in known_layers(subject.network) if any(_is_below(name, prefix) for prefix in prefixes)}
        if len(inside) < 2:  # whatever the network computes
            raise Unscorable("no attention module with linear projections")
        rows, calls = Rows(subject.layout(), len(images)), []

        def layer(operation: Operation) -> Any:
            result = operation.run()
            if operation.owner in inside and not operation.fixed:
                maxima = _maxima(rows, operation, result)
                calls.append(_Call(operation.owner, operation.input.shape[-1], result.shape[-1], maxima))
            return result

        with torch.no_grad(), Watch(subject.network, {LINEAR: layer}):
            finite_logits(subject.network, images)
        found = []
        for call, count in _parts(calls, prefixes):
            if isinstance(call.maxima, Unscorable):
                raise call.maxima
            if call.maxima is not None:
                found.extend(part.contiguous().double().mean() for part in call.maxima.chunk(count, dim=-1))
        if not found:
            raise Unscorable("no attention module with linear projections")
        return {"projection_maxima": to_host(found)}


class _Call(NamedTuple):
    """A linear layer as it was computed: its name, how many numbers of a token it read and gave, and `_maxima`."""

    owner: str
    read: int
    given: int
    maxima: torch.Tensor | Unscorable | None


def _maxima(rows: Rows, operation: Operation, result: torch.Tensor) -> torch.Tensor | Unscorable | None:
    """Maxima (B, D) over tokens; None where an image has none, or why they cannot be told: they may not count."""
    try:
        tokens = rows.of(operation, result)
    except Unscorable as error:
        return error
    return tokens.flatten(1, -2).amax(dim=1) if tokens.ndim > 2 else None


def _is_below(name: str, prefix: str) -> bool:
    return not prefix or name.startswith(f"{prefix}.")


def _parts(calls: list[_Call], prefixes: list[str]) -> list[tuple[_Call, int]]:
    """The calls that make queries, keys or values, in order, and how many of the three each makes.

    Of attention modules that hold one another the innermost counts whose layers make all three: one may hold these
    alone, and the next one the layer that reads what is mixed.
    """
    chosen: dict[int, int] = {}
    settled: list[str] = []
    for prefix in sorted(prefixes, key=lambda prefix: -len(prefix)):
        if any(_is_below(other, prefix) for other in settled):
            continue
        places = [place for place, call in enumerate(calls) if _is_below(call.owner, prefix)]
        names = list(dict.fromkeys(calls[place].owner for place in places))
        if len(names) < 2:
            continue
        own = [place for place in places if calls[place].owner != names[-1]]
        width = next(call.read for call in calls if call.owner == names[-1])
        times = sum(calls[place].owner == names[-1] for place in places)
        single = len(own) == 3 * times  # each makes one of the three, whatever its width: keys of fewer heads
        counts = [1 if single else calls[place].given / width for place in own]
        whole = sum(counts) == 3 * times
        if not whole and any(_is_below(prefix, other) for other in prefixes if other != prefix):
            continue  # the next one may hold the rest
        if any(count < 1 or count % 1 for count in counts):
            whose = prefix or "the network"
            raise Unscorable(f"how many of queries, keys and values each layer of {whose} makes cannot be told")
        settled.append(prefix)
        chosen.update({place: int(count) for place, count in zip(own, counts, strict=True)})
    return [(calls[place], count) for place, count in sorted(chosen.items())]
