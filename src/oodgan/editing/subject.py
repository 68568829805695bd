"""Photos in any accepted form, and their faces with the data that all edits of a face share."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from oodgan.data import images
from oodgan.data.align import Aligned, align_photo
from oodgan.data.detect import Face
from oodgan.data.images import Photo
from oodgan.errors import UserError
from oodgan.inversion.value import Inversion

Picture = str | Path | Image.Image | np.ndarray | Tensor | Photo


@dataclass
class Subject:
    """One face of one photo.

    `source` is the original photo (upright RGB), `aligned` the FFHQ crop with its position, `photo` the crop as a
    tensor (1, 3, R, R) in [-1, 1]. `inversion` and its image `inverted` (1, 3, R, R) are computed by the first edit and
    reused.
    """

    source: Photo
    aligned: Aligned
    photo: Tensor
    inversion: Inversion | None = None
    inverted: Tensor | None = None


def read_picture(picture: Picture) -> Photo:
    """Read a photo in any of the accepted forms.

    A path; a PIL picture of any mode; a numpy array (H, W), (H, W, 3) or (H, W, 4), uint8 or float in [0, 1]; a tensor
    (3, H, W) or (1, 3, H, W) in [-1, 1].

    Raises:
        UserError: an unreadable file, or an array or tensor of another shape, type or range.
    """
    if isinstance(picture, Photo):
        return picture
    if isinstance(picture, str | Path):
        return images.open_photo(picture)
    if isinstance(picture, Image.Image):
        return images.photo_of(picture, getattr(picture, "filename", "") or "picture")
    if isinstance(picture, np.ndarray):
        return Photo(_from_array(picture), "array")
    if isinstance(picture, Tensor):
        return Photo(_from_tensor(picture), "tensor")
    raise UserError(f"a {type(picture).__name__} is not a photo: give a path, a PIL picture, an array or a tensor")


def _from_array(array: np.ndarray) -> Image.Image:
    fits = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (3, 4))
    if not fits or not array.size:
        raise UserError(f"an array of shape {array.shape} is not a photo: (H, W, 3) expected")
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < 0 or array.max() > 1:
            raise UserError("a photo as a float array has values in [0, 1]; use uint8 for 0 to 255")
        array = np.rint(array * 255).astype(np.uint8)
    if array.dtype != np.uint8:
        raise UserError(f"an array of {array.dtype} is not a photo: uint8, or float in [0, 1] expected")
    picture = Image.fromarray(np.ascontiguousarray(array))
    return picture if picture.mode == "RGB" else images.to_pil(images.from_pil(picture))


def _from_tensor(tensor: Tensor) -> Image.Image:
    plane = tensor[0] if tensor.ndim == 4 and len(tensor) == 1 else tensor
    if plane.ndim != 3 or plane.shape[0] != 3:
        raise UserError(
            f"a tensor of shape {tuple(tensor.shape)} is not a photo: (3, H, W) in [-1, 1] expected, or a list"
        )
    if not plane.is_floating_point() or not bool(torch.isfinite(plane).all()) or float(plane.abs().max()) > 1.01:
        raise UserError("a photo as a tensor is a float tensor with values in [-1, 1]")
    return images.to_pil(plane)


class Subjects:
    """Cache of the faces of recent photos, by the photos' pixels.

    Args:
        size: side of the aligned crops in pixels.
        device: where the crops go.
        keep: number of photos in the cache; the least recently used one is dropped first.
    """

    def __init__(self, size: int, device: torch.device | str = "cpu", keep: int = 8) -> None:
        self.size, self.device, self.keep = size, device, keep
        self._known: OrderedDict[str, list[Subject]] = OrderedDict()

    def find(self, picture: Picture, aligned: bool = False, face: str | int | Face = "largest") -> list[Subject]:
        """Return the chosen faces of a photo. Raises UserError as `read_picture` and `align_photo` do."""
        source = read_picture(picture)
        key = _key(source.image, aligned, face)
        if key not in self._known:
            crops = align_photo(source.image, self.size, face, source.name, aligned)
            self._known[key] = [Subject(source, crop, crop.photo[None].to(self.device)) for crop in crops]
        self._known.move_to_end(key)
        while len(self._known) > self.keep:
            self._known.popitem(last=False)
        return self._known[key]

    def forget(self) -> None:
        """Drop all photos."""
        self._known.clear()


def _key(image: Image.Image, *settings: Any) -> str:
    hasher = hashlib.blake2b(image.tobytes(), digest_size=16)
    hasher.update(repr((image.size, *map(str, settings))).encode())
    return hasher.hexdigest()


def once(subject: Subject, invert: Callable[[Tensor], tuple[Inversion, Tensor]]) -> tuple[Inversion, Tensor]:
    """Return inversion and inverted image of a face, computed by `invert(photo)` the first time."""
    if subject.inversion is None or subject.inverted is None:
        subject.inversion, subject.inverted = invert(subject.photo)
    return subject.inversion, subject.inverted
