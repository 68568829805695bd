"""Reference regions of attributes, with which masks are compared.

Two references that do not depend on masks: where an edit changes many aligned faces in the same way, and the parts of a
face that the attribute concerns, from parsing masks.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.metrics.lpips import lpips_distance

SKIN, NOSE, GLASSES, EYES, BROWS, MOUTH = 1, 2, 3, (4, 5), (6, 7), (10, 11, 12)
# CelebAMask-HQ classes of local attributes; BELOW_NOSE is the skin below the nose, which is no such class.
BELOW_NOSE = -2
PARTS: dict[str, tuple[int, ...]] = {
    "eyeglasses": (GLASSES, *EYES, *BROWS),
    "smile": MOUTH,
    "mouth_open": MOUTH,
    "beard": (BELOW_NOSE,),
    "narrow_eyes": EYES,
    "bushy_eyebrows": BROWS,
}
MARGIN = 0.06  # dilation of parts, as a fraction of the image's width


def part_region(labels: Tensor, attributes: Sequence[str]) -> Tensor:
    """Return a boolean (B, h, w): the parts that the attributes concern, dilated by 6 % of the width.

    Args:
        labels: (B, h, w) CelebAMask-HQ classes, -1 where unknown.
        attributes: keys of `PARTS`, in any case; several are united.

    An image without such a part for one of the attributes, or with unknown labels, has an empty region.
    """
    regions = [_part(labels, PARTS[name.lower()]) for name in attributes]
    seen = torch.stack([region.flatten(1).any(1) for region in regions]).all(0)
    union = torch.stack(regions).any(0) & seen[:, None, None]
    radius = round(MARGIN * labels.shape[-1])
    return _disk_dilated(union, radius)


def _part(labels: Tensor, classes: tuple[int, ...]) -> Tensor:
    part = torch.isin(labels, torch.tensor([c for c in classes if c >= 0], device=labels.device))
    if BELOW_NOSE not in classes:
        return part
    rows = torch.arange(labels.shape[1], device=labels.device)[None]
    nose = (labels == NOSE).any(2)
    tip = torch.where(nose, rows, -1).amax(1, keepdim=True)
    below = (rows > tip) & nose.any(1, keepdim=True)
    return part | ((labels == SKIN) & below[..., None])


def _disk_dilated(region: Tensor, radius: int) -> Tensor:
    if radius < 1:
        return region
    offsets = torch.arange(-radius, radius + 1, device=region.device)
    disk = (offsets[:, None].square() + offsets.square() <= radius * radius).float()
    return F.conv2d(region.float()[:, None], disk[None, None], padding=radius)[:, 0] > 0.5


class ConsistentChange:
    """Spatial LPIPS (alex, v0.1) of the mean change over many aligned faces.

    The signed change of the activations is averaged before its norm is computed, so changes common to all faces remain,
    while individual ones (background, hair, colour drift) average out. The sampling noise of a mean of n (variance / n)
    is subtracted. Masks are computed with other networks, samples and measures.
    """

    def __init__(self, size: int = 64) -> None:
        self.size, self.count = size, 0
        self._sums: list[Tensor] = []
        self._squares: list[Tensor] = []

    def add(self, before: Sequence[Tensor], after: Sequence[Tensor]) -> None:
        """Add images by their `activations`, (B, C, h, w) each; `before` may have batch size 1."""
        for level, (old, new) in enumerate(zip(before, after, strict=True)):
            change = (new - old).double()
            if len(self._sums) <= level:
                self._sums.append(torch.zeros_like(change[0]))
                self._squares.append(torch.zeros_like(change[0]))
            self._sums[level] += change.sum(0)
            self._squares[level] += change.square().sum(0)
        self.count += len(after[0])

    def map(self) -> Tensor:
        """(size, size), 0 or more; its mean is near the LPIPS of the mean change."""
        distance = lpips_distance("alex", str(self._sums[0].device))
        total = torch.zeros(1, 1, self.size, self.size, dtype=torch.float64, device=self._sums[0].device)
        for level, (first, second) in enumerate(zip(self._sums, self._squares, strict=True)):
            mean = first / self.count
            chance = (second / self.count - mean.square()).clamp(min=0) / max(self.count - 1, 1)
            head = distance.get_buffer(f"head{level}").double()[:, None, None]
            power = ((mean.square() - chance) * head).sum(0, keepdim=True)[None]
            total += F.interpolate(power, (self.size, self.size), mode="bilinear", align_corners=False)
        return total[0, 0].clamp(min=0).float()

    def region(self, share: float = 0.15) -> Tensor:
        """Boolean (size, size): the `share` of the pixels that change most."""
        change = self.map()
        count = max(1, round(share * change.numel()))
        chosen = torch.zeros(change.numel(), dtype=torch.bool, device=change.device)
        chosen[change.flatten().topk(count).indices] = True
        return chosen.view_as(change)


def activations(images: Tensor) -> list[Tensor]:
    """LPIPS-alex activations of pictures (B, 3, R, R) in [-1, 1], as `ConsistentChange.add` takes them."""
    with torch.no_grad():
        return lpips_distance("alex", str(images.device)).activations(images)
