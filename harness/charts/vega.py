"""Charts of files and pages alike: an Altair specification, compiled once, filled with data wherever it is drawn.

`compiled` turns a chart into Vega. vl-convert draws it to SVG, PNG and PDF (`save`), Vega-Embed draws it in a browser
(`library`), both with the same data sets and signals. Altair and vl-convert are the extra `plot`, imported when a
chart is asked for.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError
from harness.paths import cache_file

if TYPE_CHECKING:
    import altair as alt

#: Okabe and Ito's colours, told apart with any colour vision; yellow is left out, too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")

#: Signals of every chart, as they are on paper. A page sets them to the colours of its style sheet, light or dark.
SHADES = {
    "ground": "#ffffff", "ink": "#1c2128", "faint": "#59636e", "line": "#e1e5ea",
    "dot": "#8b96a3", "accent": "#d55e00", "cool": "#0072b2",
}  # fmt: skip

#: Shipped inside vl-convert, so that text is as wide on every machine; Arial and Helvetica have its widths.
FONT = "Liberation Sans, Arial, Helvetica, sans-serif"

FORMATS = ("svg", "png", "pdf")

#: Where a label is tried around its point, with the distance in pixels: beside it only where it is near.
_ANCHORS = ("right", "left", "top", "bottom", "top-right", "bottom-right", "top-left", "bottom-left")
_PLACES = [(side, near) for near in (6, 12) for side in _ANCHORS]
_PLACES += [(side, far) for far in (20, 30, 42, 56, 72) for side in _ANCHORS[2:]]


def library() -> Any:
    """Altair, once all of the extra `plot` is there.

    Raises:
        HarnessError: a part of it is not installed.
    """
    try:
        import altair
        import jinja2  # noqa: F401
        import vl_convert  # noqa: F401
    except ImportError as error:
        raise HarnessError(f"charts need {error.name}: pip install 'nas-proxy-harness[plot]'") from error
    return altair


def signal(name: str) -> alt.ExprRef:
    """The value of a signal, such as one of the `SHADES`."""
    return library().ExprRef(name)


def compiled(chart: Any, signals: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """A chart as Vega, in the harness's style.

    Args:
        chart: of Altair; as wide as its container unless it sets a width. A text layer named `labels` is placed so
            that no label covers a point or another label.
        signals: further ones, with their values until `filled`.
    """
    import vl_convert

    alt = library()
    params = [alt.param(name=name, value=value) for name, value in {**SHADES, **(signals or {})}.items()]
    text = {"labelColor": signal("faint"), "titleColor": signal("ink"), "labelFontSize": 12, "titleFontSize": 13}
    styled = chart.add_params(*params).configure(
        background=signal("ground"),
        font=FONT,
        padding=12,
        autosize=alt.AutoSizeParams(type="fit-x", contains="padding") if _is_single(chart) else alt.Undefined,
        view=alt.ViewConfig(stroke=None),
        axis=alt.AxisConfig(
            **text, titleFontWeight="normal", gridColor=signal("line"), domainColor=signal("faint"), titlePadding=8,
            tickColor=signal("faint"), labelLimit=220, titleLimit=0,
        ),
        legend=alt.LegendConfig(**text, titleFontWeight="bold", labelLimit=260),
        mark=alt.MarkConfig(aria=False, tooltip=False),
    )  # fmt: skip
    spec = vl_convert.vegalite_to_vega(styled.to_dict())
    del spec["$schema"]  # an address, which nothing asks for
    _place_labels(spec["marks"])
    return spec


def _is_single(chart: Any) -> bool:
    return not any(hasattr(chart, parts) for parts in ("hconcat", "vconcat", "concat"))


def _place_labels(marks: list[dict[str, Any]]) -> None:
    """Vega places labels, which Vega-Lite cannot ask for: by `rank`, each at the first place that is free, if any.

    A line leads from a label that had to go far to its point. The rows without text are in the way of labels.
    """
    for place, mark in enumerate(marks):
        if mark["name"] == "labels_marks":
            x, y = (mark["encode"]["update"][channel] for channel in "xy")
            mark["transform"] = [
                {
                    "type": "label",
                    "size": {"signal": "[width, height]"},
                    "sort": {"field": "datum.rank"},
                    "anchor": [side for side, _ in _PLACES],
                    "offset": [distance for _, distance in _PLACES],
                }
            ]
            start = {"x": {"field": "x"}, "y": {"field": "y"}}
            ends = (("x", x), ("y", y))
            end = {f"{c}2": {**one, "field": f"datum.{one['field']}"} for c, one in ends}
            gap = " + ".join(f"abs(datum.{c} - scale('{c}', datum.datum.{one['field']}))" for c, one in ends)
            shown = {"signal": f"datum.opacity && datum.text && {gap} > 18 ? 0.8 : 0"}
            line = {"stroke": {"signal": "dot"}, "strokeWidth": {"value": 0.7}, "opacity": shown}
            update = {**start, **end, **line}
            leader = {"type": "rule", "from": {"data": mark["name"]}, "encode": {"update": update}}
            marks.insert(place + 1, leader)
            return


def filled(
    spec: Mapping[str, Any],
    data: Mapping[str, Sequence[Mapping[str, Any]]],
    signals: Mapping[str, Any],
    width: int,
    title: str,
    *lines: str,
) -> dict[str, Any]:
    """A compiled chart with the rows of its data sets, the values of its signals, and a title, for `save`."""
    known = {"width": width, **signals}
    return {
        **spec,
        "data": [{**one, "values": data[one["name"]]} if one["name"] in data else one for one in spec["data"]],
        "signals": [
            {"name": one["name"], "value": known[one["name"]]} if one["name"] in known else one
            for one in spec["signals"]
        ],
        "title": {
            "text": title, "subtitle": list(lines), "anchor": "start", "frame": "bounds", "offset": 14,
            "fontSize": 15, "subtitleFontSize": 12, "subtitlePadding": 5, "subtitleLineHeight": 15,
            "color": SHADES["ink"], "subtitleColor": SHADES["faint"], "limit": width - 30,
        },
    }  # fmt: skip


def save(spec: Mapping[str, Any], stem: Path, formats: Sequence[str]) -> list[Path]:
    """Draw a specification of Vega to `stem` with each of the `FORMATS`. Equal specifications are equal bytes."""
    import vl_convert

    svg = vl_convert.vega_to_svg(spec)
    paths = []
    for form in formats:
        path = stem.with_name(f"{stem.name}.{form}")
        if form == "svg":
            path.write_text(svg, encoding="utf-8", newline="\n")
        else:
            path.write_bytes(vl_convert.svg_to_png(svg, scale=2) if form == "png" else vl_convert.svg_to_pdf(svg))
        paths.append(path)
    return paths


def bundle() -> str:
    """Vega-Embed with Vega as one script, which vl-convert ships: `window.vegaEmbed` draws what `compiled` returns.

    To put it together takes two seconds: it is kept in the user's cache folder, for this version of vl-convert.
    """
    import vl_convert

    parts = f"Vega {vl_convert.get_vega_version()}, Vega-Embed {vl_convert.get_vega_embed_version()}"
    licence = f"/* {parts}: Copyright University of Washington Interactive Data Lab, BSD-3-Clause */"
    kept = cache_file("auto", f"vega-{vl_convert.__version__}.js")
    with contextlib.suppress(OSError, UnicodeError):
        script = kept.read_text(encoding="utf-8")
        if script.startswith(licence) and script.endswith(_END):
            return script
    script = f"{licence}\n(() => {{\n{vl_convert.javascript_bundle('window.vegaEmbed = vegaEmbed;')}{_END}"
    with contextlib.suppress(OSError):  # a folder that cannot be written costs the next page its time, nothing else
        kept.parent.mkdir(parents=True, exist_ok=True)
        whole = kept.with_name(f".{kept.name}.{uuid.uuid4().hex[:8]}.writing")
        whole.write_text(script, encoding="utf-8")
        whole.replace(kept)
    return script


#: How the script ends.
_END = "\n})();\n"


def shared() -> dict[str, str]:
    """What every page has, by file name: its style, and the script that draws charts and makes their points speak."""
    return {name: Path(__file__).with_name(name).read_text(encoding="utf-8") for name in ("style.css", "draw.js")}
