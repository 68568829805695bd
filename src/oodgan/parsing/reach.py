"""Limits of attribute masks: the parts of a face that a mask may cover, and those that it always covers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from oodgan.errors import UserError, unknown
from oodgan.nn.resize import blur, resize_area
from oodgan.parsing.classes import NAMES, numbers

MARGIN = 0.024
"""By how much parts that a mask covers completely are widened, as a fraction of the image's width."""

OCCLUDERS = ("background", "hat", "glasses", "jewellery", "cloth")


class Redrawn(NamedTuple):
    """Where the generator draws without the photo's residual, three maps (B, 1, S, S) in [0, 1].

    Attributes:
        region: where it does.
        source, target: parts of the photo whose mean residual is used instead, and where the edited image has them.
    """

    region: Tensor
    source: Tensor
    target: Tensor


@dataclass(frozen=True)
class Reach:
    """Limits of the mask of one attribute.

    Attributes:
        parts: parts of the face that the mask may cover; None: all.
        near: the mask must be near these parts; empty: anywhere on `parts`.
        within: largest distance to `near`, as a fraction of the image's width; the mask fades from half of it.
        whole: parts that the mask covers completely, whatever Diff-CAM predicts.
        removes: parts that the mask covers completely at negative strengths. The photo's residual is left out there.
        around: parts that `removes` must be near, as for `near`, which is the default.
        margin: by how much `removes` is widened, as a fraction of the image's width.
        changed: `removes` applies only where the edit changes the image: to a beard, and not to all of the skin.
        redraws: parts that the generator draws alone at positive strengths, without the photo's residual. The residual
            of closed lips would show as dark gaps between the teeth of an opened mouth.
        recolours: parts that the generator draws anew too, in the photo's colour: their residual is replaced by its
            mean over these parts of the photo, also where they are removed. The residual itself would smear moved lips.
    """

    parts: Sequence[str] | None = None
    near: Sequence[str] = ()
    within: float = 0.1
    whole: Sequence[str] = ()
    removes: Sequence[str] = ()
    around: Sequence[str] = ()
    margin: float = MARGIN
    changed: bool = False
    redraws: Sequence[str] = ()
    recolours: Sequence[str] = ()

    def __post_init__(self) -> None:
        for names in (
            self.parts or (),
            self.near,
            self.whole,
            self.removes,
            self.around,
            self.redraws,
            self.recolours,
        ):
            numbers(names)
        if not 0 < self.within <= 1:
            raise UserError(f"within={self.within} is a share of the picture's width, above 0 and at most 1")
        if not 0 <= self.margin <= 0.5:
            raise UserError(f"margin={self.margin} is a share of the picture's width, from 0 to 0.5")
        if not self.removes and (self.around or self.changed or self.margin != MARGIN):
            raise UserError("around, margin and changed have no effect without parts to remove: set removes too")

    @classmethod
    def of(cls, attribute: str, settings: Mapping[str, Any] | None) -> Reach:
        """Build from plain values. Raises UserError with the attribute for an unknown key or part."""
        for key in settings or {}:
            if key not in cls.__dataclass_fields__:
                raise unknown(f"key of parser.reach.{attribute}", key, cls.__dataclass_fields__)
        try:
            return cls(**(settings or {}))
        except UserError as error:
            raise UserError(f"parser.reach.{attribute}: {error}") from error


@dataclass(frozen=True)
class Limits:
    """Limits of masks by the parts of the face.

    Args:
        reach: lower-case attribute -> `Reach`. Masks of other attributes may cover everything but `OCCLUDERS`.
        feather: width of the fade at a limit, as a fraction of the image's width. It is on the inner side, so that
            pixels beyond the limit do not change.
    """

    reach: Mapping[str, Reach] = field(default_factory=dict)
    feather: float = 0.01

    @classmethod
    def from_config(cls, reach: Mapping[str, Any] | None, feather: float = 0.01) -> Limits:
        """Build from the keys of a config group `parser`. Raises UserError for unknown keys."""
        if not 0 <= feather <= 0.2:
            raise UserError(f"parser.feather={feather} is a share of the picture's width, from 0 to 0.2")
        return cls({name.lower(): Reach.of(name, settings) for name, settings in (reach or {}).items()}, feather)

    def of(self, attribute: str) -> Reach:
        """Return the limits of an attribute."""
        return self.reach.get(attribute.lower(), _OTHERS)

    def __call__(self, parts: Tensor, mask: Tensor, edits: Mapping[str, float], change: Tensor) -> Tensor:
        """Limit a mask by the union of the limits of all attributes of an edit.

        Args:
            parts: (B, K, S, S), probabilities of the parser's classes in the photo.
            mask: (B, 1, R, R) in [0, 1].
            edits: {attribute: strength}, none of them 0.
            change: (B, 1, S, S), how much the edit changes the colour of each pixel (`colour_change`).

        Returns:
            (B, 1, R, R) in [0, 1].
        """
        every = [self.of(name) for name in edits]
        allowed = torch.stack([self._allowed(parts, reach) for reach in every]).amax(0)
        whole = torch.stack([_whole(parts, reach.whole) for reach in every]).amax(0)
        size = mask.shape[-1]
        limited = torch.maximum(mask, _resized(whole, size)) * _resized(allowed, size)
        return torch.maximum(limited, _resized(self.removed(parts, edits, change), size)).clamp(0, 1)

    def removed(self, parts: Tensor, edits: Mapping[str, float], change: Tensor) -> Tensor:
        """(B, 1, S, S) in [0, 1]: the parts that an edit removes, but not over other protected parts.

        Objects (`OCCLUDERS`) are removed at any negative strength; other parts fade with the strength, at most 1.
        Arguments as of `__call__`.
        """
        removed = torch.zeros_like(parts[:, :1])
        for attribute, strength in edits.items():
            reach = self.of(attribute)
            if strength < 0 and reach.removes:
                is_object = any(name in OCCLUDERS for name in reach.removes)
                others = _sum(parts, [name for name in OCCLUDERS if name not in reach.removes])
                whole = _whole(parts, reach.removes, reach.margin)
                whole = whole * _around(parts, reach.around or reach.near, reach.within) * (1 - others).clamp(0, 1)
                if reach.changed:
                    whole = whole * _much(change)
                removed = torch.maximum(removed, whole * (1.0 if is_object else min(-strength, 1.0)))
        return removed

    def redrawn(self, before: Tensor, after: Tensor, edits: Mapping[str, float]) -> Tensor:
        """(B, 1, S, S) in [0, 1]: where the generator draws parts of the edited face without the photo's residual.

        Where the photo shows the same part (e.g. teeth), the value is the strength, at most 1, so that weak edits
        keep it.

        Args:
            before, after: (B, K, S, S), probabilities of the parser's classes in the photo and in the image of its
                edited code.
            edits: {attribute: strength}.
        """
        redrawn = torch.zeros_like(after[:, :1])
        for attribute, strength in edits.items():
            reach = self.of(attribute)
            for name in (*reach.redraws, *reach.recolours) if strength > 0 else ():
                new = 1 - (_sum(before, [name]) > 0.5).float()
                drawn = _whole(after, [name], margin=0.012) * new.clamp(min=min(strength, 1.0))
                redrawn = torch.maximum(redrawn, drawn)
        return redrawn

    def recoloured(self, before: Tensor, after: Tensor, edits: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """Two maps (B, 1, S, S) in [0, 1] of the parts that keep their colour, in the photo and in the edited image.

        Arguments as of `redrawn`.
        """
        names = {name for attribute, strength in edits.items() if strength for name in self.of(attribute).recolours}
        return (_sum(before, sorted(names)) > 0.5).float(), _sum(after, sorted(names))

    def _allowed(self, parts: Tensor, reach: Reach) -> Tensor:
        if reach.parts is None:
            return torch.ones_like(parts[:, :1])
        allowed = _inside(_sum(parts, reach.parts), round(self.feather * parts.shape[-1]))
        return allowed * _around(parts, reach.near, reach.within)


_OTHERS = Reach(parts=tuple(name for name in NAMES if name not in OCCLUDERS))


def colour_change(before: Tensor, after: Tensor, size: int) -> Tensor:
    """Mean difference in colour between images (B, 3, R, R) in [-1, 1], at `size`: (B, 1, size, size) in [0, 2].

    It is that of blurred images: edges and texture do not matter.
    """
    difference = resize_area(after, size) - resize_area(before, size)
    return blur(difference, size // 64).abs().mean(1, keepdim=True)


def objects(parts: Tensor, unlike: Tensor, least: float) -> Tensor:
    """Where a photo probably has something that the generator cannot draw: (B, 1, S, S) in [0, 1].

    There its colour differs from the image of its code, and the parser is not confident of any class. Colours also
    differ where the code has a mouth of another shape, but there the parser is confident of skin or lips. Its
    confidence is always low at the border between two parts, so narrow strips are left out.

    Args:
        parts: (B, K, S, S), probabilities of the parser's classes in the photo.
        unlike: (B, 1, S, S), difference in colour between the photo and the image of its code (`colour_change`).
        least: difference that counts.
    """
    radius = parts.shape[-1] // 128
    unsure = ((1 - parts.amax(1, keepdim=True)) / 0.2).clamp(0, 1)
    strange = ((unlike - least) / 0.1 + 0.5).clamp(0, 1) * unsure
    return _dilated(1 - _dilated(1 - strange, radius), radius)


def _much(change: Tensor) -> Tensor:
    """1 where a change in colour is clearly visible, 0 where it is not, with surroundings: (B, 1, S, S) in [0, 1]."""
    radius = change.shape[-1] // 42
    return blur(_dilated(((change - 0.06) / 0.1).clamp(0, 1), radius), radius // 2)


def _sum(parts: Tensor, names: Sequence[str]) -> Tensor:
    return parts[:, numbers(names)].sum(1, keepdim=True)


def _inside(region: Tensor, radius: int) -> Tensor:
    """Erode a soft region: 0 at its border and outside, 1 from `radius` pixels inside."""
    return (2 * blur(region, radius) - 1).clamp(0, 1) * (region > 0.5)


def _near(region: Tensor, within: float) -> Tensor:
    """1 up to half of `within` from the region, 0 from `within` on; 1 everywhere if the region is empty."""
    width = region.shape[-1]
    steps = max(1, round(within * width / 2))
    sure = (region > 0.5).float()
    near = blur(_dilated(sure, steps + steps // 2), steps // 2)
    return torch.where(sure.amax((1, 2, 3), keepdim=True) > 0, near, 1.0)


def _around(parts: Tensor, names: Sequence[str], within: float) -> Tensor:
    """How far each pixel is within a distance of some parts: (B, 1, S, S) in [0, 1]; 1 everywhere without names."""
    return _near(_sum(parts, names), within) if names else torch.ones_like(parts[:, :1])


def _whole(parts: Tensor, names: Sequence[str], margin: float = MARGIN) -> Tensor:
    """The parts with a margin, a fraction of the width: (B, 1, S, S) in [0, 1]."""
    if not names:
        return torch.zeros_like(parts[:, :1])
    radius = round(margin * parts.shape[-1])
    return blur(_dilated((_sum(parts, names) > 0.5).float(), radius), radius // 2)


def _dilated(region: Tensor, radius: int) -> Tensor:
    """The largest value within `radius` pixels, by an octagon: a square and a diamond would show their corners."""
    if radius < 1:
        return region
    dilated = region
    for i in range(radius):
        rows = F.max_pool2d(dilated, (3, 1), 1, (1, 0))
        columns = F.max_pool2d(dilated, (1, 3), 1, (0, 1))
        dilated = torch.maximum(rows, columns) if i % 2 else F.max_pool2d(dilated, 3, 1, 1)
    return dilated


def _resized(x: Tensor, size: int) -> Tensor:
    return F.interpolate(x, (size, size), mode="bilinear", align_corners=False) if x.shape[-1] != size else x
