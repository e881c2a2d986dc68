"""NAS-Bench-201 and NATS-Bench (Dong & Yang, ICLR 2020; Dong et al., TPAMI 2021), through their own APIs.

Both APIs unpickle whatever file they are given. Here no API opens a file: what `safe` has read goes into an API
object that was made without records, one record at a time, and the API answers from it. That also keeps the
memory of an import at one record, where the API keeps all.

The figures are those of the papers' protocol: the longest training (`hp=200`, of the size space 90), the mean over
the seeds (`is_random=False`; the API's default draws one), validation on CIFAR-10 from `cifar10-valid`, whose
networks were not trained on the validation images, and on the other two datasets the test half `x-test`, where
`ori-test` would be test and validation images together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from harness.benchmarks.benchmark import embedded_benchmark
from harness.benchmarks.importers.base import Importer, Table, card_of, counted, is_number, is_percentage, package
from harness.benchmarks.importers.safe import load_torch, unpickle_bz2
from harness.errors import HarnessError, cause, shown

#: For each dataset the name under which the APIs keep the runs that have a validation accuracy.
VALIDATED = {"cifar10": "cifar10-valid", "cifar100": "cifar100", "ImageNet16-120": "ImageNet16-120"}

#: What the embedded table has of a single run, of some cells only: no figure of the papers' protocol.
ONE_SEED = "test_200ep_seed888"

_RECORD = "{:06d}.pickle.pbz2"
_META = "meta.pickle.pbz2"

#: The seeds of the published trainings.
SEEDS = (111, 777, 888, 999)


class Source(NamedTuple):
    """An archive's architectures, its API without records, and its records: (index, epochs -> state) in order."""

    path: Path
    architectures: list[str]
    api: Any
    results: type
    records: Iterator[tuple[int, dict[str, dict]]]


class _Dong(Importer):
    """What the three archives share: records of several trainings on four datasets."""

    epochs: ClassVar[dict[str, tuple[str, ...]]]

    def table(self, name: str, source: Source, title: str, origin: str, partial: bool) -> Table:
        """Rows of all records, checked. Raises HarnessError where records are missing or not of this archive."""
        rows, epochs = {}, self.epochs[name]
        for index, record in counted(source.records, len(source.architectures), "architectures"):
            try:
                for hp, state in record.items():
                    named, text = state["arch_index"], state["arch_str"]
                    if (named, text) != (index, source.architectures[index]):
                        raise HarnessError(
                            f"{source.path}: the record of architecture {index} is of {_plain(named)}, {_plain(text)}: "
                            "its files are mixed up, download it again"
                        )
                    _check_trainings(state["all_results"], hp)
                source.api.arch2infos_dict[index] = {
                    hp: source.results.create_from_state_dict(state) for hp, state in record.items()
                }
                rows[index] = _row(source.api, index, epochs)
                del source.api.arch2infos_dict[index]
            except HarnessError:
                raise
            except Exception as error:  # the API takes records for what they say they are
                raise HarnessError(
                    f"{source.path}: the record of architecture {index} is not one of {name} "
                    f"({type(error).__name__}: {cause(error)[:200]}): download it again"
                ) from error
        if not rows:
            raise HarnessError(f"{source.path} holds no record of an architecture: finish the download")
        default = f"test_{epochs[0]}ep"
        columns = pd.DataFrame.from_dict(rows, orient="index").sort_index()
        columns.insert(0, "index", columns.index.astype(np.int32))
        columns.insert(1, "arch_str", [source.architectures[i] for i in columns["index"]])
        required = [f"{dataset}_{default}" for dataset in VALIDATED]
        complete = columns["index"][columns[required].notna().all(axis=1)]
        lacking = sorted(set(range(len(source.architectures))) - set(complete))
        if lacking and not partial:
            raise HarnessError(
                f"{source.path} is incomplete: {len(lacking):,} of {len(source.architectures):,} architectures have no "
                f"{default}, the first is {lacking[0]}; finish the download"
            )
        targets = {
            dataset: {
                target: f"{dataset}_{target}"
                for target in (f"{part}_{hp.lstrip('0')}ep" for hp in epochs for part in ("test", "valid"))
                if columns[f"{dataset}_{target}"].notna().any()
            }
            for dataset in VALIDATED
        }
        card = {
            "title": title,
            **card_of(name),
            "encoding": "arch_str",
            "default_target": default,
            "targets": targets,
            "notes": (
                "Row i is architecture i of the official numbering.\n"
                "*_Nep: accuracy in percent after the last of N epochs, mean over the stored seeds (the API's hp=N,\n"
                "is_random=False). test: cifar10 ori-test after training on train + validation images, the other two\n"
                "x-test. valid: cifar10 x-valid of the networks of cifar10-valid, the other two x-valid.\n"
                "*_params_m, *_flops_m: millions as the archive stores them.\n"
            ),
            "origin": origin,
            "licence": "MIT (the official archive)",
        }
        return Table(name, columns, card, "arch_str", unread=(ONE_SEED,))


def _plain(value: Any) -> str:
    return shown(value).strip("'")


def _check_trainings(trainings: Any, hp: str) -> None:
    """Raises ValueError unless all trainings of a state are of its epochs, of a published seed, with percentages."""
    if not isinstance(trainings, dict) or not trainings:
        raise ValueError("it has no trainings")
    for (dataset, seed), training in trainings.items():
        of = f"{shown(dataset)}, seed {shown(seed)}"
        if dataset not in {"cifar10-valid", *VALIDATED} or type(seed) is not int or seed not in SEEDS:
            raise ValueError(f"a training on {of}, which the archive does not have")
        epochs, own = training["epochs"], training["seed"]
        if type(epochs) is not int or epochs != int(hp):
            raise ValueError(f"a training of {shown(epochs)} epochs on {of}, in the place of one of {hp.lstrip('0')}")
        if training["name"] != dataset or own not in (seed, f"{seed:04d}", str(seed)):
            raise ValueError(f"a training on {shown(training['name'])}, seed {shown(own)}, in the place of {of}")
        for figures in (training["eval_acc1es"], training["train_acc1es"]):
            wrong = next((value for value in figures.values() if not is_percentage(value)), None)
            if wrong is not None:
                raise ValueError(f"an accuracy of {shown(wrong)} on {of}, no percentage")
        for figure in ("params", "flop"):
            if not is_number(training[figure]) or training[figure] < 0:
                raise ValueError(f"{figure} of {shown(training[figure])} on {of}")


def _row(api: Any, index: int, epochs: Sequence[str]) -> dict[str, float]:
    """One architecture's figures; NaN for a training that the record lacks. Raises KeyError without the longest."""
    row = {}
    for hp in epochs:
        trained = api.arch2infos_dict[index].get(hp)
        if trained is None and hp == epochs[0]:
            raise KeyError(f"no training of {hp} epochs")
        names = trained.get_dataset_names() if trained is not None else []
        found = {name: api.get_more_info(index, name, None, hp=hp, is_random=False) for name in names}
        for dataset, validated in VALIDATED.items():
            for part, name in (("test", dataset), ("valid", validated)):
                value = found.get(name, {}).get(f"{part}-accuracy")
                if value is not None and not is_percentage(value):
                    raise ValueError(f"an accuracy of {shown(value)}, no percentage")
                row[f"{dataset}_{part}_{hp.lstrip('0')}ep"] = np.nan if value is None else float(value)
    for dataset in VALIDATED:
        trials = api.arch2infos_dict[index][epochs[0]].query(dataset)
        trial = next(iter(trials.values()))
        row[f"{dataset}_params_m"], row[f"{dataset}_flops_m"] = float(trial.params), float(trial.flop)
    return row


def _architectures(path: Path, meta: Any, name: str) -> list[str]:
    """The archive's list, if it is that of the benchmark `name`. Raises HarnessError that tells whose it is."""
    listed = meta.get("meta_archs") if isinstance(meta, dict) else None
    expected = list(embedded_benchmark(name).architectures)
    if listed == expected:
        return expected
    other = next((n for n in Nats.names if listed == list(embedded_benchmark(n).architectures)), None)
    if other:
        raise HarnessError(f"{path} is an archive of {other}, not of {name}: `harness import {other} {path}`")
    raise HarnessError(f"{path} does not list the {len(expected):,} architectures of {name}: it is another file")


class Nats(_Dong):
    """The folders `NATS-tss-v1_0-3ffb9-simple` and `NATS-sss-v1_0-50262-simple`."""

    names = ("nats_tss", "nats_sss")
    form = "the unpacked folder NATS-tss-v1_0-3ffb9-simple or NATS-sss-v1_0-50262-simple"
    epochs: ClassVar = {"nats_tss": ("200", "12"), "nats_sss": ("90", "12", "01")}

    def read(self, name: str, path: Path, partial: bool) -> list[Table]:
        if not (path / _META).is_file():
            raise HarnessError(f"{path} is no NATS-Bench archive (it has no {_META}): give {self.form}")
        module = package("nats_bench", "nats_bench")
        architectures = _architectures(path, unpickle_bz2(path / _META), name)
        files = {entry.name for entry in path.iterdir()}
        present = [i for i in range(len(architectures)) if _RECORD.format(i) in files]
        missing = sorted(set(range(len(architectures))) - set(present))
        if missing and not partial:
            raise HarnessError(
                f"{path} is incomplete: {len(missing):,} of {len(architectures):,} records are missing, the first is "
                f"{_RECORD.format(missing[0])}; finish the download"
            )
        empty = {"meta_archs": architectures, "arch2infos": {}, "evaluated_indexes": present}
        api = module.create(empty, name[-3:], fast_mode=False, verbose=False)
        records = ((i, _record(path / _RECORD.format(i))) for i in present)
        source = Source(path, architectures, api, module.ArchResults, records)
        title = {
            "nats_tss": "NATS-Bench topology space, 15,625 cells, three datasets (official archive)",
            "nats_sss": "NATS-Bench size space, 32,768 channel configurations, three datasets (official archive)",
        }
        origin = f"The official archive {path.name}, through the API nats_bench.\n"
        return [self.table(name, source, title[name], origin, partial)]


def _record(path: Path) -> dict[str, dict]:
    record = unpickle_bz2(path)
    if not isinstance(record, dict) or not all(
        isinstance(hp, str) and isinstance(state, dict) for hp, state in record.items()
    ):
        raise HarnessError(f"{path} is no record of NATS-Bench: download it again")
    return record


class NasBench201(_Dong):
    """The file `NAS-Bench-201-v1_1-096897.pth`, and its predecessor v1_0."""

    names = ("nasbench201",)
    form = "the file NAS-Bench-201-v1_1-096897.pth"
    epochs: ClassVar = {"nasbench201": ("200", "12")}

    def read(self, name: str, path: Path, partial: bool) -> list[Table]:
        if not path.is_file():
            raise HarnessError(f"{path} is no NAS-Bench-201 archive: give {self.form}")
        module = package("nas_201_api", "nas-bench-201")
        data = load_torch(path)
        architectures = _architectures(path, data, name)
        infos = data.get("arch2infos")
        if not isinstance(infos, dict) or not infos or not set(infos) <= set(range(len(architectures))):
            raise HarnessError(f"{path} holds no records of NAS-Bench-201 (`arch2infos`): it is another file")
        empty = {"meta_archs": architectures, "arch2infos": {}, "evaluated_indexes": sorted(infos)}
        api = module.NASBench201API(empty, verbose=False)
        # The file's `less` is the training of 12 epochs, `full` that of 200. Records go as they are used.
        records = ((i, _named(path, i, infos.pop(i))) for i in sorted(infos))
        source = Source(path, architectures, api, module.ArchResults, records)
        title = "NAS-Bench-201, 15,625 cells, three datasets (official archive)"
        origin = f"The official archive {path.name}, through the API nas-bench-201.\n"
        return [self.table(name, source, title, origin, partial)]


def _named(path: Path, index: int, record: Any) -> dict[str, dict]:
    if not isinstance(record, dict) or not all(isinstance(record.get(key), dict) for key in ("less", "full")):
        raise HarnessError(f"{path}: the record of architecture {index} lacks `less` or `full`: download it again")
    return {"12": record["less"], "200": record["full"]}
