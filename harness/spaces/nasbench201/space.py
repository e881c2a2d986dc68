"""NAS-Bench-201: populations, counts and graph features."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from harness.spaces.base import Operation, Space
from harness.spaces.nasbench201.cell import (
    CELLS_PER_STAGE,
    CHANNELS,
    CONV1,
    CONV3,
    EDGES,
    NONE,
    OPERATIONS,
    PATHS,
    POOL,
    SKIP,
    Cells,
    cell_key,
    codes_of,
    decode,
    encode,
    has_no_dead_operation,
    skip_spans,
    stage_sides,
    unique_string,
)

if TYPE_CHECKING:
    from torch import nn

# NASLib writes a cell as six numbers: its own order of operations, on its own order of edges.
NASLIB_OPERATIONS = ("skip_connect", "none", "nor_conv_3x3", "nor_conv_1x1", "avg_pool_3x3")
NASLIB_EDGES = ((0, 1), (0, 2), (0, 3), (1, 2), (1, 3), (2, 3))

_NASLIB = re.compile(r"[\[(]\s*" + r"\s*,\s*".join(["([0-4])"] * len(NASLIB_EDGES)) + r"\s*,?\s*[\])]", re.ASCII)


class NasBench201(Space):
    """The 15,625 cells of NAS-Bench-201.

    `no_dead_ops` names the 9,445 that VKDNW and GRAF rank, `unique_strings` the first cell of each of the 6,466
    classes that the literature counts (`unique_string`); `unique` has one of each canonical form.
    """

    name = "nasbench201"
    parts = frozenset({"skip connections to choose"})
    populations = ("all", "unique", "no_dead_ops", "unique_strings")

    def encodings(self, columns: Mapping[str, np.ndarray]) -> Cells:
        (column,) = columns.values()
        return Cells(column.tolist())

    def members(self) -> list[str]:
        return [encode(codes) for codes in itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))]

    def parse(self, text: str) -> str:
        """The cell's string, from itself or from NASLib's tuple of six numbers (`nasbench201/conversions.py`)."""
        naslib = _NASLIB.fullmatch(text.strip())
        if naslib:
            named = {e: NASLIB_OPERATIONS[int(number)] for e, number in zip(NASLIB_EDGES, naslib.groups(), strict=True)}
            return encode([OPERATIONS.index(named[edge]) for edge in EDGES])
        decode(text.strip())
        return text.strip()

    def canonical(self, architecture: str) -> str:
        return cell_key(decode(architecture), keep_dead=False)

    def network_key(self, architecture: str) -> str:
        return cell_key(decode(architecture), keep_dead=True)

    def in_population(self, population: str, architectures: Sequence[str]) -> np.ndarray:
        if population == "no_dead_ops":
            return has_no_dead_operation(codes_of(architectures))
        if population == "unique_strings":
            strings = [unique_string(codes) for codes in codes_of(architectures).tolist()]
            return np.isin(np.arange(len(strings)), np.unique(strings, return_index=True)[1])
        return super().in_population(population, architectures)

    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        codes = codes_of(architectures)
        ones = (codes == CONV1).sum(axis=1).astype(np.float64)
        threes = (codes == CONV3).sum(axis=1).astype(np.float64)
        sides = stage_sides(resolution)
        params = 27 * CHANNELS[0] + 2 * CHANNELS[0] + 2 * CHANNELS[-1] + (CHANNELS[-1] + 1) * num_classes
        flops = 27 * CHANNELS[0] * sides[0] ** 2 + CHANNELS[-1] * num_classes
        for before, after, side in zip(CHANNELS, CHANNELS[1:], sides[1:], strict=False):
            weights = 9 * before * after + 9 * after * after + before * after
            params += weights + 4 * after
            flops += weights * side**2
        params = params + np.zeros_like(ones)
        flops = flops + np.zeros_like(ones)
        pools = (codes == POOL).sum(axis=1)
        maps = [width * side**2 for width, side in zip(CHANNELS, sides, strict=True)]
        # BatchNorm 2 an element, ReLU 1, pooling its window: stem, reductions, and the end of the network.
        elementwise = 2 * maps[0] + 3 * maps[-1] + np.zeros_like(ones)
        for width, before, after in zip(CHANNELS, maps, maps[1:], strict=False):
            elementwise += before + 2 * after + after + 2 * after + 4 * width * after // (2 * width)
        for width, side in zip(CHANNELS, sides, strict=True):
            weights = CELLS_PER_STAGE * width * width * (ones + 9 * threes)
            params += weights + CELLS_PER_STAGE * 2 * width * (ones + threes)
            flops += weights * side**2
            elementwise += CELLS_PER_STAGE * width * side**2 * (3 * (ones + threes) + 9 * pools)
        cells = CELLS_PER_STAGE * len(CHANNELS)
        return {
            "params": params,
            "flops": flops,
            "elementwise": elementwise,
            "trainable_layers": 2 + 3 * (len(CHANNELS) - 1) + cells * (ones + threes),
            "parameter_tensors": 7 + 7 * (len(CHANNELS) - 1) + 3 * cells * (ones + threes),
        }

    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        codes = codes_of(architectures)
        targets = np.array([target for _, target in EDGES])
        arriving = np.stack([((codes != NONE) & (targets == t)).sum(axis=1) for t in targets], axis=1)
        summed = arriving > 1
        counts = {
            ("convolution", 1): (codes == CONV1).sum(axis=1),
            ("convolution", 3): (codes == CONV3).sum(axis=1),
            ("pooling", 3): (codes == POOL).sum(axis=1),
            ("skip", 1): ((codes == SKIP) & summed).sum(axis=1),
            ("skip", 0): ((codes == SKIP) & ~summed).sum(axis=1),
        }
        kinds, columns = [], []
        for channels, side in zip(CHANNELS, stage_sides(resolution), strict=True):
            for (kind, detail), count in counts.items():
                kinds.append(Operation(kind, max(detail, 1), channels, side, kind == "skip" and detail == 1))
                columns.append(CELLS_PER_STAGE * count)
        return tuple(kinds), np.stack(columns, axis=1).astype(np.float64)

    def skip_spans(self, architectures: Sequence[str]) -> np.ndarray:
        return skip_spans(codes_of(architectures))

    def graph_features(self, architectures: Sequence[str]) -> dict[str, np.ndarray]:
        """GRAF's features (Kadlecova et al., ICML 2024) by name, each (n, f) float64.

        `op_count` of each operation, and for each of the 31 sets of operations, `none` being one:

        - `min_path_len`: edges of the shortest way from input to output of the set alone, 5 where there is none
        - `max_op_on_path`: edges of the set on the way where they outnumber the others most, the shortest of such ways
        - `max_path_len`: edges of the longest way of the set alone, -1 where there is none
        - `node_degree`: edges of the set that leave the input, that reach the output, and twice their mean by node

        Equal on all 15,625 cells to gabikadlecova/zc_combine @ 097bf9b, which made the file that the authors released;
        `max_path_len` is what the code calls `max_op_on_path` since @ 3b43e47.
        """
        codes = codes_of(architectures)
        found: dict[str, list[np.ndarray]] = {
            "op_count": [(codes == code).sum(axis=1) for code in range(len(OPERATIONS))]
        }
        found.update({"min_path_len": [], "max_op_on_path": [], "max_path_len": [], "node_degree": []})
        places = np.arange(len(codes))
        for size in range(1, len(OPERATIONS) + 1):
            for chosen in itertools.combinations(range(len(OPERATIONS)), size):
                inside = np.isin(codes, chosen)
                open_ways = [inside[:, path].all(axis=1) for path in PATHS]
                for name, least, none in (("min_path_len", np.min, 5), ("max_path_len", np.max, -1)):
                    lengths = [np.where(way, len(path), none) for way, path in zip(open_ways, PATHS, strict=True)]
                    found[name].append(least(lengths, axis=0))
                within = np.stack([inside[:, path].sum(axis=1) for path in PATHS], axis=1)
                surplus = 2 * within - [len(path) for path in PATHS]
                best = (10 * surplus - [len(path) for path in PATHS]).argmax(axis=1)
                found["max_op_on_path"].append(within[places, best])
                mean = inside.sum(axis=1) / 4
                degrees = [inside[:, (0, 1, 3)].sum(axis=1), inside[:, (3, 4, 5)].sum(axis=1), mean, mean]
                found["node_degree"] += degrees
        return {name: np.stack(columns, axis=1).astype(np.float64) for name, columns in found.items()}

    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        from harness.spaces.nasbench201.network import Network

        codes = decode(architecture)
        return Network(codes, num_classes, (1, 2, 4), 1) if thin else Network(codes, num_classes)

    def build_biased(self, architecture: str, num_classes: int) -> nn.Module:
        """As Zero-Cost NAS, whose cells' BatchNorms are built without a scale and their convolutions with biases."""
        from harness.spaces.nasbench201.network import Network

        return Network(decode(architecture), num_classes, biases=True)

    def build_regions(self, architecture: str, num_classes: int) -> nn.Module:
        """One cell of one channel, as TE-NAS's `model_config_thin` (C = 1, depth = 1, no stem)."""
        from harness.spaces.nasbench201.network import OneCell

        return OneCell(decode(architecture), num_classes)
