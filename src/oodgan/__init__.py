"""Edit real photographs that a GAN has never seen, and train every part that this takes."""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from oodgan import _torchvision

if TYPE_CHECKING:
    from oodgan.editing import Editor
    from oodgan.editing.edit import Edit

__version__ = "0.1.0"
__all__ = ["Edit", "Editor", "__version__"]

# Image-sized buffers are newly mapped at each use; huge pages make this a third cheaper on a CPU.
os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
_torchvision.repair_on_import()


def __getattr__(name: str) -> Any:
    # Editor pulls in torch; `oodgan --help` must not wait for it.
    if name in {"Editor", "Edit"}:
        return getattr(importlib.import_module("oodgan.editing"), name)
    raise AttributeError(f"module 'oodgan' has no attribute {name!r}")
