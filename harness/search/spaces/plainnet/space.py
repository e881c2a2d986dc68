"""The spaces of super-blocks: genes, counts and the plan of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, NamedTuple

from harness.search.genes import SIZE, TOPOLOGY, Gene, Genotype, OpenSpace, Tally, grid, halved

FACTORS = (2.5, 2, 1.5, 1.25, 1 / 1.25, 1 / 1.5, 1 / 2, 1 / 2.5)
KERNELS = (3, 5, 7)
MOST_LAYERS = 5  # of a super-block


class Start(NamedTuple):
    """A super-block of the authors' initial network, of one layer and kernel 3."""

    outputs: int
    stride: int
    bottleneck: int


class _PlainNet(OpenSpace):
    """What both spaces share.

    Attributes:
        types: of super-blocks. expansions: of the inverted residual blocks.
        stem, head: channels and stride of the first convolution, channels of the last one.
        start: the super-blocks of the initial network. widest: most channels. most_layers: of a network.
    """

    types: ClassVar[tuple[str, ...]]
    expansions: ClassVar[tuple[int, ...]]
    stem: ClassVar[tuple[int, int]]
    head: ClassVar[int]
    head_searched: ClassVar[bool]
    start: ClassVar[tuple[Start, ...]]
    widest: ClassVar[int] = 2048
    most_layers: ClassVar[int]
    links: bool
    _costs: dict[tuple, tuple[int, int]]

    @cached_property
    def genes(self) -> tuple[Gene, ...]:  # type: ignore[override]
        channels = grid(8, self.widest)
        genes = [Gene("stem.outputs", SIZE, channels, FACTORS, 1)]
        for stage in range(len(self.start)):
            for half in "ab":
                here = f"stage{stage + 1}{half}"
                genes += [
                    Gene(f"{here}.type", TOPOLOGY, self.types),
                    Gene(f"{here}.kernel", TOPOLOGY, KERNELS),
                    Gene(f"{here}.expansion", SIZE, self.expansions),
                    Gene(f"{here}.outputs", SIZE, channels, FACTORS, 1),
                    Gene(f"{here}.bottleneck", SIZE, channels, FACTORS, 1),
                    Gene(f"{here}.layers", SIZE, tuple(range(half == "a", MOST_LAYERS + 1)), steps=2),
                ]
        head = channels if self.head_searched else (self.head,)
        return (*genes, Gene("head.outputs", SIZE, head, FACTORS, 1))

    @cached_property
    def _layers(self) -> tuple[int, ...]:
        return tuple(i for i, gene in enumerate(self.genes) if gene.name.endswith(".layers"))

    def initial(self) -> Genotype:
        """The authors' initial network; the second super-block of each stage is empty."""
        values: list[Any] = [self.stem[0]]
        for outputs, _, bottleneck in self.start:
            block = (self.types[-1], KERNELS[0], self.expansions[-1], outputs, bottleneck)
            values += [*block, 1, *block, 0]
        return tuple(gene.options.index(v) for gene, v in zip(self.genes, [*values, self.head], strict=True))

    def repaired(self, genotype: Genotype, place: int | None = None) -> Genotype | None:
        layers = sum(self.genes[i].options[genotype[i]] for i in self._layers)
        return genotype if layers + 2 <= self.most_layers else None  # the two convolutions count as layers

    def founder(self, rng: Any) -> Genotype:
        """The initial network after 1 to 16 mutations: uniform values would be far above any ceiling."""
        found = self.initial()
        for _ in range(1 + rng.randint(16)):
            found = self.mutate(found, rng, lambda genotype: True)
        return found

    def _layout(self, genotype: Genotype) -> tuple[int, list[tuple[Any, ...]], int]:
        values = [gene.options[place] for gene, place in zip(self.genes, genotype, strict=True)]
        blocks = []
        for number in range(2 * len(self.start)):
            kind, kernel, expansion, outputs, bottleneck, layers = values[1 + 6 * number : 7 + 6 * number]
            stride = self.start[number // 2].stride if number % 2 == 0 else 1
            if layers:
                blocks.append((kind, outputs, stride, bottleneck, layers, kernel, expansion))
        return values[0], blocks, values[-1]

    def plan(self, genotype: Genotype) -> dict[str, Any]:
        stem, blocks, head = self._layout(genotype)
        names = ("kind", "outputs", "stride", "bottleneck", "layers", "kernel", "expansion")
        listed = [dict(zip(names, block, strict=True)) for block in blocks]
        return {
            "stem": [stem, self.stem[1]],
            "blocks": listed,
            "head": head,
            "classes": self.classes,
            "links": self.links,
        }

    def network_module(self) -> Any:
        import harness.search.spaces.plainnet.network as network

        return network

    def counts(self, genotype: Genotype) -> dict[str, float]:
        stem, blocks, head = self._layout(genotype)
        total = Tally()
        side = halved(self.resolution) if self.stem[1] == 2 else self.resolution
        total.conv(3, stem, 3, side)
        before = stem
        for block in blocks:
            key = (before, side, block)
            if key not in self._costs:
                cost = Tally()
                _block(cost, before, side, block, self.links)
                self._costs[key] = cost.params, cost.flops
            params, flops = self._costs[key]
            total.params += params
            total.flops += flops
            before, side = block[1], halved(side) if block[2] == 2 else side
        total.conv(before, head, 1, side)
        total.linear(head, self.classes)
        return total.counts


def _block(cost: Tally, before: int, side: int, block: tuple[Any, ...], links: bool) -> None:
    """Adds what a super-block costs that reads `before` channels at `side`."""
    kind, outputs, stride, bottleneck, layers, kernel, expansion = block
    for layer in range(layers):
        after = halved(side) if stride == 2 else side
        units = []  # (inputs, outputs, side after) of the residual units
        if kind == "inverted":
            for inputs, result, base, within, within_after in (
                (before, bottleneck, bottleneck, side, after),
                (bottleneck, outputs, outputs, after, after),
            ):
                wide = base * expansion
                cost.conv(inputs, wide, 1, within)
                cost.conv(wide, wide, kernel, within_after, groups=wide)
                cost.conv(wide, result, 1, within_after)
                units.append((inputs, result))
        elif kind == "dense":
            cost.conv(before, bottleneck, kernel, after)
            cost.conv(bottleneck, outputs, kernel, after)
            units.append((before, outputs))
        else:
            for inputs, within in ((before, side), (outputs, after)):
                cost.conv(inputs, bottleneck, 1, within)
                cost.conv(bottleneck, bottleneck, kernel, after)
                cost.conv(bottleneck, outputs, 1, after)
                units.append((inputs, outputs))
        for unit, (inputs, result) in enumerate(units):
            strided = unit == 0 and stride == 2
            if links and (strided or inputs != result or (unit == 0 and layer == 0)):
                cost.conv(inputs, result, 1, after, bias=True)
        before, side, stride = outputs, after, 1


@dataclass(frozen=True)
class ZenNas(_PlainNet):
    """ZenNAS's space for CIFAR: residual blocks of dense convolutions or of bottlenecks, up to 18 layers.

    `links=False` builds the networks without residual links, as Zen-NAS scores them.
    """

    name: ClassVar[str] = "zennas"
    summary: ClassVar[str] = "ZenNAS's super-residual space for 32 x 32 images (ceiling 1 M parameters)"
    types: ClassVar[tuple[str, ...]] = ("bottleneck", "dense")
    expansions: ClassVar[tuple[int, ...]] = (1,)
    stem: ClassVar[tuple[int, int]] = (8, 1)
    head: ClassVar[int] = 128
    head_searched: ClassVar[bool] = True
    start: ClassVar[tuple[Start, ...]] = (Start(16, 1, 8), Start(32, 2, 16), Start(64, 2, 32), Start(64, 2, 32))
    most_layers: ClassVar[int] = 18
    ceilings: ClassVar[tuple[float | None, float | None]] = (1e6, None)

    classes: int = 100
    resolution: int = 32
    links: bool = True
    _costs: dict[tuple, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)


@dataclass(frozen=True)
class MobileNetV2(_PlainNet):
    """The MobileNetV2 space of ZiCo, AZ-NAS and VKDNW: inverted residual blocks, a fixed head, up to 14 layers."""

    name: ClassVar[str] = "mobilenetv2"
    summary: ClassVar[str] = "MobileNetV2 space of ZiCo, AZ-NAS, VKDNW (ceilings 450 M, 600 M, 1 G FLOPs)"
    types: ClassVar[tuple[str, ...]] = ("inverted",)
    expansions: ClassVar[tuple[int, ...]] = (1, 2, 4, 6)
    stem: ClassVar[tuple[int, int]] = (8, 2)
    head: ClassVar[int] = 2048
    head_searched: ClassVar[bool] = False
    start: ClassVar[tuple[Start, ...]] = (Start(32, 2, 8), Start(48, 2, 32), Start(96, 2, 48), Start(128, 2, 96))
    most_layers: ClassVar[int] = 14
    ceilings: ClassVar[tuple[float | None, float | None]] = (None, 450e6)

    classes: int = 1000
    resolution: int = 224
    links: bool = True
    _costs: dict[tuple, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)
