"""What an entry of the table is: a network as users write it, and the same network of plain modules."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

CLASSES = 5


class Base(nn.Module):
    """A network in two styles: `plain` calls a module of its own for each activation, out of place.

    `acts`: kinds of the activations of the plain style, in order.
    """

    def __init__(self, plain: bool, acts: list[type] | int = 8):
        super().__init__()
        self.plain = plain
        kinds = [nn.ReLU] * acts if isinstance(acts, int) else acts
        self.acts = nn.ModuleList([kind() for kind in kinds])

    def act(self, place: int, x: torch.Tensor, function: Callable[[torch.Tensor], torch.Tensor]) -> torch.Tensor:
        return self.acts[place](x) if self.plain else function(x)


@dataclass(frozen=True)
class Kind:
    """An entry.

    Attributes:
        make: of `plain`, a network: the user's own and its twin, whose scores have to be equal.
        without: by the start of a status what has none; a name stands for all settings of a proxy.
        stages: names of the modules that AZ-NAS reads.
        keep: the weights that the networks come with are scored.
        apart: specs that the twin does not serve, as it holds other parameters: the written-out reference does.
        refused: what the one HarnessError of the call says, where the network is refused as a whole.
    """

    make: Callable[[bool], nn.Module]
    shape: tuple[int, int, int] = (3, 8, 8)
    without: Mapping[str, str] = field(default_factory=dict)
    stages: tuple[str, ...] = ()
    keep: bool = False
    apart: tuple[str, ...] = ()
    refused: str = ""


KINDS: dict[str, Kind] = {}


def entry(name: str, **options) -> Callable[[type], type]:
    """Adds a class of `plain` to the table."""

    def add(make: Callable[[bool], nn.Module]) -> Callable[[bool], nn.Module]:
        KINDS[name] = Kind(make, **options)
        return make

    return add


NO_RELU = {
    **dict.fromkeys(("naswot", "layerwise_naswot", "nregions", "t_cet:codes=relu"), "the network computes no ReLU"),
    "swap": "no four-dimensional ReLU output",
}
NO_STAGES = dict.fromkeys(("az_expressivity", "az_progressivity", "az_trainability"), "the network names no stages")
TOKENS = {"zen": "what the classifier reads are tokens"}
