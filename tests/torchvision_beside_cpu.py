"""torchvision of PyPI beside a torch without CUDA, so that models of torchvision and timm can be scored in tests."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch

#: The operators that torchvision compiles for CUDA alone and declares while it is imported. No model calls them.
OPERATORS = (
    "nms",
    "qnms",
    "roi_align",
    "_roi_align_backward",
    "roi_pool",
    "_roi_pool_backward",
    "ps_roi_align",
    "_ps_roi_align_backward",
    "ps_roi_pool",
    "_ps_roi_pool_backward",
    "deform_conv2d",
    "_deform_conv2d_backward",
)


def models_of(package: str) -> ModuleType:
    """`torchvision` or `timm`; skips where it is not installed."""
    try:
        import torchvision  # noqa: F401
    except ModuleNotFoundError:
        pytest.skip("torchvision is not installed: make setup-all")
    except RuntimeError:  # its library found no CUDA, so its operators are unknown
        declared = torch.library.Library("torchvision", "DEF")
        for name in OPERATORS:
            declared.define(f"{name}(Tensor x) -> Tensor")
        _kept.append(declared)
    return pytest.importorskip(package, reason=f"{package} is not installed: make setup-all")


#: Declarations go with the object that made them.
_kept: list[torch.library.Library] = []
