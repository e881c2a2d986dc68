"""Initialisations in place, from an explicit generator."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING

from harness.errors import UnknownNameError, Unscorable
from harness.probes.modules import modules_of
from harness.seeds import stable_seed

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


def _truncated_normal(weight: torch.Tensor, generator: torch.Generator) -> None:
    from torch import nn

    if weight.ndim == 2:
        nn.init.trunc_normal_(weight, std=0.02, generator=generator)
    else:
        _torch_default(weight, generator)


def _supernet(weight: torch.Tensor, generator: torch.Generator) -> None:
    """`_truncated_normal`, entry (i, j) equal in weights of any size: each row has a generator of its own."""
    import torch

    row = torch.Generator()
    for number, entries in enumerate(weight.flatten(1)):
        entries.uniform_(-1, 1, generator=row.manual_seed(stable_seed(generator.initial_seed(), number)))
    if weight.ndim == 2:
        weight.erfinv_().mul_(0.02 * math.sqrt(2)).clamp_(-2, 2)
    else:
        weight.div_(math.sqrt(weight[0].numel()))


SCHEMES = {
    "kaiming_fan_in": _kaiming_normal("fan_in"),
    "kaiming_fan_out": _kaiming_normal("fan_out"),
    "default": _torch_default,
    "gaussian": _gaussian,
    "xavier": _xavier_normal,
    "nasbench_pytorch": _nasbench_pytorch,
    "truncated_normal": _truncated_normal,
    "supernet": _supernet,
}

#: Schemes that give equal weights to layers of one name in all networks of a space.
SHARED = frozenset({"supernet"})


def initialise(network: nn.Module, scheme: str, generator: torch.Generator) -> None:
    """Draw new weights for all convolutions and linear layers, in the order of `network.modules()`.

    The input projections of torch's attention are linear layers; a parametrised layer is assigned its weights.

    Biases become 0 (`default`: torch's uniform law), normalisations become the identity map with fresh
    running statistics. Draws are made on the CPU, so that every device sees the same weights. Parameters of
    other modules (class tokens, position embeddings) stay as they are.

    Args:
        scheme: `kaiming_fan_in`, `kaiming_fan_out` (He et al. 2015, ReLU gain), `default` (torch's own),
            `gaussian` (N(0, 1)), `xavier`, or `nasbench_pytorch`, that package's network's: convolutions as
            `kaiming_fan_out`, which is N(0, sqrt(2 / (k^2 outputs))) there, linear layers N(0, 0.01); Zero-Cost NAS
            scores NAS-Bench-101 with it (SamsungLabs/zero-cost-nas @ a43bfbc9, `nasbench1.py`). `truncated_normal`,
            that of vision Transformers: linear layers N(0, 0.02) cut at 2, convolutions torch's own. `supernet`, the
            same law: the first rows and columns of one draw for each name of a layer, as networks have their weights
            that are slices of one supernet (AutoFormer); of a layer with `parts` (queries, keys, values), of each part.
        generator: of the network; for a scheme of `SHARED`, of all networks that share weights.

    Raises:
        UnknownNameError: no such scheme.
        Unscorable: a layer whose weights cannot be assigned.
    """
    import torch
    from torch import nn

    if scheme not in SCHEMES:
        raise UnknownNameError("initialisation", scheme, SCHEMES)
    drawn: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}  # by the tensor that they are for
    layers, normalisations = kinds()
    with torch.no_grad():
        for name, module in modules_of(network):
            if isinstance(module, nn.MultiheadAttention):
                _draw_projections(name, module, scheme, generator, drawn)
            elif isinstance(module, layers):
                _draw_layer(name, module, scheme, generator, drawn)
            elif isinstance(module, normalisations):
                fill(name, module, "weight", 1.0)
                fill(name, module, "bias", 0.0)
                if isinstance(module, nn.modules.batchnorm._NormBase):
                    module.reset_running_stats()
        _bring(list(drawn.values()))


def kinds() -> tuple[tuple[type, ...], tuple[type, ...]]:
    """The layers that are drawn, and the normalisations that become the identity map."""
    from torch import nn

    norms = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm, nn.RMSNorm)
    return (nn.modules.conv._ConvNd, nn.Linear), norms


def others(network: nn.Module) -> list[nn.Module]:
    """The modules with parameters or buffers of their own that no scheme sets: class tokens, position embeddings."""
    layers, normalisations = kinds()
    found = [module for _, module in modules_of(network) if not isinstance(module, (*layers, *normalisations))]
    return [module for module in found if module._parameters or module._buffers]


def fill(name: str, module: nn.Module, attribute: str, value: float) -> None:
    """Set all entries of a parameter of a module to one number, if it has that parameter: of what it applies.

    Raises Unscorable for one that cannot be set.
    """
    from torch import nn

    tensor = getattr(module, attribute, None)
    if tensor is None:
        return
    if attribute in module._parameters or attribute in module._buffers:
        tensor.fill_(value)
    elif nn.utils.parametrize.is_parametrized(module, attribute):
        _assign(name, module, attribute, tensor.new_full(tensor.shape, value))
    else:
        raise _no_parameter(name, attribute)


def _assign(name: str, module: nn.Module, attribute: str, value: torch.Tensor) -> None:
    """Give a parametrised tensor its values. Raises Unscorable where the parametrisation takes none."""
    try:
        setattr(module, attribute, value)
    except (NotImplementedError, RuntimeError, AttributeError) as error:
        kind = "biases" if attribute.endswith("bias") else "weights"
        raise Unscorable(
            f"layer {name}: its parametrisation takes no {kind} (right_inverse), so that it cannot be initialised: "
            "score it with keep_weights=True"
        ) from error


def _no_parameter(name: str, attribute: str) -> Unscorable:
    return Unscorable(
        f"layer {name}: its {attribute} is no Parameter, as the hooks of torch.nn.utils.weight_norm, spectral_norm and "
        "prune leave it: use torch.nn.utils.parametrizations, or remove the hook"
    )


def _bring(drawn: list[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy what was drawn on the CPU into the tensors that it is for: to another device all at once."""
    import torch

    if drawn and drawn[0][0].device.type != "cpu":
        flat = torch.cat([values.flatten() for _, values in drawn]).to(drawn[0][0].device)
        parts = flat.split([values.numel() for _, values in drawn])
        drawn = [(target, part.view_as(values)) for (target, values), part in zip(drawn, parts, strict=True)]
    for target, values in drawn:
        target.copy_(values)


Drawn = dict[int, tuple["torch.Tensor", "torch.Tensor"]]


def _of_layer(name: str, scheme: str, generator: torch.Generator) -> torch.Generator:
    import torch

    if scheme not in SHARED:
        return generator
    return torch.Generator().manual_seed(stable_seed(generator.initial_seed(), name))


def _draw_layer(name: str, module: nn.Module, scheme: str, generator: torch.Generator, drawn: Drawn) -> None:
    """New weights for one layer; a Parameter that an earlier layer shares with it keeps those of that one."""
    from torch import nn

    own, parts = _of_layer(f"{name}.weight", scheme, generator), getattr(module, "parts", 1)
    if nn.utils.parametrize.is_parametrized(module, "weight"):
        weight = module.weight
        _assign(name, module, "weight", _draw(weight.shape, scheme, own, parts).to(weight))
    elif not isinstance(module.weight, nn.Parameter):
        raise _no_parameter(name, "weight")
    elif id(module.weight) not in drawn:
        drawn[id(module.weight)] = module.weight, _draw(module.weight.shape, scheme, own, parts)
    if module.bias is not None:
        _draw_bias(name, module, "bias", module.weight[0].numel(), scheme, generator, drawn)


def _draw_projections(name: str, module: nn.Module, scheme: str, generator: torch.Generator, drawn: Drawn) -> None:
    """The input projections of torch's attention, as the linear layers that they are, shared Parameters once."""
    from torch import nn

    for attribute in ("in_proj_weight", "q_proj_weight", "k_proj_weight", "v_proj_weight"):
        weight = getattr(module, attribute)
        if weight is None or id(weight) in drawn:  # shared with an earlier one
            continue
        own = _of_layer(f"{name}.{attribute}", scheme, generator)
        value = _draw(weight.shape, scheme, own, 3 if attribute == "in_proj_weight" else 1)
        if nn.utils.parametrize.is_parametrized(module, attribute):
            _assign(name, module, attribute, value.to(weight))
        else:
            drawn[id(weight)] = weight, value
    if module.in_proj_bias is not None:
        _draw_bias(name, module, "in_proj_bias", module.embed_dim, scheme, generator, drawn)


def _draw(shape: torch.Size, scheme: str, generator: torch.Generator, parts: int = 1) -> torch.Tensor:
    import torch

    on_host = torch.empty(shape, dtype=torch.float32)
    SCHEMES[scheme](on_host, generator)
    if scheme in SHARED and parts > 1:  # drawn by turns, so that no part begins where another has other rows
        on_host = torch.cat([on_host[part::parts] for part in range(parts)])
    return on_host


def _draw_bias(
    name: str, module: nn.Module, attribute: str, inputs: int, scheme: str, generator: torch.Generator, drawn: Drawn
) -> None:
    import torch
    from torch import nn

    bias = getattr(module, attribute)
    if id(bias) in drawn:  # shared with an earlier layer, as its weight may be
        return
    if scheme != "default":
        fill(name, module, attribute, 0.0)
        return
    bound = 1 / math.sqrt(max(1, inputs))
    value = torch.empty(bias.shape).uniform_(-bound, bound, generator=generator)
    if attribute in module._parameters or attribute in module._buffers:
        drawn[id(bias)] = bias, value
    elif nn.utils.parametrize.is_parametrized(module, attribute):
        _assign(name, module, attribute, value.to(bias))
    else:
        raise _no_parameter(name, attribute)
