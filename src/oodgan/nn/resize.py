"""Resizing and blurring of image batches."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def resize_area(images: Tensor, size: int) -> Tensor:
    """Resize (B, C, H, W) to `size` by area averaging (bilinear when enlarging)."""
    if images.shape[-1] == size:
        return images
    mode = "area" if images.shape[-1] > size else "bilinear"
    return F.interpolate(images, (size, size), mode=mode)


def shrink(images: Tensor, size: int) -> Tensor:
    """Resize (B, C, H, W) to `size` by area averaging; smaller images stay as they are."""
    return resize_area(images, size) if images.shape[-1] > size else images


def blur(x: Tensor, radius: int) -> Tensor:
    """Box mean over (2 radius + 1)^2 pixels, the border repeated."""
    if radius < 1:
        return x
    radius = min(radius, x.shape[-1] - 1)
    padded = F.pad(x, (radius,) * 4, mode="replicate")
    # Two passes of one dimension: (2r + 1) x 2 additions a pixel instead of (2r + 1)^2.
    rows = F.avg_pool2d(padded, (1, 2 * radius + 1), stride=1)
    return F.avg_pool2d(rows, (2 * radius + 1, 1), stride=1)
