"""The ESFormer space: genes, counts and the plan of a network."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

from harness.errors import HarnessError, UnknownNameError
from harness.search.genes import SIZE, TOPOLOGY, Gene, Genotype, OpenSpace, Tally, grid, halved


@dataclass(frozen=True)
class Plan:
    """EfficientFormerV2 of one size: blocks a stage, their widths, blocks with attention, and the paper's ceiling.

    `expansions` are EfficientFormerV2's own, block by block: they name a member of the space to compare with.
    """

    depths: tuple[int, int, int, int]
    widths: tuple[int, int, int, int]
    attentions: int
    ceiling: float
    expansions: tuple[int, ...]


PLANS = {
    "S0": Plan((2, 2, 6, 4), (32, 48, 96, 176), 2, 3.5e6, (4,) * 4 + (4, 3, 3, 3, 4, 4) + (4, 3, 3, 4)),
    "S1": Plan((3, 3, 9, 6), (32, 48, 120, 224), 2, 6.0e6, (4,) * 6 + (4, 4, 3, 3, 3, 3, 4, 4, 4) + (4, 4, 3, 3, 4, 4)),
    "S2": Plan(
        (4, 4, 12, 8),
        (32, 64, 144, 288),
        4,
        12.5e6,
        (4,) * 8 + (4, 4, 3, 3, 3, 3, 3, 3, 4, 4, 4, 4) + (4, 4, 3, 3, 3, 3, 4, 4),
    ),
}
KERNELS = (3, 5, 7)
EXPANSIONS = (2, 3, 4, 5)
HEADS = (4, 6, 8)
HEAD_DIMS = (16, 24, 32)
EMBEDDING_HEADS, EMBEDDING_HEAD_DIM = 8, 16
VALUE_RATIO = 4
BLOCKS = ("ibn", "convnext")


@dataclass(frozen=True)
class EsFormer(OpenSpace):
    """The space of one size. `blocks=residual` adds the residual bottleneck of the paper's Table 5."""

    name: ClassVar[str] = "esformer"
    summary: ClassVar[str] = "ESFormer: hybrid transformers on EfficientFormerV2's plan, sizes S0, S1, S2"

    size: str = "S1"
    blocks: str = "plain"
    classes: int = 1000
    resolution: int = 224
    _costs: dict[tuple, tuple[int, int]] = field(default_factory=dict, compare=False, repr=False)

    def __post_init__(self) -> None:
        if self.size not in PLANS:
            raise UnknownNameError("size of esformer", self.size, PLANS)
        if self.blocks not in ("plain", "residual"):
            raise HarnessError(f"blocks={self.blocks!r} is neither 'plain' nor 'residual'")

    @property
    def ceilings(self) -> tuple[float | None, float | None]:  # type: ignore[override]
        return PLANS[self.size].ceiling, None

    @cached_property
    def genes(self) -> tuple[Gene, ...]:  # type: ignore[override]
        plan = PLANS[self.size]
        types = (*BLOCKS, "bottleneck") if self.blocks == "residual" else BLOCKS
        genes = []
        for stage, (depth, width) in enumerate(zip(plan.depths, plan.widths, strict=True)):
            for block in range(depth):
                here = f"s{stage + 1}b{block + 1}"
                attends = stage >= 2 and block >= depth - plan.attentions
                genes += [
                    Gene(f"{here}.block", TOPOLOGY, types),
                    Gene(f"{here}.kernel", TOPOLOGY, (3,) if attends else KERNELS),
                    Gene(f"{here}.width", SIZE, grid(width / 2, 1.25 * width)),
                    Gene(f"{here}.expansion", SIZE, EXPANSIONS),
                ]
                if attends:
                    genes += [
                        Gene(f"{here}.heads", TOPOLOGY, HEADS),
                        Gene(f"{here}.head_dim", SIZE, HEAD_DIMS),
                    ]
        return tuple(genes)

    @cached_property
    def _widths(self) -> tuple[int, ...]:
        return tuple(i for i, gene in enumerate(self.genes) if gene.name.endswith(".width"))

    def repaired(self, genotype: Genotype, place: int | None = None) -> Genotype:
        """Widths made non-decreasing: those before the moved one are lowered to it, those after it raised."""
        found = list(genotype)
        widths = [self.genes[i].options[genotype[i]] for i in self._widths]
        if place in self._widths:
            kept = self._widths.index(place)
            widths = [min(w, widths[kept]) if i < kept else w for i, w in enumerate(widths)]
        for i in range(1, len(widths)):
            widths[i] = max(widths[i - 1 : i + 1])
        for i, width in zip(self._widths, widths, strict=True):
            found[i] = self.genes[i].options.index(width)
        return tuple(found)

    def founder(self, rng: Any) -> Genotype:
        """Uniform values, the widths of all blocks sorted within each stage."""
        drawn = [rng.randint(len(gene.options)) for gene in self.genes]
        start = 0
        for depth in PLANS[self.size].depths:
            stage = self._widths[start : start + depth]
            for i, value in zip(stage, sorted(drawn[i] for i in stage), strict=True):
                drawn[i] = value
            start += depth
        return self.repaired(tuple(drawn))

    def reference(self) -> Genotype:
        """EfficientFormerV2's own widths and expansions, inverted bottlenecks of kernel 3, 8 heads of 32."""
        plan = PLANS[self.size]
        widths = iter([w for w, depth in zip(plan.widths, plan.depths, strict=True) for _ in range(depth)])
        expansions = iter(plan.expansions)
        wanted = {"block": lambda: "ibn", "kernel": lambda: 3, "width": lambda: next(widths)}
        wanted |= {"expansion": lambda: next(expansions), "heads": lambda: 8, "head_dim": lambda: 32}
        return tuple(gene.options.index(wanted[gene.name.rpartition(".")[2]]()) for gene in self.genes)

    def _layout(self, genotype: Genotype) -> tuple[int, list[tuple[Any, ...]], int]:
        """Channels of the stem, blocks as tuples of their kind and arguments, and the last width."""
        values = iter([gene.options[place] for gene, place in zip(self.genes, genotype, strict=True)])
        plan = PLANS[self.size]
        blocks: list[tuple[Any, ...]] = []
        side = halved(halved(self.resolution))
        stem = before = 0
        for stage, depth in enumerate(plan.depths):
            for block in range(depth):
                kind, kernel, width, expansion = next(values), next(values), next(values), next(values)
                if stem == 0:
                    stem = before = width
                elif block == 0:
                    if stage == 3:
                        blocks.append(("attention_embedding", before, width, EMBEDDING_HEADS, EMBEDDING_HEAD_DIM, side))
                    else:
                        blocks.append(("embedding", before, width, halved(side)))
                    side, before = halved(side), width
                if stage >= 2 and block >= depth - plan.attentions:
                    blocks.append(("attention", before, next(values), next(values), side, 2 if stage == 2 else 1))
                hidden = before * expansion
                if kind == "bottleneck":
                    hidden = max(8, round(before / expansion / 8) * 8)
                blocks.append(("feed_forward", kind, before, width, kernel, hidden, side))
                before = width
        return stem, blocks, before

    def plan(self, genotype: Genotype) -> dict[str, Any]:
        stem, blocks, width = self._layout(genotype)
        names = {
            "embedding": ("inputs", "outputs"),
            "attention_embedding": ("inputs", "outputs", "heads", "key_dim", "side"),
            "attention": ("width", "heads", "key_dim", "side", "stride"),
            "feed_forward": ("block", "inputs", "outputs", "kernel", "hidden"),
        }
        listed = [{"kind": kind, **dict(zip(names[kind], rest, strict=False))} for kind, *rest in blocks]
        return {"stem": stem, "blocks": listed, "width": width, "classes": self.classes}

    def network_module(self) -> Any:
        import harness.search.spaces.esformer.network as network

        return network

    def counts(self, genotype: Genotype) -> dict[str, float]:
        stem, blocks, width = self._layout(genotype)
        total = Tally()
        side = halved(self.resolution)
        total.conv(3, stem // 2, 3, side)
        total.conv(stem // 2, stem, 3, halved(side))
        for block in blocks:
            if block not in self._costs:
                cost = Tally()
                _COSTS[block[0]](cost, *block[1:])
                self._costs[block] = cost.params, cost.flops
            params, flops = self._costs[block]
            total.params += params
            total.flops += flops
        total.params += 2 * width
        total.linear(width, self.classes)
        return total.counts


def _embedding(cost: Tally, inputs: int, outputs: int, side: int) -> None:
    cost.conv(inputs, outputs, 3, side)


def _feed_forward(cost: Tally, kind: str, inputs: int, outputs: int, kernel: int, hidden: int, side: int) -> None:
    if kind == "ibn":
        cost.conv(inputs, hidden, 1, side)
        cost.conv(hidden, hidden, kernel, side, groups=hidden)
    elif kind == "convnext":
        cost.conv(inputs, inputs, kernel, side, groups=inputs)
        cost.conv(inputs, hidden, 1, side)
    else:
        cost.conv(inputs, hidden, 1, side)
        cost.conv(hidden, hidden, kernel, side)
    cost.conv(hidden, outputs, 1, side)


def _attention(cost: Tally, width: int, heads: int, key_dim: int, side: int, stride: int) -> None:
    outside = side
    if stride == 2:
        side = halved(side)
        cost.conv(width, width, 3, side, groups=width)
    keys, values = heads * key_dim, VALUE_RATIO * heads * key_dim
    for outputs in (keys, keys, values):
        cost.conv(width, outputs, 1, side)
    cost.conv(values, values, 3, side, groups=values)
    cost.params += heads * side**2
    for _ in range(2):  # the heads talk over a map of queries x keys
        cost.conv(heads, heads, 1, side**2, bias=True, norm=False)
    cost.conv(values, width, 1, outside)


def _attention_embedding(cost: Tally, inputs: int, outputs: int, heads: int, key_dim: int, side: int) -> None:
    small = halved(side)
    keys, values = heads * key_dim, VALUE_RATIO * heads * key_dim
    cost.conv(inputs, inputs, 3, small, groups=inputs, norm=False)
    cost.conv(inputs, keys, 1, small)
    cost.conv(inputs, keys, 1, side)
    cost.conv(inputs, values, 1, side)
    cost.conv(values, values, 3, small, groups=values)
    cost.params += heads * side**2
    cost.conv(values, outputs, 1, small)
    cost.conv(inputs, outputs, 3, small)


_COSTS = {
    "embedding": _embedding,
    "feed_forward": _feed_forward,
    "attention": _attention,
    "attention_embedding": _attention_embedding,
}
