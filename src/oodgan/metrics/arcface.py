"""Identity by a recogniser that the user brings: any ArcFace-like ONNX file, or an IR-SE50 checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from oodgan.metrics.similarity import Identity
from oodgan.nn.arcface import HEIGHT, ArcFace


class ArcFaceIdentity(Identity):
    """`Identity` by `oodgan.nn.arcface.ArcFace`, whose arguments it takes."""

    def __init__(self, path: str | Path, width: int = HEIGHT, **kwargs: Any):
        super().__init__(ArcFace(path, width), **kwargs)
