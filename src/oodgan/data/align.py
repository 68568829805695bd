"""Alignment: crop a face like FFHQ, and paste an edited crop back.

The crop is the one of FFHQ's dataset tool (Karras et al. 2019; first described for CelebA-HQ, Karras et al. 2018,
appendix C): a square turned along the eyes, sized by the eyes' distance and the distance of eyes and mouth, mirrored
and blurred beyond the photo's border.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from oodgan.data import images
from oodgan.data.detect import Face, detect_faces
from oodgan.errors import UserError

Floats = NDArray[np.float64]
Pixels = NDArray[np.float32]

MIN_FACE = 64
"""Faces smaller than this many pixels are aligned with a warning: their crop is mostly invented by enlarging."""

# MTCNN's eyes and mouth corners differ slightly from dlib's 68 points, with which FFHQ was aligned. The shift
# and scale below (crop sides; factor) are the mean difference over 500 FFHQ photos.
OFFSET = (0.0, -0.0105)
SCALE = 0.972


@dataclass(frozen=True)
class Aligned:
    """A face cut out of a photo.

    `photo` (3, S, S) in [-1, 1]; `quad` (4, 2) the crop's corners in the photo's continuous pixel coordinates: top
    left, bottom left, bottom right, top right; `face` None when the corners were given.
    """

    photo: Tensor
    quad: Floats
    face: Face | None = None

    @property
    def size(self) -> int:
        """Side S of the crop in pixels."""
        return self.photo.shape[-1]

    @property
    def side(self) -> float:
        """Side of the crop in the original photo's pixels."""
        return float(np.hypot(*(self.quad[3] - self.quad[0])))

    @property
    def matrix(self) -> Floats:
        """(2, 3) affine map of crop coordinates in [0, S] to the photo's."""
        return _affine(self.quad, self.size)


def ffhq_quad(landmarks: Floats) -> Floats:
    """Corners (4, 2) of FFHQ's crop from five landmarks (5, 2), corrected for the detector that found them.

    Order as in `Aligned.quad`. Raises `UserError` when the landmarks coincide.
    """
    left, right, _, mouth_left, mouth_right = np.asarray(landmarks, dtype=np.float64)
    eyes, mouth = (left + right) / 2, (mouth_left + mouth_right) / 2
    across, down = right - left, mouth - eyes
    x = across + np.array([down[1], -down[0]])
    if not np.isfinite(x).all() or np.hypot(*x) < 1e-6:
        raise UserError("the face's landmarks coincide; it cannot be aligned")
    x *= max(np.hypot(*across) * 2.0, np.hypot(*down) * 1.8) / np.hypot(*x)
    y = np.array([-x[1], x[0]])
    centre = eyes + 0.1 * down + 2 * (OFFSET[0] * x + OFFSET[1] * y)
    x, y = SCALE * x, SCALE * y
    return np.stack([centre - x - y, centre - x + y, centre + x + y, centre + x - y])


def _affine(quad: Floats, size: int) -> Floats:
    return np.column_stack([(quad[3] - quad[0]) / size, (quad[1] - quad[0]) / size, quad[0]])


def align(image: Image.Image, face: Face | Floats, size: int) -> Aligned:
    """Cut the FFHQ crop of a face out of an RGB picture at `size` pixels.

    `face` is a detected face or the crop's corners (4, 2). Warns when a detected face is smaller than `MIN_FACE`.
    """
    if isinstance(face, Face):
        if face.size < MIN_FACE:
            warnings.warn(
                f"the face is only {face.size:.0f} px wide; below {MIN_FACE} px results are poor", stacklevel=2
            )
        quad, detected = ffhq_quad(face.landmarks), face
    else:
        quad, detected = np.asarray(face, dtype=np.float64), None
    rgb = image if image.mode == "RGB" else image.convert("RGB")
    pixels, origin, scale = _region(rgb, quad, size)
    local = (quad - origin) * scale
    crop = _warp(pixels, local, size)
    return Aligned(torch.from_numpy(crop).permute(2, 0, 1).contiguous().div(127.5).sub(1).clamp(-1, 1), quad, detected)


def choose(faces: Sequence[Face], face: str | int = "largest", name: str = "the photo") -> list[Face]:
    """Choose among faces, sorted by size as `detect_faces` returns them: `largest`, `all`, or an index from 0.

    Raises `UserError` if there is no such face. Warns if `largest` ignores others.
    """
    if not faces:
        raise UserError(f"no face found in {name}; if it is an FFHQ-style crop already, use aligned=true")
    if face == "all":
        return list(faces)
    if face == "largest":
        if len(faces) > 1:
            warnings.warn(f"{len(faces)} faces in {name}: the largest is used (face=all takes each)", stacklevel=2)
        return [faces[0]]
    try:
        index = int(face)
    except ValueError:
        raise UserError(f"face={face} is not known: largest, all, or a number from 0") from None
    if not 0 <= index < len(faces):
        raise UserError(f"face={index}: {name} has {len(faces)} face(s), numbered from 0, largest first")
    return [faces[index]]


def align_photo(
    image: Image.Image, size: int, face: str | int | Face = "largest", name: str = "the photo", aligned: bool = False
) -> list[Aligned]:
    """Detect, choose and align: one `Aligned` for each chosen face of an RGB picture; nothing is detected for a `Face`.

    With `aligned`, the picture is an FFHQ-style crop already: its centred square is only resized.
    """
    if isinstance(face, Face):
        return [align(image, face, size)]
    if not aligned:
        return [align(image, detected, size) for detected in choose(detect_faces(image), face, name)]
    side = min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    box = [int(left), int(top), int(left) + side, int(top) + side]
    photo = images.resize(images.from_pil(image.crop((box[0], box[1], box[2], box[3]))), size)
    corners = [(box[0], box[1]), (box[0], box[3]), (box[2], box[3]), (box[2], box[1])]
    return [Aligned(photo, np.array(corners, dtype=np.float64))]


def _region(image: Image.Image, quad: Floats, size: int) -> tuple[Pixels, Floats, float]:
    """Cut the region around the quad out of the picture, scaled to at most twice the output, mirrored at its borders.

    Returns float32 pixels (H, W, 3) in 0..255, the picture coordinates of their corner, and their scale.
    """
    side = float(np.hypot(*(quad[3] - quad[0])))
    factor = max(1, int(side / size))
    border = max(round(side * 0.1), 3) * 1.0
    low, high = np.floor(quad.min(axis=0) - border), np.ceil(quad.max(axis=0) + border)
    x0, y0 = (int(v) for v in np.maximum(low, 0))
    x1, y1 = int(min(high[0], image.width)), int(min(high[1], image.height))
    if x1 - x0 < 2 or y1 - y0 < 2:
        raise UserError("the face lies outside the photo; it cannot be aligned")
    region = image.crop((x0, y0, x1, y1))
    if factor > 1:
        region = region.reduce(factor)
    pixels = np.array(region, dtype=np.float32)
    pad = np.ceil(np.array([x0 - low[0], y0 - low[1], high[0] - x1, high[1] - y1]) / factor).astype(int)
    if (np.array([quad.min(axis=0), np.array(image.size) - quad.max(axis=0)]) < 0).any():
        pad = np.maximum(pad, round(side / factor * 0.3))
        pixels = _mirror(pixels, pad, side / factor)
    else:
        pad[:] = 0
    return pixels, np.array([x0 - pad[0] * factor, y0 - pad[1] * factor], dtype=np.float64), 1 / factor


def _mirror(pixels: Pixels, pad: NDArray[np.int_], side: float) -> Pixels:
    """Pad (left, top, right, bottom) by reflection, fading into a blur and then into the median colour (as FFHQ)."""
    import cv2

    left, top, right, bottom = (int(v) for v in pad)
    out = np.pad(pixels, ((top, bottom), (left, right), (0, 0)), "reflect" if min(pixels.shape[:2]) > 1 else "edge")
    height, width = out.shape[:2]
    y, x = np.ogrid[:height, :width]
    depth_x = np.minimum(x / left, (width - 1 - x) / right)
    depth_y = np.minimum(y / top, (height - 1 - y) / bottom)
    outside = (1 - np.minimum(depth_x, depth_y)).astype(np.float32)[..., None]
    blurred = cv2.GaussianBlur(out, (0, 0), max(side * 0.02, 0.5), borderType=cv2.BORDER_REFLECT)
    out = out + (blurred - out) * np.clip(outside * 3 + 1, 0, 1)
    return (out + (np.median(out, axis=(0, 1)) - out) * np.clip(outside, 0, 1)).astype(np.float32)


def _warp(pixels: Pixels, quad: Floats, size: int) -> Pixels:
    """Resample the quad to (size, size, 3): cubic on a grid as fine as the source, then the mean of each pixel."""
    import cv2

    fine = size * max(1, int(np.ceil(np.hypot(*(quad[3] - quad[0])) / size)))
    flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
    out = cv2.warpAffine(
        pixels, _centred(_affine(quad, fine)), (fine, fine), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out if fine == size else cv2.resize(out, (size, size), interpolation=cv2.INTER_AREA))


def _centred(matrix: Floats) -> Floats:
    """Convert an affine map of continuous coordinates to one of pixel indices, as OpenCV expects."""
    shifted = matrix.copy()
    shifted[:, 2] += matrix[:, :2] @ np.array([0.5, 0.5]) - 0.5
    return shifted


def paste_back(
    original: Image.Image,
    result: Tensor,
    aligned: Aligned,
    mask: Tensor | None = None,
    *,
    feather: float = 0.08,
    keep_detail: bool = True,
) -> Image.Image:
    """Put an edited crop back into the photo that it was cut from, at the photo's own resolution.

    `result` (3, S, S) in [-1, 1]; `mask` (S, S) or (1, S, S) in [0, 1] limits the change. Pixels outside the crop, and
    where mask or feather are 0, are bit-identical to the photo's. The change fades in over `feather` crop
    sides from the crop's edge. With `keep_detail`, detail of the photo finer than the crop is kept where the result
    hardly differs from the aligned photo, so that pasting the aligned photo itself returns the original exactly.
    """
    size = aligned.size
    if tuple(result.shape[-3:]) != (3, size, size) or result.numel() != 3 * size * size:
        raise ValueError(f"result must be (3, {size}, {size}) like the aligned photo, got {tuple(result.shape)}")
    rgb = original if original.mode == "RGB" else original.convert("RGB")
    low = np.maximum(np.floor(aligned.quad.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(aligned.quad.max(axis=0)), rgb.size).astype(int)
    if (high <= low).any():
        return rgb.copy()
    view = _View(aligned.quad, low, (int(high[0] - low[0]), int(high[1] - low[1])))
    weight = view.weight(feather)
    if mask is not None:
        weight *= view.sample(mask.detach().float().cpu().reshape(1, size, size), cubic=False).clip(0, 1)
    photo, change = aligned.photo.detach().float().cpu(), result.detach().float().cpu().reshape(3, size, size)
    change = change.clamp(-1, 1) - photo
    delta = view.sample(change)
    box = (int(low[0]), int(low[1]), int(high[0]), int(high[1]))
    region = np.asarray(rgb.crop(box))
    missing = region.astype(np.float32) / 127.5 - 1 - view.sample(photo)
    delta -= missing * (view.changed(delta) if keep_detail else 1)
    blended = np.rint(region + 127.5 * weight * delta).clip(0, 255).astype(np.uint8)
    out = rgb.copy()
    out.paste(Image.fromarray(blended), box[:2])
    return out


def on_photo(aligned: Aligned, mask: Tensor, extent: tuple[int, int]) -> Image.Image:
    """A crop's mask (1, S, S) in [0, 1] as a grey picture of the photo's (width, height), black outside the crop."""
    low = np.maximum(np.floor(aligned.quad.min(axis=0)), 0).astype(int)
    high = np.minimum(np.ceil(aligned.quad.max(axis=0)), extent).astype(int)
    whole = Image.new("L", extent)
    if (high > low).all():
        view = _View(aligned.quad, low, (int(high[0] - low[0]), int(high[1] - low[1])))
        values = view.sample(mask.float(), cubic=False) * (view.weight(0) > 0)
        whole.paste(
            Image.fromarray(np.rint(values[..., 0].clip(0, 1) * 255).astype(np.uint8)), (int(low[0]), int(low[1]))
        )
    return whole


@dataclass(frozen=True)
class _View:
    """The crop seen from a window of the photo: window corner and (width, height) in photo pixels."""

    quad: Floats
    low: NDArray[np.int_]
    extent: tuple[int, int]

    def _to_crop(self, size: int) -> Floats:
        import cv2

        matrix = _affine(self.quad, size)
        matrix[:, 2] -= self.low
        return np.asarray(cv2.invertAffineTransform(matrix))

    def sample(self, crop: Tensor, cubic: bool = True) -> Pixels:
        """Resample a crop (C, S, S) to (height, width, C); reduced first where the photo is coarser."""
        import cv2

        side = int(np.ceil(np.hypot(*(self.quad[3] - self.quad[0]))))
        if side < crop.shape[-1]:
            crop = torch.nn.functional.interpolate(crop[None], (side, side), mode="bicubic", antialias=True)[0]
        flags = (cv2.INTER_CUBIC if cubic else cv2.INTER_LINEAR) | cv2.WARP_INVERSE_MAP
        source = crop.permute(1, 2, 0).contiguous().numpy()
        matrix = _centred(self._to_crop(crop.shape[-1]))
        out = cv2.warpAffine(source, matrix, self.extent, flags=flags, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(out, dtype=np.float32).reshape(self.extent[1], self.extent[0], -1)

    def weight(self, feather: float) -> Pixels:
        """(height, width, 1): 0 outside the crop and at its edge, 1 from `feather` crop sides inwards."""
        matrix = self._to_crop(1).astype(np.float32)
        x = np.arange(self.extent[0], dtype=np.float32)[None] + 0.5
        y = np.arange(self.extent[1], dtype=np.float32)[:, None] + 0.5
        u = matrix[0, 0] * x + matrix[0, 1] * y + matrix[0, 2]
        v = matrix[1, 0] * x + matrix[1, 1] * y + matrix[1, 2]
        inside = np.minimum(np.minimum(u, 1 - u), np.minimum(v, 1 - v))
        return _smooth(inside / max(feather, 1e-6))[..., None]

    def changed(self, delta: Pixels) -> Pixels:
        """(height, width, 1): 0 where the crop hardly changed, 1 where it clearly did."""
        import cv2

        amount = np.abs(delta).max(axis=2)
        sigma = max(0.5, 0.004 * float(np.hypot(*(self.quad[3] - self.quad[0]))))
        return _smooth((cv2.GaussianBlur(amount, (0, 0), sigma) - 0.04) / 0.12)[..., None]


def _smooth(t: Pixels) -> Pixels:
    t = t.clip(0, 1)
    return t * t * (3 - 2 * t)
