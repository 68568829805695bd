"""The baselines that stand in the same table: what the parts of one edit give at each step."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oodgan.errors import unknown

if TYPE_CHECKING:
    from oodgan.editing import Edit, Editor

BUILT_IN = {
    "inversion": "G(w+): the photo reconstructed, not edited",
    "plain": "G(w+ + edit): the edited reconstruction",
    "alpha": "mask x edited + (1 - mask) x photo, with the raw mask",
    "poisson": "the edited region cloned into the photo by Poisson blending",
    "paper": "the paper's composition, then the editor's deghoster",
    "ours": "the editor's own result",
}


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
    if method in ("alpha", "poisson", "paper"):
        return _composed(editor, steps, method, edit)
    return steps.tensors[{"inversion": "inverted", "plain": "edited"}.get(method, "result")][0]


def _composed(editor: Editor, steps: Edit, method: str, edit: dict[str, float]) -> Tensor:
    """The same inversion, edit and mask under another composition, deghosted for `paper` only."""
    from oodgan.compose import compose

    photo, inverted, edited, mask = (steps.tensors[name] for name in ("photo", "inverted", "edited", "mask"))
    coarse = compose(photo, inverted, edited, mask, mode=method)
    if method == "paper":
        coarse = editor.deghost(photo, inverted, edited, mask, coarse, editor.bank.apply(steps.w_plus, edit))
    return coarse[0]
