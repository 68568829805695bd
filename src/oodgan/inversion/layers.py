"""Covers generator samples so that they look more like photos: a colour cast, and parts of real photos pasted over it.

These parts are what generators do not draw well: background, cloth, hair, hats and glasses, cut out by parsing masks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.data.images import to_uint8
from oodgan.data.loader import Part
from oodgan.data.sources import Mix
from oodgan.data.splits import TRAIN, assign
from oodgan.inversion.augment import smooth_blob
from oodgan.nn.resize import blur, resize_area

CLASSES = {"background": (0,), "glasses": (3,), "hair": (13,), "hat": (14, 15), "cloth": (16, 18)}
"""Parts and their classes in CelebAMask-HQ's parsing masks."""
SHARES = {"background": 0.7, "glasses": 0.6, "hair": 0.3, "hat": 0.9, "cloth": 0.7}
"""How often a part is taken where the photo has it."""
_RARE = {"hat": 0.02, "glasses": 0.01}  # smallest fraction of the image for a part to count
_TRIES = 16


class Layers:
    """Draws covers for samples: parts of real photos, or blobs of smooth colour if there are no parsing masks.

    Args:
        photos: samples with `image` (3, S, S) and `parsing` (S, S), by index; None: blobs.
        rare: fraction of draws that take a photo with a hat or glasses, which are rare in data sets.
    """

    def __init__(self, photos: Any = None, rare: float = 0.5) -> None:
        self.photos, self.rare = photos, rare

    @classmethod
    def of(cls, data: Any) -> Layers:
        """Use the training photos of a data module that have parsing masks; generated samples have none."""
        return cls(training_photos(data))

    def draw(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw an image (3, size, size) in [-1, 1] and its opacity (1, size, size) in [0, 1]."""
        if not self.photos:
            return self._blob(size, rng)
        picture, parsing = self._photo(rng)
        chosen = [number for name, classes in CLASSES.items() for number in classes if _happens(SHARES[name], rng)]
        alpha = inside(parsing, chosen)[None, None]
        if _happens(0.5, rng):
            picture, alpha = picture.flip(3), alpha.flip(3)
        return resize_area(picture, size)[0], blur(resize_area(alpha, size), max(1, size // 128))[0]

    def cover(self, size: int, rng: torch.Generator) -> dict[str, Tensor]:
        """Draw the arguments of `covered`: `colour` (1, 2, 3), `layer` (1, 3, S, S), `alpha` (1, 1, S, S).

        `layer` and `alpha` are uint8, so that saving them is lossless.
        """
        gain = 1 + 0.2 * _uniform(rng) + 0.05 * _uniform(rng, 3)
        offset = 0.15 * _uniform(rng) + 0.08 * _uniform(rng, 3)
        layer, alpha = self.draw(size, rng)
        colour = torch.stack([gain, offset])[None]
        return {"colour": colour, "layer": to_uint8(layer[None]), "alpha": (alpha[None] * 255).round().byte()}

    def _photo(self, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        wanted = _happens(self.rare, rng)
        for _ in range(_TRIES):
            photo = self.photos[int(torch.randint(len(self.photos), (), generator=rng))]
            if not wanted or any(float(inside(photo["parsing"], CLASSES[k]).mean()) > v for k, v in _RARE.items()):
                break
        return photo["image"][None], photo["parsing"]

    def _blob(self, size: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
        coarse = 2 * torch.rand(1, 3, 6, 6, generator=rng) - 1
        picture = F.interpolate(coarse, (size, size), mode="bilinear")[0]
        return picture.clamp(-1, 1), smooth_blob(1, size, size, rng)[0]


def training_photos(data: Any) -> Part | None:
    """Return the training photos of the first source with parsing masks; None if no source has masks."""
    for outer in data.sources.values():
        for source in outer.sources.values() if isinstance(outer, Mix) else [outer]:
            if len(source) and "parsing" in source[0]:
                parts = assign(data.split, [source.name(i) for i in range(len(source))])
                return Part(source, [i for i, part in enumerate(parts) if part == TRAIN])
    return None


def covered(images: Tensor, cover: Mapping[str, Tensor]) -> Tensor:
    """Images (B, 3, S, S) with a colour cast, under a layer: `cover` is what `Layers.cover` gives, uint8 or floats."""
    floats = {key: value.to(images.device) for key, value in cover_floats(cover).items()}
    gain, offset = floats["colour"][:, 0, :, None, None], floats["colour"][:, 1, :, None, None]
    cast = (images.clamp(-1, 1) * gain + offset).clamp(-1, 1)
    return cast + floats["alpha"] * (floats["layer"] - cast)


def cover_floats(row: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """All tensors as floats: `layer` in [-1, 1] and `alpha` in [0, 1]."""
    floats = {key: value.float() for key, value in row.items() if isinstance(value, Tensor)}
    if row["layer"].dtype == torch.uint8:
        floats |= {"layer": floats["layer"] / 127.5 - 1, "alpha": floats["alpha"] / 255}
    return floats


def inside(parsing: Tensor, classes: Sequence[int]) -> Tensor:
    """1 where a parsing mask has one of the classes, else 0; float, of its shape."""
    return torch.isin(parsing, torch.tensor(classes, dtype=parsing.dtype)).float()


def _happens(share: float, rng: torch.Generator) -> bool:
    return float(torch.rand((), generator=rng)) < share


def _uniform(rng: torch.Generator, count: int = 1) -> Tensor:
    return (2 * torch.rand(count, generator=rng) - 1).expand(3)
