"""What a benchmark stores: the datasets of its networks, and the figures that proxies are to predict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

#: The file of a benchmark's identities and accuracies; its card may name others beside it.
ACCURACIES = "accuracies.parquet"


@dataclass(frozen=True)
class Dataset:
    """What a benchmark's networks were trained on: number of classes, image side in pixels; and `head`.

    `head` is what the networks end in. `linear`: a layer that gives a logit for each class, or a number in
    `regression`. Others are decoders, which give as many numbers for each pixel as there are classes: `segmentation`,
    logits of the pixel's class; `normals`, a direction; `reconstruction`, the image once more.
    """

    name: str
    classes: int
    resolution: int
    head: str = "linear"

    @property
    def gives(self) -> str:
        """What a network gives for an image: logits of `classes`, `numbers` or an image (`images`)."""
        return {"linear": "classes", "regression": "numbers"}.get(self.head, "images")

    @property
    def outputs(self) -> str:
        """As "10 classes", in words for readers."""
        kind = "classes" if self.head in ("linear", "segmentation") else "numbers"
        return f"{self.classes} {kind}{' a pixel' if self.gives == 'images' else ''}"


@dataclass(frozen=True)
class Target:
    """A stored figure that proxies are to predict.

    Attributes:
        name: as `accuracies` and `target=` take it.
        column: its column in `file`.
        file: the Parquet file in the benchmark's folder.
        kind: `accuracy`, `latency`, `energy`, ... .
        unit: `%`, `ms`, `mJ`, ... .
        higher_is_better: whether a search wants it high.
    """

    name: str
    column: str
    file: str = ACCURACIES
    kind: str = "accuracy"
    unit: str = "%"
    higher_is_better: bool = True

    @property
    def is_percentage(self) -> bool:
        """Whether it lies in [0, 100], as the gain 2^accuracy of nDCG supposes."""
        return self.unit == "%"

    def admits(self, metric: str) -> bool:
        """Whether a metric means something for this figure.

        Kendall's and Spearman's correlations do for all. nDCG needs percentages; nDCG, top precision and regret
        look for the largest values, and so need a figure that is to be high.
        """
        if metric.startswith("ndcg_"):
            return self.is_percentage and self.higher_is_better
        return self.higher_is_better or not metric.startswith(("top_", "regret_"))

    def __str__(self) -> str:
        return f"{self.kind} in {self.unit}, {'higher' if self.higher_is_better else 'lower'} is better"


def fault_of(column: pa.ChunkedArray, kind: str) -> str | None:
    """What a stored column is where it is not of its kind; None where it is.

    Args:
        kind: `text` or `key` (part of an encoding), `member` (of a population), `percentage` or `number`, which
            may be missing in some rows.
    """
    from pyarrow import types

    what = column.type.value_type if types.is_dictionary(column.type) else column.type
    if kind in ("percentage", "number"):
        if not types.is_integer(what) and not types.is_floating(what):
            return f"is of {what}, no numbers"
        values = column.to_numpy().astype(np.float64)
        if np.isinf(values).any():
            return "holds infinity"
        outside = values[(values < 0) | (values > 100)]
        return f"holds {outside[0]:.6g}, no percentage" if kind == "percentage" and outside.size else None
    if column.null_count:
        return f"has no value in {column.null_count:,} rows"
    fits = {"text": types.is_string(what) or types.is_large_string(what), "member": types.is_boolean(what)}
    return None if fits.get(kind, True) else f"is of {what}, no {'text' if kind == 'text' else 'true and false'}"
