"""Tests of shell completion: the scripts offer what exists, and the shells take them."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from harness.benchmarks.benchmark import list_benchmarks
from harness.cli import main
from harness.cli.app import commands
from harness.cli.completion import SHELLS, script, vocabulary
from harness.config import SCHEMAS, choices
from harness.errors import UnknownNameError
from harness.proxies import available


def bash(typed: str) -> list[str]:
    """What bash offers for a typed line, in the words into which bash breaks it at `=` and `:`."""
    test = f"""
{script("bash")}
COMP_LINE={typed!r}; COMP_POINT=${{#COMP_LINE}}
words=()
for word in $COMP_LINE; do words+=("$word"); done
[[ "$COMP_LINE" == *" " ]] && words+=("")
COMP_WORDS=("${{words[@]}}"); COMP_CWORD=$((${{#words[@]}} - 1))
_harness 2>/dev/null
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
    done = subprocess.run(["bash", "-c", test], capture_output=True, text=True, timeout=60, check=True)
    return [line for line in done.stdout.splitlines() if line]


def test_words_are_the_commands_settings_and_names():
    words = vocabulary()
    assert list(words) == list(commands())
    assert {name.split("_")[0] for name in SCHEMAS} <= set(words)  # report_plots is `harness report plots`
    assert {f"proxies=[{name}]" for name in available()} <= set(words["score"])
    assert {f"benchmark={name}" for name in list_benchmarks()} <= set(words["score"])
    assert {f"table={name}" for name in choices("table")} <= set(words["report"])
    assert {"store=", "inputs.path=", "seed=", "-m"} <= set(words["score"])
    assert {"scores", "baseline", "references", "--proxy"} <= set(words["verify"])
    assert set(SHELLS) <= set(words["completion"])
    assert all(not word.startswith("table.") for word in words["report"])
    assert all("--help" in after for after in words.values())


@pytest.mark.parametrize("shell", SHELLS)
def test_every_word_is_in_every_script(shell, capsys):
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert text == script(shell)
    for name, after in vocabulary().items():
        assert name in text
        assert all(word in text for word in after)


def test_an_unknown_shell_and_none(capsys):
    assert main(["completion", "bahs"]) == 2
    assert "did you mean 'bash'?" in capsys.readouterr().err
    assert main(["completion"]) == 2
    assert "harness completion bash|zsh|fish" in capsys.readouterr().err
    with pytest.raises(UnknownNameError):
        script("csh")


@pytest.mark.skipif(shutil.which("bash") is None, reason="no bash here")
def test_bash_completes_commands_settings_and_values():
    assert bash("harness ver") == ["verify"]
    assert set(commands()) <= set(bash("harness "))
    assert bash("harness list pro") == ["proxies"]
    assert bash("harness score benchmark=nasbench2") == ["nasbench201"]  # what follows the =
    assert bash("harness score limit") == ["limit="]
    assert "[synflow]" in bash("harness score proxies=")
    assert bash("harness verify scores proxies=[logsyn") == ["[logsynflow]"]
    assert bash("harness nonsense ") == []


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_the_other_shells_can_read_their_scripts(shell, tmp_path):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} here")
    path = tmp_path / "script"
    path.write_text(script(shell), encoding="utf-8")
    flag = "-n" if shell == "zsh" else "--no-execute"
    subprocess.run([shell, flag, str(path)], check=True, timeout=60)
