"""The NDS files (Radosavovic et al., ICCV 2019): networks sampled from NAS design spaces, each with its training.

A file is a list of trainings, or {"top": [...], "mid": [...]} of the two ends of a sweep. Of a training are read

    net: {genotype: {normal: [[op, node], ...], normal_concat: [...], reduce: ..., reduce_concat: ...},
          width: channels, depth: cells, aux: auxiliary head in training, drop_prob: ...}
    test_ep_top1: test ERROR in percent after each epoch; min_test_top1: the least of them
    optim: {max_ep: epochs, base_lr: ..., wd: ...}; rng_seed, params, flops

Source: facebookresearch/nds and pycls (MIT). Each network has its own width and depth, which the encoding
carries: `Genotype(...)@channels=C,layers=N`. The files of AnyNet design spaces (ResNet, ResNeXt, Vanilla) are not
cells, and are refused.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pandas as pd

from harness.benchmarks.importers.base import Importer, Table, is_number, is_percentage, read_json
from harness.errors import HarnessError, cause, shown

_POOLS = ("avg_pool_3x3", "max_pool_3x3")
_SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5")


class Design(NamedTuple):
    """A design space: intermediate nodes of a cell, and operations."""

    nodes: int
    operations: frozenset[str]


#: The operations as pycls lists them (`models/nas/genotypes.py`).
DESIGNS = {
    "Amoeba": Design(
        5,
        frozenset(
            ("skip_connect", *_SEPARABLE, "sep_conv_7x7", *_POOLS, "dil_sep_conv_3x3", "conv_7x1_1x7"),
        ),
    ),
    "DARTS": Design(4, frozenset(("none", "skip_connect", *_SEPARABLE, *_POOLS, "dil_conv_3x3", "dil_conv_5x5"))),
    "ENAS": Design(5, frozenset(("skip_connect", *_SEPARABLE, *_POOLS))),
    "NASNet": Design(
        5,
        frozenset(
            (
                *("skip_connect", "conv_3x1_1x3", "conv_7x1_1x7", "dil_conv_3x3", *_POOLS, "max_pool_5x5"),
                *("max_pool_7x7", "conv_1x1", "conv_3x3", *_SEPARABLE, "sep_conv_7x7"),
            ),
        ),
    ),
    "PNAS": Design(
        5,
        frozenset((*_SEPARABLE, "sep_conv_7x7", "conv_7x1_1x7", "skip_connect", *_POOLS, "dil_conv_3x3")),
    ),
}
#: The sweeps that were published of each design space.
SWEEPS = {
    "Amoeba": ("", "_in"),
    "DARTS": ("", "_fix-w-d", "_in", "_lr-wd", "_lr-wd_in"),
    "ENAS": ("", "_fix-w-d", "_in"),
    "NASNet": ("", "_in"),
    "PNAS": ("", "_fix-w-d", "_in"),
}
#: Name of the benchmark -> file, as in nds_darts_fix_w_d -> DARTS_fix-w-d.json.
FILES = {
    f"nds_{design.lower()}{sweep.replace('-', '_')}": f"{design}{sweep}.json"
    for design, sweeps in SWEEPS.items()
    for sweep in sweeps
}

_SWEEP_NOTES = {
    "": "width and depth drawn at random",
    "_fix-w-d": "width and depth fixed",
    "_lr-wd": "learning rate and weight decay drawn at random too",
}


class Nds(Importer):
    """`nds` takes the folder of the unpacked nds_data, or one file; nds_darts and the others take their file."""

    names: ClassVar = ("nds", *FILES)
    form = "the folder of the NDS files, or one of them, such as DARTS.json"

    def read(self, name: str, path: Path, partial: bool) -> list[Table]:
        if path.is_dir():
            wanted = FILES if name == "nds" else {name: FILES[name]}
            present = {key: path / file for key, file in wanted.items() if (path / file).is_file()}
            if not present:
                raise HarnessError(f"{path} holds none of {', '.join(wanted.values())}: give {self.form}")
            return [_table(key, file) for key, file in present.items()]
        by_file = {file: key for key, file in FILES.items()}
        if path.name not in by_file:
            raise HarnessError(f"{path.name} is none of the NDS files of cells: give one of {', '.join(by_file)}")
        if name not in ("nds", by_file[path.name]):
            raise HarnessError(f"{path} is the file of {by_file[path.name]}, not of {name}, whose is {FILES[name]}")
        return [_table(by_file[path.name], path)]


def _table(name: str, path: Path) -> Table:
    data = read_json(path, Nds.form)
    if isinstance(data, dict) and {"top", "mid"} <= data.keys():
        if not all(isinstance(data[end], list) for end in ("top", "mid")):
            raise HarnessError(f"{path} has no lists of trainings as `top` and `mid`: it is another file")
        data = [*data["top"], *data["mid"]]
    if not isinstance(data, list) or not data:
        raise HarnessError(f"{path} is no list of trainings: it is another file, or download it again")
    design = DESIGNS[path.stem.split("_")[0]]
    rows = []
    for number, item in enumerate(data):
        try:
            rows.append(_row(item, design))
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            reason = f"it has no {cause(error)[:60]}" if isinstance(error, KeyError) else cause(error)[:200]
            raise HarnessError(
                f"{path}: training {number} is none of {path.stem} ({reason}): it is another file, or damaged"
            ) from error
    columns = pd.DataFrame(rows)
    epochs = ", ".join(map(str, sorted(columns["epochs"].unique())))
    imagenet = path.stem.endswith("_in")
    dataset = "imagenet" if imagenet else "cifar10"
    targets = {target: f"{dataset}_{target}" for target in ("test_last", "test_best")}
    columns = columns.rename(columns=targets)
    sweep = path.stem.partition("_")[2].removesuffix("in").removesuffix("_")
    failed = int(columns[targets["test_last"]].isna().sum())
    card = {
        "title": f"NDS {path.stem}, {len(columns):,} networks, {'ImageNet' if imagenet else 'CIFAR-10'}",
        "space": "darts",
        "network": {"stem": "imagenet" if imagenet else "cifar"},
        "encoding": "genotype",
        "datasets": {dataset: {"classes": 1000, "resolution": 224} if imagenet else {"classes": 10, "resolution": 32}},
        "default_target": "test_last",
        "targets": {dataset: targets},
        "notes": (
            f"Rows in the order of the file: {_SWEEP_NOTES[f'_{sweep}' if sweep else '']}.\n"
            f"test_last: 100 minus the test error (test_ep_top1) in percent after the last of {epochs} epochs;\n"
            f"missing for {failed} networks. test_best: likewise for the best epoch, chosen on the test images\n"
            "(min_test_top1).\n"
            "width, depth: channels of the first cell and number of cells, which the encoding repeats. aux: whether\n"
            "the network was trained with an auxiliary head. params, flops: the file's own counts.\n"
        ),
        "origin": f"The file {path.name} of facebookresearch/nds.\n",
        "licence": "MIT (the file's repository)",
        "citation": (
            "I. Radosavovic, J. Johnson, S. Xie, W.-Y. Lo, P. Dollár. On Network Design Spaces for Visual\n"
            "Recognition. ICCV 2019.\n"
        ),
    }
    return Table(name, columns, card, "genotype")


def _row(item: dict[str, Any], design: Design) -> dict[str, Any]:
    """A training's columns. Raises KeyError, TypeError or ValueError where it is not one of `design`."""
    net, optim, errors = item["net"], item["optim"], item["test_ep_top1"]
    if "genotype" not in net:
        raise ValueError("its network is no genotype")
    genotype, width, depth = net["genotype"], net["width"], net["depth"]
    if not all(type(number) is int and 0 < number < 2**31 for number in (width, depth)):
        raise ValueError(f"its width {shown(width)} or depth {shown(depth)} is no positive whole number")
    if not isinstance(errors, list) or not errors or optim["max_ep"] != len(errors):
        raise ValueError(f"it has {len(errors)} epochs of {shown(optim['max_ep'])}")
    accuracies = [_accuracy(error) for error in errors]
    best = max((accuracy for accuracy in accuracies if accuracy == accuracy), default=np.nan)
    text = ", ".join(
        f"{cell}={_pairs(genotype[cell], design)}, {cell}_concat={_concat(genotype[f'{cell}_concat'], design)}"
        for cell in ("normal", "reduce")
    )
    return {
        "genotype": f"Genotype({text})@channels={width},layers={depth}",
        "test_last": accuracies[-1],
        "test_best": _accuracy(item["min_test_top1"]) if "min_test_top1" in item else best,
        "epochs": len(errors),
        "width": width,
        "depth": depth,
        "aux": bool(net.get("aux", False)),
        "params": _count(item["params"]),
        "flops": _count(item["flops"]),
        "base_lr": _number(optim["base_lr"]),
        "weight_decay": _number(optim["wd"]),
        "seed": _count(item["rng_seed"]),
    }


def _number(value: Any) -> float:
    if not is_number(value):
        raise ValueError(f"{shown(value)} stands for a finite number")
    return float(value)


def _count(value: Any) -> int:
    if not is_number(value) or not 0 <= value < 2**63 or value != int(value):
        raise ValueError(f"{shown(value)} stands for a whole number")
    return int(value)


def _accuracy(error: Any) -> float:
    """Accuracy in percent; NaN where the training left no number: null, or NaN."""
    if error is None or error != error:
        return np.nan
    if not is_percentage(error):
        raise ValueError(f"its test error {shown(error)} is no percentage")
    return 100.0 - error


def _pairs(cell: Any, design: Design) -> list[tuple[str, int]]:
    pairs = [(op, node) for op, node in cell]
    if len(pairs) != 2 * design.nodes:
        raise ValueError(f"a cell has {len(pairs)} operations, not {2 * design.nodes}")
    for place, (op, node) in enumerate(pairs):
        if op not in design.operations:
            raise ValueError(f"{shown(op)} is no operation of the design space")
        if type(node) is not int or not 0 <= node < 2 + place // 2:
            raise ValueError(f"node {2 + place // 2} reads {shown(node)}")
    return pairs


def _concat(nodes: Any, design: Design) -> list[int]:
    if not isinstance(nodes, list) or not nodes or not all(type(n) is int and 2 <= n < 2 + design.nodes for n in nodes):
        raise ValueError(f"a cell's output concatenates {shown(nodes)}")
    return nodes
