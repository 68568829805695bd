"""Import torch and Lightning in two thirds of the time."""

from __future__ import annotations

import contextlib
import gc
import importlib.util
import sys
from collections.abc import Iterator
from importlib.abc import MetaPathFinder
from types import ModuleType
from typing import Any

_frozen = False


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's garbage collector while the block imports; later ones skip the imported objects.

    Importing torch and Lightning makes 600,000 objects that live as long as the process. Searching them for garbage
    takes a quarter of the time of the imports, and a second more when the process ends. Only the first block of a
    process has this effect, so that no results of former jobs are kept.
    """
    global _frozen
    if _frozen or not gc.isenabled():
        yield
        return
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
        _frozen = True


class _Torchmetrics(MetaPathFinder):
    """Imports torchmetrics without scipy.signal, which it needs only to add a name that SciPy once had."""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(fullname)
        if spec and spec.loader and "scipy.signal" not in sys.modules:
            spec.loader.exec_module = _without_scipy_signal(spec.loader.exec_module)  # type: ignore[method-assign]
        return spec


def _without_scipy_signal(execute: Any) -> Any:
    def exec_module(module: ModuleType) -> None:
        stand_in = sys.modules["scipy.signal"] = ModuleType("scipy.signal")
        stand_in.hamming = None  # type: ignore[attr-defined]
        try:
            execute(module)
        finally:
            del sys.modules["scipy.signal"]

    return exec_module


def import_torchmetrics_faster() -> None:
    """Save a sixth of the CPU time of importing Lightning: arrange for `_Torchmetrics` to be used."""
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, _Torchmetrics) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Torchmetrics())
