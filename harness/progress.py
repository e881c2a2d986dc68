"""Progress of whatever takes more than a moment, by tqdm: on a terminal, in a notebook, in a log."""

from __future__ import annotations

import sys
from typing import Any


def progress_bar(total: int | None, unit: str = "networks", enabled: bool = True) -> Any:
    """A bar of tqdm on standard error, to be advanced by `update(n)` and closed (it is a context manager).

    On a terminal it moves twice a second and is gone in the end; elsewhere it is a line every half minute.
    """
    from tqdm.auto import tqdm

    tqdm.monitor_interval = 0  # no thread beside workers that are forked
    terminal = sys.stderr.isatty()
    form = "{n_fmt}/{total_fmt} {unit}, {rate_noinv_fmt}, {remaining} left{postfix}"
    return tqdm(
        total=total,
        unit=unit,
        disable=not enabled,
        leave=False,
        dynamic_ncols=terminal,
        mininterval=0.5 if terminal else 30,
        maxinterval=float("inf"),
        delay=0 if terminal else 30,
        bar_format=None if terminal else form + "\n",
    )
