"""What the scoring path imports: nothing beyond torch, numpy, pandas, pyarrow, hydra-core, omegaconf, click
and tqdm."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import harness

ROOT = Path(harness.__file__).resolve().parents[1]

ALLOWED = ("torch", "numpy", "pandas", "pyarrow", "hydra-core", "omegaconf", "click", "tqdm")

CODE = """
import sys

FORBIDDEN = set(sys.argv[1].split(","))


class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in FORBIDDEN:
            raise ModuleNotFoundError(f"No module named {name!r} (refused)", name=name)


sys.meta_path.insert(0, Refuse())
from harness.cli import main

code = main(["score", "dataset=ImageNet16-120", "population=no_dead_ops", "limit=2", "device=cpu", "store=scores",
             "proxies=[snip:batch_size=4,synflow,naswot:batch_size=4,flops,sed]", *sys.argv[2:]])
assert not FORBIDDEN & {name.partition(".")[0] for name in sys.modules}
sys.exit(code)
"""


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def with_requirements(names: tuple[str, ...]) -> set[str]:
    """Distributions and, recursively, what they require without extras."""
    found: set[str] = set()
    waiting = [normal(name) for name in names]
    while waiting:
        name = waiting.pop()
        if name in found:
            continue
        try:
            lines = requires(name) or []
        except PackageNotFoundError:  # of another platform
            continue
        found.add(name)
        waiting += [normal(re.match(r"[\w.-]+", line)[0]) for line in lines if "extra ==" not in line]
    return found


def forbidden() -> list[str]:
    """Top-level modules of all other installed packages."""
    allowed = with_requirements(ALLOWED) | {"nas-proxy-harness"}
    mine = {name for name, owners in packages_distributions().items() if allowed & {normal(o) for o in owners}}
    return sorted(name for name in packages_distributions() if name not in mine and name.isidentifier())


def test_two_cells_are_scored_with_every_other_package_refused(tmp_path):
    names = forbidden()
    assert {"scipy", "pytest"} <= set(names)
    assert not {"torch", "numpy", "pandas", "pyarrow", "hydra", "omegaconf", "yaml", "harness"} & set(names)
    done = subprocess.run(
        [sys.executable, "-c", CODE, ",".join(names), "workers=1"],
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "10 scores computed" in done.stdout
    assert "no correlation: No module named 'scipy' (refused)" in done.stdout
