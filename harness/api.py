"""Score any network: the same passes as for the benchmarks, on a copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from harness.errors import HarnessError, UnknownNameError
from harness.probes.base import Subject
from harness.proxies import get_proxy
from harness.proxies.base import Proxy
from harness.scoring import score_subject
from harness.seeds import stable_rng, stable_seed

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn


def score(
    network: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor | None = None,
    proxies: Sequence[str | Proxy] = ("synflow",),
    seed: int = 0,
    num_classes: int | None = None,
    stages: Sequence[str] = (),
    keep_weights: bool = False,
) -> pd.Series:
    """Scores of a classifier, which is left untouched.

    Every proxy initialises the network as its definition says (convolutions, linear layers and normalisations;
    other parameters keep the values they have), with draws that depend on `seed` alone. A proxy reads as many
    images as its batch size asks for, all of `inputs` when there are fewer. One that reads several mini-batches
    (ZiCo 2, SWAP 4) takes them one after the other from `inputs`; where those are too few, all its mini-batches
    shrink alike, so that none shares an image with another, and it has no score where they would be empty.

    Args:
        network: any module from (B, channels, height, width) to logits (B, classes).
        inputs: images (N, channels, height, width), float32, on the network's device.
        targets: labels (N,) int64; drawn uniformly from `num_classes` when None.
        proxies: names with settings, such as `snip` or `vkdnw:variant=repo`, or `Proxy` objects.
        num_classes: classes of drawn labels; the width of the logits when None.
        stages: names of the submodules whose outputs AZ-NAS's proxies read, in order.
        keep_weights: score the weights as they are instead of initialising them.

    Returns:
        Series of float by proxy label, NaN where there is no score. `series.attrs["status"]` maps each label
        to `ok` or the reason, `series.attrs["seconds"]` to the time of the passes that it reads.

    Raises:
        HarnessError: unknown proxy or stage, inputs that are no image batch, labels of another length, a
            network that cannot be copied.
    """
    import pandas as pd
    import torch

    chosen = {proxy.label: proxy for proxy in map(get_proxy, proxies)}
    if inputs.ndim != 4 or len(inputs) == 0:
        raise HarnessError(f"inputs must be images (N, channels, height, width), not {tuple(inputs.shape)}")
    try:
        own = copy.deepcopy(network)
    except Exception as error:
        raise HarnessError(
            f"the network cannot be copied ({error}): detach tensors that it keeps as attributes"
        ) from error
    for parameter in own.parameters():
        parameter.grad = None
    modules = dict(own.named_modules())
    for name in stages:
        if name not in modules:
            raise UnknownNameError("submodule", name, filter(None, modules))
    found = _classes(own, inputs)
    num_classes = num_classes or found
    if targets is None:
        drawn = stable_rng("labels", seed).randint(num_classes, size=len(inputs), dtype="int64")
        targets = torch.from_numpy(drawn).to(inputs.device)
    if len(targets) != len(inputs):
        raise HarnessError(f"{len(inputs)} inputs but {len(targets)} targets: give one label an image")
    subject = Subject(
        own,
        _batches(inputs.detach(), targets),
        stable_seed("network", seed),
        tuple(inputs.shape[1:]),
        num_classes,
        inputs.device,
        stages=[modules[name] for name in stages],
        keep_weights=keep_weights,
        restore=True,
        images_at_hand=len(inputs),
    )
    results = score_subject(subject, chosen.values())
    series = pd.Series({label: result.score for label, result in results.items()}, dtype="float64", name="score")
    series.attrs["status"] = {label: result.status for label, result in results.items()}
    series.attrs["seconds"] = {label: result.seconds for label, result in results.items()}
    return series


def _classes(network: nn.Module, inputs: torch.Tensor) -> int:
    import torch

    training = network.training
    try:
        with torch.no_grad():
            logits = network.eval()(inputs[:1].clone())  # it may write into its input
    except Exception as error:
        raise HarnessError(
            f"the network cannot read inputs of {tuple(inputs.shape[1:])} ({str(error).splitlines()[0]}): give "
            "images of the shape and device that it reads"
        ) from error
    network.train(training)
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2:
        found = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise HarnessError(
            f"the network gives {found} for one image, no (1, classes) tensor of logits: wrap it in a module whose "
            "forward returns the logits alone"
        )
    return logits.shape[1]


def _batches(images: torch.Tensor, labels: torch.Tensor) -> Callable:
    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = slice(number * size, (number + 1) * size)
        return images[chosen], labels[chosen]

    return batch
