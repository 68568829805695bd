"""Pixel, structure and identity similarity of a result and its target, one value an image."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from oodgan.data.images import to_uint8
from oodgan.errors import UserError
from oodgan.metrics.base import Once, PerImage
from oodgan.nn.identity import Recogniser

# CelebAMask-HQ classes that an edit of a face must leave alone.
BACKGROUND_HAT_CLOTH = (0, 14, 18)
HAT_JEWELLERY_CLOTH = (14, 15, 16, 18)
# Equal images would have infinite PSNR, and so would the mean; 100 dB is far above the 59 dB of 8-bit rounding.
_PSNR_CAP = 100.0


def _psnr(squared_error: Tensor) -> Tensor:
    """Decibels of a mean squared error of values in [-1, 1]."""
    return (10 * (4 / squared_error.double()).log10()).clamp(max=_PSNR_CAP)


class PSNR(PerImage):
    """Mean PSNR in dB of (result, target) in [-1, 1]; equal pictures count as 100 dB."""

    name, higher_is_better = "psnr", True

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return _psnr((result.double() - target.double()).square().mean((1, 2, 3)))


class RegionPSNR(PerImage):
    """Mean PSNR in dB inside a region: what the edit must not touch. Images without the region are left out.

    The region is the set of `classes` of a parsing mask (B, h, w) of integers (CelebAMask-HQ numbers by default),
    resized to the pictures by nearest neighbour.
    """

    inputs, higher_is_better = ("result", "target", "labels"), True

    def __init__(self, classes: tuple[int, ...] = BACKGROUND_HAT_CLOTH, region: str = "background_hat_cloth", **kwargs):
        super().__init__(**kwargs)
        self.classes, self.name = tuple(classes), f"psnr_{region}"

    def per_image(self, result: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        inside = region_of(labels, self.classes, result.shape[-2:]).double()
        error = (result.double() - target.double()).square().mean(1)
        # 0/0 where the region is empty: nan, which the mean leaves out.
        return _psnr((error * inside).sum((1, 2)) / inside.sum((1, 2)))


class RegionUnchanged(RegionPSNR):
    """Mean share of a region's pixels that differ by at most `levels` of 255 in every channel, in [0, 1].

    Arguments are those of `RegionPSNR`. By default, what may cover a face: hat, earrings, necklace and cloth. Glasses
    are not among them, because some attributes concern them.
    """

    def __init__(
        self,
        classes: tuple[int, ...] = HAT_JEWELLERY_CLOTH,
        region: str = "hat_jewellery_cloth",
        levels: int = 2,
        **kwargs,
    ):
        super().__init__(classes, region, **kwargs)
        self.levels, self.name = levels, f"unchanged_{region}"

    def per_image(self, result: Tensor, target: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        inside = region_of(labels, self.classes, result.shape[-2:]).double()
        difference = (to_uint8(result).int() - to_uint8(target).int()).abs().amax(1)
        return ((difference <= self.levels) * inside).sum((1, 2)) / inside.sum((1, 2))


def region_of(labels: Tensor, classes: tuple[int, ...], size: tuple[int, ...]) -> Tensor:
    """Boolean (B, H, W) of the pixels whose class is among `classes`; `labels` (B, h, w) is resized by nearest."""
    inside = sum((labels == label).float() for label in classes)
    assert isinstance(inside, Tensor)
    return F.interpolate(inside[:, None], size=tuple(size), mode="nearest")[:, 0] > 0.5


class SSIM(PerImage):
    """Mean SSIM (Wang et al. 2004) with the 11x11 Gaussian window, sigma 1.5, over RGB in [-1, 1]."""

    name, higher_is_better = "ssim_gauss11", True

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        from torchmetrics.functional.image import structural_similarity_index_measure as ssim

        value = ssim(result.float(), target.float(), data_range=2.0, sigma=1.5, reduction="none")
        assert isinstance(value, Tensor)
        return value.reshape(-1)


class MSSSIM(PerImage):
    """Mean multi-scale SSIM (Wang et al. 2003): five scales, 11x11 Gaussian window; needs 176 pixels a side."""

    name, higher_is_better = "ms_ssim_gauss11", True

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        from torchmetrics.functional.image import multiscale_structural_similarity_index_measure as ms_ssim

        if min(result.shape[-2:]) < 176:
            raise UserError(f"MS-SSIM needs pictures of at least 176 pixels a side, got {tuple(result.shape[-2:])}")
        values = [
            ms_ssim(a[None], b[None], data_range=2.0, sigma=1.5, normalize="relu")
            for a, b in zip(result.float(), target.float(), strict=True)
        ]
        return torch.stack([value.reshape(()) for value in values])


class Identity(PerImage):
    """Mean cosine of a recogniser's embeddings of (result, target); FFHQ-aligned square pictures in [-1, 1].

    Args:
        recogniser: FaceNet when None; its name becomes part of the metric's.
    """

    higher_is_better = True

    def __init__(self, recogniser: Recogniser | None = None, **kwargs: Any):
        super().__init__(**kwargs)
        from oodgan.nn.facenet import FaceNet

        self.recogniser: Recogniser = recogniser or FaceNet()
        self.name = f"identity_{self.recogniser.name}"
        self._target = Once(self._embed)

    def per_image(self, result: Tensor, target: Tensor) -> Tensor:  # type: ignore[override]
        return (self._embed(result) * self._target(target)).sum(1)

    def _embed(self, images: Tensor) -> Tensor:
        return self.recogniser(images.clamp(-1, 1)).double()
