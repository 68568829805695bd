"""The editor: invert, edit, mask, compose, deghost, and the public Python API for it.

`Editor.edit` returns an `oodgan.editing.edit.Edit`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from torch import Tensor, nn

from oodgan.compose import compose
from oodgan.data.detect import Face
from oodgan.directions.bank import Bank
from oodgan.editing import build
from oodgan.editing.edit import Edit
from oodgan.editing.own_mask import OwnMask
from oodgan.editing.strength import Search, Strength, Target, parse
from oodgan.editing.subject import Picture, Subject, Subjects, once
from oodgan.errors import UserError, unknown
from oodgan.inversion.transfer import Transfer, Whole
from oodgan.inversion.value import Inversion
from oodgan.nn.resize import resize_area
from oodgan.parsing.reach import Redrawn

if TYPE_CHECKING:
    from oodgan.deghost.remover import Remover
    from oodgan.diffcam.masks import Masker
    from oodgan.generators.protocol import Generator
    from oodgan.inversion.protocol import Inverter
    from oodgan.parsing.parser import Parser


Edits = Mapping[str, "float | str | Target"]
"""{attribute: strength}, or a change instead of a strength: `auto`, `+1sd` (`oodgan.editing.strength`)."""


class Editor:
    """Edits faces in real photos in the five steps of the paper (section 3, figure 2).

    Each step is a method on tensors: images (1, 3, R, R) in [-1, 1], codes (1, L, 512), masks (1, 1, R, R) in [0, 1],
    with R = `generator.resolution`. `edit` runs all steps on photos of any size.

    Args:
        generator: decodes codes to images (`oodgan.generators.protocol.Generator`).
        inverter: inverts a photo (`oodgan.inversion.protocol.Inverter`).
        bank: the named directions, fitted to the generator.
        masker: computes the mask of what an edit changed (Diff-CAM).
        remover: removes artifacts of the composition (deghosting); None: the coarse image is the result.
        composition: keywords of `oodgan.compose.compose`, e.g. {"mode": "difference"}.
        device: device of all computations.
        transfer: what happens to the residuals when the code is edited (`oodgan.inversion.transfer`); None: unchanged.
        search: searches strengths for requested changes (`oodgan.editing.strength`); None: the default search.
        parser: limits masks to the parts of the face that their attributes may cover; None: no limits.
        synthesis: computes the generator's `synthesis` in its place (`oodgan.export.backend`); None: PyTorch does.

    Example::

        from oodgan import Editor

        editor = Editor.from_pretrained("mobile_ffhq")
        print(editor.names)                                      # the attributes
        edit = editor.edit("photo.jpg", {"smile": 1.0, "beard": 0.5})
        edit.pasted.save("smiling.jpg")                          # the photo at its own size
        edit.mask.save("mask.png")                               # what the edit changed
        print(edit.tensors["result"].shape)                      # torch.Size([1, 3, 1024, 1024]), in [-1, 1]
        again = editor.edit("photo.jpg", {"age": -1.0}).result   # not inverted again
    """

    def __init__(
        self,
        generator: Generator,
        inverter: Inverter,
        bank: Bank,
        masker: Masker,
        remover: Remover | None = None,
        composition: Mapping[str, Any] | None = None,
        device: torch.device | str = "cpu",
        transfer: Transfer | None = None,
        search: Search | None = None,
        parser: Parser | None = None,
        synthesis: Callable[..., Tensor] | None = None,
    ) -> None:
        self.generator, self.inverter, self.bank, self.masker, self.remover = generator, inverter, bank, masker, remover
        self.composition, self.device = dict(composition or {}), torch.device(device)
        self.synthesis: Callable[..., Tensor] = synthesis or generator.synthesis
        self.transfer: Transfer = transfer or Whole()
        self.search, self.parser = search or Search(), parser
        for part in (generator, inverter, masker, remover, self.transfer, parser):
            if isinstance(part, nn.Module):
                part.to(self.device).eval()
        self.subjects = Subjects(generator.resolution, self.device)

    @classmethod
    def from_config(cls, cfg: Mapping[str, Any]) -> Editor:
        """Build all parts from a configuration, as `oodgan edit` does.

        Raises:
            UserError: weights are missing or were made for another generator or other directions; the `backend` is
                unknown or not installed.
        """
        return cls(**build.parts(cfg))

    @classmethod
    def from_pretrained(cls, generator: str = "mobile_ffhq", *overrides: str, **options: Any) -> Editor:
        """Build an editor from the configurations of this package. Missing weights are downloaded.

        Args:
            generator: an option of the config group `generator`.
            overrides: as on the command line, e.g. "compose.mode=paper".
            options: the same by keyword, e.g. `deghoster="none"`, `accelerator="gpu"`,
                `backend="openvino"`.

        Raises:
            UserError: an unknown option or key, or a download that fails.
        """
        return cls.from_config(build.configuration(generator, overrides, options))

    @property
    def names(self) -> tuple[str, ...]:
        """The attributes that can be edited."""
        return self.bank.names

    @torch.no_grad()
    def invert(self, photo: Tensor) -> tuple[Inversion, Tensor]:
        """Step 1: return the inversion of a photo, and the image that the generator decodes from it."""
        inversion = self.inverter.invert(photo)
        return inversion, self.decode(inversion)

    @torch.no_grad()
    def change(self, inversion: Inversion, edits: Mapping[str, float], photo: Tensor | None = None) -> Inversion:
        """Step 2: return w+ + sum of strength x direction, with the residuals from `transfer`.

        With a `photo` and a parser, the residuals are set to 0 at parts that the edit removes (e.g. glasses), because
        they represent the photo's old content and would draw these parts again, and at parts that the edit draws anew
        (e.g. the teeth of an opened mouth). Redrawn lips get the mean residual of the photo's lips, which is their
        colour.
        """
        changed = self.transfer(self.generator, inversion, self.bank.apply(inversion.w_plus, edits))
        if self.parser is None or photo is None or not changed.residuals or not self.parser.redraws(edits):
            return changed
        codes = torch.cat([inversion.w_plus, changed.w_plus])
        alone, edited_alone = self.generator.synthesis(codes, size=self.parser.size).clamp(-1, 1).chunk(2)
        return _redrawn(inversion, changed, self.parser.redrawn(photo, edits, alone, edited_alone))

    @torch.no_grad()
    def decode(self, inversion: Inversion) -> Tensor:
        """Return the generator's image of an inversion, edited or not."""
        residuals = {"residuals": inversion.residuals} if inversion.residuals else {}
        return self.synthesis(inversion.w_plus, **residuals).clamp(-1, 1)

    @torch.no_grad()
    def mask(self, photo: Tensor, inverted: Tensor, edited: Tensor, edits: Mapping[str, float]) -> Tensor:
        """Step 3: return the mask of what the edit changed, within the limits of the parser.

        The mask is 0 if all strengths are 0.
        """
        names = [name for name, strength in edits.items() if strength]
        if not names:
            return torch.zeros_like(photo[:, :1])
        mask = self.masker(inverted, edited, names, photo)
        return mask if self.parser is None else self.parser.limit(photo, mask, edits, inverted, edited)

    @torch.no_grad()
    def compose(self, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
        """Step 4: return the coarse image, the edited region composed into the photo."""
        return compose(photo, inverted, edited, mask, **self.composition).clamp(-1, 1)

    @torch.no_grad()
    def deghost(
        self, photo: Tensor, inverted: Tensor, edited: Tensor, mask: Tensor, coarse: Tensor, w_plus: Tensor
    ) -> Tensor:
        """Step 5: return the result without artifacts of the composition. `w_plus` is the edited code."""
        if self.remover is None:
            return coarse
        result = self.remover(coarse=coarse, photo=photo, inverted=inverted, edited=edited, mask=mask, w_plus=w_plus)
        return result.clamp(-1, 1)

    @overload
    def edit(
        self,
        picture: list[Picture] | tuple[Picture, ...],
        edits: Edits,
        *,
        aligned: bool = ...,
        face: str | int | Face = ...,
        mask: Picture | None = ...,
        mask_mode: str = ...,
    ) -> list[Edit]: ...
    @overload
    def edit(  # type: ignore[overload-overlap]
        self,
        picture: Picture,
        edits: Edits,
        *,
        aligned: bool = ...,
        face: Literal["all"],
        mask: Picture | None = ...,
        mask_mode: str = ...,
    ) -> list[Edit]: ...
    @overload
    def edit(
        self,
        picture: Picture,
        edits: Edits,
        *,
        aligned: bool = ...,
        face: str | int | Face = ...,
        mask: Picture | None = ...,
        mask_mode: str = ...,
    ) -> Edit: ...
    def edit(
        self,
        picture: Any,
        edits: Edits,
        *,
        aligned: bool = False,
        face: str | int | Face = "largest",
        mask: Picture | None = None,
        mask_mode: str = "multiply",
    ):
        """Edit a photo. Faces are detected immediately; images are computed when they are first accessed.

        Args:
            picture: a path; a PIL picture of any mode; an array (H, W), (H, W, 3) or (H, W, 4), uint8 or float in
                [0, 1]; a tensor (3, H, W) or (1, 3, H, W), float in [-1, 1]; or a list of such, which gives a list.
            edits: {attribute: strength}; 1 is the calibrated strength, negative ones reverse the attribute. "auto" and
                changes such as "+1sd" start a search of the strength immediately (see `Edit.chosen`).
            aligned: the picture is an FFHQ-style crop already.
            face: `largest`, `all`, a number from 0, largest first, or a `Face` that was detected before.
            mask: an image of the photo's size, white where the photo may change; a path or any type accepted for
                photos.
            mask_mode: `multiply` (multiply the edit's own mask by this one) or `replace` (use this one instead).

        Returns:
            An `Edit`; a list of them for a list of pictures (in their order) or for `face="all"`.

        Raises:
            UserError: an unknown attribute, an invalid strength, an unreadable photo, no such face, or a mask whose
            size
                differs from the photo's.

        Example::

            import numpy as np
            from PIL import Image

            array = np.asarray(Image.open("photo.jpg"))          # uint8 (H, W, 3)
            one, other = editor.edit([array, "photo.jpg"], {"smile": 1.0})
            assert one.photo.size == other.photo.size == (1024, 1024)
        """
        edits = self.checked(edits)
        own = None if mask is None else OwnMask.read(mask, mask_mode)
        many = isinstance(picture, list | tuple)
        results: list[Edit] = []
        for one in picture if many else [picture]:
            start = time.perf_counter()
            subjects = self.subjects.find(one, aligned, face)
            seconds = (time.perf_counter() - start) / len(subjects)
            results += [self.begin(subject, edits, {"align": seconds}, own) for subject in subjects]
        return results if many or face == "all" else results[0]

    def begin(
        self, subject: Subject, edits: Mapping[str, Strength], seconds: dict[str, float] | None = None,
        own: OwnMask | None = None,
    ) -> Edit:  # fmt: skip
        """Return the edit of a face by `checked` edits. Strengths for requested changes are searched immediately."""
        seconds = {} if seconds is None else seconds
        start = time.perf_counter()
        if not any(isinstance(strength, Target) for strength in edits.values()):
            return Edit(self, subject, dict(edits), seconds, own=own)  # type: ignore[arg-type]
        inversion, _ = once(subject, self.invert)
        inverted = time.perf_counter()
        strengths, chosen = self.search(self, inversion, edits, subject.photo)
        seconds |= {"invert": inverted - start, "strength": time.perf_counter() - inverted}
        return Edit(self, subject, strengths, seconds, chosen, own)

    def sweep(
        self, picture: Picture, name: str, strengths: Iterable[float], also: Edits | None = None,
        *, aligned: bool = False, face: str | int = "largest",
    ) -> list[Edit]:  # fmt: skip
        """Return an `Edit` for each strength of one attribute, combined with the fixed edits `also`.

        The photo is aligned and inverted once. Raises UserError as `edit` does.

        Example::

            for edit in editor.sweep("photo.jpg", "age", [-1, 0, 1], also={"smile": 0.5}):
                edit.edited.resize((256, 256)).save(f"{edit.label}.png")
        """
        if face == "all":
            raise UserError("a sweep needs one face: face='largest' or a number from 0")
        every = [{**(also or {}), name: strength} for strength in strengths]
        return [self.edit(picture, edits, aligned=aligned, face=face) for edits in every]

    def checked(self, edits: Edits) -> dict[str, Strength]:
        """Return the edits as floats and targets. Raises UserError for unknown names and invalid strengths."""
        if not isinstance(edits, Mapping):
            raise UserError(f"edits={edits!r}: a mapping is expected, for example {{{self.names[0]}: 1.0}}")
        strengths = {str(name): parse(str(name), value) for name, value in edits.items()}
        known = getattr(self.masker, "names", self.names)
        for name, strength in strengths.items():
            self.bank.index(name)
            if name not in known:
                raise unknown("attribute for this Diff-CAM", name, known)
            if isinstance(strength, Target):
                self.search.wanted(self.bank, name, strength)
        return strengths


def _redrawn(inversion: Inversion, changed: Inversion, redrawn: Redrawn) -> Inversion:
    """Fade the changed residuals out in a region; at its recoloured parts, to the mean of the inversion's residuals."""
    kept = {}
    for size, residual in changed.residuals.items():
        region, source, target = (resize_area(each, size) for each in redrawn)
        mean = (inversion.residuals[size] * source).sum((2, 3), keepdim=True)
        mean = mean / source.sum((2, 3), keepdim=True).clamp(min=1e-6)
        kept[size] = residual * (1 - region) + region * target * mean
    return Inversion(changed.w_plus, kept)
