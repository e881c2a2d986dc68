"""The queue of scoring runs still missing: a table in Markdown, worked off from the top for a given time.

The table is the single source: a row is a command, and whether it is done is read from the store.
"""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.cli.launch import plans, run_apart, runs_of
from harness.config import quoted
from harness.errors import HarnessError


@dataclass(frozen=True)
class Entry:
    """A row of the queue: its number as printed, the arguments of `harness score`, and its line in the file."""

    number: str
    arguments: tuple[str, ...]
    line: int

    @property
    def needs_data(self) -> bool:
        return any(_DATA.search(argument) for argument in self.arguments)


#: Stands in a command for the path of the images.
_DATA = re.compile(r"(?<![\w/])DATA(?![\w/])")


def read_queue(path: str | Path) -> list[Entry]:
    """The rows of every table with a column `command`, whose cells are `harness score …` between backticks.

    Raises:
        HarnessError: no such file or table, or a row that holds no such command, with its line.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise HarnessError(f"queue {path} cannot be read ({error.strerror}): set queue=FILE") from error
    entries = []
    column = None
    for number, line in enumerate(lines, 1):
        if not line.lstrip().startswith("|"):
            column = None
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if column is None:
            column = cells.index("command") if "command" in cells else -1
        elif column >= 0 and not set(line) <= set("|-: "):
            entries.append(Entry(cells[0], _arguments(cells, column, f"{path}, line {number}"), number))
    if not entries:
        raise HarnessError(f"{path} holds no table with a column `command` and a row: nothing to run")
    return entries


def _arguments(cells: Sequence[str], column: int, where: str) -> tuple[str, ...]:
    cell = cells[column] if column < len(cells) else ""
    command = re.fullmatch(r"`([^`]+)`", cell)
    try:
        words = shlex.split(command[1]) if command else []
    except ValueError:
        words = []
    if words[:2] != ["harness", "score"]:
        raise HarnessError(f"{where}: {cell!r} is no command: write `harness score …` between backticks, one a row")
    return tuple(words[2:])


def work_off(config: Any) -> int:
    """Run what the queue lists and the store lacks, in order, until the time is over; returns the exit code.

    A row that fails is named and the next one is run; the exit code is then 1. Stopped by a signal or by the
    time limit, the row that runs stores what it has finished.

    Raises:
        HarnessError: no time limit, or a queue with a row that cannot be read; nothing is run then.
    """
    if config.minutes is None or config.minutes <= 0:
        raise HarnessError("say for how long: harness queue minutes=60 (make queue MINUTES=60)")
    if config.data is not None and not Path(config.data).expanduser().exists():
        raise HarnessError(f"data={config.data} does not exist: point it at the CIFAR-10 images")
    until = time.monotonic() + 60 * config.minutes
    entries = read_queue(config.queue)
    failed = 0
    todo = []
    for entry in entries:
        arguments = [_DATA.sub(lambda _: str(config.data or "DATA"), argument) for argument in entry.arguments]
        try:
            runs = runs_of([quoted(text) for text in arguments])
            plans(runs)  # names what is wrong with a later row before an earlier one has run for hours
            todo.append((entry, arguments, runs))
        except HarnessError as error:
            raise HarnessError(f"{config.queue}, line {entry.line}: {error}") from error
    for entry, arguments, runs in todo:
        missing, asked = _missing(runs)
        if not missing:
            print(f"{entry.number}: complete, {asked:,} scores", flush=True)
            continue
        if entry.needs_data and config.data is None:
            print(f"{entry.number}: skipped, {missing:,} scores need images: set data=FOLDER", flush=True)
            continue
        if time.monotonic() >= until:
            print(f"{entry.number}: {missing:,} of {asked:,} scores missing; the time is over", flush=True)
            break
        command = shlex.join(["harness", "score", *arguments])
        print(f"{entry.number}: {missing:,} of {asked:,} scores missing: {command}", flush=True)
        end = run_apart(["score", *arguments], until=until)
        missing, _ = _missing(runs)
        if not missing:
            print(f"{entry.number}: complete, {asked:,} scores", flush=True)
            continue
        over = time.monotonic() >= until
        failed += not over
        reason = "the time is over" if over else end.reason
        print(f"{entry.number}: {missing:,} of {asked:,} scores missing; {reason}", flush=True)
        if over:
            break
    return 1 if failed else 0


def _missing(runs: Sequence[Any]) -> tuple[int, int]:
    wanted = [w for found in plans(runs) for w in found]
    return sum(len(w.missing) for w in wanted), sum(w.asked for w in wanted)
