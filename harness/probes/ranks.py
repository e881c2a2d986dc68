"""Ranks of what layers, activations and normalisations give: effective ones, as NEAR takes them, and stable ones."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.probes.base import IMAGES, Probe, Subject, Unscorable, check_finite, outputs, read_back, together
from harness.probes.rows import Rows, refuse_weights

if TYPE_CHECKING:
    import torch

    from harness.probes.operations import Layer, Operation


def effective_rank(matrix: torch.Tensor) -> torch.Tensor:
    """exp of the entropy of the singular values of a matrix over their sum: 0 of zeros, NaN of what is not finite."""
    import torch

    finite = torch.isfinite(matrix).all()  # a tensor: the host is not to wait for each matrix
    values = torch.linalg.svdvals(torch.where(finite, matrix, 0.0).double())
    rank = torch.special.entr(values / values.sum()).sum().exp().nan_to_num(0.0)
    return torch.where(finite, rank, float("nan"))


@dataclass(frozen=True)
class EffectiveRanks(Probe):
    """Forwards of labelled mini-batches, BatchNorm on batch statistics; observable `effective_ranks` (repeats, M).

    Of each of the M operations that count the output's samples, one a position of an image (of maps column by column),
    are rows, and its C channels columns. Mini-batches are read until each has C rows; the matrix is C of them, one
    after the other, from a multiple of the width of a map (of the number of tokens, of C for vectors) on, drawn at
    random. Where those run over the end, the
    matrix has fewer rows, unless `whole`. Where there are too few images it has all rows that there are.

    `variant=paper`: outputs of layers and of activations; `repo`: those of normalisations too. A new initialisation a
    repeat, the same images.
    """

    init: str = "default"
    batch_size: int = 16
    repeats: int = 2
    variant: str = "paper"
    whole: bool = False
    dtype: str = "float32"

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        ranks, finite = [], []
        for repeat in range(self.repeats):
            subject.initialise(self.init, repeat, self.dtype)
            blocks = _Blocks(subject.layout(), subject.generator("rank blocks", repeat), self.whole)
            number = 0
            while number == 0 or (blocks.open and self._more(subject, number)):
                images, _ = subject.images(self.batch_size, self.dtype, number)
                with torch.no_grad(), blocks.watch(subject.network, len(images), self.variant):
                    finite.append(torch.isfinite(outputs(subject.network, images)).all())
                number += 1
            ranks.append(blocks.ranks())
        check_finite(finite)
        return {"effective_ranks": torch.stack(ranks).cpu().numpy()}

    def _more(self, subject: Subject, number: int) -> bool:
        """Whether there is a whole mini-batch of that number."""
        at_hand = subject.images_at_hand
        return at_hand is None or (number + 1) * self.batch_size <= at_hand


class _Blocks:
    """The rows of each operation, in the order in which they are computed, until a matrix is full."""

    def __init__(self, layout: Any, generator: torch.Generator, whole: bool):
        self._layout, self._generator, self._whole = layout, generator, whole
        self._rows: list[list[torch.Tensor]] = []
        self._ranks: dict[int, torch.Tensor] = {}
        self._next = 0

    @property
    def open(self) -> bool:
        """Whether some operation has fewer rows than channels."""
        return len(self._ranks) < len(self._rows)

    def watch(self, network: Any, count: int, variant: str) -> Any:
        import torch

        from harness.probes.operations import ACTIVATION, LAYERS, NORMALISATION, PRODUCT, Watch

        samples = Rows(self._layout, count)
        self._next = 0

        def see(operation: Operation) -> Any:
            result = operation.run()
            if operation.fixed or not isinstance(result, torch.Tensor):
                return result
            if operation.kind == NORMALISATION and variant == "paper":
                samples.note(operation, result)
            else:
                self._take(samples.of(operation, result), samples.is_map(operation, result))
            return result

        return Watch(network, {**dict.fromkeys((*LAYERS, ACTIVATION, NORMALISATION), see), PRODUCT: refuse_weights})

    def _take(self, values: torch.Tensor, is_map: bool) -> None:
        """Values (images, positions …, channels) of the next operation."""
        number, self._next = self._next, self._next + 1
        if number == len(self._rows):
            self._rows.append([])
        if number in self._ranks:
            return
        step = values.shape[-1] if values.ndim == 2 else values.shape[-2]
        if is_map:  # column by column
            values = values.permute(0, *reversed(range(1, values.ndim - 1)), -1)
        self._rows[number].append(values.flatten(0, -2).clone())
        self._close(number, step)

    def _close(self, number: int, step: int) -> None:
        """The rank of an operation, as soon as it has as many rows as channels."""
        import torch

        rows = self._rows[number]
        total, channels = sum(map(len, rows)), rows[0].shape[1]
        if total < channels:
            return
        starts = total // step - 1
        start = int(torch.randint(starts, (), generator=self._generator)) * step if starts > 0 else 0
        if self._whole:
            start = min(start, total - channels)
        self._ranks[number] = effective_rank(torch.cat(rows)[start : start + channels])
        self._rows[number] = rows[:0]

    def ranks(self) -> Any:
        """(M,). Raises Unscorable where nothing was computed that counts."""
        import torch

        if not self._rows:
            raise Unscorable("the network computes no layer and no activation")
        for number, rows in enumerate(self._rows):
            if number not in self._ranks:
                self._ranks[number] = effective_rank(torch.cat(rows))
        return together([self._ranks[number] for number in range(len(self._rows))])


@dataclass(frozen=True)
class StableRanks(Probe):
    """Forwards of one mini-batch, BatchNorm on batch statistics; a new initialisation a repeat.

    Observables, N the BatchNorms by their calls and L the convolutions, each once:

    - `stable_ranks` (repeats, N): of a BatchNorm's output, C channels as columns and the positions of all images as
      rows, |X|_F^2 / (|X|_2^2 + 1e-6); not centred
    - `filter_norms` (repeats, L): mean over a convolution's filters of their L1 norms, over the mean of their L2 norms
    """

    init: str = "default"
    batch_size: int = 16
    repeats: int = 5
    dtype: str = "float32"

    outputs: ClassVar[frozenset[str]] = IMAGES

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        from harness.probes.operations import CONVOLUTION, NORMALISATION, Watch

        ranks: list[torch.Tensor] = []
        norms: list[torch.Tensor] = []
        applied: dict[str | None, list[torch.Tensor]] = {}

        def normalised(operation: Operation) -> Any:
            result = operation.run()
            if operation.name == "batch_norm" and not operation.fixed:
                ranks.append(stable_rank(result.movedim(1, -1).flatten(0, -2)))
            return result

        def convolution(operation: Operation) -> Any:
            held = applied.setdefault(operation.owner, [])
            if not _is_among(operation, held, watch.layers):
                held.append(operation.weight)
                filters = operation.weight.detach().flatten(1).double()
                norms.append(filters.abs().sum(dim=1).mean() / filters.norm(dim=1).mean())
            return operation.run()

        found: dict[str, list] = {"stable_ranks": [], "filter_norms": []}
        finite = []
        for repeat in range(self.repeats):
            subject.initialise(self.init, repeat, self.dtype)
            ranks.clear()
            norms.clear()
            applied.clear()
            images, _ = subject.images(self.batch_size, self.dtype)
            handlers = {NORMALISATION: normalised, CONVOLUTION: convolution}
            watch = Watch(subject.network, handlers)
            with torch.no_grad(), watch:
                finite.append(torch.isfinite(outputs(subject.network, images)).all())
            if not ranks or not norms:
                raise Unscorable(f"the network has no {'convolution' if ranks else 'BatchNorm'}")
            found["stable_ranks"].append(together(ranks))
            found["filter_norms"].append(together(norms))
        check_finite(finite)
        return read_back({name: torch.stack(rows) for name, rows in found.items() if name in wanted})


def _is_among(operation: Operation, applied: list[torch.Tensor], layers: Mapping[str, Layer]) -> bool:
    """Whether a convolution applies weights that are among those applied before, of the same layer or parameter.

    A parametrised layer makes them anew for each call, and so does a product with a mask; parts of one parameter are
    different weights.
    """
    import torch

    weight, layer = operation.weight, layers.get(operation.owner or "")
    if any(weight is other for other in applied) or (applied and layer is not None and layer.parametrised):
        return True
    return operation.owner is not None and any(
        weight.shape == other.shape and torch.equal(weight, other) for other in applied
    )


def stable_rank(matrix: torch.Tensor) -> torch.Tensor:
    """Squared Frobenius norm of a matrix over its squared spectral norm, to which 1e-6 is added."""
    import torch

    matrix = matrix.double()
    gram = matrix.T @ matrix if len(matrix) > matrix.shape[1] else matrix @ matrix.T
    finite = torch.isfinite(gram).all()
    largest = torch.linalg.eigvalsh(torch.where(finite, gram, 0.0))[-1]
    return torch.where(finite, gram.trace() / (largest + 1e-6), float("nan"))
