"""The modules of a network and what they hold, found once: torch walks the whole tree each time that it is asked."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch
    from torch import nn

#: By network its modules but itself, which would keep it from being freed, and which are whose children.
_BELOW: weakref.WeakKeyDictionary[nn.Module, tuple[list[tuple[str, nn.Module]], list[int]]] = (
    weakref.WeakKeyDictionary()
)


def modules_of(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """What `network.named_modules()` gives."""
    below, children = _BELOW.get(network, ([], []))
    found = [("", network), *below]
    if not below or children != _children(found):  # it is new here, or has made or changed modules
        found = list(network.named_modules())
        _BELOW[network] = found[1:], _children(found)
    return found


def _children(modules: list[tuple[str, nn.Module]]) -> list[int]:
    return [id(child) for _, module in modules for child in module._modules.values()]


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


def hooked(module: nn.Module) -> dict[str, Callable]:
    """By name the tensors of a module that a hook of torch computes (`weight_norm`, `spectral_norm`, `prune`)."""
    found: dict[str, Callable] = {}
    for hook in module._forward_pre_hooks.values():
        name = getattr(hook, "_tensor_name", None) or getattr(hook, "name", None)
        if isinstance(name, str) and type(hook).__module__.startswith("torch.nn.utils."):
            found[name] = hook
    return found


def computed(module: nn.Module, attribute: str) -> torch.Tensor:
    """A tensor of a module: one that a hook computes as it makes it now, and not as an earlier forward left it."""
    hook = hooked(module).get(attribute)
    if hook is not None:
        hook(module, ())
    return getattr(module, attribute)


def attention_modules(network: nn.Module) -> list[tuple[str, nn.Module]]:
    """Modules whose class name holds `Attention`, by name; those are none that hold several, one beside the other.

    What holds several is a network or a stage of blocks with attention, whatever it is called. So is the network as a
    whole where it holds one.
    """
    named = [(name, module) for name, module in modules_of(network) if "attention" in type(module).__name__.lower()]
    return [(name, module) for name, module in named if _least(name, named) <= (1 if name else 0)]


def _least(name: str, named: list[tuple[str, nn.Module]]) -> int:
    """How many of the modules below `name` hold no other of them."""
    prefix = f"{name}." if name else ""
    below = [other for other, _ in named if other != name and other.startswith(prefix)]
    return sum(not any(third.startswith(f"{other}.") for third in below) for other in below)
