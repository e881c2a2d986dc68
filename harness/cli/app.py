"""The command line: `harness score | report | verify | …`, with one line and exit code 2 for every mistake."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Callable
from typing import Any

from harness.errors import HarnessError, UnknownNameError

USAGE = """\
harness: training-free NAS proxies on NAS benchmarks, beside what the papers printed

  harness score benchmark=nasbench201 dataset=cifar10 "proxies=[synflow,vkdnw]" population=no_dead_ops limit=20
  harness score inputs=cifar10 inputs.path=DATA "proxies=[snip,naswot]" population="sample(100, seed=0)"
  harness report table=vkdnw_table1
  harness report                        # every table, and what is missing from the store
  harness search benchmark=nasbench201 algorithm=freerea "proxies=[flops]" budget=1000 repeats=30
  harness search benchmark=esformer algorithm=decoupled "proxies=[entropic_score,logsynflow]" budget=10min
  harness report plots dataset=cifar10  # figures of how well the stored scores rank (results/plots)
  harness report page                   # leaderboard, proxies and benchmarks as one folder to open (results/site)
  harness list proxies|benchmarks|targets|tables|algorithms|spaces
  harness verify                        # do the committed numbers still hold?
  harness verify --proxy mypackage.proxies:MaxGradient --expect "tau>=0.5"
  harness verify references path=FILE.parquet
  harness verify nasbench101            # all its cells, made from nothing, are the stored ones
  harness import nats_sss NATS-sss-v1_0-50262-simple      # an official archive; --check compares only
  harness doctor                        # versions, device, data, store
  harness completion bash|zsh|fish
  harness queue minutes=60 data=DATA    # scoring runs still missing, from the top of results/QUEUE.md
  harness --version

Settings are key=value (Hydra): `harness COMMAND --help` lists them, with examples. Add -m to sweep,
as in: harness score -m "proxies=[vkdnw]" seed=0,1,2, or shards=8 hydra/launcher=submitit_slurm for a cluster
"""

#: Commands that compute no score: there is nothing to go on from when they are stopped.
_READING = {"report", "verify", "list", "doctor", "completion"}

#: Hydra's own flags, for which the run is handed to Hydra as a whole.
_HYDRA_FLAGS = {"-m", "--multirun", "--cfg", "-c", "--info", "-i", "--resolve", "--experimental-rerun"}


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread:
        # Schedulers end a job by SIGTERM: finished scores are written then, as after Ctrl-C.
        before = signal.signal(signal.SIGTERM, _stop)
    try:
        return _dispatch(arguments)
    except HarnessError as error:
        print(f"harness: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        after = (
            "the stored scores are as they were, the same command starts again"
            if arguments[0] in _READING
            else "finished scores are stored, the same command goes on from there"
        )
        print(f"\nharness: stopped; {after}", file=sys.stderr)
        return 130
    except BrokenPipeError:  # `harness list proxies | head`
        sys.stderr.close()
        return 0
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one is not to cut short the writing
    raise KeyboardInterrupt


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    if arguments[0] == "--version":
        from harness import __version__

        print(f"harness {__version__}")
        return 0
    known = commands()
    if arguments[0] not in known:
        raise UnknownNameError("command", arguments[0], known)
    return known[arguments[0]](arguments[1:])


def commands() -> dict[str, Callable[[list[str]], int]]:
    """What may follow `harness`: by name the task, which takes the other arguments and returns the exit code."""
    return {
        "list": _list,
        "score": _score_or_sweep,
        "report": _report,
        "search": lambda rest: _app("search", _search, rest),
        "verify": _verify,
        "import": _import,
        "queue": lambda rest: _app("queue", _queue, rest),
        "doctor": lambda rest: _app("doctor", _doctor, rest),
        "completion": _completion,
    }


def lists() -> dict[str, Callable[[], dict[str, str]]]:
    """What `harness list` lists: by kind the names with their summaries."""

    def proxies() -> dict[str, str]:
        from harness.proxies import available

        return {name: cls.summary for name, cls in available().items()}

    def benchmarks() -> dict[str, str]:
        from harness.benchmarks.benchmark import list_benchmarks

        return list_benchmarks()

    def targets() -> dict[str, str]:
        from harness.benchmarks.benchmark import list_targets

        return list_targets()

    def tables() -> dict[str, str]:
        from harness.tables.cells import list_tables

        return list_tables()

    def algorithms() -> dict[str, str]:
        from harness.search.algorithms import ALGORITHMS

        return {name: cls.summary for name, cls in ALGORITHMS.items()}

    def spaces() -> dict[str, str]:
        from harness.search.spaces import available

        return {name: cls.summary for name, cls in available().items()}

    return {
        "proxies": proxies,
        "benchmarks": benchmarks,
        "targets": targets,
        "tables": tables,
        "algorithms": algorithms,
        "spaces": spaces,
    }


def _list(arguments: list[str]) -> int:
    """One name a line with its summary."""
    kinds = lists()
    if {"-h", "--help"} & set(arguments):
        print("harness list: names and what they stand for, one a line. Examples:")
        for kind in kinds:
            print(f"  harness list {kind}")
        return 0
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
    from harness.config import check_overrides, compose_config, config_path, quoted, register
    from harness.paths import data_dir

    if {"-h", "--help"} & set(arguments):
        print(config_path(command).read_text(encoding="utf-8").split("\nhydra:")[0].rstrip())
        return 0
    arguments = [quoted(argument) for argument in arguments]
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


def _score_or_sweep(arguments: list[str]) -> int:
    from harness.cli.launch import MULTIRUN, is_sweep, sweep
    from harness.config import quoted

    if not is_sweep(arguments) or {"-h", "--help"} & set(arguments) or (_HYDRA_FLAGS - MULTIRUN) & set(arguments):
        return _app("score", _score, arguments)
    return sweep([quoted(argument) for argument in arguments])


def _queue(config: Any) -> int:
    from harness.cli.queue import work_off

    return work_off(config)


def _score(config: Any) -> int:
    from harness.cli.tracker import find_tracker
    from harness.config import job_of
    from harness.engine.scoring import run

    track = find_tracker(config.tracker)
    job = job_of(config)
    summary = run(job)
    shard = "" if job.shard == "0/1" else f" shard {job.shard}"
    print(
        f"{job.benchmark}/{job.dataset} seed {job.seed}{shard}: {summary.stored_now:,} scores computed, "
        f"{summary.stored_before:,} were stored already, {summary.seconds:.1f} s; store {job.store}"
    )
    for status, count in sorted(summary.failed.items()):
        print(f"  without a score: {count:,} x {status}")
    track(job)
    return 1 if summary.errors else 0


def _search(config: Any) -> int:
    from harness.search.command import search

    return search(config)


def _report(arguments: list[str]) -> int:
    """`harness report` builds tables; `harness report plots` and `harness report page` draw what is stored."""

    def tables(config: Any) -> int:
        from harness.tables.build import build_tables

        return build_tables(config)

    def plots(config: Any) -> int:
        from harness.report.plots import build_plots

        return build_plots(config)

    def page(config: Any) -> int:
        from harness.report.page import build_page

        return build_page(config)

    parts = {"plots": plots, "page": page}
    if not arguments or arguments[0][0] in "-~" or "=" in arguments[0]:
        return _app("report", tables, arguments)
    if arguments[0] not in parts:
        raise UnknownNameError("part of the report", arguments[0], parts)
    return _app(f"report_{arguments[0]}", parts[arguments[0]], arguments[1:])


def _verify(arguments: list[str]) -> int:
    from harness.verify import CHECKS, expectations

    settings, options = _options(arguments, ("--proxy", "--expect"))
    if any(options.values()) and not {"-h", "--help"} & set(arguments):
        if len(options["--proxy"]) != 1 or not options["--expect"]:
            raise HarnessError(
                "name one proxy and at least one expectation: harness verify --proxy MODULE:CLASS --expect 'tau>=0.5'"
            )
        return _app("verify", expectations(options["--proxy"][0], options["--expect"]), settings)
    name = ""
    if settings and "=" not in settings[0] and not settings[0].startswith("-"):
        name, *settings = settings
    if name not in CHECKS:
        raise UnknownNameError("check", name, filter(None, CHECKS))
    return _app("verify", CHECKS[name], settings)


def _options(arguments: list[str], names: tuple[str, ...]) -> tuple[list[str], dict[str, list[str]]]:
    """Arguments without the options `names`, and the values of each, given as `--name value` or `--name=value`."""
    others, values = [], {name: [] for name in names}
    waiting = iter(arguments)
    for argument in waiting:
        name, equals, value = argument.partition("=")
        if name not in names:
            others.append(argument)
        elif equals:
            values[name].append(value)
        else:
            following = next(waiting, None)
            if following is None:
                raise HarnessError(f"{name} needs a value (`harness verify --help`)")
            values[name].append(following)
    return others, values


def _doctor(config: Any) -> int:
    from harness.cli.doctor import examine

    return examine(config)


def _completion(arguments: list[str]) -> int:
    from harness.cli.completion import SHELLS, script

    if {"-h", "--help"} & set(arguments):
        print("harness completion: a script that completes commands, settings and names with the Tab key. Examples:")
        for name, shell in SHELLS.items():
            print(f"  {shell.install:<64}  # {name}")
        return 0
    if len(arguments) != 1:
        raise HarnessError(f"say for which shell: harness completion {'|'.join(SHELLS)}")
    print(script(arguments[0]), end="")
    return 0


IMPORT_USAGE = """\
harness import NAME PATH            read an official archive into a benchmark
harness import --check NAME PATH    compare it with the embedded table: exit code 1 where they differ

NAME and PATH:
  nasbench201   NAS-Bench-201-v1_1-096897.pth
  nats_tss      the folder NATS-tss-v1_0-3ffb9-simple
  nats_sss      the folder NATS-sss-v1_0-50262-simple
  nasbench101   nasbench_only108.tfrecord or nasbench_full.tfrecord
  nasbench301   zc_nasbench301.json
  nds           the folder of the NDS files, or one file; nds_darts, nds_enas_in, … take their file alone

Examples:
  harness import nats_sss NATS-sss-v1_0-50262-simple
  harness import --check nasbench201 NAS-Bench-201-v1_1-096897.pth

Benchmarks are written below $NAS_HARNESS_BENCHMARKS (by default ~/.local/share/nas-proxy-harness/benchmarks).
Embedded tables are never changed: an archive of one becomes the benchmark NAME_imported.
"""


def _import(arguments: list[str]) -> int:
    from harness.benchmarks.importers import available, check_archive, import_archive

    if {"-h", "--help"} & set(arguments):
        print(IMPORT_USAGE, end="")
        return 0
    flags = [argument for argument in arguments if argument.startswith("-")]
    given = [argument for argument in arguments if not argument.startswith("-")]
    if given and given[0] not in available():
        raise UnknownNameError("archive", given[0], available())
    if len(given) != 2 or set(flags) - {"--check"}:
        raise HarnessError("say what to import: harness import [--check] NAME PATH (`harness import --help`)")
    if flags:
        lines, differs = check_archive(*given)
        print("\n".join(lines))
        return 1 if differs else 0
    for folder in import_archive(*given):
        print(f"benchmark {folder.name} written to {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
