"""A comparison as it is read: a table of pandas, text for a terminal, a sheet for Markdown and LaTeX, JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from harness.comparison.field import Comparison, Difference, Row
from harness.comparison.matrix import Matrix
from harness.correlation import Estimate
from harness.paths import OUTPUT
from harness.tables.cells import digits_of, metric_title
from harness.tables.sheet import Section, Sheet

if TYPE_CHECKING:
    import pandas as pd

#: Marks a difference that lies apart from 0 after the correction for all comparisons.
APART = "*"
#: Marks the rows of the named ones in a terminal.
NAMED = ">"


# Words ---------------------------------------------------------------------------------------------------------


def protocol(found: Comparison) -> dict[str, Any]:
    """What every figure of a comparison is about."""
    where = found.place
    return {
        "benchmark": where.benchmark.name,
        "dataset": where.block.dataset,
        "target": where.block.figure.name,
        "population": found.population,
        "n": found.n,
        "seed": where.seed,
        "P": next((int(name[5:]) for name in found.metrics if name.startswith("ndcg_")), None),
        "resamples": found.resamples,
    }


def protocol_text(found: Comparison) -> str:
    """The protocol in a sentence."""
    facts = protocol(found)
    figure = found.place.block.figure
    lower = "" if figure.higher_is_better else f"; of {figure.name}, {figure.kind} in {figure.unit}, lower is better"
    gain = f"; nDCG over the {facts['P']:,} best-scored" if facts["P"] else ""
    return (
        f"{found.name}, {facts['target']}; population {facts['population']}, n = {facts['n']:,}; seed {facts['seed']}"
        f"{gain}; 95% intervals of {facts['resamples']:,} bootstrap resamples of the architectures{lower}"
    )


def correction_text(found: Comparison) -> str:
    """What the mark beside a difference means."""
    count = sum(found.metric in by_metric for row in found.rows for by_metric in row.differences.values())
    return (
        f"{APART} apart from 0 also after the correction for all {count} differences (max-|t| over paired resamples, "
        "5% for the family); intervals in brackets are of each difference alone"
    )


class Next(NamedTuple):
    """What to do next: what for, and the command."""

    why: str
    command: str

    def __str__(self) -> str:
        return f"{self.why}: {self.command}"


def next_step(found: Comparison | Matrix, output: str | None = None) -> Next:
    """What to do after a comparison: more architectures, the table as files, every dataset, a guard on the claims."""
    several = isinstance(found, Matrix)
    command = f"harness compare {' '.join(map(_quoted, found.named.values()))}{_asked(found)}"
    for one in found.comparisons if several else (found,):
        if one.larger:
            return Next("more architectures", f'{_at(command, one)} "population={one.larger[-1]}"')
    if output is None:
        where = f"{command} benchmark=all" if several else f'{_at(command, found)} "population={found.population}"'
        return Next("as files, with charts", f"{where} output={OUTPUT}/comparison")
    if not several:
        return Next("other datasets", f"{command} benchmark=all")
    first = next(iter(found.named.values()))
    return Next("a guard on what you claim", f'harness verify --proxy {_quoted(first)} --expect "tau>tau(naswot)"')


def _asked(found: Comparison | Matrix) -> str:
    """The settings that say what was compared, where they are not the defaults: the next command asks the same."""
    one = found.comparisons[0] if isinstance(found, Matrix) else found
    target = one.place.block.target
    return "".join(
        (
            "" if one.place.benchmark.is_default(target) else f" target={target}",
            f" metric={one.metric}" if one.metric != "kendall" else "",
            f" seed={one.place.seed}" if one.place.seed else "",
            f' "against=[{",".join(one.against)}]"' if one.against else "",
        )
    )


def _at(command: str, one: Comparison) -> str:
    return f"{command} benchmark={one.place.benchmark.name} dataset={one.place.block.dataset}"


def absent_text(found: Comparison) -> str:
    """Who has no row, by the reason."""
    reasons: dict[str, list[str]] = {}
    for name, why in found.absent.items():
        reasons.setdefault(why, []).append(name)
    return "; ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())


def _quoted(text: str) -> str:
    return f'"{text}"' if any(mark in text for mark in "(), ") else text


def figure(one: Estimate, digits: int = 3, interval: bool = True) -> str:
    """A value with its interval."""
    if math.isnan(one.value):
        return "undefined"
    ends = f" [{one.low:.{digits}f}, {one.high:.{digits}f}]" if interval and not math.isnan(one.low) else ""
    return f"{one.value:.{digits}f}{ends}"


def difference(one: Difference | None) -> str:
    """A difference with its interval, and whether it lies apart from 0."""
    if one is None:
        return "–"
    ends = "" if math.isnan(one.low) else f" [{one.low:+.3f}, {one.high:+.3f}]"
    return f"{one.value:+.3f}{ends}{APART if one.significant else ''}"


def heading(found: Comparison, own: str) -> str:
    """Head of the column of differences of a named one."""
    return f"{own} minus it"


def seconds(value: float) -> str:
    """A time of one architecture."""
    return "–" if math.isnan(value) else f"{value:.3f}"


# For Python ----------------------------------------------------------------------------------------------------


def to_frame(found: Comparison) -> pd.DataFrame:
    """One row per contestant, best first; `attrs`: the protocol, the reasons of absence, the notes, the next step."""
    import pandas as pd

    frame = pd.DataFrame([_flat(found, row) for row in found.rows]).set_index("proxy")
    frame.attrs = {
        **protocol(found),
        "metric": found.metric,
        "named": list(found.named),
        "absent": dict(found.absent),
        "notes": {row.label: list(row.notes) for row in found.rows if row.notes},
        "next": next_step(found).command,
    }
    return frame


def _flat(found: Comparison, row: Row) -> dict[str, Any]:
    flat: dict[str, Any] = {
        "proxy": row.label,
        "rank": math.nan if row.rank is None else row.rank,
        "group": row.group,
        "named": row.named,
        "kind": row.kind,
        "n": row.n,
        "failed": row.failed,
    }
    for name in found.metrics:
        one = row.estimates[name]
        flat |= {name: one.value, f"{name}_low": one.low, f"{name}_high": one.high}
    for own in found.named:
        tag = "" if len(found.named) == 1 else f" of {own}"
        for name in found.metrics:
            one = row.differences.get(own, {}).get(name)
            flat |= {
                f"difference_{name}{tag}": math.nan if one is None else one.value,
                f"difference_{name}_low{tag}": math.nan if one is None else one.low,
                f"difference_{name}_high{tag}": math.nan if one is None else one.high,
                f"significant_{name}{tag}": one is not None and one.significant,
            }
    return {**flat, "seconds": row.seconds, "inputs": row.inputs}


def matrix_frame(found: Matrix) -> pd.DataFrame:
    """One row per contestant, its main metric on each place, and its mean rank; best mean rank first."""
    import pandas as pd

    rows = [
        {"proxy": label, "mean_rank": found.mean_ranks.get(label, math.nan), "named": label in found.named}
        | {one.name: found.value(one, label) for one in found.comparisons}
        for label in found.order
    ]
    frame = pd.DataFrame(rows).set_index("proxy")
    frame.attrs = {
        "metric": found.metric,
        "named": list(found.named),
        "ranked": len(found.mean_ranks),
        "places": {one.name: protocol(one) for one in found.comparisons},
        "left_out": dict(found.left_out),
    }
    return frame


def to_json(found: Comparison | Matrix, then: Next) -> str:
    """All figures with the protocol; null where one is undefined."""
    if isinstance(found, Matrix):
        content = {
            "metric": found.metric,
            "named": dict(found.named),
            "mean_ranks": dict(found.mean_ranks),
            "left_out": dict(found.left_out),
            "comparisons": [_content(one) for one in found.comparisons],
        }
    else:
        content = _content(found)
    return json.dumps(_finite(content | {"next": then.command}), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def _content(found: Comparison) -> dict[str, Any]:
    return {
        "protocol": protocol(found),
        "metric": found.metric,
        "named": dict(found.named),
        "rows": [
            {
                "proxy": row.label,
                "rank": row.rank,
                "group": row.group,
                "kind": row.kind,
                "named": row.named,
                "n": row.n,
                "failed": row.failed,
                "metrics": {
                    name: {"value": e.value, "low": e.low, "high": e.high} for name, e in row.estimates.items()
                },
                "differences": {
                    own: {
                        name: {"value": d.value, "low": d.low, "high": d.high, "significant": d.significant}
                        for name, d in by_metric.items()
                    }
                    for own, by_metric in row.differences.items()
                },
                "seconds": row.seconds,
                "inputs": row.inputs,
                "notes": list(row.notes),
            }
            for row in found.rows
        ],
        "absent": dict(found.absent),
    }


def _finite(content: Any) -> Any:
    if isinstance(content, Mapping):
        return {name: _finite(value) for name, value in content.items()}
    if isinstance(content, (list, tuple)):
        return [_finite(value) for value in content]
    return None if isinstance(content, float) and not math.isfinite(content) else content


# For reading ---------------------------------------------------------------------------------------------------


def header_of(found: Comparison) -> list[str]:
    """Heads of the columns of `cells_of`."""
    first, *others = (metric_title(name) for name in _ordered(found))
    return ["proxy", "rank", first, *(heading(found, own) for own in found.named), "group", *others, "n",
            "seconds, at most"]  # fmt: skip


def _ordered(found: Comparison) -> list[str]:
    """The metrics, that by which all are ranked first."""
    return sorted(found.metrics, key=lambda name: name != found.metric)


def cells_of(found: Comparison, row: Row, interval: bool = True) -> list[str]:
    """A row's cells; of the metrics but the first without intervals where these are not asked for."""
    first, *others = (
        figure(row.estimates[name], digits_of(name), interval or name == found.metric) for name in _ordered(found)
    )
    differences = [difference(row.differences.get(own, {}).get(found.metric)) for own in found.named]
    rank = "–" if row.rank is None else f"{row.rank:g}"
    return [row.label, rank, first, *differences, row.group or "–", *others, f"{row.n:,}", seconds(row.seconds)]


def to_text(found: Comparison, width: int = 200) -> str:
    """The comparison for a terminal of `width` columns: names stand out by `>` at the left."""
    for interval in (True, False):
        lines = [[NAMED if row.named else "", *cells_of(found, row, interval), row.inputs] for row in found.rows]
        aligned = _aligned([["", *header_of(found), "inputs"], *lines])
        if max(map(len, aligned)) <= width:
            break
    said: dict[str, list[str]] = {}
    for row in found.rows:
        for note in row.notes:
            said.setdefault(note, []).append(row.label)
    notes = [f"{', '.join(labels)}: {note}" for note, labels in said.items()]
    absent = absent_text(found)
    return "\n".join(
        [
            protocol_text(found),
            "",
            *aligned,
            "",
            correction_text(found),
            *notes,
            *([f"without a row: {absent}"] if absent else []),
        ]
    )


def _aligned(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of equal width, texts to the left and numbers to the right."""
    columns = list(zip(*lines, strict=True))
    left = {"", "proxy", "group", "inputs", "dataset", "population", "best of all"}
    wide = [max(map(len, column)) for column in columns]
    return [
        "  ".join(
            cell.ljust(size) if head in left else cell.rjust(size)
            for cell, size, head in zip(line, wide, lines[0], strict=True)
        ).rstrip()
        for line in lines
    ]


def matrix_text(found: Matrix, width: int = 200) -> str:
    """The matrix for a terminal of `width` columns; one that is too wide stands on its side, for the named ones."""
    lines = [[NAMED if label in found.named else "", *found.cells(label)] for label in found.order]
    aligned = _aligned([["", *found.header], *lines])
    if max(map(len, aligned)) > width:
        aligned = _aligned(
            [["dataset", "population", "n", *found.named, "best of all"], *map(_side, found.comparisons)]
        )
        means = [f"{label} {rank:.2f}" for label, rank in sorted(found.mean_ranks.items(), key=lambda item: item[1])]
        aligned += ["", f"mean ranks: {', '.join(means)}"]
    left_out = [f"{name}: {why}" for name, why in found.left_out.items()]
    return "\n".join([found.text, "", *aligned, "", *left_out])


def _side(one: Comparison) -> list[str]:
    """A dataset's line: the named ones and the best of those that are ranked."""
    ranked = [row for row in one.rows if row.rank is not None]

    def cell(row: Row) -> str:
        rank = f" ({row.rank:g} of {len(ranked)})" if row.rank is not None else ""
        return f"{figure(row.estimates[one.metric])}{rank}"

    named = [next(row for row in one.rows if row.label == own) for own in one.named]
    best = f"{ranked[0].label} {figure(ranked[0].estimates[one.metric], interval=False)}" if ranked else "–"
    return [one.name, one.population, f"{one.n:,}", *map(cell, named), best]


def to_sheet(found: Comparison | Matrix, then: Next) -> Sheet:
    """The comparison, or the matrix and each of its comparisons, as a sheet: rows of the named ones are bold."""
    names = ", ".join(found.named)
    last = f"Next, {then.why}: `{then.command}`"
    if isinstance(found, Matrix):
        sheet = Sheet(f"{names} and the others on {len(found.comparisons)} datasets", [found.text, last])
        section = Section("All datasets", found.header)
        section.rows = [_bold(found.cells(label), label in found.named) for label in found.order]
        section.text = " ".join(f"{name}: {why}." for name, why in found.left_out.items())
        sheet.sections.append(section)
        parts = found.comparisons
    else:
        sheet, parts = Sheet(f"{names} and the others", [last]), [found]
    for one in parts:
        section = Section(one.name, [*header_of(one), "inputs", "notes"])
        absent = absent_text(one)
        section.text = f"{protocol_text(one)}. {correction_text(one)}."
        section.text += f" Without a row: {absent}." if absent else ""
        for row in one.rows:
            marks = " ".join(sheet.mark(note) for note in row.notes)
            section.rows.append(_bold([*cells_of(one, row), row.inputs, marks], row.named))
        sheet.sections.append(section)
    return sheet


def _bold(cells: Sequence[str], bold: bool) -> list[str]:
    return [f"**{cell}**" if bold and cell else cell for cell in cells]
