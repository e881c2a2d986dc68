"""The targets of the Makefile that set up, with a Python and a pip that only write down what they are asked."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

import harness

ROOT = Path(harness.__file__).resolve().parents[1]
PYTHON = """#!/bin/sh
# `python -m venv FOLDER`
mkdir -p "$3/bin"
printf '#!/bin/sh\\necho "$@" >> asked\\n' > "$3/bin/pip"
printf '#!/bin/sh\\n' > "$3/bin/python"
chmod +x "$3/bin/pip" "$3/bin/python"
"""


@pytest.fixture
def make(tmp_path):
    """`make(…)`: runs make in a folder of its own; what pip was asked, a line each."""
    if shutil.which("make") is None:
        pytest.skip("make is not installed")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)

    def run(*words: str) -> list[str]:
        asked = tmp_path / "asked"
        asked.write_text("")
        command = ["make", "PYTHON=./python", *words]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return asked.read_text().splitlines()

    return run


GPU = ("TORCH=torch>=2.6", "TORCH_INDEX=")


def test_another_torch_takes_the_place_of_the_one_that_is_there(make):
    assert make("setup")[-1].startswith("install -q torch==")
    assert make("setup") == []
    assert make("setup", *GPU) == ["uninstall -q -y torch", "install -q torch>=2.6 -e .[dev]"]
    assert make("setup", *GPU) == []
    assert make("setup") == []  # as `make test` asks for it: with whatever torch there is
    assert make("setup", "TORCH=torch==2.6.0")[0] == "uninstall -q -y torch"
    assert make("setup", *GPU)[0] == "uninstall -q -y torch"


def test_a_fresh_folder_has_nothing_to_be_exchanged(make):
    assert make("setup", *GPU) == ["install -q torch>=2.6 -e .[dev]"]


def test_clean_removes_what_the_other_targets_created(make, tmp_path):
    make("setup")
    make("test-torch", "TORCH=torch==2.6.0")
    make("test-torch", *GPU)
    assert {path.name for path in tmp_path.glob(".venv*")} == {".venv", ".venv-torch2.6.0", ".venv-torch2.6"}
    make("clean")
    assert not list(tmp_path.glob(".venv*"))
