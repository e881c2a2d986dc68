"""A comparison as one HTML file, which loads nothing: tables, differences with intervals, score against accuracy."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from scipy.stats import rankdata

from harness.charts.definitions import chart
from harness.charts.imprint import imprint
from harness.charts.vega import bundle, library, shared
from harness.comparison.field import Comparison, Row
from harness.comparison.matrix import Matrix
from harness.comparison.table import Next, absent_text, cells_of, correction_text, header_of, protocol
from harness.seeds import stable_rng
from harness.tables.cells import metric_title

#: Architectures that a scatter plot draws at most, besides the best-scored.
POINTS = 2000


def to_page(found: Comparison | Matrix, then: Next) -> str:
    """The page. Raises HarnessError where the extra `plot` is not installed."""
    library()
    import jinja2
    from markupsafe import Markup

    from harness import __version__

    templates = jinja2.Environment(
        loader=jinja2.PackageLoader("harness.comparison", "site"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    parts = found.comparisons if isinstance(found, Matrix) else (found,)
    assets = shared()
    data = {
        "charts": {kind: chart(kind) for kind in ("differences", "scatter_rank")},
        "places": {one.name: _drawn(one) for one in parts},
    }
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    matrix = None
    if isinstance(found, Matrix):
        matrix = {
            "text": found.text,
            "header": found.header,
            "rows": [{"named": label in found.named, "cells": found.cells(label)} for label in found.order],
            "left_out": [f"{name}: {why}" for name, why in found.left_out.items()],
        }
    return templates.get_template("comparison.html.j2").render(
        title=f"{', '.join(found.named)} and the others" + ("" if matrix else f": {parts[0].name}"),
        matrix=matrix,
        places=[_place(one) for one in parts],
        why=then.why,
        command=then.command,
        imprint=imprint(__version__),
        style=Markup(assets["style.css"]),
        draw=Markup(assets["draw.js"]),
        script=Markup(templates.loader.get_source(templates, "comparison.js")[0]),
        bundle=Markup(bundle().replace("</script", "<\\/script")),
        data=Markup(text.replace("<", "\\u003c")),
    )


def _place(found: Comparison) -> dict[str, Any]:
    """The table of one comparison."""
    facts = protocol(found)
    figure = found.place.block.figure
    lines = [
        ("architectures", f"{facts['population']}, n = {facts['n']:,}"),
        ("target", f"{facts['target']}: {figure}"),
        ("seed of the scores", facts["seed"]),
        ("nDCG", f"over the {facts['P']:,} best-scored (P)" if facts["P"] else "none: the target is no accuracy"),
        ("intervals", f"95%, {facts['resamples']:,} bootstrap resamples of the architectures, shared by all rows"),
    ]
    return {
        "name": found.name,
        "facts": lines,
        "header": [*header_of(found), "mini-batches"],
        "rows": [
            {"name": row.label, "named": row.named, "notes": row.notes, "cells": _cells(found, row)}
            for row in found.rows
        ],
        "correction": correction_text(found),
        "absent": absent_text(found),
        "named": list(found.named),
    }


def _cells(found: Comparison, row: Row) -> list[Mapping[str, Any]]:
    """The cells of a row after its name, as `harness.comparison.table.cells_of` orders them."""
    cells = []
    for text in [*cells_of(found, row)[1:], row.inputs]:
        value, bracket, ends = text.partition(" [")
        ends, _, mark = ends.partition("]")
        cells.append(_cell(value + mark, f"[{ends}]" if bracket else ""))
    for place, own in enumerate(found.named, start=2):
        one = row.differences.get(own, {}).get(found.metric)
        cells[place]["side"] = 0 if one is None else one.side
    return cells


def _cell(value: str, interval: str) -> dict[str, Any]:
    """What a cell shows; `side` colours a difference that lies apart from 0."""
    minus = value.replace("-", "−") if value[:1] == "-" else value
    return {"value": minus, "interval": interval.replace("-", "−"), "side": 0}


# What the charts draw ------------------------------------------------------------------------------------------


def _drawn(found: Comparison) -> dict[str, Any]:
    figure = found.place.block.figure
    unit = f" ({figure.unit})" if figure.unit else ""
    differences = {}
    for own in found.named:
        rows = [(row.label, row.differences.get(own, {}).get(found.metric)) for row in found.rows]
        differences[own] = [
            [label, *(_number(v) for v in (one.value, one.low, one.high)), one.side]
            for label, one in rows
            if one is not None
        ]
    return {
        "n": found.n,
        "metric": metric_title(found.metric),
        "heading": f"{figure.kind}{unit}" + ("" if figure.higher_is_better else ", lower is better"),
        "differences": differences,
        "points": {own: _points(found, scores) for own, scores in found.scores.items()},
    }


def _number(value: float) -> float | None:
    return round(float(value), 5) if math.isfinite(value) else None


def _points(found: Comparison, scores: np.ndarray) -> dict[str, Any]:
    """Architectures of a scatter plot: all with a score, or some drawn by a seed, and the best-scored in any case."""
    sign = 1.0 if found.place.block.figure.higher_is_better else -1.0
    scored = np.flatnonzero(np.isfinite(scores))
    ranks = np.full(len(scores), np.nan)
    ranks[scored] = rankdata(-scores[scored])
    top = max(1, min(100, len(scores) // 10))
    best = scored[ranks[scored] <= top]
    drawn = scored
    if len(scored) > POINTS:
        rng = stable_rng("points", found.place.benchmark.name, found.population)
        drawn = np.union1d(rng.permutation(scored)[:POINTS], best)
    least = np.sort(sign * found.accuracies)[-top]
    return {
        "index": found.indices[drawn].tolist(),
        "architecture": [str(found.place.benchmark.architectures[i]) for i in found.indices[drawn]],
        "accuracy": [round(float(v), 3) for v in found.accuracies[drawn]],
        "rank": [float(v) for v in ranks[drawn]],
        "score": [float(f"{v:.5g}") for v in scores[drawn]],
        "marked": len(best),
        "hits": int(np.count_nonzero(sign * found.accuracies[best] >= least)),
        "top": top,
        "least": round(float(sign * least), 3),
        "total": len(scored),
    }
