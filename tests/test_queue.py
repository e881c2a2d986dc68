"""The queue of scoring runs: its format, what is skipped, how it is stopped, and how it is planned."""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import harness
from harness.benchmarks.benchmark import load_benchmark
from harness.cli import main, plan
from harness.cli.queue import images_for, read_queue
from harness.config import compose_config
from harness.engine.scorer import Job
from harness.engine.store import ScoreKey, ScoreStore
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
    from harness.cli.quote import quoted

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


# Images of several datasets ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "data", "name", "found"),
    [
        (["cifar10_sample.npz", "cifar100_sample.npz"], "", "cifar10", "cifar10_sample.npz"),
        (["cifar10_sample.npz", "cifar100_sample.npz"], "", "cifar100", "cifar100_sample.npz"),
        (["cifar10_sample.npz", "cifar100_sample.npz"], "", "ImageNet16-120", None),
        (["cifar10.npz", "cifar10_sample.npz"], "", "cifar10", "cifar10.npz"),
        (["cifar100.npz"], "", "cifar10", None),
        (["data_batch_1"], "", "cifar10", "."),
        (["data_batch_1", "cifar100.npz"], "", "cifar10", "."),
        (["data_batch_1"], "", "cifar100", None),
        (["images.npz"], "images.npz", "cifar10", "images.npz"),
        (["images.npz"], "images.npz", "cifar100", None),
        (["cifar100.npz"], "cifar100.npz", "cifar100", "cifar100.npz"),
        (["cifar100.npz"], "cifar100.npz", "cifar10", None),
    ],
)
def test_images_of_a_dataset_are_found_by_its_name(tmp_path, files, data, name, found):
    for file in files:
        (tmp_path / file).touch()
    assert images_for(str(tmp_path / data), name) == (None if found is None else tmp_path / found)
    assert images_for(None, name) is None


def test_two_files_of_a_dataset_are_named(tmp_path):
    for file in ("cifar10_a.npz", "cifar10_b.npz"):
        (tmp_path / file).touch()
    with pytest.raises(HarnessError, match=r"cifar10_a.npz, cifar10_b.npz.*name it cifar10.npz"):
        images_for(str(tmp_path), "cifar10")


def test_rows_of_other_images_than_those_given_are_skipped(work, tmp_path):
    (tmp_path / "cifar100.npz").touch()
    code, lines = work(IMAGES, settings=("minutes=5", "data=."))
    assert code == 0
    assert lines == ["1: skipped, 1 scores need images: put cifar10.npz into a folder data=FOLDER"]


# The plan ---------------------------------------------------------------------------------------------------

POPULATION = "sample(3, seed=0)"
PAPER = [
    "table=zero_cost_nas",
    "table.datasets=[cifar10]",
    f"table.populations=['{POPULATION}']",
    "table.rows=[{proxy: synflow, published: synflow}, {proxy: snip, published: snip}, {proxy: naswot}]",
]
BOARD = ["table=leaderboard", "table.datasets=[macro/cifar10]", "table.rows=[{proxy: synflow}, {proxy: flops}]"]


@pytest.fixture
def planned(tmp_path, monkeypatch, capfd):
    """`planned(*tables)`: the cells of each row of the file that `harness queue --plan` writes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))

    def run(*tables: list[str]) -> list[list[str]]:
        monkeypatch.setattr(plan, "choices", lambda _: range(len(tables)))
        monkeypatch.setattr(plan, "load_table", lambda i: compose_config("report", tables[i]).table)
        assert main(["queue", "--plan", "queue=QUEUE.md", "store=scores"]) == 0
        lines = Path("QUEUE.md").read_text(encoding="utf-8").splitlines()
        rows = [line for line in lines if line[:3].strip("| ").isdigit()]
        return [[cell.strip() for cell in line.strip("|").split("|")] for line in rows]

    return run


def test_the_plan_lists_what_the_tables_lack(planned, monkeypatch):
    """Best first by what a row completes an hour; of slow networks one is measured; rows without images come last."""
    spent = []
    monkeypatch.setattr(plan, "_seconds", lambda scorer, index, labels: spent.append(labels) or 40.0)
    monkeypatch.setattr(plan, "_warm", lambda: None)
    rows = planned(BOARD, PAPER)
    command = '`harness score benchmark={} dataset=cifar10{} "proxies=[{}]" seed=0 "population={}" store=scores`'
    macro = load_benchmark("macro")
    networks = len(set(macro.representatives[macro.population("sample(300, seed=0)")]))
    noise = command.format("nasbench201", "", "synflow", POPULATION)
    board = command.format("macro", "", "flops,synflow", "sample(300, seed=0)")
    images = command.format("nasbench201", " inputs=cifar10 inputs.path=DATA", "snip", POPULATION)
    assert rows == [
        ["1", noise, "3", "40.00", "0.02", "1", "0", "`zero_cost_nas`"],
        ["2", board, str(networks), "40.00", f"{networks * 40 / 7200:.2f}", "0", "2", "`leaderboard`"],
        ["3", images, "3", "", "", "1", "0", "`zero_cost_nas`"],
    ]
    assert spent == [["synflow"], ["synflow"]]  # what is counted from encodings costs nothing
    assert [entry.number for entry in read_queue("QUEUE.md")] == ["1", "2", "3"]


def test_a_row_that_cannot_be_measured_has_no_hours(planned, monkeypatch, capfd):
    """As of a proxy that reads more images than there are: the others are measured all the same."""

    def seconds(scorer: Any, index: int, labels: list[str]) -> float:
        if "flops" in scorer.proxies:
            raise HarnessError("inputs 'cifar10' hold 1280 images, too few for mini-batch 20 of 64")
        return 40.0

    monkeypatch.setattr(plan, "_seconds", seconds)
    monkeypatch.setattr(plan, "_warm", lambda: None)
    rows = planned(BOARD, PAPER)
    assert sorted(row[3] for row in rows) == ["", "", "40.00"]  # two without: this one, and one without images
    assert "not measured: harness score benchmark=macro" in capfd.readouterr().err


def test_a_plan_that_is_stopped_keeps_what_it_has_measured(planned, monkeypatch):
    """Which is first what completes most for its work: three networks before the 300 of another row."""

    def seconds(scorer: Any, index: int, labels: list[str]) -> float:
        if scorer.job.benchmark == "macro":
            raise KeyboardInterrupt
        return 40.0

    monkeypatch.setattr(plan, "_seconds", seconds)
    monkeypatch.setattr(plan, "_warm", lambda: None)
    with pytest.raises(AssertionError):  # its exit code is none of a plan that went to its end
        planned(BOARD, PAPER)
    lines = [line for line in Path("QUEUE.md").read_text(encoding="utf-8").splitlines() if "harness score" in line]
    assert len(read_queue("QUEUE.md")) == 3
    assert [line.split("|")[4].strip() for line in lines] == ["40.00", "", ""]


def test_proxies_that_read_more_images_than_there_are(tmp_path):
    """They are in rows of their own: another's score is not to wait for images."""
    images = np.zeros((100, 32, 32, 3), np.uint8)
    np.savez(tmp_path / "cifar10.npz", images=images, labels=np.arange(100) % 10)
    job = Job("macro", "cifar10", (), inputs="cifar10", inputs_path=str(tmp_path / "cifar10.npz"))
    found = {name: plan._has_enough(replace(job, proxies=(name,))) for name in ("snip", "knas", "zico", "flops")}
    assert found == {"snip": True, "knas": False, "zico": False, "flops": True}
    assert plan._has_enough(replace(job, proxies=("knas",), inputs="random", inputs_path=None))


def test_what_rows_complete_together_stands_in_brackets():
    """A row over a population serves what lies within it; a figure of two rows is neither's alone."""
    synflow, zen = (ScoreKey("macro", "cifar10", "random", name, 0) for name in ("synflow", "zen"))
    large, small, other = ("large", synflow), ("small", synflow), ("large", zen)
    rows = [plan.Row(None, name, frozenset({pair}), {}) for name, pair in (("a", large), ("b", small), ("c", other))]
    wants = [
        plan.Want((1,), "one", False, (frozenset({small}),)),
        plan.Want((2,), "one", False, (frozenset({large, other}),)),
        plan.Want((3,), "one", True, (frozenset({large, other}), frozenset({other}))),
    ]
    plan.credit(rows, wants, {large: frozenset({1, 2}), small: frozenset({1}), other: frozenset({1, 2})})
    assert [[want.name for want in row.alone] for row in rows] == [[(1,)], [(1,)], [(3,)]]
    assert [[want.name for want in row.shared] for row in rows] == [[(2,), (3,)], [], [(2,)]]


def test_a_planned_row_completes_its_figures(planned, capfd):
    """Nothing is stored by measuring; once the row is run, the plan has no rows."""
    paper = [*PAPER[:-1], "table.rows=[{proxy: synflow, published: synflow}]"]
    ((_, _, networks, seconds, hours, figures, pairs, completes),) = planned(paper)
    assert stored() == {}
    assert (networks, figures, pairs, completes) == ("3", "1", "0", "`zero_cost_nas`")
    assert float(seconds) > 0
    assert float(hours) == pytest.approx(3 * float(seconds) / 7200, abs=0.01)
    assert main(["queue", "queue=QUEUE.md", "minutes=5"]) == 0
    assert stored() == {"synflow": 3}
    assert planned(paper) == []
