"""Let a torchvision whose compiled part does not load be imported all the same.

Beside a CPU-only torch, PyPI's torchvision cannot load `_C.so`, and then fails on registering fake kernels for
operators that nobody declared (`operator torchvision::nms does not exist`). Lightning, torchmetrics and lpips import
torchvision, so they fail with it. None of them needs those operators here: declaring their schemas is enough.
"""

from __future__ import annotations

import importlib.util
import sys
from importlib.abc import MetaPathFinder
from typing import Any

_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_library: Any = None  # torch drops the declarations when the Library object dies


class _Watcher(MetaPathFinder):
    """Runs the repair just before torchvision is imported for the first time, so that torch loads only when needed."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> None:
        if fullname == "torchvision":
            sys.meta_path.remove(self)
            repair()
        return None


def repair_on_import() -> None:
    """Arrange for `repair` to run before the first import of torchvision."""
    if "torchvision" not in sys.modules and not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


def repair() -> bool:
    """Declare torchvision's NMS schemas where its compiled part cannot; return whether that was needed."""
    global _library
    import torch

    if _library is not None or torch.version.cuda or torch.version.hip or _compiled_part_loads():
        return False
    _library = torch.library.Library("torchvision", "FRAGMENT")
    for schema in _SCHEMAS.values():
        _library.define(schema)
    return True


def _compiled_part_loads() -> bool:
    import torch

    spec = importlib.util.find_spec("torchvision._C") if "torchvision" in sys.modules else _find_without_importing()
    if spec is None or spec.origin is None:
        return False
    try:
        torch.ops.load_library(spec.origin)
    except OSError:
        return False
    return True


def _find_without_importing() -> Any:
    # find_spec("torchvision._C") would import torchvision itself, which is what fails.
    from importlib.machinery import PathFinder

    package = PathFinder.find_spec("torchvision")
    if package is None or package.submodule_search_locations is None:
        return None
    return PathFinder.find_spec("torchvision._C", list(package.submodule_search_locations))
