"""Shell completion, made from the commands, their settings and the names that exist at the time."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from typing import NamedTuple

from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
from harness.benchmarks.importers import available as archives
from harness.cli.app import commands, lists
from harness.config import SCHEMAS, choices, setting_names
from harness.errors import UnknownNameError
from harness.proxies import available
from harness.verify import CHECKS


def vocabulary() -> dict[str, list[str]]:
    """What may follow each command, in the order to be offered: names, then settings, values where they are few."""
    benchmarks = list_benchmarks()
    loaded = [load_benchmark(name) for name in benchmarks]
    values = {
        "benchmark": list(benchmarks),
        "dataset": list(dict.fromkeys(name for benchmark in loaded for name in benchmark.datasets)),
        "population": list(
            dict.fromkeys(
                name for benchmark in loaded for name in (*benchmark.space.populations, *benchmark.populations_of_card)
            )
        ),
        "proxies": [f"[{name}]" for name in available()],
        "inputs": choices("inputs"),
        "table": choices("table"),
        "device": ["auto", "cpu", "cuda"],
    }
    first = {
        "list": list(lists()),
        "report": ["plots", "page"],
        "verify": [name for name in CHECKS if name],
        "import": list(archives()),
        "completion": list(SHELLS),
    }
    flags = {"verify": ["--proxy", "--expect"], "score": ["shards=", "-m"], "import": ["--check"]}
    words = {}
    for command in commands():
        keys = setting_names(command) if command in SCHEMAS else []
        # Keys alone come with their values; `table.*` are the table's own settings, which nobody types.
        settings = [f"{key}={value}" for key in keys if not key.startswith("table.") for value in values.get(key, [""])]
        words[command] = [*first.get(command, []), *settings, *flags.get(command, []), "--help"]
    return words


def script(shell: str) -> str:
    """The completion script of a shell. Raises UnknownNameError."""
    if shell not in SHELLS:
        raise UnknownNameError("shell", shell, SHELLS)
    return SHELLS[shell].write(vocabulary())


def _bash(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f"    {name}) words={shlex.quote(' '.join(after))} ;;" for name, after in words.items())
    return f"""\
# bash completion of harness
_harness() {{
  local typed="${{COMP_LINE:0:COMP_POINT}}" words={shlex.quote(" ".join([*words, "--help", "--version"]))}
  typed="${{typed##* }}"
  [ "$COMP_CWORD" -gt 1 ] && case "${{COMP_WORDS[1]}}" in
{cases}
    *) words="" ;;
  esac
  # bash breaks words at = and : and replaces only what follows the last of them
  local last="${{typed##*[=:]}}" word
  local before="${{typed%"$last"}}"
  COMPREPLY=()
  while IFS= read -r word; do
    COMPREPLY+=("${{word#"$before"}}")
  done < <(compgen -W "$words" -- "$typed")
  [[ "${{COMPREPLY[0]}}" == *= ]] && compopt -o nospace 2>/dev/null
  return 0
}}
complete -F _harness harness
"""


def _zsh(words: dict[str, list[str]]) -> str:
    cases = "\n".join(f"      {name}) words_=({' '.join(map(shlex.quote, after))}) ;;" for name, after in words.items())
    return f"""\
#compdef harness
# zsh completion of harness
_harness() {{
  local -a words_
  if (( CURRENT == 2 )); then
    words_=({" ".join(map(shlex.quote, [*words, "--help", "--version"]))})
  else
    case "${{words[2]}}" in
{cases}
    esac
  fi
  compadd -S '' -- "${{words_[@]}}"
}}
compdef _harness harness
"""


def _fish(words: dict[str, list[str]]) -> str:
    lines = ["# fish completion of harness", "complete -c harness -f"]
    lines += [f"complete -c harness -n __fish_use_subcommand -a {name}" for name in [*words, "--help", "--version"]]
    for name, after in words.items():
        condition = f"'__fish_seen_subcommand_from {name}'"
        # fish expands the list once more: brackets are quoted twice.
        listed = " ".join(f'"{word}"' if "[" in word else word for word in after)
        lines.append(f"complete -c harness -n {condition} -a {shlex.quote(listed)}")
    return "\n".join(lines) + "\n"


class Shell(NamedTuple):
    """How a shell's script is written, and the command that takes it into use."""

    write: Callable[[dict[str, list[str]]], str]
    install: str


SHELLS = {
    "bash": Shell(_bash, 'eval "$(harness completion bash)"'),
    "zsh": Shell(_zsh, 'eval "$(harness completion zsh)"'),
    "fish": Shell(_fish, "harness completion fish | source"),
}
