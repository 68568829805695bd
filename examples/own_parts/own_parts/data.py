"""A source of images: here one .npz with a uint8 array `images` (N, S, S, 3)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from oodgan.data import images
from oodgan.data.source import Source


class Arrays(Source):
    """The images of an array in a file, RGB, FFHQ-aligned.

    Args:
        path: the .npz.
        size: side of the images that are handed out, in pixels.
    """

    def __init__(self, path: str, size: int = 256) -> None:
        self.size, self.skipped = size, {}
        with np.load(path, allow_pickle=False) as file:
            self.pixels = file["images"]

    def __len__(self) -> int:
        return len(self.pixels)

    def name(self, index: int) -> str:
        return f"{index:05d}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = torch.from_numpy(self.pixels[index]).permute(2, 0, 1).float() / 127.5 - 1
        return {"image": images.resize(image, self.size), "name": self.name(index)}
