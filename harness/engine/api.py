"""Score any network: the same passes as for the benchmarks, on a copy."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from harness.engine.given import classes_of, own_images, own_labels, own_network
from harness.engine.scorer import score_subject
from harness.errors import HarnessError, UnknownNameError, shown
from harness.probes.base import Subject
from harness.probes.neutral import neutral
from harness.proxies import available, distinct, get_proxy
from harness.proxies.base import Proxy
from harness.seeds import stable_seed

if TYPE_CHECKING:
    import pandas as pd
    import torch
    from torch import nn


def score(
    network: nn.Module,
    inputs: torch.Tensor,
    targets: torch.Tensor | None = None,
    proxies: str | Proxy | Sequence[str | Proxy] = ("synflow",),
    seed: int = 0,
    num_classes: int | None = None,
    stages: Sequence[str] = (),
    keep_weights: bool = False,
) -> pd.Series:
    """Scores of a classifier, which is left untouched.

    Every proxy initialises the network as its definition says (convolutions, linear layers and normalisations;
    other parameters keep the values they have), with draws that depend on `seed` alone. A proxy reads as many
    images as its batch size asks for, all of `inputs` when there are fewer. One that reads several mini-batches
    (ZiCo 2) takes them one after the other from `inputs`; where those are too few, all its mini-batches shrink
    alike, so that none shares an image with another, and it has no score where they would be empty.

    Scored is a copy without the hooks that were registered on the network: what a hook changes in an output is no
    part of the network here. The state of the process counts for nothing and is left as it was (`neutral`):
    autocast, inference mode, default dtype and device, generators. Threads that score at once take turns.

    Args:
        network: any module from (B, channels, height, width) to logits (B, classes).
        inputs: images (N, channels, height, width), float32, on the network's device. Other floating types are
            taken to the type of the pass.
        targets: labels (N,), integers of any width, a tensor or numpy's; drawn uniformly from `num_classes` when
            None.
        proxies: one or several names with settings, such as `snip` or `vkdnw:variant=repo`, or `Proxy` objects; `all`
            stands for every proxy with its defaults.
        seed: of initialisations, drawn images and drawn labels.
        num_classes: classes of drawn labels; the width of the logits when None.
        stages: names of the submodules, in order, whose outputs AZ-NAS's proxies, WRCor, CRoZe and MLFE read.
        keep_weights: score the weights as they are instead of initialising them.

    Returns:
        Series of float by proxy label, NaN where there is no score; printed, it says why. `series.attrs["status"]`
        maps each label to `ok` or the reason, `series.attrs["seconds"]` to the time of the passes that it reads.

    Raises:
        HarnessError: unknown proxy or stage, inputs that are no images, labels that are none of the classes, a
            network that cannot be copied or that gives no logits. Nothing has been scored then.
    """
    import torch

    proxies = [proxies] if isinstance(proxies, (str, Proxy)) else proxies
    _check(proxies, stages, seed, keep_weights)
    proxies = [name for one in proxies for name in (available() if one == "all" else [one])]
    chosen = distinct(map(get_proxy, proxies))
    with neutral(inputs.device if isinstance(inputs, torch.Tensor) else torch.device("cpu")):
        images = own_images(inputs)
        own = own_network(network)
        modules = dict(own.named_modules())
        for name in stages:
            if name not in modules:
                raise UnknownNameError("submodule", name, filter(None, modules))
        labels, classes = own_labels(targets, images, classes_of(own, network, images), num_classes, seed)
        subject = Subject(
            own,
            _batches(images, labels),
            stable_seed("network", seed),
            tuple(images.shape[1:]),
            classes,
            images.device,
            stages=[modules[name] for name in stages],
            keep_weights=keep_weights,
            restore=True,
            images_at_hand=len(images),
        )
        results = score_subject(subject, chosen)
    scores = {label: result.score for label, result in results.items()}
    series = _scores_type()(scores, dtype="float64", name="score")
    series.attrs["status"] = {label: result.status for label, result in results.items()}
    series.attrs["seconds"] = {label: result.seconds for label, result in results.items()}
    return series


@cache
def _scores_type() -> type[pd.Series]:
    """A Series whose text says why a value is missing. Made here, so that importing the package loads no pandas."""
    import pandas as pd

    class Scores(pd.Series):
        """Scores by proxy label; what is derived from them is a plain Series."""

        @property
        def _constructor(self) -> type[pd.Series]:
            return pd.Series

        def _reasons(self) -> list[str]:
            status = self.attrs.get("status", {})
            return [f"{label}: {status[label]}" for label in self.index[self.isna()] if label in status]

        def __repr__(self) -> str:
            reasons = self._reasons()
            return super().__repr__() + ("\nwithout a score:\n  " + "\n  ".join(reasons) if reasons else "")

        def _repr_html_(self) -> str:
            from html import escape

            lines = "".join(f"<li>{escape(reason)}</li>" for reason in self._reasons())
            table = self.to_frame().to_html()
            return f"{table}<p>without a score:</p><ul>{lines}</ul>" if lines else table

        def __reduce__(self) -> tuple:  # this class has no address to be found at
            return _plain, (self.to_dict(), dict(self.attrs))

    return Scores


def _plain(scores: dict[str, float], attrs: dict) -> pd.Series:
    """Scores as a plain Series, which is what becomes of them on the way to another process."""
    import pandas as pd

    series = pd.Series(scores, dtype="float64", name="score")
    series.attrs = attrs
    return series


def _check(proxies: Sequence, stages: Sequence, seed: int, keep_weights: bool) -> None:
    if isinstance(stages, str):
        raise HarnessError(f"stages={shown(stages)} is one name: give a list, stages=[{shown(stages)}]")
    for name, given in (("proxies", proxies), ("stages", stages)):
        if not isinstance(given, Iterable):
            raise HarnessError(f"{name} is {shown(given)}: give a list, such as {name}=[…]")
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not -(2**63) <= seed < 2**64:
        raise HarnessError(f"seed={shown(seed)} is no whole number of 64 bits: give one, such as seed=0")
    if not isinstance(keep_weights, (bool, np.bool_)):
        raise HarnessError(f"keep_weights={shown(keep_weights)} is neither True nor False: give one of them")


def _batches(images: torch.Tensor, labels: torch.Tensor) -> Callable:
    def batch(number: int, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = slice(number * size, (number + 1) * size)
        return images[chosen], labels[chosen]

    return batch
