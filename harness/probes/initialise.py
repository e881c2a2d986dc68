"""Initialisations in place, from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import UnknownNameError

if TYPE_CHECKING:
    import torch
    from torch import nn


def _kaiming_normal(mode: str) -> Callable[[torch.Tensor, torch.Generator], None]:
    """He initialisation with the gain of ReLU, the mode counting inputs or outputs."""

    def draw(weight: torch.Tensor, generator: torch.Generator) -> None:
        from torch import nn

        nn.init.kaiming_normal_(weight, mode=mode, nonlinearity="relu", generator=generator)

    return draw


def _torch_default(weight: torch.Tensor, generator: torch.Generator) -> None:
    from torch import nn

    nn.init.kaiming_uniform_(weight, a=math.sqrt(5), generator=generator)


def _gaussian(weight: torch.Tensor, generator: torch.Generator) -> None:
    weight.normal_(0.0, 1.0, generator=generator)


def _xavier_normal(weight: torch.Tensor, generator: torch.Generator) -> None:
    from torch import nn

    nn.init.xavier_normal_(weight, generator=generator)


def _nasbench_pytorch(weight: torch.Tensor, generator: torch.Generator) -> None:
    if weight.ndim == 2:
        weight.normal_(0.0, 0.01, generator=generator)
    else:
        SCHEMES["kaiming_fan_out"](weight, generator)


SCHEMES = {
    "kaiming_fan_in": _kaiming_normal("fan_in"),
    "kaiming_fan_out": _kaiming_normal("fan_out"),
    "default": _torch_default,
    "gaussian": _gaussian,
    "xavier": _xavier_normal,
    "nasbench_pytorch": _nasbench_pytorch,
}


def initialise(network: nn.Module, scheme: str, generator: torch.Generator) -> None:
    """Draw new weights for all convolutions and linear layers, in the order of `network.modules()`.

    Biases become 0 (`default`: torch's uniform law), normalisations become the identity map with fresh
    running statistics. Draws are made on the CPU, so that every device sees the same weights. Parameters of
    other modules (class tokens, position embeddings) stay as they are.

    Args:
        scheme: `kaiming_fan_in`, `kaiming_fan_out` (He et al. 2015, ReLU gain), `default` (torch's own),
            `gaussian` (N(0, 1)), `xavier`, or `nasbench_pytorch`, that package's network's: convolutions as
            `kaiming_fan_out`, which is N(0, sqrt(2 / (k^2 outputs))) there, linear layers N(0, 0.01); Zero-Cost NAS
            scores NAS-Bench-101 with it (SamsungLabs/zero-cost-nas @ a43bfbc9, `nasbench1.py`).

    Raises:
        UnknownNameError: no such scheme.
    """
    import torch
    from torch import nn

    if scheme not in SCHEMES:
        raise UnknownNameError("initialisation", scheme, SCHEMES)
    drawn: list[tuple[torch.Tensor, torch.Tensor]] = []
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)):
                on_host = torch.empty(module.weight.shape, dtype=torch.float32)
                SCHEMES[scheme](on_host, generator)
                drawn.append((module.weight, on_host))
                if module.bias is not None:
                    if scheme == "default":
                        bound = 1 / math.sqrt(max(1, module.weight[0].numel()))
                        on_host = torch.empty(module.bias.shape).uniform_(-bound, bound, generator=generator)
                        drawn.append((module.bias, on_host))
                    else:
                        module.bias.zero_()
            elif isinstance(module, (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)):
                if getattr(module, "weight", None) is not None:
                    module.weight.fill_(1.0)
                if getattr(module, "bias", None) is not None:
                    module.bias.zero_()
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.reset_running_stats()
        _bring(drawn)


def _bring(drawn: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy what was drawn on the CPU into the tensors that it is for: to another device all at once."""
    import torch

    if drawn and drawn[0][0].device.type != "cpu":
        flat = torch.cat([values.flatten() for _, values in drawn]).to(drawn[0][0].device)
        parts = flat.split([values.numel() for _, values in drawn])
        drawn = [(target, part.view_as(values)) for (target, values), part in zip(drawn, parts, strict=True)]
    for target, values in drawn:
        target.copy_(values)
