"""(photo, inverted, edited, mask) -> coarse: put the edited region into the untouched photo."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import unknown
from oodgan.nn.resize import blur

MODES = ("layered", "difference", "paper", "alpha", "poisson", "blended")

_WORK = 256  # resolution of the separation into layers, pixels
_YIELD = (0.25, 0.45)  # change of pixel values at which the photo's detail starts to fade, and at which it is 0


def compose(photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, mode: str = "layered") -> Tensor:
    """Coarse image (B, 3, R, R) in [-1, 1] from images in [-1, 1] and a mask (B, 1, R, R) in [0, 1].

    - `layered`: as `difference`, but where the edit draws much anew (lips over teeth), the photo's own detail gives way
      to the edited image's and only its colours stay, so that nothing shines through,
    - `difference`: photo + mask x (edited - inverted), keeps the photo's own texture and likeness,
    - `paper`, `alpha`: mask x edited + (1 - mask) x photo (paper, equation 4),
    - `poisson`: the edited image's gradients inside the mask (Perez et al. 2003), a baseline,
    - `blended`: the mean of `layered` and `poisson`.

    Where the mask is 0 the photo's pixels come out as they are.
    """
    if mode == "blended":
        coarse = (compose(photo, inverted, edited, mask) + compose(photo, inverted, edited, mask, "poisson")) / 2
    elif mode == "layered":
        coarse = photo + mask * (edited - inverted - _yielding(photo, inverted, edited))
    elif mode == "difference":
        coarse = photo + mask * (edited - inverted)
    elif mode in ("paper", "alpha"):
        coarse = mask * edited + (1 - mask) * photo
    elif mode == "poisson":
        coarse = _poisson(photo, edited, mask)
    else:
        raise unknown("compose mode", mode, MODES)
    return torch.where(mask > 0, coarse.clamp(-1, 1), photo)


def _yielding(photo: Tensor, inverted: Tensor, edited: Tensor) -> Tensor:
    """The detail that the photo has and its inversion has not, where the edit changes much.

    And a little around there: a mouth that grew smaller would leave a rim of the larger one.
    """
    missed, size = photo - inverted, min(_WORK, photo.shape[-1])
    low = _smooth(F.adaptive_avg_pool2d(missed, size), size // 25)
    changed = _smooth(F.adaptive_avg_pool2d((edited - inverted).abs().mean(1, keepdim=True), size), size // 128)
    share = ((changed - _YIELD[0]) / (_YIELD[1] - _YIELD[0])).clamp(0, 1)
    reach = size // 50
    share = _smooth(F.max_pool2d(share, 2 * reach + 1, 1, reach), reach // 2 + 1)
    share = share.square() * (3 - 2 * share)  # no edge at either end
    low, share = (F.interpolate(x, photo.shape[2:], mode="bilinear") for x in (low, share))
    return share * (missed - low)


def _smooth(x: Tensor, radius: int) -> Tensor:
    return blur(blur(x, radius), radius)


def fold(mask: Tensor) -> Tensor:
    """The mask for ghosts to train on: where it is above 0.5, 1 - mask, so that the original always dominates.

    The original is then the ghost's target; editing never folds (both as published).
    """
    return torch.where(mask > 0.5, 1 - mask, mask)


def _poisson(photo: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    return torch.stack([_clone(*images) for images in zip(photo, edited, mask, strict=True)]).to(photo)


def _clone(photo: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    inside = (mask[0].cpu().numpy() > 0.5).astype(np.uint8) * 255
    inside[[0, -1], :] = inside[:, [0, -1]] = 0  # OpenCV needs a border of unchanged pixels
    rows, columns = np.nonzero(inside)
    if not len(rows) or min(np.ptp(rows), np.ptp(columns)) < 2:  # only border pixels: nothing to solve
        return photo
    centre = (int(columns.min() + columns.max() + 1) // 2, int(rows.min() + rows.max() + 1) // 2)
    source, target = (_to_bytes(x) for x in (edited, photo))
    cloned = cv2.seamlessClone(source, target, inside, centre, cv2.NORMAL_CLONE)
    return torch.from_numpy(cloned).permute(2, 0, 1).float() / 127.5 - 1


def _to_bytes(image: Tensor) -> np.ndarray:
    pixels = ((image.clamp(-1, 1) + 1) * 127.5).round().byte()
    return np.ascontiguousarray(pixels.permute(1, 2, 0).cpu().numpy())
