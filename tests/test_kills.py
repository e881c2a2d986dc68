"""A process that ends before or after any call that it makes of the file system loses no stored score.

Each case is a forked process that ends itself (`os._exit`, as a kill ends it: no handler runs) at one call. Which calls
there are is counted by a process that ends at none, so that calls which are added later are met too.
"""

from __future__ import annotations

import builtins
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from harness.engine.store import Row, ScoreKey, ScoreStore

KEY = ScoreKey("nasbench201", "cifar10", "random", "snip", 0)
#: What the store and pathlib call of the system.
CALLS = ("mkdir", "open", "fsync", "replace", "rename", "unlink", "close", "stat")
KILLED, FAILED = 77, 78


def rows(first: int, count: int = 3) -> list[Row]:
    return [Row(i, i / 7, 0.25, "ok", 1) for i in range(first, first + count)]


class _File:
    """A file whose writing ends the process, half way too."""

    def __init__(self, file: Any, step: Callable[[str], None]):
        self._file, self._step = file, step

    def write(self, data: Any) -> None:
        self._step("before write")
        self._file.write(bytes(data)[: len(data) // 2])
        self._file.flush()
        self._step("half of write")
        self._file.write(bytes(data)[len(data) // 2 :])

    def flush(self) -> None:
        self._file.flush()
        self._step("after flush")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *_: object) -> None:
        self._step("before close")
        self._file.close()
        self._step("after close")


def ending_at(place: int | None) -> Callable[[], int]:
    """Make this process end at a step of the file system; returns what tells how many there have been."""
    count = 0

    def step(_: str) -> None:
        nonlocal count
        if count == place:
            os._exit(KILLED)
        count += 1

    def around(name: str, call: Callable) -> Callable:
        def stepped(*args: Any, **options: Any) -> Any:
            step(f"before {name}")
            found = call(*args, **options)
            step(f"after {name}")
            return found

        return stepped

    for name in CALLS:
        setattr(os, name, around(name, getattr(os, name)))
    opened = builtins.open

    def stepped_open(path: Any, mode: str = "r", *args: Any, **options: Any) -> Any:
        step("before open")
        file = opened(path, mode, *args, **options)
        step("after open")
        return _File(file, step) if "w" in mode else file

    builtins.open = stepped_open
    return lambda: count


def in_child(work: Callable[[], None], place: int | None, told: Path) -> int:
    """How a forked process ends that does the work and ends at a step; without one it tells their number."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    try:
        counted = ending_at(place)
        work()
        number = counted()
        with told.open("w") as file:
            file.write(str(number))
        os._exit(0)
    except BaseException:
        os._exit(FAILED)


def ends(work: Callable[[ScoreStore], None], before: Callable[[ScoreStore], None], root: Path) -> Iterator[ScoreStore]:
    """The store after `work` has ended at each of its steps, `before` having been done each time."""
    whole = ScoreStore(root / "whole")
    before(whole)
    assert in_child(lambda: work(whole), None, root / "steps") == 0
    steps = int((root / "steps").read_text())
    assert steps > 15
    for place in range(steps):
        store = ScoreStore(root / str(place))
        before(store)
        assert in_child(lambda store=store: work(store), place, root / "told") == KILLED, place
        yield store


def content(store: ScoreStore) -> dict[int, float]:
    frame = store.read(KEY)
    return dict(zip(frame["index"], frame["score"], strict=True))


def values(count: int) -> dict[int, float]:
    return {i: i / 7 for i in range(count)}


def first_rows(store: ScoreStore) -> None:
    store.append(KEY, rows(0), "0of1")


@pytest.mark.parametrize("before", [lambda store: None, first_rows], ids=["new", "more"])
def test_a_write_that_is_killed_loses_nothing_that_was_stored(before, tmp_path):
    held = 0 if before is not first_rows else 3
    seen = set()
    for store in ends(lambda store: store.append(KEY, rows(held), "0of1"), before, tmp_path):
        found = content(store)
        assert found in (values(held), values(held + 3))
        seen.add(len(found))
        store.prepare(KEY, "0of1")  # a later run of the same writer
        assert not list(store.root.rglob("*.writing"))
        store.append(KEY, rows(held), "0of1")
        assert content(store) == values(held + 3)
    assert seen == {held, held + 3}


def several_parts(store: ScoreStore) -> None:
    store.append(KEY, rows(0), "0of1")
    store.append(KEY, rows(0, 9), "0of1")  # what the others hold, so that it is what they are merged into


@pytest.mark.parametrize("work", ["compact", "stamp", "seal", "prepare"])
def test_a_change_of_parts_that_is_killed_loses_nothing(work, tmp_path):
    def before(store: ScoreStore) -> None:
        several_parts(store)
        if work == "seal":
            for number, part in enumerate(store.root.rglob("part-*")):
                part.rename(part.with_name(f"part-0of1-{number:012x}.parquet"))

    def change(store: ScoreStore) -> None:
        arguments = {"compact": ("0of1",), "stamp": ("abc",), "seal": (), "prepare": ("0of1",)}[work]
        getattr(store, work)(KEY, *arguments)

    for store in ends(change, before, tmp_path):
        assert content(store) == values(9)
        change(store)
        assert content(store) == values(9)
        store.prepare(KEY, "0of1")
        assert not list(store.root.rglob("*.writing"))
    if work == "compact":
        assert len(list((tmp_path / "whole").rglob("part-*"))) == 1


def test_what_a_living_writer_writes_is_left_alone(tmp_path):
    from harness.engine.store import write_whole

    store = ScoreStore(tmp_path)
    target = tmp_path / KEY.folder / "part-0of1-x.parquet"
    target.parent.mkdir(parents=True)

    def write(file: Any) -> None:
        store.prepare(KEY, "0of1")  # another run of the same shard, at the same time
        file.write(b"x")

    write_whole(target, write)
    assert target.read_bytes() == b"x"


def test_runs_that_start_at_once_may_remove_the_trials_of_each_other(monkeypatch, tmp_path):
    from harness.engine import store as module

    write_whole = module.write_whole
    others = iter(["0of2", None])

    def disturbed(target: Path, write: Any) -> Path:
        written = write_whole(target, write)
        if (other := next(others)) is not None:
            ScoreStore(tmp_path).prepare(KEY, other)
            assert not written.exists()
        return written

    monkeypatch.setattr(module, "write_whole", disturbed)
    ScoreStore(tmp_path).prepare(KEY, "1of2")
