"""Structured configurations of the commands, and their composition with errors a user can act on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UnknownNameError, cause, shown
from harness.paths import OUTPUT, REFERENCE, data_dir, user_scores

#: The default of the settings `store` and `stores`: the user's folder, laid over the scores of the package.
USER_STORE = "${user_scores:}"
OVERLAY = ("${store}", REFERENCE)


@dataclass
class InputsConfig:
    """Mini-batches: `random`, or the dataset whose images lie at `path` (folder or .npz)."""

    name: str = "random"
    path: str | None = None


@dataclass
class ExecutorConfig:
    """Where the runs of a sweep go: to Hydra's launcher (`local`), or to Ray as tasks with these resources."""

    name: str = "local"
    address: str | None = None
    num_cpus: int = 1
    num_gpus: float | None = None
    max_retries: int = 0


@dataclass
class ScoreConfig:
    """`harness score`. The comments in conf/score.yaml say what each setting does."""

    benchmark: str = "nasbench201"
    dataset: str | None = None
    inputs: InputsConfig = field(default_factory=InputsConfig)
    proxies: list[str] = field(default_factory=list)
    seed: int = 0
    population: str = "all"
    limit: int | None = None
    shard: str = "0/1"
    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    device: str = "auto"
    workers: int = 0
    chunk: int = 4
    flush_seconds: float = 20.0
    tracker: str | None = None
    executor: ExecutorConfig = field(default_factory=ExecutorConfig)


@dataclass
class RowConfig:
    """One row of a table: our proxy beside the name under which the paper prints it.

    `paper` to `scored_only` and `target` stand in for the table's; `published_dataset`: a `SPACE/DATASET`.
    `benchmarks` (or `BENCHMARK/DATASET`) has the row, `note` is about `note_datasets`; none: all of the table's.
    """

    proxy: str
    label: str | None = None
    published: str | None = None
    inputs: str = "paper"
    note: str = ""
    note_datasets: list[str] = field(default_factory=list)
    paper: str | None = None
    paper_table: str | None = None
    published_dataset: str | None = None
    populations: list[str] = field(default_factory=list)
    seeds: list[int] = field(default_factory=list)
    scored_only: bool | None = None
    target: str | None = None
    benchmarks: list[str] = field(default_factory=list)


@dataclass
class StandInConfig:
    """What is read in place of `members` (by name) where these are too dear, on `benchmarks` as a row has them.

    Each row that reads one of them has a second row behind it, with `label` behind its own label, and with `note`.
    """

    members: dict[str, str]
    benchmarks: list[str]
    label: str
    note: str


@dataclass
class TableConfig:
    """A paper's table: which protocol, which rows; or, with `kind: leaderboard`, our own of every proxy.

    A dataset is one of `benchmark`'s, or `BENCHMARK/DATASET`; `targets` has those that stand in for `target` on some of
    them. `scored_only`: architectures without a score are left out, as the paper does; else they rank last. A figure is
    the mean over `seeds` where scores of all of them are stored, else that of the first. `resamples` are the most that
    an interval takes (`harness.tables.measure.resamples_for`). `absolute`: the paper prints figures without signs.
    """

    name: str = ""
    kind: str = "paper"
    title: str = ""
    paper: str = ""
    paper_table: str = ""
    benchmark: str = ""
    datasets: list[str] = field(default_factory=list)
    target: str | None = None
    targets: dict[str, str] = field(default_factory=dict)
    populations: list[str] = field(default_factory=lambda: ["all"])
    scored_only: bool = False
    metrics: list[str] = field(default_factory=lambda: ["kendall", "spearman"])
    seeds: list[int] = field(default_factory=lambda: [0])
    resamples: int = 1000
    absolute: bool = False
    protocol: str = ""
    rows: list[RowConfig] = field(default_factory=list)
    stand_ins: list[StandInConfig] = field(default_factory=list)


@dataclass
class ReportConfig:
    """`harness report`: of one `table`, or all. The comments in conf/report.yaml say what each setting does."""

    table: TableConfig | None = None
    target: str | None = None
    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    output: str | None = None
    missing: bool = False
    strict: bool = False


@dataclass
class VerifyConfig:
    """`harness verify`. The comments in conf/verify.yaml say what each setting does, and for which check."""

    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    tables: str | None = None
    table: TableConfig | None = None
    baseline: str | None = None
    proxies: list[str] = field(default_factory=list)
    cells: int = 20
    seed: int = 0
    exact: bool = False
    inputs: InputsConfig = field(default_factory=InputsConfig)
    device: str = "auto"
    workers: int = 0
    populations: list[str] = field(default_factory=list)
    resamples: int = 1000
    path: str | None = None
    benchmark: str = "nasbench201"
    dataset: str | None = None
    population: str | None = None


@dataclass
class DoctorConfig:
    """`harness doctor`: the store and, where given, the images to look at; `seal`: see conf/doctor.yaml."""

    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: ["${store}"])
    seal: bool = False
    inputs: InputsConfig = field(default_factory=InputsConfig)


@dataclass
class SearchRowConfig:
    """A row of a study: one search; on the named benchmarks, or on all. `published`: printed figures, by dataset."""

    label: str
    algorithm: str
    proxies: list[str]
    combine: str = "normalised_sum"
    benchmarks: list[str] = field(default_factory=list)
    published: dict[str, float] = field(default_factory=dict)
    note: str = ""


@dataclass
class SearchCaseConfig:
    """Where a study searches: a benchmark with datasets, or an open space."""

    benchmark: str
    datasets: list[str] = field(default_factory=list)
    populations: list[str] = field(default_factory=lambda: ["all"])


@dataclass
class StudyConfig:
    """Several searches under one budget, and their table."""

    name: str = ""
    title: str = ""
    protocol: str = ""
    budget: str = "1000"
    repeats: int = 30
    seed: int = 0
    cases: list[SearchCaseConfig] = field(default_factory=list)
    rows: list[SearchRowConfig] = field(default_factory=list)


@dataclass
class SearchConfig:
    """`harness search`. The comments in conf/search.yaml say what each setting does."""

    study: StudyConfig | None = None
    inputs: InputsConfig = field(default_factory=InputsConfig)
    benchmark: str = "nasbench201"
    dataset: str | None = None
    target: str | None = None
    population: str = "no_dead_ops"
    algorithm: str = "regularised_evolution"
    proxies: list[str] = field(default_factory=list)
    combine: str = "normalised_sum"
    budget: str = "1000"
    max_params: float | None = None
    max_flops: float | None = None
    seed: int = 0
    repeats: int = 1
    score_seed: int = 0
    scores: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: ["${scores}", REFERENCE])
    store: str = f"{OUTPUT}/search"
    output: str = f"{OUTPUT}/tables"
    plots: bool = False
    device: str = "auto"
    threads: int = 1
    save_seconds: float = 10.0


@dataclass
class PlotsConfig:
    """`harness report plots`. The comments in conf/report_plots.yaml say what each setting does."""

    benchmark: str = "nasbench201"
    dataset: str | None = None
    proxies: list[str] = field(default_factory=list)
    highlight: list[str] = field(default_factory=list)
    population: str | None = None
    plots: list[str] = field(
        default_factory=lambda: ["scatter", "matrix", "ndcg", "cost", "seeds", "bands", "published"]
    )
    metric: str = "kendall"
    top: int = 100
    resamples: int = 1000
    cache: str | None = "auto"
    formats: list[str] = field(default_factory=lambda: ["svg", "png"])
    tables: str | None = None
    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    output: str = f"{OUTPUT}/plots"


@dataclass
class PageConfig:
    """`harness report page`. The comments in conf/report_page.yaml say what each setting does."""

    metrics: list[str] = field(default_factory=lambda: ["kendall", "spearman", "ndcg_1000", "top_1%", "regret_10"])
    points: int = 1000
    resamples: int = 1000
    cache: str | None = "auto"
    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    output: str = f"{OUTPUT}/site"


@dataclass
class CompareConfig:
    """`harness compare`. The comments in conf/compare.yaml say what each setting does."""

    proxies: list[str] = field(default_factory=list)
    benchmark: Any = "nasbench201"
    dataset: str | None = None
    target: str | None = None
    population: str | None = None
    against: list[str] = field(default_factory=list)
    metric: str = "kendall"
    seed: int = 0
    inputs: InputsConfig = field(default_factory=InputsConfig)
    score: bool = True
    resamples: int = 1000
    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    output: str | None = None
    device: str = "auto"
    workers: int = 0


@dataclass
class QueueConfig:
    """`harness queue`. The comments in conf/queue.yaml say what each setting does.

    `store` and `tables` are those of `--plan`: what the queue is written from.
    """

    minutes: float | None = None
    data: str | None = None
    queue: str | None = None
    store: str = USER_STORE
    stores: list[str] = field(default_factory=lambda: list(OVERLAY))
    tables: list[str] = field(default_factory=list)


SCHEMAS = {
    "score": ScoreConfig,
    "compare": CompareConfig,
    "report": ReportConfig,
    "report_plots": PlotsConfig,
    "report_page": PageConfig,
    "search": SearchConfig,
    "verify": VerifyConfig,
    "queue": QueueConfig,
    "doctor": DoctorConfig,
}

#: The configuration groups, each with the schema of what it sets.
GROUPS = {"inputs": InputsConfig, "study": StudyConfig, "table": TableConfig, "executor": ExecutorConfig}


def register() -> None:
    """Make the schemas known to Hydra, so that unknown keys and wrong types are refused."""
    from hydra.core.config_store import ConfigStore
    from omegaconf import OmegaConf

    OmegaConf.register_new_resolver("user_scores", lambda: str(user_scores()), replace=True)
    store = ConfigStore.instance()
    if f"{next(reversed(SCHEMAS))}_schema.yaml" in store.repo:
        return  # before now: a schema takes milliseconds, all of them half of what a command's settings take
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema)
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)


def choices(group: str) -> list[str]:
    """The options of a configuration group (`inputs`, `study`, `table`, `executor`)."""
    return sorted(path.stem for path in (data_dir("conf") / group).glob("*.yaml"))


def setting_names(command: str) -> list[str]:
    """The settings of a command, those of its groups with a dot: `inputs.path`."""
    return _keys(SCHEMAS[command])


def _keys(schema: type, prefix: str = "") -> list[str]:
    found = []
    for entry in fields(schema):
        found.append(prefix + entry.name)
        nested = [t for t in GROUPS.values() if t.__name__ in str(entry.type)]
        if nested:
            found += _keys(nested[0], f"{prefix}{entry.name}.")
    return found


def check_overrides(command: str, overrides: list[str], sweep: bool = False) -> list[str]:
    """The overrides with every sweep replaced by its first value, after naming what is wrong with one.

    Raises:
        UnknownNameError: a key that the command does not have, or an option that a group does not have.
        HarnessError: text that is no override.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    single = []
    keys = setting_names(command)
    words = command.replace("_", " ")
    groups = [name for name in GROUPS if any(key.startswith(f"{name}.") for key in keys)]
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise HarnessError(f"{shown(text)} is no setting: write key=value (`harness {words} --help`)")
        try:
            override = OverridesParser.create().parse_override(text)
        except (HydraException, ValueError, RecursionError) as error:  # a number of thousands of digits, deep lists
            raise HarnessError(
                f"{shown(text)} cannot be read ({cause(error)[:200]}): quote values with special characters, "
                "as in 'population=\"sample(100, seed=0)\"'"
            ) from error
        key = override.key_or_group
        if key.split(".")[0] != "hydra" and "/" not in key and key not in keys:
            raise UnknownNameError(f"setting of `harness {words}`", key, keys)
        if override.is_delete():
            raise HarnessError(f"{shown(text)} takes a setting away that the command needs: set another value")
        value = override.value()
        if override.is_sweep_override():
            if not sweep:
                raise HarnessError(f"{shown(text)} is a sweep over several values: add -m to run them all")
            first = next(iter(override.sweep_string_iterator()), None)
            if first is None:
                raise HarnessError(f"{shown(text)} is a sweep over no value: give some")
            text, value = f"{key}={first}", first
        if key in groups and value is not None and value not in choices(key):
            raise UnknownNameError(key, value if isinstance(value, str) else shown(value), choices(key))
        single.append(text)
    _check_groups(command, single)
    return single


def _check_groups(command: str, overrides: list[str]) -> None:
    """Raises HarnessError for a setting of a group of which no option is chosen, such as `study.name` with no study."""
    keys = [text.partition("=")[0].lstrip("+") for text in overrides]
    for group in (entry.name for entry in fields(SCHEMAS[command]) if entry.name in GROUPS and entry.default is None):
        inner = next((key for key in keys if key.startswith(f"{group}.")), None)
        if inner is not None and group not in keys:
            raise HarnessError(
                f"{inner} is a setting of one {group}, and none is chosen: give {group}=NAME too, one of "
                f"{', '.join(choices(group))}"
            )


def compose_config(command: str, overrides: list[str]) -> Any:
    """The configuration of `harness COMMAND`. Raises HarnessError with one line on bad settings."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    single = check_overrides(command, overrides)
    try:
        with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
            return resolved(compose(command, overrides=single))
    except HarnessError:
        raise
    except (HydraException, OmegaConfBaseException, ValueError) as error:
        lines = [line.strip()[:200] for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise HarnessError(f"bad setting: {'; '.join(lines[:2])}") from error


def load_option(group: str, name: str) -> Any:
    """An option of a configuration group, its schema filled with its file, as `compose_config` has it.

    Hydra takes a third of a second for each. Raises UnknownNameError, and HarnessError on bad settings.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if name not in choices(group):
        raise UnknownNameError(group, name, choices(group))
    path = data_dir("conf") / group / f"{name}.yaml"
    try:
        own = OmegaConf.load(path)
        if own.pop("defaults", None) != ["schema", "_self_"]:
            raise HarnessError(f"{path} has to begin with `defaults: [schema, _self_]`")
        found = OmegaConf.merge(OmegaConf.structured(GROUPS[group]), own)
        OmegaConf.resolve(found)
        return found
    except (OSError, ValueError, OmegaConfBaseException) as error:
        raise HarnessError(f"{path} cannot be read: {cause(error)[:200]}") from error


def resolved(config: Any) -> Any:
    """A configuration with every reference replaced by what it refers to.

    Raises HarnessError for a reference to nothing, and for a list whose entries are no names or numbers.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        OmegaConf.resolve(config)
    except (OmegaConfBaseException, RecursionError) as error:
        raise HarnessError(f"bad setting: {cause(error)[:200]}: a value in ${{…}} refers to another setting") from error
    for name, value in config.items():
        if OmegaConf.is_list(value) and any(map(OmegaConf.is_config, value)):
            raise HarnessError(f"bad setting: {name} holds lists or mappings where it is a list of names")
    return config


def config_path(command: str) -> Path:
    """The YAML file of a command, which documents its settings."""
    return data_dir("conf") / f"{command}.yaml"
