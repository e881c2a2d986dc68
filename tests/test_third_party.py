"""A proxy of another package: found by its entry point, listed, scored and stored like those of this one.

The packages are a module and the metadata that an installer would write, in a folder on the path.
"""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import harness
from harness.cli import main
from harness.engine.scorer import Job, Scorer
from harness.engine.store import ScoreKey, ScoreStore
from harness.proxies import ENTRY_POINTS, available, broken, get_proxy
from harness.rankings.learned import LEARNED

ROOT = Path(harness.__file__).resolve().parents[1]

MODULE = '''
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness import Probe, Proxy, Unscorable
from harness.probes.base import EncodingProbe


@dataclass(frozen=True)
class Logits(Probe):
    """Forward of a mini-batch: standard deviation of the logits."""

    batch_size: int = 4

    def run(self, subject, wanted):
        import torch

        subject.initialise("kaiming_fan_in")
        images, _ = subject.images(self.batch_size)
        with torch.no_grad():
            return {"spread": float(subject.network(images).std())}


@dataclass(frozen=True)
class LogitSpread(Proxy):
    name: ClassVar[str] = "logit_spread"
    summary: ClassVar[str] = "how far apart the logits lie"
    citation: ClassVar[str] = "another package"
    inputs: ClassVar[str] = "random"
    version: ClassVar[int] = 3

    factor: float = 1.0

    def needs(self):
        return {Logits(): ("spread",)}

    def score(self, seen: Mapping[str, Any]) -> float:
        if seen["spread"] == 0:
            raise Unscorable("all logits are equal")
        return self.factor * seen["spread"]


@dataclass(frozen=True)
class Poolings(EncodingProbe):
    """Number of poolings that an encoding names."""

    def read(self, space, architectures, num_classes, resolution):
        import numpy as np

        return {"poolings": np.array([text.count("pool") for text in architectures], dtype=float)}

    def run(self, subject, wanted):
        raise Unscorable("no encoding")


@dataclass(frozen=True)
class FewPoolings(Proxy):
    name: ClassVar[str] = "few_poolings"
    summary: ClassVar[str] = "minus the number of poolings"
    citation: ClassVar[str] = "another package"
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False
    sign: ClassVar[int] = -1

    def needs(self):
        return {Poolings(): ("poolings",)}

    def score(self, seen):
        return -seen["poolings"]


class Unrelated:
    pass
'''


def install(folder: Path, entries: dict[str, str], package: str = "otherpackage", module: str = MODULE) -> Path:
    """What `pip install --target FOLDER` of a package with these entry points leaves."""
    folder.mkdir(exist_ok=True)
    (folder / f"{package}.py").write_text(module, encoding="utf-8")
    info = folder / f"{package}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n", encoding="utf-8")
    lines = [f"[{ENTRY_POINTS}]", *(f"{name} = {value}" for name, value in entries.items())]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def command(site: Path | None, *arguments: str) -> subprocess.CompletedProcess:
    """`harness …` in a process of its own, with `site` among its packages."""
    paths = [str(ROOT), *([str(site)] if site else [])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", *arguments],
        env=environment,
        cwd=site or ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )


BOTH = {"logit_spread": "otherpackage:LogitSpread", "few_poolings": "otherpackage:FewPoolings"}


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    return install(tmp_path_factory.mktemp("site") / "packages", BOTH)


def listed(done: subprocess.CompletedProcess) -> dict[str, str]:
    assert done.returncode == 0, done.stderr
    return dict(line.split("  ", 1) for line in done.stdout.splitlines())


def test_listed_among_the_others(site):
    own = listed(command(None, "list", "proxies"))
    found = listed(command(site, "list", "proxies"))
    assert [name for name in found if name.strip() not in {n.strip() for n in own}] == [
        name for name in found if name.strip() in BOTH
    ]
    by_name = {name.strip(): summary.strip() for name, summary in found.items()}
    assert by_name["logit_spread"] == "how far apart the logits lie"
    assert by_name["few_poolings"] == "minus the number of poolings"
    names = [name.strip() for name in own]
    spending = [name for name in names if name in LEARNED]  # accuracies: last, apart from what is training-free
    assert list(by_name) == [*sorted([*(name for name in names if name not in LEARNED), *BOTH]), *spending]


def forget() -> None:
    """Look for entry points again at the next question."""
    available.cache_clear()
    broken.cache_clear()
    for name in ("otherpackage", "anotherpackage", "brokenpackage"):
        sys.modules.pop(name, None)


@pytest.fixture
def installed(site, monkeypatch):
    """The package on this process's path, for the time of a test."""
    monkeypatch.syspath_prepend(str(site))
    forget()
    yield
    forget()


@pytest.fixture
def here(monkeypatch, capsys):
    """`harness …` in this process, with `site` among its packages."""

    def run(site: Path, *arguments: str) -> subprocess.CompletedProcess:
        monkeypatch.syspath_prepend(str(site))
        forget()
        with warnings.catch_warnings(record=True) as seen:
            code = main([*arguments])
            told = [warnings.formatwarning(w.message, w.category, w.filename, w.lineno) for w in seen]
        out, err = capsys.readouterr()
        return subprocess.CompletedProcess(arguments, code, out, "".join([*told, err]))

    yield run
    forget()


def test_scored_and_stored(site, installed, tmp_path):
    """By worker processes, which find the package themselves; with the values that this process computes."""
    done = command(
        site,
        "score",
        "proxies=[logit_spread,logit_spread:factor=2.5,few_poolings,params]",
        "dataset=ImageNet16-120",
        "population=no_dead_ops",
        "limit=2",
        "seed=7",
        "workers=2",
        "chunk=1",
        "device=cpu",
        f"store={tmp_path}",
    )
    assert done.returncode == 0, done.stderr
    assert "8 scores computed" in done.stdout
    store = ScoreStore(tmp_path)
    keys = list(store.keys())
    assert {(key.proxy, key.inputs, key.seed) for key in keys} == {
        ("logit_spread", "random", 7),
        ("logit_spread:factor=2.5", "random", 7),
        ("few_poolings", "none", 0),
        ("params", "none", 0),
    }
    spread = store.read(ScoreKey("nasbench201", "ImageNet16-120", "random", "logit_spread", 7))
    assert [*spread["status"]] == ["ok", "ok"]
    assert [*spread["version"]] == [3, 3]
    scorer = Scorer(Job("nasbench201", "ImageNet16-120", ("logit_spread",), seed=7, device="cpu"))
    for index, score in zip(spread["index"], spread["score"], strict=True):
        ((_, row),) = scorer.score(index, ["logit_spread"])
        assert row.score == pytest.approx(score, rel=1e-5)
        assert score > 0
    more = store.read(ScoreKey("nasbench201", "ImageNet16-120", "random", "logit_spread:factor=2.5", 7))
    assert [*more["score"]] == [2.5 * score for score in spread["score"]]
    few = store.read(ScoreKey("nasbench201", "ImageNet16-120", "none", "few_poolings", 0))
    cells = [scorer.benchmark.architectures[i] for i in few["index"]]
    assert [*few["score"]] == [-cell.count("avg_pool_3x3") for cell in cells]


def test_of_use_from_python(installed):
    import torch

    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 3))
    images = torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    series = harness.score(network, images, proxies=["logit_spread", "logit_spread:factor=3"])
    assert series.attrs["status"] == {"logit_spread": "ok", "logit_spread:factor=3.0": "ok"}
    assert series["logit_spread:factor=3.0"] == pytest.approx(3 * series["logit_spread"])
    assert get_proxy("logit_spread:factor=3").factor == 3.0


def mistake(done: subprocess.CompletedProcess) -> str:
    """The one line with which a command has refused."""
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("harness: ")
    return line


@pytest.mark.parametrize(
    ("module", "cause"),
    [
        ("import no_such_module_at_all\n", "no_such_module_at_all"),
        ("raise RuntimeError('made for another version')\n", "made for another version"),
        ("raise ValueError('first line\\nsecond line')\n", "first line"),
        ("class Another:\n    pass\n", "Broken"),
        ("def (:\n", "invalid syntax"),
    ],
)
def test_one_that_cannot_be_imported(here, tmp_path, module, cause):
    site = install(tmp_path / "packages", {"broken_one": "brokenpackage:Broken"}, "brokenpackage", module)
    line = left_out(here(site, "list", "proxies"))
    assert "'broken_one'" in line
    assert "brokenpackage:Broken" in line
    assert cause in line


def left_out(done: subprocess.CompletedProcess[str]) -> str:
    """The warning of a command that goes on without a proxy."""
    assert done.returncode == 0, done.stderr
    assert "synflow" in done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith("harness: proxy ")
    assert line.endswith("; it is left out")
    return line


def test_one_that_cannot_be_imported_stops_nothing_else(here, tmp_path):
    module = "import no_such_module_at_all\n"
    site = install(tmp_path / "packages", {"broken_one": "brokenpackage:Broken"}, "brokenpackage", module)
    fixed = ["limit=2", f"store={tmp_path / 'store'}", "device=cpu", "workers=1"]
    done = here(site, "score", "proxies=[params]", *fixed)
    assert (done.returncode, len(done.stderr.splitlines())) == (0, 1), done.stderr
    assert "'broken_one'" in done.stderr
    done = here(site, "score", "proxies=[broken_one]", *fixed)
    assert done.returncode == 2
    assert "cannot be imported (No module named 'no_such_module_at_all')" in done.stderr.splitlines()[-1]
    (key,) = ScoreStore(tmp_path / "store").keys()
    assert key.proxy == "params"


def test_one_with_a_name_that_is_taken(here, tmp_path):
    module = MODULE.replace('"logit_spread"', '"synflow"')
    site = install(tmp_path / "packages", {"mine": "otherpackage:LogitSpread"}, module=module)
    line = left_out(here(site, "list", "proxies"))
    assert "'synflow'" in line
    assert "otherpackage:LogitSpread" in line
    assert "rename" in line


def test_one_that_declares_too_little(here, tmp_path):
    module = MODULE.replace("    summary: ClassVar[str]", "    sumary: ClassVar[str]", 1)
    site = install(tmp_path / "packages", {"mine": "otherpackage:LogitSpread"}, module=module)
    line = left_out(here(site, "list", "proxies"))
    assert "otherpackage:LogitSpread" in line
    assert "declares no summary" in line


@pytest.mark.parametrize("version", ["20251201", "-1", "1.5", "True", "None"])
def test_one_whose_version_cannot_be_stored(here, tmp_path, version):
    module = MODULE.replace("version: ClassVar[int] = 3", f"version: ClassVar[int] = {version}", 1)
    site = install(tmp_path / "packages", {"mine": "otherpackage:LogitSpread"}, module=module)
    assert f"declares version {version}: write a number of 0 to 999" in left_out(here(site, "list", "proxies"))


def test_two_packages_with_the_same_name(tmp_path):
    site = install(tmp_path / "packages", {"logit_spread": "otherpackage:LogitSpread"})
    install(site, {"logit_spread": "anotherpackage:LogitSpread"}, "anotherpackage")
    line = left_out(command(site, "list", "proxies"))
    assert "'logit_spread'" in line
    assert "rename" in line


@pytest.mark.parametrize("value", ["otherpackage:Unrelated", "otherpackage:MODULE", "otherpackage"])
def test_one_that_is_no_proxy(here, tmp_path, value):
    site = install(tmp_path / "packages", {"mine": value}, module=MODULE + "\nMODULE = 3\n")
    line = left_out(here(site, "list", "proxies"))
    assert value in line
    assert "Proxy" in line
