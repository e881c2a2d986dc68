"""Every command of the README, of docs/ and of the help texts: the cheap ones run, the others are read.

A block of commands is fenced as `sh`. One that needs what a test has not (images, a GPU, minutes) says so after the
language, as in "sh needs: images": its commands are then read up to the point where they would start.
"""

from __future__ import annotations

import importlib
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

import harness
from harness.cli import app as cli
from harness.cli.launch import runs_of
from harness.cli.quote import quoted
from harness.config import check_overrides, compose_config

ROOT = Path(harness.__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
IGNORED = (ROOT / ".gitignore").read_text(encoding="utf-8").split()
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]

_FENCE = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


class Block(NamedTuple):
    language: str
    needs: str
    text: str

    @property
    def commands(self) -> list[str]:
        """Its lines, those that end with a backslash joined to the next, without comments."""
        lines = self.text.replace("\\\n", " ").splitlines()
        return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def blocks(page: Path) -> list[Block]:
    return [
        Block(language, info.strip().removeprefix("needs:").strip(), text)
        for language, info, text in _FENCE.findall(page.read_text(encoding="utf-8"))
    ]


def words_of(command: str) -> list[str]:
    words = shlex.split(command, comments=True)
    return [words[0].removeprefix(".venv/bin/"), *words[1:]]


def read(words: list[str], monkeypatch) -> None:
    """Compose the configuration of a `harness` command as it would be, and stop there."""

    def composed(command: str, task, arguments: list[str]) -> int:
        arguments = [quoted(argument) for argument in arguments]
        if cli._HYDRA_FLAGS & set(arguments):
            check_overrides(command, [a for a in arguments if not a.startswith("-")], sweep=True)
        else:
            compose_config(command, arguments)
        return 0

    with monkeypatch.context() as patched:
        patched.setattr(cli, "_app", composed)
        patched.setattr("harness.cli.launch.sweep", lambda arguments: 0 if runs_of(arguments) else 1)
        patched.setattr("harness.verify.get_proxy", lambda spec: None)
        patched.setattr("harness.benchmarks.importers.import_archive", lambda *_: [])
        patched.setattr("harness.benchmarks.importers.check_archive", lambda *_: ([], False))
        assert cli.main(words[1:]) == 0, words


def check(command: str, needs: str, folder: Path, monkeypatch) -> None:
    """Run a command in `folder`, or read it where it needs something."""
    subprocess.run(["bash", "-n", "-c", command], check=True, timeout=60)
    words = [word.replace("/tmp/", f"{folder}/") for word in words_of(command)]
    if words[0] == "export":
        monkeypatch.setenv(*words[1].split("=", 1))
    elif words[0] == "make":
        subprocess.run(["make", "-n", *words[1:]], cwd=ROOT, check=True, timeout=60, capture_output=True)
    elif words[0] == "pip":
        extras = re.findall(r"\[([\w,-]+)\]", command)
        known = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
        assert {name for extra in extras for name in extra.split(",")} <= set(known)
    elif words[0] == "harness" and needs:
        read(words, monkeypatch)
    elif words[0] == "harness":
        if words[1] in ("score", "verify", "compare"):
            one = [f"{key}={value}" for key, value in (("workers", 1), ("device", "cpu"))]
            words += [setting for setting in one if not any(w.startswith(setting.split("=")[0] + "=") for w in words)]
        assert cli.main(words[1:]) == 0, command


def git(clone: Path, *arguments: str) -> str:
    settings = ["-c", "core.compression=0", "-c", "user.name=test", "-c", "user.email=test@example.com"]
    done = subprocess.run(
        ["git", *settings, *arguments], cwd=clone, check=True, capture_output=True, text=True, timeout=60
    )
    return done.stdout


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Path:
    """What git tracks here, as a clone of its own."""
    folder = tmp_path_factory.mktemp("clone")
    passing = shutil.ignore_patterns("__pycache__", *(line.strip("/") for line in IGNORED if "*" not in line))
    for name in (".gitignore", "README.md", "Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    for name in ("benchmarks", "conf", "docs", "harness"):
        shutil.copytree(ROOT / name, folder / name, ignore=passing)
    for name in ("scores", "tables"):
        shutil.copytree(ROOT / "results" / name, folder / "results" / name)
    for name in ("baseline.json", "published.csv", "QUEUE.md"):
        shutil.copy(ROOT / "results" / name, folder / "results")
    git(folder, "init", "-q")
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", "all")
    return folder


@pytest.fixture
def project(clone, tmp_path, monkeypatch) -> Path:
    """The clone, in which a command runs and whose files are those of the package; the user's own are elsewhere."""
    monkeypatch.chdir(clone)
    monkeypatch.setattr("harness.paths._PACKAGE", clone / "harness")
    monkeypatch.delenv("NAS_HARNESS_REFERENCE")
    for variable in ("NAS_HARNESS_STORE", "XDG_CACHE_HOME"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    monkeypatch.syspath_prepend(tmp_path)
    return clone


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_commands_and_examples(page, project, tmp_path, monkeypatch):
    for number, block in enumerate(blocks(page)):
        if block.language in ("sh", "bash", "console"):
            for command in block.commands:
                check(command, block.needs, tmp_path, monkeypatch)
                assert git(project, "status", "--porcelain") == "", command
        elif block.language == "python" and page.parent.name == "docs":
            title = re.match(r"# (\w+)\.py\n", block.text)
            name = title[1] if title else f"example_{page.stem}_{number}"
            compile(block.text, name, "exec")
            if block.needs:
                continue
            (tmp_path / f"{name}.py").write_text(block.text.replace("/tmp/", f"{tmp_path}/"), encoding="utf-8")
            monkeypatch.delitem(sys.modules, name, raising=False)
            importlib.import_module(name)
        elif block.language == "toml":
            tomllib.loads(block.text)
    assert git(project, "status", "--porcelain") == ""


def test_no_command_is_outside_a_block_that_is_checked():
    """Commands in indented blocks would be seen by readers alone. What has a … is a fragment."""
    for page in PAGES:
        text = _FENCE.sub("", page.read_text(encoding="utf-8"))
        found = re.findall(r"^ {4}(?:\.venv/bin/)?(?:harness|make|pip) .*$", text, re.MULTILINE)
        assert not [line for line in found if "…" not in line], page


@pytest.mark.parametrize("page", PAGES, ids=NAMES)
def test_links_lead_somewhere(page):
    text = _FENCE.sub("", page.read_text(encoding="utf-8"))
    for target in re.findall(r"\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)", text):
        assert (page.parent / target).exists() or not target, target


@pytest.mark.parametrize("command", cli.cli.commands)
def test_examples_of_the_help_can_be_read(command, capsys, monkeypatch):
    assert cli.main([command, "--help"]) == 0
    lines = capsys.readouterr().out.split("xamples:", 1)[1].splitlines()
    lines = [line.lstrip("# ") for line in lines if line.lstrip("# ").startswith(f"harness {command}")]
    examples = [shlex.split(line, comments=True) for line in lines]
    for words in examples:
        read(words[: words.index("|")] if "|" in words else words, monkeypatch)
    assert examples or command == "completion"
