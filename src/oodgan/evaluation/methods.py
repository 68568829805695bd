"""The built-in methods of an evaluation: results of the steps of one edit, and baselines."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
import yaml
from torch import Tensor

from oodgan.errors import UserError, unknown
from oodgan.tracking.artifacts import hash_settings

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
INVERTING = ("inverter", "transfer")
CHANGEABLE = (*INVERTING, "diffcam", "compose", "deghoster", "parser")
"""The editor's parts that a method may change."""


@dataclass(frozen=True)
class Variant:
    """A method at one strength: a row of the tables.

    Attributes:
        method: its name.
        source: folder of its pictures, or the name of a built-in method.
        strength: factor of the edit.
        changes: {part of the editor: its changed keys} of a built-in method; empty: the configured parts.
    """

    method: str
    source: str
    strength: float = 1.0
    changes: Mapping[str, Any] = field(default_factory=dict)


def variants(methods: Mapping[str, Any], strengths: Sequence[float] | None) -> dict[str, Variant]:
    """The rows of an evaluation by name: `ours`, or with strengths `ours@0.5`, `ours@1`, `ours@1.5`.

    Args:
        methods: name -> built-in method; folder; {strength: folder} for pictures of several strengths; or the changed
            parts of `ours`, e.g. {deghoster: null}, with a `method` of another built-in one.
        strengths: factors of the edit for the built-in methods; None: 1 alone. The inversion has none.

    Raises:
        UserError: strengths that are not positive or not distinct numbers, or no such part or built-in method.
    """
    rows: dict[str, Variant] = {}
    factors = None if strengths is None else _factors("strengths", strengths)
    for name, value in methods.items():
        changes: dict[str, Any] = {}
        if isinstance(value, Mapping) and any(isinstance(key, str) for key in value):
            value, changes = _changed(name, value)
        if isinstance(value, Mapping):
            given = dict(zip(_factors(f"methods.{name}", value), value.values(), strict=True))
            rows |= {f"{name}@{factor:g}": Variant(name, str(given[factor]), factor) for factor in sorted(given)}
        elif factors is None or str(value) not in BUILT_IN or value == INVERSION:
            rows[name] = Variant(name, str(value), changes=changes)
        else:
            rows |= {f"{name}@{factor:g}": Variant(name, str(value), factor, changes) for factor in sorted(factors)}
    return rows


def _changed(name: str, value: Mapping[Any, Any]) -> tuple[str, dict[str, Any]]:
    """The built-in method that a method is a change of, and the changes."""
    source = str(value.get("method", "ours"))
    if source not in BUILT_IN:
        raise unknown(f"built-in method for methods.{name}.method", source, BUILT_IN)
    changes = {key: _typed(part) for key, part in value.items() if key != "method"}
    for key, part in changes.items():
        if key not in CHANGEABLE:
            raise unknown(f"part of the editor in methods.{name}", str(key), ("method", *CHANGEABLE))
        if part is not None and not isinstance(part, Mapping):
            raise UserError(f"methods.{name}.{key}={part}: the part's changed keys are expected, e.g. {_EXAMPLES[key]}")
    return source, changes


def _typed(value: Any) -> Any:
    """Return a changed value as a number where it is one: below `methods` the command line gives only text."""
    if isinstance(value, Mapping):
        return {str(key): _typed(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_typed(each) for each in value]
    if not isinstance(value, str):
        return value
    try:
        typed = yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    return typed if isinstance(typed, bool | int | float) else value


_EXAMPLES = {
    "inverter": "{inverter: {residual: null}}",
    "transfer": "{transfer: null}",
    "diffcam": "{diffcam: {mask: {kind: paper}}}",
    "compose": "{compose: {mode: poisson}}",
    "deghoster": "{deghoster: null}",
    "parser": "{parser: null}",
}


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


class Remembered:
    """A generator's synthesis that keeps its latest images, so that the methods of one edit decode it once."""

    def __init__(self, synthesis: Callable[..., Tensor], keep: int = 4) -> None:
        self.synthesis, self.keep = synthesis, keep
        self._kept: list[tuple[Tensor, Mapping[int, Tensor], Tensor]] = []

    def __call__(self, w_plus: Tensor, residuals: Mapping[int, Tensor] | None = None) -> Tensor:
        """The image of a code (B, L, 512) with its residuals, as `Generator.synthesis` decodes it."""
        residuals = residuals or {}
        for code, others, image in self._kept:
            same = torch.equal(code, w_plus) and others.keys() == residuals.keys()
            if same and all(torch.equal(other, residuals[size]) for size, other in others.items()):
                return image
        image = self.synthesis(w_plus, residuals=residuals) if residuals else self.synthesis(w_plus)
        self._kept = [*self._kept, (w_plus, residuals, image)][-self.keep :]
        return image


class Maker:
    """Makes the pictures of the built-in methods.

    Args:
        editor: the configured editor.
        alter: builds the same editor with some parts changed ({part: changed keys}), when they are first used.
        paper: the changes that the method `paper` is.
    """

    def __init__(
        self,
        editor: Editor,
        alter: Callable[[Editor, Mapping[str, Any]], Editor],
        paper: Mapping[str, Any],
    ) -> None:
        self.editor, self._alter, self._paper = editor, alter, paper
        editor.synthesis = Remembered(editor.synthesis)
        self._editors: dict[str, Editor] = {hash_settings({}): editor}
        self._latest: dict[str, tuple[Tensor, dict[str, float], Edit]] = {}

    def produce(
        self, method: str, photo: Tensor, edit: dict[str, float], changes: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Apply a method to an aligned photo (3, R, R) in [-1, 1]: returns the image (3, R, R) and, if the method has
        one, its mask (1, R, R) in [0, 1].

        The editors cache their results, so all methods share the inversion of a photo, and consecutive methods also
        share the edit.

        Args:
            changes: of the editor's parts, as in `Variant`.

        Raises:
            UserError: no such method, or an attribute that the editor does not know.
        """
        if method not in BUILT_IN:
            raise unknown("method", method, BUILT_IN)
        steps = self._edit(self._all_changes(method, changes or {}), photo, edit).tensors
        mask = steps["mask"][0] if method in MASKED else None
        if method in ("alpha", "poisson"):
            from oodgan.compose import compose

            coarse = compose(steps["photo"], steps["inverted"], steps["edited"], steps["mask"], mode=method)
            return coarse[0], mask
        return steps[{INVERSION: "inverted", PLAIN: "edited"}.get(method, "result")][0], mask

    def _all_changes(self, method: str, changes: Mapping[str, Any]) -> dict[str, Any]:
        from omegaconf import OmegaConf

        if method != "paper":
            return dict(changes)
        merged = OmegaConf.to_container(OmegaConf.merge(dict(self._paper), dict(changes)))
        assert isinstance(merged, dict)
        return {str(part): value for part, value in merged.items()}

    def _edit(self, changes: dict[str, Any], photo: Tensor, edit: dict[str, float]) -> Edit:
        key = hash_settings(changes)
        latest = self._latest.get(key)
        if latest is None or latest[1] != edit or not torch.equal(latest[0], photo):
            if key not in self._editors:
                self._editors[key] = self._alter(self.editor, changes)
            self._latest[key] = latest = (photo, edit, self._editors[key].edit(photo, edit, aligned=True))
        return latest[2]


@dataclass(frozen=True)
class MakerFactory:
    """Builds the `Maker` of a composed config (plain values) when it is first needed, in each process by itself."""

    config: Mapping[str, Any]

    def __call__(self) -> Maker:
        from omegaconf import OmegaConf

        from oodgan.editing import Editor
        from oodgan.evaluation.altered import altered
        from oodgan.evaluation.paper import paper_changes

        editor = Editor.from_config(OmegaConf.create(dict(self.config)))
        return Maker(editor, lambda own, changes: altered(own, self.config, changes), paper_changes(self.config))
