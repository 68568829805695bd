"""CelebAMask-HQ as it is distributed: photos, one mask a part of a face, and attributes."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image

from oodgan.data import images
from oodgan.data.encoded import Encoded
from oodgan.data.labels import of_images, read_labels
from oodgan.data.listing import Listing
from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.remote import local

PHOTOS, PARTS, ATTRIBUTES = "CelebA-HQ-img", "CelebAMask-HQ-mask-anno", "CelebAMask-HQ-attribute-anno.txt"
CLASSES = (
    "skin", "nose", "eye_g", "l_eye", "r_eye", "l_brow", "r_brow", "l_ear", "r_ear", "mouth", "u_lip", "l_lip",
    "hair", "hat", "ear_r", "neck_l", "neck", "cloth",
)  # fmt: skip
"""Classes 1 to 18 of parsing masks; later ones lie over earlier ones, as in the data set's own `g_mask.py`."""


class CelebAMaskHQ(Encoded):
    """CelebAMask-HQ's folder: `CelebA-HQ-img/0.jpg`, `CelebAMask-HQ-mask-anno/0/00000_skin.png` ..., and attributes.

    A sample has the 40 attributes (under this package's names) as `labels` and the parts' masks as one `parsing`.

    Args:
        root: the folder that holds these three.
        parsing: a folder of parsing masks made from the parts before, instead of the parts: reading them is faster.

    Other arguments, and what is raised, as of `Encoded`; also where the photos are not there.
    """

    def __init__(
        self, root: str | Path, size: int = 256, parsing: str | Path | None = None, check: bool = True
    ) -> None:
        self.root = local(root)
        if not (self.root / PHOTOS).is_dir():
            raise UserError(f"{self.root} is not CelebAMask-HQ as it is distributed: there is no {PHOTOS} in it")
        names = Listing.of(self.root / PHOTOS, "photos").pictures
        self._parts: dict[str, dict[str, Path]] = {}
        if parsing is None and (self.root / PARTS).is_dir():
            self._parts = _parts(self.root / PARTS)
        labels = None
        if (self.root / ATTRIBUTES).is_file():
            labels = of_images(read_labels(self.root / ATTRIBUTES), names)
        super().__init__(str(self.root / PHOTOS), names, size, check, labels, parsing)

    def _bytes(self, name: str) -> bytes:
        with reading(self.root / PHOTOS / name, "photo"):
            return (self.root / PHOTOS / name).read_bytes()

    def _stamp(self, name: str) -> str | None:
        stat = (self.root / PHOTOS / name).stat()
        return f"{stat.st_size} {stat.st_mtime_ns}"

    def _mask(self, name: str) -> bytes | Path | None:
        stem = Path(name).stem
        parts = self._parts.get(stem.zfill(5)) if stem.isdigit() else None
        if parts is None:
            return super()._mask(name)
        classes: np.ndarray | None = None
        for number, part in enumerate(CLASSES, 1):
            if part not in parts:
                continue
            inside = np.asarray(images.read_rgb(parts[part]).convert("L")) > 0
            classes = np.zeros(inside.shape, np.uint8) if classes is None else classes
            if inside.shape != classes.shape:
                raise UserError(f"{parts[part]} is of another size than the other parts of {name}")
            classes[inside] = number
        assert classes is not None
        held = io.BytesIO()
        Image.fromarray(classes).save(held, "PNG")
        return held.getvalue()


def _parts(folder: Path) -> dict[str, dict[str, Path]]:
    """Number of the photo, five digits -> {part: mask file}."""
    parts: dict[str, dict[str, Path]] = {}
    for name, path in Listing.of(folder, "masks of parts", (".png",)).files().items():
        number, _, part = Path(name).stem.partition("_")
        if part in CLASSES:
            parts.setdefault(number, {})[part] = path
    return parts
