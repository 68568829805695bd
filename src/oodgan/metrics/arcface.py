"""Identity by a recogniser that the user brings: any ArcFace-like ONNX file, or an IR-SE50 checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from oodgan.metrics.base import PerImage
from oodgan.nn.arcface import HEIGHT, file_of, recogniser, template_crop


class ArcFaceIdentity(PerImage):
    """Mean cosine of a given recogniser's embeddings of (result, target); FFHQ-aligned square pictures in [-1, 1].

    Args:
        path: `.onnx` (input (1, 3, 112, `width`) RGB, (x - 127.5) / 127.5), an IR-SE50 checkpoint, or the folder that
            `oodgan weights convert` made of one. The metric's name carries its name and the first 8 digits of its hash.
        width: of its crops, 112 or 96.
    """

    higher_is_better = True

    def __init__(self, path: str | Path, width: int = HEIGHT, **kwargs: Any):
        super().__init__(**kwargs)
        from oodgan.weights.fetch import sha256_of

        self.path, self.width = Path(path).expanduser().absolute(), width
        recogniser(self.path)
        self.name = f"identity_arcface_{self.path.stem}_{sha256_of(file_of(self.path))[:8]}"

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        network = recogniser(self.path, str(result.device))
        first, second = (network(template_crop(x.clamp(-1, 1), self.width)).double() for x in (result, target))
        return F.cosine_similarity(first, second)
