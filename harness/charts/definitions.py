"""What charts show, before any figure is known.

Each function returns an Altair chart with named data sets and signals. Whoever draws one fills these:
`report/plots.py` and `search/plots.py` for files, `draw.js` with the scripts of pages in a browser.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

from harness.charts.vega import COLOURS, SHADES, compiled, library, signal

#: Below it no network is passed through: counting alone. Seconds an architecture.
LEAST_COST = 1e-3

#: Of all charts: `heading` stands above the vertical axis, `highlight` lists the names that stand out; the rest is said
#: where it is used.
SIGNALS = {
    "heading": "", "highlight": [], "better": "higher", "across": "", "unit": 1.0, "names": [], "start": LEAST_COST,
}  # fmt: skip

#: Where axes that span orders of magnitude have ticks.
_STEPS = [m * 10.0**e for e in range(-3, 6) for m in (1, 2, 5)]

_SECONDS = (
    "datum.value === start ? 'no pass' : datum.value < start ? '' : "
    "datum.value >= 1 ? format(datum.value, ',') + ' s' : format(datum.value * 1000, '.3~g') + ' ms'"
)

#: A name with settings as the name of a field: colons, dots and brackets mean nothing there.
_LITERAL = {ord(mark): f"\\{mark}" for mark in "\\:.[]"}

#: The axes of scores: linear, logarithmic, flattened at both ends around zero; or their ranks, the best at the right.
AXES = ("linear", "log", "symlog", "rank")


@cache
def chart(kind: str) -> dict[str, Any]:
    """A chart as Vega: `scatter_AXIS`, or one of the functions below by its name."""
    name, _, axis = kind.partition("_")
    kinds = (scatter, cost, ndcg, bands, seeds, differences, matrix, published, trajectories)
    return compiled({one.__name__: one for one in kinds}[name](*[axis] * bool(axis)), SIGNALS)


def _data(name: str) -> Any:
    return library().Chart(library().NamedData(name))


def _paint(name: str) -> Any:
    """A signal as the value of a channel: a colour, or a text."""
    return library().value(signal(name))


def _where(test: str, yes: Any, no: Any) -> Any:
    alt = library()
    return alt.condition(test, *(one if isinstance(one, dict) else alt.value(one) for one in (yes, no)))


def _first(*cases: tuple[str, Any], otherwise: Any) -> Any:
    """The value of the first test that holds."""
    alt = library()
    (test, value), *others = cases
    chain = alt.when(test).then(alt.value(value))
    for test, value in others:
        chain = chain.when(test).then(alt.value(value))
    return chain.otherwise(alt.value(otherwise))


def _once(text: str, x: Any, y: Any, align: str, baseline: str) -> Any:
    """A text that a signal gives, at a place in pixels."""
    alt = library()
    mark = alt.Chart(alt.InlineData(values=[{}])).mark_text(align=align, baseline=baseline, fontSize=13)
    return mark.encode(x=alt.value(x), y=alt.value(y), text=_paint(text), color=_paint("ink"))


def _wide(*layers: Any, height: Any, above: int = 8) -> Any:
    """Layers as wide as there is room, what they measure said above them: it takes no width from the chart."""
    heading = _once("heading", 0, -above, "left", "bottom")
    return library().layer(*layers, heading).properties(width="container", height=height)


def _stands_out(field: str) -> str:
    """Whether a row, or with `value` the label of an axis, is one of those that stand out."""
    return f"indexof(highlight, datum.{field}) >= 0"


def _of_names(**more: Any) -> Any:
    """An axis of names, a row each; those that stand out are bold and in colour."""
    test = _stands_out("value")
    colour = {"condition": {"test": test, "expr": "cool"}, "expr": "faint"}
    weight = _where(test, "bold", "normal")
    return library().Axis(ticks=False, domain=False, labelColor=colour, labelFontWeight=weight, **more)


def _whiskers(rows: Any, low: Any, high: Any, **look: Any) -> tuple[Any, ...]:
    """Intervals from channel to channel of the same axis, with caps that show where they end."""
    (axis,) = {"X": "x", "Y": "y"}[type(low).__name__]
    cap = {"orient": "vertical" if axis == "x" else "horizontal", "size": 8, "thickness": 1.4, "opacity": 1}
    caps = [rows.mark_tick(**cap).encode(**{axis: one}) for one in ("low:Q", "high:Q")]
    return (rows.mark_rule(strokeCap="round", **look).encode(low, high), *caps)


def cost_start(seconds: Sequence[float]) -> float:
    """Where the axis of costs starts, below the cheapest pass: there stands what passes through no network."""
    passes = [one for one in seconds if one > LEAST_COST]
    return min(passes) / 1.6 if passes else LEAST_COST


def _across() -> Any:
    """The title of the horizontal axis, where a signal gives it."""
    return _once("across", "width", signal("height + 26"), "right", "top")


def _spread(**more: Any) -> Any:
    """An axis whose labels keep apart."""
    return library().Axis(grid=False, labelOverlap="greedy", labelSeparation=10, **more)


def scatter(axis: str) -> Any:
    """Score against accuracy, the best-scored architectures marked (Entropic Score, Figure 2).

    Data `points`: score, accuracy, mark, the marked ones last. `limits`: least, the accuracy that the most accurate
    architectures reach, and its name. Signals: `across`, what the horizontal axis shows, and `unit`, where the axis
    `symlog` turns from linear to logarithmic.
    """
    alt = library()
    scale = {
        "linear": alt.Scale(zero=False), "log": alt.Scale(type="log"), "rank": alt.Scale(nice=False, reverse=True),
        "symlog": alt.Scale(type="symlog", nice=False, constant=signal("unit")),
    }[axis]  # fmt: skip
    scale.padding = 6
    number = "abs(datum.value) >= 1e6 ? replace(format(datum.value, '.3~e'), '+', '') : format(datum.value, ',.4~r')"
    dots = _data("points").mark_circle().encode(
        alt.X("score:Q", scale=scale, title=None, axis=_spread(labelExpr=number, tickCount=6)),
        alt.Y("accuracy:Q", scale=alt.Scale(zero=False, padding=4), title=None, axis=alt.Axis(tickCount=6)),
        color=_where("datum.mark", signal("length(highlight) ? cool : accent"), signal("dot")),
        size=_where("datum.mark", 26, 16),
        opacity=_where("datum.mark", 0.9, 0.6),
    )  # fmt: skip
    limit = _data("limits").encode(y="least:Q", color=_paint("cool"))
    name = limit.mark_text(align="left", baseline="bottom", dy=-3, dx=2, fontSize=12)
    return _wide(
        dots.properties(name="dots"),
        limit.mark_rule(strokeDash=[5, 4], strokeWidth=1.2),
        name.encode(x=alt.value(0), text="name:N"),
        _across(),
        height=340,
    )


def _front(chart: Any) -> Any:
    """A chart whose rows say whether they are in the `front`: none has a cost as low and more `gain`."""
    alt = library()
    order = [alt.SortField("cost"), alt.SortField("gain", order="descending")]
    best = chart.transform_window(best="max(gain)", frame=[None, 0], ignorePeers=True, sort=order)
    before = best.transform_window(before="lag(best)", sort=order)
    return before.transform_calculate(front="!isValid(datum.before) || datum.gain > datum.before")


def cost() -> Any:
    """A metric against seconds an architecture, with intervals, names, and the front that none is cheaper and better.

    Data `points`: name, seconds, value, low, high. Signals: `better`, higher or lower, and `start` as `cost_start` has
    it.
    """
    alt = library()
    gain = "better === 'lower' ? -datum.value : datum.value"
    ticks = signal(f"[start, {', '.join(f'{step:g}' for step in _STEPS)}]")
    axis = _spread(values=ticks, labelExpr=_SECONDS, tickOpacity=_where("datum.value < start", 0, 1))
    points = _front(_data("points").transform_calculate(cost="max(datum.seconds, start)", gain=gain)).encode(
        alt.X("cost:Q", scale=alt.Scale(type="log", nice=False, padding=40), title="time for one architecture, at most",
              axis=axis),
        alt.Y("value:Q", scale=alt.Scale(zero=False), title=None, axis=alt.Axis(tickCount=7)),
        color=_first(
            (_stands_out("name"), signal("cool")), ("datum.front", signal("accent")), otherwise=signal("dot")
        ),
    )  # fmt: skip
    front = points.transform_filter("datum.front")
    # Besides each name, rows without a text, which labels keep clear of: eight of its whisker, sixty of the front.
    labels = (
        points.transform_window(next="lead(cost)", groupby=["front"], sort=[alt.SortField("cost")])
        .transform_calculate(spot="sequence(0, datum.front && isValid(datum.next) ? 69 : 9)")
        .transform_flatten(["spot"])
        .transform_calculate(
            text="datum.spot === 0 ? datum.name : ''",
            rank=f"(datum.spot ? 1e6 : 0) + ({_stands_out('name')} ? -1e3 : datum.front ? 0 : 1e3) - datum.gain",
            at="datum.spot % 9 && datum.spot < 9 ? lerp([datum.low, datum.high], (datum.spot - 1) / 7) : datum.value",
            cost="datum.spot < 9 ? datum.cost : datum.cost * pow(datum.next / datum.cost, (datum.spot - 8) / 61)",
        )
    )
    return _wide(
        front.mark_line(interpolate="step-after", strokeDash=[5, 4], strokeWidth=1.3).encode(
            color=_paint("accent"), order="cost:Q"
        ),
        *_whiskers(points, alt.Y("low:Q"), alt.Y2("high:Q"), strokeWidth=1.8, opacity=0.75),
        points.mark_circle(opacity=1, strokeWidth=0.8)
        .encode(stroke=_paint("ground"), size=_where(_stands_out("name"), 80, 36))
        .properties(name="dots"),
        labels.mark_text(fontSize=11)
        .encode(y="at:Q", text="text:N", color=_where(_stands_out("name"), signal("cool"), signal("ink")))
        .properties(name="labels"),
        height=480,
    )


def _named(field: str, colours: Sequence[Any], dashes: Sequence[list[int]], **legend: Any) -> tuple[Any, Any]:
    """Colours and dashes of the lines that the signal `names` lists, with their legend."""
    alt = library()
    shown = alt.Legend(
        orient="bottom", title=None, symbolType="stroke", symbolStrokeWidth=3, symbolOpacity=1, symbolSize=200, **legend
    )
    hue, dash = (alt.Scale(domain=signal("names"), range=list(one)) for one in (colours, dashes))
    return alt.Color(field, scale=hue, legend=shown), alt.StrokeDash(field, scale=dash, legend=shown)


def ndcg() -> Any:
    """nDCG_P over the cut-off P.

    Data `curves`: name, P, value, series, those on top last. Signal `names`: the series, a random order first; a line
    of none is grey.
    """
    alt = library()
    hues = [signal("faint"), signal("cool"), *COLOURS[1:]]
    colour, dash = _named("series:N", hues, [[2, 3], *[[1, 0]] * len(COLOURS)], columns=4)
    lines = _data("curves").mark_line().encode(
        alt.X("P:Q", scale=alt.Scale(type="log", nice=False), title="P, best-scored architectures",
              axis=_spread(values=_STEPS, format=",")),
        alt.Y("value:Q", scale=alt.Scale(domain=[0, 1]), title=None, axis=alt.Axis(tickCount=6)),
        detail="name:N",
        color=alt.condition("isValid(datum.series)", colour, _paint("dot")),
        strokeDash=alt.condition("isValid(datum.series)", dash, alt.value([1, 0])),
        strokeWidth=_first((_stands_out("name"), 4), ("isValid(datum.series)", 2.2), otherwise=0.7),
    )  # fmt: skip
    return _wide(lines, height=340)


def _rows(series: str, title: str, colours: Sequence[str]) -> tuple[Any, Any, Any]:
    """Points of several series, a row a name, in the order of the data `rows`: the chart, and channels x and x2."""
    alt = library()
    legend = alt.Legend(title=title, direction="horizontal", offset=34, orient="top")
    rows = _data("rows").encode(
        alt.Y("name:N", sort=None, title=None, axis=_of_names(grid=True, labelPadding=8)),
        color=alt.Color(series, sort=None, scale=alt.Scale(range=list(colours)), legend=legend),
    )
    x = alt.X("low:Q", title=None, axis=alt.Axis(tickCount=8, orient="top"), scale=alt.Scale(zero=False))
    return rows, x, alt.X2("high:Q")


def bands() -> Any:
    """A metric among all and among the most accurate architectures alone. Data `rows`: name, band, value, low, high."""
    alt = library()
    rows, *ends = _rows("band:N", "most accurate", COLOURS[:3])
    rows = rows.encode(yOffset=alt.YOffset("band:N", sort=None, scale=alt.Scale(paddingOuter=0.5)))
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeWidth=1)
    shape = alt.Shape("band:N", sort=None, legend=None)
    return _wide(
        zero.encode(alt.X("zero:Q"), color=_paint("faint")),
        *_whiskers(rows, *ends, strokeWidth=1.8, opacity=0.7),
        rows.mark_point(filled=True, size=42, opacity=1).encode(x="value:Q", shape=shape),
        height=alt.Step(24, **{"for": "position"}),
        above=24,
    )


def seeds() -> Any:
    """A metric under each seed. Data `rows`: name, seed, value, and low and high of the seeds of that name."""
    rows, *ends = _rows("seed:N", "seed", COLOURS)
    return _wide(
        rows.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.3).encode(*ends, color=_paint("dot")),
        rows.mark_circle(size=46, opacity=0.9).encode(x="value:Q"),
        height=library().Step(22),
        above=24,
    )


def differences() -> Any:
    """By how much one proxy exceeds each of the others, a row each, with intervals.

    Data `rows`: name, value, low, high, and side: 1 where it is apart from 0 and the named one is better, -1 where it
    is worse, 0 where it is not apart.
    """
    alt = library()
    sides = (("datum.side > 0", signal("cool")), ("datum.side < 0", signal("accent")))
    colour = _first(*sides, otherwise=signal("dot"))
    rows = _data("rows").encode(
        alt.Y("name:N", sort=None, title=None, axis=_of_names(grid=True, labelPadding=8)),
        color=colour,
    )
    ends = alt.X("low:Q", title=None, axis=alt.Axis(tickCount=8, orient="top"), scale=alt.Scale(zero=True))
    zero = alt.Chart(alt.InlineData(values=[{"zero": 0}])).mark_rule(strokeWidth=1.2)
    return _wide(
        zero.encode(alt.X("zero:Q"), color=_paint("faint")),
        *_whiskers(rows, ends, alt.X2("high:Q"), strokeWidth=2, opacity=0.8),
        rows.mark_circle(size=46, opacity=1).encode(x="value:Q").properties(name="dots"),
        height=alt.Step(20),
        above=24,
    )


def matrix() -> Any:
    """Rank correlations of scores, a square each. Data `cells`: row, column, rho, text, in the order of both."""
    alt = library()
    cells = _data("cells").encode(
        alt.X("column:N", sort=None, title=None, axis=_of_names(orient="top", labelAngle=-60)),
        alt.Y("row:N", sort=None, title=None, axis=_of_names()),
    )
    scale = alt.Scale(domain=[-1, 1], range=["#2166ac", "#f7f7f7", "#b2182b"], interpolate="lab")
    numbers = cells.mark_text(fontSize=8.5).encode(text="text:N")
    return alt.layer(
        cells.mark_rect().encode(color=alt.Color("rho:Q", scale=scale, legend=None)),
        numbers.encode(color=_where("abs(datum.rho) > 0.6", "#ffffff", SHADES["ink"])),
    ).properties(width=alt.Step(20), height=alt.Step(20))


def published() -> Any:
    """Our figures against those that papers print, one point per figure, with the diagonal on which they are equal.

    Data `points`: printed, ours, low, high, paper, proxy, the last ones on top. Signal `names` of the papers, which
    take colours and shapes in turn; figures of a proxy that stands out have a ring.
    """
    alt = library()
    shapes = ["circle", "square", "triangle-up", "diamond"]
    repeated = [(colour, shape) for shape in shapes for colour in COLOURS]
    colours = alt.Scale(domain=signal("names"), range=[colour for colour, _ in repeated])
    forms = alt.Scale(domain=signal("names"), range=[shape for _, shape in repeated])
    legend = alt.Legend(
        orient="bottom", title=None, columns=2, labelLimit=230, labelFontSize=10, columnPadding=24, symbolOpacity=1
    )
    ends = alt.Chart(alt.InlineData(values=[{"at": -1}, {"at": 1}]))
    x = alt.X("printed:Q", scale=alt.Scale(domain=[-1, 1]), title="printed", axis=alt.Axis(tickCount=8))
    y = alt.Y("ours:Q", scale=alt.Scale(domain=[-1, 1]), title=None, axis=alt.Axis(tickCount=8))
    points = _data("points").encode(x, color=alt.Color("paper:N", scale=colours, legend=legend))
    return _wide(
        ends.mark_line(strokeDash=[5, 4], strokeWidth=1).encode(
            alt.X("at:Q"), alt.Y("at:Q"), color=alt.value(signal("faint"))
        ),
        points.mark_rule(strokeWidth=0.8, opacity=0.35).encode(alt.Y("low:Q", title=None), alt.Y2("high:Q")),
        points.mark_point(filled=True, size=34, opacity=0.75).encode(
            y, shape=alt.Shape("paper:N", scale=forms, legend=legend)
        ),
        points.transform_filter(_stands_out("proxy"))
        .mark_point(size=150, strokeWidth=1.8, opacity=1)
        .encode(y, color=_paint("ink")),
        height=520,
    )


def trajectories() -> Any:
    """The accuracy that searches hold, a line and its band a search.

    Data `points`: search, at, accuracy, low, high. Signals: `across`, what `at` counts, and `names` of the searches.
    """
    alt = library()
    looks = [(colour, dash) for dash in ([1, 0], [6, 3], [2, 2], [8, 3, 2, 3]) for colour in COLOURS]
    colour, dash = _named("search:N", *zip(*looks, strict=True), columns=2, labelLimit=340, offset=30)
    x = alt.X("at:Q", scale=alt.Scale(type="log", nice=False), title=None, axis=_spread(format="~g", tickCount=6))
    points = _data("points").encode(x, color=colour)
    low = alt.Y("low:Q", scale=alt.Scale(zero=False), title=None)
    return _wide(
        points.mark_area(opacity=0.15).encode(low, alt.Y2("high:Q")),
        points.mark_line(strokeWidth=1.6).encode(y="accuracy:Q", strokeDash=dash),
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
        line = front.encode(color=_paint("accent"), order="cost:Q").properties(name="front")
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
        dots = _data("history").mark_circle(size=14, opacity=0.7).encode(x, y, color=_paint("cool"))
        starts = _data("starts").mark_rule().encode(x, color=_paint("dot"))
        layers = [starts, dots]
        if not panels:
            names = _data("starts").mark_text(align="left", baseline="bottom", angle=330, fontSize=11)
            layers.append(names.encode(x, y=alt.value(-4), text="phase:N", color=_paint("faint")))
        panels.append(alt.layer(*layers).properties(width=660, height=130))
    return alt.vconcat(*panels).resolve_scale(x="shared")
