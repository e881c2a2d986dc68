"""docs/reference.md: what `import harness` gives, from signatures and docstrings.

python -m harness.cli.reference > docs/reference.md
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import harness

#: Names that stand in the text of a section of a docstring at its head.
_SECTIONS = ("Args", "Returns", "Raises", "Attributes", "Yields")


def text() -> str:
    """The whole page."""
    parts = [
        "# Reference",
        "What `import harness` gives. This page is made of the docstrings by `python -m harness.cli.reference`.",
    ]
    things = [(name, getattr(harness, name)) for name in harness.__all__]
    functions = [one for one in things if not inspect.isclass(one[1])]
    classes = [one for one in things if inspect.isclass(one[1])]
    parts += ["## Functions", *(_entry(*one) for one in functions), "## Classes", *(_entry(*one) for one in classes)]
    return "\n\n".join(parts) + "\n"


def _entry(name: str, thing: Any) -> str:
    parts = [f"### {name}"]
    if not inspect.isclass(thing):
        parts.append(f"```text\n{_signature(name, thing)}\n```")
    parts.append(_marked(inspect.getdoc(thing) or ""))
    if inspect.isclass(thing) and not issubclass(thing, Exception):
        for member, value in vars(thing).items():
            shown = not member.startswith("_") and (inspect.isfunction(value) or isinstance(value, property))
            doc = inspect.getdoc(value) if shown else ""
            if doc:
                call = member if isinstance(value, property) else _signature(member, value)
                call = re.sub(r"\(self(?:, )?", "(", call.replace("\n    self,", ""))
                parts.append(
                    f"`{name}.{' '.join(call.split()).replace('( ', '(').replace(', )', ')')}`\n\n{_marked(doc)}"
                )
    return "\n\n".join(parts)


def _signature(name: str, function: Any) -> str:
    """One line, or a parameter a line where that is too long; without `self`."""
    found = inspect.signature(function)
    parameters = [_parameter(one) for one in found.parameters.values() if one.name != "self"]
    empty = found.return_annotation is inspect.Signature.empty
    returned = "" if empty else f" -> {_annotation(found.return_annotation)}"
    line = f"{name}({', '.join(parameters)}){returned}"
    if len(line) <= 100:
        return line
    return f"{name}(\n" + "".join(f"    {one},\n" for one in parameters) + f"){returned}"


def _parameter(one: inspect.Parameter) -> str:
    """A parameter with its type and default."""
    kind = "" if one.annotation is inspect.Parameter.empty else f": {_annotation(one.annotation)}"
    default = "" if one.default is inspect.Parameter.empty else f"{' = ' if kind else '='}{one.default!r}"
    return f"{one.name}{kind}{default}"


def _annotation(given: Any) -> str:
    return given if isinstance(given, str) else getattr(given, "__name__", str(given))


def _marked(doc: str) -> str:
    """A docstring as Markdown: its sections as lists."""
    parts, section = [], ""
    for block in re.split(r"\n\s*\n", doc):
        head, _, rest = block.partition("\n")
        if head.rstrip(":") in _SECTIONS and head.endswith(":"):
            section = head.rstrip(":")
            parts.append(f"**{section}**\n\n{_items(textwrap.dedent(rest), section)}")
        else:
            parts.append(block)
    return "\n\n".join(parts)


def _items(text: str, section: str) -> str:
    """The entries of a section, `name: what it is`, as a list; a text that is none as it stands."""
    if section in ("Returns", "Yields"):
        return " ".join(text.split())
    items: list[str] = []
    for line in text.splitlines():
        if line.startswith(" ") and items:
            items[-1] += f" {line.strip()}"
        else:
            items.append(line.strip())
    return "\n".join(re.sub(r"^- ([\w, ]+): ", r"- `\1`: ", f"- {item}") for item in items if item)


if __name__ == "__main__":
    print(text(), end="")
