"""The queue of scoring runs: its format, what is skipped, how it is stopped."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import harness
from harness.cli import main
from harness.cli.queue import read_queue
from harness.engine.store import ScoreStore
from harness.errors import HarnessError

ROOT = Path(harness.__file__).resolve().parents[1]

FIRST = "harness score benchmark=macro proxies=[flops] limit=3 store=scores device=cpu"
SECOND = "harness score benchmark=macro proxies=[params] limit=4 store=scores device=cpu"
IMAGES = "harness score benchmark=macro proxies=[snip] inputs=cifar10 inputs.path=DATA limit=1 store=scores"
SNIP = "snip:batch_size=4"


def queue(folder: Path, *commands: str) -> Path:
    lines = ["# Runs still missing", "", "Some text.", "", "| # | command | networks |", "|--:|---|--:|"]
    lines += [f"| {i} | `{command}` | 10 |" for i, command in enumerate(commands, 1)]
    path = folder / "QUEUE.md"
    path.write_text("\n".join([*lines, "", "More text."]) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def work(tmp_path, monkeypatch, capfd):
    """`work(minutes, *commands, *settings)`: exit code and lines of `harness queue` on a queue of these commands."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*commands: str, settings: tuple[str, ...] = ("minutes=5",)) -> tuple[int, list[str]]:
        queue(tmp_path, *commands)
        code = main(["queue", "queue=QUEUE.md", *settings])
        out, err = capfd.readouterr()
        return code, [*out.splitlines(), *err.splitlines()]

    return run


def stored(root: Path | str = "scores") -> dict[str, int]:
    store = ScoreStore(root)
    return {key.proxy: len(store.read(key)) for key in store.keys()}  # noqa: SIM118


def test_the_queue_of_this_repository_can_be_read():
    """Every row is a command that the command line takes, whether or not its images are at hand."""
    from harness.cli.launch import runs_of
    from harness.config import quoted

    entries = read_queue(ROOT / "results" / "QUEUE.md")
    assert len({entry.number for entry in entries}) == len(entries)
    for entry in entries:
        assert runs_of([quoted(argument) for argument in entry.arguments])


def test_rows_are_run_in_order_and_complete_ones_are_skipped(work):
    code, lines = work(FIRST, SECOND)
    assert code == 0
    assert stored() == {"flops": 3, "params": 4}
    assert [line for line in lines if line[1:2] == ":"] == [
        f"1: 3 of 3 scores missing: {shlex.join(shlex.split(FIRST))}",
        "1: complete, 3 scores",
        f"2: 4 of 4 scores missing: {shlex.join(shlex.split(SECOND))}",
        "2: complete, 4 scores",
    ]
    code, lines = work(FIRST, SECOND)
    assert code == 0
    assert lines == ["1: complete, 3 scores", "2: complete, 4 scores"]


def test_rows_with_images_are_skipped_without_them(work):
    code, lines = work(IMAGES)
    assert code == 0
    assert lines == ["1: skipped, 1 scores need images: set data=FOLDER"]
    assert stored() == {}


def test_the_path_of_the_images_is_set_in(work, tmp_path):
    code, lines = work(IMAGES, FIRST, settings=("minutes=5", f"data={tmp_path}"))
    assert code == 1  # there are no images in it: the row fails, the next one is run
    assert f"inputs.path={tmp_path}" in lines[0]
    assert any(line.startswith("1: 1 of 1 scores missing; ") and "data_batch_1" in line for line in lines)
    assert stored() == {"flops": 3}


def test_a_sweep_is_a_row(work):
    code, _ = work(FIRST.replace("harness score", "harness score -m seed=0,1") + " shards=2")
    assert code == 0
    assert stored() == {"flops": 3}


def test_nothing_is_started_when_the_time_is_over(work):
    code, lines = work(FIRST, SECOND, settings=("minutes=1e-9",))
    assert code == 0
    assert lines == ["1: 3 of 3 scores missing; the time is over"]
    assert stored() == {}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("| # | command |\n|--|--|\n| 1 | 2 with another seed |\n", ["line 3", "'2 with another seed' is no command"]),
        ("| # | command |\n|--|--|\n| 1 | `harness report` |\n", ["line 3", "is no command"]),
        ("| # | command |\n|--|--|\n| 1 | `harness score 'open` |\n", ["line 3", "is no command"]),
        ("| # | command |\n|--|--|\n| 1 |\n", ["line 3", "is no command"]),
        ("| # | other |\n|--|--|\n| 1 | `harness score` |\n", ["no table with a column `command`"]),
        ("no table\n", ["no table with a column `command`"]),
    ],
)
def test_rows_that_cannot_be_read_are_named(tmp_path, text, words):
    (tmp_path / "QUEUE.md").write_text(text, encoding="utf-8")
    with pytest.raises(HarnessError) as caught:
        read_queue(tmp_path / "QUEUE.md")
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ((), ["minutes=60"]),
        (("minutes=0",), ["minutes=60"]),
        (("minutes=5", "data=nowhere"), ["data=nowhere does not exist"]),
        (("minutes=5", "queue=nothing.md"), ["nothing.md cannot be read"]),
    ],
)
def test_mistakes_are_answered_in_one_line(work, settings, words):
    code, lines = work(FIRST, settings=settings)
    assert code == 2
    (line,) = lines
    assert all(word in line for word in words)


def test_a_mistake_in_a_row_is_found_before_anything_is_run(work):
    code, lines = work(FIRST, FIRST.replace("flops", "flop"))
    assert code == 2
    (line,) = lines
    assert "QUEUE.md, line 8: unknown proxy 'flop': did you mean 'flops'?" in line
    assert stored() == {}


@pytest.mark.parametrize("settings", [["minutes=60"], ["minutes=0.05"]], ids=["signal", "time limit"])
def test_a_stopped_row_keeps_what_it_has_finished(tmp_path, settings):
    """By SIGTERM and by the time limit: the row's finished scores are stored, and no later row is begun."""
    long = f"harness score dataset=ImageNet16-120 proxies=[{SNIP}] store=scores device=cpu workers=1 flush_seconds=0.1"
    path = queue(tmp_path, long, FIRST)
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "queue", f"queue={path}", *settings],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    if settings == ["minutes=60"]:
        until = time.monotonic() + 240
        while not list(tmp_path.glob("scores/**/part-*.parquet")) and time.monotonic() < until:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=200)
    if settings == ["minutes=60"]:
        assert process.returncode == 130
        assert "finished scores are stored" in err.splitlines()[-1]
        assert stored(tmp_path / "scores")[SNIP] > 0
    else:
        assert process.returncode == 0
        assert out.splitlines()[-1].startswith("1: ")
        assert out.splitlines()[-1].endswith("scores missing; the time is over")
    assert "flops" not in stored(tmp_path / "scores")
