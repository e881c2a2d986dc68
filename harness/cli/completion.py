"""Shell completion by click, with the settings and names that exist when the Tab key is pressed."""

from __future__ import annotations

import os
import sys
from contextlib import suppress

import click
from click.shell_completion import BashComplete, CompletionItem, FishComplete, ZshComplete

from harness.errors import HarnessError

#: The variable in which a shell asks for completions.
COMPLETE = "_HARNESS_COMPLETE"

#: Shells, each with the command that takes its completion into use.
SHELLS = {
    "bash": 'eval "$(harness completion bash)"',
    "zsh": 'eval "$(harness completion zsh)"',
    "fish": "harness completion fish | source",
}


def settings_of(command: str) -> list[str]:
    """What may be set for a command: `key=`, or `key=value` where the values are few; flags of sweeps too."""
    from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
    from harness.config import SCHEMAS, choices, setting_names
    from harness.proxies import available

    if command not in SCHEMAS:
        return []
    keys = [key for key in setting_names(command) if not key.startswith("table.")]  # those nobody types
    values = {
        **dict.fromkeys(("proxies", "against"), lambda: [f"[{name}]" for name in available()]),
        "inputs": lambda: choices("inputs"),
        "table": lambda: choices("table"),
        "device": lambda: ["auto", "cpu", "cuda"],
        "benchmark": lambda: list(list_benchmarks()),
    }
    if {"dataset", "population"} & set(keys):
        loaded = [load_benchmark(name) for name in list_benchmarks()]
        values["dataset"] = lambda: list(dict.fromkeys(name for b in loaded for name in b.datasets))
        named = [name for b in loaded for name in (*b.space.populations, *b.populations_of_card)]
        values["population"] = lambda: list(dict.fromkeys(named))
    found = [f"{key}={value}" for key in keys for value in values.get(key, lambda: [""])()]
    more = {"score": ["shards=", "-m"], "compare": available()}
    return [*found, *more.get(command, ())]


class _Bash(BashComplete):
    """bash breaks words at = and :, and replaces only what follows the last of them."""

    source_template = """\
%(complete_func)s() {
    local IFS=$'\\n' reply
    reply=$(COMP_WORDS="${COMP_LINE:0:COMP_POINT}" %(complete_var)s=bash_complete $1)
    COMPREPLY=($reply)
    [[ "${COMPREPLY[0]}" == *= ]] && compopt -o nospace 2>/dev/null
    return 0
}
complete -o nosort -F %(complete_func)s %(prog_name)s
"""

    def get_completion_args(self) -> tuple[list[str], str]:
        _, *words = os.environ["COMP_WORDS"].split(" ")
        *before, self._incomplete = words or [""]
        return list(filter(None, before)), self._incomplete

    def format_completion(self, item: CompletionItem) -> str:
        broken = max(self._incomplete.rfind(mark) for mark in "=:") + 1
        return item.value[broken:]


class _Zsh(ZshComplete):
    """A setting ends with =, behind which a value follows at once."""

    source_template = ZshComplete.source_template.replace("compadd -U", "compadd -S '' -U")


_CLASSES = {"bash": _Bash, "zsh": _Zsh, "fish": FishComplete}


def script(cli: click.Command, shell: str) -> str:
    """What a shell runs to complete `harness`."""
    return _CLASSES[shell](cli, {}, "harness", COMPLETE).source().rstrip() + "\n"


def answer(cli: click.Command) -> int:
    """Print the completions that a shell asks for (`bash_complete`, …) in `COMPLETE`; returns the exit code."""
    instruction = os.environ[COMPLETE]
    shell, _, what = instruction.partition("_")
    if shell not in _CLASSES or what != "complete":
        print(f"harness: {COMPLETE}={instruction} is no question of a shell: unset it", file=sys.stderr)
        return 2
    with suppress(HarnessError):  # nothing follows what is no command
        print(_CLASSES[shell](cli, {}, "harness", COMPLETE).complete())
    return 0
