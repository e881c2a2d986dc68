"""A table as it is read: one content, written as Markdown, LaTeX (booktabs) and HTML."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

_SPAN = re.compile(r"\*\*(?P<bold>.+?)\*\*|`(?P<code>[^`]+)`")


@dataclass
class Section:
    """Rows under one heading. The first column is text, the others are set to the right; so is `notes`, if last.

    Cells may hold `**bold**` and `` `code` ``.
    """

    heading: str
    header: Sequence[str]
    rows: list[Sequence[str]] = field(default_factory=list)
    text: str = ""

    def left(self, place: int) -> bool:
        """Whether a column is set to the left."""
        return place == 0 or self.header[place] in ("notes", "group", "inputs", "table")


@dataclass
class Sheet:
    """A title, paragraphs, sections, and footnotes numbered from 1 in the order in which they were asked for."""

    title: str
    paragraphs: list[str]
    sections: list[Section] = field(default_factory=list)
    _notes: dict[str, int] = field(default_factory=dict)

    def mark(self, note: str) -> str:
        """The mark of a footnote, which is added where it is new."""
        return f"[{self._notes.setdefault(note, len(self._notes) + 1)}]"

    @property
    def footnotes(self) -> list[tuple[int, str]]:
        return [(number, note) for note, number in self._notes.items()]


def to_markdown(sheet: Sheet) -> str:
    """The sheet as Markdown."""
    lines = [f"# {sheet.title}", ""]
    for paragraph in sheet.paragraphs:
        lines += [paragraph, ""]
    for section in sheet.sections:
        lines += [f"## {section.heading}", ""]
        if section.text:
            lines += [section.text, ""]
        if section.rows:
            lines.append("| " + " | ".join(section.header) + " |")
            lines.append("|" + "|".join("---" if section.left(i) else "--:" for i in range(len(section.header))) + "|")
            lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in section.rows]
            lines.append("")
    lines += [f"[{number}] {note}  " for number, note in sheet.footnotes]
    return "\n".join(lines).rstrip() + "\n"


def _spans(text: str, plain: Callable[[str], str], bold: str, code: str) -> str:
    """Text with its bold and code parts wrapped by the two templates and everything escaped by `plain`."""
    parts, place = [], 0
    for match in _SPAN.finditer(text):
        parts.append(plain(text[place : match.start()]))
        if match["bold"] is not None:
            parts.append(bold.format(plain(match["bold"])))
        else:
            parts.append(code.format(plain(match["code"])))
        place = match.end()
    return "".join([*parts, plain(text[place:])])


_LATEX = {
    "\\": r"\textbackslash{}", "{": r"\{", "}": r"\}", "_": r"\_", "%": r"\%", "&": r"\&", "#": r"\#", "$": r"\$",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "–": "--", "†": r"\dag{}", "±": r"$\pm$", "×": r"$\times$", "≠": r"$\neq$", "…": r"\dots{}",
    '"': r"\textquotedbl{}",
    "[": "{[}", "]": "{]}",
}  # fmt: skip


def _latex(text: str) -> str:
    return _spans(text, lambda part: "".join(_LATEX.get(c, c) for c in part), r"\textbf{{{}}}", r"\texttt{{{}}}")


def to_latex(sheet: Sheet) -> str:
    """The sheet as tables to \\input, which need the packages booktabs and, for `\\textquotedbl`, T1 fonts."""
    lines = [r"% needs \usepackage{booktabs} and \usepackage[T1]{fontenc}"]
    for section in sheet.sections:
        lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{_latex(f'{sheet.title}: {section.heading}')}}}"]
        if section.text:
            lines.append(_latex(section.text) + r"\par")
        if section.rows:
            columns = "".join("l" if section.left(i) else "r" for i in range(len(section.header)))
            lines += [rf"\begin{{tabular}}{{{columns}}}", r"\toprule"]
            lines += [" & ".join(map(_latex, section.header)) + r" \\", r"\midrule"]
            lines += [" & ".join(map(_latex, row)) + r" \\" for row in section.rows]
            lines += [r"\bottomrule", r"\end{tabular}"]
        lines.append(r"\end{table}")
    lines += ["", r"\begin{footnotesize}", r"\noindent"]
    lines += [_latex(" ".join(paragraph.split())) + r"\par" for paragraph in sheet.paragraphs]
    lines += [_latex(f"[{number}] {note}") + r"\par" for number, note in sheet.footnotes]
    lines.append(r"\end{footnotesize}")
    return "\n".join(lines) + "\n"


_STYLE = """\
body { font-family: system-ui, sans-serif; margin: 2rem auto; max-width: 75rem; padding: 0 1rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; font-weight: 600; padding: 0.5rem 0; }
th, td { padding: 0.25rem 0.6rem; border-bottom: 1px solid #ddd; text-align: right; white-space: nowrap; }
th.left, td.left { text-align: left; }
thead th { border-bottom: 2px solid #444; }
tbody th { font-weight: normal; }
code { overflow-wrap: anywhere; }"""


def _html(text: str) -> str:
    return _spans(text, html.escape, "<b>{}</b>", "<code>{}</code>")


def to_html(sheet: Sheet) -> str:
    """The sheet as a page of its own, which loads nothing."""
    lines = ["<!doctype html>", '<html lang="en">', "<head>", '<meta charset="utf-8">']
    lines += ['<meta name="viewport" content="width=device-width, initial-scale=1">']
    lines += [f"<title>{_html(sheet.title)}</title>", f"<style>\n{_STYLE}\n</style>", "</head>", "<body>"]
    lines.append(f"<h1>{_html(sheet.title)}</h1>")
    lines += [f"<p>{_html(paragraph)}</p>" for paragraph in sheet.paragraphs]
    for section in sheet.sections:
        side = [' class="left"' if section.left(i) else "" for i in range(len(section.header))]
        if section.text or not section.rows:
            lines.append(f"<h2>{_html(section.heading)}</h2>")
        if section.text:
            lines.append(f"<p>{_html(section.text)}</p>")
        if not section.rows:
            continue
        lines += ['<div class="wide"><table>', f"<caption>{_html(section.heading)}</caption>", "<thead><tr>"]
        lines += [f'<th scope="col"{side[i]}>{_html(name)}</th>' for i, name in enumerate(section.header)]
        lines.append("</tr></thead><tbody>")
        for first, *others in section.rows:
            cells = "".join(f"<td{side[i]}>{_html(cell)}</td>" for i, cell in enumerate(others, start=1))
            lines.append(f'<tr><th scope="row" class="left">{_html(first)}</th>{cells}</tr>')
        lines.append("</tbody></table></div>")
    if sheet.footnotes:
        lines += [f'<p id="note{number}">[{number}] {_html(note)}</p>' for number, note in sheet.footnotes]
    return "\n".join([*lines, "</body>", "</html>"]) + "\n"


WRITERS: dict[str, Callable[[Sheet], str]] = {"md": to_markdown, "tex": to_latex, "html": to_html}
