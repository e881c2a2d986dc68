"""NAS-Bench-Suite-Zero's `zc_nasbench301.json`: genotypes in NASLib's compact form with proxies and an accuracy.

{"cifar10": {"(((0, 1), ...), ((0, 2), ...))": {"val_accuracy": 93.2, "params": {...}, ...}, ...}}
"""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from harness.benchmarks.importers.base import Importer, Table, card_of, is_percentage, read_json
from harness.errors import HarnessError
from harness.spaces.darts import Darts

DATASET, ACCURACY = "cifar10", "val_accuracy"


class NasBench301(Importer):
    """All genotypes of the file, in its order."""

    names = ("nasbench301",)
    form = "the file zc_nasbench301.json"

    def read(self, name: str, path: Path, partial: bool) -> list[Table]:
        data = read_json(path, self.form)
        entries = data.get(DATASET) if isinstance(data, dict) else None
        if not isinstance(entries, dict) or not entries:
            raise HarnessError(f"{path} has no genotypes under {DATASET!r}: give {self.form}")
        space, rows = Darts(), []
        for text, entry in entries.items():
            accuracy = entry.get(ACCURACY) if isinstance(entry, dict) else None
            if not is_percentage(accuracy):
                raise HarnessError(f"{path}: the entry {text[:60]}… has no {ACCURACY} in percent: it is another file")
            try:
                rows.append((space.parse(text), float(accuracy)))
            except HarnessError as error:
                raise HarnessError(f"{path} is no file of NAS-Bench-301: {error}") from error
        columns = pd.DataFrame(rows, columns=["genotype", "cifar10_valid_surrogate"])
        card = {
            "title": f"NAS-Bench-301, {len(rows):,} DARTS genotypes, CIFAR-10 (NAS-Bench-Suite-Zero's file)",
            **card_of("nasbench301"),
            "encoding": "genotype",
            "default_target": "valid_surrogate",
            "targets": {DATASET: {"valid_surrogate": "cifar10_valid_surrogate"}},
            "notes": (
                f"Rows in the order of the file. valid_surrogate: its {ACCURACY}, in percent, which NASLib asks of\n"
                "NAS-Bench-301's surrogate: the accuracy of a model, not of a trained network.\n"
            ),
            "origin": f"The file {path.name} of NAS-Bench-Suite-Zero (automl/NASLib).\n",
            "licence": "Apache-2.0 (the file's repository)",
        }
        return [Table("nasbench301", columns, card, "genotype")]
