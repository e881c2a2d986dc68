"""The command line: `harness score | report | verify | …`, with one line and exit code 2 for every mistake."""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import click

from harness import __version__
from harness.cli import completion
from harness.cli.names import Described, Names, Settings, items, lists
from harness.cli.streams import mute, speak_plainly
from harness.errors import HarnessError, UnknownNameError

USAGE = """\
Training-free NAS proxies on NAS benchmarks, beside what the papers printed.

\b
  harness score benchmark=nasbench201 dataset=cifar10 "proxies=[synflow,vkdnw]" population=no_dead_ops limit=20
  harness score inputs=cifar10 inputs.path=DATA "proxies=[snip,naswot]" population="sample(100, seed=0)"
  harness compare mymodule:MyProxy      # your proxy against all others: ranks, differences, intervals
  harness report table=vkdnw_table1
  harness report                        # every table, and what is missing from the store
  harness search benchmark=nasbench201 algorithm=freerea "proxies=[flops]" budget=1000 repeats=30
  harness search benchmark=esformer algorithm=decoupled "proxies=[entropic_score,logsynflow]" budget=10min
  harness report plots dataset=cifar10  # figures of how well the stored scores rank (nas-proxy-harness/plots)
  harness report page                   # leaderboard, proxies and benchmarks to open (nas-proxy-harness/site)
  harness list proxies
  harness verify                        # do the numbers of the package still hold?
  harness verify --proxy mypackage.proxies:MaxGradient --expect "tau>=0.5"
  harness import nats_sss NATS-sss-v1_0-50262-simple      # an official archive; --check compares only
  harness queue minutes=60 queue=FILE   # scoring runs still missing, from the top of a list (--plan writes one)

Settings are key=value (Hydra): `harness COMMAND --help` lists them, with examples. Add -m to sweep, as in:
harness score -m "proxies=[vkdnw]" seed=0,1,2, or shards=8 hydra/launcher=submitit_slurm for a cluster.
"""

#: What a command says of its work when it is stopped; `_AGAIN` where it is not named.
_STOPPED = {
    **dict.fromkeys(("score", "compare", "queue"), "finished scores are stored, the same command goes on from there"),
    "search": "what a search has evaluated is saved, the same command goes on from there; a study on benchmarks, "
    "which saves nothing, starts again",
    "import": "a benchmark is written in whole or not at all, the same command starts again",
}
_AGAIN = "the stored scores are as they were, the same command starts again"

#: Commands of which nothing is lost when nobody reads on: `harness list proxies | head` has done what it was to do.
_TEXTS = {"list", "describe", "completion", "help"}
#: What a shell reports of a program that a closed pipe ended.
_CLOSED_PIPE = 128 + signal.SIGPIPE

#: Hydra's own flags, for which the run is handed to Hydra as a whole.
_HYDRA_FLAGS = {"-m", "--multirun", "--cfg", "-c", "--info", "-i", "--resolve", "--experimental-rerun"}

#: Settings are handed on as they were typed, Hydra's flags among them.
_AS_TYPED = {"ignore_unknown_options": True, "help_option_names": ["-h", "--help"]}


class _Configured(click.Command):
    """A command whose settings are those of a file in `conf/`, which its help shows."""

    def __init__(
        self,
        name: str,
        run: Callable[..., int],
        config: str | None = None,
        options: Sequence[Any] = (),
        metavar: str = "[KEY=VALUE]...",
    ):
        self.config = config or name
        settings = click.Argument(["settings"], nargs=-1, type=Settings(self.config), metavar=metavar)
        super().__init__(
            name,
            callback=lambda settings, **options: run(list(settings), **options),
            params=[settings, *options],
            context_settings=_AS_TYPED,
        )

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_usage(ctx, formatter)
        formatter.write(f"\n{_described(self.config)}\n")
        if len(self.params) > 1:
            self.format_options(ctx, formatter)


def _described(config: str) -> str:
    """A command's settings with what each does: its file of the configuration."""
    from harness.config import config_path

    return config_path(config).read_text(encoding="utf-8").split("\nhydra:")[0].rstrip()


class _Group(click.Group):
    """A group that names the nearest command where one is unknown."""

    kind = "command"

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        known = self.list_commands(ctx)
        if args[0] not in known:
            raise UnknownNameError(self.kind, args[0], known)
        return super().resolve_command(ctx, args)


class _Parts(_Group):
    """A command that goes on with the name of a part of it, or without one does its main part.

    Args:
        main: the main part, which takes the settings when no part is named.
        parts: the others, by name.
    """

    def __init__(self, name: str, kind: str, main: _Configured, parts: Callable[[], Mapping[str, click.Command]]):
        super().__init__(name, context_settings=_AS_TYPED, no_args_is_help=False)
        self.kind, self.main, self.parts = kind, main, parts

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.parts())

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        return self.main if name == self.main.name else self.parts().get(name)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        asks_help = bool(args) and args[0] in ("-h", "--help")
        nothing_typed = not args and not ctx.resilient_parsing  # a shell asks what may follow
        if nothing_typed or (args and not asks_help and (args[0][:1] in "-~" or "=" in args[0])):
            args = [self.main.name, *args]
        return super().parse_args(ctx, args)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> tuple:
        if args[0] == self.main.name:
            return args[0], self.main, args[1:]
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list:
        settings = items(completion.settings_of(self.main.config), incomplete)
        return [*super().shell_complete(ctx, incomplete), *self.main.shell_complete(ctx, incomplete), *settings]

    def format_help(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        formatter.width = 120
        formatter.write_usage(ctx.command_path, f"[{'|'.join(self.list_commands(ctx))}] [KEY=VALUE]...")
        formatter.write(f"\n{_described(self.main.config)}\n")
        if len(self.main.params) > 1:
            self.main.format_options(ctx, formatter)


@click.group(cls=_Group, help=USAGE, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(__version__, message="harness %(version)s")
def cli() -> None:
    """What may follow `harness`. Each command returns its exit code."""


def main(argv: list[str] | None = None) -> int:
    """Entry point of the console script; returns the exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    speak_plainly()
    main_thread = threading.current_thread() is threading.main_thread()
    if main_thread:
        # Schedulers end a job by SIGTERM: finished scores are written then, as after Ctrl-C.
        before = signal.signal(signal.SIGTERM, _stop)
    try:
        code = _answered(arguments)
        if sys.stdout is not None:
            sys.stdout.flush()  # here, where what goes wrong can still be told
        return code
    except BrokenPipeError:
        mute()
        text = not arguments or arguments[0] in _TEXTS or bool({"-h", "--help", "--version"} & set(arguments))
        return 0 if text else _CLOSED_PIPE
    except OSError as error:
        if error.filename is not None or not mute():
            raise
        print(f"harness: standard output cannot be written ({error.strerror or error})", file=sys.stderr)
        return 2
    finally:
        if main_thread:
            signal.signal(signal.SIGTERM, before)


def _answered(arguments: list[str]) -> int:
    """The exit code of a command; what ends it before its end is told in one line."""
    try:
        return _dispatch(arguments)
    except (HarnessError, click.UsageError) as error:
        said = _usage(error) if isinstance(error, click.UsageError) else error
        print(f"harness: {said}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        after = _STOPPED.get(next(iter(arguments), ""), _AGAIN)
        if arguments[:1] == ["queue"] and "--plan" in arguments:
            after = _AGAIN
        print(f"\nharness: stopped; {after}", file=sys.stderr)
        return 130


def _stop(*_: object) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one is not to cut short the writing
    raise KeyboardInterrupt


def _usage(error: click.UsageError) -> str:
    """What is wrong with a command line, and how one is written."""
    said = error.format_message()
    if error.ctx is None or not isinstance(error, (click.MissingParameter, click.NoSuchOption)):
        return said
    pieces = [error.ctx.command_path, *error.ctx.command.collect_usage_pieces(error.ctx)]
    return f"{said.rstrip('.')}: {' '.join(pieces)}"


def _dispatch(arguments: list[str]) -> int:
    if completion.COMPLETE in os.environ:
        return completion.answer(cli)
    if not arguments or arguments[0] == "help":
        arguments = ["--help"]
    try:
        # Not `cli.main`, which has ways of its own with Ctrl-C and closed pipes.
        with cli.make_context("harness", arguments) as context:
            return cli.invoke(context) or 0
    except click.exceptions.Exit as done:  # the help was shown
        return done.exit_code


def _app(command: str, task: Callable[[Any], int], arguments: list[str]) -> int:
    """Run `task` on the composed configuration, directly or, for sweeps and Hydra's own flags, by Hydra."""
    from harness.cli.quote import quoted
    from harness.config import check_overrides, compose_config, register, resolved
    from harness.paths import data_dir

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
            codes.append(task(resolved(config)))
        except HarnessError as error:
            print(f"harness: {error}", file=sys.stderr)
            codes.append(2)

    sys.argv = [f"harness {command}", *arguments]
    hydra.main(version_base="1.3", config_path=str(data_dir("conf")), config_name=command)(job)()
    return max(codes, default=0)


@cli.command(
    "list",
    help="Names and what they stand for, one a line.\n\n\b\nExamples:\n"
    + "\n".join(f"  harness list {kind}" for kind in lists()),
)
@click.argument("kind", type=Names("list", lists), metavar=f"{'|'.join(lists())}")
def _list(kind: str) -> int:
    entries = lists()[kind]()
    width = max(map(len, entries), default=0)
    for name, summary in entries.items():
        print(f"{name:<{width}}  {summary}")
    return 0


@cli.command("describe")
@click.argument("name", type=Described(), metavar="NAME")
@click.option("--short", is_flag=True, help="without where it stands, which reads the stored scores of all others")
def _describe(name: str, short: bool) -> int:
    """Definition, settings, passes, cost and citation of a proxy, and where it stands; or the card of a benchmark.

    NAME may also be MODULE:CLASS, for a proxy that is not registered.

    \b
    Examples:
      harness describe vkdnw
      harness describe az_nas --short
      harness describe nasbench201
    """
    from harness.comparison.describe import describe

    print(describe(name, standing=not short))
    return 0


def _score_or_sweep(arguments: list[str]) -> int:
    from harness.cli.launch import MULTIRUN, is_sweep, sweep
    from harness.cli.quote import quoted

    if not is_sweep(arguments) or (_HYDRA_FLAGS - MULTIRUN) & set(arguments):
        from harness.cli.outcome import score

        return _app("score", score, arguments)
    return sweep([quoted(argument) for argument in arguments])


cli.add_command(_Configured("score", _score_or_sweep))


def _compare(words: list[str]) -> int:
    """Names first or between settings; a name may hold settings of its own, behind a colon."""
    settings = [word for word in words if re.match(r"[~+-]|[\w./@]+=", word)]
    names = [word for word in words if word not in settings]
    if names:
        settings.append(f"proxies=[{','.join(names)}]")

    def task(config: Any) -> int:
        from harness.comparison.command import compare_command

        return compare_command(config)

    return _app("compare", task, settings)


cli.add_command(_Configured("compare", _compare, metavar="NAME... [KEY=VALUE]..."))


def _task(name: str, module: str, function: str, config: str | None = None) -> _Configured:
    """The command that hands its configuration to a function, which is imported when it is run."""

    def task(configuration: Any) -> int:
        from importlib import import_module

        return getattr(import_module(module), function)(configuration)

    return _Configured(name, lambda settings: _app(config or name, task, settings), config)


cli.add_command(
    _Parts(
        "report",
        "part of the report",
        _task("report", "harness.tables.build", "build_tables"),
        lambda: {
            "plots": _task("plots", "harness.report.plots", "build_plots", "report_plots"),
            "page": _task("page", "harness.report.page", "build_page", "report_page"),
        },
    )
)
cli.add_command(_task("search", "harness.search.command", "search"))


def _checks() -> dict[str, click.Command]:
    from harness.verify import CHECKS

    def command(name: str, check: Callable[[Any], int]) -> click.Command:
        return _Configured(name, lambda settings: _app("verify", check, settings), "verify")

    return {name: command(name, check) for name, check in CHECKS.items() if name}


def _verify(
    settings: list[str], proxy: tuple[str, ...], expect: tuple[str, ...], junit: str | None, as_json: bool
) -> int:
    from harness.verify import CHECKS, expectations

    options = {"junit": junit, "as_json": as_json}
    if not (proxy or expect):
        return _app("verify", partial(CHECKS[""], **options), settings)
    if len(proxy) != 1 or not expect:
        raise HarnessError(
            "name one proxy and at least one expectation: harness verify --proxy MODULE:CLASS --expect 'tau>=0.5'"
        )
    return _app("verify", partial(expectations(proxy[0], expect), **options), settings)


cli.add_command(
    _Parts(
        "verify",
        "check",
        _Configured(
            "verify",
            _verify,
            options=[
                click.Option(["--proxy"], multiple=True, metavar="MODULE:CLASS", help="proxy to hold to a claim"),
                click.Option(
                    ["--expect"],
                    multiple=True,
                    metavar="CLAIM",
                    help="'tau>=0.5', 'tau.low>=0.3', 'tau>tau(naswot)', '(tau-tau(flops)).low>0'; may be repeated",
                ),
                click.Option(["--junit"], metavar="FILE", help="write the findings as JUnit's XML too"),
                click.Option(["--json", "as_json"], is_flag=True, help="print JSON in place of lines"),
            ],
        ),
        _checks,
    )
)


def _archives() -> list[str]:
    from harness.benchmarks.importers import available

    return list(available())


@cli.command("import")
@click.argument("name", type=Names("archive", _archives))
@click.argument("path")
@click.option("--check", is_flag=True, help="Compare with the embedded table instead: exit code 1 where they differ.")
def _import(name: str, path: str, check: bool) -> int:
    """Read an official archive into a benchmark.

    \b
    NAME and PATH:
      nasbench201   NAS-Bench-201-v1_1-096897.pth
      nats_tss      the folder NATS-tss-v1_0-3ffb9-simple
      nats_sss      the folder NATS-sss-v1_0-50262-simple
      nasbench101   nasbench_only108.tfrecord or nasbench_full.tfrecord
      nasbench301   zc_nasbench301.json
      nds           the folder of the NDS files, or one file; nds_darts, nds_enas_in, … take their file alone

    \b
    Examples:
      harness import nats_sss NATS-sss-v1_0-50262-simple
      harness import --check nasbench201 NAS-Bench-201-v1_1-096897.pth

    Benchmarks are written below $NAS_HARNESS_BENCHMARKS (by default ~/.local/share/nas-proxy-harness/benchmarks).
    Embedded tables are never changed: an archive of one becomes the benchmark NAME_imported.
    """
    from harness.benchmarks.importers import check_archive, import_archive

    if check:
        lines, differs = check_archive(name, path)
        print("\n".join(lines))
        return 1 if differs else 0
    for folder in import_archive(name, path):
        print(f"benchmark {folder.name} written to {folder}")
    return 0


def _queue(settings: list[str], plan: bool) -> int:
    def task(config: Any) -> int:
        from harness.cli.plan import plan_queue
        from harness.cli.queue import work_off

        return (plan_queue if plan else work_off)(config)

    return _app("queue", task, settings)


cli.add_command(
    _Configured(
        "queue",
        _queue,
        options=[click.Option(["--plan"], is_flag=True, help="write the list: measure what each missing run costs")],
    )
)
cli.add_command(_task("doctor", "harness.cli.doctor", "examine"))


@cli.command(
    "completion",
    help="A script that completes commands, settings and names with the Tab key.\n\n\b\nExamples:\n"
    + "\n".join(f"  {install:<40}# {shell}" for shell, install in completion.SHELLS.items()),
)
@click.argument("shell", type=Names("shell", lambda: completion.SHELLS), metavar="|".join(completion.SHELLS))
def _completion(shell: str) -> int:
    print(completion.script(cli, shell), end="")
    return 0
