"""Signs of gradients in units of ReLU, convolution and BatchNorm, as EZNAS's evolved program reads them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.probes.base import Probe, Subject, Unscorable, gradients, outputs, to_host
from harness.probes.rows import refuse_weights

if TYPE_CHECKING:
    import torch

    from harness.probes.operations import Operation


def sign_norm(values: torch.Tensor) -> torch.Tensor:
    """Frobenius norm of sigmoid(ln det sign(X)) over the matrices of the last two dimensions.

    A negative determinant counts as ln 1, one of 0 as minus infinity. Determinants of signs are whole numbers.
    """
    import torch

    finite = torch.isfinite(values).all()  # a tensor: the host is not to wait for each unit
    sign, size = torch.linalg.slogdet(torch.where(finite, values.sign(), 0.0).double())
    size = size.masked_fill(sign < 0, 0.0).masked_fill(size < -0.5, -torch.inf)
    return torch.where(finite, size.sigmoid().norm(), float("nan"))


@dataclass(frozen=True)
class UnitSigns(Probe):
    """Forward of a mini-batch and backward of the sum of what the last layer reads; observable `unit_norms` (U,).

    BatchNorm on batch statistics. A unit is a convolution that reads a ReLU's output and whose own a BatchNorm reads.
    `variant=paper`: `sign_norm` of the gradient of its weights, of Gaussian images; `repo`: of the gradient with
    respect to the input of the ReLU, by way of that ReLU alone, of the mini-batch. 0 where no gradient comes. A unit
    whose matrices are not square is none.
    """

    init: str = "kaiming_fan_out"
    batch_size: int = 16
    variant: str = "paper"
    dtype: str = "float32"

    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        import torch

        subject.initialise(self.init, dtype=self.dtype)
        images, _ = subject.images(self.batch_size, self.dtype)
        if self.variant == "paper":
            images = torch.randn(images.shape, generator=subject.generator("noise")).to(images)
        images.requires_grad_(True)
        seen = _Units(subject.network)
        with seen.watch:
            outputs(subject.network, images.clone())
        if not seen.units:
            raise Unscorable("no convolution reads a ReLU and is read by a BatchNorm")
        of_weights = self.variant == "paper"
        units = [unit for unit in seen.units if unit.is_square(of_weights)]
        if not units:
            raise Unscorable("no unit of ReLU, convolution and BatchNorm has square matrices")
        groups = [seen.applied(unit) for unit in units]
        targets = [weight for group in groups for weight in group] if of_weights else [images]
        targets = list({id(target): target for target in targets}.values())
        try:
            found = gradients(seen.last.sum(), targets)
        except Unscorable:  # nothing leads from the images to what the last layer reads
            found = [None] * len(targets)
        if of_weights:
            by_id = {id(target): grad for target, grad in zip(targets, found, strict=True)}
            parts = [[by_id[id(weight)] for weight in group if by_id[id(weight)] is not None] for group in groups]
            values = [sum(part[1:], part[0]) if part else None for part in parts]
        else:
            values = [seen.arrived.get(unit.relu) for unit in units]
        return {"unit_norms": to_host([torch.zeros(()) if v is None else sign_norm(v) for v in values])}


class _Unit(NamedTuple):
    """The weights of a convolution, the number of the ReLU before it, and the sides of the map that it reads."""

    weight: torch.Tensor
    relu: int
    sides: tuple[int, int]

    def is_square(self, of_weights: bool) -> bool:
        height, width = self.weight.shape[2:] if of_weights else self.sides
        return height == width


class _Units:
    """The units of a forward, and what the last layer reads.

    `arrived`: by ReLU the gradient with respect to its input, after a backward pass.
    """

    def __init__(self, network: Any):
        from harness.probes.operations import (
            ACTIVATION,
            CONVOLUTION,
            LAYERS,
            NORMALISATION,
            PRODUCT,
            Watch,
            Weights,
            known_layers,
        )

        self.units: list[_Unit] = []
        self.arrived: dict[int, torch.Tensor] = {}
        self.last: Any = None
        self._weights = Weights(network, known_layers(network))
        # By their ids, outputs with their versions: what the network has written into since is none any more.
        self._relus: dict[int, tuple[torch.Tensor, int, int]] = {}
        self._count = 0
        self._convolved: dict[int, tuple[torch.Tensor, int, _Unit]] = {}
        handlers = {**dict.fromkeys(LAYERS, self._layer), ACTIVATION: self._activation, NORMALISATION: self._norm}
        self.watch = Watch(network, {**handlers, CONVOLUTION: self._convolution, PRODUCT: refuse_weights})

    def _activation(self, operation: Operation) -> Any:
        from harness.probes.operations import RELUS

        result = operation.run()
        if operation.name in RELUS and result.ndim == 4 and not operation.fixed:
            number, self._count = self._count, self._count + 1
            self._relus[id(result)] = result, result._version, number
            if result.grad_fn is not None:
                result.grad_fn.register_hook(partial(_collect, self.arrived, number))
        return result

    def _convolution(self, operation: Operation) -> Any:
        read = operation.input
        relu, version, number = self._relus.get(id(read), (None, 0, 0))
        known = relu is read and version == read._version
        result = self._layer(operation)
        if known:
            unit = _Unit(operation.weight, number, tuple(read.shape[2:]))
            self._convolved[id(result)] = result, result._version, unit
        return result

    def applied(self, unit: _Unit) -> list[torch.Tensor]:
        """The weights of a unit's convolution in all its calls: one tensor, but of one that is parametrised."""
        groups = self._weights.tensors().values()
        return next((group for group in groups if any(weight is unit.weight for weight in group)), [unit.weight])

    def _layer(self, operation: Operation) -> Any:
        self._weights.see(operation)
        if not operation.fixed:
            self.last = operation.input
        return operation.run()

    def _norm(self, operation: Operation) -> Any:
        read = operation.input
        convolved, version, unit = self._convolved.get(id(read), (None, 0, None))
        if convolved is read and version == read._version and operation.name == "batch_norm":
            self.units.append(unit)
        return operation.run()


def _collect(arrived: dict[int, torch.Tensor], number: int, arriving: tuple, _: tuple) -> None:
    """A hook of autograd: it may hold no tensor of its graph, which would then never be freed."""
    if arriving and arriving[0] is not None:
        arrived[number] = arriving[0].detach()
