"""The interface of image sources."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from oodgan.errors import UserError

Sample = dict[str, Any]
"""`image` (3, S, S) float32 in [-1, 1] and `name`; where known `labels` {attribute: number}, `parsing` (S, S)
int64 and `w_plus` (L, 512)."""


class Source(ABC):
    """Images of one size, by index, in a fixed order.

    `size` is the side S of the returned images. `skipped` maps the names of skipped files to the reason.
    """

    size: int
    skipped: dict[str, str]

    @abstractmethod
    def __len__(self) -> int: ...

    @abstractmethod
    def name(self, index: int) -> str:
        """The image's name, unique within the source: its path relative to the root, with forward slashes."""

    @abstractmethod
    def __getitem__(self, index: int) -> Sample:
        """The sample at `index`. Raises `UserError` naming the image when it cannot be decoded."""

    def set_size(self, size: int) -> None:
        """Set the side of the images returned from now on."""
        self.size = checked_size(size)


def checked_size(size: int) -> int:
    """Return `size`; raises `UserError` if it is not a valid number of pixels."""
    if not isinstance(size, int) or size < 1:
        raise UserError(f"size={size} must be a whole number of pixels, at least 1")
    return size
