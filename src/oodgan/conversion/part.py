"""Contents of a public checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oodgan.weights.checkpoint import State


@dataclass
class Part:
    """One network: tensors in our layout, the keywords that build it, and further metadata."""

    kind: str
    tensors: State
    architecture: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recognised:
    """A description of the file, and its parts; the first one is the main network."""

    what: str
    parts: list[Part]
