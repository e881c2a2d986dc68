"""Tests of settings and arguments that mean nothing: one line, exit code 2, nothing done; paths as a shell has them."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import harness
from harness.cli import main
from harness.cli.launch import runs_of
from harness.cli.quote import quoted
from harness.config import compose_config
from harness.engine.store import ScoreKey, ScoreStore
from harness.errors import HarnessError, UnknownNameError, cause, shown

DIGITS = "9" * 5000
FLOPS = ScoreKey("macro", "cifar10", "none", "flops", 0)
SEARCH = ["search", "benchmark=macro", "proxies=[flops]", "budget=2", "population=all", "algorithm=random_search"]
SETTINGS = {
    "score": [
        "seed=${nope.x}", "seed=${seed}", "~seed", "~inputs", "inputs=3", "executor=3", "seed=-1", f"seed={DIGITS}",
        "seed=", "seed=1.5", f"population=sample({DIGITS})", f"population=sample(3, seed={DIGITS})", 
        "flush_seconds=nan",
        "flush_seconds=-1", "limit=0", "shard=1/0", "proxies=3", "proxies=[3]", "proxies=[[a]]", "benchmark=null",
        "store=" + "x" * 300, "store=" + "x/" * 3000, "store=", "store=~nosuchuser/x", "store='/tmp/x '",
        "store=/dev/null/x",
        "store=/tmp/x ", "inputs.path=~nosuchuser inputs=cifar10", f"proxies=[snip:batch_size={'9' * 400}]", "x", "=1",
        f"proxies=[snip:{'x' * 5000}]", f"benchmark={'x' * 5000}", "store=${nope}",
    ],
    "search": ["threads=0", "threads=-1", "save_seconds=nan", "repeats=0", "max_params=nan", f"budget={DIGITS}",
               "study.name=", "study.repeats=3"],
    "report plots": ["resamples=-1", "resamples=1000000000"],
    "report page": ["resamples=-1", "resamples=1000000000"],
    "report": ["table=3", "table=nope", "table.resamples=10", "+table.paper_table="],
    "verify": ["table.resamples=10"],
    "verify baseline": ["resamples=-1", "resamples=1000000000"],
    "verify scores": ["seed=${nope}"],
    "doctor": ["store=~nosuchuser", "seal=x"],
}  # fmt: skip
CASES = [(command, setting) for command, settings in SETTINGS.items() for setting in settings]


@pytest.mark.parametrize(("command", "setting"), CASES, ids=[f"{c}-{s[:30]}" for c, s in CASES])
def test_a_setting_that_means_nothing_gets_one_line(command, setting, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command = {
        "score": ["score", "benchmark=macro", "proxies=[flops]", "limit=2", f"store={tmp_path / 'scores'}"],
        "search": [*SEARCH, f"scores={tmp_path / 'scores'}"],
    }.get(command, command.split())
    several = setting.split() if "inputs.path" in setting else [setting]
    started = time.monotonic()
    assert main([*command, *several]) == 2
    assert time.monotonic() - started < 20
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("harness: ")
    assert len(line) < 1500
    assert not list(tmp_path.rglob("*.parquet"))


@pytest.mark.parametrize("setting", [["-m", "seed=range(1,0)"], ["shards=" + "9" * 30], ["-m", "seed=1,x"]])
def test_a_sweep_that_means_nothing_gets_one_line(setting, tmp_path, capsys):
    assert main(["score", "benchmark=macro", "proxies=[flops]", f"store={tmp_path}", *setting]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("harness: ")


PLAIN = ["1.10", "2025_12_01", "1e3", "true"]


@pytest.mark.parametrize("name", ["störe", "a=b", "a b (1)", "~/x", "a'b", "ä ö/x", "100%", "a,b c", *PLAIN])
def test_a_store_is_what_the_shell_user_means(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    folder = tmp_path / "home" / "x" if name == "~/x" else tmp_path / name
    monkeypatch.chdir(tmp_path)
    given = name if name in ("~/x", *PLAIN) else str(tmp_path / name)
    assert main(["score", "benchmark=macro", "proxies=[flops]", "limit=2", f"store={given}"]) == ("'" in name) * 2
    if "'" not in name:
        assert ScoreStore(folder).read(FLOPS)["index"].tolist() == [0, 1]
    else:
        assert "quote values" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("command", "typed", "read"),
    [
        ("report", "output=1.10", "1.10"),
        ("report", "output=null", None),
        ("report", "stores=[1.10, 1_0,${store}]", ["1.10", "1_0", "u"]),
        ("report_plots", "tables=007", "007"),
        ("search", "scores=2025_12_01", "2025_12_01"),
        ("score", "inputs.path=1e3", "1e3"),
        ("score", "store=a\\", "a\\"),
        ("queue", "tables=[overview,leaderboard]", ["overview", "leaderboard"]),
    ],
)
def test_a_path_is_read_as_it_is_typed(command, typed, read):
    given = [quoted(text) for text in ("store=u", typed)]
    config = compose_config(command, given[1:] if typed.startswith("store=") else given)
    for name in typed.partition("=")[0].split("."):
        config = config[name]
    assert config == read


def test_the_paths_of_a_sweep_are_read_as_they_are_typed():
    runs = runs_of([quoted("store=1.10,2_0"), "proxies=[flops]"])
    assert [run.job.store for run in runs] == ["1.10", "2_0"]


def test_a_store_that_cannot_be_written_is_told_before_scoring(tmp_path, monkeypatch, capsys):
    def scored(*_: Any) -> None:
        raise AssertionError("a network was scored")

    monkeypatch.setattr("harness.engine.scoring.score_networks", scored)
    blocked = tmp_path / "file"
    blocked.touch()
    settings = ["benchmark=macro", "proxies=[synflow]", "limit=1", f"store={blocked / 'scores'}"]
    assert main(["score", *settings]) == 2
    assert "cannot write scores below" in capsys.readouterr().err


def test_a_page_that_cannot_be_written_is_told_before_computing(tmp_path, monkeypatch, capsys):
    def computed(*_: Any) -> None:
        raise AssertionError("the page was computed")

    monkeypatch.setattr("harness.report.page.site_files", computed)
    blocked = tmp_path / "file"
    blocked.touch()
    assert main(["report", "page", f"output={blocked / 'site'}", "cache=null"]) == 2
    assert "cannot write the page to" in capsys.readouterr().err


# A proxy class of the user ---------------------------------------------------------------------------------

THEIRS = """\
from dataclasses import dataclass
from typing import ClassVar

from harness import Proxy
from harness.probes.topology import Topology


@dataclass(frozen=True)
class Mine(Proxy):
    name: ClassVar[str] = "mine"
    summary: ClassVar[str] = "parameters"
    citation: ClassVar[str] = "nobody"
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False
    factor: float = 1.0

    def needs(self):
        return {Topology(): ("params",)}

    def score(self, seen):
        return self.factor * seen["params"]
"""


@pytest.mark.parametrize(
    ("was", "written", "words"),
    [
        ("    name:", "    nome:", "declares no name: write `name: ClassVar[str]"),
        ("    summary:", "    sumary:", "declares no summary"),
        ("    inputs:", "    input:", "declares no inputs"),
        ('"none"', '"noise"', "declares inputs 'noise': write one of images, random, none"),
        ("def score(", "def scored(", "has no score: write the method"),
        ("@dataclass(frozen=True)\n", "", "has a setting factor and is no dataclass: write @dataclass(frozen=True)"),
        ("@dataclass(frozen=True)", "@dataclass", "mend theirs.py, line 8"),
        ("harness.probes.topology", "harness.probes.topologie", "mend theirs.py, line 5"),
        ('{Topology(): ("params",)}', "[Topology()]", "names no passes in needs(): return {"),
        ('{Topology(): ("params",)}', "None", "names no passes in needs(): return {"),
        ('("params",)', '("params")', "by no tuple: return {"),
    ],
)
def test_a_proxy_class_with_a_mistake_is_told_before_scoring(was, written, words, tmp_path, monkeypatch, capsys):
    assert was in THEIRS
    (tmp_path / "theirs.py").write_text(THEIRS.replace(was, written, 1), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "theirs", raising=False)
    settings = ["benchmark=macro", "proxies=[theirs:Mine]", "limit=2", f"store={tmp_path / 'scores'}"]
    assert main(["score", *settings]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "theirs:Mine" in line
    assert words in line


# Python ---------------------------------------------------------------------------------------------------


class Net(nn.Module):
    def __init__(self, answer: Any = None):
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 8)
        self.answer = answer

    def forward(self, x: torch.Tensor) -> Any:
        logits = self.layer(x).flatten(1)
        return logits if self.answer is None else self.answer(logits)


def silent(_: torch.Tensor) -> None:
    raise RuntimeError


IMAGES = torch.zeros(2, 3, 8, 8)
ARGUMENTS: dict[str, tuple] = {
    "no network": (None, IMAGES, {}),
    "a list for a network": ([Net()], IMAGES, {}),
    "no images": (Net(), None, {}),
    "a list for images": (Net(), [IMAGES], {}),
    "an exception without text": (Net(silent), IMAGES, {}),
    "no logits": (Net(lambda x: x[:, :0]), IMAGES, {}),
    "nothing for logits": (Net(lambda x: []), IMAGES, {}),
    "quantised": (nn.Sequential(nn.Flatten(), torch.ao.nn.quantized.dynamic.Linear(192, 3)), IMAGES, {}),
    "classes below zero": (Net(), IMAGES, {"num_classes": -1}),
    "classes of thousands of digits": (Net(), IMAGES, {"num_classes": 10**5000}),
    "a seed of thousands of digits": (Net(), IMAGES, {"seed": 10**5000}),
    "a seed beyond 64 bits": (Net(), IMAGES, {"seed": 2**64}),
    "proxies that are none": (Net(), IMAGES, {"proxies": None}),
    "stages that are none": (Net(), IMAGES, {"stages": 3}),
    "weights kept by text": (Net(), IMAGES, {"keep_weights": "no"}),
    "a proxy of thousands of letters": (Net(), IMAGES, {"proxies": ["x" * 5000]}),
}


@pytest.mark.parametrize("name", ARGUMENTS)
def test_arguments_that_mean_nothing_are_named(name):
    network, images, options = ARGUMENTS[name]
    with pytest.raises(HarnessError) as caught:
        harness.score(network, images, **options)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("name", ["ndcg_" + DIGITS, "top_" + DIGITS + "%", "regret_" + DIGITS, "x" * 5000])
def test_a_metric_of_thousands_of_digits_is_named(name):
    with pytest.raises(harness.HarnessError, match="unknown metric"):
        harness.correlate([1, 2], [1, 2], metrics=name)


def test_messages_do_not_format_what_they_refuse():
    nested: list = []
    for _ in range(60):
        nested = [nested, nested]
    assert shown(nested) == "a value of type list"
    assert shown(10**5000) == "a value of type int"
    assert shown("x" * 5000) == repr("x" * 100 + "…")
    assert [shown(v) for v in (None, 1, 0.5, "a")] == ["None", "1", "0.5", "'a'"]
    assert len(str(UnknownNameError("proxy", "x" * 5000, ["snip"]))) < 200
    assert len(cause(ValueError("x" * 10**6))) < 1100
    assert cause(ValueError("a\ud800b\nc")) == "a?b"
    assert cause(ValueError()) == "ValueError"


def test_what_networks_raise_becomes_a_status_that_the_store_takes(tmp_path):
    def loud(logits: torch.Tensor) -> torch.Tensor:
        if len(logits) > 1:
            raise RuntimeError("\ud800" + "x" * 10**6)
        return logits

    found = harness.score(Net(loud), IMAGES, proxies=["snip"])
    status = found.attrs["status"]["snip"]
    assert np.isnan(found["snip"])
    store = ScoreStore(Path(tmp_path))
    from harness.engine.store import Row

    store.append(FLOPS, [Row(0, None, 0.1, status, 1)])
    assert store.read(FLOPS)["status"].tolist() == [status]
