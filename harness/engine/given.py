"""What a user gives to be scored: taken as copies that passes may change, or refused in words before anything runs."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import HarnessError, cause, shown
from harness.probes.state import State
from harness.seeds import stable_rng

if TYPE_CHECKING:
    import torch
    from torch import nn

#: Where a module keeps hooks that run with it, and those that run when it is stored and loaded, which no pass does.
_RUN = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_STORED = (
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def own_network(network: nn.Module) -> nn.Module:
    """A copy of the network without gradients and without the hooks that were registered on it.

    A hook refers to its owner's objects and would write there from the copy. Those of torch itself compute a layer's
    weights (`weight_norm`, pruning): they stay. A network of `torch.compile` is taken as it was before.

    Raises:
        HarnessError: no module, one that cannot be copied, one with quantised layers or complex tensors.
    """
    from torch import nn

    if isinstance(network, type) and issubclass(network, nn.Module):
        raise HarnessError(f"network is the class {network.__name__}: give an instance, such as {network.__name__}()")
    if not isinstance(network, nn.Module):
        raise HarnessError(f"network is a {type(network).__name__}: give a torch.nn.Module from images to logits")
    if type(network).__name__ == "OptimizedModule":
        network = network._orig_mod
    for name, module in network.named_modules():
        if ".quantized." in f"{type(module).__module__}.":
            raise HarnessError(
                f"{name or 'the network'} is quantised ({type(module).__name__}), and its weights have no gradients: "
                "score the network as it was before its quantisation"
            )
    for name, tensor in _tensors(network):
        if tensor.is_complex():
            raise HarnessError(
                f"{name} of the network is complex, and passes compute in float32 and float64, which would drop its "
                "imaginary part: hold it as a real tensor (torch.view_as_real)"
            )
    try:
        own = copy.deepcopy(network, _without_hooks(network))
    except Exception as error:
        raise HarnessError(
            f"the network cannot be copied ({cause(error)}): detach tensors that it keeps as attributes"
        ) from error
    _bind_hooks(network, own)
    for parameter in own.parameters():
        parameter.grad = None
    return own


def _tensors(network: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from network.named_parameters()
    yield from network.named_buffers()


def _without_hooks(network: nn.Module) -> dict[int, Any]:
    """What `deepcopy` is to take for copies, by ids of originals: containers of hooks, and weights that hooks make."""
    import torch

    taken: dict[int, Any] = {}
    for module in network.modules():
        for name in _RUN + _STORED:
            held = vars(module).get(name)
            if not isinstance(held, dict):
                continue
            kept = {key: hook for key, hook in held.items() if name in _RUN and _of_torch(hook)}
            taken[id(held)] = OrderedDict(kept)
            if kept:  # a result of the last forward, which deepcopy refuses and the next one makes anew
                made = (value for value in vars(module).values() if isinstance(value, torch.Tensor))
                taken.update({id(value): value.detach().clone() for value in made if not value.is_leaf})
    return taken


def _bind_hooks(network: nn.Module, own: nn.Module) -> None:
    """Give the copy those hooks that are methods of their own module, as lazy layers have to make their weights."""
    for module, copied in zip(network.modules(), own.modules(), strict=False):
        for name in _RUN:
            for key, hook in vars(module).get(name, {}).items():
                if getattr(hook, "__self__", None) is module and _defined_by_torch(hook):
                    vars(copied)[name][key] = MethodType(hook.__func__, copied)


def _of_torch(hook: Any) -> bool:
    """Whether torch defines the hook, and it is no method of an object that the copy would share."""
    return _defined_by_torch(hook) and not hasattr(hook, "__self__")


def _defined_by_torch(hook: Any) -> bool:
    return str(getattr(hook, "__module__", "")).partition(".")[0] == "torch"


def own_images(inputs: torch.Tensor) -> torch.Tensor:
    """A copy of the images (N, channels, height, width), in their floating type.

    Raises:
        HarnessError: no tensor of that shape, of another type than floating, NaN or infinity in an image.
    """
    import torch

    if not isinstance(inputs, torch.Tensor):
        remedy = "torch.from_numpy(inputs)" if isinstance(inputs, np.ndarray) else "torch.stack(inputs) joins images"
        raise HarnessError(f"inputs are a {type(inputs).__name__}: give a tensor of images, {remedy}")
    if inputs.ndim != 4 or inputs.numel() == 0:
        raise HarnessError(f"inputs must be images (N, channels, height, width), not {tuple(inputs.shape)}")
    if not inputs.is_floating_point() or inputs.layout is not torch.strided or inputs.is_meta:
        kind = "on the device meta" if inputs.is_meta else f"{inputs.dtype}, {inputs.layout}"
        raise HarnessError(
            f"inputs are {kind}: images are dense and float32, normalised as for training, such as "
            "(images.float() / 255 - mean) / std"
        )
    finite = torch.isfinite(inputs).flatten(1).all(dim=1)
    if not finite.all():
        place = int((~finite).nonzero()[0])
        raise HarnessError(f"inputs[{place}] holds NaN or infinity: mend or leave out such images")
    with torch.no_grad():
        return inputs.as_subclass(torch.Tensor).clone()


def classes_of(own: nn.Module, original: nn.Module, images: torch.Tensor) -> int:
    """The width of the logits that the copy of a network gives for the first image, in eval mode.

    Raises:
        HarnessError: a forward that fails, that gives anything but (1, classes), or that computes with tensors of the
            original, whose scores would be of neither network.
    """
    import torch

    floating = (tensor.dtype for tensor in own.parameters() if tensor.is_floating_point())
    image = images[:1].to(next(floating, torch.float32))
    watch = _watch([tensor for _, tensor in _tensors(original)])
    training = [(module, module.training) for module in own.modules()]
    state = State(own.modules())
    try:
        with torch.no_grad(), watch:
            own.eval()  # a method of the network's own need not return it
            logits = own(image.clone())  # it may write into its input
    except Exception as error:
        raise HarnessError(
            f"the network cannot read inputs of {tuple(images.shape[1:])} ({cause(error)}): give images of the shape "
            "and device that it reads"
        ) from error
    state.restore()  # what this forward has written counts for nothing
    for module, was in training:
        module.training = was
    if watch.met:
        name = next(name for name, tensor in _tensors(original) if tensor is watch.met[0])
        raise HarnessError(
            f"the copy of the network computes with {name} of the original: a function that the network holds, such "
            "as a replaced `forward`, refers to it; make it a method of a module, which is copied too"
        )
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or not logits.shape[1]:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise HarnessError(
            f"the network gives {found} for one image, no (1, classes) tensor of logits: wrap it in a module whose "
            "forward returns the logits alone"
        )
    return logits.shape[1]


def _watch(tensors: Iterable[torch.Tensor]) -> Any:
    """A mode that collects in `met` those of the tensors that a function is called with."""
    import torch
    from torch.overrides import TorchFunctionMode

    watched = {id(tensor): tensor for tensor in tensors}

    class Watch(TorchFunctionMode):
        def __init__(self):
            super().__init__()
            self.met: list[torch.Tensor] = []

        def __torch_function__(self, function, types, args=(), kwargs=None):
            for value in (*args, *(kwargs or {}).values()):
                for one in value if isinstance(value, (list, tuple)) else [value]:
                    if isinstance(one, torch.Tensor) and id(one) in watched:
                        self.met.append(watched[id(one)])
            return function(*args, **(kwargs or {}))

    return Watch()


def own_labels(
    targets: torch.Tensor | np.ndarray | None,
    images: torch.Tensor,
    logits: int,
    num_classes: int | None = None,
    seed: int = 0,
) -> tuple[torch.Tensor, int]:
    """Labels (N,) int64 on the images' device, and the number of classes.

    Args:
        targets: (N,) integers of any width, a tensor or numpy's; None draws them uniformly from the classes.
        logits: width of the network's.
        num_classes: of drawn labels; as many as there are logits when None.

    Raises:
        HarnessError: labels that are none of 0 to `logits` - 1, one each image; `num_classes` out of 1 to `logits`.
    """
    import torch

    if num_classes is not None:
        whole = isinstance(num_classes, (int, np.integer)) and not isinstance(num_classes, bool)
        if not whole or not 1 <= num_classes <= logits:
            raise HarnessError(
                f"num_classes={shown(num_classes)}, but the network gives {logits} logits: "
                f"give 1 to {logits}, or leave it out"
            )
    classes = logits if num_classes is None else int(num_classes)
    if targets is None:
        drawn = stable_rng("labels", seed).randint(classes, size=len(images), dtype="int64")
        return torch.from_numpy(drawn).to(images.device), classes
    if isinstance(targets, np.ndarray) and targets.dtype.kind in "iu":
        targets = torch.from_numpy(targets.astype(np.int64))
    if not isinstance(targets, torch.Tensor):
        kind = f"numpy array of {targets.dtype}" if isinstance(targets, np.ndarray) else type(targets).__name__
        raise HarnessError(f"targets are a {kind}: give a tensor of integers (N,), torch.tensor(targets)")
    if targets.dtype.is_floating_point or targets.dtype.is_complex or targets.dtype is torch.bool:
        raise HarnessError(
            f"targets are {targets.dtype}: give the classes as integers, one an image (one-hot or probabilities: "
            "targets.argmax(dim=1))"
        )
    if targets.ndim != 1:
        remedy = "targets.squeeze(1)" if targets.shape[1:] == (1,) else "targets.argmax(dim=1), if these are one-hot"
        raise HarnessError(f"targets have shape {tuple(targets.shape)}: give one class an image, (N,): {remedy}")
    if len(targets) != len(images):
        raise HarnessError(f"{len(images)} inputs but {len(targets)} targets: give one label an image")
    with torch.no_grad():
        labels = targets.as_subclass(torch.Tensor).to(images.device, torch.int64, copy=True)
    least, most = int(labels.min()), int(labels.max())
    if least < 0 or most >= logits:
        wrong = least if least < 0 else most
        raise HarnessError(
            f"targets hold the label {wrong}, but the network gives {logits} logits: labels are 0 to {logits - 1}, and "
            "images without one (-100) are to be left out"
        )
    return labels, classes
