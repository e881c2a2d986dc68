"""Scores written out with autograd alone: no pass of the harness, no hook, no mode.

Every network of the table has these, in float64 with the weights that it came with.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from unittest import mock

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrize


def weights_of(network: nn.Module, matrices: bool = True) -> list[torch.Tensor]:
    """What convolutions, linear layers and attention's projections apply, each once; `matrices` that are Parameters."""
    found: dict[int, torch.Tensor] = {}
    for module in network.modules():
        if isinstance(module, (nn.modules.conv._ConvNd, nn.Linear)):
            weight = module.weight
            found[id(weight)] = weight
        elif isinstance(module, nn.MultiheadAttention):
            found[id(module.in_proj_weight)] = module.in_proj_weight
        elif matrices and hasattr(module, "w"):
            found[id(module.w)] = module.w
    return list(found.values())


def gradients(value: torch.Tensor, tensors: list[torch.Tensor]) -> list[torch.Tensor]:
    trained = [tensor for tensor in tensors if tensor.requires_grad]
    found = dict(zip(map(id, trained), torch.autograd.grad(value, trained, allow_unused=True), strict=True))
    grads = [found.get(id(tensor)) for tensor in tensors]
    return [torch.zeros_like(t) if g is None else g.detach() for t, g in zip(tensors, grads, strict=True)]


def fresh(network: nn.Module, training: bool = True) -> nn.Module:
    return copy.deepcopy(network).double().train(training)


def of_the_loss(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    network = fresh(network)
    with parametrize.cached():
        loss = F.cross_entropy(network(images.clone()), labels)
        weights = weights_of(network)
        grads = gradients(loss, [*weights, *network.parameters()])
    grads, every = grads[: len(weights)], grads[len(weights) :]
    pairs = [(w.detach(), g) for w, g in zip(weights, grads, strict=True)]
    return {
        "snip": sum(float((w * g).abs().sum()) for w, g in pairs),
        "plain": sum(float((w * g).sum()) for w, g in pairs),
        "grad_norm": sum(float(g.norm()) for _, g in pairs),
        "grad_norm:norm=all": float(torch.cat([g.flatten() for g in every]).norm()),
    }


def l2_norm(network: nn.Module) -> float:
    with parametrize.cached():
        return sum(float(w.detach().norm()) for w in weights_of(fresh(network), matrices=False))


def gradsign(network: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    total: list = []
    for image, label in zip(images, labels, strict=True):
        own = fresh(network)
        with parametrize.cached():
            loss = F.cross_entropy(own(image[None].clone()), label[None])
            signs = [grad.sign() for grad in gradients(loss, weights_of(own))]
        total = [a + b for a, b in zip(total, signs, strict=True)] if total else signs
    return sum(float(part.abs().sum()) for part in total)


def triangular(s: np.ndarray) -> np.ndarray:
    """Cholesky's factor of diag(s) - s s^T, whose last pivot is 0."""
    matrix, lower = np.diag(s) - np.outer(s, s), np.zeros((len(s), len(s)))
    for j in range(len(s) - 1):
        lower[j, j] = np.sqrt(matrix[j, j] - lower[j] @ lower[j])
        for i in range(j + 1, len(s)):
            lower[i, j] = (matrix[i, j] - lower[i] @ lower[j]) / lower[j, j]
    return lower


def vkdnw(network: nn.Module, images: torch.Tensor) -> dict[str, float]:
    own = fresh(network, training=False)
    parameters = [p.requires_grad_(True) for p in own.parameters()][:128]
    information = {"paper": 0.0, "repo": 0.0}
    for image in images:
        logits = own(image[None].clone())[0]
        rows = [torch.autograd.grad(z, parameters, retain_graph=True, allow_unused=True) for z in logits]
        jacobian = np.array([[0.0 if g is None else float(g.flatten()[0]) for g in row] for row in rows])
        s = 0.95 * logits.detach().softmax(0).numpy() + 0.05 / len(logits)
        information["paper"] += jacobian.T @ (np.diag(s) - np.outer(s, s)) @ jacobian / len(images)
        rows = triangular(s) @ jacobian
        information["repo"] += rows.T @ rows / len(images)
    entropies = {}
    for variant, matrix in information.items():
        deciles = np.quantile(np.linalg.eigvalsh(matrix).clip(min=0), np.arange(1, 10) / 10)
        share = deciles / (deciles.sum() + 1e-10)
        entropies[variant] = float(-(share * np.log(share + 1e-10)).sum())
        if variant == "paper":
            entropies["decile"] = float(np.log(deciles[4] + 1e-30))
    count = len(weights_of(own))
    names = {"vkdnw": "paper", "vkdnw:variant=repo": "repo", "vkdnw_decile": "decile"}
    return {**{name: entropies[key] for name, key in names.items()}, "vkdnw_single": count + entropies["paper"]}


def ntk(network: nn.Module, images: torch.Tensor) -> float:
    own = fresh(network)
    weights = [p for name, p in own.named_parameters() if "weight" in name and p.requires_grad]
    with parametrize.cached():
        logits = own(images.clone())
        rows = []
        for row in logits:
            grads = torch.autograd.grad(row.sum(), weights, retain_graph=True, allow_unused=True)
            rows.append(torch.cat([torch.zeros_like(w).flatten() if g is None else g.flatten()
                                   for w, g in zip(weights, grads, strict=True)]))  # fmt: skip
    values = np.linalg.eigvalsh((torch.stack(rows) @ torch.stack(rows).T).numpy())
    return -values[-1] / values[0]


def params(network: nn.Module, images: torch.Tensor) -> float:
    own = fresh(network, training=False)
    trained = [p for p in own.parameters() if p.requires_grad]
    if not trained:
        return 0.0
    grads = torch.autograd.grad(own(images[:1].clone()).sum(), trained, allow_unused=True)
    return float(sum(p.numel() for p, g in zip(trained, grads, strict=True) if g is not None))


@contextmanager
def norms_off() -> Iterator[None]:
    """Norms of features pass them on; those of weights have no statistics."""

    def off(function: Callable) -> Callable:
        def norm(x, *args, **kwargs):
            of_weights = function.__name__ == "batch_norm" and args and args[0] is None
            return function(x, *args, **kwargs) if of_weights else x.clone()

        return norm

    names = ("batch_norm", "group_norm", "layer_norm")
    with mock.patch.multiple(F, **{name: off(getattr(F, name)) for name in names}):
        yield


def synflow(network: nn.Module, shape: tuple[int, ...]) -> float:
    own = fresh(network)
    with torch.no_grad():
        for parameter in own.parameters():
            parameter.abs_()
    with norms_off():
        total = own(torch.ones(1, *shape, dtype=torch.float64)).sum()
        weights = weights_of(own)
        grads = gradients(total, weights)
    return sum(float((w.detach() * g).abs().sum()) for w, g in zip(weights, grads, strict=True))


def written_out(network: nn.Module, images: torch.Tensor, labels: torch.Tensor, wanted: set[str]) -> dict[str, float]:
    """The scores among `wanted` that have a reference, by spec."""
    images = images.double()
    found: dict[str, float] = {}
    if wanted & {"snip", "plain", "grad_norm", "grad_norm:norm=all"}:
        found |= of_the_loss(network, images, labels)
    if any(name.startswith("vkdnw") for name in wanted):
        found |= vkdnw(network, images)
    others: dict[str, Callable[[], float]] = {
        "l2_norm": lambda: l2_norm(network),
        "gradsign": lambda: gradsign(network, images, labels),
        "ntk": lambda: ntk(network, images),
        "params": lambda: params(network, images),
        "synflow": lambda: synflow(network, tuple(images.shape[1:])),
    }
    return {name: value for name, value in {**found, **{k: f() for k, f in others.items() if k in wanted}}.items()
            if name in wanted}  # fmt: skip
