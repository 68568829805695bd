"""The parser's classes: those of CelebAMask-HQ with left and right merged, and earrings and necklaces merged."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from oodgan.errors import unknown

CLASSES: dict[str, tuple[int, ...]] = {
    "background": (0,), "skin": (1,), "nose": (2,), "glasses": (3,), "eyes": (4, 5), "brows": (6, 7), "ears": (8, 9),
    "mouth": (10,), "upper_lip": (11,), "lower_lip": (12,), "hair": (13,), "hat": (14,), "jewellery": (15, 16),
    "neck": (17,), "cloth": (18,),
}  # fmt: skip
"""Name -> CelebAMask-HQ's numbers of it; the class's own number is its place."""

NAMES = tuple(CLASSES)
UNKNOWN = -100  # ignored by torch's losses

_MERGED = torch.full((256,), UNKNOWN)
for _number, _parts in enumerate(CLASSES.values()):
    _MERGED[list(_parts)] = _number
_FIRST = torch.tensor([parts[0] for parts in CLASSES.values()])


def merged(labels: Tensor) -> Tensor:
    """CelebAMask-HQ's numbers (0 to 18) -> the parser's classes; `UNKNOWN` for any other number."""
    return torch.where(labels < 0, UNKNOWN, _MERGED.to(labels.device)[labels.clamp(0, 255)])


def celebamask(classes: Tensor) -> Tensor:
    """The parser's classes -> CelebAMask-HQ's numbers, the left one for pairs, the earring's for jewellery."""
    return _FIRST.to(classes.device)[classes]


def numbers(names: Iterable[str]) -> list[int]:
    """Return the class indices of names. Raises UserError for an unknown name, with the nearest."""
    indices = []
    for name in names:
        if name not in CLASSES:
            raise unknown("class of the parser", name, NAMES)
        indices.append(NAMES.index(name))
    return indices
