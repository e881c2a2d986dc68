"""Scores of each kind of network beside those of its twin and of the references, cell by cell."""

from __future__ import annotations

import dataclasses
import warnings
from dataclasses import dataclass

import numpy as np
import torch

import harness
from harness.errors import HarnessError
from harness.proxies import available, get_proxy
from harness.proxies.base import Proxy
from tests.any_network import architectures, cases  # noqa: F401 (they fill the table)
from tests.any_network.kinds import CLASSES, KINDS, Kind
from tests.any_network.reference import written_out

#: `sed` and `skip` read an encoding. `dextr`, `mlfe` and `meco:modules=all` read modules by their
#: definition, and differ where they do.
NAMES = [name for name in sorted(available()) if name not in ("sed", "skip", "dextr", "mlfe")]
SPECS = (*NAMES, "flops:count=all", "grad_norm:norm=all", "t_cet:codes=relu", "vkdnw:variant=repo")
SMALL = {"batch_size": 6, "dtype": "float64", "resolution": 8, "samples": 60, "repeats": 1}
IMAGES = 12
TOLERANCE = 1e-6
REFERENCES = (
    *("snip", "plain", "grad_norm", "grad_norm:norm=all", "l2_norm", "gradsign", "ntk", "params", "synflow"),
    *("vkdnw", "vkdnw:variant=repo", "vkdnw_single", "vkdnw_decile"),
)


@dataclass(frozen=True)
class Cell:
    """A network's score by a proxy: `value`, `reason`, or `wrong`, and why."""

    verdict: str
    text: str = ""


def small(spec: str) -> Proxy:
    proxy = get_proxy(spec)
    own = {field.name for field in dataclasses.fields(proxy)}
    return dataclasses.replace(proxy, **{key: value for key, value in SMALL.items() if key in own})


def inputs(kind: Kind) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(11)
    return torch.randn(IMAGES, *kind.shape, generator=generator), torch.arange(IMAGES) % CLASSES


def scores(network: torch.nn.Module, kind: Kind, specs: tuple[str, ...], keep: bool) -> dict[str, tuple[float, str]]:
    """Score and status by spec."""
    images, labels = inputs(kind)
    images = images.to(next((p.dtype for p in network.parameters()), images.dtype))
    proxies = {spec: small(spec) for spec in specs}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch, on what it runs slowly
        series = harness.score(
            network, images, labels, list(proxies.values()), num_classes=CLASSES, stages=kind.stages, keep_weights=keep
        )
    return {spec: (float(series[p.label]), series.attrs["status"][p.label]) for spec, p in proxies.items()}


def seeded(kind: Kind, plain: bool) -> torch.nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        return kind.make(plain)


def near(a: float, b: float) -> bool:
    return bool(np.isclose(a, b, rtol=TOLERANCE, atol=1e-9))


def expected(kind: Kind, spec: str) -> str | None:
    """The start of the status of what has no score, None for what has to have one."""
    name = spec.partition(":")[0]
    return kind.without.get(spec, kind.without.get(name, kind.without.get("")))


def row(name: str) -> dict[str, Cell]:
    """By spec what becomes of the network: beside its twin with fresh weights, and beside the references."""
    kind = KINDS[name]
    if kind.refused:
        try:
            scores(seeded(kind, False), kind, SPECS, kind.keep)
        except HarnessError as error:
            found = Cell("reason", str(error)) if kind.refused in str(error) else Cell("wrong", str(error))
        else:
            found = Cell("wrong", "scored")
        return dict.fromkeys(SPECS, found)
    user, twin = (scores(seeded(kind, plain), kind, SPECS, kind.keep) for plain in (False, True))
    cells = {}
    for spec in SPECS:
        (value, status), (other, reason) = user[spec], twin[spec]
        cells[spec] = judge(expected(kind, spec), value, status, other, reason, spec in kind.apart)
    cells.update(beside_references(kind, {spec for spec in REFERENCES if user[spec][1] == "ok"}))
    return cells


def judge(wanted: str | None, value: float, status: str, other: float, reason: str, apart: bool) -> Cell:
    if status.startswith("error"):
        return Cell("wrong", status)
    if wanted is not None and not status.startswith(wanted):
        return Cell("wrong", f"{status} ({value}) for {wanted!r}")
    if status != "ok":
        return Cell("reason" if wanted is not None or status == reason else "wrong", status)
    if apart or near(value, other):
        return Cell("value")
    return Cell("wrong", f"{value!r} for {other!r} ({reason})")


def beside_references(kind: Kind, wanted: set[str]) -> dict[str, Cell]:
    """The cells that a reference contradicts."""
    network = seeded(kind, False)
    if any(isinstance(m, (torch.nn.Dropout2d,)) for m in network.modules()):
        wanted = wanted & {"vkdnw", "params", "l2_norm"}  # others draw what to drop
    if any(torch.nn.utils.parametrize.is_parametrized(m) for m in network.modules()):
        wanted = wanted - {"synflow"}  # |weights| of a parametrised layer are no parameters: the twin has them
    images, labels = inputs(kind)
    found = scores(network, kind, tuple(sorted(wanted)), keep=True)
    values = written_out(network, images[:6], labels[:6], wanted)
    return {
        spec: Cell("wrong", f"{found[spec]} for {value!r} written out")
        for spec, value in values.items()
        if found[spec][1] != "ok" or not near(found[spec][0], value)
    }


def line(name: str, cells: dict[str, Cell]) -> str:
    """A row of the table in `docs/any_network.md`: how many values, and the reasons of the rest."""
    values = sum(cell.verdict == "value" for cell in cells.values())
    reasons: dict[str, list[str]] = {}
    for spec, cell in cells.items():
        if cell.verdict != "value":
            reasons.setdefault(cell.text, []).append(f"`{spec}`")
    texts = [f"{'all' if len(specs) == len(cells) else ', '.join(specs)}: {text}" for text, specs in reasons.items()]
    return f"| {name} | {values} | {'; '.join(texts)} |"
