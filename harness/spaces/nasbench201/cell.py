"""The cells of NAS-Bench-201: their text, what makes two of them one, and the stages that they stand in."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache

import numpy as np

from harness.errors import HarnessError

OPERATIONS = ("none", "skip_connect", "nor_conv_1x1", "nor_conv_3x3", "avg_pool_3x3")
NONE, SKIP, CONV1, CONV3, POOL = range(5)
PATHS = ((3,), (0, 4), (1, 5), (0, 2, 5))  # places in EDGES of each way from input to output
EDGES = ((0, 1), (0, 2), (1, 2), (0, 3), (1, 3), (2, 3))  # (from, to), in the order of the cell's string
CHANNELS = (16, 32, 64)
CELLS_PER_STAGE = 5


def encode(operations: Sequence[int]) -> str:
    """The cell's string `|op~0|+|op~0|op~1|+|op~0|op~1|op~2|` from its six operation codes in `EDGES` order."""
    terms = [f"{OPERATIONS[code]}~{source}" for code, (source, _) in zip(operations, EDGES, strict=True)]
    return "+".join("|" + "|".join(part) + "|" for part in (terms[:1], terms[1:3], terms[3:]))


def _columns(target: int) -> dict[str, int]:
    """The part of a cell's string that lists what enters node `target`, and its number: a digit an edge, base 5."""
    sources = range(target)
    parts = itertools.product(OPERATIONS, repeat=target)
    return {"|" + "".join(f"{op}~{s}|" for op, s in zip(ops, sources, strict=True)): i for i, ops in enumerate(parts)}


_FIRST, _SECOND, _THIRD = map(_columns, (1, 2, 3))
_CODES = np.array(list(itertools.product(range(len(OPERATIONS)), repeat=len(EDGES))), dtype=np.int8)


def _numbers(architectures: Iterable[str]) -> np.ndarray:
    """(n,) int64: the rows of `_CODES` that cells' strings stand for. Raises HarnessError for one that is malformed."""
    second, third = len(OPERATIONS) ** 5, len(OPERATIONS) ** 3

    def number(architecture: str) -> int:
        first, *rest = architecture.split("+")
        try:
            one, two = rest
            return _FIRST[first] * second + _SECOND[one] * third + _THIRD[two]
        except (KeyError, ValueError):
            raise HarnessError(
                f"{architecture!r} is not a NAS-Bench-201 cell: write it as |op~0|+|op~0|op~1|+|op~0|op~1|op~2| "
                f"with operations {', '.join(OPERATIONS)}"
            ) from None

    return np.fromiter(map(number, architectures), dtype=np.int64)


def decode(architecture: str) -> tuple[int, ...]:
    """Six operation codes (indices into `OPERATIONS`, in `EDGES` order). Raises HarnessError if malformed."""
    return tuple(_CODES[_numbers([architecture])[0]].tolist())


class Cells(list[str]):
    """A benchmark's cells, which never change: their codes are read off the strings once."""

    @cached_property
    def codes(self) -> np.ndarray:
        """(n, 6) int8 operation codes."""
        return _CODES[_numbers(self)]


def enumerate_cells() -> list[str]:
    """All 15,625 cells, in the order of their operation codes (not the benchmark's own numbering)."""
    return list(map(encode, _CODES))


def codes_of(architectures: Sequence[str]) -> np.ndarray:
    return architectures.codes if isinstance(architectures, Cells) else _CODES[_numbers(architectures)]


def has_no_dead_operation(codes: np.ndarray) -> np.ndarray:
    """For codes (n, 6): whether every operation that is not `none` lies on a path from input to output.

    This is the population of VKDNW's Table 1 and of GRAF: 9,445 of the 15,625 cells. The cell of six `none`
    has no operation that could be dead, and is counted in.
    """
    present = codes != NONE
    reached = np.zeros((len(codes), 4), dtype=bool)
    reached[:, 0] = True
    for edge, (source, target) in enumerate(EDGES):
        reached[:, target] |= present[:, edge] & reached[:, source]
    leads = np.zeros_like(reached)
    leads[:, 3] = True
    for edge in (5, 4, 2, 3, 1, 0):  # targets before sources
        source, target = EDGES[edge]
        leads[:, source] |= present[:, edge] & leads[:, target]
    alive = np.stack([reached[:, s] & leads[:, t] for s, t in EDGES], axis=1)
    return (alive | ~present).all(axis=1)


@lru_cache(maxsize=40_000)  # two keys for each cell
def cell_key(codes: tuple[int, ...], keep_dead: bool, strided: bool = False) -> str:
    """Canonical text of the cell as a DAG of its parametric operations and poolings.

    With `strided` it is a cell of stride 2, in which a skip of the cell's input has weights.

    Skips dissolve into the sums that they feed, `none` contributes nothing, and two poolings of the same sum
    are one term; two convolutions of the same sum stay two, having weights of their own. A convolution whose
    input is empty is kept: its BatchNorm still adds a constant. Isomorphic DAGs get one text: instances are
    put in an order that the structure decides, trying all orders where it does not.
    """
    operations: list[int] = []
    inputs: list[tuple[int, ...]] = []  # per instance the sorted multiset of its terms; -1 is the cell's input
    terms: list[list[int]] = [[-1], [], [], []]
    known_pools: dict[tuple[int, ...], int] = {}
    for code, (source, target) in zip(codes, EDGES, strict=True):
        feed = tuple(sorted(terms[source]))
        if code == NONE or (code == POOL and not feed):
            continue
        if code == SKIP and not (strided and source == 0):
            terms[target].extend(terms[source])
            continue
        if code == POOL and feed in known_pools:
            terms[target].append(known_pools[feed])
            continue
        if code == POOL:
            known_pools[feed] = len(operations)
        terms[target].append(len(operations))
        operations.append(code)
        inputs.append(feed)
    output = tuple(sorted(terms[3]))

    live: set[int] = set()
    stack = [i for i in output if i >= 0]
    if keep_dead:
        stack += [i for i, code in enumerate(operations) if code != POOL]
    while stack:
        instance = stack.pop()
        if instance not in live:
            live.add(instance)
            stack.extend(i for i in inputs[instance] if i >= 0)

    # Depth-first labels say how an instance is made, and appearances how it is used; equal ones are permuted.
    kept = sorted(live)  # inputs before what they feed
    depth, made = {-1: 0}, {-1: (-1,)}
    uses: dict[int, list[tuple]] = {instance: [] for instance in (-1, *kept)}
    for instance in kept:
        depth[instance] = 1 + max((depth[i] for i in inputs[instance]), default=0)
        made[instance] = (operations[instance], *sorted(made[i] for i in inputs[instance]))
        for i in inputs[instance]:
            uses[i].append(made[instance])
    profile = {i: (depth[i], made[i], output.count(i), tuple(sorted(uses[i]))) for i in kept}
    groups = [
        list(members) for _, members in itertools.groupby(sorted(kept, key=profile.__getitem__), profile.__getitem__)
    ]
    best = None
    for order in itertools.product(*(itertools.permutations(group) for group in groups)):
        flat = list(itertools.chain(*order))
        rank = {-1: -1, **{instance: place for place, instance in enumerate(flat)}}
        text = (
            tuple((operations[i], tuple(sorted(rank[j] for j in inputs[i]))) for i in flat),
            tuple(sorted(rank[j] for j in output)),
        )
        if best is None or text < best:
            best = text
    body = ";".join(f"{OPERATIONS[op]}({','.join(map(str, feed))})" for op, feed in best[0])
    return f"{body}>{','.join(map(str, best[1]))}"


def unique_string(codes: Sequence[int]) -> str:
    """Dong & Yang's name of a cell up to isomorphism, of which there are 6,466 (`get_unique_str` of NATS-Bench's API).

    Each node is written as the sorted sum of what enters it: `#` for a `none` and for whatever reads a node that is
    written `#`, the node's own text for a skip, and `(text)@operation` for the rest; the last node's is the cell's.
    As a text it does not say whether two equal terms are one operation or two, and it keeps count of the zeros:
    docs/canonical_forms.md compares it with `NasBench201.canonical`.
    """
    texts, terms = ["0"], [[], [], [], []]
    for code, (source, target) in zip(codes, EDGES, strict=True):
        if len(texts) <= source:
            texts.append("+".join(sorted(terms[source])))
        text = texts[source]
        if code == NONE or text == "#":
            terms[target].append("#")
        else:
            terms[target].append(text if code == SKIP else f"({text})@{OPERATIONS[code]}")
    return "+".join(sorted(terms[-1]))


def stage_sides(resolution: int) -> list[int]:
    """Side of the feature maps in each stage: a stride of 2 rounds up in the 3x3 convolutions."""
    sides = [resolution]
    for _ in CHANNELS[1:]:
        sides.append((sides[-1] + 1) // 2)
    return sides


def skip_spans(codes: np.ndarray) -> np.ndarray:
    """Of cells (n, 6) the mean over skip connections i -> j of the nodes between, j - 1 - i; 0 without any."""
    spans = np.array([target - 1 - source for source, target in EDGES])
    skips = codes == SKIP
    return (skips @ spans) / np.maximum(skips.sum(axis=1), 1)
