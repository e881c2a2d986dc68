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
from harness.cli.quote import quoted
from harness.engine.inputs import STATISTICS
from harness.errors import HarnessError
from harness.paths import typed_path


@dataclass(frozen=True)
class Entry:
    """A row of the queue: its number as printed, the arguments of `harness score`, and its line in the file."""

    number: str
    arguments: tuple[str, ...]
    line: int

    @property
    def images(self) -> str | None:
        """Name of the dataset whose images stand for DATA; None where the row names no DATA."""
        if not any(_DATA.search(argument) for argument in self.arguments):
            return None
        settings = dict(argument.partition("=")[::2] for argument in self.arguments)
        return settings.get("inputs", "")


#: Stands in a command for the path of the images.
_DATA = re.compile(r"(?<![\w/])DATA(?![\w/])")


def images_for(data: str | None, name: str) -> Path | None:
    """The images of the dataset `name` at `data`; None where they are not given.

    Args:
        data: a folder that holds one `.npz` a dataset, `NAME.npz` or one whose name begins with it; or the images of
            CIFAR-10 alone, a `.npz` or the folder `cifar-10-batches-py`. A file that bears another dataset's name
            holds the images of that one.

    Raises:
        HarnessError: nothing at `data`, or several files that may hold the images.
    """
    if data is None:
        return None
    source = typed_path(data, "data")
    if not source.exists():
        raise HarnessError(f"data={data} does not exist: point it at the CIFAR-10 images, or a folder of .npz files")
    files = sorted(source.glob("*.npz")) if source.is_dir() else [source]
    found = [file for file in files if _is_of(file, name)]
    found = [file for file in found if file.stem == name] or found
    if len(found) > 1:
        raise HarnessError(
            f"data={data} holds several files of {name} ({', '.join(file.name for file in found)}): "
            f"keep one, or name it {name}.npz"
        )
    if found:
        return found[0]
    named = any(_is_of(file, other) for file in files for other in STATISTICS)
    if name == "cifar10" and ((source / "data_batch_1").is_file() or not named):
        return source
    return None


def _is_of(file: Path, name: str) -> bool:
    """Whether a file bears a dataset's name, and not a longer one such as `cifar100` for `cifar10`."""
    return re.fullmatch(rf"{re.escape(name)}(?![A-Za-z0-9]).*", file.stem) is not None


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
    if config.queue is None:
        raise HarnessError("name the list: harness queue queue=FILE (`harness queue --plan queue=FILE` writes one)")
    images_for(config.data, "")  # names a path that is not there
    until = time.monotonic() + 60 * config.minutes
    entries = read_queue(config.queue)
    failed = 0
    todo = []
    for entry in entries:
        try:
            path = images_for(config.data, entry.images) if entry.images is not None else None
            arguments = [_DATA.sub(lambda _, path=path: str(path or "DATA"), text) for text in entry.arguments]
            if not any(text.startswith("store=") for text in arguments):
                arguments += [f"store={config.store}", f"stores=[{','.join(config.stores)}]"]
            runs = runs_of([quoted(text) for text in arguments])
            plans(runs)  # names what is wrong with a later row before an earlier one has run for hours
            lacks = entry.images is not None and path is None
            todo.append((entry, arguments, runs, lacks))
        except HarnessError as error:
            raise HarnessError(f"{config.queue}, line {entry.line}: {error}") from error
    for entry, arguments, runs, lacks in todo:
        missing, asked = _missing(runs)
        if not missing:
            print(f"{entry.number}: complete, {asked:,} scores", flush=True)
            continue
        if lacks:
            remedy = "set data=FOLDER" if config.data is None else f"put {entry.images}.npz into a folder data=FOLDER"
            print(f"{entry.number}: skipped, {missing:,} scores need images: {remedy}", flush=True)
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
