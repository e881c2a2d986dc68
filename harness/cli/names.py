"""The names that commands take: what `harness list` lists, and parameters that complete and check them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import click

from harness.cli import completion
from harness.errors import UnknownNameError


def lists() -> dict[str, Callable[[], dict[str, str]]]:
    """What `harness list` lists: by kind the names with their summaries."""

    def proxies() -> dict[str, str]:
        from harness.proxies import available
        from harness.rankings.aggregates import AGGREGATES
        from harness.rankings.learned import LEARNED

        found = {name: cls.summary for name, cls in available().items()}
        found |= {name: f"aggregate: {cls.summary}" for name, cls in AGGREGATES.items()}
        # Last and by themselves: they spend accuracies, which no proxy does.
        spending = {name: f"spends accuracies: {model.summary}" for name, model in LEARNED.items()}
        return dict(sorted(found.items())) | dict(sorted(spending.items()))

    def benchmarks() -> dict[str, str]:
        from harness.benchmarks.benchmark import list_benchmarks

        return list_benchmarks()

    def targets() -> dict[str, str]:
        from harness.benchmarks.benchmark import list_targets

        return list_targets()

    def tables() -> dict[str, str]:
        from harness.tables.cells import list_tables

        return list_tables()

    def algorithms() -> dict[str, str]:
        from harness.search.algorithms import ALGORITHMS

        return {name: cls.summary for name, cls in ALGORITHMS.items()}

    def spaces() -> dict[str, str]:
        from harness.search.spaces import available

        return {name: cls.summary for name, cls in available().items()}

    return {kind.__name__: kind for kind in (proxies, benchmarks, targets, tables, algorithms, spaces)}


class Names(click.ParamType):
    """One of some names, which are read when they are needed."""

    name = "name"

    def __init__(self, kind: str, names: Callable[[], Iterable[str]]):
        self.kind, self.names = kind, names

    def convert(self, value: str, param: Any, ctx: Any) -> str:
        names = list(self.names())
        if value not in names:
            raise UnknownNameError(self.kind, value, names)
        return value

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list:
        return items(self.names(), incomplete)


class Described(click.ParamType):
    """A proxy, aggregate or benchmark: any name, of which those that are registered are completed."""

    name = "name"

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list:
        known = lists()
        return items([*known["proxies"](), *known["benchmarks"]()], incomplete)


class Settings(click.ParamType):
    """`key=value` settings of a command: read by Hydra, completed here."""

    name = "settings"

    def __init__(self, command: str):
        self.command = command

    def shell_complete(self, ctx: Any, param: Any, incomplete: str) -> list:
        return items(completion.settings_of(self.command), incomplete)


def items(words: Iterable[str], incomplete: str) -> list:
    from click.shell_completion import CompletionItem

    return [CompletionItem(word) for word in words if word.startswith(incomplete)]
