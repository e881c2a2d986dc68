"""The command line: `harness score | report | search | list`, with one line and exit code 2 for every mistake."""

from __future__ import annotations

import re
import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from harness.errors import HarnessError, UnknownNameError

USAGE = """\
harness: training-free NAS proxies on NAS benchmarks, beside what the papers printed

  harness score benchmark=nasbench201 dataset=cifar10 proxies=[synflow,vkdnw] population=no_dead_ops limit=20
  harness score inputs=cifar10 inputs.path=DATA proxies=[snip,naswot] population="sample(100, seed=0)"
  harness report table=vkdnw_table1
  harness report                        # every table, and what is missing from the store
  harness search benchmark=nasbench201 algorithm=freerea proxies=[flops] budget=1000 repeats=30
  harness search benchmark=esformer algorithm=decoupled proxies=[entropic_score,logsynflow] budget=10min
  harness list proxies|benchmarks|tables|algorithms|spaces
  harness verify references path=FILE.parquet
  harness --version

Settings are key=value (Hydra): `harness score --help` and `harness report --help` list them. Add -m to sweep,
as in: harness score -m proxies=[vkdnw] seed=0,1,2
"""

#: Hydra's own flags, for which the run is handed to Hydra as a whole.
_HYDRA_FLAGS = {"-m", "--multirun", "--cfg", "-c", "--info", "-i", "--resolve", "--experimental-rerun"}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if threading.current_thread() is threading.main_thread():
        # Schedulers end a job by SIGTERM: finished scores are written then, as after Ctrl-C.
        signal.signal(signal.SIGTERM, _stop)
    try:
        return _dispatch(arguments)
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            "\nharness: stopped; finished scores are stored, the same command goes on from there",
            file=sys.stderr,
        )
        return 130
    except BrokenPipeError:  # `harness list proxies | head`
        sys.stderr.close()
        return 0


def _stop(*_: object) -> None:
    raise KeyboardInterrupt


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        from harness import __version__

        print(f"harness {__version__}")
        return 0
    commands: dict[str, Callable[[list[str]], int]] = {
        "list": _list,
        "score": lambda rest: _app("score", _score, rest),
        "report": lambda rest: _app("report", _report, rest),
        "search": lambda rest: _app("search", _search, rest),
        "verify": _verify,
    }
    if arguments[0] not in commands:
        raise UnknownNameError("command", arguments[0], commands)
    return commands[arguments[0]](arguments[1:])


def _list(arguments: list[str]) -> int:
    """One name a line with its summary."""

    def proxies() -> dict[str, str]:
        from harness.proxies import available

        return {name: cls.summary for name, cls in available().items()}

    def benchmarks() -> dict[str, str]:
        from harness.benchmark import list_benchmarks

        return list_benchmarks()

    def tables() -> dict[str, str]:
        from harness.tables import list_tables

        return list_tables()

    def algorithms() -> dict[str, str]:
        from harness.search.algorithms import ALGORITHMS

        return {name: cls.summary for name, cls in ALGORITHMS.items()}

    def spaces() -> dict[str, str]:
        from harness.search.spaces import available

        return {name: cls.summary for name, cls in available().items()}

    kinds = {
        "proxies": proxies,
        "benchmarks": benchmarks,
        "tables": tables,
        "algorithms": algorithms,
        "spaces": spaces,
    }
    if len(arguments) != 1:
        raise HarnessError(f"say what to list: harness list {'|'.join(kinds)}")
    if arguments[0] not in kinds:
        raise UnknownNameError("list", arguments[0], kinds)
    entries = kinds[arguments[0]]()
    width = max(map(len, entries), default=0)
    for name, summary in entries.items():
        print(f"{name:<{width}}  {summary}")
    return 0


def _app(command: str, task: Callable[[Any], int], arguments: list[str]) -> int:
    """Run `task` on the composed configuration, directly or, for sweeps and Hydra's own flags, by Hydra."""
    from harness.config import check_overrides, compose_config, config_path, register
    from harness.paths import data_dir

    if {"-h", "--help"} & set(arguments):
        print(config_path(command).read_text(encoding="utf-8").split("\nhydra:")[0].rstrip())
        return 0
    arguments = [_quoted(argument) for argument in arguments]
    if not _HYDRA_FLAGS & set(arguments):
        return task(compose_config(command, arguments))

    import hydra

    register()
    flags = [a for a in arguments if a.startswith("-")]
    values = {"--cfg", "-c", "--info", "-i"}
    overrides = [
        a for a, before in zip(arguments, ["", *arguments], strict=False) if a not in flags and before not in values
    ]
    check_overrides(command, overrides, sweep=bool({"-m", "--multirun"} & set(flags)))
    codes: list[int] = []

    def job(config: Any) -> None:
        try:
            codes.append(task(config))
        except HarnessError as error:
            print(f"harness: {error}", file=sys.stderr)
            codes.append(2)

    sys.argv = [f"harness {command}", *arguments]
    hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=command)(job)()
    return max(codes, default=0)


def _quoted(argument: str) -> str:
    """Quote, for Hydra's grammar, the brackets of populations and the `key=value` settings of what has such."""
    key, equals, value = argument.partition("=")
    if "'" in value or '"' in value:
        return argument
    if (key == "population" and "(" in value) or (key in ("benchmark", "algorithm") and "=" in value):
        return f"{key}='{value}'"
    if key == "proxies":
        return key + equals + re.sub(r"[^\[\],\s]+=[^\[\],\s]*", lambda match: f"'{match[0]}'", value)
    return argument


def _score(config: Any) -> int:
    from harness.benchmark import load_benchmark
    from harness.scoring import Job, run

    dataset = config.dataset or next(iter(load_benchmark(config.benchmark).datasets))
    job = Job(
        benchmark=config.benchmark,
        dataset=dataset,
        proxies=tuple(config.proxies),
        inputs=config.inputs.name,
        inputs_path=config.inputs.path,
        seed=config.seed,
        population=config.population,
        limit=config.limit,
        shard=str(config.shard),
        device=config.device,
        workers=config.workers,
        chunk=config.chunk,
        flush_seconds=config.flush_seconds,
        store=config.store,
    )
    summary = run(job)
    print(
        f"{job.benchmark}/{job.dataset} seed {job.seed}: {summary.stored_now:,} scores computed, "
        f"{summary.stored_before:,} were stored already, {summary.seconds:.1f} s; store {job.store}"
    )
    for status, count in sorted(summary.failed.items()):
        print(f"  without a score: {count:,} x {status}")
    return 1 if summary.errors else 0


def _search(config: Any) -> int:
    from harness.search.command import search

    return search(config)


def _report(config: Any) -> int:
    from harness.tables import build_tables

    return build_tables(config)


def _verify(arguments: list[str]) -> int:
    from harness.verify import verify_references

    checks = {"references": verify_references}
    if not arguments or arguments[0] in ("-h", "--help"):
        return _app("verify", verify_references, ["--help"])
    if arguments[0] not in checks:
        raise UnknownNameError("check", arguments[0], checks)
    return _app("verify", checks[arguments[0]], arguments[1:])


if __name__ == "__main__":
    sys.exit(main())
