"""Every published figure against ours in one picture, from the overview that `harness report` wrote."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.charts.definitions import chart
from harness.charts.vega import filled, save
from harness.errors import HarnessError

#: Pixels across the picture: as wide as it is high, so that equal figures lie on a diagonal.
WIDTH = 520


def draw_published(tables: Path, stem: Path, formats: Sequence[str], highlight: Sequence[str] = ()) -> list[Path]:
    """Draw the figures of `overview.csv` below `tables` that are computed; returns the files.

    Figures of the proxies of `highlight` have a ring.

    Raises:
        HarnessError: no such table, or one without a computed figure.
    """
    path = tables / "overview.csv"
    command = f"harness report table=overview output={tables}"
    try:
        with open(path, newline="", encoding="utf-8") as file:
            rows = [row for row in csv.DictReader(file) if row["agrees"]]
    except (OSError, KeyError) as error:
        raise HarnessError(f"{path} cannot be read ({error!r}): write it by `{command}`") from error
    if not rows:
        raise HarnessError(f"{path} holds no figure that is computed: `{command}`")
    papers = Counter(row["paper"] for row in rows)
    names = [name for name, _ in papers.most_common()]
    points = []
    for row in sorted(rows, key=lambda row: -papers[row["paper"]]):
        printed, ours, low, high = (float(row[name]) for name in ("published", "ours", "ci_low", "ci_high"))
        if abs(abs(ours) - printed - float(row["delta"])) < 1e-3 < abs(ours - printed - float(row["delta"])):
            ours, low, high = -ours, -high, -low  # the paper leaves signs out
        named = {"paper": row["paper"], "proxy": row["proxy"]}
        points.append({"printed": printed, "ours": ours, "low": low, "high": high, **named})
    agree = sum(row["agrees"] == "yes" for row in rows)
    title = f"{len(rows):,} published rank correlations against ours: {agree:,} agree"
    lines = ("tau, rho and nDCG; a line is our 95% interval; agree: within it, widened by 0.02",)
    if highlight:
        lines += (f"ringed: {', '.join(highlight)}",)
    signals = {"heading": "ours", "names": names, "highlight": list(highlight)}
    spec = filled(chart("published"), {"points": points}, signals, WIDTH, title, *lines)
    return save(spec, stem, formats)
