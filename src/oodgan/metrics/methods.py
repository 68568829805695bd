"""The baselines that stand in the same table: what the parts of one edit give at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from oodgan.errors import unknown

if TYPE_CHECKING:
    from oodgan.editing import Edit, Editor

BUILT_IN = {
    "inversion": "G(w+): the photo reconstructed, not edited",
    "plain": "G(w+ + edit): the edited reconstruction",
    "alpha": "mask x edited + (1 - mask) x photo, with the raw mask",
    "poisson": "the edited region cloned into the photo by Poisson blending",
    "paper": "the paper's configuration: alpha composition, deghosted",
    "ours": "the editor's own result",
}


def alpha(photo: Tensor, edited: Tensor, mask: Tensor) -> Tensor:
    """The paper's coarse image (section 3.2), (3, H, W) in [-1, 1]; mask (1, H, W) in [0, 1]."""
    return mask * edited + (1 - mask) * photo


def poisson(photo: Tensor, edited: Tensor, mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Poisson image editing (Perez et al. 2003) of the region where the mask exceeds `threshold`, by OpenCV.

    (3, H, W) in [-1, 1], mask (1, H, W) in [0, 1].  An empty region leaves the photo; the outermost pixels, which the
    method needs as border values, are never inside.
    """
    import cv2

    from oodgan.data.images import to_uint8

    region = (mask[0].detach().cpu().numpy() > threshold).astype(np.uint8) * 255
    region[[0, -1]] = 0
    region[:, [0, -1]] = 0
    if not region.any():
        return photo
    x, y, width, height = cv2.boundingRect(region)
    source, target = (np.ascontiguousarray(to_uint8(image).permute(1, 2, 0).cpu().numpy()) for image in (edited, photo))
    centre = (x + width // 2, y + height // 2)
    blended = cv2.seamlessClone(source, target, region, centre, cv2.NORMAL_CLONE)
    return torch.from_numpy(blended).permute(2, 0, 1).to(photo) / 127.5 - 1


@dataclass(frozen=True)
class EditorFactory:
    """Builds the `Editor` of a composed config (plain values) when it is first needed, in each process by itself."""

    config: Mapping[str, Any]

    def __call__(self) -> Editor:
        from omegaconf import OmegaConf

        from oodgan.editing import Editor

        return Editor.from_config(OmegaConf.create(dict(self.config)))


def produce(editor: Editor, method: str, photo: Tensor, edit: dict[str, float]) -> Tensor:
    """The picture that a built-in method makes of an aligned photo, (3, R, R) in [-1, 1] -> (3, R, R).

    The editor keeps what it knows of a photo, so the methods of one photo share its inversion.

    Raises:
        UserError: no such method, or an attribute that the editor does not know.
    """
    if method not in BUILT_IN:
        raise unknown("method", method, BUILT_IN)
    steps = editor.edit(photo, edit, aligned=True)
    if method in ("alpha", "poisson"):
        compose = alpha if method == "alpha" else poisson
        return compose(steps.tensor("photo"), steps.tensor("edited"), steps.tensor("mask"))
    if method == "paper":
        return _paper(editor, steps)
    return steps.tensor({"inversion": "inverted", "plain": "edited"}.get(method, "result"))


def _paper(editor: Editor, steps: Edit) -> Tensor:
    """The same inversion, edit and mask; the paper's composition; the editor's deghoster on what that left."""
    photo, inverted, edited, mask = (steps.tensor(name)[None] for name in ("photo", "inverted", "edited", "mask"))
    coarse = mask * edited + (1 - mask) * photo
    return editor.deghost(photo, inverted, edited, mask, coarse, steps.w_plus[None])[0]
