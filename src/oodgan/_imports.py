"""Import torch and Lightning in half the time."""

from __future__ import annotations

import contextlib
import functools
import gc
import importlib
import sys
from collections.abc import Callable, Iterator
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from types import ModuleType
from typing import Any

_SIGNAL = "scipy.signal"
_frozen = False


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Pause Python's garbage collector while the block imports modules; keep what they made out of it for good.

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


def delay_signal() -> None:
    """Let the first import of torchmetrics leave out `scipy.signal`.

    torchmetrics imports it, which takes a second, only to add a name of older versions for a package of speech metrics.
    """
    if "torchmetrics" not in sys.modules and not any(isinstance(finder, _Watcher) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Watcher())


class _Watcher(MetaPathFinder):
    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> Any:
        if fullname != "torchmetrics":
            return None
        sys.meta_path.remove(self)
        spec = PathFinder.find_spec(fullname)
        if spec is not None and spec.loader is not None and _SIGNAL not in sys.modules:
            load = functools.partial(_load, spec.loader.exec_module)
            setattr(spec.loader, "exec_module", load)  # noqa: B010  mypy lets no method be assigned
        return spec


def _load(load: Callable[[ModuleType], None], module: ModuleType) -> None:
    sys.modules[_SIGNAL] = placeholder = _Signal(_SIGNAL)
    try:
        load(module)
    finally:
        if sys.modules.get(_SIGNAL) is placeholder:
            del sys.modules[_SIGNAL]


class _Signal(ModuleType):
    """In the place of `scipy.signal`, which it imports for whoever asks for more than torchmetrics does."""

    hamming = None

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name != "__path__":  # `inspect` asks every module for its file
            raise AttributeError(name)
        if sys.modules.get(_SIGNAL) is self:
            del sys.modules[_SIGNAL]
        return getattr(importlib.import_module(_SIGNAL), name)
