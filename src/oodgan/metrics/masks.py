"""Quality of a mask relative to a reference region."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import unknown
from oodgan.metrics.base import PerImage
from oodgan.metrics.regions import PARTS, part_region


class MaskShareInside(PerImage):
    """Mean share of a soft mask's mass that lies inside a region; images with an empty mask are left out.

    Inputs: mask (B, 1, H, W) in [0, 1], region (B, 1, H, W) of 0 and 1.
    """

    name, inputs, higher_is_better = "mask_share_inside", ("mask", "region"), True

    def per_image(self, mask: Tensor, region: Tensor) -> Tensor:  # type: ignore[override]
        return (mask * region).sum((1, 2, 3)) / mask.sum((1, 2, 3))


class MaskIoU(PerImage):
    """Mean intersection over union of the mask at `threshold` and a region; left out where both are empty."""

    inputs, higher_is_better = ("mask", "region"), True

    def __init__(self, threshold: float = 0.5, **kwargs: Any):
        super().__init__(**kwargs)
        self.threshold, self.name = threshold, f"mask_iou_at_{threshold:g}"

    def per_image(self, mask: Tensor, region: Tensor) -> Tensor:  # type: ignore[override]
        hard, wanted = mask > self.threshold, region > 0.5
        return (hard & wanted).sum((1, 2, 3)).double() / (hard | wanted).sum((1, 2, 3))


class MaskArea(PerImage):
    """Mean of the mask: the fraction of the image that the edit may change."""

    name, inputs = "mask_area", ("mask",)

    def per_image(self, mask: Tensor) -> Tensor:  # type: ignore[override]
        return mask.double().mean((1, 2, 3))


class MaskShareOnParts(PerImage):
    """Mean share of a soft mask's mass on the parts of the face that the attributes are about (`regions.PARTS`).

    Inputs: mask (B, 1, H, W) in [0, 1], labels (B, h, w) of CelebAMask-HQ classes. Images without such a part, and
    empty masks, are left out.
    """

    name, inputs, higher_is_better = "mask_share_on_parts", ("mask", "labels"), True

    def __init__(self, attributes: Sequence[str], **kwargs: Any):
        super().__init__(**kwargs)
        for attribute in attributes:
            if attribute.lower() not in PARTS:
                raise unknown("local attribute", attribute, PARTS)
        self.attributes = list(attributes)

    def per_image(self, mask: Tensor, labels: Tensor) -> Tensor:  # type: ignore[override]
        region = part_region(labels, self.attributes)
        inside = F.interpolate(region.to(mask)[:, None], mask.shape[-2:], mode="nearest")
        share = (mask * inside).sum((1, 2, 3)) / mask.sum((1, 2, 3))
        return share.masked_fill(~region.flatten(1).any(1), float("nan"))
