"""Sweeps of scoring runs by every launcher: shards that are killed or fail are named, and gone on with.

The runs are commands in processes of their own, with a proxy of another package that obeys the environment: for
the architectures named there it kills its process or raises.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest
from test_third_party import install

import harness
from harness.benchmarks.benchmark import load_benchmark
from harness.cli import main
from harness.cli.launch import Ended, _cores, run_apart, runs_of, spell_out, with_resources
from harness.config import compose_config
from harness.engine.store import ScoreStore
from harness.errors import HarnessError
from harness.proxies import available

ROOT = Path(harness.__file__).resolve().parents[1]

# harness.cli.launch ignores it in processes of its own; pytest brings it back.
pytestmark = pytest.mark.filterwarnings(r"ignore:\s*'hydra/launcher:UserWarning")

MODULE = '''
import json
import os
import signal
import time
import zlib
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from harness import Probe, Proxy, Unscorable
from harness.probes.base import EncodingProbe


@dataclass(frozen=True)
class Trap(EncodingProbe):
    """A number from the encoding; for the encodings that TRAPS names, what it says there."""

    def read(self, space, architectures, num_classes, resolution):
        traps = json.loads(os.environ.get("TRAPS", "{}"))
        for architecture in architectures:
            action = traps.get(architecture)
            if action == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if action == "raise":
                raise RuntimeError("caught in the trap")
            if action == "wait":
                print("waiting in the trap", file=__import__("sys").stderr, flush=True)
                time.sleep(300)
        return {"value": np.array([zlib.crc32(text.encode()) / 7 for text in architectures])}

    def run(self, subject, wanted):
        raise Unscorable("no encoding")


@dataclass(frozen=True)
class Parameters(Probe):
    """Something of the network, so that it is built and scored one by one."""

    def run(self, subject, wanted):
        return {"number": float(sum(1 for _ in subject.network.parameters()))}


@dataclass(frozen=True)
class Trapped(Proxy):
    name: ClassVar[str] = "trapped"
    summary: ClassVar[str] = "a number from the encoding, or a trap"
    citation: ClassVar[str] = "a test"
    inputs: ClassVar[str] = "none"
    random: ClassVar[bool] = False

    def needs(self):
        return {Trap(): ("value",)}

    def score(self, seen):
        return seen["value"]


@dataclass(frozen=True)
class TrappedNetwork(Trapped):
    name: ClassVar[str] = "trapped_network"

    def needs(self):
        return {Trap(): ("value",), Parameters(): ("number",)}

    def score(self, seen):
        return seen["value"] + seen["number"]
'''

BENCHMARK = "macro"
CELLS = 24


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """Another package with the proxies of `MODULE`, as an installer leaves it."""
    entries = {"trapped": "trappackage:Trapped", "trapped_network": "trappackage:TrappedNetwork"}
    return install(tmp_path_factory.mktemp("site"), entries, "trappackage", MODULE)


def surroundings(site: Path, traps: dict[int, str] | None = None) -> dict[str, str]:
    """The environment of a command; `traps` are actions by index."""
    names = load_benchmark(BENCHMARK).architectures
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(site)]),
        "OMP_NUM_THREADS": "1",
        "TRAPS": json.dumps({names[index]: action for index, action in (traps or {}).items()}),
    }


def score(site: Path, cwd: Path, *arguments: str, traps: dict[int, str] | None = None) -> subprocess.CompletedProcess:
    """`harness score …` in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "harness.cli", "score", *settings(*arguments)],
        env=surroundings(site, traps),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=300,
    )


def settings(*arguments: str) -> list[str]:
    proxy = [] if any(a.startswith("proxies=") for a in arguments) else ["proxies=[trapped]"]
    return [f"benchmark={BENCHMARK}", f"limit={CELLS}", "device=cpu", "store=scores", *proxy, *arguments]


def values(store: Path) -> bytes:
    """Every stored row of the store's files, as bytes of its values; nothing hides behind a reader's choice.

    But for the exception of an attempt that was followed by a better one: its row stays, and stands for nothing.
    """
    parts = sorted(store.glob("**/part-*.parquet"))
    frames = [pq.read_table(part, partitioning=None).to_pandas().assign(proxy=str(part.parent)) for part in parts]
    frame = pd.concat(frames)[["proxy", "index", "score", "status", "version"]]
    frame["proxy"] = frame["proxy"].str.removeprefix(str(store))
    scored = frame["status"].eq("ok").groupby([frame["proxy"], frame["index"]]).transform("any")
    frame = frame[~(scored & frame["status"].str.startswith("error"))].copy()
    frame["score"] = [None if pd.isna(x) else float(x).hex() for x in frame["score"]]
    return frame.sort_values(["proxy", "index", "status"]).to_csv(index=False).encode()


@pytest.fixture
def here(site, tmp_path, monkeypatch, capfd) -> Callable[..., subprocess.CompletedProcess]:
    """`harness score …` in this process, in `tmp_path`, which saves its start."""
    available.cache_clear()
    monkeypatch.syspath_prepend(str(site))
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str, traps: dict[int, str] | None = None) -> subprocess.CompletedProcess:
        for key, value in surroundings(site, traps).items():
            monkeypatch.setenv(key, value)
        return subprocess.CompletedProcess(arguments, main(["score", *settings(*arguments)]), *capfd.readouterr())

    yield run
    available.cache_clear()


def undisturbed(here: Callable[..., subprocess.CompletedProcess], *arguments: str) -> bytes:
    done = here(*arguments, "store=undisturbed", "workers=1")
    assert done.returncode == 0, done.stderr
    return values(Path("undisturbed"))


def faults(done: subprocess.CompletedProcess) -> dict[str, str]:
    """The runs that a command reports as incomplete, with what it says of each."""
    lines = done.stderr.splitlines()
    (start,) = [i for i, line in enumerate(lines) if "runs are not complete" in line]
    assert "the same command computes what is missing" in lines[start]
    return dict(line.strip().split(": ", 1) for line in lines[start + 1 :] if line.startswith("  "))


def parts(store: Path) -> dict[str, float]:
    return {str(path): path.stat().st_mtime_ns for path in store.glob("**/part-*.parquet")}


# A sweep by each launcher ---------------------------------------------------------------------------------


def test_killed_and_failing_shards_are_named_and_only_they_are_run_again(here, tmp_path):
    """Of 5 shards 2 are killed and 1 raises."""
    command = ("-m", "shard=" + ",".join(f"{i}/5" for i in range(5)))
    done = here(*command, traps={1: "kill", 12: "kill", 8: "raise"})
    assert done.returncode == 1
    found = faults(done)
    assert set(found) == {"shard=1/5", "shard=2/5", "shard=3/5"}
    assert found["shard=1/5"] == "5 of 5 scores missing: killed by signal 9 (SIGKILL, as by lack of memory)"
    assert "killed by signal 9" in found["shard=2/5"]
    assert "RuntimeError: caught in the trap" in found["shard=3/5"]
    assert "2 of 5 runs complete" in done.stdout
    before = parts(tmp_path / "scores")

    done = here(*command)
    assert done.returncode == 0, done.stderr
    assert "5 of 5 runs complete, 2 of them before" in done.stdout
    assert [line.split(":")[0] for line in done.stdout.splitlines() if "computed" in line] == [
        f"macro/cifar10 seed 0 shard {i}/5" for i in (1, 2, 3)
    ]
    after = parts(tmp_path / "scores")
    assert before.items() <= after.items()
    assert len(after) == len(before) + 3
    assert values(tmp_path / "scores") == undisturbed(here)

    done = here(*command, traps={1: "kill"})
    assert done.returncode == 0
    assert "5 of 5 runs complete, 5 of them before" in done.stdout
    assert parts(tmp_path / "scores") == after


LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"]),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", ["hydra/launcher=submitit_local"]),
    "ray": ("ray", ["executor=ray", "executor.address=local"]),
}


def need(package: str) -> None:
    try:
        found = importlib.util.find_spec(package)
    except ModuleNotFoundError:
        found = None
    if found is None:
        pytest.skip(f"{package} is not installed: pip install '.[parallel,slurm,ray]'")


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_names_what_is_incomplete(site, here, tmp_path, name):
    package, launcher = LAUNCHERS[name]
    need(package)
    command = ["shards=3", "limit=9", *launcher]
    done = score(site, tmp_path, *command, traps={0: "kill", 4: "raise"})
    assert done.returncode == 1
    found = faults(done)
    assert set(found) == {"shard=0/3", "shard=1/3"}, done.stderr
    assert "killed by signal 9" in found["shard=0/3"]
    assert "RuntimeError: caught in the trap" in found["shard=1/3"]

    done = score(site, tmp_path, *command)
    assert done.returncode == 0, done.stderr
    assert "3 of 3 runs complete, 1 of them before" in done.stdout
    assert values(tmp_path / "scores") == undisturbed(here, command[1])
    assert not list(tmp_path.glob(".sweep/ended-*"))
    assert "deprecated" not in done.stderr


def test_a_ray_cluster_of_two_machines(site, tmp_path):
    """Two nodes of one core each: the sweep finds the cluster by its address and uses both."""
    need("ray")
    code = (
        "import subprocess, sys\n"
        "from ray.cluster_utils import Cluster\n"
        "cluster = Cluster(initialize_head=True, head_node_args={'num_cpus': 1})\n"
        "cluster.add_node(num_cpus=1)\n"
        "code = subprocess.call([*sys.argv[1:], f'executor.address={cluster.address}'])\n"
        "cluster.shutdown()\n"
        "sys.exit(code)\n"
    )
    command = [sys.executable, "-m", "harness.cli", "score", *settings("shards=4", "executor=ray")]
    done = subprocess.run(
        [sys.executable, "-c", code, *command],
        env=surroundings(site),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "4 of 4 runs complete, 0 of them before" in done.stdout
    (key,) = ScoreStore(tmp_path / "scores").keys()
    assert len(ScoreStore(tmp_path / "scores").read(key)) == CELLS


# Rows that failed -----------------------------------------------------------------------------------------


def test_rows_that_failed_are_told_by_their_status(here, tmp_path):
    """Two of a run's rows end by an exception: the run goes on, and is reported with their status."""
    command = ["-m", "shard=0/2,1/2", "proxies=[trapped_network]", "limit=6", "workers=1"]
    done = here(*command, traps={0: "raise", 2: "raise"})
    assert done.returncode == 1
    assert faults(done) == {
        "shard=0/2": "2 of 3 scores missing: 2 x trapped_network: error: RuntimeError: caught in the trap"
    }
    (key,) = ScoreStore(tmp_path / "scores").keys()
    assert ScoreStore(tmp_path / "scores").read(key)["status"].tolist().count("ok") == 4
    assert here(*command).returncode == 0
    # The failed attempts are gone from the files, too.
    assert values(tmp_path / "scores") == undisturbed(here, *command[2:])


# Stopping -------------------------------------------------------------------------------------------------


def started(site: Path, cwd: Path, *arguments: str, traps: dict[int, str]) -> subprocess.Popen:
    """A command that waits in a trap."""
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli", "score", *settings(*arguments)],
        env=surroundings(site, traps),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    for line in process.stderr:
        if "waiting in the trap" in line:
            return process
    raise AssertionError(f"ended with {process.wait()} before the trap")


def below(pid: int) -> list[int]:
    """The processes that descend from one (Linux)."""
    found = [int(c) for p in Path(f"/proc/{pid}/task").glob("*/children") for c in p.read_text().split()]
    return found + [deeper for child in found for deeper in below(child)]


def gone(pids: list[int], seconds: float = 60) -> bool:
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if not any(Path(f"/proc/{pid}").exists() for pid in pids):
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="finds processes below /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_sweep_that_is_stopped_takes_its_runs_with_it(site, tmp_path, number):
    """By SIGTERM in good order; killed, it cannot speak, but the run it had started does not outlive it."""
    arguments = ("shards=2", "proxies=[trapped_network]", "limit=4", "chunk=1", "workers=1")
    process = started(site, tmp_path, *arguments, traps={2: "wait"})
    children = below(process.pid)
    assert children
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == (130 if number == signal.SIGTERM else -9)
    if number == signal.SIGTERM:
        assert "finished scores are stored" in err
    assert gone(children)
    (key,) = ScoreStore(tmp_path / "scores").keys()
    assert ScoreStore(tmp_path / "scores").read(key)["index"].tolist() == [0]  # finished when the signal came


def test_a_run_is_stopped_at_its_time(site, tmp_path, monkeypatch):
    for key, value in surroundings(site, {0: "wait"}).items():
        monkeypatch.setenv(key, value)
    arguments = ["score", *settings("limit=1")]
    assert run_apart(arguments, cwd=str(tmp_path), until=time.monotonic() + 3).reason == "stopped before its end"


# Mistakes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["shards=none"], ["shards=none", "shards=8"]),
        (["shards=2", "shard=0/2"], ["shards=2", "leave out shard"]),
        (["-m", "shard=0/2,2/2"], ["shard='2/2'", "0 <= i < n"]),
        (["-m", "shard=0/2,1/2", "proxies=[snipp]"], ["unknown proxy 'snipp'"]),
        (["shards=2", "population=al"], ["unknown population"]),
        (["shards=2", "device=cuda:99"], ["device=cuda:99 cannot be used here"]),
        (["shards=2", "executor=rai"], ["unknown executor 'rai'", "did you mean 'ray'?"]),
        (["executor=ray", "hydra/launcher=submitit_local"], ["exclude each other"]),
        (["shards=2", "hydra/launcher=nothing"], ["nothing"]),
    ],
)
def test_mistakes_are_found_before_anything_is_started(site, tmp_path, capsys, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    proxies = [] if any("proxies" in a for a in arguments) else ["proxies=[flops]"]
    assert main(["score", "store=scores", *proxies, *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    (line,) = err.splitlines()
    assert line.startswith("harness: ")
    for word in words:
        assert word in line
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("argument", "extra"),
    [
        ("hydra/launcher=joblib", "parallel"),
        ("hydra/launcher=submitit_slurm", "slurm"),
        ("executor=ray", "ray"),
    ],
)
def test_a_missing_extra_is_named(tmp_path, capsys, monkeypatch, argument, extra):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert main(["score", "proxies=[flops]", "shards=2", argument]) == 2
    assert f"pip install 'nas-proxy-harness[{extra}]'" in capsys.readouterr().err


# Parts ----------------------------------------------------------------------------------------------------


def test_runs_of_a_sweep_over_two_settings():
    runs = runs_of(["-m", "seed=0,1", "shards=2", "proxies=[flops]", "population='sample(4, seed=1)'"])
    assert [run.label for run in runs] == [f"seed={seed} shard={part}/2" for seed in (0, 1) for part in (0, 1)]
    assert [(run.job.seed, run.job.shard) for run in runs] == [(0, "0/2"), (0, "1/2"), (1, "0/2"), (1, "1/2")]
    assert {run.job.population for run in runs} == {"sample(4, seed=1)"}


def test_a_single_run_has_no_label_of_its_own():
    (run,) = runs_of(["proxies=[flops]", "shard=1/3"])
    assert (run.label, run.job.shard) == ("the run", "1/3")


def test_spelling_out_leaves_the_rest():
    assert spell_out(["a=1", "shards=2", "-m"]) == ["a=1", "shard=0/2,1/2", "-m"]


@pytest.mark.parametrize(
    ("end", "words"),
    [
        (Ended(-9, "1/3 networks"), "killed by signal 9 (SIGKILL, as by lack of memory)"),
        (Ended(-15, ""), "killed by signal 15 (SIGTERM)"),
        (Ended(130, "harness: stopped"), "stopped before its end"),
        (Ended(2, "harness: no images"), "no images"),
        (Ended(1, "RuntimeError: out"), "RuntimeError: out"),
        (Ended(3, ""), "exit code 3"),
    ],
)
def test_reasons_in_words(end, words):
    assert end.reason == words


@pytest.mark.parametrize("name", ["joblib", "submitit_local", "submitit_slurm"])
def test_defaults_of_the_launchers_are_those_of_our_files(name):
    need({"joblib": "hydra_plugins.hydra_joblib_launcher"}.get(name, "hydra_plugins.hydra_submitit_launcher"))
    from hydra import compose, initialize_config_dir

    compose_config("score", [])  # registers the schemas
    with initialize_config_dir(str(ROOT / "conf"), version_base="1.3"):
        config = compose("score", [f"hydra/launcher={name}"], return_hydra_config=True).hydra.launcher
    if name == "joblib":
        assert (config.n_jobs, config.pre_dispatch) == (-1, "all")
    elif name == "submitit_local":
        assert (config.cpus_per_task, config.gpus_per_node) == (1, 0)
    else:
        assert (config.gpus_per_node, config.cpus_per_task, config.max_num_timeout) == (1, 4, 3)


def test_cores_of_runs_that_share_a_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    joblib = {"_target_": "x.JoblibLauncher"}
    assert _cores({**joblib, "n_jobs": 2}, 10) == 4
    assert _cores({**joblib, "n_jobs": -1}, 10) == 1
    assert _cores({**joblib, "n_jobs": -1}, 2) == 4
    assert _cores({"_target_": "x.LocalLauncher", "cpus_per_task": 3}, 10) == 3
    assert _cores({"_target_": "x.SlurmLauncher", "cpus_per_task": 3}, 10) == 0  # the scheduler's own limit holds
    assert _cores({"_target_": "x.BasicLauncher"}, 10) == 0


def test_gpus_of_a_machine_with_several(monkeypatch):
    import torch

    monkeypatch.setattr("harness.engine.workers.GPU_WORKERS", 3)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    assert with_resources(["score", "seed=1"], 6, 2) == ["score", "seed=1", "device=cuda:2", "workers=2"]
    assert with_resources(["score"], 7, 8) == ["score", "device=cuda:3", "workers=3"]
    assert with_resources(["score"], 7, 0) == ["score", "device=cuda:3"]
    assert with_resources(["score", "device=cuda:1"], 6, 2) == ["score", "device=cuda:1", "workers=2"]
    assert with_resources(["score", "device=cpu"], 6, 8) == ["score", "device=cpu", "workers=8"]
    assert with_resources(["score", "device=cpu", "workers=7"], 6, 2) == ["score", "device=cpu", "workers=7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    assert with_resources(["score"], 6, 2) == ["score", "workers=2"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert with_resources(["score"], 6, 8) == ["score", "workers=8"]


def test_bad_settings_are_harness_errors():
    with pytest.raises(HarnessError, match="unknown setting"):
        runs_of(["-m", "sed=0,1"])
