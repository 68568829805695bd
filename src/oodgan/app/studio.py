"""Opens and edits the photos of all visitors, independent of the web interface."""

from __future__ import annotations

import copy
import secrets
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig, OmegaConf
from PIL import Image, ImageFilter

from oodgan.app.session import Controls, Session
from oodgan.data import images
from oodgan.data.align import align, align_photo, on_photo
from oodgan.data.detect import detect_faces
from oodgan.data.images import Photo
from oodgan.diffcam.masks import Masker
from oodgan.editing import Editor, settings
from oodgan.editing.edit import Edit
from oodgan.editing.own_mask import OwnMask
from oodgan.editing.strength import AUTO, Choice
from oodgan.editing.subject import Subject
from oodgan.errors import UserError
from oodgan.files import fitting, refusing, write_text
from oodgan.inversion import cache
from oodgan.inversion.inverter import Inverter
from oodgan.launch import compose

VIEWS = ("photo", "inverted", "edited", "mask", "coarse", "result")
QUALITIES = {"fast": "Fast", "feature": "Balanced", "best": "Best"}
"""Options of the config group `inverter` that share their weights, and what the page calls them."""
MASK_SETTINGS = {"strength": (2.0, 0.05), "feather": (0.08, 0.005)}
"""Settings of the mask that have sliders on the page: (largest value, step)."""
_VIEW_SIDE = {"photo": 1024, "result": 1024}  # pixels; the other views are shown small


class Studio:
    """Opens photos and edits them for all visitors with one editor.

    Args:
        editor: the networks, shared by all visitors; it caches no photos.
        cfg: the configuration of the stage `serve`, from which settings files are written.
        folder: folder of views and downloads, each in a subfolder whose name cannot be guessed.
    """

    def __init__(self, editor: Editor, cfg: DictConfig, folder: Path) -> None:
        self.editor, self.cfg, self.folder = editor, cfg, folder
        self._inverters: dict[str, Inverter] = {self.quality: editor.inverter}

    @property
    def quality(self) -> str:
        """The quality that the server was started with; "" where its inverter offers no choice."""
        name = str(self.cfg.inverter.get("name", ""))
        return name if name in QUALITIES and self.cfg.inverter.get("residual") else ""

    @property
    def names(self) -> list[str]:
        """The directions that can be edited: those of the bank that Diff-CAM knows."""
        known = getattr(self.editor.masker, "names", self.editor.names)
        return [name for name in self.editor.names if name in known]

    @property
    def mask(self) -> dict[str, float]:
        """The mask's values of `MASK_SETTINGS`; empty where the masker has none."""
        masker = self.editor.masker
        return {name: getattr(masker, name) for name in MASK_SETTINGS} if isinstance(masker, Masker) else {}

    def open(self, path: Path, aligned: bool = False) -> Session:
        """Read an uploaded photo and find its faces.

        Raises:
            UserError: no image, a damaged or too large one, or no face in it.
        """
        photo = images.open_photo(path, path.name)
        if aligned:
            return Session(photo, path.stem)
        faces = detect_faces(photo.image)
        if not faces:
            raise UserError(f"No face was found in {path.name}. If it is an aligned face crop already, say so below.")
        return Session(photo, path.stem, faces)

    def subject(self, session: Session, face: int, quality: str = "") -> Subject:
        """A face of the photo, cut out once for each quality."""
        key = (face, quality or self.quality)
        if key not in session.subjects:
            image, size = session.photo.image, self.editor.generator.resolution
            if session.aligned:
                (crop,) = align_photo(image, size, aligned=True)
            elif 0 <= face < len(session.faces):
                crop = align(image, session.faces[face], size)
            else:
                raise UserError(f"face {face}: the photo has {len(session.faces)} face(s), numbered from 0")
            session.subjects[key] = Subject(session.photo, crop, crop.photo[None].to(self.editor.device))
        return session.subjects[key]

    def face(self, session: Session, face: int) -> Image.Image:
        """A face's crop."""
        return images.to_pil(self.subject(session, face).photo)

    def crop(self, session: Session, face: int) -> str:
        """A file to show of a face's crop."""
        picture = self.face(session, face)
        return str(images.write_image(picture, self.new_file("crop.jpg"), quality=92))

    def edit(self, session: Session, controls: Controls) -> Edit:
        """Return the edit set by the controls; its images are computed when they are accessed."""
        editor = self.editor
        if controls.quality and controls.quality != self.quality:
            editor = copy.copy(editor)
            editor.inverter = self._inverter(controls.quality)
        if controls.mask and isinstance(editor.masker, Masker):
            editor = copy.copy(editor)
            editor.masker = editor.masker.adjusted(**controls.mask)
        subject = self.subject(session, controls.face, controls.quality)
        return editor.begin(subject, editor.checked(controls.edits), own=session.own)

    def drawn(self, session: Session, face: int, strokes: Image.Image, mode: str) -> OwnMask:
        """The mask of strokes on a face's crop: a picture of the photo's size.

        `strokes` is grey, white where the photo may change; `mode` one of `oodgan.editing.own_mask.MODES`.

        Raises:
            UserError: nothing is drawn.
        """
        if strokes.getbbox() is None:
            raise UserError("Nothing is painted on the face yet.")
        aligned = self.subject(session, face).aligned
        grey = strokes.convert("L").resize((aligned.size, aligned.size), Image.Resampling.BILINEAR)
        soft = torch.from_numpy(np.array(grey.filter(ImageFilter.GaussianBlur(aligned.size / 128))))
        return OwnMask(on_photo(aligned, soft[None] / 255, session.photo.image.size), "drawn", mode)

    def _inverter(self, quality: str) -> Inverter:
        """Return the inverter of a quality, built at the first call."""
        if quality not in self._inverters:
            cfg: Any = {**self.cfg, "inverter": self._inverter_cfg(quality)}
            made: Any = cache.build(cfg, self.editor.generator)
            self._inverters[quality] = made.to(self.editor.device).eval()
        return self._inverters[quality]

    def _inverter_cfg(self, quality: str) -> DictConfig:
        """The server's inverter with the passes and steps of a quality."""
        if not self.quality or quality not in QUALITIES:
            raise UserError(
                f"quality {quality!r}: this server offers {', '.join(QUALITIES) if self.quality else 'none'}"
            )
        option, made = compose(str(self.cfg.stage), [f"inverter={quality}"]).inverter, self.cfg.inverter.copy()
        OmegaConf.set_struct(made, False)
        made.name = option.name
        made.refine.steps = option.refine.steps
        for key in ("passes", "exact", "refine"):
            made.residual[key] = option.residual[key]
        return made

    def can_choose(self, name: str) -> bool:
        """Return whether `choose` works for a name: there is a probe, and the direction was measured on samples."""
        try:
            self.editor.checked({name: AUTO})
        except UserError:
            return False
        return True

    def choose(self, session: Session, controls: Controls, name: str) -> Choice:
        """Search the strength at which the face changes as much as samples do at strength 1, on top of other edits."""
        return self.edit(session, replace(controls, strengths={**controls.strengths, name: AUTO})).chosen[name]

    def views(self, edit: Edit) -> dict[str, str]:
        """Files to show of each of `VIEWS`."""
        folder = self.new_file("views")
        shown = {}
        for name in VIEWS:
            picture = edit.picture(name)
            side = _VIEW_SIDE.get(name, 512)
            if picture.width > side:
                picture = picture.resize((side, side), Image.Resampling.LANCZOS)
            shown[name] = str(images.write_image(picture, folder / f"{name}.jpg", quality=92))
        return shown

    def picture(self, session: Session, controls: Controls, kind: str, form: str) -> str:
        """Write the result as `oodgan edit` does; its path.

        `kind` is `pasted` (the whole photo) or `result` (the crop), `form` the file's ending.
        """
        source, edit = session.photo, self.edit(session, controls)
        path = self.new_file(fitting(session.stem, f"_edited.{form}"))
        quality = int(self.cfg.quality)
        return str(images.write_image(edit.picture(kind), path, exif=source.exif, icc=source.icc, quality=quality))

    def settings(self, session: Session, controls: Controls, kind: str, form: str) -> str:
        """Write the file with which `oodgan edit PHOTO settings=FILE` makes the same picture; its path."""
        cfg: Any = self.cfg.copy()
        OmegaConf.set_struct(cfg, False)
        if controls.quality and controls.quality != self.quality:
            cfg.inverter = self._inverter_cfg(controls.quality)
        values = {
            "edits": controls.edits,
            "face": controls.face,
            "aligned": session.aligned,
            "save": [kind],
            "format": form,
        }
        for key, value in values.items():
            cfg[key] = value
        if session.own is not None:
            cfg.mask, cfg.mask_mode = self._mask_name(session), session.own.mode
        for key, number in controls.mask.items():
            OmegaConf.update(cfg, f"diffcam.mask.{key}", float(number), force_add=True)
        path = self.new_file(fitting(session.stem, "_settings.yaml"))
        write_text(path, settings.dump(cfg))
        return str(path)

    def mask_file(self, session: Session, controls: Controls, kind: str, form: str) -> str:
        """Write the drawn mask under the name that the settings file gives it; its path."""
        if session.own is None:
            raise UserError("No mask is in use: paint one and choose Use.")
        return str(images.write_image(session.own.image, self.new_file(self._mask_name(session))))

    @staticmethod
    def _mask_name(session: Session) -> str:
        return fitting(session.stem, "_mask.png")

    @torch.no_grad()
    def warm_up(self) -> None:
        """Use every part once, so that nothing is downloaded or built while a visitor waits."""
        generator = self.editor.generator
        mean = generator.synthesis(generator.mean_w.expand(1, generator.num_ws, -1)).clamp(-1, 1)
        photo = Photo(images.to_pil(mean), "mean face")
        detect_faces(photo.image)
        session = Session(photo, "mean")
        self.edit(session, Controls(0, {self.names[0]: 1.0}, self.mask)).picture("result")
        for name in filter(self.can_choose, self.names[:1]):
            self.choose(session, Controls(0, {}, self.mask), name)

    def new_file(self, name: str) -> Path:
        """A path in a folder whose name cannot be guessed."""
        folder = self.folder / secrets.token_hex(16)
        with refusing(folder):
            folder.mkdir(parents=True)
        return folder / name
