"""What a network holds, brought back: a forward may write into buffers, replace them, or keep things elsewhere."""

from __future__ import annotations

import copy
import random
from collections import deque
from collections.abc import Callable, Collection, Iterable
from numbers import Number
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from torch import nn

LAZY = object()


class State:
    """Copies of all that modules hold: parameters, buffers, those too that a state_dict leaves out, and attributes.

    Attributes are tensors, numbers, texts, generators, and lists, dictionaries and the like of these. What a lazy layer
    has yet to make is no state: it stays as its first forward made it. Without `parameters` these are not held.
    """

    def __init__(self, modules: Iterable[nn.Module], parameters: bool = True):
        modules = list(modules)
        self._places: list[tuple[dict[str, Any], dict[str, torch.Tensor | None]]] = [
            (holder, {name: None if value is None else _copied(value) for name, value in holder.items()})
            for module in modules
            for holder in ([module._parameters] if parameters else []) + [module._buffers]
        ]
        self._attributes = _Attributes(modules)

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
            self._attributes.restore()


class _Attributes:
    """What modules hold as plain attributes, as it is now."""

    def __init__(self, modules: list[nn.Module]):
        registered = {
            id(one) for module in modules for held in (module._parameters, module._buffers) for one in held.values()
        }
        self._modules = [module for module in modules if _keeps_attributes(module)]
        self._kept = [
            {name: _kept(value, registered) for name, value in vars(module).items() if name not in _of_modules()}
            for module in self._modules
        ]
        self._root = modules[0] if modules else None
        self._notices_modes = any(_has_own_train(module) for module in modules)

    def restore(self) -> None:
        for module, kept in zip(self._modules, self._kept, strict=True):
            held = vars(module)
            for name in [name for name in held if name not in kept and name not in _of_modules()]:
                del held[name]
            held.update({name: give() for name, give in kept.items() if give is not None})
        if self._notices_modes:
            self._tell_modes()

    def _tell_modes(self) -> None:
        """A network's own `train` may note the mode in an attribute, which is to be that of now."""
        modes = [(module, module.training) for module in self._root.modules()]
        self._root.train(self._root.training)
        for module, training in modes:
            module.training = training


def _of_modules() -> frozenset[str]:
    """The attributes that torch itself gives to every module."""
    global _OWN
    if not _OWN:
        from torch import nn

        _OWN = frozenset(vars(nn.Module()))
    return _OWN


_OWN: frozenset[str] = frozenset()


def _keeps_attributes(module: nn.Module) -> bool:
    """Whether they can be read and brought back: those of a lazy layer say that it has yet to make its parameters."""
    import torch

    lazy = any(value is not None and _copied(value) is LAZY for value in module._parameters.values())
    return not lazy and not isinstance(module, torch.jit.ScriptModule)


def _has_own_train(module: nn.Module) -> bool:
    from torch import nn

    return type(module).train is not nn.Module.train or "train" in vars(module)


def _kept(value: Any, registered: set[int]) -> Callable[[], Any] | None:
    """A function that gives a value as it is now; None for what is not known to be state, which stays as it becomes.

    Args:
        registered: ids of the parameters and buffers, which are brought back where they are held.
    """
    import numpy as np
    import torch

    if isinstance(value, torch.Tensor):
        return _tensor(value, id(value) in registered)
    if value is None or isinstance(value, (str, bytes, Number, np.generic)):
        return lambda: value
    if isinstance(value, np.ndarray):
        return _restored(value, value.copy(), lambda held, was: np.copyto(held, was))
    if isinstance(value, torch.Generator):
        return _restored(value, value.get_state(), lambda held, was: held.set_state(was))
    if isinstance(value, np.random.Generator):
        was = copy.deepcopy(value.bit_generator.state)
        return _restored(value, was, lambda held, was: setattr(held.bit_generator, "state", was))
    if isinstance(value, np.random.RandomState):
        return _restored(value, value.get_state(), lambda held, was: held.set_state(was))
    if isinstance(value, random.Random):
        return _restored(value, value.getstate(), lambda held, was: held.setstate(was))
    return _container(value, registered)


def _restored(value: Any, was: Any, write: Callable[[Any, Any], object]) -> Callable[[], Any]:
    def give() -> Any:
        write(value, was)
        return value

    return give


def _tensor(value: torch.Tensor, registered: bool) -> Callable[[], Any] | None:
    """A parameter or buffer that an attribute names too stays: `network.to` may put another tensor in its place."""
    import torch

    if registered:
        return None
    was = None if value.grad_fn is not None else value.detach().clone()

    def give() -> torch.Tensor:
        if was is not None and not torch.equal(value, was):
            value.copy_(was)
        return value

    return give


def _container(value: Any, registered: set[int]) -> Callable[[], Any] | None:
    """Lists, dictionaries and the like, with what they hold that is state. Written is what has changed alone."""
    if type(value) in (list, deque, tuple):
        parts = [(one, _kept(one, registered)) for one in value]

        def give() -> Any:
            was = [one if again is None else again() for one, again in parts]
            if not isinstance(value, tuple) and not _same(value, was):
                value.clear()
                value.extend(was)
            return value

        return give
    if isinstance(value, dict):
        keys, held = list(value), _container(list(value.values()), registered)

        def give_back() -> Any:
            was = held()
            if not (_same(value, keys) and _same(value.values(), was)):
                value.clear()
                value.update(zip(keys, was, strict=True))
            return value

        return give_back
    if type(value) is set:
        members = set(value)

        def give_all() -> Any:
            if value != members:
                value.clear()
                value.update(members)
            return value

        return give_all
    return None


def _same(some: Collection, others: Collection) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _copied(value: torch.Tensor) -> Any:
    from torch.nn.parameter import is_lazy

    return LAZY if is_lazy(value) else value.detach().clone()


def _made(value: torch.Tensor | None, dtype: torch.dtype | None) -> torch.Tensor | None:
    if value is None:
        return None
    return value.to(dtype if value.is_floating_point() else None, copy=True)
