"""Torch's functions by what they compute: kinds of operations, their arguments' names, and which of them write."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch._ops import OpOverload, OpOverloadPacket

CONVOLUTION, TRANSPOSED, LINEAR, PRODUCT = "convolution", "transposed convolution", "linear", "product"
NORMALISATION, ACTIVATION, POOLING, RANDOM = "normalisation", "activation", "pooling", "random"
#: Operations that apply a layer's weights.
LAYERS = (CONVOLUTION, TRANSPOSED, LINEAR)

_CONVOLUTION = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_TRANSPOSED = ("input", "weight", "bias", "stride", "padding", "output_padding", "groups", "dilation")
_ATEN = ("input", "weight", "bias", "stride", "padding", "dilation", "transposed", "output_padding", "groups")
_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ATEN_NORM = ("input", "weight", "bias", "running_mean", "running_var", "training", "momentum", "eps")
_POOL = ("input", "kernel_size", "stride", "padding")

_NAMED: dict[str, tuple[str, tuple[str, ...]]] = {
    **{f"conv{d}d": (CONVOLUTION, _CONVOLUTION) for d in (1, 2, 3)},
    **{f"conv_transpose{d}d": (TRANSPOSED, _TRANSPOSED) for d in (1, 2, 3)},
    **dict.fromkeys(("convolution", "_convolution"), (CONVOLUTION, _ATEN)),
    "linear": (LINEAR, ("input", "weight", "bias")),
    "addmm": (PRODUCT, ("bias", "input", "weight")),
    **dict.fromkeys(("matmul", "__matmul__", "mm"), (PRODUCT, ("input", "weight"))),
    **dict.fromkeys(("bmm", "baddbmm", "addbmm", "einsum", "tensordot", "inner"), (PRODUCT, ())),
    "batch_norm": (NORMALISATION, _NORM),
    "instance_norm": (NORMALISATION, _NORM),
    "group_norm": (NORMALISATION, ("input", "num_groups", "weight", "bias", "eps")),
    "layer_norm": (NORMALISATION, ("input", "normalized_shape", "weight", "bias", "eps")),
    "rms_norm": (NORMALISATION, ("input", "normalized_shape", "weight", "eps")),
    "local_response_norm": (NORMALISATION, ("input", "size")),
    **{f"{kind}_pool{d}d": (POOLING, _POOL) for kind in ("avg", "max") for d in (1, 2, 3)},
    **{f"adaptive_{kind}_pool{d}d": (POOLING, ("input", "output_size")) for kind in ("avg", "max") for d in (1, 2, 3)},
    **{f"lp_pool{d}d": (POOLING, ("input", "norm_type", "kernel_size")) for d in (1, 2, 3)},
    **{f"fractional_max_pool{d}d": (POOLING, ("input",)) for d in (2, 3)},
    **dict.fromkeys(
        ("rand", "rand_like", "randn", "randn_like", "uniform", "normal", "bernoulli"), (RANDOM, ("input",))
    ),
    **{name: (RANDOM, ("input",)) for name in dir(F) if "dropout" in name},
}
#: Activations by the name of their function; `softmax` and `glu` are no units that are on or off.
RELUS = frozenset({"relu", "relu6"})
ACTIVATIONS = RELUS | {
    *("leaky_relu", "prelu", "rrelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish", "sigmoid", "tanh"),
    *("softplus", "hardsigmoid", "hardtanh", "special_expit", "threshold", "_threshold"),
    *("softsign", "log_sigmoid", "tanhshrink", "softshrink", "hardshrink"),
}
_NAMED.update(dict.fromkeys(ACTIVATIONS, (ACTIVATION, ("input",))))
_NAMED["hardtanh"] = (ACTIVATION, ("input", "min_val", "max_val"))
_NAMED.update(dict.fromkeys(("threshold", "_threshold"), (ACTIVATION, ("input", "threshold", "value"))))
#: Of which kind functions are whose arguments or results are of another form than those of their kind.
UNREADABLE = {
    "conv_tbc": CONVOLUTION,
    **{f"native_{norm}_norm": NORMALISATION for norm in ("batch", "layer", "group")},
    **dict.fromkeys(
        ("_native_batch_norm_legit", "_native_batch_norm_legit_no_training", "_batch_norm_with_update"), NORMALISATION
    ),
}
#: Functions that give their first argument the type or the shape of the second, whose values they do not read.
ALIKE = frozenset({"type_as", "to", "expand_as", "view_as", "reshape_as"})

_WRITING = frozenset({"__setitem__"} | {f"__i{name}__" for name in (
    *("add", "sub", "mul", "matmul", "truediv", "floordiv", "mod", "pow", "lshift", "rshift", "and", "or", "xor"),
)})  # fmt: skip


class Function:
    """What is known of a function of torch: an operation's kind, its arguments' names, and whether it writes."""

    __slots__ = ("alike", "arguments", "expanded", "inplace", "kind", "name", "unreadable", "writes")

    def __init__(self, function: Callable):
        name = getattr(function, "__name__", "")
        aten = isinstance(function, (OpOverload, OpOverloadPacket))
        if aten:  # one of a graph that torch.export makes: `relu.default`
            name = name.partition(".")[0]
        own = name.startswith("__") or name == "_"
        self.writes = name in _WRITING or (name.endswith("_") and not own)
        self.name = name if own else name.rstrip("_")
        self.kind, self.arguments = _NAMED.get(self.name, (None, ()))
        if function in (torch.batch_norm, torch.instance_norm) or (aten and self.arguments == _NORM):
            self.arguments = _ATEN_NORM
        self.unreadable = UNREADABLE.get(self.name)
        self.alike = self.name in ALIKE
        self.inplace = -1
        self.expanded = None
        if isinstance(function, types.FunctionType):
            parameters = list(inspect.signature(function).parameters)
            self.inplace = parameters.index("inplace") if "inplace" in parameters else -1
            if function is F.multi_head_attention_forward:  # its own operations are what counts
                self.expanded = _expanded(function)


def _expanded(function: types.FunctionType) -> Callable:
    """The body of a function of torch that is written in Python: it asks no mode, so that its operations are seen."""
    asks = ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic")
    world = {**function.__globals__, **dict.fromkeys(asks, lambda *_: False)}
    copy = types.FunctionType(function.__code__, world, function.__name__, function.__defaults__, function.__closure__)
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy
