"""What a probe is, and the prepared network that it is given."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.errors import HarnessError, Unscorable, cause
from harness.probes.state import State
from harness.seeds import stable_seed

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn

    from harness.probes.layout import Layout
    from harness.probes.operations import Layer, Operation
    from harness.spaces.base import Space


#: Types that weights and images may have in a pass.
DTYPES = ("float32", "float64")
ONE_IMAGE = "one image has no other to be compared with: give several"
NO_EVAL_MODE = "BatchNorm without running statistics has no eval mode"
SINGLE_VALUE = "BatchNorm over a single value: the network needs several images or positions"


#: What a network may give for each image (`Probe.outputs`): logits of its class, or numbers too, or an image too.
CLASSES = frozenset({"classes"})
NUMBERS = CLASSES | {"numbers"}
IMAGES = NUMBERS | {"images"}


def of_single_value(error: Exception) -> bool:
    """Whether it is what torch raises for a BatchNorm that sees one value of a channel."""
    return isinstance(error, ValueError) and "more than 1 value per channel" in str(error)


@dataclass(frozen=True)
class Probe(ABC):
    """One prepared pass over a network. Equal probes are run once, whoever asks.

    Subclasses are frozen dataclasses: their fields are the pass's settings. What a pass observes must not
    depend on which observables were asked for.
    """

    #: What the network may give that the pass is defined for: logits of `classes`, `numbers` or `images` (`Dataset`).
    outputs: ClassVar[frozenset[str]] = NUMBERS
    #: Observables that are not defined for images, as they are of the classes of the images read.
    of_classes: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def run(self, subject: Subject, wanted: frozenset[str]) -> dict[str, Any]:
        """The observables named in `wanted`: floats and numpy arrays. Raises Unscorable."""


@dataclass(frozen=True)
class EncodingProbe(Probe):
    """A probe that a space answers from encodings alone, for any number of architectures at once."""

    @abstractmethod
    def read(self, space: Space, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, Any]:
        """The observables of n architectures: arrays whose first axis is n, or values that all share."""


class Subject:
    """A network under test that the harness owns, with everything that a probe may draw on.

    Args:
        network: on `device`; probes change its weights, modes and hooks as they need.
        batch: `batch(number, size)` gives images (size, C, H, W) and labels (size,) on `device`.
        seed: of (architecture, seed): every draw derives from it and from its own purpose, so that no draw
            depends on another, nor on the order of passes, nor on the device.
        shape: of one image. num_classes: of the labels.
        stages: modules whose outputs count as the network's stages, in order (AZ-NAS).
        thin: makes a subject of the space's thin network (linear regions), where there is one.
        cell: makes a subject of the space's network of one cell (SWAP); None where the space has none.
        biased: makes a subject of the network with biases in its cells' convolutions; None where the space has none.
        regions: makes a subject of the network that TE-NAS counts linear regions in; None where the space has none.
        restore: bring back all that the network came with before each initialisation, not only what no scheme sets.
        keep_weights: score the weights that the network came with, instead of initialising them.
        images_at_hand: how many images there are for all mini-batches of a pass; None where `batch` gives any number.
        plain: the network is known to keep its images apart, each at its place of the first dimension (`layout`).
        family: seed of all networks that share weights under `init=supernet`; by default that of the network.
    """

    def __init__(
        self,
        network: nn.Module,
        batch: Callable[[int, int], tuple[torch.Tensor, torch.Tensor]],
        seed: int,
        shape: tuple[int, int, int],
        num_classes: int,
        device: torch.device,
        stages: list[nn.Module] | None = None,
        keep_weights: bool = False,
        restore: bool = False,
        thin: Callable[[], Subject] | None = None,
        cell: Callable[[], Subject | None] | None = None,
        regions: Callable[[], Subject | None] | None = None,
        biased: Callable[[], Subject | None] | None = None,
        images_at_hand: int | None = None,
        plain: bool = False,
        family: int | None = None,
    ):
        from harness.probes.initialise import others

        self.network, self.batch, self.seed = network, batch, seed
        self.family = seed if family is None else family
        self.shape, self.num_classes, self.device = shape, num_classes, device
        self.stages = stages or []
        self.keep_weights = keep_weights
        self.thin, self.cell, self.regions, self.biased = thin, cell, regions, biased
        self.images_at_hand = images_at_hand
        self.plain, self._hidden = plain, _why_hidden(network)
        self._layouts: dict[bool, Layout] = {}
        self._trainable = [p.requires_grad for p in network.parameters()]
        # Of a space's network a scheme sets all but tokens and embeddings, which a pass may have changed. Others may
        # hold buffers that they write to, some of which a state_dict leaves out.
        self._state = State(network.modules() if restore or keep_weights else others(network))

    def generator(self, *purpose: object) -> torch.Generator:
        """A CPU generator for one purpose."""
        import torch

        return torch.Generator().manual_seed(stable_seed(self.seed, *purpose))

    def image_shape(self, resolution: int) -> tuple[int, int, int]:
        """Of one image of this side, 0 being that of the mini-batches."""
        return (self.shape[0], resolution, resolution) if resolution else self.shape

    def images(
        self, size: int, dtype: str = "float32", number: int = 0, of: int = 1
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Mini-batch `number` of the `of` that a pass reads, with the images in `dtype`.

        Where the images at hand are too few, all mini-batches of the pass shrink alike, so that none shares an image
        with another. Raises Unscorable where they would be empty. A copy: the network may write into its input.
        """
        import torch

        if self.images_at_hand is not None and size * of > self.images_at_hand:
            size = self.images_at_hand // of
            if size == 0:
                raise Unscorable(f"{of} mini-batches need {of} images at least, there are {self.images_at_hand}")
        images, labels = self.batch(number, size)
        return images.to(getattr(torch, dtype), copy=True), labels

    def initialise(self, scheme: str, repeat: int = 0, dtype: str = "float32") -> None:
        """Bring the network to initialisation number `repeat` of `scheme`, in `dtype`, train mode.

        Raises HarnessError for a dtype other than float32 and float64, Unscorable for a network whose operations
        cannot be seen.
        """
        import torch

        from harness.probes.initialise import SHARED, initialise
        from harness.probes.modules import buffers_of, modules_of, parameters_of

        if dtype not in DTYPES:
            raise HarnessError(f"dtype={dtype!r} is none of {', '.join(DTYPES)}")
        network = self.network
        if self._hidden:
            raise Unscorable(self._hidden)
        wanted, parameters = getattr(torch, dtype), parameters_of(network)
        # torch goes over all modules for each, which takes longer than some passes.
        numbers = (tensor for tensor in (*parameters, *buffers_of(network)) if not _is_whole(tensor))
        if any(tensor.dtype != wanted for tensor in numbers):
            network.to(wanted)
            parameters = parameters_of(network)
        for parameter, trainable in zip(parameters, self._trainable, strict=True):
            parameter.requires_grad_(trainable)
        # A network's own `train` may keep a part of it in eval mode, whatever mode that came with.
        if not self.plain or not all(module.training for _, module in modules_of(network)):
            network.train()
        self._state.restore(wanted)
        if not self.keep_weights:
            seed = stable_seed(self.family if scheme in SHARED else self.seed, "initialisation", scheme, repeat)
            initialise(network, scheme, torch.Generator().manual_seed(seed))

    def layout(self) -> Layout:
        """Where the images of a mini-batch are in what the network computes, in the mode that it is in."""
        from harness.probes.layout import PLAIN, find_layout

        if self.plain:
            return PLAIN
        training = self.network.training
        if training not in self._layouts:
            generator = self.generator("layout")
            self._layouts[training] = find_layout(self.network, self.shape, self.device, generator)
        return self._layouts[training]


def _is_whole(tensor: torch.Tensor) -> bool:
    """Whether a tensor holds whole numbers or truth values, whose type no pass changes."""
    return not (tensor.is_floating_point() or tensor.is_complex())


def _why_hidden(network: nn.Module) -> str | None:
    """Why the operations of a network cannot be seen, or None."""
    import torch

    for name, module in network.named_modules():
        if isinstance(module, torch.jit.ScriptModule):
            kind = "a ScriptModule"
        elif type(module).__name__ == "OptimizedModule":
            kind = "compiled"
        else:
            continue
        return f"{name or 'the network'} is {kind}, and its operations cannot be seen: give the module it was made from"
    return None


def gradients(output: torch.Tensor, tensors: Sequence[torch.Tensor], **options: Any) -> list[torch.Tensor | None]:
    """d output / d tensors, None for a tensor that is frozen or that no gradient reaches.

    Raises Unscorable when no gradient can reach any of them.
    """
    import torch

    trained = [tensor for tensor in tensors if tensor.requires_grad]
    if not trained or not output.requires_grad:
        raise Unscorable("no trainable weight")
    found = dict(zip(map(id, trained), torch.autograd.grad(output, trained, allow_unused=True, **options), strict=True))
    return [found.get(id(tensor)) for tensor in tensors]


def outputs(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits (B, classes); of a space's network that ends in a decoder (B, K, H, W).

    Raises Unscorable for anything else: a network may give other outputs in train mode.
    """
    import torch

    logits = network(images)
    if not isinstance(logits, torch.Tensor):
        mode = "train" if network.training else "eval"
        raise Unscorable(
            f"in {mode} mode the network returns a {type(logits).__name__}, no (B, classes) tensor of logits: wrap it "
            "in a module whose forward returns the logits alone"
        )
    if logits.ndim != (4 if getattr(network, "gives_images", False) else 2):
        raise Unscorable(f"network output has shape {tuple(logits.shape)}, a classifier gives (B, classes)")
    return logits


def several(logits: torch.Tensor) -> torch.Tensor:
    """The logits. Raises Unscorable where there is one: its softmax is 1 and its cross-entropy 0 whatever it is."""
    if logits.shape[1] < 2:
        raise Unscorable(
            "one logit has no cross-entropy and no probabilities: give two, such as torch.cat([0 * z, z], dim=1) of a "
            "logit z"
        )
    return logits


def loss(outputs: torch.Tensor, labels: torch.Tensor, reduction: str = "mean") -> torch.Tensor:
    """Cross-entropy of classes, of an image or of its pixels; squared error of numbers, absolute error of images.

    The mean over an image's numbers or pixels, and over images the mean or the sum (`reduction`). As TransNAS-Bench-101
    trained, without its discriminator. Raises Unscorable for one logit.
    """
    import torch.nn.functional as F

    if labels.ndim == 1:
        return F.cross_entropy(several(outputs), labels, reduction=reduction)
    if labels.is_floating_point():
        error = F.mse_loss if outputs.ndim == 2 else F.l1_loss
        value = error(outputs, labels.to(outputs.dtype))
    else:
        value = F.cross_entropy(several(outputs), labels)
    return value * len(outputs) if reduction == "sum" else value


def of_several_images(compared: Any) -> Any:
    """What compares each image with each other (..., B, B). Raises Unscorable for one image: that has no other."""
    if compared.shape[-1] < 2:
        raise Unscorable(ONE_IMAGE)
    return compared


def finite_logits(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """`outputs`, and Unscorable where NaN or infinity says that they mean nothing.

    Codes, patterns and maxima of such a network would look like numbers.
    """
    import torch

    logits = outputs(network, images)
    check_finite([torch.isfinite(logits).all()])
    return logits


def check_finite(of_forwards: Sequence[torch.Tensor]) -> None:
    """Raises Unscorable unless the logits of all forwards are finite, which a tensor of one element says of each.

    A pass of several forwards asks once, at its end: on a GPU the host waits for what it reads.
    """
    import torch

    if not torch.stack(list(of_forwards)).all():
        raise Unscorable("logits are not finite")


def together(values: Sequence[torch.Tensor]) -> torch.Tensor:
    """Numbers (n,) float64 of n tensors of one element, on the device of any that is not the CPU."""
    import torch

    device = next((v.device for v in values if v.device.type != "cpu"), torch.device("cpu"))
    return torch.stack([v.to(device=device, dtype=torch.float64) for v in values])


def to_host(values: Sequence[torch.Tensor]) -> np.ndarray:
    """Numbers (n,) float64 of n tensors of one element, in one transfer: on a GPU the host waits for each."""
    return together(values).cpu().numpy()


def read_back(found: Mapping[str, Any]) -> dict[str, Any]:
    """Observables with their tensors as arrays, or as floats where they have no dimension, in one transfer.

    On its way a tensor is float64. What is no tensor stays as it is.
    """
    import torch

    tensors = {name: value for name, value in found.items() if isinstance(value, torch.Tensor)}
    if all(tensor.device.type == "cpu" for tensor in tensors.values()):
        arrays = [tensor.numpy() for tensor in tensors.values()]
    else:
        flat = torch.cat([tensor.flatten().double() for tensor in tensors.values()]).cpu()
        parts = flat.split([tensor.numel() for tensor in tensors.values()])
        arrays = [
            part.reshape(tensor.shape).to(tensor.dtype).numpy()
            for part, tensor in zip(parts, tensors.values(), strict=True)
        ]
    read = {name: array if array.ndim else float(array) for name, array in zip(tensors, arrays, strict=True)}
    return {name: read.get(name, value) for name, value in found.items()}


def reading(network: nn.Module, images: torch.Tensor, shape: tuple[int, int, int]) -> torch.Tensor:
    """`finite_logits` of images whose side a setting gives. Raises Unscorable where the network reads `shape` alone."""
    with of_side(images, shape):
        return finite_logits(network, images)


@contextmanager
def of_side(images: torch.Tensor, shape: tuple[int, int, int]) -> Iterator[None]:
    """For forwards of images whose side a setting gives. Raises Unscorable where the network reads `shape` alone."""
    try:
        yield
    except Unscorable:
        raise
    except Exception as error:
        if images.shape[1:] == shape or of_single_value(error):
            raise
        _, height, width = shape
        remedy = f"set resolution={height}" if height == width else f"its images are {height} x {width}"
        size = " x ".join(map(str, images.shape[2:]))
        raise Unscorable(f"the network cannot read images of {size} ({cause(error)}): {remedy}") from error


def by_image(values: torch.Tensor) -> torch.Tensor:
    """The units of each image as a row (B, units), in the order in which memory holds them: no copy."""
    import torch

    if values.ndim == 4 and values.is_contiguous(memory_format=torch.channels_last):
        values = values.permute(0, 2, 3, 1)
    return values.flatten(1)


class Start:
    """Where forwards that are compared begin alike, so that they differ in nothing but what the pass changes.

    Held are the states of the generators that a network may draw from (dropout, stochastic depth), and what
    parametrisations write as they are read: spectral_norm takes a step at each forward, to other weights. Parameters
    are the pass's own to change.
    """

    def __init__(self, network: nn.Module, device: torch.device):
        from torch.nn.utils.parametrize import ParametrizationList
        from torch.nn.utils.spectral_norm import SpectralNorm

        from harness.probes.modules import modules_of

        modules = [module for _, module in modules_of(network)]
        lists = [module for module in modules if isinstance(module, ParametrizationList)]
        steps = [module for one in lists for module in one.modules()]
        steps += [m for m in modules if any(isinstance(hook, SpectralNorm) for hook in m._forward_pre_hooks.values())]
        self._device, self._generators = device, _generators(device)
        self._state = State(steps, parameters=False)

    def again(self) -> None:
        """Bring it back, before each of the forwards."""
        import random

        import numpy as np
        import torch

        on_host, on_device, drawn, python = self._generators
        torch.set_rng_state(on_host)
        if on_device is not None:
            torch.cuda.set_rng_state(on_device, self._device)
        np.random.set_state(drawn)
        random.setstate(python)
        self._state.restore()


def _generators(device: torch.device) -> tuple:
    """The states of the global generators: torch's, that of the device, numpy's and Python's."""
    import random

    import numpy as np
    import torch

    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device, np.random.get_state(legacy=False), random.getstate()


def refuse_batch_statistics(operation: Operation) -> Any:
    """The result of a normalisation, in eval mode. Raises Unscorable for one of the batch, which lets images meet."""
    if operation.name == "batch_norm" and operation.get("training") and not operation.fixed:
        raise Unscorable(NO_EVAL_MODE)
    return operation.run()


class OncePerTensor:
    """Computes a value once for a tensor that several operations read, as those of a cell's node do."""

    def __init__(self, compute: Callable[[torch.Tensor], Any]):
        self._compute = compute
        self._known: dict[int, tuple[weakref.ref, int, Any]] = {}

    def __call__(self, tensor: torch.Tensor) -> Any:
        known = self._known.get(id(tensor))
        # An id may be used again after its tensor is gone, and a tensor may be written to in place.
        if known is None or known[0]() is not tensor or known[1] != tensor._version:
            known = self._known[id(tensor)] = (weakref.ref(tensor), tensor._version, self._compute(tensor))
        return known[2]


def by_channel(values: torch.Tensor) -> torch.Tensor:
    """The channels of maps (B, C, H, W) as columns (B * H * W, C): no copy of channels_last maps."""
    return values.permute(0, 2, 3, 1).flatten(0, 2)


def weight_layers(network: nn.Module) -> dict[str, Layer]:
    """Convolutions and linear layers by name: the layers that saliencies are summed over."""
    from harness.probes.operations import known_layers

    layers = known_layers(network)
    if not layers:
        raise Unscorable("no convolution or linear layer")
    return layers


@contextmanager
def hooked(pairs: list[tuple[nn.Module, Callable]]) -> Iterator[None]:
    """Forward hooks for the time of the block; removed whatever happens inside."""
    handles = [module.register_forward_hook(hook) for module, hook in pairs]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
