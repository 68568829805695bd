"""Base class of all stored images: encoded files by name, checked for damage, with labels and parsing masks."""

from __future__ import annotations

import io
import logging
import warnings
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import torch
from PIL import Image

from oodgan.data import images
from oodgan.data.known import Known
from oodgan.data.labels import Labels, of_images, read_labels
from oodgan.data.listing import Listing
from oodgan.data.names import bare, matched
from oodgan.data.source import Sample, Source, checked_size
from oodgan.errors import UserError
from oodgan.foreign import reading
from oodgan.remote import local

log = logging.getLogger("oodgan")
CLASSES = 19
"""Classes of CelebAMask-HQ's parsing masks, numbered from 0."""
MASK = ".parsing.png"
"""How the parsing mask of an image ends that lies beside it in an archive."""

LABELS = "labels.json"
"""The member of an archive that holds the images' labels."""

HEAD, TAIL = 2**16, 2**10
_ENDS = {"JPEG": b"\xff\xd9", "PNG": b"IEND"}


class Encoded(Source):
    """Images stored as encoded files, ordered by name.

    Args:
        where: name of the source in messages.
        names: names of its images.
        size: side of the returned images; images that are not square are cropped to the centred square.
        check: leave out damaged images from the start. Results are remembered until a file changes.
        labels: a label file (`oodgan.data.labels`) or its parsed content; adds `labels` to samples.
        parsing: a folder of parsing masks, PNGs named as the images; adds `parsing` to samples.

    Subclasses implement how the bytes of an image (`_bytes`, `_ends`) and of stored masks (`_mask`) are read.
    Raises `UserError` when no image is readable, or when a label or mask fits several images.
    """

    def __init__(
        self,
        where: str,
        names: Sequence[str],
        size: int,
        check: bool = True,
        labels: str | Path | Labels | None = None,
        parsing: str | Path | None = None,
    ) -> None:
        self.where, self.size, self.skipped = where, checked_size(size), {}
        self.names = self._whole(sorted(names)) if check else sorted(names)
        if not self.names:
            raise UserError(f"no readable images in {where}")
        self._masks = self._parsing(parsing) if parsing else {}
        self.attributes, self._values = self._labels(labels)

    def _whole(self, names: list[str]) -> list[str]:
        """The names of the images that are not damaged; the others are remembered in `skipped`."""
        kept = []
        with Known.of(self.where) as known:
            for name in names:
                reason = known.ask(name, self._stamp(name), self._damage)
                if reason is None:
                    kept.append(name)
                else:
                    self.skipped[name] = reason
        if self.skipped:
            first = ", ".join(f"{name} ({reason})" for name, reason in list(self.skipped.items())[:5])
            warnings.warn(f"{self.where}: {len(self.skipped)} damaged image(s) skipped: {first}", stacklevel=4)
        return kept

    def _labels(self, labels: str | Path | Labels | None) -> tuple[list[str], np.ndarray]:
        """The attributes, and a table (images, attributes) with NaN where one is unknown."""
        if labels is None:
            return [], np.zeros((0, 0), np.float32)
        if isinstance(labels, str | Path):
            with reading(labels, "label file"):
                labels = of_images(read_labels(local(labels)), self.names)
        table = np.full((len(self.names), len(labels)), np.nan, np.float32)
        for k, column in enumerate(labels.values()):
            table[:, k] = [column.get(name, np.nan) for name in self.names]
        return list(labels), table

    def _parsing(self, folder: str | Path) -> Mapping[str, Path]:
        masks = Listing.of(local(folder), "parsing masks", (".png",)).files()
        mask_files = matched(self.names, masks, f"images in {self.where}", "masks")
        read_parsing(next(iter(mask_files.values())))  # detect other kinds of masks now, not in the first epoch
        return mask_files

    def __len__(self) -> int:
        return len(self.names)

    def name(self, index: int) -> str:
        return self.names[index]

    def labels(self, index: int) -> dict[str, float]:
        """Return the known labels of an image: {attribute: value}."""
        if not self.attributes:
            return {}
        row = self._values[index]
        return {name: float(v) for name, v in zip(self.attributes, row, strict=True) if not np.isnan(v)}

    def __getitem__(self, index: int) -> Sample:
        name = self.names[index]
        picture = images.read_rgb(io.BytesIO(self._bytes(name)), f"{self.where}/{name}")
        sample: Sample = {"image": images.resize(images.from_pil(centre(picture)), self.size), "name": name}
        mask = self._mask(name)
        if mask is not None:
            source = mask if isinstance(mask, Path) else io.BytesIO(mask)
            sample["parsing"] = read_parsing(source, self.size, f"the mask of {self.where}/{name}")
        if self.attributes:
            sample["labels"] = self.labels(index)
        return sample

    def encoded(self, index: int) -> tuple[bytes, bytes | Path | None]:
        """Return the stored bytes of an image and of its parsing mask. Raises `UserError`."""
        name = self.names[index]
        return self._bytes(name), self._mask(name)

    def _damage(self, name: str) -> str | None:
        """Return why an image is unreadable, or None. Only files whose first or last bytes look wrong are decoded."""
        try:
            head, tail = self._ends(name)
            if _looks_whole(head, tail):
                return None
            images.read_rgb(io.BytesIO(self._bytes(name)), name)
        except UserError as error:
            return str(error)
        return None

    def _stamp(self, name: str) -> str | None:
        """Return a value that changes whenever the image's file does; None if there is none."""
        return None

    @abstractmethod
    def _bytes(self, name: str) -> bytes: ...

    def _ends(self, name: str) -> tuple[bytes, bytes | None]:
        """First and last bytes of a file; None for the last if they are slow to read and verified anyway."""
        data = self._bytes(name)
        return data[:HEAD], data[-TAIL:]

    def _mask(self, name: str) -> bytes | Path | None:
        return self._masks.get(name)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_handle": None}  # each process opens its own


def own_members(names: Iterable[str]) -> tuple[list[str], dict[str, str]]:
    """The images among an archive's members, and {image: its mask}: `a/0.parsing.png` is the mask of `a/0.jpg`."""
    pictures = [name for name in names if not name.lower().endswith(MASK)]
    image_of = {bare(name): name for name in pictures}
    masks = {name[: -len(MASK)]: name for name in names if name.lower().endswith(MASK)}
    return pictures, {image_of[stem]: mask for stem, mask in masks.items() if stem in image_of}


def centre(picture: Image.Image) -> Image.Image:
    """The largest centred square."""
    side = min(picture.size)
    left, top = (picture.width - side) // 2, (picture.height - side) // 2
    return picture if picture.width == picture.height else picture.crop((left, top, left + side, top + side))


def _looks_whole(head: bytes, tail: bytes | None) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            kind = Image.open(io.BytesIO(head)).format or ""
    except Exception:  # decoders raise many kinds of errors for truncated files
        return False
    return tail is None or _ENDS.get(kind, b"") in tail


def read_parsing(source: str | Path | IO[bytes], size: int | None = None, name: str | None = None) -> torch.Tensor:
    """Read a parsing mask (palette or grey PNG whose values are classes) as int64 (H, W).

    With `size`, returns the centred square resized to (size, size) by nearest neighbour. Raises `UserError` for another
    kind of image, and for values that are no class.
    """
    label = name or (str(source) if isinstance(source, str | Path) else "the mask")
    with reading(label, "parsing mask"), Image.open(source, formats=("PNG",)) as picture:
        if picture.mode not in ("P", "L"):
            raise UserError(f"{label} is not a parsing mask: mode {picture.mode}, expected palette or grey")
        if (highest := max(picture.getextrema())) >= CLASSES:  # type: ignore[operator]
            raise UserError(f"{label} is not a parsing mask: value {highest}, and classes are 0 to {CLASSES - 1}")
        classes = picture if size is None else centre(picture).resize((size, size), Image.Resampling.NEAREST)
        return torch.from_numpy(np.array(classes, dtype=np.int64))
