"""Cards of benchmarks: read from YAML and held against the schema below, so that a mistake in one is a line of words.

A card may be anybody's. It is read without YAML's aliases, by which a few bytes stand for gigabytes, and what it says
wrongly is named by file and line.
"""

from __future__ import annotations

import dataclasses
import math
import re
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.errors import HarnessError, UnknownNameError, cause, shown
from harness.paths import read_bytes

if TYPE_CHECKING:
    import numpy as np

#: Bytes that a card may have: ten times the longest.
_MOST_BYTES = 2**17
#: A file beside the card.
_FILE = re.compile(r"[\w][\w.+-]*")


@dataclass(frozen=True)
class DatasetCard:
    """What the networks are built for: number of classes, side of the images in pixels, and what they end in."""

    classes: int
    resolution: int
    head: Literal["linear", "regression", "segmentation", "normals", "reconstruction"] = "linear"


@dataclass(frozen=True)
class PopulationCard:
    """A population: the column that says who is in it, and a sentence.

    The column is boolean; or, with `least` or `most` or both, of numbers, and those within the bounds are in it.
    """

    column: str
    text: str
    least: float | None = None
    most: float | None = None


@dataclass(frozen=True)
class FiguresCard:
    """Columns of a further table that are of one kind and unit."""

    kind: str
    unit: str
    better: Literal["higher", "lower"]
    columns: list[str]


@dataclass(frozen=True)
class TableCard:
    """A further table of figures of the same architectures."""

    sha256: str
    dataset: str
    figures: list[FiguresCard]
    title: str = ""
    notes: str = ""
    origin: str = ""
    licence: str = ""
    citation: str = ""


@dataclass(frozen=True)
class KnownValueCard:
    """A figure that a column is known to have."""

    dataset: str
    target: str
    statistic: str
    value: float
    tolerance: float


@dataclass(frozen=True)
class Card:
    """A card as a whole; `docs/add_a_benchmark.md` says what each key means."""

    title: str
    space: str
    rows: int
    datasets: dict[str, DatasetCard]
    sha256: str | None = None
    encoding: str | list[str] = field(default_factory=list)
    default_target: str | None = None
    targets: dict[str, dict[str, str]] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    network: dict[str, str | int] = field(default_factory=dict)
    tables: dict[str, TableCard] = field(default_factory=dict)
    populations: dict[str, PopulationCard] = field(default_factory=dict)
    repeated: int = 0
    same_as: str | None = None
    scores_of: str | None = None
    known_values: list[KnownValueCard] = field(default_factory=list)
    notes: str = ""
    origin: str = ""
    licence: str = ""
    citation: str = ""


#: What whole numbers may be, by key: least and most.
_RANGES = {"rows": (1, 2**24), "classes": (1, 10**6), "resolution": (1, 4096), "repeated": (0, 2**24)}


def read_card(path: Path) -> dict[str, Any]:
    """What a card says, by key, as plain containers.

    A card with `same_as` may leave out any key.

    Raises:
        HarnessError: no readable file or no YAML, a key that is missing, unknown or twice there, a value of another
            kind or range, targets of no dataset. It names the file and, where it can, the line.
    """
    node, content = _read(path)
    if not isinstance(content, dict):
        raise HarnessError(f"{path}: a card is made of keys with values, such as `title: …`")
    checker = _Checker(path)
    checker.fields(Card, content, node, partial="same_as" in content)
    _check_names(checker, content, node)
    return content


def _read(path: Path) -> tuple[Any, Any]:
    """The nodes of a YAML file, and what they stand for."""
    import yaml

    class Loader(yaml.SafeLoader):
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise yaml.MarkedYAMLError(None, None, "aliases are not read", self.peek_event().start_mark)
            return super().compose_node(parent, index)

    try:
        text = read_bytes(path, _MOST_BYTES).decode("utf-8")
        loader = Loader(text)
        node = loader.get_single_node()
        return node, None if node is None else loader.construct_document(node)
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror or cause(error)})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f":{mark.line + 1}" if mark else ""
        raise HarnessError(
            f"{path}{line} is no YAML ({(error.problem or error.context)[:100]}): mend that line"
        ) from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise HarnessError(f"{path} is no YAML ({cause(error)[:100]}): mend it") from error


class _Checker:
    """Holds values against types; `fail` names the line of the node at fault."""

    def __init__(self, path: Path):
        self.path = path

    def fail(self, node: Any, what: str) -> typing.NoReturn:
        raise HarnessError(f"{self.path}:{node.start_mark.line + 1}: {what}")

    def fields(self, schema: type, value: Any, node: Any, partial: bool = False) -> None:
        """Hold a mapping against the fields of a dataclass; `partial`: any may be missing."""
        if not isinstance(value, dict):
            self.fail(node, f"{shown(value)} stands where keys are needed: {', '.join(_names(schema))}")
        kinds = typing.get_type_hints(schema)
        for name, child in self.pairs(node):
            if name not in kinds:
                try:
                    raise UnknownNameError("key", name, kinds)
                except UnknownNameError as error:
                    self.fail(child, str(error))
            self.value(kinds[name], value[name], child, name)
        needed = [f.name for f in dataclasses.fields(schema) if _is_needed(f)]
        missing = [name for name in needed if name not in value]
        if missing and not partial:
            self.fail(node, f"{missing[0]} is missing: add `{missing[0]}: …`")

    def pairs(self, node: Any) -> list[tuple[str, Any]]:
        """The keys of a mapping, as text, with the nodes of their values."""
        found: dict[str, Any] = {}
        for key, child in node.value:
            if key.tag != "tag:yaml.org,2002:str":
                self.fail(key, "a key that is no text: quote it")
            if key.value in found:
                self.fail(key, f"{shown(key.value)} is there twice: remove one")
            found[key.value] = child
        return list(found.items())

    def value(self, kind: Any, value: Any, node: Any, name: str) -> None:
        """Hold a value against a type: of text, numbers, dataclasses, and containers and unions of these."""
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if dataclasses.is_dataclass(kind):
            self.fields(kind, value, node)
        elif origin is dict:
            if not isinstance(value, dict):
                self.fail(node, f"{name} is {shown(value)}: give keys with values")
            for key, child in self.pairs(node):
                self.value(arguments[1], value[key], child, key)
        elif origin is list:
            if not isinstance(value, list):
                self.fail(node, f"{name} is {shown(value)}: give a list")
            for entry, child in zip(value, node.value, strict=True):
                self.value(arguments[0], entry, child, name)
        elif origin is Literal:
            if value not in arguments:
                self.fail(node, f"{name} is {shown(value)}: give {' or '.join(arguments)}")
        elif origin in (types.UnionType, typing.Union):
            self.union([one for one in arguments if one is not types.NoneType], value, node, name)
        else:
            self.plain(kind, value, node, name)

    def union(self, kinds: list[Any], value: Any, node: Any, name: str) -> None:
        fitting = [kind for kind in kinds if isinstance(value, typing.get_origin(kind) or kind)]
        self.value((fitting or kinds)[0], value, node, name)

    def plain(self, kind: type, value: Any, node: Any, name: str) -> None:
        if kind is str:
            if not isinstance(value, str) or not value.strip():
                self.fail(node, f"{name} is {shown(value)}: give text, in quotes where YAML reads something else")
        elif kind is int:
            least, most = _RANGES.get(name, (-(2**31), 2**31))
            if type(value) is not int or not least <= value <= most:
                self.fail(node, f"{name} is {shown(value)}: give a whole number in [{least}, {most}]")
        elif not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e300:
            self.fail(node, f"{name} is {shown(value)}: give a finite number")


def kind_of(population: dict[str, Any]) -> str:
    """The kind of a population's column (`fault_of`): a `number` where it is given by bounds, else a `member`."""
    return "number" if "least" in population or "most" in population else "member"


def are_in(population: dict[str, Any], values: np.ndarray) -> np.ndarray:
    """Who is in a population, by the values (n,) of its column: boolean (n,). Where a number is missing nobody is."""
    if kind_of(population) == "member":
        return values
    return (values >= population.get("least", -math.inf)) & (values <= population.get("most", math.inf))


def _names(schema: type) -> list[str]:
    return [f.name for f in dataclasses.fields(schema)]


def _is_needed(entry: dataclasses.Field) -> bool:
    return entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING


def _check_names(checker: _Checker, content: dict[str, Any], node: Any) -> None:
    """What the keys say of one another."""
    nodes = dict(checker.pairs(node))
    datasets = content.get("datasets")
    if datasets is not None and not datasets:
        checker.fail(nodes["datasets"], "datasets is empty: name one, such as `cifar10: {classes: 10, resolution: 32}`")
    for key in ("targets", "units") if datasets else ():
        other = [name for name in content.get(key, {}) if name not in datasets]
        if other:
            checker.fail(
                nodes[key], f"{key} are of {shown(other[0])}, none of the datasets: {', '.join(datasets)[:200]}"
            )
    for file, table in content.get("tables", {}).items():
        if not _FILE.fullmatch(file):
            checker.fail(nodes["tables"], f"{shown(file)} is no name of a file beside the card")
        if datasets and table["dataset"] not in datasets:
            checker.fail(nodes["tables"], f"{shown(file)} is of {shown(table['dataset'])}, none of the datasets")
    default = content.get("default_target")
    for dataset, names in content.get("targets", {}).items():
        if default is not None and default not in names:
            checker.fail(nodes["targets"], f"{shown(dataset)} lacks the default_target {shown(default)}")
    if content.get("targets") and default is None and "same_as" not in content:
        checker.fail(nodes["targets"], "default_target is missing: say which of the targets it is")
