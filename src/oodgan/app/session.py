"""The state of one visitor of the page: a photo with its faces, and the page's controls."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from PIL import Image, ImageDraw, ImageFont

from oodgan.data.detect import Face
from oodgan.data.images import Photo
from oodgan.editing.own_mask import OwnMask
from oodgan.editing.subject import Subject

UNDO = 50  # changes that can be undone


@dataclass(eq=False)
class Session:
    """A visitor's photo. `faces` is empty for a crop.

    `subjects` are the faces seen so far by number and quality, each inverted once. `own` is the mask that was drawn on
    the face. `history` holds the sliders' numbers, the present ones last.
    """

    photo: Photo
    stem: str
    faces: list[Face] = field(default_factory=list)
    subjects: dict[tuple[int, str], Subject] = field(default_factory=dict)
    own: OwnMask | None = None
    history: list[tuple[float, ...]] = field(default_factory=list)

    @property
    def aligned(self) -> bool:
        """Whether the photo came as an FFHQ-style crop."""
        return not self.faces

    def record(self, numbers: tuple[float, ...]) -> None:
        """Keep the sliders' numbers for `undo`, where they have changed."""
        if self.history[-1:] != [numbers]:
            self.history = [*self.history[-UNDO:], numbers]

    def undo(self) -> tuple[float, ...] | None:
        """The sliders' numbers before their last change; None where there is none."""
        if len(self.history) < 2:
            return None
        self.history.pop()
        return self.history[-1]


@dataclass(frozen=True)
class Controls:
    """The state of the page's controls: the face's number, strengths by name, the mask's settings.

    `quality` is a key of `QUALITIES`; "" is the inverter that the server was started with.
    """

    face: int
    strengths: Mapping[str, float | str]
    mask: Mapping[str, float] = field(default_factory=dict)
    quality: str = ""

    @property
    def edits(self) -> dict[str, float | str]:
        """The strengths that are not 0; of an edit that changes nothing, the first one."""
        moved = {
            name: value if isinstance(value, str) else float(value) for name, value in self.strengths.items() if value
        }
        return moved or dict.fromkeys(list(self.strengths)[:1], 0.0)


def numbered(session: Session, side: int = 640) -> Image.Image:
    """The photo, small, with a numbered box around each face."""
    picture = session.photo.image.copy()
    picture.thumbnail((side, side))
    scale = picture.width / session.photo.image.width
    draw, font = ImageDraw.Draw(picture), ImageFont.load_default(size=20)
    for number, face in enumerate(session.faces):
        left, top, right, bottom = (value * scale for value in face.box)
        draw.rectangle((left, top, right, bottom), outline="white", width=4)
        draw.rectangle((left, top, right, bottom), outline="#4f46e5", width=2)
        draw.rectangle((left, top, left + 26, top + 26), fill="#4f46e5")
        draw.text((left + 13, top + 13), str(number), fill="white", font=font, anchor="mm")
    return picture
