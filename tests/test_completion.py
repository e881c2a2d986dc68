"""Tests of shell completion: what exists is offered, and the shells take the scripts."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import harness
from harness.benchmarks.benchmark import list_benchmarks
from harness.cli import main
from harness.cli.app import cli
from harness.cli.completion import COMPLETE, SHELLS, script
from harness.config import choices
from harness.proxies import available

ROOT = Path(harness.__file__).resolve().parents[1]


def offered(typed: str, monkeypatch, capsys) -> list[str]:
    """What is offered for a typed line where the shell does not break words."""
    words = typed.split(" ")
    monkeypatch.setenv(COMPLETE, "fish_complete")
    monkeypatch.setenv("COMP_WORDS", typed)
    monkeypatch.setenv("COMP_CWORD", words[-1])
    assert main([]) == 0
    return [line.partition(",")[2].partition("\t")[0] for line in capsys.readouterr().out.splitlines()]


def test_commands_settings_and_names_are_offered(monkeypatch, capsys):
    def after(typed: str) -> set[str]:
        return set(offered(typed, monkeypatch, capsys))

    assert set(cli.commands) <= after("harness ")
    settings = after("harness score ")
    assert {f"proxies=[{name}]" for name in available()} <= settings
    assert {f"benchmark={name}" for name in list_benchmarks()} <= settings
    assert {"store=", "inputs.path=", "seed=", "-m"} <= settings
    assert {"benchmark=nasbench101", "against=[snip]", "score=", "output="} <= after("harness compare ")
    assert after("harness compare vkdnw") >= {"vkdnw", "vkdnw_single"}
    assert {"vkdnw_agg", "nasbench201"} <= after("harness describe ")
    reports = after("harness report ")
    assert {f"table={name}" for name in choices("table")} | {"plots", "page"} <= reports
    assert not any(word.startswith("table.") for word in reports)
    assert {"scores", "baseline", "references", "cells="} <= after("harness verify ")
    assert {"--proxy", "--expect", "--help"} <= after("harness verify -")
    assert set(SHELLS) == after("harness completion ")
    assert after("harness list pro") == {"proxies"}
    assert after("harness nonsense ") == set()


def test_an_unknown_shell_and_none(capsys, monkeypatch):
    assert main(["completion", "bahs"]) == 2
    assert "did you mean 'bash'?" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "bash|zsh|fish" in capsys.readouterr().err
    monkeypatch.setenv(COMPLETE, "csh_complete")
    assert main([]) == 2
    assert "no question of a shell" in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_settings_and_values(tmp_path):
    """In the words into which bash breaks a line at `=` and `:`."""
    program = tmp_path / "harness"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m harness.cli "$@"\n', encoding="utf-8")
    program.chmod(0o755)

    def bash(typed: str) -> list[str]:
        test = f"""
{script(cli, "bash")}
COMP_LINE={typed!r}; COMP_POINT=${{#COMP_LINE}}
_harness_completion {program} 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(
            ["bash", "-c", test], capture_output=True, text=True, timeout=300, check=True, env=environment
        )
        return [line for line in done.stdout.splitlines() if line]

    assert bash("harness ver") == ["verify"]
    assert bash("harness score benchmark=nasbench2") == ["nasbench201"]  # what follows the =
    assert bash("harness score limit") == ["limit="]
    assert bash("harness verify scores proxies=[logsyn") == ["[logsynflow]"]
    assert bash("harness nonsense ") == []


@pytest.mark.parametrize("shell", SHELLS)
def test_the_shells_can_read_their_scripts(shell, tmp_path, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text == script(cli, shell)
    assert COMPLETE in text
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    path = tmp_path / "script"
    path.write_text(text, encoding="utf-8")
    flag = "--no-execute" if shell == "fish" else "-n"
    subprocess.run([shell, flag, str(path)], check=True, timeout=60)
