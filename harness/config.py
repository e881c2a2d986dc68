"""Structured configurations of the commands, and their composition with errors a user can act on."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from harness.errors import HarnessError, UnknownNameError
from harness.paths import data_dir


@dataclass
class InputsConfig:
    """Mini-batches: `random`, or the dataset whose images lie at `path` (folder or .npz)."""

    name: str = "random"
    path: str | None = None


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
    store: str = "results/scores"
    device: str = "auto"
    workers: int = 0
    chunk: int = 4
    flush_seconds: float = 20.0


@dataclass
class RowConfig:
    """One row of a table: our proxy beside the name under which the paper prints it."""

    proxy: str
    label: str | None = None
    published: str | None = None
    inputs: str = "paper"
    note: str = ""
    note_datasets: list[str] = field(default_factory=list)


@dataclass
class TableConfig:
    """A paper's table: which protocol, which rows."""

    name: str = ""
    title: str = ""
    paper: str = ""
    paper_table: str = ""
    benchmark: str = ""
    datasets: list[str] = field(default_factory=list)
    target: str | None = None
    populations: list[str] = field(default_factory=lambda: ["all"])
    metrics: list[str] = field(default_factory=lambda: ["kendall", "spearman"])
    seed: int = 0
    resamples: int = 1000
    protocol: str = ""
    rows: list[RowConfig] = field(default_factory=list)


@dataclass
class ReportConfig:
    """`harness report`: `table` names one table; without it all are built."""

    table: TableConfig | None = None
    store: str = "results/scores"
    output: str = "results/tables"
    strict: bool = False


@dataclass
class VerifyConfig:
    """`harness verify references`: `path` is a Parquet of scores computed elsewhere."""

    path: str | None = None
    population: str = "no_dead_ops.sample(300, seed=0)"
    inputs: str = "cifar10"
    store: str = "results/scores"


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
    scores: str = "results/scores"
    store: str = "results/search"
    output: str = "results/tables"
    plots: bool = False
    device: str = "auto"
    threads: int = 1
    save_seconds: float = 10.0


SCHEMAS = {"score": ScoreConfig, "report": ReportConfig, "search": SearchConfig, "verify": VerifyConfig}

#: Configuration groups, with the schema of their options.
GROUPS = {"inputs": InputsConfig, "study": StudyConfig, "table": TableConfig}


def register() -> None:
    """Make the schemas known to Hydra, so that unknown keys and wrong types are refused."""
    from hydra.core.config_store import ConfigStore

    store = ConfigStore.instance()
    for name, schema in SCHEMAS.items():
        store.store(name=f"{name}_schema", node=schema)
    for group, schema in GROUPS.items():
        store.store(group=group, name="schema", node=schema)


def choices(group: str) -> list[str]:
    """The options of a configuration group (`inputs`, `study`, `table`)."""
    return sorted(path.stem for path in (data_dir("conf") / group).glob("*.yaml"))


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
    keys = _keys(SCHEMAS[command])
    groups = [name for name in GROUPS if any(key.startswith(f"{name}.") for key in keys)]
    for text in overrides:
        if "=" not in text and not text.startswith("~"):
            raise HarnessError(f"{text!r} is no setting: write key=value (`harness {command} --help`)")
        try:
            override = OverridesParser.create().parse_override(text)
        except HydraException as error:
            raise HarnessError(
                f"{text!r} cannot be read ({str(error).splitlines()[0]}): quote values with special characters, "
                "as in 'population=\"sample(100, seed=0)\"'"
            ) from error
        key = override.key_or_group
        if key.split(".")[0] != "hydra" and "/" not in key and key not in keys:
            raise UnknownNameError(f"setting of `harness {command}`", key, keys)
        value = override.value()
        if override.is_sweep_override():
            if not sweep:
                raise HarnessError(f"{text!r} is a sweep over several values: add -m to run them all")
            first = next(iter(override.sweep_string_iterator()))
            text, value = f"{key}={first}", first
        if key in groups and isinstance(value, str) and value not in choices(key):
            raise UnknownNameError(key, value, choices(key))
        single.append(text)
    return single


def compose_config(command: str, overrides: list[str]) -> Any:
    """The configuration of `harness COMMAND`. Raises HarnessError with one line on bad settings."""
    from hydra import compose, initialize_config_dir
    from hydra.errors import HydraException
    from omegaconf.errors import OmegaConfBaseException

    register()
    single = check_overrides(command, overrides)
    try:
        with initialize_config_dir(str(data_dir("conf")), version_base="1.3"):
            return compose(command, overrides=single)
    except (HydraException, OmegaConfBaseException) as error:
        lines = [line.strip() for line in str(error.__cause__ or error).splitlines() if line.strip()]
        raise HarnessError(f"bad setting: {'; '.join(lines[:2])}") from error


def config_path(command: str) -> Path:
    """The YAML file of a command, which documents its settings."""
    return data_dir("conf") / f"{command}.yaml"
