"""The baselines that stand in the same table: what the parts of one edit give at each step."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from oodgan.errors import unknown

if TYPE_CHECKING:
    from oodgan.editing import Editor

INVERSION, PLAIN = "inversion", "plain"
BUILT_IN = {
    INVERSION: "G(w+): the photo reconstructed, not edited",
    PLAIN: "G(w+ + edit): the edited reconstruction",
    "alpha": "mask x edited + (1 - mask) x photo, with the raw mask",
    "poisson": "the edited region cloned into the photo by Poisson blending",
    "paper": "mask, composition and deghosting as published, as far as the configured parts allow",
    "ours": "the editor's own result",
}
MASKED = ("alpha", "poisson", "paper", "ours")


class Maker:
    """Makes the pictures of the built-in methods.

    Args:
        editor: the configured editor.
        published: builds the same editor with the paper's parts, when `paper` is first asked for.
    """

    def __init__(self, editor: Editor, published: Callable[[Editor], Editor]) -> None:
        self.editor, self._build = editor, published

    @cached_property
    def published(self) -> Editor:
        return self._build(self.editor)

    def produce(self, method: str, photo: Tensor, edit: dict[str, float]) -> tuple[Tensor, Tensor | None]:
        """What a method makes of an aligned photo (3, R, R) in [-1, 1]: the picture (3, R, R) and, of methods that have
        one, its mask (1, R, R) in [0, 1].

        The editors keep what they know of a photo, so all methods of one photo share its inversion.

        Raises:
            UserError: no such method, or an attribute that the editor does not know.
        """
        if method not in BUILT_IN:
            raise unknown("method", method, BUILT_IN)
        steps = (self.published if method == "paper" else self.editor).edit(photo, edit, aligned=True).tensors
        mask = steps["mask"][0] if method in MASKED else None
        if method in ("alpha", "poisson"):
            from oodgan.compose import compose

            coarse = compose(steps["photo"], steps["inverted"], steps["edited"], steps["mask"], mode=method)
            return coarse[0], mask
        return steps[{INVERSION: "inverted", PLAIN: "edited"}.get(method, "result")][0], mask


@dataclass(frozen=True)
class MakerFactory:
    """Builds the `Maker` of a composed config (plain values) when it is first needed, in each process by itself."""

    config: Mapping[str, Any]

    def __call__(self) -> Maker:
        from omegaconf import OmegaConf

        from oodgan.editing import Editor
        from oodgan.evaluation.paper import published

        return Maker(Editor.from_config(OmegaConf.create(dict(self.config))), lambda own: published(own, self.config))
