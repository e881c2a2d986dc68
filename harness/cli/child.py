"""A process of `harness.cli.launch.run_apart`: `python -m harness.cli.child NUMBER CORES ARGUMENTS…`."""

from __future__ import annotations

import sys

from harness.cli import app
from harness.cli.launch import end_with_parent, with_resources


def main() -> int:
    """Run the command of the arguments, which ends when its parent does; returns the exit code."""
    number, cores, *arguments = sys.argv[1:]
    end_with_parent()
    if int(number) >= 0:
        arguments = with_resources(arguments, int(number), int(cores))
    return app.main(arguments)


if __name__ == "__main__":
    sys.exit(main())
