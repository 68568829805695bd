"""One edit of one face. Its images and tensors are computed when they are first accessed."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from PIL import Image
from torch import Tensor

from oodgan.data import images
from oodgan.data.align import paste_back
from oodgan.editing.own_mask import OwnMask
from oodgan.editing.subject import Subject, once
from oodgan.errors import unknown
from oodgan.inversion.value import Inversion

if TYPE_CHECKING:
    from oodgan.editing.editor import Editor
    from oodgan.editing.strength import Choice

IMAGES = ("photo", "inverted", "edited", "mask", "coarse", "result")
"""What an edit computes, in this order; each needs those before it."""

STEPS = {"inverted": "invert", "edited": "edit", "mask": "mask", "coarse": "compose", "result": "deghost"}
"""The step that makes each of them, as `Edit.seconds` names it."""


def strength_text(strength: float) -> str:
    """Return a strength with its sign, in as many digits as needed.

    >>> strength_text(1.0), strength_text(-0.5), strength_text(0.1234567)
    ('+1', '-0.5', '+0.1234567')
    """
    short = f"{strength:+g}"
    return short if float(short) == strength else f"{strength:+}"


class Edit:
    """One edit of one face. Images are computed when first accessed, together with what they depend on, and kept.

    `photo`, `inverted`, `edited`, `coarse` and `result` are R x R RGB pictures, `mask` is a grey one, `pasted` is the
    whole photo at its own size with the result put back.

    `tensors` has the images as tensors by the names of `IMAGES`: (1, 3, R, R) in [-1, 1], `mask` (1, 1, R, R) in [0,
    1]. `edits` are the strengths, `seconds` the time of each step so far (near 0 if it was cached). `chosen` has the
    results of the search for each attribute with a requested change (`auto`, `+1sd`).
    """

    def __init__(
        self, editor: Editor, subject: Subject, edits: dict[str, float], seconds: dict[str, float],
        chosen: Mapping[str, Choice] | None = None, own: OwnMask | None = None,
    ) -> None:  # fmt: skip
        self.edits, self.seconds, self.subject, self.chosen = edits, seconds, subject, dict(chosen or {})
        self.tensors = Tensors(editor, subject, edits, seconds, own)

    @property
    def label(self) -> str:
        """The edit in words, e.g. `smile +1, age -0.5`."""
        return ", ".join(f"{name} {strength_text(strength)}" for name, strength in self.edits.items()) or "no edit"

    @property
    def w_plus(self) -> Tensor:
        """The photo's code before the edit, (1, L, 512)."""
        return self.inversion.w_plus

    @property
    def inversion(self) -> Inversion:
        """The photo's code and residuals, before the edit."""
        return self.tensors.inversion

    def picture(self, name: str) -> Image.Image:
        """One of `IMAGES`, or `pasted`, as a PIL picture."""
        if name == "pasted":
            return self.pasted
        return images.mask_to_pil(self.tensors[name]) if name == "mask" else images.to_pil(self.tensors[name])

    @cached_property
    def photo(self) -> Image.Image:
        return self.picture("photo")

    @cached_property
    def inverted(self) -> Image.Image:
        return self.picture("inverted")

    @cached_property
    def edited(self) -> Image.Image:
        return self.picture("edited")

    @cached_property
    def mask(self) -> Image.Image:
        return self.picture("mask")

    @cached_property
    def coarse(self) -> Image.Image:
        return self.picture("coarse")

    @cached_property
    def result(self) -> Image.Image:
        return self.picture("result")

    @cached_property
    def pasted(self) -> Image.Image:
        return paste([self])


class Tensors(Mapping[str, Tensor]):
    """The images of an edit by name (`IMAGES`), each computed by a step of the editor when it is first accessed."""

    def __init__(
        self, editor: Editor, subject: Subject, edits: Mapping[str, float], seconds: dict[str, float],
        own: OwnMask | None = None,
    ) -> None:  # fmt: skip
        self._editor, self._subject, self._edits, self._seconds = editor, subject, edits, seconds
        self._own = None if own is None else own.on(subject)  # raises an error now if the size differs
        self._replaced = own is not None and own.mode == "replace"
        self._images: dict[str, Tensor] = {"photo": subject.photo}

    def __getitem__(self, name: str) -> Tensor:
        if name not in IMAGES:
            raise unknown("image of an edit", name, IMAGES)
        if name not in self._images:
            have = {earlier: self[earlier] for earlier in IMAGES[: IMAGES.index(name)]}
            start = time.perf_counter()
            self._images[name] = self._make(name, have)
            step = STEPS[name]
            self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - start
        return self._images[name]

    def __iter__(self) -> Iterator[str]:
        return iter(IMAGES)

    def __len__(self) -> int:
        return len(IMAGES)

    @property
    def inversion(self) -> Inversion:
        """The photo's code and residuals, before the edit."""
        return once(self._subject, self._editor.invert)[0]

    @cached_property
    def edited(self) -> Inversion:
        """The edited code and its residuals."""
        return self._editor.change(self.inversion, self._edits, self._subject.photo)

    def _make(self, name: str, have: Mapping[str, Tensor]) -> Tensor:
        editor = self._editor
        if name == "inverted":
            return once(self._subject, editor.invert)[1]
        if name == "edited":
            return editor.decode(self.edited)
        if name == "mask":
            return self._mask(have)
        if name == "coarse":
            return editor.compose(**have)
        return editor.deghost(**have, w_plus=self.edited.w_plus)

    def _mask(self, have: Mapping[str, Tensor]) -> Tensor:
        """Return the editor's mask, combined with the user's own mask if there is one."""
        if self._own is not None and self._replaced and any(self._edits.values()):
            return self._own
        mask = self._editor.mask(**have, edits=self._edits)
        return mask if self._own is None else mask * self._own


def paste(edits: Sequence[Edit]) -> Image.Image:
    """Return the photo, at its own size, with the results of edits (one for each face) pasted back."""
    whole = edits[0].subject.source.image
    for edit in edits:
        result = edit.tensors["result"][0].cpu()
        start = time.perf_counter()
        whole = paste_back(whole, result, edit.subject.aligned)
        edit.seconds["paste"] = time.perf_counter() - start
    return whole
