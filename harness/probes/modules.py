"""The modules of a network and what they hold, found once: torch walks the whole tree each time that it is asked."""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

#: By network its modules but itself, which would keep it from being freed.
_BELOW: weakref.WeakKeyDictionary[nn.Module, list[tuple[str, nn.Module]]] = weakref.WeakKeyDictionary()


def modules_of(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """What `network.named_modules()` gave when it was first asked for here: a network is to keep its modules."""
    below = _BELOW.get(network)
    if below is None:
        below = _BELOW[network] = list(network.named_modules())[1:]
    return [("", network), *below]


def parameters_of(network: nn.Module) -> list[torch.Tensor]:
    """The parameters that the modules hold now, as `network.parameters()` has them."""
    return _held(network, "_parameters")


def buffers_of(network: nn.Module) -> list[torch.Tensor]:
    """The buffers that the modules hold now, as `network.buffers()` has them."""
    return _held(network, "_buffers")


def _held(network: nn.Module, kind: str) -> list[torch.Tensor]:
    found = {id(one): one for _, module in modules_of(network) for one in getattr(module, kind).values()}
    found.pop(id(None), None)
    return list(found.values())
