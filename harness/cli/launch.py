"""Sweeps of scoring runs: one after the other, by a launcher of Hydra, or as tasks of Ray.

What is complete is read from the store, before and after; a launcher only says why a run ended. Each run is a
process of its own below whatever the launcher starts, so that one that is killed takes no other with it, and
every launcher reports the same: the runs that are not complete, with the reason, to be gone on with by the
same command.
"""

from __future__ import annotations

import importlib.util
import itertools
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import uuid
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

from harness.cli.jobs import job_of
from harness.cli.quote import quoted
from harness.cli.tracker import find_tracker
from harness.config import check_overrides, compose_config, register
from harness.engine.scorer import Job
from harness.engine.scoring import Wanted, check_host, plan
from harness.engine.store import ScoreKey, open_store
from harness.errors import HarnessError, shown
from harness.paths import data_dir, usable_cores, user_scores

# Our files of the launchers' defaults bear the names of the plugins' own, which validate them. Hydra 1.3 warns of
# that in every process that composes them.
warnings.filterwarnings("ignore", message=r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")

MULTIRUN = frozenset({"-m", "--multirun"})
#: Package and extra behind each launcher that is not Hydra's own.
LAUNCHERS = {
    "joblib": ("hydra_plugins.hydra_joblib_launcher", "parallel"),
    "submitit_local": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
    "submitit_slurm": ("hydra_plugins.hydra_submitit_launcher", "slurm"),
}
#: Seconds that a run has to store what it has finished before it is killed.
GRACE = 300.0


class Ended(NamedTuple):
    """How a process ended: exit code, negative for a signal, and its last line on standard error."""

    code: int
    said: str

    @property
    def reason(self) -> str:
        """In words."""
        if self.code < 0:
            known = {s.value: s.name for s in signal.Signals}
            hint = ", as by lack of memory" if -self.code == signal.SIGKILL else ""
            return f"killed by signal {-self.code} ({known.get(-self.code, 'unknown')}{hint})"
        if self.code == 130:
            return "stopped before its end"
        return self.said.removeprefix("harness: ") or f"exit code {self.code}"


def run_apart(
    arguments: Sequence[str],
    number: int = -1,
    cores: int = 0,
    cwd: str | None = None,
    prefix: str = "",
    until: float | None = None,
) -> Ended:
    """`harness ARGUMENTS` in a process of its own. Whatever ends this function ends that process first.

    Args:
        number: of a run of a sweep, which picks its GPU on a machine with several; -1 for anything else.
        cores: worker processes of that run at most where the arguments leave it open; 0 for as many as it may use.
        prefix: set before each line of the process on standard error.
        until: value of `time.monotonic()` at which the process is stopped, keeping what it has finished.
    """
    environment = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [environment.get("PYTHONPATH"), root]))
    # A session of its own: Ctrl-C reaches the caller alone, which then stops the process once and waits for it.
    process = subprocess.Popen(
        [sys.executable, "-m", "harness.cli.child", str(number), str(cores), *arguments],
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=cwd,
        env=environment,
        start_new_session=True,
    )
    last = [""]

    def echo() -> None:
        for raw in process.stderr:
            line = raw.decode("utf-8", "replace").rstrip()
            if line:
                last[0] = line
                print(prefix + line, file=sys.stderr, flush=True)

    reader = threading.Thread(target=echo, daemon=True)
    reader.start()
    try:
        try:
            process.wait(None if until is None else max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            _stop(process)
    except BaseException:
        _stop(process)
        raise
    finally:
        reader.join(5)  # worker processes of a killed run hold the pipe until they notice
        process.stdin.close()
    return Ended(process.returncode, last[0])


def _stop(process: subprocess.Popen) -> None:
    process.terminate()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    except BaseException:  # a second Ctrl-C
        process.kill()
        process.wait()
        raise


@dataclass(frozen=True)
class Run:
    """One run of a sweep: its number, its settings, those that the sweep varies, and its job."""

    number: int
    overrides: tuple[str, ...]
    varied: tuple[str, ...]
    job: Job

    @property
    def label(self) -> str:
        return " ".join(self.varied) or "the run"


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether `harness score ARGUMENTS` is more than one run in this process."""
    away = any(a.startswith(("executor=", "executor.name=")) and not a.endswith("=local") for a in arguments)
    return away or bool(MULTIRUN & set(arguments)) or any(a.startswith("shards=") for a in arguments)


def spell_out(arguments: Sequence[str]) -> list[str]:
    """Replace `shards=N` by the sweep over the N slices. Raises HarnessError for what is no number."""
    found = []
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key != "shards":
            found.append(argument)
            continue
        if not re.fullmatch(r"[1-9]\d{0,3}", value):
            raise HarnessError(f"{shown(argument)} makes no sense: give the number of slices, such as shards=8")
        if any(other.startswith("shard=") for other in arguments):
            raise HarnessError(f"{argument} stands for all slices: leave out shard=…")
        found.append("shard=" + ",".join(f"{i}/{value}" for i in range(int(value))))
    return found


def runs_of(arguments: Sequence[str]) -> list[Run]:
    """The runs that `harness score ARGUMENTS` stands for, in Hydra's order. Raises HarnessError on bad settings."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    overrides = [a for a in spell_out(arguments) if a not in MULTIRUN]
    check_overrides("score", overrides, sweep=True)
    choices, varied = [], []
    for text, override in zip(overrides, OverridesParser.create().parse_overrides(overrides), strict=True):
        swept = override.is_sweep_override()
        key = override.get_key_element()
        choices.append([f"{key}={value}" for value in override.sweep_string_iterator()] if swept else [text])
        varied.append(swept)

    @cache
    def composed(settings: tuple[str, ...]) -> Job:
        return job_of(compose_config("score", list(settings)))

    found = []
    for number, settings in enumerate(itertools.product(*choices)):
        shards = [text.partition("=")[2] for text in settings if text.startswith("shard=")]
        job = composed(tuple(text for text in settings if not text.startswith("shard=")))
        if shards:
            job = replace(job, shard=shards[-1].strip("'\""))
        own = tuple(itertools.compress(settings, varied))
        found.append(Run(number, settings, own, job))
    return found


def plans(runs: Sequence[Run]) -> list[list[Wanted]]:
    """`plan` of each run; each column of scores is read once for all of them. Raises HarnessError on bad input."""

    @cache
    def stored(store: str, stores: tuple[str, ...], key: ScoreKey, version: int) -> Any:
        return open_store(store, stores).read(key, version)

    return [plan(run.job, partial(stored, run.job.store, run.job.stores)) for run in runs]


def sweep(arguments: Sequence[str]) -> int:
    """Carry out `harness score -m …`: 0 when every run is complete, 1 with a report of those that are not.

    Raises:
        HarnessError: bad input, found before anything is started; an extra that is not installed.
    """
    if not any(argument.startswith("store=") for argument in arguments):
        arguments = [*arguments, quoted(f"store={user_scores()}")]  # whatever the environment of other machines names
    runs = runs_of(arguments)
    launcher, executor = _target(arguments)
    tracked = {text.partition("=")[2] for run in runs for text in run.overrides if text.startswith("tracker=")}
    for name in tracked - {"null"}:
        find_tracker(name)  # names what is wrong with it before anything is run
    before = plans(runs)
    # A complete run has its correlations yet to be logged where a tracker is asked for.
    open_runs = [run for run, wanted in zip(runs, before, strict=True) if tracked or any(w.missing for w in wanted)]
    if executor.name == "local" and launcher != "submitit_slurm":
        for job in dict.fromkeys(replace(run.job, shard="0/1", seed=0, population="all") for run in open_runs):
            check_host(job)
    trouble = ""
    ended: dict[int, Ended] = {}
    if open_runs:
        if executor.name == "ray":
            ended = _by_ray(open_runs, executor)
        else:
            ended, trouble = _by_hydra(arguments, runs, open_runs, launcher)
    return _report(runs, open_runs, plans(open_runs), ended, trouble)


def _target(arguments: Sequence[str]) -> tuple[str, Any]:
    """The launcher's name and the executor's settings. Raises HarnessError where its package is missing."""
    chosen = [a.partition("=")[2] for a in arguments if a.startswith("hydra/launcher=")]
    launcher = chosen[-1] if chosen else "basic"
    single = check_overrides("score", [a for a in spell_out(arguments) if a not in MULTIRUN], sweep=True)
    executor = compose_config("score", [s for s in single if s.startswith("executor")]).executor
    if executor.name not in ("local", "ray"):
        raise HarnessError(f"executor.name={executor.name} is neither local nor ray: set executor=ray")
    package, extra = LAUNCHERS.get(launcher, ("hydra", ""))
    name = f"hydra/launcher={launcher}"
    if executor.name == "ray":
        if launcher != "basic":
            raise HarnessError(f"executor=ray and hydra/launcher={launcher} exclude each other: leave one out")
        package, extra, name = "ray", "ray", "executor=ray"
    try:
        missing = importlib.util.find_spec(package) is None
    except ModuleNotFoundError:
        missing = True
    if missing:
        raise HarnessError(f"{name} needs the extra {extra!r}: pip install 'nas-proxy-harness[{extra}]'")
    return launcher, executor


def _attempt(number: int, overrides: Sequence[str], label: str, cores: int, cwd: str) -> Ended:
    """One run, in a process of its own. Exceptions of the launcher's surroundings become the reason."""
    settings = [text for text in overrides if not text.startswith(("executor", "hydra"))]
    try:
        return run_apart(["score", *settings], number, cores, cwd, f"{label}: ")
    except Exception as error:  # such as submitit's at the time limit
        return Ended(1, f"{type(error).__name__}: {_first_line(error)}")


def _first_line(error: BaseException) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


@dataclass(frozen=True)
class _HydraTask:
    """What Hydra's launchers call for each run, in whatever process and on whatever machine they call it.

    How the run ended is left as a small file below `notes`, beside the store, which all machines see: a
    launcher hands no results back when one of its processes has died.
    """

    labels: dict[str, str]
    notes: str
    cwd: str

    def __call__(self, config: Any) -> None:
        from hydra.core.hydra_config import HydraConfig

        hydra = HydraConfig.get()
        overrides = list(hydra.overrides.task)
        number = int(hydra.job.num)
        label = self.labels.get(str(number), str(number))
        ended = _attempt(number, overrides, label, _cores(hydra.launcher, len(self.labels)), self.cwd)
        note = Path(self.notes) / f"{number}.json"
        note.parent.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(ended), encoding="utf-8")


def _cores(launcher: Any, runs: int) -> int:
    """Worker processes of a run that shares its machine with others of the sweep; 0 where it has it to itself."""
    kind = str(launcher.get("_target_", "")).rpartition(".")[2]
    if kind == "LocalLauncher":
        return int(launcher.get("cpus_per_task") or 1)
    if kind == "JoblibLauncher":
        cores = usable_cores()
        at_once = int(launcher.get("n_jobs") or 1)
        at_once = at_once if at_once > 0 else max(1, cores + 1 + at_once)
        return max(1, cores // min(at_once, runs))
    return 0


def _by_hydra(
    arguments: Sequence[str], runs: Sequence[Run], open_runs: Sequence[Run], launcher: str
) -> tuple[dict[int, Ended], str]:
    """Hand the sweep to Hydra: how the runs ended by number, and the launcher's own trouble."""
    import hydra

    overrides = [a for a in spell_out(arguments) if a not in MULTIRUN]
    started = list(runs)
    swept = {text.partition("=")[0] for run in runs for text in run.varied}
    if len(swept) == 1:  # leave out what is complete, which Hydra can only where one setting varies
        started = list(open_runs)
        (key,) = swept
        values = ",".join(run.varied[0].partition("=")[2] for run in started)
        overrides = [f"{key}={values}" if text.partition("=")[0] == key else text for text in overrides]
    labels = {str(number): run.label for number, run in enumerate(started)}
    notes = Path(runs[0].job.store).resolve().parent / ".sweep" / f"ended-{uuid.uuid4().hex[:12]}"
    task = _HydraTask(labels, str(notes), os.getcwd())
    register()
    trouble = ""
    argv, full = sys.argv, os.environ.get("HYDRA_FULL_ERROR")
    sys.argv = ["harness score", "-m", *overrides]
    os.environ["HYDRA_FULL_ERROR"] = "1"  # raise a launcher's exception instead of printing it
    try:
        hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name="score")(task)()
    except Exception as error:
        trouble = f"{launcher} launcher: {type(error).__name__}: {_first_line(error)}"
    finally:
        sys.argv = argv
        if full is None:
            del os.environ["HYDRA_FULL_ERROR"]
        else:
            os.environ["HYDRA_FULL_ERROR"] = full
    ended = {}
    for number, run in enumerate(started):
        note = notes / f"{number}.json"
        if note.is_file():
            ended[run.number] = Ended(*json.loads(note.read_text(encoding="utf-8")))
            note.unlink()
    if notes.is_dir():
        notes.rmdir()
    return ended, trouble


def _by_ray(runs: Sequence[Run], executor: Any) -> dict[int, Ended]:
    """Every run as a task of Ray: how they ended by number. Raises HarnessError where no machine can take one."""
    import ray

    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_DEDUP_LOGS", "0")
    try:
        ray.init(address=executor.address, include_dashboard=None if executor.address else False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise HarnessError(
            f"no Ray cluster at executor.address={executor.address} ({_first_line(error)}): start one by "
            "`ray start --head`, or leave the address out to use this machine"
        ) from error
    try:
        gpus = executor.num_gpus
        if gpus is None:
            gpus = 1 if ray.cluster_resources().get("GPU", 0) else 0
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(n.get("CPU", 0) >= executor.num_cpus and n.get("GPU", 0) >= gpus for n in nodes):
            raise HarnessError(
                f"no machine of the Ray cluster has {executor.num_cpus} cores and {gpus} GPUs: lower "
                "executor.num_cpus or executor.num_gpus"
            )
        task = ray.remote(num_cpus=executor.num_cpus, num_gpus=gpus, max_retries=executor.max_retries)(_attempt)
        waiting = {
            task.remote(run.number, run.overrides, run.label, executor.num_cpus, os.getcwd()): run for run in runs
        }
        ended: dict[int, Ended] = {}
        try:
            while waiting:
                (done,), _ = ray.wait(list(waiting), num_returns=1)
                run = waiting.pop(done)
                try:
                    ended[run.number] = Ended(*ray.get(done))
                except ray.exceptions.RayError as error:
                    ended[run.number] = Ended(1, f"{type(error).__name__}: {_first_line(error)}")
                print(f"{run.label}: ended, {len(waiting)} of {len(runs)} runs left", file=sys.stderr, flush=True)
        except BaseException:
            for reference in waiting:
                ray.cancel(reference)  # raises KeyboardInterrupt in the task, which stops its run
            ray.wait(list(waiting), num_returns=len(waiting), timeout=GRACE)
            raise
    finally:
        ray.shutdown()
    return ended


def _report(
    runs: Sequence[Run],
    started: Sequence[Run],
    after: Sequence[Sequence[Wanted]],
    ended: dict[int, Ended],
    trouble: str,
) -> int:
    """Print what is complete and, by run, what is not and why; returns the exit code."""
    faults = []
    for run, wanted in zip(started, after, strict=True):
        missing = sum(len(w.missing) for w in wanted)
        end = ended.get(run.number)
        if missing:
            asked = sum(w.asked for w in wanted)
            why = _why(run, wanted, ended, trouble)
            faults.append(f"  {run.label}: {missing:,} of {asked:,} scores missing: {why}")
        elif end is not None and end.code == 2:  # what came after the scores, such as a tracker
            faults.append(f"  {run.label}: all scores stored: {end.reason}")
    stores = ", ".join(dict.fromkeys(run.job.store for run in runs))
    before = len(runs) - len(started)
    print(
        f"{len(runs) - len(faults):,} of {len(runs):,} runs complete, {before:,} of them before; store {stores}",
        flush=True,
    )
    if not faults:
        if trouble:  # of no consequence to the scores
            print(f"harness: {trouble}", file=sys.stderr)
        return 0
    print(
        f"harness: {len(faults):,} of {len(runs):,} runs are not complete; the same command computes what is missing:",
        *faults,
        sep="\n",
        file=sys.stderr,
    )
    return 1


def _why(run: Run, wanted: Sequence[Wanted], ended: dict[int, Ended], trouble: str) -> str:
    end = ended.get(run.number)
    reasons = []
    errors: Counter[str] = Counter()
    for w in wanted:
        errors.update({f"{w.proxy.label}: {status}": count for status, count in w.errors.items()})
    if end is None:
        reasons.append(trouble or "no word of how it ended")
    elif end.code < 0 or end.code not in (0, 1) or (end.code == 1 and not errors):
        reasons.append(end.reason)
    reasons += [f"{count:,} x {status}" for status, count in errors.most_common(3)]
    if len(errors) > 3:
        reasons.append(f"{len(errors) - 3} other errors")
    return "; ".join(reasons) or f"ended well, but its scores are not in {run.job.store}: do all machines see it?"


def end_with_parent() -> None:
    """Stop, keeping what is finished, as soon as the process at the other end of standard input is gone."""

    def wait() -> None:
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def with_resources(arguments: list[str], number: int, cores: int) -> list[str]:
    """Add the GPU of a run's number on a machine with several, and as many worker processes as it has cores."""
    settings = dict(text.partition("=")[::2] for text in arguments)
    device = settings.get("device", "auto")
    found = list(arguments)
    most = cores
    if device != "cpu":
        import torch

        from harness.engine.workers import GPU_WORKERS

        gpus = torch.cuda.device_count()
        most = min(cores, GPU_WORKERS) if gpus else cores
        if device == "auto" and gpus > 1:
            found.append(f"device=cuda:{number % gpus}")
    if cores and settings.get("workers", "0") == "0":
        found.append(f"workers={most}")
    return found
