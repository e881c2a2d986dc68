"""Settings of `harness search` that what was asked for does not read: given, they would seem to have had an effect.

Those that say where and how (`store`, `scores`, `device`, `threads`, `save_seconds`) change no result and may stand
anywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from harness.config import SearchConfig
from harness.errors import HarnessError

_STORED = "scores are read from the store, each of the mini-batches of its proxy's paper"

#: By what is asked for: the settings that it does not read, with what to do instead or why there is nothing.
BESIDE_A_STUDY = {
    **{name: f"set study.{name}" for name in ("budget", "seed", "repeats")},
    **dict.fromkeys(("algorithm", "proxies", "combine"), "a study names them in its rows, study.rows"),
    **dict.fromkeys(("benchmark", "dataset", "population"), "a study names them in its cases, study.cases"),
    "target": "a study reads each benchmark's default accuracy",
}
ON_BENCHMARKS = {
    "inputs": _STORED,
    **dict.fromkeys(("max_params", "max_flops"), "its searches have no ceilings"),
}
WITHOUT_A_STUDY = {"output": "tables and plots of a study go there; store=DIR is where runs are kept"}
ON_A_BENCHMARK = {"inputs": _STORED, "plots": "they are drawn of a study, or of a run on an open space"}
ON_AN_OPEN_SPACE = {
    **dict.fromkeys(("dataset", "population"), "an open space has none"),
    "target": "nothing is trained on an open space",
}


def refuse(config: Any, unread: Mapping[str, str], where: str = "here") -> None:
    """Raises HarnessError where one of the settings `unread` is another than the usual one."""
    usual = SearchConfig()
    for name, remedy in unread.items():
        value, otherwise = getattr(config, name), getattr(usual, name)
        text = f"{name}={value}"
        if name == "inputs":
            value, otherwise = (value.name, value.path), (otherwise.name, otherwise.path)
            text = f"inputs={value[0]}" if value[1] is None else f"inputs.path={value[1]}"
        if value != otherwise:
            raise HarnessError(f"{text} has no effect {where}, leave it out: {remedy}")
