"""What a proxy declares, and how a proxy is named together with its settings."""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.errors import HarnessError, UnknownNameError
from harness.probes.base import Probe


@dataclass(frozen=True)
class Proxy(ABC):
    """A pure function from observations to one score; higher is better.

    Subclasses are frozen dataclasses. Their fields are the proxy's settings and part of its scores' identity;
    the class variables are its declaration.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    citation: ClassVar[str]
    #: Raised whenever the definition changes: stored scores of another version are not used.
    version: ClassVar[int] = 1
    #: Mini-batches that the paper scores with: `images`, `random`, or `none` when the proxy reads none.
    inputs: ClassVar[str]
    #: +1 where the paper ranks by the value as it is, -1 where it ranks by its negative (the score is negated).
    sign: ClassVar[int] = 1
    #: Whether the score depends on a random draw (weights or inputs).
    random: ClassVar[bool] = True
    #: By how much, relatively, a score may deviate on another processor or device, which rounds otherwise. Those that
    #: differ: some three times what torch's own convolutions instead of oneDNN's make of it on NAS-Bench-201.
    tolerance: ClassVar[float] = 1e-3
    #: Whether the score is a sum that cancels: its deviation counts relative to the median of |score| if that is more.
    cancels: ClassVar[bool] = False

    @abstractmethod
    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        """The probes that the proxy reads, with the observables of each."""

    @abstractmethod
    def score(self, seen: Mapping[str, Any]) -> float:
        """The score from the observables asked for. Raises Unscorable; NaN and infinities become a status."""

    @property
    def label(self) -> str:
        """`name`, followed by `:key=value` for each setting that differs from its default."""
        changed = [
            f":{field.name}={getattr(self, field.name)}"
            for field in sorted(dataclasses.fields(self), key=lambda f: f.name)
            if getattr(self, field.name) != field.default
        ]
        return self.name + "".join(changed)


def configure(cls: type[Proxy], settings: Mapping[str, str]) -> Proxy:
    """The proxy with `settings` given as text, converted to the types of its fields.

    Raises UnknownNameError for an unknown setting, HarnessError for a value that is not of the field's type.
    """
    defaults = {field.name: field.default for field in dataclasses.fields(cls)}
    values = {}
    for name, text in settings.items():
        if name not in defaults:
            raise UnknownNameError(f"setting of proxy {cls.name!r}", name, defaults)
        kind = type(defaults[name])
        try:
            values[name] = {"True": True, "False": False}[text.capitalize()] if kind is bool else kind(text)
        except (KeyError, ValueError) as error:
            raise HarnessError(
                f"proxy {cls.name!r}: setting {name}={text!r} is no {kind.__name__}; the default is {defaults[name]!r}"
            ) from error
    return cls(**values)
