"""What a public checkpoint was found to hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from oodgan.weights.checkpoint import State


@dataclass
class Part:
    """One network: tensors in our layout, the keywords that build it, and what else travels with it."""

    kind: str
    tensors: State
    architecture: dict[str, Any]
    extra: dict[str, Any] = field(default_factory=dict)


@dataclass
class Recognised:
    """What the file is, in words, and its parts; the first is what it is mainly for."""

    what: str
    parts: list[Part]
