"""The state of the process in which passes run, whatever the caller has set, and how it is given back.

A score is to depend on the network, the images and the seed. But torch, numpy and Python keep settings and
generators for a whole process or thread, and a call may come from within an autocast, an inference mode, a
deterministic or float64 setting. `neutral` is the one place that puts them all aside.
"""

from __future__ import annotations

import os
import random
import sys
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import Unscorable

if TYPE_CHECKING:
    import torch

#: Held while the process's state is another: two threads that score at once take turns, as they share generators,
#: default dtype and number of threads. Reentrant, since a pass may build a network of its own.
_lock = threading.RLock()


def _renew_lock() -> None:
    """A forked process has no thread that would release what another thread held."""
    global _lock
    _lock = threading.RLock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_lock)


@contextmanager
def neutral(device: torch.device, seed: int = 0, threads: int | None = None) -> Iterator[None]:
    """For the time of the block the process is as it starts, and afterwards as it was, whatever the block does.

    Put aside: autocast, inference mode and switched-off gradients; default dtype and device; deterministic
    algorithms, anomaly detection, cuDNN's search for the fastest algorithm; cached parametrisations; modes and
    hooks that watch every operation or module; reduced precision of float32 products; the choice of attention
    kernels (by one with all derivatives); numpy's handling of floating-point errors. Functions of torch.jit.script and
    torch.compile run as the Python that they were made from, whose operations can be seen, and what is checkpointed
    runs once, as a pass has left what it watches by with when its backward would run it again. The generators of torch
    (CPU and `device`), numpy and Python are seeded. One thread at a time can be in such a block.

    Left alone, as they choose a library and not what is computed: oneDNN and cuDNN switched off, flushing of
    denormal numbers.

    Args:
        device: of the networks that are built or scored in the block.
        seed: of the generators, a number below 2^63.
        threads: that torch computes with; None leaves their number.
    """
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel

    with _lock, ExitStack() as stack:
        stack.enter_context(_no_modes())
        stack.enter_context(_settings())
        stack.enter_context(torch.inference_mode(False))  # which switches gradients on
        for kind in {"cpu", device.type}:
            if torch.amp.is_autocast_available(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules:  # else nothing is compiled, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(np.errstate(divide="warn", over="warn", under="ignore", invalid="warn"))
        stack.enter_context(_generators(device, seed))
        if threads is not None:
            stack.callback(torch.set_num_threads, torch.get_num_threads())
            torch.set_num_threads(threads)
        yield


@contextmanager
def _no_modes() -> Iterator[None]:
    """Without the modes that torch runs around each function (`set_default_device` is one) and each operation."""
    import torch
    from torch.overrides import _pop_mode, _push_mode
    from torch.utils._python_dispatch import _disable_current_modes, _get_current_dispatch_mode_stack

    held = [_pop_mode() for _ in range(torch._C._len_torch_function_stack())]
    try:
        with ExitStack() as stack:
            if _get_current_dispatch_mode_stack():
                stack.enter_context(_disable_current_modes())
            yield
    finally:
        for mode in reversed(held):
            _push_mode(mode)


def _attributes() -> list[tuple[Any, str, Any]]:
    """What is neutral for the process: (place, name of the attribute, its value)."""
    import torch
    from torch.nn.modules import module
    from torch.nn.utils import parametrize
    from torch.utils import checkpoint

    _call_of_scripts()
    backends = torch.backends
    if hasattr(backends.cudnn, "conv"):
        # torch lets convolutions on a GPU take TF32's ten bits, and matrix products where the user chose so: TF32,
        # or bfloat16 on processors that have it.
        name, full, cudnn = "fp32_precision", "ieee", [backends.cudnn.conv, backends.cudnn.rnn]
        places = [*cudnn, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.rnn, backends.mkldnn.matmul]
        products = [(place, name, full) for place in places]
        with suppress(RuntimeError):  # the older name of cuDNN's, unreadable where the user's settings contradict it
            _ = backends.cudnn.allow_tf32
            # A network may use `cudnn.flags`, which reads it. Writing it writes the two newer ones, held here before.
            held = [(place, name, getattr(place, name)) for place in cudnn]
            products = [*held, (backends.cudnn, "allow_tf32", False), *products]
    else:  # before torch 2.9
        products = [(place, "allow_tf32", False) for place in (backends.cudnn, backends.cuda.matmul)]
    checkpoints = [
        (checkpoint, name, value)
        for name, value in (("CheckpointFunction", _Once), ("_checkpoint_without_reentrant_generator", _once))
        if hasattr(checkpoint, name)
    ]
    hooks = [(module, name, OrderedDict()) for name, held in vars(module).items() if _of_hooks(name, held)]
    return [
        *products,
        (backends.cudnn, "benchmark", False),
        (backends.cudnn, "deterministic", False),
        (parametrize, "_cache_enabled", 0),
        (torch.jit.ScriptFunction, "__call__", _as_python),
        *checkpoints,
        *hooks,
    ]


class _Once:
    """In place of the function of autograd by which torch checkpoints."""

    @staticmethod
    def apply(function: Callable, preserve: bool, *args: Any) -> Any:
        return function(*args)


def _once(*_: Any, **__: Any) -> Iterator[None]:
    """In place of the generator that torch runs before and after what it checkpoints."""
    yield


@cache
def _call_of_scripts() -> Callable:
    """Torch's own call of a function of torch.jit: first asked for where none has been put in its place."""
    import torch

    return torch.jit.ScriptFunction.__call__


def _as_python(function: Any, *args: Any, **kwargs: Any) -> Any:
    """What a function of torch.jit gives. Raises Unscorable where the Python that a pass would watch is not known."""
    from torch.overrides import _get_current_function_mode_stack

    from harness.probes.operations import Watch

    written = getattr(function, "_torchdynamo_inline", None)
    if written is not None:
        return written(*args, **kwargs)
    if any(isinstance(mode, Watch) for mode in _get_current_function_mode_stack()):
        raise Unscorable(
            f"the network calls {function.name}, a function of torch.jit, whose operations cannot be seen: call the "
            "Python that it was made from"
        )
    return _call_of_scripts()(function, *args, **kwargs)


def _of_hooks(name: str, held: Any) -> bool:
    return name.startswith("_global_") and isinstance(held, dict) and bool(held)


@contextmanager
def _settings() -> Iterator[None]:
    """The settings that hold for the whole process."""
    import torch

    with ExitStack() as stack:
        for place, name, value in _attributes():
            stack.callback(setattr, place, name, getattr(place, name))
            setattr(place, name, value)
        stack.callback(torch.set_default_dtype, torch.get_default_dtype())
        torch.set_default_dtype(torch.float32)
        mode = torch.get_deterministic_debug_mode()
        if mode:  # setting it imports torch's compiler
            stack.callback(torch.set_deterministic_debug_mode, mode)
            torch.set_deterministic_debug_mode(0)
        if torch.is_anomaly_enabled():
            stack.enter_context(torch.autograd.set_detect_anomaly(False))
        yield


@contextmanager
def _generators(device: torch.device, seed: int) -> Iterator[None]:
    """The global generators, seeded: networks draw from them (dropout, stochastic depth)."""
    import torch

    on_gpu = device.type == "cuda"
    drawn, python = np.random.get_state(legacy=False), random.getstate()
    bits = np.random.get_bit_generator()  # a user may have put another than numpy's own in its place
    with torch.random.fork_rng(devices=[device] if on_gpu else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would seed every GPU, of which we restore one
        if on_gpu:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        np.random.set_bit_generator(np.random.MT19937(seed))
        random.seed(seed)
        try:
            yield
        finally:
            np.random.set_bit_generator(bits)
            np.random.set_state(drawn)
            random.setstate(python)
