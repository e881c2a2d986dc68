"""What a network holds, brought back: a forward may write into buffers, replace them, or add new ones."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

LAZY = object()


class State:
    """Copies of the parameters and buffers of modules, of those too that a state_dict leaves out.

    What a lazy layer has yet to make is no state: it stays as its first forward made it.
    """

    def __init__(self, modules: Iterable[nn.Module]):
        self._places: list[tuple[dict[str, Any], dict[str, torch.Tensor | None]]] = [
            (holder, {name: None if value is None else _copied(value) for name, value in holder.items()})
            for module in modules
            for holder in (module._parameters, module._buffers)
        ]

    def restore(self, dtype: torch.dtype | None = None) -> None:
        """Write the copies back. A tensor that the network replaced by one of another shape comes back in `dtype`."""
        import torch

        with torch.no_grad():
            for holder, values in self._places:
                for name in set(holder.keys()) - values.keys():
                    del holder[name]
                for name, value in values.items():
                    now = holder[name] if name in holder else None  # noqa: SIM401 - a ScriptModule holds no dict
                    if value is LAZY:
                        continue
                    if value is not None and now is not None and now.shape == value.shape:
                        now.copy_(value)
                    elif value is not None or now is not None:
                        holder[name] = _made(value, dtype)


def _copied(value: torch.Tensor) -> Any:
    from torch.nn.parameter import is_lazy

    return LAZY if is_lazy(value) else value.detach().clone()


def _made(value: torch.Tensor | None, dtype: torch.dtype | None) -> torch.Tensor | None:
    if value is None:
        return None
    return value.to(dtype if value.is_floating_point() else None, copy=True)
