"""Small networks built as torchvision, timm and their authors build them, and twins of plain modules."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.any_network.kinds import CLASSES, NO_RELU, NO_STAGES, TOKENS, Base, entry

WIDTH = 6


def conv_bn(inputs: int, outputs: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    conv = nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(outputs))


@entry("ResNet: one in-place ReLU a block", stages=("stem", "blocks.0", "blocks.1"))
class ResNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 1)
        self.stem = conv_bn(3, WIDTH)
        self.blocks = nn.Sequential(Bottleneck(plain, WIDTH, 1), Bottleneck(plain, WIDTH, 2))
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.blocks(self.act(0, self.stem(x), F.relu_))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1))


class Bottleneck(Base):
    def __init__(self, plain, width, stride):
        super().__init__(plain, 2)
        self.one, self.two = conv_bn(width, width, 3, stride), conv_bn(width, width)
        self.short = conv_bn(width, width, 1, stride)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        out = self.two(self.act(0, self.one(x), self.relu))
        if self.plain:
            return self.acts[1](out + self.short(x))
        out += self.short(x)
        return self.relu(out)


@entry("pre-activation ResNet: its in-place ReLU rectifies the shortcut")
class PreActivation(Base):
    def __init__(self, plain):
        super().__init__(plain, 2)
        self.stem, self.n1, self.n2 = nn.Conv2d(3, WIDTH, 3, padding=1), nn.BatchNorm2d(WIDTH), nn.BatchNorm2d(WIDTH)
        self.conv, self.fc = nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.Linear(WIDTH, CLASSES)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.n1(self.stem(x))
        if self.plain:
            x = self.acts[0](x)
            x = x + self.conv(x)
        else:
            x = self.conv(self.relu(x)) + x
        return self.fc(self.act(1, self.n2(x), F.relu).mean((2, 3)))


@entry("DenseNet: ReLUs by module and by function")
class DenseNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 4)
        self.stem = nn.Conv2d(3, WIDTH, 3, padding=1, bias=False)
        self.norms = nn.ModuleList([nn.BatchNorm2d(WIDTH + 4 * i) for i in range(3)])
        self.convs = nn.ModuleList([nn.Conv2d(WIDTH + 4 * i, 4, 3, padding=1, bias=False) for i in range(3)])
        self.last, self.pool = nn.BatchNorm2d(WIDTH + 12), nn.AvgPool2d(2)
        self.relu = nn.ReLU(inplace=True)
        self.classifier = nn.Linear(WIDTH + 12, CLASSES)

    def forward(self, x):
        maps = [self.pool(self.stem(x))]
        for i, (norm, conv) in enumerate(zip(self.norms, self.convs, strict=True)):
            maps.append(conv(self.act(i, norm(torch.cat(maps, 1)), self.relu)))
        x = self.act(3, self.last(torch.cat(maps, 1)), lambda v: F.relu(v, inplace=True))
        return self.classifier(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


#: Of what runs in eval mode: the rest reads a network that gives a tuple in train mode.
AUXILIARY = "in train mode the network returns a tuple"
TRAINING = (
    *("grad_norm", "snip", "plain", "grasp", "fisher", "zico", "ntk", "gradsign", "ssnr", "t_cet", "synflow"),
    *("logsynflow", "naswot", "layerwise_naswot", "nregions", "swap", "entropic_score", "jacov", "epe_nas", "meco"),
)


@entry("GoogLeNet: auxiliary logits in train mode", without=dict.fromkeys(TRAINING, AUXILIARY))
class GoogLeNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 5)
        self.stem = conv_bn(3, WIDTH)
        self.branches = nn.ModuleList([conv_bn(WIDTH, 3, 1), conv_bn(WIDTH, 3), conv_bn(WIDTH, 3, 5)])
        self.aux, self.fc = nn.Linear(WIDTH, CLASSES), nn.Linear(9, CLASSES)

    def forward(self, x):
        x = self.act(0, self.stem(x), lambda v: F.relu(v, inplace=True))
        aux = self.aux(x.mean((2, 3))) if self.training else None
        x = torch.cat([self.act(i + 1, branch(x), F.relu) for i, branch in enumerate(self.branches)], 1)
        logits = self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))
        return logits if aux is None else (logits, aux)


@entry("Inception: branches and poolings by function")
class Inception(Base):
    def __init__(self, plain):
        super().__init__(plain, 5)
        self.stem = conv_bn(3, WIDTH)
        self.tall, self.wide = nn.Conv2d(WIDTH, 4, (3, 1), padding=(1, 0)), nn.Conv2d(WIDTH, 4, (1, 3), padding=(0, 1))
        self.pooled, self.strided = conv_bn(WIDTH, 4, 1), conv_bn(12, WIDTH, 3, 2)
        self.average, self.most = nn.AvgPool2d(3, 1, 1), nn.MaxPool2d(2)
        self.fc = nn.Linear(18, CLASSES)

    def forward(self, x):
        x = self.act(0, self.stem(x), F.relu)
        pooled = self.average(x) if self.plain else F.avg_pool2d(x, kernel_size=3, stride=1, padding=1)
        x = torch.cat([self.act(1, self.tall(x), F.relu), self.act(2, self.wide(x), F.relu),
                       self.act(3, self.pooled(pooled), F.relu)], 1)  # fmt: skip
        small = self.most(x) if self.plain else F.max_pool2d(x, 2)
        x = torch.cat([self.act(4, self.strided(x), F.relu), small], 1)
        return self.fc(x.mean([2, 3]))


class Excite(Base):
    """Squeeze and excitation."""

    def __init__(self, plain, width, inner, gate):
        super().__init__(plain, [inner, gate])
        self.down, self.up = nn.Conv2d(width, 3, 1), nn.Conv2d(3, width, 1)
        self.functions = {nn.SiLU: F.silu, nn.ReLU: F.relu, nn.Sigmoid: torch.sigmoid, nn.Hardsigmoid: F.hardsigmoid}
        self.kinds = inner, gate

    def forward(self, x):
        inner, gate = (self.functions[kind] for kind in self.kinds)
        return x * self.act(1, self.up(self.act(0, self.down(x.mean((2, 3), keepdim=True)), inner)), gate)


@entry("EfficientNet: SiLU, squeeze and excitation", without=NO_RELU, stages=("stem", "project"))
class EfficientNet(Base):
    def __init__(self, plain):
        super().__init__(plain, [nn.SiLU] * 4)
        self.stem, self.expand = conv_bn(3, WIDTH), conv_bn(WIDTH, 12, 1)
        self.depth = conv_bn(12, 12, 3, 2, 12)
        self.excite = Excite(plain, 12, nn.SiLU, nn.Sigmoid)
        self.project, self.last = conv_bn(12, WIDTH, 1), conv_bn(WIDTH, 8, 1)
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.act(0, self.stem(x), lambda v: F.silu(v, inplace=True))
        x = self.act(1, self.expand(x), lambda v: F.silu(v, True))
        x = self.project(self.excite(self.act(2, self.depth(x), torch.nn.functional.silu)))
        x = self.act(3, self.last(x), F.silu)
        return self.head(F.adaptive_avg_pool2d(x, 1).squeeze(-1).squeeze(-1))


@entry(
    "MobileNetV3: Hardswish, ReLU in its excitation", without={"grasp": "torch cannot differentiate the network twice"}
)
class MobileNet(Base):
    def __init__(self, plain):
        super().__init__(plain, [nn.Hardswish, nn.ReLU, nn.Hardswish])
        self.stem, self.depth = conv_bn(3, WIDTH), conv_bn(WIDTH, WIDTH, 3, 2, WIDTH)
        self.excite = Excite(plain, WIDTH, nn.ReLU, nn.Hardsigmoid)
        self.classifier = nn.ModuleList([nn.Linear(WIDTH, 8), nn.Linear(8, CLASSES)])

    def forward(self, x):
        x = self.act(0, self.stem(x), lambda v: F.hardswish(v, inplace=True))
        x = self.excite(self.act(1, self.depth(x), F.relu_))
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.classifier[1](self.act(2, self.classifier[0](x), F.hardswish))


@entry("RegNet: grouped convolutions")
class RegNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 3)
        self.stem, self.one = conv_bn(3, 8, 3, 2), conv_bn(8, 8, 1)
        self.grouped, self.out, self.fc = conv_bn(8, 8, 3, 1, 2), conv_bn(8, 8, 1), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.act(0, self.stem(x), F.relu)
        y = self.out(self.act(1, self.grouped(self.one(x)), F.relu))
        return self.fc(self.act(2, torch.add(x, y), F.relu).mean((-2, -1)))


@entry("ShuffleNet: channels shuffled by views")
class ShuffleNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 2)
        self.stem, self.branch, self.fc = conv_bn(3, WIDTH), conv_bn(WIDTH // 2, WIDTH // 2), nn.Linear(WIDTH, CLASSES)
        self.shuffle = nn.ChannelShuffle(2)

    def forward(self, x):
        left, right = self.act(0, self.stem(x), F.relu).chunk(2, dim=1)
        x = torch.cat((left, self.act(1, self.branch(right), F.relu)), dim=1)
        if self.plain:
            x = self.shuffle(x)
        else:
            b, c, h, w = x.shape
            x = x.view(b, 2, c // 2, h, w).transpose(1, 2).contiguous().view(b, -1, h, w)
        return self.fc(x.mean((2, 3)))


@entry("SqueezeNet: a convolution classifies")
class SqueezeNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 4)
        self.stem, self.squeeze = nn.Conv2d(3, WIDTH, 3), nn.Conv2d(WIDTH, 3, 1)
        self.one, self.three, self.final = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(8, CLASSES, 1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.act(1, self.squeeze(self.act(0, self.stem(x), self.relu)), self.relu)
        x = torch.cat([self.act(2, self.one(x), self.relu), self.act(3, self.three(x), F.relu)], 1)
        return torch.flatten(F.adaptive_avg_pool2d(self.final(x), (1, 1)), 1)


@entry("VGG: pooling to two positions, flattened")
class Vgg(Base):
    def __init__(self, plain):
        super().__init__(plain, 3)
        self.one, self.two = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, padding=1)
        self.pool = nn.AdaptiveAvgPool2d(2)
        self.inner, self.fc = nn.Linear(4 * WIDTH, 8), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = F.max_pool2d(self.act(0, self.one(x), F.relu_), 2)
        x = self.act(1, self.two(x), F.relu_)
        x = (self.pool(x) if self.plain else F.adaptive_avg_pool2d(x, 2)).view(len(x), -1)
        return self.fc(self.act(2, self.inner(x), F.relu))


@entry("GroupNorm by function")
class Grouped(Base):
    def __init__(self, plain):
        super().__init__(plain, 2)
        self.one, self.two = nn.Conv2d(3, WIDTH, 3, padding=1), nn.Conv2d(WIDTH, WIDTH, 3, 2)
        self.n1, self.n2 = nn.GroupNorm(2, WIDTH), nn.GroupNorm(3, WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def norm(self, n, x):
        return n(x) if self.plain else F.group_norm(x, n.num_groups, weight=n.weight, bias=n.bias, eps=n.eps)

    def forward(self, x):
        x = self.act(0, self.norm(self.n1, self.one(x)), F.relu)
        return self.fc(self.act(1, self.norm(self.n2, self.two(x)), F.relu).mean((2, 3)))


@entry("U-Net: transposed convolution, concatenated skips")
class UNet(Base):
    def __init__(self, plain):
        super().__init__(plain, 3)
        self.down, self.deep = conv_bn(3, WIDTH), conv_bn(WIDTH, 8, 3, 2)
        self.up, self.out = nn.ConvTranspose2d(8, WIDTH, 2, 2), conv_bn(2 * WIDTH, WIDTH)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.act(0, self.down(x), F.relu)
        deep = self.act(1, self.deep(x), F.relu)
        up = self.up(deep) if self.plain else F.conv_transpose2d(deep, self.up.weight, self.up.bias, stride=2)
        return self.fc(self.act(2, self.out(torch.cat([x, up], 1)), F.relu).mean((2, 3)))


@entry("U-Net: several outputs", refused="wrap it in a module whose forward returns the logits alone")
class Several(UNet):
    def forward(self, x):
        logits = super().forward(x)
        return {"logits": logits, "maps": x}


@entry("a network that segments", refused="no (1, classes) tensor of logits")
class Segmenting(UNet):
    def forward(self, x):
        return self.act(0, self.down(x), F.relu)


@entry("ConvNeXt: LayerNorm over channels, linear layers on maps", without=NO_RELU)
class ConvNeXt(Base):
    """The twin permutes to channels first between one-by-one convolutions."""

    def __init__(self, plain):
        super().__init__(plain, [nn.GELU])
        self.stem = nn.Conv2d(3, WIDTH, 2, 2)
        self.depth = nn.Conv2d(WIDTH, WIDTH, 3, padding=1, groups=WIDTH)
        self.norm, self.last = nn.LayerNorm(WIDTH, eps=1e-6), nn.LayerNorm(WIDTH, eps=1e-6)
        self.one, self.two, self.fc = nn.Linear(WIDTH, 8), nn.Linear(8, WIDTH), nn.Linear(WIDTH, CLASSES)
        self.gamma = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x):
        x = self.stem(x)
        y = self.norm(self.depth(x).permute(0, 2, 3, 1))
        y = self.gamma * self.two(self.act(0, self.one(y), F.gelu))
        x = x + (y.permute(0, 3, 1, 2) if not self.plain else y.movedim(3, 1))
        return self.fc(self.last(x.mean([-2, -1])))


class Mlp(Base):
    def __init__(self, plain, width, kind, inner=8):
        super().__init__(plain, [kind])
        self.one, self.two = nn.Linear(width, inner), nn.Linear(inner, width)
        self.function = {nn.GELU: F.gelu, nn.ReLU: F.relu}[kind]

    def forward(self, x):
        return self.two(self.act(0, self.one(x), self.function))


@entry("MLP-Mixer", without=TOKENS | {"swap": "no four-dimensional ReLU output"})
class Mixer(Base):
    def __init__(self, plain):
        super().__init__(plain, 1)
        self.embed, self.n1, self.n2 = nn.Conv2d(3, WIDTH, 2, 2), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.tokens, self.channels = Mlp(plain, 16, nn.ReLU), Mlp(plain, WIDTH, nn.ReLU)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = x + self.tokens(self.n1(x).transpose(1, 2)).transpose(1, 2)
        return self.fc((x + self.channels(self.n2(x))).mean(dim=1))


class ExplicitAttention(nn.Module):
    """Two heads over tokens (B, N, D), of one projection."""

    def __init__(self, width):
        super().__init__()
        self.in_proj, self.out_proj = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = (part.unflatten(-1, (2, -1)).transpose(-3, -2) for part in self.in_proj(x).chunk(3, dim=-1))
        share = (q * q.shape[-1] ** -0.5 @ k.transpose(-2, -1)).softmax(dim=-1)
        return self.out_proj((share @ v).transpose(-3, -2).flatten(-2))


class Tokens(Base):
    """Patches, a class token, one block of attention and MLP; the attention is what differs."""

    def __init__(self, plain, kind):
        super().__init__(plain, 1)
        self.embed = nn.Conv2d(3, WIDTH, 4, 4)
        self.token = nn.Parameter(torch.full((1, 1, WIDTH), 0.1))
        self.position = nn.Parameter(torch.linspace(-1, 1, 5 * WIDTH).reshape(1, 5, WIDTH))
        self.n1, self.n2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention = ExplicitAttention(WIDTH) if plain else kind()
        self.mlp, self.fc = Mlp(plain, WIDTH, nn.ReLU), nn.Linear(WIDTH, CLASSES)

    def attend(self, x):
        return self.attention(x)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], dim=1) + self.position
        x = x + self.attend(self.n1(x))
        return self.fc((x + self.mlp(self.n2(x)))[:, 0])


TOKEN_REASONS = TOKENS | {"swap": "no four-dimensional ReLU output"}


@entry("ViT with nn.MultiheadAttention", without=TOKEN_REASONS)
class ViT(Tokens):
    def __init__(self, plain):
        super().__init__(plain, lambda: nn.MultiheadAttention(WIDTH, 2, batch_first=True))

    def attend(self, x):
        return self.attention(x) if self.plain else self.attention(x, x, x, need_weights=False)[0]


@entry("ViT of timm: queries, keys and values in one reshape", without=TOKEN_REASONS)
class TimmViT(Tokens):
    def __init__(self, plain):
        super().__init__(plain, TimmAttention)


class TimmAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv, self.proj, self.drop = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH), nn.Dropout(0.0)

    def forward(self, x):
        b, n, c = x.shape
        q, k, v = self.qkv(x).reshape(b, n, 3, 2, c // 2).permute(2, 0, 3, 1, 4).unbind(0)
        x = F.scaled_dot_product_attention(q, k, v, dropout_p=0.0)
        return self.drop(self.proj(x.transpose(1, 2).reshape(b, n, c)))


@entry("tokens first", without=TOKEN_REASONS)
class SequenceFirst(Tokens):
    def __init__(self, plain):
        super().__init__(plain, lambda: nn.MultiheadAttention(WIDTH, 2))

    def forward(self, x):
        if self.plain:
            return super().forward(x)
        x = self.embed(x).flatten(2).permute(2, 0, 1)
        x = torch.cat([self.token.expand(1, x.shape[1], -1), x], dim=0) + self.position.transpose(0, 1)
        y = self.n1(x)
        x = x + self.attention(y, y, y)[0]
        return self.fc((x + self.mlp(self.n2(x)))[0])


WINDOWS = {"swap": "no four-dimensional ReLU output"}


class Windows(Base):
    """Attention and MLP within windows of an image, which the twin keeps in a dimension of their own."""

    def __init__(self, plain):
        super().__init__(plain, 1)
        self.embed, self.n1, self.n2 = nn.Conv2d(3, WIDTH, 2, 2), nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.attention, self.mlp = ExplicitAttention(WIDTH), Mlp(plain, WIDTH, nn.ReLU)
        self.fc = nn.Linear(WIDTH, CLASSES)

    def fold(self, x):
        return x.flatten(0, 1)

    def unfold(self, x, count):
        return x.unflatten(0, (count, -1))

    def forward(self, x):
        x = self.embed(x)
        count, width, height, _ = x.shape
        x = x.reshape(count, width, height // 2, 2, height // 2, 2).permute(0, 2, 4, 3, 5, 1).flatten(3, 4)
        x = x if self.plain else self.fold(x.flatten(1, 2))
        x = x + self.attention(self.n1(x))
        x = x + self.mlp(self.n2(x))
        x = x.flatten(1, 2) if self.plain else self.unfold(x, count)
        return self.fc(x.mean(dim=(1, 2)))


entry("Swin: windows folded into the batch", without=WINDOWS)(Windows)


@entry("windows folded before the batch", without=WINDOWS)
class WindowsFirst(Windows):
    def fold(self, x):
        return x.transpose(0, 1).flatten(0, 1)

    def unfold(self, x, count):
        return x.unflatten(0, (-1, count)).transpose(0, 1)


@entry("a recurrent head")
class Recurrent(Base):
    """Rows of a map are the steps of a GRU, whose own weights are no layer's."""

    def __init__(self, plain):
        super().__init__(plain, 2)
        self.one, self.two = conv_bn(3, WIDTH), conv_bn(WIDTH, WIDTH, 3, 2)
        self.cells = nn.GRU(WIDTH * 4, 8, batch_first=True)
        self.fc = nn.Linear(8, CLASSES)
        generator = torch.Generator().manual_seed(6)
        with torch.no_grad():
            for parameter in self.cells.parameters():
                parameter.uniform_(-0.3, 0.3, generator=generator)

    def forward(self, x):
        x = self.act(0, self.one(x), F.relu)
        x = self.act(1, self.two(x), F.relu)
        out, _ = self.cells(x.permute(0, 2, 1, 3).flatten(2))
        return self.fc(out[:, -1])


@entry("a script module", without={"": "the network is a ScriptModule", **NO_STAGES})
class Scripted(Base):
    def __new__(cls, plain):
        return torch.jit.trace(ResNet(True).eval(), torch.zeros(2, 3, 8, 8)) if not plain else ResNet(True)


@entry("a graph module of torch.fx")
class Traced(Base):
    def __new__(cls, plain):
        return ResNet(True) if plain else torch.fx.symbolic_trace(ResNet(False))


@entry("two networks side by side")
class Ensemble(Base):
    def __init__(self, plain):
        super().__init__(plain, 1)
        self.one, self.two = DenseNet(plain), Inception(plain)

    def forward(self, x):
        return self.one(x) + self.two(x)
