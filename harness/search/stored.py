"""What a search leaves on disk: a folder a run, with its state while it lasts, history and result at the end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.engine.store import hive_folder
from harness.errors import HarnessError
from harness.paths import typed_path

if TYPE_CHECKING:
    from harness.search.objective import Objective

STATE, HISTORY, RESULT = "state.json", "history.parquet", "result.yaml"


@dataclass(frozen=True)
class SearchKey:
    """What a run belongs to: the levels of its folder below the store's root."""

    space: str
    dataset: str
    population: str
    inputs: str
    score_seed: int
    proxies: str
    algorithm: str
    ceilings: str
    budget: str
    seed: int


def unwritable(folder: Path, error: OSError) -> HarnessError:
    """The one line of a full disk or a folder that may not be written."""
    return HarnessError(
        f"cannot write below {folder} ({error.strerror or error}): free some space or set store=DIR to a writable "
        "folder; what was saved before is kept"
    )


#: What is read of a result, with its type.
_READ = {"architecture": str, "params": int, "flops": int, "scores": dict, "evaluations": int, "seconds": (int, float)}


def belongs(stored: dict[str, Any], objective: Objective) -> bool:
    """Whether what was stored belongs to these definitions of the proxies, and to these images or stored scores."""
    same = stored.get("versions") == list(objective.versions)
    return same and (stored.get("sources") or {}) == dict(objective.sources)


def finished(folder: Path, objective: Objective) -> dict[str, Any] | None:
    """The result of a run that is over, None where there is none of these definitions and images.

    Raises HarnessError: the file is damaged.
    """
    import yaml

    path = folder / RESULT
    if not path.is_file():
        return None
    damaged = f"{path} is damaged: delete it to search again"
    try:
        result = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise HarnessError(f"{path} cannot be read ({error.strerror or error})") from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise HarnessError(damaged) from error
    if not isinstance(result, dict) or not all(isinstance(result.get(name), kind) for name, kind in _READ.items()):
        raise HarnessError(damaged)
    if not all(value is None or isinstance(value, (int, float)) for value in result["scores"].values()):
        raise HarnessError(damaged)
    return result if belongs(result, objective) else None


def folder_of(root: str | Path, key: SearchKey) -> Path:
    """Where a run is stored. Raises HarnessError: `root` is no path."""
    return typed_path(root, "store") / hive_folder(key)
