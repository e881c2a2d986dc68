"""What papers print beside figures of ours, from the tables that say where."""

from __future__ import annotations

import itertools
from functools import cache
from typing import NamedTuple

from harness.benchmarks.benchmark import load_benchmark
from harness.config import TableConfig, choices
from harness.tables.cells import Place, is_of, is_on, load_table, place_of, read_published, target_of
from harness.tables.measure import split_dataset


class Printed(NamedTuple):
    """A figure that a paper prints for an entry; `absolute`: without its sign."""

    source: str
    value: float
    populations: tuple[str, ...]
    absolute: bool = False

    def delta(self, ours: float) -> float:
        """Ours, without its sign where the paper leaves it out, minus the paper's."""
        return (abs(ours) if self.absolute else ours) - self.value


@cache
def paper_tables() -> tuple[TableConfig, ...]:
    """The papers' tables as configured."""
    return tuple(load_table(name) for name in choices("table"))


@cache
def printed() -> dict[tuple[str, str, str, str, str], tuple[Printed, ...]]:
    """Printed figures by (benchmark, dataset, proxy, inputs as a table's row has them, metric), each once.

    Of the benchmark's default target alone, and of the dataset that they are printed for: a table may set a figure
    beside others too, of which it then says so.
    """
    figures = read_published()
    found: dict[tuple[str, str, str, str, str], dict[Place, Printed]] = {}
    for table in paper_tables():
        for row, entry in itertools.product(table.rows, table.datasets):
            benchmark, dataset = split_dataset(table, entry)
            target = target_of(table, row, entry)
            if not is_on(row, table, entry) or not load_benchmark(benchmark).is_default(target):
                continue
            for metric in table.metrics:
                place = place_of(table, row, entry, metric)
                value = figures.get(place)
                if value is not None and is_of(place, benchmark, dataset):
                    populations = tuple(row.populations or table.populations)
                    one = Printed(f"{place[0]}, {place[1]}", value, populations, table.absolute)
                    found.setdefault((benchmark, dataset, row.proxy, row.inputs, metric), {}).setdefault(place, one)
    return {key: tuple(of_places.values()) for key, of_places in found.items()}
