"""Prints the table of `docs/any_network.md`: `python -m tests.any_network [NAME …]`."""

from __future__ import annotations

import sys

from tests.any_network.table import KINDS, SPECS, row


def main() -> int:
    """1 where a cell is wrong."""
    chosen = [name for name in KINDS if not sys.argv[1:] or any(text in name for text in sys.argv[1:])]
    marks: dict[str, str] = {}
    lines, wrong = [], []
    for name in chosen:
        cells = row(name)
        for spec, cell in cells.items():
            if cell.verdict == "wrong":
                wrong.append(f"{name}, {spec}: {cell.text}")
            if cell.verdict == "reason":
                marks.setdefault(cell.text, chr(ord("a") + len(marks)))
        texts = [
            "=" if c.verdict == "value" else "WRONG" if c.verdict == "wrong" else marks[c.text] for c in cells.values()
        ]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    print("| network | " + " | ".join(f"{i + 1}" for i in range(len(SPECS))) + " |")
    print("|---" * (len(SPECS) + 1) + "|")
    print("\n".join(lines))
    print("\n" + ", ".join(f"{i + 1} {spec}" for i, spec in enumerate(SPECS)) + "\n")
    print("\n".join(f"- {mark}: {text}" for text, mark in marks.items()))
    print("\n".join(wrong), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
