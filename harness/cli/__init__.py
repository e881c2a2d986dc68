"""The command line: what a person types. `harness.cli.app` has the commands."""

from __future__ import annotations


def main(argv: list[str] | None = None) -> int:
    """Run `harness ARGUMENTS` (those of the process by default); returns the exit code."""
    from harness.cli import app

    return app.main(argv)
