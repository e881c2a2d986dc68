"""Prints the table of `docs/any_network.md`: `python -m tests.any_network [TEXT …]`, of kinds whose name has TEXT."""

from __future__ import annotations

import sys

from tests.any_network.table import KINDS, line, row


def main() -> int:
    """1 where a cell is wrong."""
    wrong = 0
    print("| network | values | reasons |\n|---|--:|---|")
    for name in KINDS:
        if sys.argv[1:] and not any(text in name for text in sys.argv[1:]):
            continue
        cells = row(name)
        print(line(name, cells), flush=True)
        for spec, cell in cells.items():
            if cell.verdict == "wrong":
                wrong += 1
                print(f"WRONG: {name}, {spec}: {cell.text}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
