"""The built-in methods of an evaluation: results of the steps of one edit, and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from oodgan.errors import UserError, unknown

if TYPE_CHECKING:
    from oodgan.editing import Editor
    from oodgan.editing.edit import Edit

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


@dataclass(frozen=True)
class Variant:
    """A method at one strength: a row of the tables.

    Attributes:
        method: its name.
        source: folder of its pictures, or the name of a built-in method.
        strength: factor of the edit.
    """

    method: str
    source: str
    strength: float = 1.0


def variants(methods: Mapping[str, Any], strengths: Sequence[float] | None) -> dict[str, Variant]:
    """The rows of an evaluation by name: `ours`, or with strengths `ours@0.5`, `ours@1`, `ours@1.5`.

    Args:
        methods: name -> built-in method, folder, or {strength: folder} for pictures of several strengths.
        strengths: factors of the edit for the built-in methods; None: 1 alone. The inversion has none.

    Raises:
        UserError: strengths that are not positive or not distinct numbers.
    """
    rows: dict[str, Variant] = {}
    factors = None if strengths is None else _factors("strengths", strengths)
    for name, value in methods.items():
        if isinstance(value, Mapping):
            given = dict(zip(_factors(f"methods.{name}", value), value.values(), strict=True))
            rows |= {f"{name}@{factor:g}": Variant(name, str(given[factor]), factor) for factor in sorted(given)}
        elif factors is None or str(value) not in BUILT_IN or value == INVERSION:
            rows[name] = Variant(name, str(value))
        else:
            rows |= {f"{name}@{factor:g}": Variant(name, str(value), factor) for factor in sorted(factors)}
    return rows


def _factors(key: str, values: Iterable[Any]) -> list[float]:
    values = list(values)
    try:
        factors = [float(value) for value in values]
    except (TypeError, ValueError) as error:
        raise UserError(f"{key}={values}: strengths must be numbers, e.g. [0.5, 1, 1.5]") from error
    if not factors or not all(0 < factor < math.inf for factor in factors) or len({*factors}) < len(factors):
        raise UserError(
            f"{key}={values}: strengths must be positive and distinct, e.g. [0.5, 1, 1.5]; an attribute is reversed "
            "by a negative strength in `edits`"
        )
    return factors


class Maker:
    """Makes the pictures of the built-in methods.

    Args:
        editor: the configured editor.
        published: builds the same editor with the paper's parts, when `paper` is first used.
    """

    def __init__(self, editor: Editor, published: Callable[[Editor], Editor]) -> None:
        self.editor, self._build = editor, published
        self._latest: dict[bool, tuple[Tensor, dict[str, float], Edit]] = {}

    @cached_property
    def published(self) -> Editor:
        return self._build(self.editor)

    def produce(self, method: str, photo: Tensor, edit: dict[str, float]) -> tuple[Tensor, Tensor | None]:
        """Apply a method to an aligned photo (3, R, R) in [-1, 1]: returns the image (3, R, R) and, if the method has
        one, its mask (1, R, R) in [0, 1].

        The editors cache their results, so all methods share the inversion of a photo, and consecutive methods also
        share the edit.

        Raises:
            UserError: no such method, or an attribute that the editor does not know.
        """
        if method not in BUILT_IN:
            raise unknown("method", method, BUILT_IN)
        steps = self._edit(method == "paper", photo, edit).tensors
        mask = steps["mask"][0] if method in MASKED else None
        if method in ("alpha", "poisson"):
            from oodgan.compose import compose

            coarse = compose(steps["photo"], steps["inverted"], steps["edited"], steps["mask"], mode=method)
            return coarse[0], mask
        return steps[{INVERSION: "inverted", PLAIN: "edited"}.get(method, "result")][0], mask

    def _edit(self, published: bool, photo: Tensor, edit: dict[str, float]) -> Edit:
        latest = self._latest.get(published)
        if latest is None or latest[1] != edit or not torch.equal(latest[0], photo):
            editor = self.published if published else self.editor
            self._latest[published] = latest = (photo, edit, editor.edit(photo, edit, aligned=True))
        return latest[2]


@dataclass(frozen=True)
class MakerFactory:
    """Builds the `Maker` of a composed config (plain values) when it is first needed, in each process by itself."""

    config: Mapping[str, Any]

    def __call__(self) -> Maker:
        from omegaconf import OmegaConf

        from oodgan.editing import Editor
        from oodgan.evaluation.paper import published

        return Maker(Editor.from_config(OmegaConf.create(dict(self.config))), lambda own: published(own, self.config))
