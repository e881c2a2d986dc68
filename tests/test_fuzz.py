"""Tests of what nobody would write, at a small budget (`make fuzz MINUTES=10` at a large one), and of that test."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from harness.errors import HarnessError

FUZZING = Path(__file__).with_name("fuzzing.py")


def test_nothing_gets_in():
    """One second a class, in a process whose memory is bounded."""
    fuzzing = pytest.importorskip("fuzzing")
    command = [sys.executable, str(FUZZING), ",".join(fuzzing.CLASSES_OF), "1", "0"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["class"] for one in found] == list(fuzzing.CLASSES_OF)
    for one in found:
        assert one["faults"] == [], one
        assert one["tries"] > 0


def test_memory_is_that_of_the_process_alone():
    """A parent of 400 MB, as a test process may be: what it starts has no more than its own."""
    measure = "import sys; sys.path.insert(0, sys.argv[1]); import fuzzing; print(fuzzing.peak_memory())"
    command = [sys.executable, "-c", measure, str(FUZZING.parent)]
    alone = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    parent = f"import subprocess; held = bytes([1]) * {alone + 400 * 10**6}; subprocess.run({command!r}, check=True)"
    done = subprocess.run([sys.executable, "-c", parent], capture_output=True, text=True, check=True)
    assert abs(int(done.stdout) - alone) < 100 * 10**6


def raises(error: BaseException) -> Any:
    def read(case: Any, folder: Path) -> None:
        raise error

    return read


def busy(case: Any, folder: Path) -> None:
    while True:
        pass


def damaged(case: Any, folder: Path) -> None:
    try:
        raise MemoryError("20 GB")
    except MemoryError as error:
        raise HarnessError("the file is damaged") from error


FAULTS = {
    "taken": lambda case, folder: None,
    "refused": raises(HarnessError("no")),
    "traceback": raises(KeyError("a")),
    "words": raises(HarnessError("two\nlines")),
    "memory": damaged,
    "hang": busy,
}


@pytest.mark.parametrize("kind", FAULTS)
def test_faults_are_told_apart(kind, tmp_path, monkeypatch):
    import signal

    import fuzzing

    monkeypatch.setattr(fuzzing, "SECONDS", 0.2)
    names = (signal.SIGALRM, signal.SIGPROF)
    before = [signal.signal(name, fuzzing._late) for name in names]
    try:
        assert fuzzing.attempt(FAULTS[kind], None, tmp_path / "try")[0] == kind
    finally:
        for name, handler in zip(names, before, strict=True):
            signal.signal(name, handler)


def test_a_difference_is_found(tmp_path, monkeypatch):
    """Without the digest of a part, a flipped bit of it goes unseen."""
    import fuzzing

    name, content = "part-0-0123456789ab.parquet", None
    with monkeypatch.context() as patched:
        from harness.engine.store import ScoreStore

        part = ScoreStore(tmp_path / "store").append(fuzzing.KEY, fuzzing.ROWS)
        content = bytearray(part.read_bytes())
        assert fuzzing.attempt(fuzzing.read_of_part, (name, bytes(content)), tmp_path / "try") == ("taken", "")
        kinds = set()
        for place in range(4, len(content) - 8, 37):
            changed = bytearray(content)
            changed[place] ^= 1
            kinds.add(fuzzing.attempt(fuzzing.read_of_part, (name, bytes(changed)), tmp_path / "try")[0])
            assert fuzzing.attempt(fuzzing.read_of_part, (part.name, bytes(changed)), tmp_path / "try")[0] == "refused"
        patched.undo()
    assert kinds == {"taken", "refused", "other"}
