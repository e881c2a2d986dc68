"""What every search space offers: encodings, identity, counts without a network, and the network."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.errors import HarnessError, Unscorable

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class Operation:
    """A kind of operation in a network.

    Attributes:
        kind: `convolution`, `pooling` or `skip`.
        kernel: side of its window (1 for a skip).
        channels: channels that it reads.
        side: side of the square feature map that it reads.
        summed: whether its output is added to that of another operation.
    """

    kind: str
    kernel: int
    channels: int
    side: int
    summed: bool = False


#: What networks end in whose last layer is linear, for classes and for numbers; `Dataset.head` names the others.
LINEAR, REGRESSION = "linear", "regression"


class Space(ABC):
    """A set of architectures. An architecture is named by its encoding, a string as the field writes it."""

    name: str
    #: Raised whenever a network of the space changes: scores of the old ones are not used (`Proxy.version_on`).
    version: int = 1
    populations: tuple[str, ...] = ("all", "unique")
    #: Whether no two members of a benchmark share a `network_key`, so that none needs to be computed to know.
    distinct: bool = False
    #: What the networks have besides convolutions, as `attention` or `skip connections to choose`: what a proxy may
    #: require.
    parts: frozenset[str] = frozenset()
    #: What the networks can end in, and what they do (`ending_in`).
    heads: frozenset[str] = frozenset({LINEAR, REGRESSION})
    head: str = LINEAR

    def ending_in(self, head: str) -> Space:
        """The space with networks that end in `head`. Raises HarnessError for one that is none of `heads`."""
        if head not in self.heads:
            raise HarnessError(f"networks of space {self.name} end in {', '.join(sorted(self.heads))}, not in {head!r}")
        if head == self.head:
            return self
        space = copy.copy(self)
        space.head = head
        return space

    def configure(self, network: Mapping[str, Any]) -> Space:
        """The space with the network of one benchmark: `network` is what its card says under that name.

        Raises:
            HarnessError: a setting that the space does not have, or a value that it cannot take.
        """
        if network:
            raise HarnessError(f"space {self.name} has no setting {min(network)!r}: leave `network` out of the card")
        return self

    def encodings(self, columns: Mapping[str, np.ndarray]) -> Sequence[str]:
        """The encodings in index order from the columns that a benchmark's card names under `encoding`.

        A space with many members may return a sequence that makes each string when it is asked for.
        """
        (column,) = columns.values()
        return column.tolist()

    def members(self) -> Sequence[str]:
        """All architectures in the space's own numbering, for a benchmark whose card names no `encoding`.

        Raises:
            HarnessError: the space is not listed in full.
        """
        raise HarnessError(f"space {self.name} does not list its members: name `encoding` in the card")

    @abstractmethod
    def parse(self, text: str) -> str:
        """The encoding that `text` stands for. Raises HarnessError where it is not a member of the space."""

    @abstractmethod
    def canonical(self, architecture: str) -> str:
        """A key equal for two architectures that compute the same function of their weights."""

    @abstractmethod
    def network_key(self, architecture: str) -> str:
        """A key equal for two architectures whose networks are alike to every proxy.

        Finer than `canonical`: operations that cannot reach the output change no function but do change
        counts and saliencies, so they stay in this key. Scores are shared, and seeds are drawn, per key.
        """

    @abstractmethod
    def topology(self, architectures: Sequence[str], num_classes: int, resolution: int) -> dict[str, np.ndarray]:
        """Counts from the encodings alone, vectorised, one float64 array of (n,) a name.

        `params` trainable parameters, `flops` multiply-accumulates of convolutions and linear layers for
        one image of `resolution` x `resolution`, `elementwise` what other counters add to them (2 an element for
        a normalisation, 1 for a ReLU, the window for a pooling), `trainable_layers` convolutions + linear layers,
        `parameter_tensors` named parameters of the network. `all_params` beside them where the networks have parameters
        that no gradient reaches, which `params` leaves out.
        """

    @abstractmethod
    def operations(self, architectures: Sequence[str], resolution: int) -> tuple[tuple[Operation, ...], np.ndarray]:
        """The m kinds of operations of the searched blocks, and how often each occurs: (n, m) float64."""

    @abstractmethod
    def build(self, architecture: str, num_classes: int, thin: bool = False) -> nn.Module:
        """The benchmark's own network, in train mode on the CPU, weights as torch makes them by default.

        `thin` asks for the same topology at one channel (doubled where the space doubles) and one cell a
        stage, in which linear regions are counted; a space without such a network builds the full one.
        The `stages` property of the network lists the submodules whose outputs AZ-NAS reads, in order.
        """

    def build_cell(self, architecture: str, num_classes: int) -> nn.Module | None:
        """One cell that reads the images themselves, in which SWAP's authors count patterns; None where there is none.

        Stages as those of `build`.
        """
        return None

    def build_biased(self, architecture: str, num_classes: int) -> nn.Module | None:
        """The network of `build` with biases in the convolutions of its cells, as Zero-Cost NAS scores them.

        None for a space whose network Zero-Cost NAS does not build so.
        """
        return None

    def build_regions(self, architecture: str, num_classes: int) -> nn.Module | None:
        """The cells without a stem that read images of one channel, in which TE-NAS counts linear regions.

        Stages as those of `build`. None for a space that TE-NAS does not search.
        """
        return None

    def graph_features(self, architectures: Sequence[str]) -> dict[str, np.ndarray]:
        """GRAF's features of the cells' graphs, (n, f) by name. Raises HarnessError where the space defines none."""
        raise HarnessError(f"space {self.name} defines no graph features: leave out the rankings learned on them")

    def skip_spans(self, architectures: Sequence[str]) -> np.ndarray:
        """Mean over a cell's skip connections i -> j of the nodes between, j - 1 - i: (n,) float64, 0 without skips.

        Raises Unscorable where no operation of the space is a skip between numbered nodes.
        """
        raise Unscorable(f"space {self.name} has no skip connections to choose")

    def in_population(self, population: str, architectures: Sequence[str]) -> np.ndarray:
        """Boolean (n,) of the members of a population that the space itself names (not `all`, `unique`, samples)."""
        raise KeyError(population)
