"""EXIF metadata of a photo that an edited copy should keep, even if the photo's metadata are damaged.

Cameras, phones and editors write EXIF with wrong types, signs and lengths, for which Pillow raises many kinds of
errors. This module keeps the entries that can be read and drops the others.
"""

from __future__ import annotations

import struct
import warnings
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

from PIL import ExifTags, Image

MAX_JPEG = 65_533
"""Bytes of EXIF that a JPEG file can hold."""

_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_GROUPS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)
# Entries that describe the file's own pixels, or other kinds of metadata: wrong for a copy.
_STRUCTURE = frozenset(
    {
        *range(254, 267), 273, 274, 277, 278, 279, 280, 281, 284, *range(288, 294), 301, 317, *range(320, 331),
        332, 333, 334, *range(336, 349), *range(512, 522), *range(529, 533), 700, 33723, 34377, 34675, 37724, 59932,
    }
)  # fmt: skip
_POINTERS = frozenset({ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo, ExifTags.IFD.Interop})

Tags = dict[int, Any]


def upright(image: Image.Image) -> Image.Image:
    """Return the picture rotated as its EXIF says; unchanged if EXIF has no readable orientation."""
    image.load()  # Pillow rotates TIFFs itself when it decodes them, and removes the orientation
    turn = _TURNS.get(_orientation(image))
    return image if turn is None else image.transpose(turn)


def sideways(image: Image.Image) -> bool:
    """Return whether `upright` will swap the width and height that Pillow reports before decoding."""
    return image.format != "TIFF" and _orientation(image) > 4


def _orientation(image: Image.Image) -> int:
    value = _value(_exif(image), ExifTags.Base.Orientation)
    return value if isinstance(value, int) and value in _TURNS else 1


def exif_of(image: Image.Image) -> tuple[bytes | None, bool]:
    """The EXIF that a copy of the picture should carry, and whether some of it is damaged and therefore left out.

    Without the orientation and the entries that describe the file's own pixels. None if nothing is left. For a TIFF,
    call this before the pixels are decoded.
    """
    exif = _exif(image)
    main, lost = _readable(exif)
    groups: dict[int, Tags] = {}
    for group in _GROUPS:
        if group in main:
            groups[group], missed = _readable(_group(exif, group), group)
            lost += missed
    tags = {tag: value for tag, value in main.items() if tag not in _POINTERS}
    return _written(tags, groups), exif is None or lost > 0


def fitted(exif: bytes, limit: int = MAX_JPEG) -> bytes:
    """EXIF of at most `limit` bytes: the largest entries are left out, with a warning that names them."""
    if len(exif) <= limit:
        return exif
    stored = Image.Exif()
    stored.load(exif)
    main, _ = _readable(stored)
    groups = {int(group): _readable(_group(stored, group), group)[0] for group in _GROUPS if group in main}
    tags = {tag: value for tag, value in main.items() if tag not in _POINTERS}
    sizes = [(len(_written(t, {}) or b""), tag, t) for t, tag in _single(tags)]
    sizes += [(len(_written({}, {g: t}) or b""), tag, {g: t}) for g, each in groups.items() for t, tag in _single(each)]
    left_out: list[str] = []
    data = exif
    for _, tag, place in sorted(sizes, key=lambda entry: -entry[0]):
        group = next((g for g in groups if g in place), None)
        (groups[group] if group is not None else tags).pop(tag, None)
        left_out.append(_name(tag))
        data = _written(tags, groups) or b""
        if len(data) <= limit:
            break
    warnings.warn(
        f"a jpg holds at most 64 kB of camera data (EXIF): {', '.join(left_out)} left out; png and webp hold all",
        stacklevel=2,
    )
    return data


def _single(tags: Tags) -> Iterator[tuple[Tags, int]]:
    return (({tag: value}, tag) for tag, value in tags.items())


def _name(tag: int) -> str:
    return ExifTags.TAGS.get(tag, ExifTags.GPSTAGS.get(tag, f"tag {tag}"))


def _exif(image: Image.Image) -> Image.Exif | None:
    """The picture's EXIF, lazily read; None where even its beginning is damaged."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            exif = image.getexif()
    except Exception:
        return None
    stored = image.info.get("exif")
    # After a failure while Pillow opened the file, EXIF is empty and does not raise again.
    damaged = isinstance(stored, bytes) and bool(stored.strip(b"Exif\0")) and not len(exif)
    return None if damaged else exif


def _group(exif: Image.Exif | None, group: int) -> Mapping[int, Any] | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return exif.get_ifd(group) if exif is not None else {}
    except Exception:
        return None


def _value(tags: Mapping[int, Any] | None, tag: int) -> Any:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return None if tags is None else tags.get(tag)
    except Exception:
        return None


def _readable(tags: Mapping[int, Any] | None, group: int | None = None) -> tuple[Tags, int]:
    """The entries that can be read and written again, and how many cannot."""
    if tags is None:
        return {}, 1
    readable: Tags = {}
    lost = 0
    for tag in list(tags):
        value = _value(tags, tag)
        if tag in _POINTERS:
            if group is None:
                readable[tag] = value
            continue
        if tag in _STRUCTURE and group is None:
            continue
        if value is not None and _written(*(({}, {group: {tag: value}}) if group else ({tag: value}, {}))):
            readable[tag] = value
        else:
            lost += 1
    return readable, lost


def _written(tags: Tags, groups: Mapping[int, Tags]) -> bytes | None:
    """EXIF of these entries; None when there are none, or they cannot be written or read again."""
    exif = Image.Exif()
    for tag, value in tags.items():
        exif[tag] = value
    for group, entries in groups.items():
        if entries:
            exif[group] = dict(entries)
    if not len(exif):
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            data = exif.tobytes()
            back = Image.Exif()
            back.load(data)
            if set(back) != set(exif) or any(back.get_ifd(g).keys() != e.keys() for g, e in groups.items() if e):
                return None
            for tag in back:
                back[tag]
            return data
    except Exception:
        return None


def without(data: bytes) -> bytes | None:
    """Return an image file without its metadata, which may prevent it from opening; None if that does not help."""
    try:
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _bare_png(data)
        if data.startswith(b"\xff\xd8"):
            return _bare_jpeg(data)
        if data[:4] in (b"II*\0", b"MM\0*"):
            return _bare_tiff(data)
        if data[4:8] == b"ftyp":  # AVIF and HEIF: decoders ignore items of other types
            return data.replace(b"Exif", b"skip")
    except (struct.error, IndexError):
        return None
    return None


def _bare_png(data: bytes) -> bytes:
    kept, at = [data[:8]], 8
    while at + 8 <= len(data):
        (size,) = struct.unpack_from(">I", data, at)
        kind, chunk = data[at + 4 : at + 8], data[at : at + 12 + size]
        whole = struct.pack(">I", zlib.crc32(chunk[4:-4])) == chunk[-4:]
        if kind[:1].isupper() or (kind == b"tRNS" and whole):
            kept.append(chunk)
        at += 12 + size
    return b"".join(kept)


def _bare_jpeg(data: bytes) -> bytes:
    kept, at = [data[:2]], 2
    while data[at] == 0xFF and data[at + 1] != 0xDA:
        (size,) = struct.unpack_from(">H", data, at + 2)
        # Comments, and APP1 to APP15 except Adobe's APP14, which defines the colour space.
        extra = data[at + 1] == 0xFE or (0xE1 <= data[at + 1] <= 0xEF and data[at + 1] != 0xEE)
        kept += [] if extra else [data[at : at + 2 + size]]
        at += 2 + size
    return b"".join([*kept, data[at:]])


def _bare_tiff(data: bytes) -> bytes:
    order = "<" if data[:2] == b"II" else ">"
    (first,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, first)
    entries = [data[first + 2 + 12 * i : first + 14 + 12 * i] for i in range(count)]
    needed = (_STRUCTURE - {700, 33723, 34377, 34675, 37724}) | {274}
    kept = [entry for entry in entries if struct.unpack_from(order + "H", entry)[0] in needed]
    table = struct.pack(order + "H", len(kept)) + b"".join(kept) + bytes(4)
    return data[:first] + table + data[first + len(table) :]
