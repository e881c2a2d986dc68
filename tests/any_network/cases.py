"""Single ways of writing a network that passes over modules have taken for another."""

from __future__ import annotations

import functools

import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations
from torch.utils.checkpoint import checkpoint

from tests.any_network.kinds import CLASSES, NO_RELU, TOKENS, Base, entry


class Convs(Base):
    """Three convolutions with BatchNorm, a residual sum, pooling and a linear layer; subclasses change one thing."""

    width = 6

    def __init__(self, plain: bool, acts: list[type] | int = 3):
        super().__init__(plain, acts)
        w = self.width
        self.c1, self.n1 = nn.Conv2d(3, w, 3, padding=1), nn.BatchNorm2d(w)
        self.c2, self.n2 = nn.Conv2d(w, w, 3, padding=1), nn.BatchNorm2d(w)
        self.c3, self.n3 = nn.Conv2d(w, w, 3, stride=2, padding=1), nn.BatchNorm2d(w)
        self.fc = nn.Linear(w, CLASSES)

    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        x = x + self.act(1, self.n2(self.c2(x)), torch.relu)
        x = self.act(2, self.n3(self.c3(x)), lambda v: v.relu())
        return self.fc(x.mean(dim=(2, 3)))


entry("ReLU by three functions", stages=("c1", "c2", "c3"))(Convs)


@entry("one ReLU module used everywhere")
class OneReLU(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.one = nn.ReLU()

    def act(self, place, x, function):
        return super().act(place, x, self.one)


@entry("ReLUs by module and by function")
class Mixed(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.relu = nn.ReLU(inplace=True)

    def act(self, place, x, function):
        return super().act(place, x, self.relu if place == 1 else function)


@entry("in-place functions", stages=("c1", "c2", "c3"))
class InPlace(Convs):
    """On outputs that a pass has kept: of convolutions, and of a layer without a norm."""

    def forward(self, x):
        y = self.c1(x)
        y = self.act(0, y, lambda v: F.relu(v, inplace=True))
        z = self.c2(y)
        if self.plain:
            z = z * 0.5 + y
        else:
            z.mul_(0.5)
            z += y
        z = self.act(1, z, lambda v: v.relu_())
        z = self.act(2, self.n3(self.c3(z)), torch.relu_)
        return self.fc(z.mean(dim=(2, 3)))


@entry("in-place SiLU, Hardswish and LeakyReLU", without=NO_RELU, stages=("c1", "c2", "c3"))
class InPlaceOthers(Convs):
    def __init__(self, plain):
        super().__init__(plain, [nn.SiLU, nn.Hardswish, nn.LeakyReLU])

    def forward(self, x):
        x = self.act(0, self.c1(x), lambda v: F.silu(v, inplace=True))
        x = self.act(1, self.c2(x), lambda v: F.hardswish(v, inplace=True))
        x = self.act(2, self.n3(self.c3(x)), lambda v: F.leaky_relu_(v))
        return self.fc(x.mean(dim=(2, 3)))


@entry("LeakyReLU beside ReLU")
class Leaky(Convs):
    def __init__(self, plain):
        super().__init__(plain, [nn.ReLU, nn.LeakyReLU, nn.ReLU6])

    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        x = x + self.act(1, self.n2(self.c2(x)), F.leaky_relu)
        x = self.act(2, self.n3(self.c3(x)), F.relu6)
        return self.fc(x.mean(dim=(2, 3)))


@entry("PReLU", without=NO_RELU)
class Parametric(Convs):
    def __init__(self, plain):
        super().__init__(plain, [nn.PReLU] * 3)

    def act(self, place, x, function):
        return self.acts[place](x) if self.plain else F.prelu(input=x, weight=self.acts[place].weight)


def _own(module):
    return type(module).forward


@entry("an instance's own forward")
class OwnForward(Convs):
    """As accelerate and pruning tools set it."""

    def __init__(self, plain):
        super().__init__(plain)
        if not plain:
            for module in (self.c2, self.n2):
                module.forward = functools.partial(_own(module), module)


class NormAct(nn.BatchNorm2d):
    """timm's BatchNormAct2d."""

    def forward(self, x):
        x = F.batch_norm(x, self.running_mean, self.running_var, self.weight, self.bias, self.training, 0.1, self.eps)
        return F.relu(x, inplace=True)


@entry("BatchNorm and ReLU in one subclass")
class Subclassed(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        if not plain:
            self.n1, self.n2, self.n3 = (NormAct(self.width) for _ in range(3))

    def act(self, place, x, function):
        return super().act(place, x, lambda v: v)


class Standardised(nn.Conv2d):
    """timm's ScaledStdConv2d: the weights are standardised by a function for norms."""

    def forward(self, x):
        flat = self.weight.reshape(1, self.out_channels, -1)
        weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-6).reshape_as(self.weight)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


class ByArithmetic(nn.Conv2d):
    def forward(self, x):
        flat = self.weight.flatten(1)
        centred = flat - flat.mean(dim=1, keepdim=True)
        weight = (centred / (centred.square().mean(dim=1, keepdim=True) + 1e-6).sqrt()).reshape(self.weight.shape)
        return F.conv2d(x, weight, self.bias, self.stride, self.padding, self.dilation, self.groups)


@entry("weight standardisation")
class ScaledStd(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        kind = ByArithmetic if plain else Standardised
        self.c2 = kind(self.width, self.width, 3, padding=1)


class Same(nn.Conv2d):
    """timm's Conv2dSame."""

    def forward(self, x):
        return F.conv2d(F.pad(x, [0, 1, 0, 1]), self.weight, self.bias, self.stride)


class Padded(nn.Sequential):
    def __init__(self, width):
        super().__init__(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(width, width, 3, 2))


@entry("padding inside a convolution's subclass")
class SamePadding(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.c3 = Padded(self.width) if plain else Same(self.width, self.width, 3, 2)


@entry("padding='same'")
class NamedPadding(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.c2 = nn.Conv2d(self.width, self.width, 3, padding=2 if plain else "same", dilation=2)


class Masked(nn.Conv2d):
    def __init__(self, width, plain):
        super().__init__(width, width, 3, padding=1)
        self.plain = plain
        self.register_buffer("mask", (torch.arange(self.weight.numel()).reshape(self.weight.shape) % 3 > 0).float())

    def forward(self, x):
        weight = torch.where(self.mask > 0, self.weight, 0.0) if self.plain else self.weight * self.mask
        return self._conv_forward(x, weight, self.bias)


@entry("a masked convolution")
class Pruned(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.c2 = Masked(self.width, plain)


#: Their parameters are not the weights: those that read parameters are checked against autograd alone.
OTHER_PARAMETERS = (
    "intrain",
    "grad_norm:norm=all",
    "ntk",
    "params",
    "vkdnw",
    "vkdnw:variant=repo",
    "vkdnw_single",
    "vkdnw_decile",
)


@entry("weight_norm", apart=OTHER_PARAMETERS, without={"epsinas": "parametrised layer c1"})
class WeightNorm(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        if not plain:
            for name in ("c1", "c3", "fc"):
                setattr(self, name, parametrizations.weight_norm(getattr(self, name)))


@entry("spectral_norm", keep=True, apart=OTHER_PARAMETERS)
class SpectralNorm(Convs):
    """Its power iteration has converged, so that the weights that it gives stay what they are."""

    def __init__(self, plain):
        super().__init__(plain)
        torch.nn.init.normal_(self.c2.weight, generator=torch.Generator().manual_seed(2))
        normed = parametrizations.spectral_norm(self.c2.double(), n_power_iterations=200)
        if plain:
            weight = normed.weight.detach()
            self.c2 = nn.Conv2d(self.width, self.width, 3, padding=1)
            self.c2.weight.data, self.c2.bias.data = weight, normed.bias.data
        self.double()


@entry("orthogonal", keep=True, apart=OTHER_PARAMETERS)
class Orthogonal(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.double()
        torch.nn.init.normal_(self.fc.weight, generator=torch.Generator().manual_seed(3))
        normed = parametrizations.orthogonal(self.fc, orthogonal_map="householder")
        if plain:
            weight, bias = normed.weight.detach(), normed.bias.data
            self.fc = nn.Linear(self.width, CLASSES).double()
            self.fc.weight.data, self.fc.bias.data = weight, bias


@entry("layers used by function")
class ByFunction(Convs):
    def forward(self, x):
        if self.plain:
            return super().forward(x)
        x = F.relu(self.norm(self.n1, F.conv2d(x, self.c1.weight, self.c1.bias, padding=1)))
        x = x + F.relu(self.norm(self.n2, F.conv2d(input=x, weight=self.c2.weight, bias=self.c2.bias, padding=(1, 1))))
        x = F.relu(self.norm(self.n3, torch.conv2d(x, self.c3.weight, self.c3.bias, 2, 1)))
        return F.linear(x.mean(dim=(2, 3)), self.fc.weight, self.fc.bias)

    def norm(self, n, x):
        return torch.nn.functional.batch_norm(
            x, n.running_mean, n.running_var, n.weight, n.bias, training=self.training, momentum=n.momentum, eps=n.eps
        )


@entry("keyword calls")
class Keywords(Convs):
    def forward(self, x):
        if self.plain:
            return super().forward(x)
        x = F.relu(input=self.n1(input=self.c1(input=x)))
        x = x + F.relu(input=self.n2(input=self.c2(input=x)), inplace=False)
        x = F.relu(input=self.n3(input=self.c3(input=x)))
        return self.fc(input=x.mean(dim=(2, 3)))


@entry("two convolutions of one Parameter")
class Tied(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.again = self.c2 if plain else nn.Conv2d(self.width, self.width, 3, padding=1)
        self.again.weight, self.again.bias = self.c2.weight, self.c2.bias

    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        x = self.act(1, self.n2(self.again(self.c2(x))), F.relu)
        x = self.act(2, self.n3(self.c3(x)), F.relu)
        return self.fc(x.mean(dim=(2, 3)))


@entry("a layer both called and used by function")
class Both(Convs):
    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        again = self.c2(x) if self.plain else F.conv2d(x, self.c2.weight, self.c2.bias, padding=1)
        x = self.act(1, self.n2(self.c2(again)), F.relu)
        x = self.act(2, self.n3(self.c3(x)), F.relu)
        return self.fc(x.mean(dim=(2, 3)))


@entry("a forward that writes into its input")
class Writer(Convs):
    def forward(self, x):
        if self.plain:
            return super().forward(x * 0.5 - 0.1)
        x.mul_(0.5)
        x -= 0.1
        return super().forward(x)


@entry("a frozen stem")
class Frozen(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.c1.requires_grad_(False)


#: Sums over the gradients of weights: without a trainable weight they have no value.
OF_WEIGHTS = (
    *("grad_norm", "snip", "plain", "grasp", "zico", "ntk", "gradsign", "ssnr", "t_cet", "synflow", "logsynflow"),
)


@entry("frozen as a whole", without=dict.fromkeys(OF_WEIGHTS, "no trainable weight"))
class WhollyFrozen(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.requires_grad_(False)


@entry("a stage that gives a tuple", stages=("head", "c3"), without=dict.fromkeys(
    ("az_expressivity", "az_progressivity", "az_trainability"), "a stage's output is no feature map"
))  # fmt: skip
class Tuples(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.head = Pair()

    def forward(self, x):
        x, _ = self.head(self.act(0, self.n1(self.c1(x)), F.relu))
        x = self.act(1, self.n2(self.c2(x)), F.relu)
        return self.fc(self.act(2, self.n3(self.c3(x)), F.relu).mean(dim=(2, 3)))


class Pair(nn.Module):
    def forward(self, x):
        return x, x.mean()


NO_MAPS = {"swap": "no four-dimensional ReLU output", "meco": "no feature map"}


@entry("BatchNorm1d over (B, C, L)", without=TOKENS | NO_MAPS)
class Rows(Base):
    """One-dimensional convolutions; the twin's are two-dimensional, of one row."""

    def __init__(self, plain):
        super().__init__(plain, 2)
        self.c1, self.n1 = nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6)
        self.c2, self.n2 = nn.Conv1d(6, 6, 3, stride=2), nn.BatchNorm1d(6)
        self.fc = nn.Linear(6, CLASSES)

    def forward(self, x):
        x = x.flatten(2)
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        x = self.act(1, self.n2(self.c2(x)), F.relu)
        return self.fc(x.mean(dim=2))


@entry("a matrix Parameter that features are multiplied with")
class Matrix(Convs):
    """`x @ w`: a linear layer, whose twin is one that holds its weights by rows."""

    def __init__(self, plain):
        super().__init__(plain)
        generator = torch.Generator().manual_seed(4)
        weight = torch.randn(CLASSES, self.width, generator=generator)
        if plain:
            self.fc = Fixed(weight)
        else:
            del self.fc
            self.w, self.b = nn.Parameter(weight.T.contiguous()), nn.Parameter(torch.zeros(CLASSES))

    def forward(self, x):
        if self.plain:
            return super().forward(x)
        self.fc = lambda v: v @ self.w + self.b
        logits = super().forward(x)
        del self.fc
        return logits


class Fixed(nn.Module):
    def __init__(self, weight):
        super().__init__()
        self.w, self.b = nn.Parameter(weight), nn.Parameter(torch.zeros(len(weight)))

    def forward(self, x):
        return F.linear(x, self.w, self.b)


OF_OUTPUTS = (
    "fisher",
    "t_cet",
    "flops",
    "near",
    "zico_bc",
    "epsinas",
    "rbflex",
    "eznas_a",
    "w_pca",
    "token_entropy",
    "min_eigenvalue",
)


@entry("a layer's weight in einsum", without=dict.fromkeys(OF_OUTPUTS, "layer fc is used by einsum"))
class Einsum(Convs):
    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        x = x + self.act(1, self.n2(self.c2(x)), F.relu)
        x = self.act(2, self.n3(self.c3(x)), F.relu).mean(dim=(2, 3))
        return self.fc(x) if self.plain else torch.einsum("bc,kc->bk", x, self.fc.weight) + self.fc.bias


class Swish(torch.autograd.Function):
    """A memory-saving activation, as timm has had it."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return F.relu(x)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * (x > 0)


@entry(
    "an activation as an autograd.Function",
    without=dict.fromkeys(("gcor", "rcor", "wrcor"), "no gradient is recorded at a ReLU"),
)
class OwnFunction(Convs):
    def act(self, place, x, function):
        return super().act(place, x, Swish.apply)


@entry("gradient checkpointing")
class Checkpointed(Convs):
    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        inner = self.c2
        y = inner(x) if self.plain else checkpoint(inner, x, use_reentrant=False)
        x = x + self.act(1, self.n2(y), F.relu)
        x = self.act(2, self.n3(self.c3(x)), F.relu)
        return self.fc(x.mean(dim=(2, 3)))


@entry("dropout by function")
class Dropout(Convs):
    def __init__(self, plain):
        super().__init__(plain)
        self.drop = nn.Dropout2d(0.3)

    def forward(self, x):
        x = self.act(0, self.n1(self.c1(x)), F.relu)
        x = self.drop(x) if self.plain else F.dropout2d(x, 0.3, self.training)
        x = x + self.act(1, self.n2(self.c2(x)), F.relu)
        x = self.act(2, self.n3(self.c3(x)), F.relu)
        return self.fc(x.mean(dim=(2, 3)))
