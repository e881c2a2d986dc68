"""Training by a recipe in plain torch, to finish what a search on an open space began.

The recipe is `conf/train/NAME.yaml`. Reading and augmenting images is the caller's: `train` takes batches.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from harness.errors import HarnessError, UnknownNameError
from harness.paths import data_dir
from harness.seeds import stable_rng


@dataclass(frozen=True)
class Recipe:
    """How to train a classifier; the comments in conf/train/esformer.yaml say what each setting does."""

    epochs: int
    batch_size: int
    learning_rate: float
    weight_decay: float
    loss: str
    warmup_epochs: int
    least_learning_rate: float
    mixup: float
    smoothing: float
    clip: float
    classes: int
    resolution: int
    seed: int

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise UnknownNameError("loss", self.loss, LOSSES)

    def rate(self, step: int, steps_per_epoch: int) -> float:
        """Learning rate of a step (from 0): a linear rise, then half a cosine."""
        rise, last = self.warmup_epochs * steps_per_epoch, self.epochs * steps_per_epoch
        if step < rise:
            return self.learning_rate * (step + 1) / rise
        along = min(1.0, (step - rise) / max(1, last - rise))
        span = self.learning_rate - self.least_learning_rate
        return self.least_learning_rate + span * (1 + math.cos(math.pi * along)) / 2


def _binary(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return functional.binary_cross_entropy_with_logits(logits, targets)


LOSSES = {"bce": _binary, "cross_entropy": functional.cross_entropy}


def load_recipe(name: str) -> Recipe:
    """The recipe `conf/train/NAME.yaml`. Raises UnknownNameError, HarnessError: a setting is missing or unknown."""
    import yaml

    folder = data_dir("conf") / "train"
    path = folder / f"{name}.yaml"
    if not path.is_file():
        raise UnknownNameError("recipe", name, [file.stem for file in folder.glob("*.yaml")])
    settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    wanted = {field.name for field in dataclasses.fields(Recipe)}
    if set(settings) != wanted:
        raise HarnessError(f"{path} must give {', '.join(sorted(wanted))} and nothing else")
    return Recipe(**settings)


def parameter_groups(network: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices and kernels decay; biases, normalisations and attention biases do not."""
    decays = [m.weight for m in network.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
    known = {id(weight) for weight in decays}
    others = [p for p in network.parameters() if id(p) not in known]
    return [{"params": decays, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def mixed(images: torch.Tensor, labels: torch.Tensor, recipe: Recipe, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Images and soft targets (B, classes) of a batch: smoothed, and mixed with the batch in reverse order."""
    off = recipe.smoothing / recipe.classes
    targets = torch.full((len(labels), recipe.classes), off, device=images.device)
    targets.scatter_(1, labels[:, None], 1 - recipe.smoothing + off)
    if recipe.mixup > 0:
        share = stable_rng("mixup", recipe.seed, step).beta(recipe.mixup, recipe.mixup)
        images = share * images + (1 - share) * images.flip(0)
        targets = share * targets + (1 - share) * targets.flip(0)
    return images, targets


@torch.no_grad()
def clip_adaptively(network: nn.Module, most: float) -> None:
    """Scale each parameter's gradient to at most `most` times the norm of the parameter (Brock et al., 2021)."""
    for parameter in network.parameters():
        if parameter.grad is not None:
            limit = most * parameter.norm().clamp_min(1e-3)
            parameter.grad.mul_((limit / parameter.grad.norm().clamp_min(1e-6)).clamp_max(1.0))


def train(
    network: nn.Module,
    batches: Iterable[tuple[torch.Tensor, torch.Tensor]],
    recipe: Recipe,
    steps_per_epoch: int,
    first_step: int = 0,
) -> list[float]:
    """Train on (images, labels) batches on the network's device, as many as there are; the loss of each step.

    Args:
        steps_per_epoch: of the whole training set, for the schedule.
        first_step: the step that the first batch is, to go on from a checkpoint.
    """
    optimiser = torch.optim.AdamW(parameter_groups(network, recipe.weight_decay), lr=recipe.learning_rate)
    network.train()
    losses = []
    for step, (images, labels) in enumerate(batches, start=first_step):
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step, steps_per_epoch)
        images, targets = mixed(images, labels, recipe, step)
        loss = LOSSES[recipe.loss](network(images), targets)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if recipe.clip > 0:
            clip_adaptively(network, recipe.clip)
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses
