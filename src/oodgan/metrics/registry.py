"""Metrics by name.  A name fixes network and version: another network is another name, never a silent substitute."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torchmetrics import Metric

from oodgan.errors import unknown
from oodgan.metrics.base import PerImage


def _factories() -> dict[str, Callable[..., Metric]]:
    from oodgan.metrics import distribution, lpips, masks, similarity
    from oodgan.nn import facenet

    return {
        "lpips_alex_v0.1": lambda **kwargs: lpips.LPIPS("alex", **kwargs),
        "lpips_vgg_v0.1": lambda **kwargs: lpips.LPIPS("vgg", **kwargs),
        "ssim_gauss11": similarity.SSIM,
        "ms_ssim_gauss11": similarity.MSSSIM,
        "psnr": similarity.PSNR,
        "psnr_background_hat_cloth": similarity.RegionPSNR,
        "unchanged_hat_jewellery_cloth": similarity.RegionUnchanged,
        f"identity_{facenet.NAME}": similarity.Identity,
        "fid_inception2015": distribution.FID,
        "kid_inception2015": distribution.KID,
        "mask_share_inside": masks.MaskShareInside,
        "mask_iou_at_0.5": masks.MaskIoU,
        "mask_area": masks.MaskArea,
    }


def names() -> list[str]:
    """Every name that `build` knows."""
    return list(_factories())


def build(name: str, **kwargs: Any) -> Metric:
    """A new metric by its name; networks are loaded at first use. `kwargs` are those of `torchmetrics.Metric`.

    Raises:
        UserError: no such metric, with the nearest name.
    """
    factories = _factories()
    if name not in factories:
        raise unknown("metric", name, factories)
    return factories[name](**kwargs)


def build_per_image(name: str, **kwargs: Any) -> PerImage:
    """As `build`, for metrics that give one value an image.

    Raises:
        UserError: no such metric, or it measures a whole set (FID, KID).
    """
    metric = build(name, **kwargs)
    if not isinstance(metric, PerImage):
        raise unknown("per-image metric", name, [key for key in names() if not key.startswith(("fid", "kid"))])
    return metric
