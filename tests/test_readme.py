"""The README shows what the project prints, and its examples run."""

from __future__ import annotations

import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_is_the_one_that_the_report_writes():
    table = (ROOT / "results" / "tables" / "vkdnw_table1.md").read_text(encoding="utf-8")
    block = table.split("## cifar10\n", 1)[1].split("\n## ", 1)[0].strip()
    shown = re.search(r"<!-- table: vkdnw_table1 cifar10 -->\n(.*?)<!-- end of table -->", README, re.DOTALL)[1].strip()
    assert shown == block, "put this block into README.md:\n\n" + block


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
