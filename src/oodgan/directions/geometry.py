"""Attribute labels measured on face-parsing masks of aligned faces: mouth, eyes, brows and hair."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

# CelebAMask-HQ's classes, in the numbering of its palette PNGs.
SKIN, GLASSES, EYES, BROWS, MOUTH, LIPS, HAIR, HAT = 1, 3, (4, 5), (6, 7), 10, (11, 12), 13, 14

# Positions in FFHQ's alignment, as fractions of the side (the same for CelebA-HQ).
_EYE_DISTANCE = 0.235
_FOREHEAD = (slice(0.22, 0.42), slice(0.35, 0.65))
_CROWN = (slice(0.06, 0.24), slice(0.3, 0.7))

Mask = NDArray[np.uint8]


def measure(mask: Mask, image: NDArray[np.uint8]) -> dict[str, float]:
    """Measure one aligned face; attributes that are covered (by glasses or a hat) are left out.

    Args:
        mask: (H, W) class numbers of CelebAMask-HQ.
        image: (H, W, 3) the photo of the same size, 8-bit RGB.

    Returns:
        `mouth_open` (inner mouth height), `narrow_eyes` (minus height over width), `bushy_eyebrows` (thickness and
        darkness), `bangs` (hair share of the forehead), `bald` (skin share of the crown), `blond` (lightness of hair)
        and `eyeglasses` (0 or 1); lengths in eye distances.
    """
    unit = _EYE_DISTANCE * mask.shape[0]
    measurements = {"eyeglasses": float((mask == GLASSES).sum() > 0.02 * unit**2)}
    if (np.isin(mask, (*LIPS, MOUTH))).sum() > 0.02 * unit**2:
        measurements["mouth_open"] = _thickness(mask == MOUTH, np.isin(mask, (*LIPS, MOUTH))) / unit
    if not measurements["eyeglasses"]:
        measurements |= _eyes(mask, image, unit)
    if (mask == HAT).sum() < 0.05 * unit**2:
        measurements |= _hair(mask, image)
    return measurements


def _thickness(part: NDArray[np.bool_], whole: NDArray[np.bool_]) -> float:
    """Mean height of `part` over the middle half of the columns that `whole` spans, in pixels."""
    columns = np.flatnonzero(whole.any(0))
    width = columns[-1] - columns[0] + 1
    middle = slice(columns[0] + width // 4, columns[0] + width // 4 + max(width // 2, 1))
    return float(part[:, middle].sum(0).mean())


def _eyes(mask: Mask, image: NDArray[np.uint8], unit: float) -> dict[str, float]:
    measurements: dict[str, float] = {}
    eyes = [mask == eye for eye in EYES if (mask == eye).sum() > 0.003 * unit**2]
    if eyes:
        # The ratio to the eye's width does not depend on the size of the face or the distance of the eyes.
        measurements["narrow_eyes"] = -float(np.mean([_thickness(eye, eye) / eye.any(0).sum() for eye in eyes]))
    brows = [mask == brow for brow in BROWS if (mask == brow).sum() > 0.01 * unit**2]
    if brows:
        grey = image.mean(2)
        skin = grey[mask == SKIN].mean() if (mask == SKIN).any() else grey.mean()
        thick = np.mean([_thickness(brow, brow) / unit for brow in brows])
        dark = np.mean([(skin - grey[brow].mean()) / 255 for brow in brows])
        measurements["bushy_eyebrows"] = float(thick / 0.1 + dark / 0.2)
    return measurements


def _hair(mask: Mask, image: NDArray[np.uint8]) -> dict[str, float]:
    hair = mask == HAIR
    forehead, crown = (_window(mask, *box) for box in (_FOREHEAD, _CROWN))
    measurements = {"bangs": float((forehead == HAIR).mean()), "bald": float((crown == SKIN).mean())}
    if hair.mean() > 0.02:
        measurements["blond"] = float(np.median(image[hair].mean(1)) / 255)
    return measurements


def _window(mask: Mask, rows: slice, columns: slice) -> Mask:
    height, width = mask.shape
    return mask[
        int(rows.start * height) : int(rows.stop * height), int(columns.start * width) : int(columns.stop * width)
    ]
