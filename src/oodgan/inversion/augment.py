"""Augmentations that make generator samples look more like photos: light, colour, and partial occlusion."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def photometric(images: Tensor, rng: torch.Generator | None = None, strength: float = 0.25) -> Tensor:
    """Random gain, offset, gamma-like contrast and colour cast per image; (B, 3, H, W) in [-1, 1], clamped."""
    count = len(images)

    def draw(*shape: int) -> Tensor:
        return ((2 * torch.rand(count, *shape, 1, 1, generator=rng) - 1) * strength).to(images.device)

    mean = images.mean((1, 2, 3), keepdim=True)
    changed = (images - mean) * (1 + draw(1)) + mean + draw(1) + 0.4 * draw(3)
    return changed.clamp(-1, 1)


def occlude(images: Tensor, rng: torch.Generator | None = None, probability: float = 0.5) -> Tensor:
    """Cover part of some images with a soft blob filled by smooth colour noise or by another image of the batch.

    Blobs lie around the border of the face (hats, hands, collars): centred at 0.3 to 0.55 of the width from the middle.
    """
    return occluded(images, rng, probability)[0]


def occluded(
    images: Tensor, rng: torch.Generator | None = None, probability: float = 0.5
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """As `occlude`; also returns the opacity of the cover for each pixel, (B, 1, H, W) in [0, 1]."""
    count, _, height, width = images.shape
    blob = smooth_blob(count, height, width, rng, probability)
    coarse = 2 * torch.rand(count, 3, 6, 6, generator=rng) - 1
    noise = F.interpolate(coarse, (height, width), mode="bilinear") + 0.1 * torch.randn(images.shape, generator=rng)
    other = images.roll(1, 0).flip(-2)
    noisy = (torch.rand(count, 1, 1, 1, generator=rng) < 0.5).to(images.device)
    filling = torch.where(noisy, noise.to(images), other).clamp(-1, 1)
    cover = blob.to(images)
    return images + cover * (filling - images), cover


def smooth_blob(
    count: int, height: int, width: int, rng: torch.Generator | None = None, probability: float = 1.0
) -> Tensor:
    """Opacities (count, 1, height, width) in [0, 1] of soft ellipses around the border of an aligned face.

    A share `1 - probability` of them is 0 everywhere.
    """
    y, x = torch.meshgrid(torch.linspace(-1, 1, height), torch.linspace(-1, 1, width), indexing="ij")
    angle = 2 * torch.pi * torch.rand(count, 1, 1, generator=rng)
    distance = 0.6 + 0.5 * torch.rand(count, 1, 1, generator=rng)
    radius = 0.15 + 0.4 * torch.rand(count, 2, 1, 1, generator=rng)
    far = ((x - distance * angle.cos()) / radius[:, 0]).square() + (
        (y - distance * angle.sin()) / radius[:, 1]
    ).square()
    return (torch.sigmoid((1 - far) * 12) * (torch.rand(count, 1, 1, generator=rng) < probability))[:, None]
