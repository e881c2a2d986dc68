"""The README shows what the project prints, and its examples run."""

from __future__ import annotations

import importlib
import re
import shlex
import sys
from pathlib import Path

import pytest

from harness.benchmarks.benchmark import list_benchmarks, load_benchmark
from harness.cli import main
from harness.proxies import available

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_is_the_one_that_the_report_writes():
    table = (ROOT / "results" / "tables" / "vkdnw_table1.md").read_text(encoding="utf-8")
    block = table.split("## cifar10\n", 1)[1].split("\n## ", 1)[0].strip()
    shown = re.search(r"<!-- table: vkdnw_table1 cifar10 -->\n(.*?)<!-- end of table -->", README, re.DOTALL)[1].strip()
    assert shown == block, "put this block into README.md:\n\n" + block


def test_what_the_first_command_prints(monkeypatch, capsys):
    monkeypatch.setenv("NAS_HARNESS_REFERENCE", str(ROOT / "results" / "scores"))
    shown = re.search(r"<!-- output -->\n(.*?)<!-- end of output -->", README, re.DOTALL)[1]
    command = re.search(r"^harness (score .*)$", README, re.MULTILINE)[1]
    assert main(shlex.split(command)) == 0
    assert shown == "".join(f"    {line}\n" for line in capsys.readouterr().out.splitlines()[1:-1])


def test_the_first_screen_counts_what_there_is():
    proxies, benchmarks = re.search(r"more than (\d+) from papers on (\d+) NAS benchmarks", README).groups()
    assert int(proxies) < len(available()) < int(proxies) + 10
    assert int(benchmarks) == len({load_benchmark(name).scores_of for name in list_benchmarks()})


@pytest.mark.parametrize(
    "code", re.findall(r"```python\n(.*?)```", README, re.DOTALL), ids=lambda code: code.split("\n")[0]
)
def test_python_examples_run(code, tmp_path, monkeypatch):
    (tmp_path / "readme_example.py").write_text(code, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "readme_example", raising=False)
    importlib.import_module("readme_example")


def test_named_paths_exist():
    for path in re.findall(r"\| `([\w/.]+)`", README):
        assert (ROOT / path).exists(), path
