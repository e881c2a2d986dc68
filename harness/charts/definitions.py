"""What charts show, before any figure is known.

Each function returns an Altair chart with named data sets and signals. Whoever draws one fills these:
`report/plots.py` and `search/plots.py` for files, `report/site/page.js` in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from harness.charts.vega import COLOURS, SHADES, compiled, library, signal

#: Below it no network is passed through: counting alone. Seconds an architecture.
LEAST_COST = 1e-3

#: Of all charts: `heading` stands above the vertical axis; the rest is said where it is used.
SIGNALS = {"heading": "", "better": "higher", "across": "", "unit": 1.0, "names": []}

#: Where axes that span orders of magnitude have ticks.
_STEPS = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]

_SECONDS = (
    f"datum.value <= {LEAST_COST} ? '\u2264 1 ms' : "
    "datum.value >= 1 ? format(datum.value, ',') + ' s' : format(datum.value * 1000, '.3~g') + ' ms'"
)

#: A name with settings as the name of a field: colons, dots and brackets mean nothing there.
_LITERAL = {ord(mark): f"\\{mark}" for mark in "\\:.[]"}

#: The axes of scores: linear, logarithmic, flattened at both ends around zero; or their ranks, the best at the right.
AXES = ("linear", "log", "symlog", "rank")


@cache
def chart(kind: str) -> dict[str, Any]:
    """A chart as Vega: `scatter_AXIS`, `cost`, `ndcg`, `bands`, `seeds`, `matrix`, `published` or `trajectories`."""
    name, _, axis = kind.partition("_")
    drawn = {
        "scatter": scatter, "cost": cost, "ndcg": ndcg, "bands": bands, "seeds": seeds, "matrix": matrix,
        "published": published, "trajectories": trajectories,
    }[name]  # fmt: skip
    return compiled(drawn(axis) if axis else drawn(), SIGNALS)


def _data(name: str) -> Any:
    alt = library()
    return alt.Chart(alt.NamedData(name))


def _wide(*layers: Any, height: Any, above: int = 8) -> Any:
    """Layers as wide as there is room, what they measure said above them: it takes no width from the chart."""
    alt = library()
    text = alt.Chart(alt.InlineData(values=[{}])).mark_text(align="left", baseline="bottom", fontSize=13)
    heading = text.encode(
        x=alt.value(0), y=alt.value(-above), text=alt.value(signal("heading")), color=alt.value(signal("ink"))
    )
    return alt.layer(*layers, heading).properties(width="container", height=height)


def scatter(axis: str) -> Any:
    """Score against accuracy, the best-scored architectures marked (Entropic Score, Figure 2).

    Data `points`: score, accuracy, mark, the marked ones last. `limits`: least, the accuracy that the most accurate
    architectures reach, and its name. Signals: `across`, what the horizontal axis shows, and `unit`, where the axis
    `symlog` turns from linear to logarithmic.
    """
    alt = library()
    scale = alt.Scale(type="linear", zero=False, nice=axis != "rank", padding=6, reverse=axis == "rank")
    if axis in ("log", "symlog"):
        scale = alt.Scale(type=axis, nice=axis == "log", padding=6)
        if axis == "symlog":
            scale.constant = signal("unit")
    number = "abs(datum.value) >= 1e6 ? replace(format(datum.value, '.3~e'), '+', '') : format(datum.value, ',.4~r')"
    ticks = alt.Axis(grid=False, tickCount=6, labelExpr=number, labelOverlap="greedy", labelSeparation=10)
    x = alt.X("score:Q", scale=scale, title=None, axis=ticks)
    y = alt.Y("accuracy:Q", scale=alt.Scale(zero=False, nice=True, padding=4), title=None, axis=alt.Axis(tickCount=6))
    dots = _data("points").mark_circle().properties(name="dots")
    limit = _data("limits").mark_rule(strokeDash=[5, 4], strokeWidth=1.2).encode(y="least:Q")
    named = _data("limits").mark_text(align="left", baseline="bottom", dy=-3, dx=2, fontSize=12)
    return _wide(
        dots.encode(
            x,
            y,
            color=alt.condition("datum.mark", alt.value(signal("accent")), alt.value(signal("dot"))),
            size=alt.condition("datum.mark", alt.value(26), alt.value(16)),
            opacity=alt.condition("datum.mark", alt.value(0.9), alt.value(0.6)),
        ),
        limit.encode(color=alt.value(signal("cool"))),
        named.encode(x=alt.value(0), y="least:Q", text="name:N", color=alt.value(signal("cool"))),
        _across(),
        height=340,
    )


def _across() -> Any:
    """The title of the horizontal axis, which a signal gives."""
    alt = library()
    text = alt.Chart(alt.InlineData(values=[{}])).mark_text(align="right", baseline="top", fontSize=13)
    return text.encode(
        x=alt.value("width"),
        y=alt.value(signal("height + 26")),
        text=alt.value(signal("across")),
        color=alt.value(signal("ink")),
    )


def _front(chart: Any) -> Any:
    """A chart whose rows say whether they are in the `front`: none has a cost as low and more `gain`."""
    alt = library()
    order = [alt.SortField("cost"), alt.SortField("gain", order="descending")]
    return (
        chart.transform_window(best="max(gain)", frame=[None, 0], ignorePeers=True, sort=order)
        .transform_window(before="lag(best)", sort=order)
        .transform_calculate(front="!isValid(datum.before) || datum.gain > datum.before")
    )


def cost() -> Any:
    """A metric against seconds an architecture, with intervals, names, and the front that none is cheaper and better.

    Data `points`: name, seconds, value, low, high. Signal `better`: higher or lower.
    """
    alt = library()
    points = _front(
        _data("points").transform_calculate(
            cost=f"max(datum.seconds, {LEAST_COST})", gain="better === 'lower' ? -datum.value : datum.value"
        )
    )
    x = alt.X(
        "cost:Q",
        scale=alt.Scale(type="log", nice=False, padding=30),
        title="time for one architecture, at most",
        axis=alt.Axis(grid=False, values=_STEPS, labelExpr=_SECONDS, labelOverlap="greedy", labelSeparation=8),
    )
    y = alt.Y("value:Q", scale=alt.Scale(zero=False, nice=True), title=None, axis=alt.Axis(tickCount=7))
    colour = alt.condition("datum.front", alt.value(signal("accent")), alt.value(signal("dot")))
    front = points.transform_filter("datum.front").mark_line(
        interpolate="step-after", strokeDash=[5, 4], strokeWidth=1.3
    )
    whiskers = points.mark_rule(strokeWidth=1.8, opacity=0.75, strokeCap="round").properties(name="whiskers")
    dots = points.mark_circle(size=44, opacity=1, strokeWidth=0.8).properties(name="dots")
    # Besides each name, rows without a text, which labels keep clear of: eight of its whisker, sixty of the front.
    labels = (
        points.transform_window(next="lead(cost)", groupby=["front"], sort=[alt.SortField("cost")])
        .transform_calculate(spot="sequence(0, datum.front && isValid(datum.next) ? 69 : 9)")
        .transform_flatten(["spot"])
        .transform_calculate(
            text="datum.spot === 0 ? datum.name : ''",
            rank="(datum.spot ? 1e6 : 0) + (datum.front ? 0 : 1e3) - datum.gain",
            at="datum.spot % 9 && datum.spot < 9 ? lerp([datum.low, datum.high], (datum.spot - 1) / 7) : datum.value",
            cost="datum.spot < 9 ? datum.cost : datum.cost * pow(datum.next / datum.cost, (datum.spot - 8) / 61)",
        )
        .mark_text(fontSize=11)
        .properties(name="labels")
    )
    return _wide(
        front.encode(x, y, color=alt.value(signal("accent")), order="cost:Q"),
        whiskers.encode(x, alt.Y("low:Q"), alt.Y2("high:Q"), color=colour),
        dots.encode(x, y, color=colour, stroke=alt.value(signal("ground"))),
        labels.encode(x, alt.Y("at:Q"), text="text:N", color=alt.value(signal("ink"))),
        height=480,
    )


def ndcg() -> Any:
    """nDCG_P over the cut-off P.

    Data `curves`: name, P, value, series, those on top last. Signal `names`: the series, a random order first; a line
    of none is grey.
    """
    alt = library()
    names = {"domain": signal("names")}
    colours = alt.Scale(**names, range=[signal("faint"), signal("cool"), *COLOURS[1:]])
    dashes = alt.Scale(**names, range=[[2, 3], *[[1, 0]] * len(COLOURS)])
    curves = _data("curves").encode(
        alt.X("P:Q", scale=alt.Scale(type="log", nice=False), title="P, best-scored architectures",
              axis=alt.Axis(grid=False, values=_STEPS, format=",", labelOverlap="greedy", labelSeparation=8)),
        alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), title=None, axis=alt.Axis(tickCount=6, grid=True)),
        alt.Detail("name:N"),
    )  # fmt: skip
    legend = alt.Legend(orient="bottom", title=None, columns=4, symbolType="stroke", symbolStrokeWidth=3)
    named = "isValid(datum.series)"
    lines = curves.mark_line().encode(
        color=alt.condition(named, alt.Color("series:N", scale=colours, legend=legend), alt.value(signal("dot"))),
        strokeDash=alt.condition(named, alt.StrokeDash("series:N", scale=dashes, legend=legend), alt.value([1, 0])),
        strokeWidth=alt.condition(named, alt.value(2.2), alt.value(0.7)),
    )
    return _wide(lines, height=340)


def bands() -> Any:
    """A metric among all architectures and among the most accurate ones alone, a row a proxy.

    Data `rows`: name, band, value, low, high, in the order in which they are drawn.
    """
    alt = library()
    legend = alt.Legend(title="most accurate", direction="horizontal", offset=34, orient="top")
    rows = _data("rows").encode(
        alt.Y("name:N", sort=None, title=None, axis=alt.Axis(grid=True, ticks=False, domain=False, labelPadding=8)),
        yOffset=alt.YOffset("band:N", sort=None, scale=alt.Scale(paddingOuter=0.5)),
        color=alt.Color("band:N", sort=None, scale=alt.Scale(range=list(COLOURS[:3])), legend=legend),
    )  # fmt: skip
    x = alt.Axis(tickCount=8, orient="top")
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeWidth=1)
    return _wide(
        zero.encode(alt.X("zero:Q"), color=alt.value(signal("faint"))),
        rows.mark_rule(strokeWidth=1.8, opacity=0.7, strokeCap="round").encode(
            alt.X("low:Q", title=None, axis=x, scale=alt.Scale(nice=True)), alt.X2("high:Q")
        ),
        rows.mark_point(filled=True, size=42, opacity=1).encode(
            alt.X("value:Q"), shape=alt.Shape("band:N", sort=None, legend=None)
        ),
        height=alt.Step(24, **{"for": "position"}),
        above=24,
    )


def seeds() -> Any:
    """A metric under each seed, a row a proxy.

    Data `rows`: name, seed, value; `spans`: name, low, high, in the order in which they are drawn.
    """
    alt = library()
    y = alt.Y("name:N", sort=None, title=None, axis=alt.Axis(grid=True, ticks=False, domain=False, labelPadding=8))
    x = alt.Axis(tickCount=8, orient="top")
    span = _data("spans").mark_rule(strokeWidth=3, opacity=0.6, strokeCap="round")
    legend = alt.Legend(title="seed", direction="horizontal", offset=34, orient="top")
    return _wide(
        span.encode(y, alt.X("low:Q", title=None, axis=x, scale=alt.Scale(zero=False, nice=True)), alt.X2("high:Q"),
                    color=alt.value(signal("dot"))),
        _data("rows").mark_circle(size=46, opacity=0.9).encode(
            y, alt.X("value:Q"),
            color=alt.Color("seed:N", sort=None, scale=alt.Scale(range=list(COLOURS)), legend=legend),
        ),
        height=alt.Step(22),
        above=24,
    )  # fmt: skip


def matrix() -> Any:
    """Rank correlations of scores, a square each. Data `cells`: row, column, rho, in the order of rows and columns."""
    alt = library()
    axis = {"sort": None, "title": None}
    bold = alt.condition("datum.value === 'accuracy'", alt.value("bold"), alt.value("normal"))
    plain = {"ticks": False, "domain": False, "labelFontWeight": bold}
    cells = _data("cells").encode(
        alt.X("column:N", **axis, axis=alt.Axis(orient="top", labelAngle=-60, **plain)),
        alt.Y("row:N", **axis, axis=alt.Axis(**plain)),
    )
    scale = alt.Scale(domain=[-1, 1], range=["#2166ac", "#f7f7f7", "#b2182b"], interpolate="lab")
    text = alt.condition("abs(datum.rho) > 0.6", alt.value("#ffffff"), alt.value(SHADES["ink"]))
    return alt.layer(
        cells.mark_rect().encode(color=alt.Color("rho:Q", scale=scale, legend=None)),
        cells.mark_text(fontSize=8.5).encode(text="text:N", color=text),
    ).properties(width=alt.Step(20), height=alt.Step(20))


def published() -> Any:
    """Our figures against those that papers print, a point a figure, with the diagonal on which they are equal.

    Data `points`: printed, ours, low, high, paper, the last ones on top. Signal `names` of the papers, which take
    colours and shapes in turn.
    """
    alt = library()
    shapes = ["circle", "square", "triangle-up", "diamond"]
    repeated = [(colour, shape) for shape in shapes for colour in COLOURS]
    colours = alt.Scale(domain=signal("names"), range=[colour for colour, _ in repeated])
    forms = alt.Scale(domain=signal("names"), range=[shape for _, shape in repeated])
    legend = alt.Legend(orient="bottom", title=None, columns=2, labelLimit=230, symbolOpacity=1)
    ends = alt.Chart(alt.InlineData(values=[{"at": -1}, {"at": 1}]))
    x = alt.X("printed:Q", scale=alt.Scale(domain=[-0.6, 1], clamp=True), title="printed", axis=alt.Axis(tickCount=8))
    y = alt.Y("ours:Q", scale=alt.Scale(domain=[-0.6, 1], clamp=True), title=None, axis=alt.Axis(tickCount=8))
    points = _data("points").encode(x, color=alt.Color("paper:N", scale=colours, legend=legend))
    return _wide(
        ends.mark_line(strokeDash=[5, 4], strokeWidth=1).encode(
            alt.X("at:Q"), alt.Y("at:Q"), color=alt.value(signal("faint"))
        ),
        points.mark_rule(strokeWidth=0.8, opacity=0.35).encode(alt.Y("low:Q", title=None), alt.Y2("high:Q")),
        points.mark_point(filled=True, size=34, opacity=0.75).encode(
            y, shape=alt.Shape("paper:N", scale=forms, legend=legend)
        ),
        height=520,
    )


def trajectories() -> Any:
    """The accuracy that searches hold, a line and its band a search.

    Data `points`: search, at, accuracy, low, high. Signals: `across`, what `at` counts, and `names` of the searches.
    """
    alt = library()
    repeated = [(colour, dash) for dash in ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3]) for colour in COLOURS]
    stroke = {"symbolType": "stroke", "symbolStrokeWidth": 3, "symbolSize": 300, "symbolOpacity": 1}
    legend = alt.Legend(orient="bottom", title=None, columns=2, labelLimit=340, offset=30, **stroke)
    colours = alt.Scale(domain=signal("names"), range=[colour for colour, _ in repeated])
    dashes = alt.Scale(domain=signal("names"), range=[dash for _, dash in repeated])
    ticks = alt.Axis(grid=False, format="~g", tickCount=6, labelOverlap="greedy", labelSeparation=10)
    points = _data("points").encode(alt.X("at:Q", scale=alt.Scale(type="log", nice=False), title=None, axis=ticks))
    y = alt.Y("low:Q", scale=alt.Scale(zero=False, nice=True), title=None)
    return _wide(
        points.mark_area(opacity=0.15).encode(y, alt.Y2("high:Q"), alt.Color("search:N", scale=colours, legend=legend)),
        points.mark_line(strokeWidth=1.6).encode(
            alt.Y("accuracy:Q"),
            alt.Color("search:N", scale=colours, legend=legend),
            alt.StrokeDash("search:N", scale=dashes, legend=legend),
        ),
        _across(),
        height=380,
    )


def pareto(proxies: Sequence[str]) -> Any:
    """Each proxy against the parameters of the networks that a search scored, the later the darker, with the front.

    Data `history`: place, params in millions, and a score a proxy.
    """
    alt = library()
    panels = []
    for proxy in proxies:
        scored = _data("history").transform_calculate(cost="datum.params", gain=f"datum[{json.dumps(proxy)}]")
        points = _front(scored.transform_filter("isFinite(datum.gain)")).encode(
            alt.X("cost:Q", scale=alt.Scale(zero=False), title="parameters (M)", axis=alt.Axis(grid=False)),
            alt.Y("gain:Q", scale=alt.Scale(zero=False), title=proxy),
        )
        later = alt.Color("place:Q", scale=alt.Scale(range=["#a6cbe6", "#08306b"]), legend=None)
        dots = points.mark_circle(size=18, opacity=0.8).encode(color=later).properties(name="dots")
        front = points.transform_filter("datum.front").mark_line(interpolate="step-after", strokeWidth=1.5, point=True)
        line = front.encode(color=alt.value(signal("accent")), order="cost:Q").properties(name="front")
        panels.append(alt.layer(dots, line).properties(width=340, height=260))
    return alt.hconcat(*panels)


def population(quantities: Sequence[str]) -> Any:
    """Scores and parameters of the members in the order in which they were evaluated, phase by phase.

    Data `history`: place, and a value a quantity; `starts`: place, phase.
    """
    alt = library()
    panels = []
    for quantity in quantities:
        last = quantity == quantities[-1]
        x = alt.X("place:Q", title="evaluations" if last else None, axis=alt.Axis(grid=False, labels=last),
                  scale=alt.Scale(nice=False))  # fmt: skip
        y = alt.Y(quantity.translate(_LITERAL) + ":Q", scale=alt.Scale(zero=False), title=quantity)
        dots = _data("history").mark_circle(size=14, opacity=0.7).encode(x, y, color=alt.value(signal("cool")))
        starts = _data("starts").mark_rule().encode(x, color=alt.value(signal("dot")))
        layers = [starts, dots]
        if not panels:
            names = _data("starts").mark_text(align="left", baseline="bottom", angle=330, fontSize=11)
            layers.append(names.encode(x, y=alt.value(-4), text="phase:N", color=alt.value(signal("faint"))))
        panels.append(alt.layer(*layers).properties(width=660, height=130))
    return alt.vconcat(*panels).resolve_scale(x="shared")
