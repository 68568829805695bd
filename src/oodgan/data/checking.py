"""Checks of a data set before training: damage, sizes, duplicates, parts of the split, alignment."""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from oodgan.data import images
from oodgan.data.encoded import Encoded
from oodgan.data.splits import Split, assign
from oodgan.errors import UserError

OFF = 0.1
"""A crop is aligned when its corners lie on average within this share of its side from FFHQ's crop of its face."""


@dataclass
class Checked:
    """Findings: `damaged` and `masks_damaged` {name: reason}; `sizes` {(width, height): count}; `duplicates` groups of
    names with the same pixels, `leaks` those of them that lie in several parts; `aligned` of `looked_at` crops.
    """

    images: int = 0
    damaged: dict[str, str] = field(default_factory=dict)
    masks: int = 0
    masks_damaged: dict[str, str] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    sizes: Counter[tuple[int, int]] = field(default_factory=Counter)
    duplicates: list[list[str]] = field(default_factory=list)
    parts: dict[str, int] = field(default_factory=dict)
    leaks: list[list[str]] = field(default_factory=list)
    looked_at: int = 0
    aligned: int = 0


def check(
    source: Encoded,
    split: Split,
    faces: int = 0,
    track: Callable[[Iterable[int], int], Iterable[int]] = lambda items, total: items,
) -> Checked:
    """Decode every image and mask, and compare them.

    Args:
        source: the data set, opened with `check=False` so that damaged images are reported here.
        split: the split; images that several of its parts share are reported.
        faces: number of evenly spaced images whose alignment is checked.

    Raises:
        UserError: the split cannot distinguish two names.
    """
    checked = Checked(images=len(source))
    by_pixels: dict[str, list[str]] = {}
    looked = set(np.linspace(0, len(source) - 1, min(faces, len(source))).astype(int).tolist()) if faces else set()
    for index in track(range(len(source)), len(source)):
        name = source.name(index)
        try:
            data, _ = source.encoded(index)
            picture = images.read_rgb(io.BytesIO(data), name)
        except UserError as error:
            checked.damaged[name] = str(error)
            continue
        checked.sizes[picture.size] += 1
        by_pixels.setdefault(hashlib.sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest(), []).append(
            name
        )
        for attribute in source.labels(index):
            checked.labels[attribute] = checked.labels.get(attribute, 0) + 1
        try:
            checked.masks += "parsing" in source[index]
        except UserError as error:
            checked.masks_damaged[name] = str(error)
        if index in looked and picture.width == picture.height:
            checked.looked_at += 1
            checked.aligned += _is_aligned(picture)
    checked.duplicates = [names for names in by_pixels.values() if len(names) > 1]
    part_of = dict(zip(source.names, assign(split, source.names), strict=True))
    checked.parts = dict(Counter(part for name, part in part_of.items() if name not in checked.damaged))
    checked.leaks = [names for names in checked.duplicates if len({part_of[name] for name in names}) > 1]
    return checked


def _is_aligned(picture: images.Image.Image) -> bool:
    from oodgan.data.align import ffhq_quad
    from oodgan.data.detect import detect_faces

    faces = detect_faces(picture)
    if not faces:
        return False
    side = float(picture.width)
    corners = np.array([(0, 0), (0, side), (side, side), (side, 0)])
    return bool(np.hypot(*(ffhq_quad(faces[0].landmarks) - corners).T).mean() < OFF * side)


def lines(checked: Checked) -> list[tuple[str, str]]:
    """Return the findings as rows (name, value) of text."""
    sizes = ", ".join(f"{w}x{h} ({n})" for (w, h), n in checked.sizes.most_common(5))
    more = f" and {len(checked.sizes) - 5} more" if len(checked.sizes) > 5 else ""
    rows = [
        ("images", str(checked.images)),
        ("damaged", _named(list(checked.damaged))),
        ("sizes", sizes + more),
        ("not square", str(sum(n for (w, h), n in checked.sizes.items() if w != h))),
        ("labels", ", ".join(f"{name} ({count})" for name, count in list(checked.labels.items())[:8]) or "none"),
        ("parsing masks", str(checked.masks)),
        ("damaged masks", _named(list(checked.masks_damaged))),
        ("the same picture", _named([" = ".join(names[:3]) for names in checked.duplicates])),
        ("parts", ", ".join(f"{part} {count}" for part, count in sorted(checked.parts.items()))),
        ("in several parts", _named([" = ".join(names[:3]) for names in checked.leaks])),
    ]
    return rows + ([("aligned as FFHQ", f"{checked.aligned} of {checked.looked_at}")] if checked.looked_at else [])


def _named(names: Sequence[str]) -> str:
    return f"{len(names)}: {', '.join(names[:5])}{' ...' if len(names) > 5 else ''}" if names else "none"
