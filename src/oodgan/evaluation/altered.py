"""The configured editor with some of its parts changed: what a method of an evaluation is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from oodgan.errors import UserError
from oodgan.evaluation.methods import INVERTING

if TYPE_CHECKING:
    from oodgan.editing import Editor
    from oodgan.evaluation.methods import Variant

NAMED = {"diffcam": ("mask.thresholds",), "parser": ("reach",)}
"""Settings by attribute, to which a change may add others. The parts themselves refuse unknown ones."""


def altered_config(config: Mapping[str, Any], changes: Mapping[str, Any], what: str = "changes") -> dict[str, Any]:
    """A composed config (plain values) with changed keys of some parts; a part changed to None is left out.

    Raises:
        UserError: a key that the part does not have.
    """
    from omegaconf import OmegaConf
    from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

    result = dict(config)
    for part, changed in changes.items():
        if changed is None:
            result[part] = None
            continue
        known = OmegaConf.create(dict(config.get(part) or {}))
        OmegaConf.set_struct(known, True)
        for key in NAMED.get(part, ()):
            if (named := OmegaConf.select(known, key)) is not None:
                OmegaConf.set_struct(named, False)
        try:
            result[part] = OmegaConf.to_container(OmegaConf.merge(known, changed))
        except ConfigKeyError as error:
            raise UserError(f"{what}: {part} has no key {error.full_key}") from None
        except OmegaConfBaseException as error:
            raise UserError(f"{what}: {part} cannot be changed by {changed}: {error}") from None
    return result


def altered(editor: Editor, config: Mapping[str, Any], changes: Mapping[str, Any]) -> Editor:
    """An editor with some parts changed. All others are `editor`'s own, as are known photos where the inversion is."""
    from oodgan.deghost import remover
    from oodgan.diffcam import masks
    from oodgan.editing import Editor
    from oodgan.inversion import cache, transfer
    from oodgan.parsing import parser

    parts = altered_config(config, changes)
    inverting = any(part in changes for part in INVERTING)
    residual = bool((parts.get("inverter") or {}).get("residual"))
    deghoster = parts.get("deghoster")
    result = Editor(
        editor.generator,
        cache.build(parts, editor.generator) if "inverter" in changes else editor.inverter,
        editor.bank,
        masks.build(parts["diffcam"], editor.generator, editor.bank) if "diffcam" in changes else editor.masker,
        (deghoster and remover.build(deghoster, editor.generator)) if "deghoster" in changes else editor.remover,
        parts["compose"] if "compose" in changes else editor.composition,
        editor.device,
        transfer.build(parts.get("transfer"), editor.generator, residual) if inverting else editor.transfer,
        editor.search,
        parser.build(parts.get("parser")) if "parser" in changes else editor.parser,
        editor.synthesis,
    )
    if not inverting:
        result.subjects = editor.subjects
    return result


def check(config: Mapping[str, Any], rows: Iterable[Variant]) -> None:
    """Raises `UserError` for a change of a key that does not exist."""
    from oodgan.parsing.reach import Limits

    for row in rows:
        parts = altered_config(config, row.changes, f"methods.{row.method}")
        if row.changes.get("parser"):
            Limits.from_config(parts["parser"].get("reach"))


def spelled(changes: Mapping[str, Any]) -> str:
    """Changes as overrides of the command line.

    >>> spelled({"deghoster": None, "diffcam": {"mask": {"kind": "paper"}}})
    'deghoster=null diffcam.mask.kind=paper'
    """
    from oodgan.tracking.runs import flatten

    return " ".join(f"{key}={'null' if value is None else value}" for key, value in flatten(changes).items())
