"""Conversion between image files or PIL images and float RGB tensors in [-1, 1]; no other module converts them."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from oodgan.data import metadata
from oodgan.errors import UserError, nearest
from oodgan.files import replacing

Result = TypeVar("Result")

DECODERS: dict[str, tuple[str, ...]] = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif", ".jif", ".mpo"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "TIFF": (".tif", ".tiff"),
    "HEIF": (".heic", ".heif", ".hif"),
    "AVIF": (".avif", ".avifs"),
    "BMP": (".bmp", ".dib"),
    "GIF": (".gif",),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm", ".pfm"),
    "JPEG2000": (".jp2", ".j2k", ".jpx", ".jpf", ".j2c", ".jpc"),
    "TGA": (".tga",),
}
"""Pillow's decoders that photos are read with, and the endings of their files. EPS, which starts an interpreter, and
formats of no camera are left out."""

SUFFIXES = tuple(ending for endings in DECODERS.values() for ending in endings)
"""File name endings, lower case, that count as photos when a folder or an archive is listed."""

FORMATS = ("png", "jpg", "webp")
"""Endings of the files that edits are saved in."""

MAX_PIXELS = 100_000_000
"""Photos up to this many pixels are read at full size; larger ones (decompression bombs too) are refused undecoded."""
_MOST_BYTES = 2**28  # of a file that is read as a whole

_LARGEST = {"WEBP": 16383, "JPEG": 65535}
_ENCODERS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


@dataclass(frozen=True)
class Photo:
    """A decoded photo: 8-bit RGB picture, upright, with the metadata that a copy of it should carry.

    `exif` has no orientation tag any more (the pixels were turned); `icc` is None unless the file was RGB.
    """

    image: Image.Image
    name: str
    exif: bytes | None = None
    icc: bytes | None = None


def open_photo(source: str | Path | IO[bytes], name: str | None = None) -> Photo:
    """Decode a photo of any mode into upright 8-bit RGB.

    Grey, palette and CMYK images are converted, 16 bits are scaled by 1/257 and rounded, transparent pixels become
    white, and the first frame of an animation is used. Unreadable metadata are left out with a warning. Raises
    `UserError` naming the file if it is missing, no image, damaged, or larger than `MAX_PIXELS`.
    """
    label = _label(source, name)
    photo, lost = _read(source, label, lambda image: _photo(image, label))
    return _noted(photo, lost)


def photo_of(picture: Image.Image, name: str) -> Photo:
    """Convert a PIL image to a `Photo`, as `open_photo` does."""
    try:
        return _noted(*_photo(picture, name))
    except Exception as error:  # decoders answer damage with errors of every kind
        raise UserError(f"{name} cannot be read: {error or type(error).__name__}") from error


def _photo(image: Image.Image, name: str) -> tuple[Photo, bool]:
    exif, lost = metadata.exif_of(image)
    return Photo(_upright_rgb(image), name, exif, _icc(image)), lost


def _noted(photo: Photo, lost: bool) -> Photo:
    if lost:
        warnings.warn(f"camera data (EXIF) of {photo.name} are damaged: left out where unreadable", stacklevel=3)
    return photo


def _label(source: str | Path | IO[bytes], name: str | None) -> str:
    return name or (str(source) if isinstance(source, str | Path) else "image")


def read_image(source: str | Path | IO[bytes], name: str | None = None) -> Tensor:
    """Read a photo as float32 (3, H, W) in [-1, 1], upright; modes and errors as `open_photo`."""
    return from_pil(read_rgb(source, name))


def read_rgb(source: str | Path | IO[bytes], name: str | None = None) -> Image.Image:
    """Read a photo as an upright 8-bit RGB picture without metadata; modes and errors as `open_photo`."""
    return _read(source, _label(source, name), _upright_rgb)


def read_size(source: str | Path | IO[bytes], name: str | None = None) -> tuple[int, int]:
    """Width and height of a photo, upright, without decoding it; errors as `open_photo` where the header is damaged."""

    def size(image: Image.Image) -> tuple[int, int]:
        turned = image.width != image.height and metadata.sideways(image)
        return (image.height, image.width) if turned else image.size

    return _read(source, _label(source, name), size)


def read_mask(source: str | Path | IO[bytes], name: str | None = None) -> Tensor:
    """Read a picture of any mode as a grey mask (1, H, W) in [0, 1]; errors as `open_photo`."""
    grey = np.array(read_rgb(source, name).convert("L"), dtype=np.float32)
    return torch.from_numpy(grey)[None] / 255


@cache
def decoders() -> tuple[str, ...]:
    """The formats that can be read here: HEIF (of iPhones) needs a plugin."""
    try:
        import pi_heif
    except ImportError:
        return tuple(kind for kind in DECODERS if kind != "HEIF")
    pi_heif.register_heif_opener(thumbnails=False)
    return tuple(DECODERS)


def _read(source: str | Path | IO[bytes], label: str, use: Callable[[Image.Image], Result]) -> Result:
    """Open an image and call `use` with it. On failure, try again without metadata, which may be the cause."""
    try:
        return _opened(source, label, use)
    except UserError as error:
        if not isinstance(error.__cause__, Exception) or isinstance(error.__cause__, FileNotFoundError):
            raise
        try:
            content = _bytes(source)
            spared = None if content is None else metadata.without(content)
            if spared is None:
                raise error
            result = _opened(io.BytesIO(spared), label, use)
        except (UserError, OSError):
            raise error from None
        warnings.warn(f"{label}: its metadata are damaged and left out", stacklevel=4)
        return result


def _bytes(source: str | Path | IO[bytes]) -> bytes | None:
    """Return a file's content; None for devices and pipes, which may have no end, and for very large files."""
    if isinstance(source, str | Path):
        path = Path(source)
        return path.read_bytes() if path.is_file() and path.stat().st_size <= _MOST_BYTES else None
    source.seek(0)
    return source.read()


def _opened(source: str | Path | IO[bytes], label: str, use: Callable[[Image.Image], Result]) -> Result:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # warnings about files that can be read nevertheless
            with Image.open(source, formats=decoders()) as image:
                if image.width * image.height > MAX_PIXELS:
                    raise UserError(_too_large(label, f"{image.width} x {image.height}"))
                return use(image)
    except UserError:
        raise
    except FileNotFoundError as error:
        raise UserError(f"no such file: {label}") from error
    except IsADirectoryError:
        raise UserError(f"{label} is a folder, not an image file") from None
    except Image.DecompressionBombError:
        raise UserError(_too_large(label, "far too large")) from None
    except UnidentifiedImageError as error:
        raise UserError(f"{label} is not an image that can be read ({_known()})") from error
    except Exception as error:  # decoders answer damage with errors of every kind
        raise UserError(f"{label} cannot be read: {error or type(error).__name__}") from error


def _known() -> str:
    kinds = ", ".join(kind.lower() for kind in decoders())
    return kinds if "HEIF" in decoders() else f"{kinds}; heif after pip install pi-heif"


def _too_large(label: str, size: str) -> str:
    return f"{label} is too large ({size}); at most {MAX_PIXELS // 1_000_000} million pixels are read, scale it down"


def _icc(image: Image.Image) -> bytes | None:
    profile = image.info.get("icc_profile") if image.mode in ("RGB", "RGBA") else None
    return profile if isinstance(profile, bytes) else None


def _upright_rgb(image: Image.Image) -> Image.Image:
    turned = metadata.upright(image)
    return turned if turned is not image and turned.mode == "RGB" else _to_rgb(turned)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode == "RGB":
        return image.copy()
    if image.mode.startswith("I") or image.mode == "F":
        return _wide_to_rgb(image)
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        layers = image.convert("RGBA")
        white = Image.new("RGBA", layers.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, layers).convert("RGB")
    return image.convert("RGB")


def _wide_to_rgb(image: Image.Image) -> Image.Image:
    values = np.asarray(image, dtype=np.float64)
    if image.mode == "F":
        values = values * 255 if values.max(initial=0) <= 1 else values
    elif image.mode.startswith("I;16") or values.max(initial=0) > 255:
        values = values / 257
    grey = np.nan_to_num(values).round().clip(0, 255).astype(np.uint8)
    return Image.fromarray(grey).convert("RGB")


def from_pil(image: Image.Image) -> Tensor:
    """Turn a picture into float32 (3, H, W) in [-1, 1]; other modes than RGB are converted as by `open_photo`."""
    array = np.array(image if image.mode == "RGB" else _to_rgb(image), dtype=np.float32)
    return torch.from_numpy(array).permute(2, 0, 1).contiguous().div_(127.5).sub_(1)


def to_uint8(x: Tensor) -> Tensor:
    """Map [-1, 1] to 0..255 of the same shape, rounded (never truncated) and clamped. Inverts `from_pil` exactly."""
    return x.detach().float().add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8)


def to_pil(x: Tensor) -> Image.Image:
    """Turn (3, H, W) or (1, 3, H, W) in [-1, 1] into an RGB picture."""
    if x.ndim == 4 and x.shape[0] == 1:
        x = x[0]
    if x.ndim != 3 or x.shape[0] != 3:
        raise ValueError(f"expected one RGB image (3, H, W), got {tuple(x.shape)}")
    return Image.fromarray(to_uint8(x).permute(1, 2, 0).cpu().contiguous().numpy())


def mask_to_pil(mask: Tensor) -> Image.Image:
    """Turn a mask in [0, 1] of shape (H, W), (1, H, W) or (1, 1, H, W) into a grey picture."""
    plane = mask.detach().float().reshape(mask.shape[-2:])
    return Image.fromarray(plane.mul(255).round().clamp(0, 255).to(torch.uint8).cpu().numpy())


def write_image(
    image: Tensor | Image.Image,
    path: str | Path,
    *,
    exif: bytes | None = None,
    icc: bytes | None = None,
    quality: int = 95,
) -> Path:
    """Write a picture, or a tensor (3, H, W) in [-1, 1], as png, jpg or webp by the file's ending.

    The file is written under a temporary name and renamed, so it is never incomplete; missing folders are created.
    `quality` applies to jpg and webp. Raises `UserError` for another ending or if the file cannot be written,
    `ValueError` for NaN.
    """
    path = Path(path)
    encoder = _ENCODERS.get(path.suffix.lower())
    if encoder is None:
        raise UserError(f"cannot write {path.name}: use .png, .jpg or .webp{nearest(path.suffix, _ENCODERS)}")
    if isinstance(image, Tensor):
        if not bool(torch.isfinite(image).all()):
            raise ValueError(f"{path.name} would hold NaN or infinite pixels")
        image = to_pil(image)
    if max(image.size) > _LARGEST.get(encoder, max(image.size)):
        size = f"{image.width} x {image.height}"
        raise UserError(f"cannot write {path}: {encoder} holds at most {_LARGEST[encoder]} pixels a side, not {size}; "
                        "png holds more")  # fmt: skip
    options: dict[str, object] = {"exif": exif or b"", "icc_profile": icc}
    options |= {"compress_level": 4} if encoder == "PNG" else {"quality": quality}
    if encoder == "JPEG":
        options |= {"subsampling": 0, "exif": metadata.fitted(exif or b"")}
    with replacing(path) as temporary:
        image.save(temporary, format=encoder, **options)
    return path


def resize(x: Tensor, size: int | tuple[int, int], filter: str = "bicubic") -> Tensor:
    """Scale images (B, 3, H, W) or (3, H, W) in [-1, 1] to `size` (side, or height and width), clamped to [-1, 1].

    `bicubic` is torch's antialiased cubic (the default, used by every protocol of this package), `area` is the mean
    over each target pixel's area. An image that already has this size is returned unchanged.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if x.shape[-2:] == (height, width):
        return x
    batch = x if x.ndim == 4 else x[None]
    if filter == "bicubic":
        out = F.interpolate(batch, (height, width), mode="bicubic", align_corners=False, antialias=True)
    elif filter == "area":
        out = F.interpolate(batch, (height, width), mode="area")
    else:
        raise UserError(f"unknown resize filter '{filter}'{nearest(filter, ('bicubic', 'area'))}: bicubic or area")
    out = out.clamp(-1, 1)
    return out if x.ndim == 4 else out[0]
