"""Training views of photos with their classes: moved, recoloured and partly covered."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.inversion.augment import occluded, photometric


def moved(images: Tensor, classes: Tensor, degrees: float, scale: float, shift: float) -> tuple[Tensor, Tensor]:
    """Rotate, scale and shift each image and its classes at random; the border is mirrored.

    Args:
        images: (B, 3, S, S).
        classes: (B, S, S).
        degrees: largest angle.
        scale: largest factor; its inverse is the smallest.
        shift: largest shift, as a fraction of the width.
    """
    count = len(images)

    def draw(*shape: int) -> Tensor:
        return 2 * torch.rand(count, *shape) - 1

    angle, factor = math.radians(degrees) * draw(), torch.exp(math.log(scale) * draw())
    rows = [angle.cos(), -angle.sin(), angle.sin(), angle.cos()]
    turn = torch.stack(rows, 1).view(count, 2, 2) / factor[:, None, None]
    theta = torch.cat([turn, 2 * shift * draw(2, 1)], 2).to(images.device)
    grid = F.affine_grid(theta, list(images.shape), align_corners=False)
    at: dict[str, Any] = {"padding_mode": "reflection", "align_corners": False}
    warped = F.grid_sample(images, grid, **at)
    labels = F.grid_sample(classes[:, None].float(), grid, mode="nearest", **at)
    return warped.clamp(-1, 1), labels[:, 0].round().long()


def varied(
    images: Tensor, classes: Tensor, degrees: float = 15, scale: float = 1.25, shift: float = 0.08,
    colour: float = 0.25, occlusion: float = 0.3,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Training views: `moved`, then other light and colours, then some partly covered.

    Covered pixels have the class background, like hands in CelebAMask-HQ.
    """
    images, classes = moved(images, classes, degrees, scale, shift)
    images = photometric(images, strength=colour)
    images, cover = occluded(images, probability=occlusion)
    return images, classes.masked_fill(cover[:, 0] > 0.5, 0)
