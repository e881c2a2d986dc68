"""What a proxy declares."""

from __future__ import annotations

import inspect
import sys
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness import specs
from harness.errors import HarnessError, UnknownNameError, shown
from harness.probes.base import DTYPES, EncodingProbe, Probe
from harness.probes.initialise import SCHEMES

if TYPE_CHECKING:
    from harness.spaces.base import Space


def is_counted(proxy: Proxy) -> bool:
    """Whether a proxy is read from the encodings alone, without networks."""
    return all(isinstance(probe, EncodingProbe) for probe in proxy.needs())


def undeclared(cls: type[Proxy]) -> str | None:
    """What is wrong with the declaration of a proxy class, and the remedy; None where nothing is."""
    for word in ("name", "summary", "citation", "inputs"):
        if not isinstance(getattr(cls, word, None), str):
            return f'declares no {word}: write `{word}: ClassVar[str] = "…"` in the class'
    if cls.inputs not in INPUTS:
        return f"declares inputs {shown(cls.inputs)}: write one of {', '.join(INPUTS)}"
    version = getattr(cls, "version", None)
    if type(version) is not int or version not in VERSIONS:
        return f"declares version {shown(version)}: write a number of {VERSIONS.start} to {VERSIONS.stop - 1}"
    if inspect.isabstract(cls):
        return f"has no {' and no '.join(sorted(cls.__abstractmethods__))}: write the method"
    own = {} if "__dataclass_params__" in vars(cls) else inspect.get_annotations(cls)
    for name, kind in own.items():
        if "ClassVar" not in str(kind):  # a setting that would be no part of the identity of scores
            return f"has a setting {name} and is no dataclass: write @dataclass(frozen=True) above the class"
    return None


def unreadable(proxy: Proxy) -> str | None:
    """What is wrong with the passes that a proxy says it reads, and the remedy; None where nothing is."""
    needs = proxy.needs()
    remedy = 'return {GradientPass(): ("gradient_norm",)}, passes with what is read of each'
    if not isinstance(needs, Mapping) or not all(isinstance(probe, Probe) for probe in needs):
        return f"names no passes in needs(): {remedy}"
    if any(isinstance(names, str) or not isinstance(names, Collection) for names in needs.values()):
        return f"names in needs() what it reads of a pass by no tuple: {remedy}"
    return None


def at_least(least: int) -> range:
    """The whole numbers from `least` on."""
    return range(least, sys.maxsize)


#: What a proxy's version may be: stored scores count the space's in thousands beside it (`Proxy.version_on`).
VERSIONS = range(1000)

#: The mini-batches that a proxy may declare.
INPUTS = ("images", "random", "none")

#: What the settings that many proxies share may be; a proxy's own `choices` come first.
SHARED_CHOICES: Mapping[str, Collection] = {
    "init": SCHEMES,
    "dtype": DTYPES,
    **dict.fromkeys(("batch_size", "repeats", "resolution", "samples", "tensors"), at_least(1)),
}


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
    #: Whether the score depends on the last layer, which has an output a class. Where it does not, scores on noise are
    #: those of every dataset of a benchmark with images of the same shape: declared where they were found equal.
    reads_head: ClassVar[bool] = True
    #: By how much, relatively, a score may deviate on another processor or device, which rounds otherwise. Those that
    #: differ: some three times what torch's own convolutions instead of oneDNN's make of it on NAS-Bench-201, or code
    #: for AVX2 alone on any of the spaces.
    tolerance: ClassVar[float] = 1e-3
    #: Whether the score is a sum that cancels: its deviation counts relative to the median of |score| if that is more.
    cancels: ClassVar[bool] = False
    #: What has to be said wherever its figures stand, as of a definition that is not the authors'.
    caveat: ClassVar[str] = ""
    #: What a network has to have for the proxy to have a value, as `attention`; `Space.parts` says what a space's have.
    requires: ClassVar[str] = ""
    #: What a setting may be, by its name, where not all values of its type will do: names or a range of numbers.
    choices: ClassVar[Mapping[str, Collection]] = {}

    def version_on(self, space: Space) -> int:
        """What stored scores bear: `version`, and a thousand more for every change of the space's networks.

        A part of stored scores has two bytes for it.
        """
        return self.version + len(VERSIONS) * (space.version - 1)

    def __post_init__(self) -> None:
        """Raises HarnessError for a setting that is none of its choices, so that no run begins with one."""
        choices = {**SHARED_CHOICES, **self.choices}
        for setting in specs.settings_of(self):
            valid = choices.get(setting.name)
            value = getattr(self, setting.name)
            if valid is None or value in valid:
                continue
            if not isinstance(valid, range):
                raise UnknownNameError(f"{setting.name} of {self.name}", value, valid)
            least = f"at least {valid.start}" if valid.stop == sys.maxsize else f"{valid.start} to {valid.stop - 1}"
            raise HarnessError(f"proxy {self.name!r}: {setting.name}={value!r} must be {least}")

    @abstractmethod
    def needs(self) -> Mapping[Probe, tuple[str, ...]]:
        """The probes that the proxy reads, with the observables of each."""

    @abstractmethod
    def score(self, seen: Mapping[str, Any]) -> float:
        """The score from the observables asked for. Raises Unscorable; NaN and infinities become a status."""

    @property
    def label(self) -> str:
        """`name`, followed by `:key=value` for each setting that differs from its default."""
        return specs.label(self)
