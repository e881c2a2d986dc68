"""What a search found, as YAML and as a file of plain torch that needs nothing of this package."""

from __future__ import annotations

import inspect
import pprint
from pathlib import Path
from typing import Any

from harness.engine.store import write_text
from harness.search.genes import Genotype, OpenSpace

YAML, MODULE = "architecture.yaml", "architecture.py"


def module_text(space: OpenSpace, genotype: Genotype, heading: str) -> str:
    """Source of a module with `PLAN` and `build()`, which makes the network; it imports torch alone."""
    source = inspect.getsource(space.network_module())
    plan = pprint.pformat(space.plan(genotype), width=118, sort_dicts=False, compact=True)
    side = space.resolution
    return (
        f"{source.rstrip()}\n\n\n# {heading}\n# It reads images of {side} x {side}.\nPLAN = {plan}\n\n\n"
        'def build() -> Network:\n    """The network, with initial weights of torch."""\n    return Network(**PLAN)\n'
    )


def is_exported(folder: Path) -> bool:
    """Whether both files are below `folder`."""
    return (folder / YAML).is_file() and (folder / MODULE).is_file()


def write_found(space: OpenSpace, genotype: Genotype, result: dict[str, Any], folder: Path) -> None:
    """Write both files below `folder`. Raises HarnessError: it cannot be written."""
    import yaml

    from harness.search.stored import unwritable

    content = {
        "space": result["space"],
        "architecture": result["architecture"],
        "params": result["params"],
        "flops": result["flops"],
        "scores": result["scores"],
        "resolution": space.resolution,
        "plan": space.plan(genotype),
        "genes": space.values(genotype),
    }
    heading = f"{result['space']}: {result['params']:,} parameters, {result['flops']:,} multiply-accumulates."
    try:
        text = yaml.safe_dump(content, sort_keys=False, width=120)
        write_text(folder / YAML, text)
        module = module_text(space, genotype, heading)
        write_text(folder / MODULE, module)
    except OSError as error:
        raise unwritable(folder, error) from error
