"""The configuration of the method `paper`: the published method, as far as the configured parts allow."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from oodgan.editing import Editor

PAPER: dict[str, dict[str, Any]] = {
    "diffcam": {"mask": {"kind": "paper"}},
    "compose": {"mode": "paper"},
    "deghoster": {"paste": False},
}
PARTS = tuple(PAPER)


def paper_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """A composed config (plain values) with mask, composition and pasting as published, and `config["paper"]` on top.

    Weights are the configured ones unless `paper` overrides them.
    """
    from omegaconf import OmegaConf

    parts = {name: dict(config.get(name) or {}) for name in PARTS}
    merged = OmegaConf.merge(parts, PAPER, dict(config.get("paper") or {}))
    paper_parts = OmegaConf.to_container(merged)
    assert isinstance(paper_parts, dict)
    return {**config, **{str(name): value for name, value in paper_parts.items()}}


def published(editor: Editor, config: Mapping[str, Any]) -> Editor:
    """An editor with the parts of `paper_config`; generator, inverter, directions and known photos are `editor`'s."""
    from oodgan.deghost import remover
    from oodgan.diffcam import masks
    from oodgan.editing import Editor

    parts = paper_config(config)
    masker = masks.build(parts["diffcam"], editor.generator, editor.bank)
    cleaner = remover.build(parts["deghoster"], editor.generator) if parts["deghoster"] else None
    published_editor = Editor(
        editor.generator,
        editor.inverter,
        editor.bank,
        masker,
        cleaner,
        parts["compose"],
        editor.device,
        editor.transfer,
    )
    published_editor.subjects = editor.subjects
    return published_editor


def differences(config: Mapping[str, Any]) -> str:
    """Return a sentence for table captions: what `paper` is here, and how it differs from the published method."""
    paper = paper_config(config)
    network, deghoster = (paper[part].get("network") or {} for part in ("diffcam", "deghoster"))
    backbone = str(network.get("backbone", "another network"))
    cam = "the published ResNet-101" if backbone == "resnet101" else f"{backbone} ({_weights(paper['diffcam'])})"
    return (
        f"`paper`: the CAM itself as mask, mask x edited + (1 - mask) x photo, {_deghosting(deghoster, paper)}; "
        f"Diff-CAM is {cam} and generator, inversion and directions are ours, not the authors'."
    )


def _weights(part: Mapping[str, Any]) -> str:
    return f"weights {part.get('weights')}"


def _deghosting(network: Mapping[str, Any], paper: Mapping[str, Any]) -> str:
    if not network:
        return "no deghosting"
    if str(network.get("_target_", "")).endswith(".Deghoster"):
        return f"the published deghoster ({_weights(paper['deghoster'])})"
    sees = "the coarse image alone" if network.get("sees") == "coarse" else "all pictures, not the coarse one alone"
    return f"our light deghoster ({_weights(paper['deghoster'])}), which sees {sees}"
