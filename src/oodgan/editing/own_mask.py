"""A mask given by the user: white where the photo may change."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image
from torch import Tensor

from oodgan.data.align import align
from oodgan.editing.subject import Picture, Subject, read_picture
from oodgan.errors import UserError, unknown

MODES = ("multiply", "replace")


@dataclass(frozen=True)
class OwnMask:
    """A grey image of the photo's size that multiplies or replaces the edit's own mask.

    Attributes:
        image: white where the photo may change.
        name: its name in messages.
        mode: one of `MODES`.
    """

    image: Image.Image
    name: str
    mode: str = "multiply"

    @classmethod
    def read(cls, picture: Picture, mode: str = "multiply") -> OwnMask:
        """Read an image of any type accepted for photos.

        Raises:
            UserError: an unreadable image, or an unknown mode.
        """
        if mode not in MODES:
            raise unknown("mask_mode", mode, MODES)
        photo = read_picture(picture)
        return cls(photo.image, photo.name, mode)

    def on(self, subject: Subject) -> Tensor:
        """The mask in the face's crop, (1, 1, R, R) in [0, 1], on the photo's device.

        Raises:
            UserError: its size differs from the photo's.
        """
        if self.image.size != subject.source.image.size:
            sizes = ["{} x {}".format(*image.size) for image in (self.image, subject.source.image)]
            raise UserError(f"the mask {self.name} is {sizes[0]} px, but the photo is {sizes[1]}: sizes must be equal")
        crop = align(self.image, subject.aligned.quad, subject.aligned.size)
        grey = crop.photo.mean(0)[None, None]
        return ((grey + 1) / 2).clamp(0, 1).to(subject.photo.device)
