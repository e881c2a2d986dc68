"""A device that this machine has not: what passes do to it is rehearsed on the CPU.

Tensors of the rehearsed device hold their values in ordinary tensors of the CPU and say that they are on `cuda:0`.
Every operation on them is checked as CUDA would check it, and what goes from one device to the other is counted. The
values are real, so that a pass goes on where it reads one back, and ends with the number that it has on a CPU.
(`torch._subclasses.FakeTensorMode` has no values: a pass ends there at its first `if`.)

To torch's C++ code the device is `meta`, the one that every build knows and nothing is computed on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing

CUDA = torch.device("cuda", 0)
_STAND_IN = torch.device("meta")
_CPU = torch.device("cpu")

aten = torch.ops.aten
#: Operations that take tensors of two devices.
_COPIES = {aten.copy_.default, aten._to_copy.default, aten._copy_from.default}
#: Those that index with tensors of the CPU, which are brought over.
_INDEXING = {aten.index.Tensor, aten.index_put_.default, aten.index_put.default}
#: Those whose result the host has to learn, or its size.
_SIZED_BY_VALUES = {
    aten._local_scalar_dense.default,
    aten.nonzero.default,
    aten.masked_select.default,
    aten._unique2.default,
    aten.equal.default,
}


def leaves_of(branches: Iterable[Any], found: list[Any]) -> list[Any]:
    """What lists, tuples and mappings hold, as `torch.utils._pytree` finds it for any class at ten times the cost."""
    for branch in branches:
        if isinstance(branch, (list, tuple)):
            leaves_of(branch, found)
        elif isinstance(branch, dict):
            leaves_of(branch.values(), found)
        else:
            found.append(branch)
    return found


def tree_map(function: Callable[[Any], Any], tree: Any) -> Any:
    """The tree with the function's value in place of each leaf."""
    if isinstance(tree, (list, tuple)):
        return type(tree)([tree_map(function, branch) for branch in tree])
    if isinstance(tree, dict):
        return {key: tree_map(function, branch) for key, branch in tree.items()}
    return function(tree)


class DeviceError(RuntimeError):
    """What CUDA would have refused."""


@dataclass
class Traffic:
    """What went between the devices: names of operations, in order."""

    read: list[str] = field(default_factory=list)  # the host waits for each
    sent: list[str] = field(default_factory=list)


_traffic = Traffic()


def _is_ours(value: Any) -> bool:
    return isinstance(value, torch.device) and value.type in ("cuda", "meta")


class Rehearsed(torch.Tensor):
    """A tensor of the rehearsed device around one of the CPU."""

    held: torch.Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: torch.Tensor):
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=_STAND_IN,
        )
        made.held = held
        return made

    @property
    def device(self):
        return CUDA

    @property
    def is_cuda(self):
        return True

    @property
    def is_cpu(self):
        return False

    @property
    def is_meta(self):
        return False

    @property
    def data(self):
        return self.detach()

    @data.setter
    def data(self, value):
        torch.Tensor.data.__set__(self, value)
        self.held = value.held

    def data_ptr(self):
        return self.held.data_ptr()

    def numpy(self, *, force=False):
        raise DeviceError("can't convert cuda:0 device type tensor to numpy")

    def __array__(self, *args, **kwargs):
        raise DeviceError("can't convert cuda:0 device type tensor to numpy")

    def tolist(self):
        return self.cpu().tolist()

    def __deepcopy__(self, memo):
        copied = Rehearsed(self.held.detach().clone())
        copied.requires_grad_(self.requires_grad)
        if isinstance(self, torch.nn.Parameter):
            copied._is_param = True
        return memo.setdefault(id(self), copied)

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _run(operation: Any, args: tuple, kwargs: dict) -> Any:
    tensors = [leaf for leaf in leaves_of((args, kwargs), []) if isinstance(leaf, torch.Tensor)]
    ours = [tensor for tensor in tensors if isinstance(tensor, Rehearsed)]
    target = kwargs.get("device")
    here = _is_ours(target) if target is not None else bool(ours)
    _check(operation, tensors, ours, here, kwargs)
    _count(operation, args, ours, tensors, here)
    found = operation(*tree_map(_held, args), **tree_map(_held, kwargs))
    if not here:
        return found
    found = tree_map(lambda one: Rehearsed(one) if isinstance(one, torch.Tensor) else one, found)
    return return_and_correct_aliasing(operation, args, kwargs, found)


def _held(value: Any) -> Any:
    if isinstance(value, Rehearsed):
        return value.held
    return _CPU if _is_ours(value) else value


class _Kind(NamedTuple):
    """What an operation is, found once: an operation's hash and name take longer than small operations."""

    name: str
    copies: bool
    indexes: bool
    pointwise: bool
    sized: bool


@cache
def _kind(operation: Any) -> _Kind:
    pointwise = torch.Tag.pointwise in operation.tags
    return _Kind(str(operation), operation in _COPIES, operation in _INDEXING, pointwise, operation in _SIZED_BY_VALUES)


def _check(operation: Any, tensors: list, ours: list, here: bool, kwargs: dict) -> None:
    generator = kwargs.get("generator")
    if here and generator is not None:
        raise DeviceError(f"{operation}: expected a 'cuda' device type for generator but found {generator.device}")
    if not ours or len(ours) == len(tensors):
        return
    kind = _kind(operation)
    others = [tensor for tensor in tensors if not isinstance(tensor, Rehearsed)]
    if kind.copies:
        return
    if kind.indexes and isinstance(tensors[0], Rehearsed):
        others = [tensor for tensor in others if tensor.dtype not in (torch.int64, torch.bool, torch.uint8)]
    if kind.pointwise:  # a number in a tensor is taken for a number
        others = [tensor for tensor in others if tensor.ndim]
    if others:
        raise DeviceError(f"{operation}: expected all tensors to be on the same device, cuda:0 and cpu were found")


def _count(operation: Any, args: tuple, ours: list, tensors: list, here: bool) -> None:
    kind = _kind(operation)
    if kind.sized:
        if ours:
            _traffic.read.append(kind.name)
    elif operation is aten.copy_.default:
        to, source = (isinstance(one, Rehearsed) for one in args[:2])
        if to != source:
            (_traffic.sent if to else _traffic.read).append(kind.name)
    elif operation is aten._to_copy.default:
        if here != bool(ours):
            (_traffic.sent if here else _traffic.read).append(kind.name)
    elif kind.indexes and ours and len(ours) < len(tensors):
        _traffic.sent.append(kind.name)
    if kind.indexes and any(isinstance(t, torch.Tensor) and t.dtype == torch.bool for t in args[1] or []):
        _traffic.read.append(kind.name)


class _Operations(TorchDispatchMode):
    """Makes the tensors of factories that name the device."""

    _mode_key = torch._C._TorchDispatchModeKey.FAKE  # or torch would look for CUDA first

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _is_device(value: Any) -> bool:
    """Whether a value names the rehearsed device."""
    if isinstance(value, str):
        return value.startswith("cuda")
    return isinstance(value, torch.device) and value.type == "cuda"


class _Devices(TorchFunctionMode):
    """Names the stand-in where a function is told the device: torch's C++ code would look for CUDA."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if any(_is_device(leaf) for leaf in leaves_of((args, kwargs or {}), [])):
            args, kwargs = tree_map(lambda one: _STAND_IN if _is_device(one) else one, (args, kwargs or {}))
        return function(*args, **(kwargs or {}))


@contextmanager
def _generator() -> Iterator[None]:
    """The device's own generator can be read and set, though nothing draws from it."""
    held = torch.cuda.get_rng_state, torch.cuda.set_rng_state
    torch.cuda.get_rng_state, torch.cuda.set_rng_state = (lambda device: None), (lambda state, device: None)
    try:
        yield
    finally:
        torch.cuda.get_rng_state, torch.cuda.set_rng_state = held


@contextmanager
def device() -> Iterator[Traffic]:
    """For the time of the block `torch.device("cuda", 0)` can be computed on; yields what goes to it and back."""
    global _traffic
    _traffic = Traffic()
    with _Operations(), _Devices(), _generator():
        yield _traffic
