"""Edit a photo: the editor's five steps, its edits, the faces that it edits, and the settings that repeat an edit."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodgan.editing.edit import Edit
    from oodgan.editing.editor import Editor

__all__ = ["Edit", "Editor"]
_HOMES = {"Editor": "oodgan.editing.editor", "Edit": "oodgan.editing.edit"}


def __getattr__(name: str) -> Any:
    # The editor pulls in torch; reading an edit's settings must not wait for it.
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'oodgan.editing' has no attribute {name!r}")
