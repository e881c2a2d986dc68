"""How alike images are to a network: codes and correlations of what its ReLUs read, and of the gradients there."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from harness.probes.base import OncePerTensor, Unscorable, by_image

if TYPE_CHECKING:
    import torch

    from harness.probes.layout import Layout
    from harness.probes.operations import Operation

#: Units whose values a processor works on at once: those of 64 images stay in its cache.
CACHED_UNITS = 2048


def agreement(values: Any) -> Any:
    """Equal bits of the codes [value > 0] of each two images: (B, B) float64.

    Two codes of n units with a and b active ones, c of them in common, agree in n - a - b + 2 c: one product of
    0/1 matrices. Its float32 sums are exact below 2^24 units.
    """
    import torch

    units = by_image(values.detach())
    count = units.shape[1]
    step = min(count, CACHED_UNITS) if units.device.type == "cpu" else count
    held = torch.empty(len(units), step, device=units.device)
    common = torch.zeros(len(units), len(units), device=units.device)
    for part in units.split(step, dim=1):
        codes = torch.gt(part, 0, out=held[:, : part.shape[1]])
        common.addmm_(codes, codes.T)
    common = common.double()
    active = common.diagonal()
    return (count - active[:, None]) - active[None, :] + 2 * common


def correlation(rows: Any) -> Any:
    """Pearson correlation of the rows (B, D) in float64; a constant row gives NaN, as numpy's does."""
    rows = rows.double()
    rows = rows - rows.mean(dim=1, keepdim=True)
    covariance = rows @ rows.T
    deviation = covariance.diagonal().sqrt()
    return (covariance / deviation[:, None] / deviation[None, :]).clamp(-1, 1)


def row_correlation(values: Any) -> Any:
    """Pearson correlation (B, B) float64 of the values (B, …) of each two images; NaN where one's are constant.

    Sums of products are of the values' own type.
    """
    import torch

    units = by_image(values.detach())
    mean = units.mean(dim=1, keepdim=True)
    step = min(units.shape[1], CACHED_UNITS) if units.device.type == "cpu" else units.shape[1]
    held = torch.empty(len(units), step, dtype=units.dtype, device=units.device)
    covariance = torch.zeros(len(units), len(units), dtype=units.dtype, device=units.device)
    for part in units.split(step, dim=1):
        centred = torch.sub(part, mean, out=held[:, : part.shape[1]])
        covariance.addmm_(centred, centred.T)
    covariance = covariance.double()
    deviation = covariance.diagonal().sqrt()
    return (covariance / deviation[:, None] / deviation[None, :]).clamp(-1, 1)


class ReluCorrelations:
    """Correlations of the images over the R ReLUs of a forward and of its backward pass.

    The gradient is that with respect to one ReLU's input by way of that ReLU alone, as a backward hook of the module
    sees it: other readers of the same tensor have their own.

    Args:
        layout: where the `count` images are.
        collecting: whether gradients that arrive are those of the pass.
    """

    def __init__(self, layout: Layout, count: int, collecting: Any):
        self._layout, self._count, self._collecting = layout, count, collecting
        self._correlation = OncePerTensor(row_correlation)
        self._inputs: list[torch.Tensor] = []
        self._gradients: dict[int, torch.Tensor] = {}
        self._stages: list[int] = []
        self._finished: list[Any] = []

    def finish(self, module: Any, args: Any, output: Any) -> None:
        """A forward hook of the stages."""
        self._finished.append(module)

    def read(self, operation: Operation) -> None:
        """What a ReLU reads, before it is computed."""
        from harness.probes.layout import FIRST

        place = self._layout.place(operation.index)
        if place == FIRST and len(operation.input) == self._count:
            self._inputs.append(self._correlation(operation.input))
        else:
            self._inputs.append(row_correlation(place.split(operation.input.detach(), self._count)))
        self._stages.append(len(self._finished))

    def follow(self, operation: Operation, result: torch.Tensor) -> None:
        """The gradient that will come back through the ReLU whose result this is, the last that was read.

        Raises Unscorable where none is recorded, though the network may have one.
        """
        import torch

        if not torch.is_grad_enabled():
            raise Unscorable(
                "no gradient is recorded at a ReLU (torch.no_grad or an autograd.Function in the network's forward)"
            )
        if result.grad_fn is None:
            return
        number, place = len(self._inputs) - 1, self._layout.place(operation.index)
        shape = operation.input.shape

        def collect(arriving: tuple, _: tuple) -> None:
            if not self._collecting() or not arriving or arriving[0] is None:
                return
            if arriving[0].shape != shape:
                raise Unscorable("a ReLU writes into a part of a tensor: its gradient cannot be told")
            self._gradients[number] = row_correlation(place.split(arriving[0].detach(), self._count))

        result.grad_fn.register_hook(collect)

    def stages(self) -> Any:
        """(R,) how many stages had ended before each ReLU; -1 of all where one of them has ended more than once."""
        import numpy as np

        once = len(set(map(id, self._finished))) == len(self._finished)
        return np.array(self._stages) if once else np.full(len(self._stages), -1)

    def inputs(self) -> Any:
        """(R, B, B). Raises Unscorable where the network computes no ReLU."""
        import torch

        if not self._inputs:
            raise Unscorable("the network computes no ReLU")
        return torch.stack(self._inputs)

    def gradients(self) -> Any:
        """(R, B, B), NaN for a ReLU that no gradient reaches."""
        import torch

        pairs = [(self._gradients.get(number), values) for number, values in enumerate(self._inputs)]
        return torch.stack([torch.full_like(values, float("nan")) if g is None else g for g, values in pairs])
